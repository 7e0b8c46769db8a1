"""A clock for judging how long something took, on a machine that has other work too."""

from __future__ import annotations

import threading
from time import monotonic, sleep

_EVERY = 0.005
"""Seconds between looks at whether this process is allowed to run at all."""


class _Clock:
    """`time.monotonic`, less all the time for which this process was kept waiting by the machine.

    A thread sleeps for a moment, over and over. Whatever it wakes too late by, nobody here could run; neither can the
    servers beside it be expected to have.
    """

    def __init__(self) -> None:
        self._kept_waiting = 0.0
        self._watching: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self) -> float:
        if self._watching is None:
            with self._lock:
                if self._watching is None:
                    self._watching = threading.Thread(target=self._watch, name="watches the machine", daemon=True)
                    self._watching.start()
        return monotonic() - self._kept_waiting

    def _watch(self) -> None:
        due = monotonic() + _EVERY
        while True:
            sleep(_EVERY)
            late = monotonic() - due
            if late > _EVERY:
                self._kept_waiting += late
            due = monotonic() + _EVERY


fair_time = _Clock()
"""Seconds. For upper limits only: it may stand still, so no lower limit can be measured with it."""
