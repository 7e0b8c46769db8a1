"""What the lab reads off the operating system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coatcheck.lab.bench import processor_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of processes by their id")

_BUSY = """
import subprocess, sys, time
while time.process_time() < 0.127: pass
print(time.process_time(), flush=True)
sys.stdin.readline()
if sys.argv[1:]:
    child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    print(flush=True)
    sys.stdin.readline()
    child.communicate(b"go on")
    print(flush=True)
    sys.stdin.readline()
"""


@contextmanager
def busy(*arguments: str) -> Iterator[tuple[int, Iterator[str]]]:
    """A process that has worked for an eighth of a second: its id, and what it says, after each of which it waits."""
    command = [sys.executable, "-c", _BUSY, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def said() -> Iterator[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            while line := process.stdout.readline():
                yield line
                process.stdin.write("\n")
                process.stdin.flush()

        says = said()
        yield process.pid, says
        for _ in says:
            pass  # until it has ended


def test_processor_time_is_not_rounded() -> None:
    """The system shows it in steps of 10 ms elsewhere, and a database has a dozen processes."""
    with busy() as (pid, says):
        own = float(next(says))
        assert processor_time(pid) == pytest.approx(own, abs=0.002)


def test_the_time_of_children_counts_while_they_live_and_when_they_have_ended() -> None:
    with busy("-c", _BUSY) as (pid, says):
        own = float(next(says))
        next(says)
        assert own + 0.126 < processor_time(pid) < own + 0.25
        next(says)
        assert own + 0.116 < processor_time(pid) < own + 0.25, "in steps of 10 ms"


def test_of_a_process_that_is_not_there_nothing_is_counted() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert processor_time(process.pid) == 0
