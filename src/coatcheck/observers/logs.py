"""Events as log records of the logger `coatcheck`, with the session's id and never a secret."""

from __future__ import annotations

import logging

from coatcheck.events import Event, EventName

_log = logging.getLogger("coatcheck")

_LEVELS: dict[EventName, int] = {
    "created": logging.DEBUG,
    "renewed": logging.DEBUG,
    "destroyed": logging.DEBUG,
    "ticket_refused": logging.INFO,
    "commit_refused": logging.INFO,
    "field_unreadable": logging.WARNING,
    "record_corrupt": logging.WARNING,
    "store_unavailable": logging.ERROR,
    "foreign_reply": logging.CRITICAL,
}


def log(event: Event) -> None:
    """An observer that logs each event: `SessionMiddleware(…, observers=[log])`."""
    _log.log(_LEVELS[event.name], "session %s: %s %s", event.session_id or "-", event.name, event.detail)
