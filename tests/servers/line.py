"""A line between two servers that may be slow, or cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.servers.processes import LOOPBACK


class Line:
    """What is sent to `address` comes out at a server's port. An async context manager in the test's own event loop.

    Args:
        port: the server's, on loopback; nothing needs to listen there yet.

    Attributes:
        delay: seconds by which everything towards the server is late. The way back is not delayed.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.port = 0

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break all connections, and lose what is under way."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._carry(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            with suppress(OSError):
                back, there = await asyncio.open_connection(LOOPBACK, self._server_port)
                late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                tasks = [
                    asyncio.create_task(each)
                    for each in (self._take(reader, late), self._give(late, there), self._pass(back, writer))
                ]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            late.put_nowait((loop.time() + self.delay, data))

    async def _give(self, late: asyncio.Queue[tuple[float, bytes]], there: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            there.write(data)

    async def _pass(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await back.read(65536):
            writer.write(data)
