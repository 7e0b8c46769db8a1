"""Removing expired sessions in the background, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from time import monotonic

from coatcheck.errors import StoreError

BATCH = 200
"""Sessions that one statement removes, at most: few enough that nobody waits long for what it has locked."""

REST = 3
"""How many times as long as a batch took the sweep rests before the next one: most of the time is the others'."""

_log = logging.getLogger("coatcheck")


def _until_next(every: float, removed: int, took: float) -> float:
    """Seconds to wait after a batch: a little while there is more; else at random, so that not all servers begin at once."""
    return REST * took if removed >= BATCH else every * random.uniform(0.5, 1.5)  # noqa: S311


class AsyncSweeper:
    """Sweeps as long as the store is open.

    Args:
        every: seconds between two sweeps, more or less; 0 for never.
        batch: removes a batch, and tells how many sessions that were.
    """

    def __init__(self, every: float, batch: Callable[[], Awaitable[int]]) -> None:
        self._every = every
        self._batch = batch
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin, at the first call only."""
        if self._every and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._sweep(), name="coatcheck sweeps")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _sweep(self) -> None:
        pause = _until_next(self._every, 0, 0)
        while True:
            await asyncio.sleep(pause)
            began, removed = monotonic(), 0
            try:
                removed = await self._batch()
            except StoreError as error:
                _log.warning("expired sessions were not removed: %s", error)
            pause = _until_next(self._every, removed, monotonic() - began)


class Sweeper:
    """`AsyncSweeper` on a thread."""

    def __init__(self, every: float, batch: Callable[[], int]) -> None:
        self._every = every
        self._batch = batch
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begin, at the first call only, and at the first after an end."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._over.clear()
                    self._thread = threading.Thread(target=self._sweep, name="coatcheck sweeps", daemon=True)
                    self._thread.start()

    def end(self) -> None:
        with self._lock:
            self._over.set()
            if self._thread is not None:
                self._thread.join()
                self._thread = None

    def _sweep(self) -> None:
        pause = _until_next(self._every, 0, 0)
        while not self._over.wait(pause):
            began, removed = monotonic(), 0
            try:
                removed = self._batch()
            except StoreError as error:
                _log.warning("expired sessions were not removed: %s", error)
            pause = _until_next(self._every, removed, monotonic() - began)
