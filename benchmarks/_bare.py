"""Two bare ways to talk to a server, with nothing that a program in production needs."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import hiredis

from coatcheck.stores.redis.address import Address

Command: TypeAlias = tuple[str | int, ...]

pack = cast(Callable[[Command], bytes], hiredis.pack_command)


def address_of(url: str) -> Address:
    """The server that a URL without a password names."""
    parts = urlsplit(url)
    return Address(
        host=parts.hostname or "localhost", port=parts.port or 6379, database=int(parts.path.strip("/") or 0)
    )


class Awaited(asyncio.Protocol):
    """The least that callers who await their answers can share: commands of a tick in one write, answers in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")

    @classmethod
    async def connect(cls, address: Address) -> Awaited:
        _, connection = await asyncio.get_running_loop().create_connection(cls, address.host, address.port)
        await connection.send("HELLO", 3)
        await connection.send("SELECT", address.database)
        return connection

    def close(self) -> None:
        self._transport.abort()

    def send(self, *command: str | int) -> asyncio.Future[Any]:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(pack(command))
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(answer)
        return answer

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(reply)


class Blocking:
    """No event loop, and nobody who waits: commands go out in one write on a blocking socket, and replies are read back."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        self.exchange([("HELLO", 3), ("SELECT", address.database)])

    def close(self) -> None:
        self._socket.close()

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        self._socket.sendall(b"".join(map(pack, commands)))
        replies: list[Any] = []
        while True:
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
            if len(replies) == len(commands):
                return replies
            self._reader.feed(self._socket.recv(65_536))
