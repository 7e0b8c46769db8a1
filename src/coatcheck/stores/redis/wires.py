"""A transport for each event loop, and none for a forked process but its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.forking import AfterFork
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.transport import Read, Transport
from coatcheck.stores.redis.wire import Wire

T = TypeVar("T")

_running_loop: Final = asyncio.get_running_loop  # compiled code looks for no name that is Final


class PerLoop:
    """A transport for any event loop: each gets one of its own, and so does a forked process.

    Args:
        make: makes the transport of the running loop.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._wires: dict[asyncio.AbstractEventLoop, Transport] = {}
        # The last one used and its loop, in one attribute: threads with loops of their own may share a store.
        self._latest: tuple[asyncio.AbstractEventLoop | None, Transport | None] = (None, None)
        self._after_fork = AfterFork(self.forked)

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> Awaitable[T]:
        """See `Transport.exchange`."""
        loop, wire = self._latest
        if wire is None or loop is not _running_loop():
            wire = self._wire_of_this_loop()
        return wire.exchange(commands, read, timeout=timeout)

    async def close(self) -> None:
        """Break off this loop's connections."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        self._latest = (None, None)
        if wire is not None:
            await wire.close()

    def forked(self) -> None:
        """See `forking`. The parent's sockets are the parent's."""
        self._wires = {}
        self._latest = (None, None)

    def _wire_of_this_loop(self) -> Transport:
        loop = asyncio.get_running_loop()
        for other in [other for other in list(self._wires) if other.is_closed()]:
            self._wires.pop(other, None)
        wire = self._wires[loop] = self._wires.get(loop) or self._make()
        self._latest = (loop, wire)
        return wire


class Wires(PerLoop):
    """A transport to one server for any event loop. Arguments are those of `Wire`."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        most: int = 4096,
        heartbeat: float = 10.0,
        near: NearCache | None = None,
    ) -> None:
        super().__init__(lambda: Wire(address, timeout=timeout, most=most, heartbeat=heartbeat, near=near))
        self.address = address
