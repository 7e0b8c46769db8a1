"""What the columns can hold, and how it stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from coatcheck.changes import Changes, NewRecord
from coatcheck.codec import COUNTER_RANGE
from coatcheck.errors import BadFieldName, NotACounter, SessionGone, TooLong, UnstorableValue
from coatcheck.record import is_text
from coatcheck.stores.sql.schema import LONGEST
from coatcheck.ticket import is_session_id

_ESCAPED = re.compile(r"[\\\x00]")


def written(name: str) -> str:
    r"""A field's name, or an owner's, as it stands in its column. PostgreSQL cannot keep NUL: it is `\0`, and `\` is `\\`."""
    if (name.isascii() and name.isprintable()) and "\\" not in name:
        return name
    return _ESCAPED.sub(lambda found: "\\0" if found[0] == "\0" else "\\\\", name)


def spoken(text: str | bytes) -> str:
    """The inverse of `written`."""
    name = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], name) if "\\" in name else name


def fits(name: str) -> bool:
    """Whether there is room for this name of a field, or of an owner."""
    return len(name) * 4 <= LONGEST or _length(name) <= LONGEST  # a character has 4 bytes at most


def check_new(new: NewRecord) -> None:
    """Refuse a record that no row can hold, before anything is sent: drivers take it for all sorts of things.

    Raises:
        TooLong, BadFieldName, UnstorableValue: a field, or the owner.
        ValueError: its id is none, or the owner is no valid Unicode.
    """
    if not is_session_id(new.session_id):
        raise ValueError(f"session_id={new.session_id!a}: use 16 base64url characters, as `Ticket.new` does")
    _check(new.owner, new.fields)


def check_changes(session_id: str, changes: Changes) -> None:
    """The same for a commit.

    Raises:
        SessionGone: no session has such an id.
        NotACounter: an addend that is no 64-bit integer.
        TooLong, BadFieldName, UnstorableValue, ValueError: as for a new record.
    """
    if not is_session_id(session_id):
        raise SessionGone(session_id)
    _check(changes.owner, changes.sets, changes.deletes, changes.increments, changes.retain or ())
    for name, addend in changes.increments.items():
        if addend not in COUNTER_RANGE:
            raise NotACounter(name, "the result would not fit into 64 bits")


def _check(owner: str | None, fields: Mapping[str, str], *more: Iterable[str]) -> None:
    if owner is not None:
        if not is_text(owner):
            raise ValueError(f"owner={owner!a}: use a string of valid Unicode, such as the user's id")
        if not fits(owner):
            raise TooLong("owner", owner, _length(owner), LONGEST)
    for name in chain(fields, *more):
        if not is_text(name):
            raise BadFieldName(name)
        if not fits(name):
            raise TooLong("field", name, _length(name), LONGEST)
    for name, text in fields.items():
        if not is_text(text):
            raise UnstorableValue(name, text, "it contains half a surrogate pair, which UTF-8 cannot express")
        if "\0" in text:
            raise UnstorableValue(name, text, "it contains NUL, which PostgreSQL cannot keep")


def _length(name: str) -> int:
    return len(written(name).encode())
