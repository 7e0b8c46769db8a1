"""Whose turn it is, among threads."""

from __future__ import annotations

import threading


class Places:
    """So many places, first come first served.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: dict[threading.Lock, None] = {}

    def enter(self, seconds: float) -> bool:
        """Take a place, or wait for one so long at most. Whether there was one."""
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting[turn] = None
        if turn.acquire(timeout=max(0.0, seconds)):
            return True
        with self._lock:
            if turn not in self._waiting:
                return True  # it came at the last moment
            del self._waiting[turn]
            return False

    def leave(self) -> None:
        """Give the place to whoever has waited longest."""
        with self._lock:
            if self._waiting:
                turn = next(iter(self._waiting))
                del self._waiting[turn]
                turn.release()
            else:
                self._free += 1
