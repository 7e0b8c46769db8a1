"""From what a URL names to the topology that knows it."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import TypeVar

from coatcheck.stores.redis.address import Address, Target
from coatcheck.stores.redis.cluster import Cluster
from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.sentinel import Sentinel
from coatcheck.stores.redis.topology import Route, Send, Topology
from coatcheck.stores.redis.transport import Read

T = TypeVar("T")


def topology_of(target: Target) -> Topology:
    """A topology that knows no more yet than the URL says."""
    if target.topology == "sentinel":
        assert target.server is not None, "a target of sentinels has it"
        return Sentinel(target.addresses, target.service, target.server)
    if target.topology == "cluster":
        return Cluster(target.addresses)
    return Single(target.addresses[0])


class Single:
    """One server, always the same. It is here for what takes more than one connection; else `wires.Wires` is quicker."""

    fresh_for = inf

    def __init__(self, address: Address) -> None:
        self._address = address

    def exchange(self, commands: Commands, read: Read[T]) -> Route[T]:
        """See `Topology.exchange`."""
        answer: T = yield Send(self._address, commands, read)
        return answer

    def refresh(self) -> Route[None]:
        """See `Topology.refresh`."""
        yield from ()

    def members(self) -> Collection[Address]:
        """See `Topology.members`."""
        return (self._address,)
