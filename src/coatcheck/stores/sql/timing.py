"""Until when the present call may wait. Whatever waits on its behalf asks here, however deep below it."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic

DEADLINE: ContextVar[float] = ContextVar("DEADLINE", default=float("inf"))
"""On `time.monotonic`."""

_LONGEST = 86_400.0
"""Seconds that anything waits at most, even outside of any call."""


def time_left() -> float:
    """Seconds that the present call may still wait."""
    return min(max(0.0, DEADLINE.get() - monotonic()), _LONGEST)
