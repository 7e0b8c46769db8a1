"""The transport to several servers: carries out what a topology says, over one connection to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.confirming import awaits_replica
from coatcheck.stores.redis.gate import being_tried
from coatcheck.stores.redis.lane import Lane
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.topology import BRIEF, Drop, Pause, Refresh, Route, Send, Step, Topology, is_news
from coatcheck.stores.redis.transport import ExchangeFailed, Read
from coatcheck.stores.redis.wire import Wire
from coatcheck.stores.steps import follow

T = TypeVar("T")


class Fleet:
    """A transport over one connection to each server, and another to each that commits wait for a replica on.

    Belongs to the event loop in which it is made.

    Args:
        topology: which servers.
        timeout, most, heartbeat, near: as for `Wire`.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout: float,
        most: int = 4096,
        heartbeat: float = 10.0,
        near: NearCache | None = None,
    ) -> None:
        self._topology = topology
        self._timeout = timeout
        self._make: Callable[[Address], Wire] = lambda to: Wire(
            to, timeout=timeout, most=most, heartbeat=heartbeat, near=near
        )
        self._wires: dict[Address, Wire] = {}
        self._lanes: dict[Address, Lane] = {}
        self._refreshing: asyncio.Task[None] | None = None  # or what became of it
        self._refreshed_at = float("-inf")
        self._awaited: asyncio.Task[None] | None = None  # the one that somebody waits for, or has
        self._down = ""  # why, while nothing can be found out
        self._closed = False

    async def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `Transport.exchange`."""
        now = monotonic()
        deadline = now + (self._timeout if timeout is None else timeout)
        if now - self._refreshed_at > self._topology.fresh_for and not self._closed:
            self._refresh()
        return await self._follow(self._topology.exchange(commands, read), deadline)

    async def close(self) -> None:
        """Break off all connections; whoever waits is told. It cannot be used any more."""
        self._closed = True
        if self._refreshing is not None and not self._refreshing.done():
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._leave(set(self._wires), "the store was closed")

    async def _follow(self, route: Route[T], deadline: float) -> T:
        return await follow(route, lambda step: self._do(step, deadline))

    async def _do(self, step: Step, deadline: float) -> Any:
        left = deadline - monotonic()
        if type(step) is Send:
            if step.brief:
                left = min(left, self._timeout * BRIEF)
            wire = self._wires.get(step.to) or self._wire_to(step.to)
            if awaits_replica(step.commands):
                lane = self._lanes.get(step.to) or self._lane_to(step.to)
                return await lane.exchange(step.commands, step.read, timeout=left)
            return await wire.exchange(step.commands, step.read, timeout=left)
        if type(step) is Pause:
            if left <= step.seconds:
                raise ExchangeFailed("no time is left", sent=False, slow=True)
            return await asyncio.sleep(step.seconds)
        if type(step) is Drop:
            return await self._leave(step.servers, step.why)
        assert type(step) is Refresh
        task = self._refresh(anew=step.anew)
        if step.wait:
            if self._down and task is self._awaited:
                raise ExchangeFailed(being_tried(self._down), sent=False)
            self._awaited = task
            done, _ = await asyncio.wait([task], timeout=max(0.0, left))
            if not done:
                raise ExchangeFailed("which server is the right one is not known in time", sent=False, slow=True)
            if task.cancelled():
                raise ExchangeFailed("the store was closed", sent=False)
            if (failure := task.exception()) is not None:
                raise ExchangeFailed(str(failure), sent=False) from failure
        return None

    # --- finding out which servers are the right ones ----------------------------------------------------------------

    def _refresh(self, *, anew: bool = False) -> asyncio.Task[None]:
        """What is being found out, or was a moment ago: those in trouble come in crowds, and one answer is for all."""
        task = self._refreshing
        if task is not None and task.done():
            failed = task.cancelled() or task.exception() is not None
            if not is_news(monotonic() - self._refreshed_at, failed=failed, anew=anew):
                task = None
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find_out(), name="coatcheck looks for its servers")
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # there may be nobody to be told
            self._refreshing = task
        return task

    async def _find_out(self) -> None:
        try:
            # It has its own time, since it is for those who come later too.
            await self._follow(self._topology.refresh(), monotonic() + self._timeout)
            await self._leave(self._wires.keys() - set(self._topology.members()), "the server is not in use any more")
            self._down = ""
        except Exception as failure:
            self._down = str(failure) or type(failure).__name__
            raise
        finally:
            self._refreshed_at = monotonic()

    # --- connections -------------------------------------------------------------------------------------------------

    def _wire_to(self, address: Address) -> Wire:
        if self._closed:
            raise ExchangeFailed("the store was closed", sent=False)
        wire = self._wires[address] = self._make(address)
        return wire

    def _lane_to(self, address: Address) -> Lane:
        wire = self._make(replace(address, confirms=True, announces=False))  # nothing is read there
        lane = self._lanes[address] = Lane(wire, timeout=self._timeout)
        return lane

    async def _leave(self, addresses: Collection[Address], why: str) -> None:
        for address in addresses:
            lane = self._lanes.pop(address, None)
            wire = self._wires.pop(address, None)
            if wire is not None:
                await wire.close(why)
            if lane is not None:
                await lane.close(why)
