"""A man in the middle between the store and its server, who delays, cuts, counts and lies."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.servers.processes import LOOPBACK
from tests.servers.resp import arguments, take_messages

Action: TypeAlias = Literal["pass", "cut before", "cut after", "hold"] | bytes
"""What becomes of one command and its reply.

- `pass`: both go through.
- `cut before`: the connection breaks, and the server never sees the command.
- `cut after`: the server executes the command, then the connection breaks in place of its reply.
- `hold`: the reply, and all that follow on its connection, wait until `Proxy.release()`.
- bytes: a surplus reply that goes to the client just before the right one.
"""

_HANDSHAKE = {b"HELLO", b"AUTH", b"CLIENT", b"SELECT", b"PING", b"INFO"}


@dataclass(frozen=True)
class Command:
    """One command on its way to the server.

    Attributes:
        name: in capitals, such as `HGETALL`.
        words: all of it.
        number: how many commands, handshakes not counted, came before it.
    """

    name: str
    words: list[bytes]
    number: int


class Proxy:
    """An async context manager; the client is given `url`. Lives in the test's own event loop.

    Args:
        port: of the server, on 127.0.0.1.
        latency: seconds by which replies are late, or a range from which that is drawn anew for each batch of them.
    """

    def __init__(self, port: int, latency: float | tuple[float, float] = 0.0) -> None:
        self._server_port = port
        self._latency = latency if isinstance(latency, tuple) else (latency, latency)
        self.judge: Callable[[Command], Action] = lambda command: "pass"
        """Decides what becomes of each command; handshakes of new connections are not asked about."""
        self.commands: list[str] = []
        """The names of all commands so far, handshakes left out."""
        self.round_trips = 0
        """How often a client wrote while it waited for nothing: commands sent in one go count as one."""
        self.connections = 0
        """How many connections there have been."""
        self.swallows_news = False
        """Whether nobody hears what the server announces unasked."""
        self.swallowed = 0
        """How often that has happened."""
        self._released = asyncio.Event()
        self._open: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        links = list(self._open)
        self.cut()
        await asyncio.gather(*(link.ended.wait() for link in links))

    def release(self) -> None:
        """Let go of the replies that are held."""
        self._released.set()
        self._released = asyncio.Event()

    def cut(self) -> None:
        """Break all connections that are open now."""
        for link in list(self._open):
            link.cut()

    def reset_counts(self) -> None:
        """Count from here on."""
        self.commands.clear()
        self.round_trips = 0

    @property
    def open_connections(self) -> int:
        return len(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(self, reader, writer)
        self._open.add(link)
        try:
            await link.run(self._server_port)
        finally:
            self._open.discard(link)
            link.ended.set()

    def _action(self, words: list[bytes]) -> Action:
        if words[0].upper() in _HANDSHAKE:
            return "pass"
        command = Command(words[0].upper().decode(), words, len(self.commands))
        self.commands.append(command.name)
        return self.judge(command)

    def _delay(self) -> float:
        return random.uniform(*self._latency)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client_reader, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._waiting: deque[Action] = deque()  # one for each command whose reply has not come
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def run(self, server_port: int) -> None:
        try:
            server_reader, self._server = await asyncio.open_connection(LOOPBACK, server_port)
        except OSError:
            self.cut()
            return
        self._tasks = [
            asyncio.create_task(self._upstream(self._server)),
            asyncio.create_task(self._downstream(server_reader)),
        ]
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in (self._client, self._server):
            if writer is not None:
                writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def _upstream(self, server: asyncio.StreamWriter) -> None:
        buffer = bytearray()
        while data := await _read(self._client_reader):
            buffer += data
            passed = bytearray()
            for message in take_messages(buffer):
                words = arguments(message)
                idle = not self._waiting
                before = len(self._proxy.commands)
                action = self._proxy._action(words)
                if idle and len(self._proxy.commands) > before:
                    self._proxy.round_trips += 1
                if action == "cut before":
                    server.write(passed)
                    return
                self._waiting.append(action)
                passed += message
            server.write(
                passed
            )  # together, as they came: or their replies may come in pieces, each of which is delayed

    async def _downstream(self, server: asyncio.StreamReader) -> None:
        buffer = bytearray()
        while data := await _read(server):
            if delay := self._proxy._delay():
                await asyncio.sleep(delay)
            buffer += data
            for message in take_messages(buffer):
                if message[:1] == b">":  # news, and nobody's reply
                    if self._proxy.swallows_news:
                        self._proxy.swallowed += 1
                    else:
                        self._client.write(message)
                    continue
                action = self._waiting[0]
                if action == "cut after":
                    return
                if action == "hold":
                    await self._proxy._released.wait()
                self._waiting.popleft()
                if isinstance(action, bytes):
                    message = action + message
                self._client.write(message)


async def _read(reader: asyncio.StreamReader) -> bytes:
    with suppress(OSError):
        return await reader.read(65536)
    return b""
