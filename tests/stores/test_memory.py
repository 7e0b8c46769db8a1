"""The memory store: the contract, and what is its own."""

from __future__ import annotations

from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.testing import AsyncStoreContract, SyncStoreContract


class TestAsyncMemoryStore(AsyncStoreContract):
    now = 1_800_000_000_000

    def open_store(self) -> AsyncMemoryStore:
        return AsyncMemoryStore(MemoryStore(clock=lambda: self.now))

    def advance(self, ms: int) -> None:
        self.now += ms


class TestMemoryStore(SyncStoreContract):
    now = 1_800_000_000_000

    def open_store(self) -> MemoryStore:
        return MemoryStore(clock=lambda: self.now)

    def advance(self, ms: int) -> None:
        self.now += ms


class TestMemoryStoreInRealTime(AsyncStoreContract):
    def open_store(self) -> AsyncMemoryStore:
        return AsyncMemoryStore()
