"""The transport to one server: one connection per event loop, made when it is needed, and again when it broke."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeVar

from coatcheck.errors import ForeignReply
from coatcheck.stores.redis.address import ESSENTIAL_REPLIES, Address
from coatcheck.stores.redis.connection import Connection
from coatcheck.stores.redis.conversation import pack
from coatcheck.stores.redis.gate import Gate
from coatcheck.stores.redis.transport import Command, ErrorReply, ExchangeFailed

T = TypeVar("T")


class Wire:
    """A transport over one multiplexed connection. Belongs to the event loop in which it is made.

    Args:
        address: the server.
        timeout: seconds for one exchange, waiting and connecting included, where the caller gives none.
        most: exchanges under way at most; further ones wait their turn, first come first served.
        heartbeat: seconds of silence after which the server is asked for a sign of life.
        on_push: called with each push message.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        most: int = 4096,
        heartbeat: float = 10.0,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._most = most
        self._heartbeat = heartbeat
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._gate = Gate()
        self._connection: Connection | None = None  # one that stands and has been let in
        self._connecting: asyncio.Task[str] | None = None
        self._turns: deque[asyncio.Future[None]] = deque()

    async def exchange(
        self, commands: list[Command], read: Callable[[list[Any]], T], *, timeout: float | None = None
    ) -> T:
        """See `Transport.exchange`."""
        packed = pack(commands)
        now = monotonic()
        deadline = now + (self._timeout if timeout is None else timeout)
        connection = self._connection
        if connection is None or self._turns or len(connection.line) >= self._most:
            connection = await self._turn(deadline)
        replies = await connection.send(packed, len(commands), now, deadline)
        try:
            return read(replies)
        except ForeignReply:
            connection.drop("a reply that belonged to another request came")
            raise

    async def close(self) -> None:
        """Break off the connection. Another exchange would make a new one."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.drop("the store was closed")

    # --- waiting for a connection, and for room on it ----------------------------------------------------------------

    async def _turn(self, deadline: float) -> Connection:
        waited = False
        while True:
            connection = self._connection
            if connection is None:
                await self._connected(deadline)
            elif len(connection.line) < self._most and (waited or not self._turns):
                return connection
            else:
                await self._room(deadline)
                waited = True

    async def _connected(self, deadline: float) -> None:
        """Wait until somebody has connected, or do it; while the server is known to be down, fail at once."""
        if self._connecting is None:
            closed_for = self._gate.closed_for(monotonic())
            if closed_for:
                raise ExchangeFailed(f"it is down, and is tried again in {closed_for:.2f} s", sent=False)
            self._connecting = self._loop.create_task(self._connect(), name=f"coatcheck connects to {self.address}")
        # `wait` leaves the attempt alone when this caller is cancelled or has no more time: others wait for it too.
        attempt = self._connecting
        done, _ = await asyncio.wait([attempt], timeout=max(0.0, deadline - monotonic()))
        if not done:
            raise ExchangeFailed("no connection in time", sent=False, slow=True)
        problem = "the store was closed" if attempt.cancelled() else attempt.result()
        if problem:
            raise ExchangeFailed(problem, sent=False)

    async def _connect(self) -> str:
        """Connect and introduce ourselves. Returns what went wrong, or `""`."""
        address = self.address
        connection = Connection(
            self._loop, timeout=self._timeout, heartbeat=self._heartbeat,
            on_room=self._wake, on_lost=self._lost, on_push=self._on_push,
        )  # fmt: skip
        problem = "given up"
        try:
            async with asyncio.timeout(self._timeout):
                if address.path is not None:
                    await self._loop.create_unix_connection(lambda: connection, address.path, ssl=address.tls)
                else:
                    await self._loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
                greeting = address.handshake()
                now = monotonic()
                replies = await connection.send(pack(greeting), len(greeting), now, now + self._timeout)
            refusals = [reply for reply in replies[:ESSENTIAL_REPLIES] if isinstance(reply, ErrorReply)]
            problem = f"it does not let us in: {refusals[0]}" if refusals else ""
        except TimeoutError:
            problem = f"no connection within {self._timeout:g} s"
        except (OSError, ValueError, ExchangeFailed) as error:  # ssl.SSLError and UnicodeError are among them
            problem = str(error)
        finally:
            self._connecting = None
            if problem:
                self._gate.failed(monotonic())
                connection.drop(problem)
            else:
                self._gate.worked()
                self._connection = connection
        return problem

    async def _room(self, deadline: float) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        try:
            done, _ = await asyncio.wait([turn], timeout=max(0.0, deadline - monotonic()))
        except asyncio.CancelledError:
            if turn.done():
                self._wake()  # our turn came, and we cannot take it
            else:
                self._turns.remove(turn)
            raise
        if not done:
            self._turns.remove(turn)
            raise ExchangeFailed(f"{self._most} requests are under way, and none ended in time", sent=False, slow=True)

    def _wake(self) -> None:
        """Replies came: let as many wait no longer as there is room for."""
        if self._turns:
            line = self._connection.line if self._connection is not None else ()
            for _ in range(min(self._most - len(line), len(self._turns))):
                self._turns.popleft().set_result(None)

    def _lost(self, connection: Connection, silent: bool) -> None:
        if connection is self._connection:
            self._connection = None
            if silent:
                self._gate.failed(monotonic())
            self._wake()


class Wires:
    """A transport to one server for any event loop: each gets a `Wire` of its own, and so does a forked process.

    Arguments are those of `Wire`.
    """

    def __init__(self, address: Address, *, timeout: float, most: int = 4096, heartbeat: float = 10.0) -> None:
        self.address = address
        self._make: Callable[[], Wire] = lambda: Wire(address, timeout=timeout, most=most, heartbeat=heartbeat)
        self._wires: dict[asyncio.AbstractEventLoop, Wire] = {}
        self._process = _process
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wire: Wire | None = None

    def exchange(
        self, commands: list[Command], read: Callable[[list[Any]], T], *, timeout: float | None = None
    ) -> Coroutine[Any, Any, T]:
        """See `Transport.exchange`."""
        wire = self._wire
        if wire is None or self._loop is not asyncio.get_running_loop() or self._process is not _process:
            wire = self._wire_of_this_loop()
        return wire.exchange(commands, read, timeout=timeout)

    async def close(self) -> None:
        """Break off this loop's connection."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        self._wire = self._loop = None
        if wire is not None and self._process is _process:
            await wire.close()

    def _wire_of_this_loop(self) -> Wire:
        if self._process is not _process:  # the parent's sockets are the parent's
            self._process = _process
            self._wires.clear()
        loop = self._loop = asyncio.get_running_loop()
        for other in [other for other in self._wires if other.is_closed()]:
            del self._wires[other]
        self._wire = self._wires[loop] = self._wires.get(loop) or self._make()
        return self._wire


_process = object()
"""Stands for this process; another one after a fork."""


def _forked() -> None:
    global _process
    _process = object()


os.register_at_fork(after_in_child=_forked)
