"""Stopping on request: Ctrl-C, SIGTERM, or the terminal closing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from coatcheck.lab.errors import Interrupted, LabError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.02  # seconds


class StopRequests:
    """Turns signals into a request that is noticed at the next wait. A context manager, for the main thread.

    An exception out of a signal handler could strike anywhere, for instance between the start of a process and taking
    note of it, and that process would stay. So the handler only takes note, and every wait of the lab goes through
    `pause` or `wait_until`, which raise `Interrupted`.

    A second Ctrl-C changes nothing: stopping takes a few seconds at most. Once asked to stop, the process stays deaf to
    these signals even after the context has ended, so that it can say what happened and exit with the right code.
    """

    def __init__(self) -> None:
        self._requested: int | None = None
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def __enter__(self) -> StopRequests:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if self._requested is None else signal.SIG_IGN)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._requested = number

    def check(self) -> None:
        """Raise `Interrupted` if somebody has asked the lab to stop."""
        if self._requested is not None:
            raise Interrupted(self._requested)

    def pause(self, seconds: float) -> None:
        """Wait, for at most `seconds`. Raises `Interrupted` within a few hundredths of a second of the request."""
        until = time.monotonic() + seconds
        while True:
            self.check()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _POLL))

    def wait_until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait until `condition()` is true.

        Raises:
            LabError: it was not true after `seconds`; the message names `what`.
            Interrupted: somebody asked the lab to stop.
        """
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise LabError(f"{what} took longer than {seconds:g} s. Is the machine very busy?")
            self.pause(_POLL)
