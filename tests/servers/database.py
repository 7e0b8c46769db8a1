"""What the databases of the tests have in common: they can be killed, frozen and restarted."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from tests.servers.processes import Process, free_port, wait_until


class Database:
    """A server with nothing in it, on a port of its own. A context manager that leaves nothing behind."""

    name = ""

    def __init__(self) -> None:
        self._process: Process | None = None
        self.folder = Path()
        self.port = 0

    def __enter__(self) -> Database:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of a store in it, whose tables are made when they are first used."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Make its folder."""
        raise NotImplementedError

    def _command(self) -> tuple[list[str], int | None]:
        """What starts it, and as which user."""
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, on the same port as before, with what is on disk; and wait until it answers."""
        if not self.port:
            self._prepare()
        for attempt in range(3):
            self.port = self.port or free_port()
            command, user = self._command()
            self._process = Process(command, self.folder / "log", user=user)
            try:
                wait_until(lambda: self._answers() or not self.process.alive, f"the start of {self.name}", 30)
                if self.process.alive:
                    return
            except BaseException:
                self._process.stop()
                raise
            assert attempt < 2, self.process.log
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self.thaw()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """kill -9, of all its processes at once."""
        for pid in self._all():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()

    def restart(self) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Leave connections open, but answer nothing (SIGSTOP)."""

        def all_stopped() -> bool:
            self._signal(signal.SIGSTOP)  # also to whom it has forked meanwhile
            return all(map(_is_stopped, self._all()))

        wait_until(all_stopped, f"{self.name} to stop")  # until then a thread may yet give an answer

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def process(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    def _signal(self, number: int) -> None:
        for pid in self._all():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _all(self) -> list[int]:
        """Its process and that one's children, by their ids."""
        pid = self.process.pid
        if not self.process.alive:
            return []
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def _is_stopped(pid: int) -> bool:
    """Whether all threads of this process are, or have ended."""
    states: set[str] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            states.add((thread / "stat").read_text().rpartition(") ")[2][0])
    return states <= {"T", "Z", "X"}
