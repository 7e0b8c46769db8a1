"""Counting the commands that reach a server, with its own MONITOR."""

from __future__ import annotations

import re
import socket
from types import TracebackType

from tests.servers.processes import LOOPBACK

_LINE = re.compile(r'^\+\d+\.\d+ \[\d+ (?P<client>[^\]]+)\] "(?P<name>[^"]*)"(?P<rest>.*)')
_HOUSEKEEPING = {"HELLO", "AUTH", "CLIENT", "SELECT", "PING", "SCRIPT", "INFO"}


class Monitor:
    """A context manager that notes the commands of clients. What scripts call, and handshakes, are left out."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> Monitor:
        self._socket = socket.create_connection((LOOPBACK, self._port), timeout=5)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def commands(self) -> list[str]:
        """The names of the commands since the last call, in order."""
        with socket.create_connection((LOOPBACK, self._port), timeout=5) as marker:
            marker.sendall(b"ECHO the-end\r\n")
            marker.recv(64)
        names: list[str] = []
        while True:
            line = _LINE.match(self._file.readline().decode("utf-8", "replace"))
            assert line is not None
            if line["name"].upper() == "ECHO" and "the-end" in line["rest"]:
                return names
            if line["client"] != "lua" and line["name"].upper() not in _HOUSEKEEPING:
                names.append(line["name"].upper())
