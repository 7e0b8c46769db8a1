"""Stores that read from their near cache where they can, and are watched: what it serves must be what the server holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.record import Record
from coatcheck.stores.redis.store import NearRedisStore
from coatcheck.stores.redis.sync_store import SyncNearRedisStore

_PATIENCE = 200
"""How often it is looked whether news has arrived, with a pause of a hundredth of a second."""


class Nearly:
    """An asynchronous one."""

    def __init__(self, store: Any) -> None:
        assert isinstance(store, NearRedisStore)
        self.store = store

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        for _ in range(_PATIENCE):
            near = self.store.near(session_id, "")
            if near is None or near.expires_ms <= near.read_at_ms:
                break
            verbs = self.store._verbs
            [truth] = await self.store._walk(verbs.surely(verbs._read_all([session_id])), timeout)
            if truth is not None and _is(near, truth):
                return near.at(truth.read_at_ms)  # it is late, by as long as asking took
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("what is served is not what the server holds")
        return await self.store.read(session_id, timeout=timeout)

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Coroutine[Any, Any, Applied]:
        return self.store.create(new, timeout=timeout)

    def update(
        self, session_id: str, changes: Changes, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, Applied]:
        return self.store.update(session_id, changes, timeout=timeout)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return await self.store.delete(session_id, timeout=timeout)

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return await self.store.sessions_of(owner, timeout=timeout)

    async def close(self) -> None:
        await self.store.close()


class SyncNearly:
    """A synchronous one."""

    def __init__(self, store: Any) -> None:
        assert isinstance(store, SyncNearRedisStore)
        self.store = store

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        for _ in range(_PATIENCE):
            near = self.store.near(session_id, "")
            if near is None or near.expires_ms <= near.read_at_ms:
                break
            verbs = self.store._verbs
            [truth] = self.store._walk(verbs.surely(verbs._read_all([session_id])), timeout)
            if truth is not None and _is(near, truth):
                return near.at(truth.read_at_ms)  # it is late, by as long as asking took
            time.sleep(0.01)
        else:
            raise AssertionError("what is served is not what the server holds")
        return self.store.read(session_id, timeout=timeout)

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self.store.create(new, timeout=timeout)

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return self.store.update(session_id, changes, timeout=timeout)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self.store.delete(session_id, timeout=timeout)

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return self.store.sessions_of(owner, timeout=timeout)

    def close(self) -> None:
        self.store.close()


def _is(near: Record, truth: Record) -> bool:
    return near.at(truth.read_at_ms) == truth
