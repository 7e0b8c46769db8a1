"""Whose turn it is, where several processes (pytest-xdist) run tests side by side.

Most tests wait most of the time, for servers, for deadlines, for what must not happen; so two at once take little longer
than one. Those marked `alone` judge how much or how quickly something was done: while one of them runs, no other test does.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.servers.processes import SIDE_BY_SIDE

if sys.platform != "win32":  # where all tests run in one process
    import fcntl

_FOLDER = "coatcheck_turns"


class Turns:
    """Either one test that is alone, or one in each of the processes. A worker has one, and all refer to the same folder."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._floor = (self._opened(folder / name) for name in ("gate", "floor"))
        self._alone = False

    def take(self, alone: bool) -> None:
        """Wait until a test may begin."""
        if alone and self._alone:
            return  # the one before was alone as well, and has kept the others out
        # Who waits to be alone holds the gate, so that meanwhile nobody else begins.
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._floor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            self._alone = alone
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def give(self, alone_again: bool) -> None:
        """It is over; whether the next one here has to be alone, too."""
        if not (self._alone and alone_again):
            fcntl.flock(self._floor, fcntl.LOCK_UN)
            self._alone = False

    @staticmethod
    def _opened(file: Path) -> IO[str]:
        return file.open("a")


_TURNS = pytest.StashKey[Turns]()
_SHARED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    folder = getattr(config, "workerinput", {}).get(_FOLDER)
    if folder is not None:
        config.stash[_TURNS] = Turns(Path(folder))
    elif config.getoption("tx", default=None):
        shared = config.stash[_SHARED] = tempfile.mkdtemp(prefix="coatcheck-")
        config.add_cleanup(lambda: shutil.rmtree(shared, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[_FOLDER] = node.config.stash[_SHARED]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Several processes for all tests. Some tests, such as `-k logout`, are there sooner in this one."""
    some = (
        config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword or config.option.markexpr
    )
    if some or config.getoption("lf", default=False) or sys.platform == "win32":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, SIDE_BY_SIDE)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time limit: waiting for a turn costs a test nothing of it
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    turns = item.config.stash.get(_TURNS, None)
    if turns is None:
        return (yield)
    turns.take(_is_alone(item))
    try:
        return (yield)
    finally:
        turns.give(nextitem is not None and _is_alone(nextitem))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
