"""Sessions of a chosen size, as the store keeps them. Session `number` is that of `user-{number}`."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from functools import cache

from coatcheck.changes import Changes, NewRecord
from coatcheck.ticket import Ticket, new_operation_id

IDLE_MS = 14 * 86_400_000
ABSOLUTE_MS = 14 * 86_400_000

TYPICAL = 5
"""Fields of a session of usual size: who is logged in, a token against forgery, a theme, two things in a cart."""


@cache
def fields(number: int) -> dict[str, str]:
    """So many fields with values of some twenty characters, encoded as JSON."""
    return {name: json.dumps(f"the value of {name}") for name in (f"field-{at:03}" for at in range(number))}


def ticket(number: int) -> Ticket:
    """The ticket of session `number`. Known without keeping a million of them: it follows from the number."""
    random = urlsafe_b64encode(hashlib.sha256(b"benchmark %d" % number).digest() * 2).decode("ascii")
    return Ticket(random[:16], random[16:48].encode())


def user(number: int) -> str:
    """The field `user` of session `number`."""
    return json.dumps(f"user-{number}")


def new(number: int, size: int = TYPICAL) -> NewRecord:
    """Session `number`, to be created, with so many fields, `user` among them."""
    its = ticket(number)
    return NewRecord(
        session_id=its.session_id,
        secret_hash=its.secret_hash,
        fields={"user": user(number), **fields(size - 1)},
        idle_ms=IDLE_MS,
        absolute_ms=ABSOLUTE_MS,
        owner=None,
        operation=new_operation_id(),
    )


def write_of_one_field(session: NewRecord, text: str) -> Changes:
    """What a request sends that changed `user` and nothing else."""
    return Changes(
        proof=session.secret_hash,
        idle_ms=session.idle_ms,
        operation=new_operation_id(),
        read_version=1,
        sets={"user": text},
    )
