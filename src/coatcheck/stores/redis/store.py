"""The Redis and Valkey store: carries out what `verbs` says, and nothing else."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import redis.asyncio as client
from mypy_extensions import mypyc_attr

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.clock import monotonic
from coatcheck.record import Record
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.redis.address import Target
from coatcheck.stores.redis.clustered import ClusteredTransport
from coatcheck.stores.redis.fleet import Fleet
from coatcheck.stores.redis.layout import Layout, ScriptUnknown
from coatcheck.stores.redis.near import NearCache, as_seen, near_cache_of, version_of
from coatcheck.stores.redis.pooled import PooledTransport
from coatcheck.stores.redis.topologies import topology_of
from coatcheck.stores.redis.transport import ExchangeFailed, Transport
from coatcheck.stores.redis.verbs import Exchange, Steps, Verbs
from coatcheck.stores.redis.wires import PerLoop, Wires
from coatcheck.stores.steps import follow, time_left

T = TypeVar("T")


@mypyc_attr(allow_interpreted_subclasses=True)
class RedisStore:
    """Sessions in Redis (6 or later) or Valkey, outside the web servers: any server serves any user.

    One round trip per verb. Acknowledged means: in the memory of the server; what survives its crash is its persistence
    settings' business. A full server (`noeviction`) refuses writes with `StoreFull`; reading and deleting go on.

    What may have been carried out is repeated here and nowhere else: once, when the connection broke on which it had been
    sent, and a commit under the same operation id, so that it is applied once. What a server refused, because another is
    the right one, is sent to that one by the transport. While the server is down nothing is repeated.

    Args:
        transport: what carries the commands.
        layout: key names.
        confirmed: whether a commit counts only when a replica has it too. The transport then needs a way for commits
            alone, as `Fleet` has, since waiting blocks their connection.
        near_cache: what keeps records that were read of late, if the transport knows it too; see `NearRedisStore`.
    """

    def __init__(
        self, transport: Transport, layout: Layout, *, confirmed: bool = False, near_cache: NearCache | None = None
    ) -> None:
        self._transport = transport
        self._verbs = Verbs(layout, confirmed=confirmed, near=near_cache)

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """A store by URL; see `coatcheck.stores.redis.address.Target` for its forms and options.

        Raises:
            ConfigurationError: an option that is unknown or cannot work.
        """
        target = Target.parse(url)
        layout = Layout(target.shown, target.prefix)
        near = near_cache_of(target, layout)
        limits: Any = {
            "timeout": target.timeout, "most": target.max_in_flight, "heartbeat": target.heartbeat, "near": near
        }  # fmt: skip
        transport: Transport
        if target.topology == "single" and not target.confirmed:
            transport = Wires(target.addresses[0], **limits)
        else:
            transport = PerLoop(lambda: Fleet(topology_of(target), **limits))
        if near is not None:
            return NearRedisStore(transport, layout, confirmed=target.confirmed, near_cache=near)
        return cls(transport, layout, confirmed=target.confirmed)

    @classmethod
    def from_client(
        cls, redis: client.Redis | client.RedisCluster, *, prefix: str = "coatcheck:", timeout: float = 1.0
    ) -> RedisStore:
        """A store over the caller's own client, whose connections it shares and never closes.

        Any client will do: one of `Sentinel.master_for`, or a `RedisCluster`, which is slower, since it takes a round
        trip for each command.

        Switch the client's retries off (`retry=Retry(NoBackoff(), 0)`): they would repeat increments.
        """
        layout = Layout("(the caller's own client)", prefix)
        if isinstance(redis, client.RedisCluster):
            return cls(ClusteredTransport(redis, timeout=timeout), layout)
        return cls(PooledTransport(redis.connection_pool, timeout=timeout), layout)

    # Three verbs are one exchange each. They hand out its coroutine rather than wait for it in one of their own.

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Coroutine[Any, Any, Applied]:
        return self._run(self._verbs.create(new), timeout)

    def read(self, session_id: str, *, timeout: float | None = None) -> Coroutine[Any, Any, Record | None]:
        return self._run(self._verbs.read(session_id), timeout)

    def update(
        self, session_id: str, changes: Changes, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, Applied]:
        return self._run(self._verbs.update(session_id, changes), timeout)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return await self._walk(self._verbs.delete(session_id), timeout)

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return await self._walk(self._verbs.sessions_of(owner), timeout)

    async def close(self) -> None:
        await self._transport.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._verbs.layout.store}>"

    async def _run(self, exchange: Exchange[T], timeout: float | None) -> T:
        # `Verbs.surely` without a generator, since nothing is asked for more often.
        began = monotonic()
        try:
            answer = await self._transport.exchange(exchange.commands, exchange.read, timeout=timeout)
        except (ExchangeFailed, ScriptUnknown) as trouble:
            return await self._walk(self._verbs.rescue(exchange, trouble), time_left(timeout, began))
        self._verbs.budget.successes += 1
        return answer

    async def _walk(self, steps: Steps[T], timeout: float | None) -> T:
        began = monotonic()

        def do(step: Exchange[Any]) -> Any:
            return self._transport.exchange(step.commands, step.read, timeout=time_left(timeout, began))

        return await follow(steps, do)


class NearRedisStore(RedisStore):
    """`RedisStore` with a near cache, by `?near_cache=` in the URL: most requests ask nobody.

    `read` and all other verbs give the present truth, as ever. `near` gives what this process knows; see
    `coatcheck.stores.redis.near` for how true that is.

    Attributes:
        near_cache: its `repr` shows how it does.
    """

    def __init__(self, transport: Transport, layout: Layout, *, near_cache: NearCache, confirmed: bool = False) -> None:
        super().__init__(transport, layout, confirmed=confirmed, near_cache=near_cache)
        self.near_cache = near_cache

    def near(self, session_id: str, seen: str) -> Record | None:
        return self.near_cache.look(session_id, version_of(seen), monotonic())

    async def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        return as_seen(await self.read(session_id, timeout=timeout), seen)
