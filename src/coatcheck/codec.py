"""How one field's value travels: JSON, so that people and other languages can read it, with `tags` for what JSON lacks."""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec import DecodeError
from msgspec.json import Decoder
from mypy_extensions import mypyc_attr

from coatcheck.errors import UnstorableValue
from coatcheck.tags import PLAIN, Unstorable, from_json, to_json, write_json

COUNTER_RANGE: Final = range(-(2**63), 2**63)
"""What a counter can hold: the integers of Redis's HINCRBY and of SQL's BIGINT."""


class Codec(Protocol):
    """Turns one field's value into text and back. The field's name and session id are there for codecs that bind to them."""

    def encode(self, session_id: str, field: str, value: Any) -> str:
        """The text to store. Raises `UnstorableValue`, naming the field, for a value that would not come back unchanged."""
        ...

    def decode(self, session_id: str, field: str, text: str) -> Any:
        """The value in `text`. Raises `ValueError` with the reason, never anything else, if it cannot be read."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class JSONCodec:
    """The default codec: JSON with tagged values. An integer is stored as Redis's HINCRBY wants it."""

    # Errors are raised outside the `except` of what caused them, which quotes values: compiled code has no `from None`.

    def encode(self, session_id: str, field: str, value: Any) -> str:
        kind = type(value)
        try:
            if kind is not str and kind not in PLAIN:
                value = to_json(value)
            return write_json(value).decode()
        except Unstorable as unstorable:
            problem = UnstorableValue(field, unstorable.value, unstorable.reason)
        except RecursionError:
            problem = UnstorableValue(field, value, "it contains itself, or is nested too deeply")
        except UnicodeEncodeError:
            problem = UnstorableValue(field, value, "it contains half a surrogate pair, which UTF-8 cannot express")
        raise problem

    def decode(self, session_id: str, field: str, text: str) -> Any:
        try:
            value = _decode_json(text)
            return from_json(value) if '"@' in text else value  # no string begins with @: there is no tag
        except ValueError as error:  # msgspec's errors, UnicodeEncodeError and everything that the tags raise
            problem = _without_values(error)
        except (TypeError, LookupError, ArithmeticError, RecursionError) as error:
            problem = type(error).__name__
        raise ValueError(problem)


_decode_json: Final = Decoder().decode


def _without_values(error: ValueError) -> str:
    """What is wrong with a stored text, without quoting the text: it may be confidential."""
    return str(error) if isinstance(error, DecodeError) else type(error).__name__
