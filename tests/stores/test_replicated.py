"""The all-to-all store: the contract on one, two and three peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coatcheck.stores.replicated import ReplicatedStore, SyncReplicatedStore
from coatcheck.stores.replicated.address import Target
from coatcheck.testing import AsyncStoreContract, SyncStoreContract
from tests.stores.replicas import Fleet, open_fleet, url_for


class _OnPeers(AsyncStoreContract):
    size: int
    now = 1_800_000_000_000

    async def open_store(self) -> Fleet:
        return await open_fleet(self.size, lambda: self.now)

    def advance(self, ms: int) -> None:
        self.now += ms


class TestOnePeer(_OnPeers):
    size = 1


class TestTwoPeers(_OnPeers):
    size = 2


class TestThreePeers(_OnPeers):
    size = 3


class TestTwoPeersOfThreads(SyncStoreContract):
    """Two processes' worth of them, which all stories share."""

    now = 1_800_000_000_000
    _peers: list[SyncReplicatedStore]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def peers(cls) -> Iterator[None]:
        target = Target.parse(url_for(2))

        def another() -> ReplicatedStore:
            return ReplicatedStore(target, clock=lambda: int(cls.now))

        cls._peers = [SyncReplicatedStore(another), SyncReplicatedStore(another)]
        for peer in cls._peers:
            peer.start()
        for peer in cls._peers:
            assert peer.ready(timeout=15)
        yield
        for peer in cls._peers:
            peer.close()

    def open_store(self) -> SyncReplicatedStore:
        return _Shared(self._peers[0])

    def advance(self, ms: int) -> None:
        type(self).now += ms


class _Shared(SyncReplicatedStore):
    """A store that stays open when a story closes it."""

    def __init__(self, store: SyncReplicatedStore) -> None:
        self.__dict__ = store.__dict__

    def close(self) -> None:
        pass
