"""A man in the middle of any protocol, who lets a request through, swallows its answer and hangs up."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.servers.processes import LOOPBACK


class Swallower:
    """A TCP proxy in front of a server of this machine. A context manager.

    Args:
        port: the server's.

    Attributes:
        port: its own.
        prey: while it is not empty: the answer to the next request that contains these bytes never arrives.
        swallowed: how many answers it has kept.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.port = 0
        self.prey = b""
        self.swallowed = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Swallower:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self._upstream)
        hungry = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(65536):
                if self.prey and self.prey in data:
                    hungry.set()
                to_server.write(data)

        async def back() -> None:
            while data := await from_server.read(65536):
                if hungry.is_set():
                    self.prey = b""
                    self.swallowed += 1
                    return
                writer.write(data)

        ways = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, to_server):
                end.close()
            for end in (writer, to_server):
                with suppress(OSError):
                    await end.wait_closed()
