"""The Redis and Valkey store for synchronous applications: `store` without the await."""

from __future__ import annotations

from time import monotonic
from typing import Any, TypeVar

import redis as client

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.record import Record
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.redis.address import Target
from coatcheck.stores.redis.blocking_fleet import BlockingFleet
from coatcheck.stores.redis.blocking_wire import BlockingWire
from coatcheck.stores.redis.layout import Layout, ScriptUnknown
from coatcheck.stores.redis.near import NearCache, as_seen, near_cache_of, version_of
from coatcheck.stores.redis.sync_pooled import SyncPooledTransport
from coatcheck.stores.redis.topologies import topology_of
from coatcheck.stores.redis.transport import ExchangeFailed, SyncTransport
from coatcheck.stores.redis.verbs import Exchange, Steps, Verbs
from coatcheck.stores.steps import follow_blocking, time_left

T = TypeVar("T")


class SyncRedisStore:
    """`RedisStore` for synchronous applications: the same sessions, the same promises. May be used from many threads.

    It has a few connections (`max_connections` in the URL, default 32), each lent to one thread at a time. Further threads
    wait, first come first served, for as long as their time limit allows. A forked process has connections of its own, so
    a store may be opened before the web server forks its workers.

    Args:
        transport: what carries the commands.
        layout: key names.
        confirmed: whether a commit counts only when a replica has it too; for a transport such as `BlockingFleet`.
        near_cache: see `RedisStore`.
    """

    def __init__(
        self, transport: SyncTransport, layout: Layout, *, confirmed: bool = False, near_cache: NearCache | None = None
    ) -> None:
        self._transport = transport
        self._verbs = Verbs(layout, confirmed=confirmed, near=near_cache)

    @classmethod
    def from_url(cls, url: str) -> SyncRedisStore:
        """See `RedisStore.from_url`."""
        target = Target.parse(url)
        layout = Layout(target.shown, target.prefix)
        near = near_cache_of(target, layout)
        limits: Any = {
            "timeout": target.timeout, "most": target.max_connections, "heartbeat": target.heartbeat, "near": near
        }  # fmt: skip
        transport: SyncTransport
        if target.topology == "single" and not target.confirmed:
            transport = BlockingWire(target.addresses[0], **limits)
        else:
            transport = BlockingFleet(topology_of(target), **limits)
        if near is not None:
            return SyncNearRedisStore(transport, layout, confirmed=target.confirmed, near_cache=near)
        return cls(transport, layout, confirmed=target.confirmed)

    @classmethod
    def from_client(cls, redis: client.Redis, *, prefix: str = "coatcheck:", timeout: float = 1.0) -> SyncRedisStore:
        """A store over the caller's own client, whose connections it shares and never closes.

        Switch the client's retries off (`retry=Retry(NoBackoff(), 0)`): they would repeat increments. How long it takes
        to connect, and to wait for a connection, is up to the client's own settings.
        """
        transport = SyncPooledTransport(redis.connection_pool, timeout=timeout)
        return cls(transport, Layout("(the caller's own client)", prefix))

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self._run(self._verbs.create(new), timeout)

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        return self._run(self._verbs.read(session_id), timeout)

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return self._run(self._verbs.update(session_id, changes), timeout)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self._walk(self._verbs.delete(session_id), timeout)

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return self._walk(self._verbs.sessions_of(owner), timeout)

    def close(self) -> None:
        self._transport.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._verbs.layout.store}>"

    def _run(self, exchange: Exchange[T], timeout: float | None) -> T:
        # `Verbs.surely` without a generator, since nothing is asked for more often.
        began = monotonic()
        try:
            answer = self._transport.exchange(exchange.commands, exchange.read, timeout=timeout)
        except (ExchangeFailed, ScriptUnknown) as trouble:
            return self._walk(self._verbs.rescue(exchange, trouble), time_left(timeout, began))
        self._verbs.budget.successes += 1
        return answer

    def _walk(self, steps: Steps[T], timeout: float | None) -> T:
        began = monotonic()

        def do(step: Exchange[Any]) -> Any:
            return self._transport.exchange(step.commands, step.read, timeout=time_left(timeout, began))

        return follow_blocking(steps, do)


class SyncNearRedisStore(SyncRedisStore):
    """`NearRedisStore` for synchronous applications. All threads share what any of them has read."""

    def __init__(
        self, transport: SyncTransport, layout: Layout, *, near_cache: NearCache, confirmed: bool = False
    ) -> None:
        super().__init__(transport, layout, confirmed=confirmed, near_cache=near_cache)
        self.near_cache = near_cache

    def near(self, session_id: str, seen: str) -> Record | None:
        return self.near_cache.look(session_id, version_of(seen), monotonic())

    def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        return as_seen(self.read(session_id, timeout=timeout), seen)
