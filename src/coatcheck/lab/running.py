"""A service that stands beside the web servers, running."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from coatcheck.lab.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service of one run.

    Attributes:
        url: where the web servers find it.
        process: its process; `None` for one that somebody else runs.
        kept_bytes: how many bytes of memory, or of disk, it uses for what it keeps.
        again: starts it anew at the same place after it was killed.
        on_disk: while inside, it acknowledges a change only when that is on its disk; `None` where this is always so, or
            cannot be asked for.
        tidy: removes what it kept, when no process of the run is left.
    """

    url: str
    process: Process | None
    kept_bytes: Callable[[], int]
    again: Callable[[], Process] | None = None
    on_disk: Callable[[], AbstractContextManager[None]] | None = None
    tidy: Callable[[], None] = lambda: None
