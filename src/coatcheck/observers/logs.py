"""Events as log records of the logger `coatcheck`, with the session's id and never a secret."""

from __future__ import annotations

import logging
from time import monotonic

from coatcheck.events import Event, EventName

_logger = logging.getLogger("coatcheck")

_LEVELS: dict[EventName, int] = {
    "created": logging.DEBUG,
    "renewed": logging.DEBUG,
    "destroyed": logging.DEBUG,
    "ticket_refused": logging.INFO,
    "commit_refused": logging.INFO,
    "field_unreadable": logging.WARNING,
    "record_corrupt": logging.WARNING,
    "read_stale": logging.WARNING,
    "rolled_back": logging.WARNING,
    "store_unavailable": logging.ERROR,
    "foreign_reply": logging.CRITICAL,
}

_EVERY = 1.0
"""Seconds in which one kind of event is logged once, from WARNING up: a store that is down fails every request."""

_last: dict[EventName, float] = {}
_unsaid: dict[EventName, int] = {}


def log(event: Event) -> None:
    """The observer that is there unless others are named: logs each event.

    From WARNING up, what happens again within a second is counted, and the number logged with the next one.
    """
    level = _LEVELS[event.name]
    if not _logger.isEnabledFor(level):
        return
    more = ""
    if level >= logging.WARNING:
        now = monotonic()
        if now - _last.get(event.name, -_EVERY) < _EVERY:
            _unsaid[event.name] = _unsaid.get(event.name, 0) + 1
            return
        _last[event.name] = now
        missed = _unsaid.pop(event.name, 0)
        more = f" (and {missed} more like it before)" if missed else ""
    _logger.log(level, "session %s: %s %s%s", event.session_id or "-", event.name, event.detail, more)
