"""Who begins anew in a forked process: what a transport has open, and whoever waits for it, is the parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What knows what to do in the child; nothing else runs there yet."""

    @property
    def forked(self) -> Callable[[], None]: ...


def tell_when_forked(transport: Forkable) -> None:
    """Have `forked` called in each child process, as long as the transport lives."""
    _all.add(transport)


class AfterFork:
    """The same for what is compiled and cannot be referred to weakly: it keeps this, and is told as long as it does."""

    def __init__(self, forked: Callable[[], None]) -> None:
        self.forked = forked
        tell_when_forked(self)


def _tell_all() -> None:
    for transport in list(_all):
        transport.forked()


_all: WeakSet[Forkable] = WeakSet()
os.register_at_fork(after_in_child=_tell_all)
