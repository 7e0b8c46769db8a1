"""What stands in the query of a store's URL, taken out of it option by option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from coatcheck.errors import ConfigurationError

N = TypeVar("N", int, float)
V = TypeVar("V")

TRUE_OR_FALSE: Mapping[str, bool] = {"true": True, "false": False}


def number(name: str, options: dict[str, str], default: N) -> N:
    """A number of the default's type, greater than 0.

    Raises:
        ConfigurationError: it is none.
    """
    text = options.pop(name, None)
    if text is None:
        return default
    try:
        found = type(default)(text)
    except ValueError:
        found = type(default)(0)
    if not 0 < found < 1_000_000:
        raise ConfigurationError(name, text, "not a positive number", f"Use one, for instance ?{name}=1")
    return found


def choice(name: str, options: dict[str, str], choices: Mapping[str, V], default: V) -> V:
    """One of a few words, and what it means.

    Raises:
        ConfigurationError: another word.
    """
    text = options.pop(name, None)
    if text is None:
        return default
    if text.lower() not in choices:
        raise ConfigurationError(name, text, "unknown", f"Use {' or '.join(choices)}")
    return choices[text.lower()]
