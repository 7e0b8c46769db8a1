"""The baseline: one serialised value per session, as most libraries keep sessions in Redis. It lives in the lab only.

A request reads the whole value at its beginning. When something has changed it writes the whole value at its end: what it
read, with its own changes. Whatever others wrote in between is overwritten, and a session that has been deleted meanwhile
is there again.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import redis.asyncio as client

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import StoreUnavailable
from coatcheck.lab.meter import this_visit
from coatcheck.record import Record, apply, created

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SingleValueStore:
    """An `AsyncStore` with one value per session.

    Args:
        url: `redis://…`, after `SINGLE_VALUE` has been taken off.
    """

    def __init__(self, url: str) -> None:
        self._shown = url.rpartition("@")[2]
        self._redis = client.Redis.from_url(url, max_connections=500)

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        record = created(new, _now_ms())
        await self._write(record)
        return Applied(record.version, record.touched_ms)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        try:
            text = await self._redis.get(_key(session_id))
        except (client.RedisError, OSError) as problem:
            raise StoreUnavailable(self._shown, type(problem).__name__) from problem
        if text is None:
            return None
        record = Record(**_decode(text))
        record.read_at_ms = _now_ms()
        visit = this_visit.get(None)
        if visit is not None:
            visit.record = record
        return record

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        visit = this_visit.get(None)
        record = None if visit is None else visit.record
        if record is None or record.session_id != session_id:
            record = await self.read(session_id)
        after, outcome = apply(record, changes, session_id, _now_ms())
        assert isinstance(outcome, Applied)  # a commit is never sent twice here
        await self._write(after)
        return outcome

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        try:
            return bool(await self._redis.delete(_key(session_id)))
        except (client.RedisError, OSError) as problem:
            raise StoreUnavailable(self._shown, type(problem).__name__) from problem

    async def close(self) -> None:
        await self._redis.aclose()

    async def _write(self, record: Record) -> None:
        try:
            await self._redis.set(
                _key(record.session_id), _encode(record.as_dict()), px=max(1, record.expires_ms - _now_ms())
            )
        except (client.RedisError, OSError) as problem:
            raise StoreUnavailable(self._shown, type(problem).__name__) from problem


def _key(session_id: str) -> str:
    return f"coatcheck:value:{session_id}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
