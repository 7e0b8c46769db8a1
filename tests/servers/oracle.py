"""A sentinel that says what a test wants it to say."""

from __future__ import annotations

import asyncio

from tests.servers.processes import LOOPBACK
from tests.servers.resp import arguments, take_messages
from tests.servers.valkey import Valkey


class Oracle:
    """An async context manager.

    Args:
        names: the server that it calls the primary, whatever the service; `None` if it knows no service.
        epoch: of its configuration.
    """

    def __init__(self, names: Valkey | None, epoch: int = 0) -> None:
        self.names = names
        self.epoch = epoch
        self.asked = 0
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Oracle:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                buffer += data
                for message in take_messages(buffer):
                    writer.write(self._answer([word.decode().upper() for word in arguments(message)]))
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "HELLO":
            return b"%0\r\n"
        if words[0] != "SENTINEL":
            return b"+OK\r\n"
        if self.names is None:
            return b"_\r\n" if words[1].startswith("GET") else b"-ERR No such master with that name\r\n"
        if words[1] == "MASTER":
            return b"%%1\r\n$12\r\nconfig-epoch\r\n$%d\r\n%d\r\n" % (len(str(self.epoch)), self.epoch)
        self.asked += 1
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(self.names.port)), self.names.port)
