"""What the tests of the core share."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any

from coatcheck.codec import JSONCodec
from coatcheck.cookie import Cookie
from coatcheck.record import Record
from coatcheck.session import Session
from coatcheck.settings import CookieSettings, Settings
from coatcheck.ticket import Ticket

CODEC = JSONCodec()
NOW = 1_800_000_000_000
SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000


class _Cookie(Cookie):
    def __init__(self, settings: CookieSettings) -> None:
        super().__init__(settings)
        self.settings = settings


COOKIE = _Cookie(CookieSettings())


def headers(name: str | None, value: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a request that shows this cookie."""
    return [(b"host", b"shop.example"), (b"cookie", f"{name}=".encode() + value)]


def a_ticket() -> Ticket:
    return Ticket.new()


def stored(ticket: Ticket, fields: dict[str, str] | None = None, **but: Any) -> Record:
    """The record that this ticket opens, as a store has it: created and used an hour ago, by default."""
    usual: dict[str, Any] = {
        "session_id": ticket.session_id,
        "secret_hash": ticket.secret_hash,
        "version": 7,
        "created_ms": NOW - HOUR,
        "renewed_ms": NOW - HOUR,
        "touched_ms": NOW,
        "idle_ms": Settings().idle_ms,
        "deadline_ms": NOW + 24 * HOUR,
        "read_at_ms": NOW,
        "operations": "earlier0",
        "fields": dict(fields or {}),
    }
    return Record(**(usual | but))


def loaded(fields: dict[str, str] | None = None, **but: Any) -> Session:
    """A session as a handler gets it when the browser showed a ticket that opens this record."""
    ticket = a_ticket()
    session = Session(CODEC, ticket)
    session.admit(stored(ticket, fields, **but))
    return session


def fresh() -> Session:
    """A session as a handler gets it when the browser showed no ticket."""
    return Session(CODEC)


def exactly(value: object) -> object:
    """Something that is equal only for values equal in type too, all the way down."""
    if isinstance(value, dict):
        return dict, tuple((exactly(key), exactly(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(exactly(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(exactly, value))
    if isinstance(value, (float, Decimal)):
        return type(value), repr(value)  # tells 0.0 from -0.0, and has nan equal nan
    if isinstance(value, (datetime, time)):
        return type(value), value.replace(tzinfo=None), value.utcoffset()
    return type(value), value


def but(record: Record, **changes: Any) -> Record:
    """The record with some attributes changed."""
    return Record(**(record.as_dict() | changes))
