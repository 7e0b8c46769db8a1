"""What JSON lacks, as JSON: values with tags.

A tagged value is an object with a single key that begins with `@`: `{"@date": "2026-11-23"}`. A dict of the application
that JSON cannot carry as an object (a key that is not a string, or a lone key beginning with `@`) travels as
`{"@dict": [[key, value], …]}`, so every value comes back as what it was. Subclasses travel as their base: an `OrderedDict`
comes back as a dict, an `IntEnum` as an int, and of a time zone its offset comes back. Nothing is ever evaluated, imported or
unpickled.

This follows a user's data as deep as it goes, so it must never be compiled: machine code has no `RecursionError`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec.json import Encoder

PLAIN = frozenset({str, bool, type(None)})
"""Types of values that JSON carries as they are."""

IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID})
"""Types of values that cannot be changed in place, so need not be compared at the end of a request."""

_LONGEST_INT = 2000  # bits; Python itself reads and writes but so many digits (sys.set_int_max_str_digits)

write_json = Encoder().encode


def carry(kind: type, tag: str, write: Callable[[Any], str], read: Callable[[str], Any]) -> None:
    """Have values of exactly this type travel as text under `tag`: for frameworks whose applications expect to store them."""
    _TAGS[kind], _WRITE[tag], _READ[tag] = tag, write, _text(read)


class Unstorable(Exception):
    """`value` cannot travel, for `reason`."""

    def __init__(self, value: object, reason: str) -> None:
        self.value = value
        self.reason = reason


def to_json(value: Any) -> Any:
    """`value` as something that JSON can carry without loss."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is int:
        if value.bit_length() > _LONGEST_INT:
            raise Unstorable(value, f"an integer may have {_LONGEST_INT} bits at most")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"@float": repr(value)}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is dict:
        if any(type(key) is not str for key in value) or (len(value) == 1 and next(iter(value)).startswith("@")):
            return {"@dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
        return {key: to_json(item) for key, item in value.items()}
    tag = _TAGS.get(kind)
    if tag is None:
        for base in _BASES:
            if isinstance(value, base):
                if base in _TAGS:
                    tag = _TAGS[base]
                    break
                return to_json(_AS_BASE[base](value))
        else:
            raise Unstorable(value, "its type cannot be stored")
    return {tag: _WRITE[tag](value)}


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if type(value) is list:
        return [from_json(item) for item in value]
    if type(value) is dict:
        if len(value) == 1:
            [(tag, content)] = value.items()
            if tag.startswith("@"):
                read = _READ.get(tag)
                if read is None:
                    raise ValueError("unknown tag")
                return read(content)
        return {key: from_json(item) for key, item in value.items()}
    return value


def _write_items(items: Any) -> list[Any]:
    """A set has no order of its own; give it one, so that equal sets have equal texts in every process."""
    return sorted((to_json(item) for item in items), key=write_json)


def _write_time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Unstorable(value, "its time zone has no fixed offset; use a datetime, or a time without zone")
    return value.isoformat()


def _text(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`read`, for content that must be a string: the constructors accept much else, and would guess."""

    def checked(content: Any) -> Any:
        if type(content) is not str:
            raise ValueError("a tag with the wrong content")
        return read(content)

    return checked


def _read_float(text: str) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text]


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_dict(pairs: Any) -> dict[Any, Any]:
    return {from_json(key): from_json(item) for key, item in pairs}


def _read_timedelta(content: Any) -> timedelta:
    days, seconds, microseconds = content
    return timedelta(days, seconds, microseconds)


_TAGS: dict[type, str] = {
    bytes: "@bytes",
    datetime: "@datetime",
    date: "@date",
    time: "@time",
    timedelta: "@timedelta",
    Decimal: "@decimal",
    UUID: "@uuid",
    tuple: "@tuple",
    set: "@set",
    frozenset: "@frozenset",
}
_WRITE: dict[str, Callable[[Any], Any]] = {
    "@bytes": lambda value: base64.b64encode(value).decode("ascii"),
    "@datetime": datetime.isoformat,
    "@date": date.isoformat,
    "@time": _write_time,
    "@timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "@decimal": str,
    "@uuid": str,
    "@tuple": lambda value: [to_json(item) for item in value],
    "@set": _write_items,
    "@frozenset": _write_items,
}
_READ: dict[str, Callable[[Any], Any]] = {
    "@bytes": _text(_read_bytes),
    "@datetime": _text(datetime.fromisoformat),
    "@date": _text(date.fromisoformat),
    "@time": _text(time.fromisoformat),
    "@timedelta": _read_timedelta,
    "@decimal": _text(Decimal),
    "@uuid": _text(UUID),
    "@tuple": lambda content: tuple(from_json(item) for item in content),
    "@set": lambda content: {from_json(item) for item in content},
    "@frozenset": lambda content: frozenset(from_json(item) for item in content),
    "@float": _text(_read_float),
    "@html": _text(str),  # markup that Flask stored: plain text where nobody knows more of it
    "@dict": _read_dict,
}
# In the order in which a subclass is recognised: a datetime is also a date.
_BASES: tuple[type, ...] = (str, int, float, list, dict, *_TAGS)
_AS_BASE: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,  # the plain text of a str subclass, whatever its own __str__ says
    int: int.__int__,
    float: float.__float__,
    list: list,
    dict: dict,
}
