"""No file of SQLite is open while the process forks: a child would take its parent's locks on it for its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

_PATIENCE = 5.0
"""Seconds that a fork waits at most for the files in hand. Only who forks with one in its own hand waits so long."""


class Shelf(Protocol):
    """Where files rest until somebody takes them in hand."""

    def clear(self) -> None:
        """Close all of them."""
        ...


class Files:
    """The files of this process.

    Attributes:
        shelves: where they rest.
    """

    def __init__(self) -> None:
        self.shelves: WeakSet[Shelf] = WeakSet()
        self._begin()
        os.register_at_fork(before=self._before_fork, after_in_parent=self._go_on, after_in_child=self._begin)

    def take(self) -> None:
        """Somebody is about to open a file, or to take one from a shelf. Waits while the process forks."""
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._in_hand += 1

    def lay_aside(self) -> None:
        """It has been closed, or is on its shelf again."""
        with self._changed:
            self._in_hand -= 1
            self._changed.notify_all()

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """From `take` to `lay_aside`."""
        self.take()
        try:
            yield
        finally:
            self.lay_aside()

    def _begin(self) -> None:
        self._in_hand = 0
        self._forking = False
        self._changed = threading.Condition()  # in a child it may be one that a thread of the parent holds

    def _before_fork(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._forking = True
            self._changed.wait_for(lambda: not self._in_hand, _PATIENCE)
        for shelf in list(self.shelves):
            shelf.clear()

    def _go_on(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


FILES = Files()
