"""Web servers in processes of their own, with an application named by its import path."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.servers.processes import LOOPBACK, Process, free_port, wait_until


class WebServer:
    """uvicorn. A context manager.

    Args:
        application: such as `tests.web.shop:from_environment`, a function that makes it.
        environment: variables for the process, in which the application finds its store's URL.
        workers: processes; more than one are started anew by another if they die.
    """

    def __init__(self, application: str, environment: Mapping[str, str] | None = None, *, workers: int = 1) -> None:
        self._application = application
        self._environment = environment
        self._several = ["--workers", str(workers)] if workers > 1 else []
        self._folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
        self._process: Process | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        self.launch()
        try:
            wait_until(self.runs, "the start of the web server", 30)
        except BaseException:
            self.process.stop()
            raise

    def launch(self) -> None:
        """Start it, without waiting until it runs."""
        self._process = Process(self._command(), self._folder / "log", self._environment)

    def stop(self) -> None:
        self.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def workers(self) -> list[int]:
        """The processes that serve, by their ids, where there are several."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        return [pid for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def end(self) -> None:
        """Ask it to end, and wait; its log stays until `stop`. It may be started again."""
        workers = self.workers if self.process.alive else []
        self.process.stop()
        _kill(workers)  # whoever is left over if it did not
        self._log_read_from = len(self.log)

    def kill(self) -> None:
        """kill -9, all of it."""
        workers = self.workers if self.process.alive else []
        self.process.kill()
        _kill(workers)

    def restart(self) -> None:
        """kill -9, and start again on the same port."""
        before = len(self.log)
        self.kill()
        self._log_read_from = before
        self.start()

    _log_read_from = 0

    @property
    def process(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def log(self) -> str:
        """What it has printed, tracebacks included."""
        return self.process.log

    def _command(self) -> list[str]:
        program = [sys.executable, "-m", "uvicorn", "--factory", self._application]
        return [
            *program, "--host", LOOPBACK, "--port", str(self.port), "--no-access-log", "--timeout-graceful-shutdown", "2",
            *self._several,
        ]  # fmt: skip

    _ready = "Uvicorn running on"
    """What it prints when it runs."""

    def runs(self) -> bool:
        """Whether it serves by now."""
        assert self.process.alive, self.log
        return self._ready in self.log[self._log_read_from :] and self._listens()

    def _listens(self) -> bool:
        # With several workers it says so before the first of them does.
        with socket.socket() as probe:
            return not self._several or probe.connect_ex((LOOPBACK, self.port)) == 0


class Gunicorn(WebServer):
    """gunicorn. A context manager.

    Args:
        application: such as `tests.web.shops.on_flask:application`, or with brackets, a function that makes it.
        environment: as for `WebServer`.
        workers: processes, forked from one that may have the application already (`preload`).
        worker: their kind: `gthread` or `gevent`.
        threads: of each process, or how many greenlets.
        preload: whether the application is made before the processes are forked.
        settings: a module with gunicorn's own settings.
    """

    def __init__(
        self,
        application: str,
        environment: Mapping[str, str] | None = None,
        *,
        workers: int = 1,
        worker: str = "gthread",
        threads: int = 16,
        preload: bool = False,
        settings: str | None = None,
    ) -> None:
        super().__init__(application, environment)
        crowd = ["--threads", str(threads)] if worker == "gthread" else ["--worker-connections", str(threads)]
        self._options = ["--workers", str(workers), "--worker-class", worker, *crowd, *["--preload"] * preload]
        self._options += [] if settings is None else ["--config", f"python:{settings}"]

    def _command(self) -> list[str]:
        where = ["--bind", f"{LOOPBACK}:{self.port}", "--graceful-timeout", "2", "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", self._application, *where, *self._options]

    _ready = "Booting worker with pid"


def _kill(workers: list[int]) -> None:
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
