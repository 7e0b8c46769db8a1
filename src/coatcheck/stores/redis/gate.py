"""When to try a server again, and how often. Pure: the time is handed in."""

from __future__ import annotations

import random

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between attempts to connect, at the least and at the most."""


class Gate:
    """Keeps callers from a server that is known to be down: they fail at once, and one of them at a time looks again.

    The pauses between attempts double, and are drawn at random below that, so that a fleet of web servers does not come
    back to its store all at the same moment.

    Attributes:
        why: what went wrong last, for messages: whoever fails at once is told too.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._opens_at = 0.0
        self.why = ""

    def closed_for(self, now: float) -> float:
        """Seconds until the next attempt is due; 0 if one may be made."""
        return max(0.0, self._opens_at - now)

    @property
    def is_down(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def failed(self, now: float, why: str) -> None:
        """An attempt failed, or a connection that had worked broke."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self.why = why
        self._opens_at = now + pause * random.uniform(0.5, 1.0)  # noqa: S311

    def worked(self) -> None:
        """The server answered a request."""
        self._failures = 0
        self._opens_at = 0.0


class RetryBudget:
    """Bounds repeating to a share of what goes right, so that a server in trouble is not also flooded.

    Args:
        share: how many repeats each success pays for.
        most: how many can be saved up.

    Attributes:
        successes: to be counted up by whoever succeeds.
    """

    def __init__(self, share: float = 0.1, most: float = 10.0) -> None:
        self.successes = 0
        self._share = share
        self._most = most
        self._saved = most

    def spend(self) -> bool:
        """Whether one more repeat is allowed; if so it is paid for."""
        self._saved = min(self._most, self._saved + self.successes * self._share)
        self.successes = 0
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def being_tried(why: str) -> str:
    """Why nobody else waits while one looks whether a server that was down is back; `why` it was down."""
    return f"it is down, and is being tried again ({why})"
