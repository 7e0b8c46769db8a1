"""Starting, watching and stopping the processes of a run. Each is stopped by its own id, never by its name."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import msgspec

from coatcheck.lab import tether
from coatcheck.lab.errors import ProcessFailed
from coatcheck.lab.stopping import StopRequests

LOOPBACK = "127.0.0.1"
RUN_VARIABLE = "COATCHECK_LAB_RUN"  # in the environment of every process of a run: the run's folder
STORE_VARIABLE = "COATCHECK_LAB_STORE"  # in that of a web server: its store's URL
FILE = "processes.jsonl"

_GRACE = 2.0  # seconds between asking a process to stop and killing it
_IN_USE = ("address already in use", "cannot bind")

Started = TypeVar("Started")


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of `processes.jsonl`: a process was started, or has ended.

    Attributes:
        name: such as `web-1`.
        pid: its process id.
        event: `started` or `ended`.
        command: the program and its arguments; empty for `ended`.
        exit_code: for `ended`; negative for the signal that ended it.
    """

    name: str
    pid: int
    event: str
    command: tuple[str, ...] = ()
    exit_code: int | None = None


@dataclass(slots=True)
class Process:
    """A process of the lab that was started.

    Attributes:
        name: such as `web-1`.
        popen: the process.
        log: where its output goes.
        may_end: whether its end is no surprise.
    """

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    may_end: bool = False
    noted: bool = False


class Supervisor:
    """All processes of one architecture's run. A context manager that leaves none behind.

    Args:
        run: the run's folder; `processes.jsonl` there records every start and end.
        logs: the folder for the processes' output.
        stop: where requests to stop are noticed.

    Use it from the main thread only: a process tied to its parent is tied to the *thread* that started it.
    """

    def __init__(self, run: Path, logs: Path, stop: StopRequests) -> None:
        self._run = run.resolve()
        self._logs = logs
        self._stop = stop
        self._processes: list[Process] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        listening: socket.socket | None = None,
        talks: bool = False,
        may_end: bool = False,
        user: int | None = None,
    ) -> Process:
        """Start a process, tied to the lab's life.

        Args:
            name: what to call it; its output goes to `NAME.log`.
            command: program (an absolute path) and arguments.
            environment: variables to add. Secrets go here: everybody on the machine can read arguments.
            listening: a bound socket to hand over. It is closed here, so that the port dies with the process.
            talks: keep pipes to its standard input and output, instead of `/dev/null` and the log.
            may_end: whether its end is no surprise.
            user: the number of the user to run as, if the lab runs as root; by default whoever runs the lab.
        """
        who = str(os.getpid()) if user is None else f"{os.getpid()}:{user}"
        log = self._logs / f"{name}.log"
        # A session of its own: Ctrl-C in a terminal goes to the lab alone, which then stops the others in order.
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, who, *command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env=os.environ | {RUN_VARIABLE: str(self._run), "PYTHONUNBUFFERED": "1"} | dict(environment or {}),
                pass_fds=() if listening is None else (listening.fileno(),),
                start_new_session=True,
            )
        process = Process(name, popen, log, may_end)
        self._processes.append(process)
        if listening is not None:
            listening.close()
        self._record(ProcessRecord(name=name, pid=popen.pid, event="started", command=tuple(command)))
        return process

    def serve(
        self,
        name: str,
        command: Sequence[str],
        answers: Callable[[Process], bool],
        *,
        seconds: float,
        what: str,
        user: int | None = None,
    ) -> Process:
        """Start a server and wait until it answers; if it does not, it is stopped and forgotten.

        Args:
            name, command, user: see `start`.
            answers: whether it does, and is no other one that took its port first.
            seconds: how long it may take.
            what: who that is, for messages.

        Raises what `wait_until` does.
        """
        process = self.start(name, command, user=user)
        try:
            self.wait_until(lambda: answers(process), seconds=seconds, what=f"the start of {what}")
        except BaseException:
            self.forget(process)
            raise
        return process

    def check(self) -> None:
        """Raise `ProcessFailed` if a process has ended that should not, and `Interrupted` if the lab is to stop."""
        self._stop.check()
        for process in self._processes:
            code = process.popen.poll()
            if code is not None:
                self._note_end(process)
                if not process.may_end:
                    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                    raise ProcessFailed(process.name, f"{how}, and nobody had asked it to", process.log)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait until `condition()` is true while all processes live. Raises what `check` does, or `LabError`."""

        def met() -> bool:
            self.check()
            return condition()

        self._stop.wait_until(met, seconds=seconds, what=what)

    def named(self, name: str) -> Process:
        """The process of this name that was started last."""
        return next(process for process in reversed(self._processes) if process.name == name)

    def pause(self, seconds: float) -> None:
        """Wait, at most `seconds`, unless the lab is to stop."""
        self._stop.pause(seconds)

    def kill(self, process: Process) -> None:
        """Kill a process as a power cut would (SIGKILL), and wait until it is gone."""
        process.may_end = True
        process.popen.kill()
        process.popen.wait()
        self._note_end(process)

    def end(self, process: Process) -> None:
        """Ask a process to stop, kill it if it is still there after two seconds, and wait until it is gone."""
        self._end([process])

    def forget(self, process: Process) -> None:
        """Stop a process, and no longer count it as one of the run's."""
        self._end([process])
        self._processes.remove(process)

    def stop_all(self) -> None:
        """Stop every process: ask first, kill who is still there after two seconds. Safe to call twice."""
        self._end(self._processes)

    def _end(self, processes: Sequence[Process]) -> None:
        for process in processes:
            process.may_end = True
            if process.popen.poll() is None:
                process.popen.terminate()
        until = time.monotonic() + _GRACE
        for process in processes:
            try:
                process.popen.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            for pipe in (process.popen.stdin, process.popen.stdout):
                _close(pipe)
            self._note_end(process)

    def _note_end(self, process: Process) -> None:
        if not process.noted:
            process.noted = True
            code = process.popen.returncode
            self._record(ProcessRecord(name=process.name, pid=process.popen.pid, event="ended", exit_code=code))

    def _record(self, record: ProcessRecord) -> None:
        with (self._run / FILE).open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def bound_socket(port: int = 0) -> socket.socket:
    """A socket on a free port of 127.0.0.1, to be handed to a server. Nobody else can take the port in between.

    Args:
        port: the port of a server that has ended, for the one that takes its place.
    """
    listening = socket.socket()
    if port:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((LOOPBACK, port))
    # For the server that may take its place while its connections are still closing. Not before a free port has been
    # chosen: the kernel would give away one that is bound already.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return listening


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago. For programs that open their port themselves."""
    with bound_socket() as probe:
        port: int = probe.getsockname()[1]
        return port


def on_free_port(start: Callable[[int], Started]) -> Started:
    """Call `start(port)` with a free port, and once more with another if somebody was faster.

    Raises:
        ProcessFailed: what `start` raised, if the port was not the reason or the second try failed too.
    """
    try:
        return start(free_port())
    except ProcessFailed as failure:
        if not any(phrase in str(failure).lower() for phrase in _IN_USE):
            raise
    return start(free_port())


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):  # what was still to be written has no reader any more
            pipe.close()
