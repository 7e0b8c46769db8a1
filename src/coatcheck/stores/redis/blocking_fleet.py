"""The transport to several servers for threads: carries out what a topology says, over a `BlockingWire` to each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.blocking_wire import BlockingWire
from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.confirming import awaits_replica, wait_for_replica
from coatcheck.stores.redis.forking import tell_when_forked
from coatcheck.stores.redis.gate import being_tried
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.topology import BRIEF, Drop, Pause, Refresh, Route, Send, Step, Topology, is_news
from coatcheck.stores.redis.transport import ExchangeFailed, Read
from coatcheck.stores.steps import follow_blocking

T = TypeVar("T")


class BlockingFleet:
    """A `SyncTransport` over a few connections to each server, and a few others that commits wait for a replica on.

    So nobody who reads waits behind those. A forked process has connections of its own.

    Args:
        topology: which servers.
        timeout, most, heartbeat, near: as for `BlockingWire`; `most` is for each server, once for either kind.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout: float,
        most: int = 32,
        heartbeat: float = 10.0,
        near: NearCache | None = None,
    ) -> None:
        self._topology = topology
        self._timeout = timeout
        self._make: Callable[[Address], BlockingWire] = lambda to: BlockingWire(
            to, timeout=timeout, most=most, heartbeat=heartbeat, near=near
        )
        self._wires: dict[tuple[Address, bool], BlockingWire] = {}
        self._closed = False
        self.forked()
        tell_when_forked(self)

    def forked(self) -> None:
        """See `forking`. The wires see to themselves."""
        self._lock = threading.Lock()
        self._refreshing: Future[None] | None = None  # or what became of it
        self._refreshed_at = float("-inf")
        self._awaited: Future[None] | None = None  # the one that somebody waits for, or has
        self._down = ""  # why, while nothing can be found out

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `SyncTransport.exchange`."""
        now = monotonic()
        deadline = now + (self._timeout if timeout is None else timeout)
        if now - self._refreshed_at > self._topology.fresh_for:
            self._refresh()
        return self._follow(self._topology.exchange(commands, read), deadline)

    def close(self) -> None:
        """Close the connections; those in use as soon as they are not. It cannot be used any more."""
        self._closed = True
        self._leave({to for to, _ in list(self._wires)}, "the store was closed")

    def _follow(self, route: Route[T], deadline: float) -> T:
        return follow_blocking(route, lambda step: self._do(step, deadline))

    def _do(self, step: Step, deadline: float) -> Any:
        left = deadline - monotonic()
        if type(step) is Send:
            if step.brief:
                left = min(left, self._timeout * BRIEF)
            commands, waits = step.commands, False
            if awaits_replica(commands):  # a little less, so that there is time to tell what it found
                commands, waits = [*commands[:-1], wait_for_replica(0.9 * left)], True
            return self._wire_to(step.to, waits).exchange(commands, step.read, timeout=left)
        if type(step) is Pause:
            if left <= step.seconds:
                raise ExchangeFailed("no time is left", sent=False, slow=True)
            return time.sleep(step.seconds)
        if type(step) is Drop:
            return self._leave(step.servers, step.why)
        assert type(step) is Refresh
        refreshing = self._refresh(anew=step.anew)
        if step.wait:
            if self._down and refreshing is self._awaited:
                raise ExchangeFailed(being_tried(self._down), sent=False)
            self._awaited = refreshing
            try:
                failure = refreshing.exception(max(0.0, left))
            except TimeoutError:
                problem = "which server is the right one is not known in time"
                raise ExchangeFailed(problem, sent=False, slow=True) from None
            if failure is not None:
                raise ExchangeFailed(str(failure), sent=False) from failure
        return None

    # --- finding out which servers are the right ones ----------------------------------------------------------------

    def _refresh(self, *, anew: bool = False) -> Future[None]:
        """What is being found out, or was a moment ago: those in trouble come in crowds, and one answer is for all."""
        with self._lock:
            known = self._refreshing
            if known is not None and known.done():
                failed = known.exception() is not None
                if not is_news(monotonic() - self._refreshed_at, failed=failed, anew=anew):
                    known = None
            if known is not None:
                return known
            # On a thread of its own, with its own time, since it is for those who come later too.
            refreshing: Future[None] = Future()
            finding = threading.Thread(
                target=self._find_out, args=(refreshing,), name="coatcheck looks for its servers", daemon=True
            )
            try:
                self._refreshing = refreshing
                finding.start()
            except BaseException as error:  # no thread can be had, or an exception from outside strikes
                self._found_out(refreshing, ExchangeFailed(str(error) or type(error).__name__, sent=False))
                if not isinstance(error, RuntimeError):
                    raise
            return refreshing

    def _find_out(self, refreshing: Future[None]) -> None:
        failure: BaseException | None = None
        try:
            self._follow(self._topology.refresh(), monotonic() + self._timeout)
            others = {to for to, _ in list(self._wires)}.difference(self._topology.members())
            self._leave(others, "the server is not in use any more")
        except BaseException as error:
            failure = error
        self._found_out(refreshing, failure)

    def _found_out(self, refreshing: Future[None], failure: BaseException | None) -> None:
        self._refreshed_at = monotonic()
        self._down = "" if failure is None else str(failure) or type(failure).__name__
        with suppress(InvalidStateError):  # whoever started it was struck, and has said so already
            if failure is None:
                refreshing.set_result(None)
            else:
                refreshing.set_exception(failure)

    # --- connections -------------------------------------------------------------------------------------------------

    def _wire_to(self, address: Address, waits: bool) -> BlockingWire:
        wire = self._wires.get((address, waits))
        if wire is None:
            with self._lock:
                if self._closed:
                    raise ExchangeFailed("the store was closed", sent=False)
                wire = self._wires.get((address, waits))
                if wire is None:  # nothing is read where commits wait for a replica
                    wire = self._make(replace(address, confirms=True, announces=False) if waits else address)
                self._wires[address, waits] = wire
        return wire

    def _leave(self, servers: Collection[Address], why: str) -> None:
        with self._lock:
            left = [self._wires.pop(key) for key in list(self._wires) if key[0] in servers]
        for wire in left:
            wire.close(why)
