"""What happened to sessions, for whoever wants to count, trace or log it.

An observer is any callable that takes an `Event`. Observers see session ids, never secrets and never values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

EventName: TypeAlias = Literal[
    "created",  # a new record was stored
    "renewed",  # the ticket's secret was replaced
    "destroyed",  # the record was deleted on request
    "ticket_refused",  # a cookie that opens nothing: malformed, duplicate, unknown, expired or with a wrong secret
    "field_unreadable",  # one field could not be decoded and counts as absent
    "record_corrupt",  # the store holds something that is not a session record
    "foreign_reply",  # the store's answer belonged to somebody else; its connection was dropped
    "commit_refused",  # the session had gone, or had changed under require_unchanged()
    "read_stale",  # what was read lacks something that the browser has seen already, and that may still come
    "rolled_back",  # what the browser has seen already is nowhere any more; it gets a new freshness token
    "store_unavailable",  # the store did not answer, or not in time
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        name: what happened; see `EventName`.
        session_id: the session it happened to, where one is known.
        detail: a few words: the reason, the field's name, the error. Never a secret, never a value.
    """

    name: EventName
    session_id: str | None = None
    detail: str = ""


Observer: TypeAlias = Callable[[Event], None]
