"""Programs that tests start. They are ended by their own id, and die with pytest even if pytest is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coatcheck.lab import tether

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
SIDE_BY_SIDE = 4
"""Processes that run tests at the same time, at the most; see `turns`."""


class Process:
    """A running program whose output goes to a file.

    Args:
        command: the program (an absolute path) and its arguments.
        log: where its output goes; added to if it is there.
        environment: variables to add.
        user: the number of the user to run as; by default whoever runs the tests.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self._log = log
        who = str(os.getpid()) if user is None else f"{os.getpid()}:{user}"
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, who, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text("utf-8", "replace")

    def send(self, signal_number: int) -> None:
        self._popen.send_signal(signal_number)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """Ask it to end; kill it if it does not."""
        if self.alive:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self._popen.wait(3)
            except subprocess.TimeoutExpired:
                self.kill()


def free_port() -> int:
    """A port that nobody has. Not one of those that the system gives to outgoing connections, so it stays free.

    Nor one that was given out before, here or in a process that runs tests beside this one: who got it may not listen yet.
    """
    return free_ports(1)[0]


def free_ports(count: int) -> range:
    """So many of them in a row."""
    while True:
        first = _chance.randrange(_OURS.start, _OURS.stop - count)
        ports = range(first, first + count)
        if set(_given).isdisjoint(ports) and all(map(_is_free, ports)):
            _given.extend(ports)
            return ports


_given: deque[int] = deque(maxlen=1000)
_chance = random.SystemRandom()  # not the one that hypothesis winds back
_PORTS = range(20_000, 32_000)
_SHARE = len(_PORTS) // SIDE_BY_SIDE


def _ours() -> range:
    """The ports of this process, if it is one of those that run tests side by side."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return _PORTS
    number = int(worker.removeprefix("gw")) % SIDE_BY_SIDE
    return _PORTS[number * _SHARE : (number + 1) * _SHARE]


_OURS = _ours()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait until `condition()` is true; fail if it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """`wait_until` for tests whose event loop must go on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.01)
