"""The transport to one server: one connection per event loop, made when it is needed, and again when it broke."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from itertools import islice
from typing import Final, TypeVar

from coatcheck.clock import monotonic
from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Commands, pack
from coatcheck.stores.redis.connection import Connection
from coatcheck.stores.redis.evicting import EvictionWarning
from coatcheck.stores.redis.gate import Gate, being_tried
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.resolver import resolver
from coatcheck.stores.redis.transport import ExchangeFailed, Read, whole

T = TypeVar("T")

_CLOSED: Final = "the store was closed"


class Wire:
    """A transport over one multiplexed connection. Belongs to the event loop in which it is made.

    Args:
        address: the server.
        timeout: seconds for one exchange, waiting and connecting included, where the caller gives none.
        most: exchanges under way at most; further ones wait their turn, first come first served.
        heartbeat: seconds of silence after which the server is asked for a sign of life.
        near: what keeps records that are read over the connection, if it is told of changes.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        most: int = 4096,
        heartbeat: float = 10.0,
        near: NearCache | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._most = most
        self._heartbeat = heartbeat
        self._near = near if address.announces else None
        self._loop = asyncio.get_running_loop()
        self._gate = Gate()
        self._warning = EvictionWarning(address)
        self._connection: Connection | None = None  # one that stands and has been let in
        self._connecting: asyncio.Task[None] | None = None
        self._turns: dict[asyncio.Future[None], None] = {}  # whoever waits, in order
        self._closed = ""  # why, once it is

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> Awaitable[T]:
        """See `Transport.exchange`."""
        now = monotonic()
        deadline = now + (self._timeout if timeout is None else timeout)
        connection = self._connection
        if connection is None or self._turns or len(connection.line) >= self._most or deadline <= now:
            return self._exchange_in_turn(commands, read, deadline)
        return connection.send(pack(commands), len(commands), read, now, deadline)

    async def _exchange_in_turn(self, commands: Commands, read: Read[T], deadline: float) -> T:
        if deadline <= monotonic():
            raise ExchangeFailed("no time is left", sent=False, slow=True)
        packed = pack(commands)  # before the turn comes: a turn that was taken must be used, or nobody is woken
        connection = await self._turn(deadline)
        now = monotonic()
        if deadline <= now:
            self._wake()  # for somebody else
            raise ExchangeFailed("no time is left", sent=False, slow=True)
        return await connection.send(packed, len(commands), read, now, deadline)

    @property
    def trouble(self) -> str:
        """Why others need not wait for what becomes of the connection that is being made; else `""`."""
        if self._connection is None and self._connecting is not None and self._gate.is_down:
            return being_tried(self._gate.why)
        return ""

    async def close(self, why: str = _CLOSED) -> None:
        """Break off the connection; whoever waits is told why. It cannot be used any more."""
        self._closed = why
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.drop(why, silent=why == _CLOSED)  # where nothing is to be repeated on another connection
        self._fail_turns(why)

    # --- waiting for a connection, and for room on it ----------------------------------------------------------------

    async def _turn(self, deadline: float) -> Connection:
        """Wait until there is a connection with room on it, first come first served."""
        while True:
            if self._closed:
                raise ExchangeFailed(self._closed, sent=False)
            if trouble := self.trouble:
                raise ExchangeFailed(trouble, sent=False)
            if self._connection is None and self._connecting is None:
                closed_for = self._gate.closed_for(monotonic())
                if closed_for:
                    problem = f"it is down, and is tried again in {closed_for:.2f} s ({self._gate.why})"
                    raise ExchangeFailed(problem, sent=False)
                self._connecting = self._loop.create_task(self._connect(), name=f"coatcheck connects to {self.address}")
            if len(self._turns) >= _WAITING_ROOM:
                raise ExchangeFailed(f"{len(self._turns)} requests wait for it already", sent=False)
            turn: asyncio.Future[None] = self._loop.create_future()
            self._turns[turn] = None
            try:
                done, _ = await asyncio.wait([turn], timeout=max(0.0, deadline - monotonic()))
            except asyncio.CancelledError:
                if turn in self._turns:
                    del self._turns[turn]
                else:  # it was ours already, and we cannot take it
                    self._wake()
                raise
            if not done:
                del self._turns[turn]
                problem = (
                    "no connection in time" if self._connection is None else f"{self._most} requests are under way"
                )
                raise ExchangeFailed(problem, sent=False, slow=True)
            turn.result()  # raises what went wrong
            if self._connection is not None:
                return self._connection

    async def _connect(self) -> None:
        """Connect and introduce ourselves, then let those who wait go on, or tell them what went wrong."""
        address = self.address
        connection = Connection(
            self._loop, timeout=self._timeout, heartbeat=self._heartbeat,
            on_room=self._answered, on_lost=self._lost, near=self._near,
        )  # fmt: skip
        problem = "the attempt to connect was given up"
        try:
            async with asyncio.timeout(self._timeout):
                greeting = address.handshake()
                now = monotonic()
                greeted = connection.send(pack(greeting), len(greeting), whole, now, now + self._timeout)
                if address.path is not None:
                    await self._loop.create_unix_connection(lambda: connection, address.path, ssl=address.tls)
                else:
                    dialed = await _dial(address, self._timeout)
                    name = None if address.tls is None else address.host
                    await self._loop.create_connection(
                        lambda: connection, sock=dialed, ssl=address.tls, server_hostname=name
                    )
                replies = await greeted
            problem = address.objection(replies)
            if not problem:
                self._warning.look(address.eviction(replies))
        except TimeoutError:
            problem = f"no connection within {self._timeout:g} s"
        except ExchangeFailed as failed:  # a server that lets nobody in says so and hangs up
            problem = address.refusal(failed.heard) or str(failed)
        except (OSError, ValueError, RuntimeError) as error:
            # ssl.SSLError and UnicodeError are among them; RuntimeError: no thread can be had to look up the name.
            problem = str(error) or type(error).__name__
        finally:
            self._connecting = None
            problem = problem or connection.lost
            if problem:
                self._gate.failed(monotonic(), problem)
                connection.drop(problem)
                self._fail_turns(problem)
            else:
                self._connection = connection
                self._wake()

    def _answered(self) -> None:
        connection = self._connection
        if connection is not None:
            if not connection.served:
                connection.served = True
                self._gate.worked()
            if self._turns:
                self._wake()

    def _wake(self) -> None:
        """Let as many wait no longer as there is room for."""
        connection = self._connection
        if connection is not None:
            for turn in list(islice(self._turns, max(0, self._most - len(connection.line)))):
                del self._turns[turn]
                if not turn.done():
                    turn.set_result(None)

    def _fail_turns(self, problem: str) -> None:
        turns, self._turns = self._turns, {}
        for turn in turns:
            if not turn.done():
                turn.set_exception(ExchangeFailed(problem, sent=False))
                turn.exception()  # its caller may have been cancelled in this very moment: nobody need be told of that

    def _lost(self, connection: Connection, silent: bool) -> None:
        if connection is self._connection:
            self._connection = None
            if silent or not connection.served:
                self._gate.failed(monotonic(), connection.lost)
            # Each who waited looks for a new connection; the first of them begins to make it.
            turns, self._turns = self._turns, {}
            for turn in turns:
                if not turn.done():
                    turn.set_result(None)


async def _dial(address: Address, timeout: float) -> socket.socket:
    """Connect to the first of a host's addresses that answers; none takes the others' share of the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    found = await asyncio.wrap_future(resolver.look_up(address.host, address.port))
    for left, (family, kind, protocol, _, where) in zip(range(len(found), 0, -1), found, strict=True):
        dialing = socket.socket(family, kind, protocol)
        try:
            dialing.setblocking(False)
            async with asyncio.timeout((deadline - loop.time()) / left):
                await loop.sock_connect(dialing, where)
            return dialing
        except BaseException as error:
            dialing.close()
            if left == 1 or not isinstance(error, OSError):
                raise
    raise OSError(f"{address.host} has no address")


_WAITING_ROOM: Final = 16_384
"""How many may wait; further ones are refused at once rather than kept for nothing."""
