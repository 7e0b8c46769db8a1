"""Links that can be cut. In the live view, all that the parts say to one another goes through here.

A link that is cut swallows everything and closes nothing, as a pulled cable does: who waits for an answer waits until his
own patience ends. When it is mended, what was under way arrives late.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from coatcheck.lab.processes import LOOPBACK, bound_socket

ANYBODY = ""
"""As a client: who it is will be seen from the process that a connection belongs to."""

_AT_ONCE = 65_536  # bytes

Made = TypeVar("Made")


@dataclass(slots=True, eq=False)
class _Way:
    """A port that leads to another one."""

    client: str
    server: str
    port: int
    target: int
    listener: asyncio.Server | None = None


@dataclass(slots=True, eq=False)
class _Connection:
    """One that was made through a way."""

    client: str
    server: str
    port: int  # the client's
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Links:
    """Relays on 127.0.0.1, in a thread of their own. A context manager that leaves no port open.

    Attributes:
        processes: gives the process ids by name, for connections of `ANYBODY`.
    """

    def __init__(self) -> None:
        self.processes: Callable[[], Mapping[str, int]] = dict
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._ways: dict[tuple[str, str, int], _Way] = {}
        self._connections: dict[_Connection, asyncio.Task[object] | None] = {}
        self._cut: set[frozenset[str]] = set()

    def __enter__(self) -> Links:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def through(self, client: str, server: str, port: int) -> int:
        """A port that leads to `port`, where `server` listens or will. The same one if asked again."""
        return self._do(self._open(client, server, port))

    def cut(self, one: str, other: str) -> None:
        """From now on nothing gets through between these two, in either direction."""
        self._do(self._set(one, other, cut=True))

    def mend(self, one: str, other: str) -> None:
        """What was held back arrives, and whatever comes after it."""
        self._do(self._set(one, other, cut=False))

    def gone(self, server: str) -> None:
        """This server has ended: who calls it is refused, as by the machine on which it ran."""
        self._do(self._gone(server))

    def back(self, server: str) -> None:
        """It can be called again."""
        self._do(self._back(server))

    def _do(self, work: Awaitable[Made]) -> Made:
        async def do() -> Made:
            return await work

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _end(self) -> None:
        for way in self._ways.values():
            if way.listener is not None:
                way.listener.close()
        await self._hang_up(list(self._connections))

    async def _open(self, client: str, server: str, port: int) -> int:
        key = client, server, port
        if key not in self._ways:
            self._ways[key] = way = _Way(client, server, 0, port)
            await self._listen(way)
        return self._ways[key].port

    async def _listen(self, way: _Way) -> None:
        listening = bound_socket(way.port)
        way.port = listening.getsockname()[1]
        way.listener = await asyncio.start_server(
            lambda reader, writer: self._relay(way, reader, writer), sock=listening
        )

    async def _set(self, one: str, other: str, *, cut: bool) -> None:
        (self._cut.add if cut else self._cut.discard)(frozenset({one, other}))
        for connection in self._connections:
            self._judge(connection)

    async def _gone(self, server: str) -> None:
        for way in self._ways.values():
            if way.server == server and way.listener is not None:
                way.listener.close()
                way.listener = None
        await self._hang_up([each for each in self._connections if server in (each.server, each.client)])

    async def _back(self, server: str) -> None:
        for way in self._ways.values():
            if way.server == server and way.listener is None:
                await self._listen(way)

    async def _hang_up(self, connections: list[_Connection]) -> None:
        tasks = [task for each in connections if (task := self._connections.get(each)) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _judge(self, connection: _Connection) -> None:
        """Let through what may pass."""
        if self._cut and connection.client == ANYBODY:
            connection.client = owner(connection.port, self.processes())
        if frozenset({connection.client, connection.server}) in self._cut:
            connection.open.clear()
        else:
            connection.open.set()

    async def _relay(self, way: _Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(way.client, way.server, writer.get_extra_info("peername")[1])
        self._connections[connection] = asyncio.current_task()
        self._judge(connection)
        try:
            await connection.open.wait()
            there = await asyncio.open_connection(LOOPBACK, way.target)
            try:
                await asyncio.gather(_pass_on(connection, reader, there[1]), _pass_on(connection, there[0], writer))
            finally:
                there[1].transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens there, or the link is taken down
        finally:
            del self._connections[connection]
            writer.transport.abort()


async def _pass_on(connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_AT_ONCE):
            await connection.open.wait()
            writer.write(data)
            await writer.drain()
    await connection.open.wait()  # the end of a connection is a message too
    with contextlib.suppress(OSError):
        writer.close()


def owner(port: int, processes: Mapping[str, int]) -> str:
    """Whose connection from this port of 127.0.0.1 is, of these processes; `ANYBODY` where the system does not tell."""
    with contextlib.suppress(OSError):
        address = f"0100007F:{port:04X}"  # at the end of an IPv6 address as well
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(address)}
        for name, pid in processes.items():
            with contextlib.suppress(OSError):
                if any(str(link.readlink()) in sockets for link in Path(f"/proc/{pid}/fd").iterdir()):
                    return name
    return ANYBODY
