"""A web server in a process of its own: uvicorn, with an application named by its import path."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.servers.processes import LOOPBACK, Process, free_port, wait_until


class WebServer:
    """A context manager.

    Args:
        application: such as `tests.web.shop:from_environment`, a function that makes it.
        environment: variables for the process, in which the application finds its store's URL.
    """

    def __init__(self, application: str, environment: Mapping[str, str] | None = None) -> None:
        self._application = application
        self._environment = environment
        self._folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
        self._process: Process | None = None
        self.port = free_port()

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        program = [sys.executable, "-m", "uvicorn", "--factory", self._application]
        options = ["--host", LOOPBACK, "--port", str(self.port), "--no-access-log", "--timeout-graceful-shutdown", "2"]
        self._process = Process(program + options, self._folder / "log", self._environment)
        try:
            wait_until(self._runs, "the start of uvicorn")
        except BaseException:
            self._process.stop()
            raise

    def stop(self) -> None:
        self.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def end(self) -> None:
        """Ask it to end, and wait; its log stays until `stop`. It may be started again."""
        self.process.stop()
        self._log_read_from = len(self.log)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

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

    def _runs(self) -> bool:
        assert self.process.alive, self.log
        return "Uvicorn running on" in self.log[self._log_read_from :]
