"""R1: nobody ever gets another user's data. R2: cancelling leaks nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck.changes import NewRecord
from coatcheck.errors import ForeignReply, StoreUnavailable
from coatcheck.events import Event
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.redis.store import NearRedisStore
from coatcheck.testing import a_commit, a_record
from tests.promises.leaks import (
    connections_to,
    every_slot_is_free,
    nothing_more_is_under_way_than,
    unfinished,
    waiting_in,
    wires_of,
)
from tests.promises.storm import CANCELLATIONS, LONG_STORM
from tests.servers.browser import Browser
from tests.servers.cluster import ClusterGroup
from tests.servers.fixtures import URLOpener
from tests.servers.processes import eventually
from tests.servers.proxy import Proxy
from tests.servers.sentinel import SERVICE, SentinelGroup
from tests.servers.valkey import Valkey
from tests.web.shop import shop


def resp(value: Any) -> bytes:
    """A reply as a server would send it."""
    match value:
        case None:
            return b"_\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
        case dict():
            pairs = [part for pair in value.items() for part in pair]
            return b"%%%d\r\n" % len(value) + b"".join(map(resp, pairs))
    raise TypeError(value)


def somebody_elses(valkey: Valkey, prefix: str, other: NewRecord) -> dict[str, bytes]:
    """Surplus replies: what the server said to somebody else, once more."""
    key = f"{prefix}session:{other.session_id}"
    record: dict[bytes, bytes] = valkey("HGETALL", key)
    listed = resp([part for pair in record.items() for part in pair])
    answer = [b"ok", other.session_id.encode(), other.operation.encode(), b"1", b"1800000000000", b""]
    return {
        "a record": resp(record),
        "a record, as RESP2 has it": listed,
        "a whole answer to a read": resp(record) + resp(7_200_000),
        "an answer to a commit": resp(answer),
        "a number": resp(1),
        "nothing": resp(None),
        "OK": b"+OK\r\n",
        "an error": b"-ERR something else\r\n",
    }


ACTS: dict[str, Callable[[RedisStore, NewRecord], Awaitable[object]]] = {
    "read": lambda store, mine: store.read(mine.session_id),
    "update": lambda store, mine: store.update(mine.session_id, a_commit(mine, sets={"me": '"mine"'})),
    "increment": lambda store, mine: store.update(mine.session_id, a_commit(mine, increments={"hits": 1})),
    "create": lambda store, mine: store.create(a_record(fields={"me": '"new"'})),
    "sessions_of": lambda store, mine: store.sessions_of("me"),
}


@pytest.mark.parametrize("act", ACTS)
async def test_a_surplus_reply_is_noticed_and_nobody_is_served_it(
    store: RedisStore, proxy: Proxy, valkey: Valkey, prefix: str, act: str
) -> None:
    mine = a_record(fields={"me": '"mine"'}, owner="me")
    other = a_record(fields={"me": '"other"'}, owner="other")
    for record in (mine, other):
        await store.create(record)
        await store.update(record.session_id, a_commit(record, sets={"warm": "1"}))
    await store.sessions_of("me")
    for kind, surplus in somebody_elses(valkey, prefix, other).items():
        connections = proxy.connections
        proxy.reset_counts()
        proxy.judge = lambda command, surplus=surplus: surplus if command.number == 0 else "pass"  # type: ignore[misc]
        if kind == "an error":  # cannot be told from an error of our own, which is served to nobody either
            with pytest.raises(Exception, match="something else"):
                await ACTS[act](store, mine)
        else:
            with pytest.raises(ForeignReply):
                await ACTS[act](store, mine)
        proxy.judge = lambda command: "pass"
        for _ in range(3):
            read = await store.read(mine.session_id)
            assert read is not None
            assert read.fields["me"] == '"mine"', kind
        assert [record.session_id for record in await store.sessions_of("me")] == [mine.session_id]
        assert proxy.connections > connections, f"after {kind} the connection was not dropped"


async def test_one_surplus_reply_under_load_disturbs_few(store: RedisStore, proxy: Proxy) -> None:
    """The connection is dropped at once; else, with somebody always waiting on it, it would go on for all and for ever."""
    people = [a_record(fields={"me": str(number)}) for number in range(20)]
    for person in people:
        await store.create(person)
    foreign = 0
    proxy.reset_counts()
    proxy.judge = lambda command: b":1\r\n" if command.number == 100 else "pass"

    async def keep_reading(person: NewRecord) -> None:
        nonlocal foreign
        for _ in range(100):
            try:
                record = await store.read(person.session_id)
            except (ForeignReply, StoreUnavailable) as error:
                foreign += isinstance(error, ForeignReply)
                continue
            assert record is not None
            assert record.fields == person.fields

    await asyncio.gather(*map(keep_reading, people))
    assert 1 <= foreign <= 2 * len(people)


@pytest.mark.parametrize("news", [[], [b"invalidate"], [b"invalidate", [1]], [b"invalidate", [[b"key"]]]])
async def test_news_that_makes_no_sense_ends_the_connection_and_nobody_waits_for_ever(
    open_store: URLOpener, proxy: Proxy, prefix: str, news: list[Any]
) -> None:
    store = open_store(f"{proxy.url}?prefix={prefix}&timeout=5&near_cache=10")
    mine = a_record(fields={"me": '"mine"'})
    await store.create(mine)
    proxy.reset_counts()
    proxy.judge = lambda command: b">" + resp(news)[1:] if command.number == 1 else "pass"
    readers = [asyncio.create_task(store.read(mine.session_id)) for _ in range(5)]
    done, _ = await asyncio.wait(readers, timeout=10)
    assert done == set(readers)
    for reader in readers:  # read again on a new connection
        record = await reader
        assert record is not None
        assert record.fields == {"me": '"mine"'}
    assert proxy.connections == (2 if news else 1)


async def test_the_user_is_told_to_come_again_and_the_event_is_counted(
    open_store: URLOpener, proxy: Proxy, valkey: Valkey, prefix: str
) -> None:
    events: list[Event] = []
    store = open_store(f"{proxy.url}?prefix={prefix}")
    app = shop(store, observers=[events.append])
    victim = a_record(fields={"user": '"victim"'})
    await store.create(victim)
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        events.clear()
        for kind, surplus in somebody_elses(valkey, prefix, victim).items():
            if kind == "an error":
                continue
            proxy.reset_counts()
            proxy.judge = lambda command, surplus=surplus: surplus if command.number == 0 else "pass"  # type: ignore[misc]
            response = await visitor.get("/page")
            assert (response.status_code, "set-cookie" in response.headers) == (503, False), kind
            assert "victim" not in response.text
            proxy.judge = lambda command: "pass"
            assert (await visitor.get("/page")).json() == {"user": "garimoo"}
            assert [event.name for event in events] == ["foreign_reply"], kind
            assert events[0].session_id == visitor.session_id
            assert victim.session_id not in events[0].detail
            events.clear()
    assert visitor.ticket == ticket


@dataclass
class Storm:
    """Half of all operations are cancelled at a random moment.

    Attributes:
        people: with sessions that say whose they are.
        within: seconds after which an operation is cancelled, at the most.
        wrong, done, cancelled: how many operations ended so.
        struck: how many were cancelled while they were under way. All of these end as cancelled, unless redis-py's clients
            swallow some, on Python 3.11: its `wait_for` does, by which they send, if they have a `socket_timeout`.
    """

    store: RedisStore
    people: list[NewRecord]
    within: float
    chance: random.Random
    wrong: int = 0
    done: int = 0
    cancelled: int = 0
    struck: int = 0

    @classmethod
    async def of(cls, store: RedisStore, within: float) -> Storm:
        people = [a_record(fields={"me": str(number)}, owner=f"owner-{number}") for number in range(40)]
        for person in people:
            await store.create(person)
        return cls(store, people, within, random.Random(1))

    async def rage(self, cancellations: int = CANCELLATIONS, *, operations: int = 0, arriving: bool = True) -> None:
        """Until so many cancellations arrived, or were sent out at least, and so many operations ended."""

        async def worker() -> None:
            while (
                self.cancelled if arriving else self.struck
            ) < cancellations or self.done + self.cancelled < operations:
                await self.one()

        await asyncio.gather(*(worker() for _ in range(64)))
        assert self.wrong == 0
        assert self.done > self.struck / 2

    async def one(self) -> None:
        acts = [self.look] * 5 + [self.count] * 3 + [self.enter, self.devices]
        task = asyncio.ensure_future(self.chance.choice(acts)(self.chance.choice(self.people)))
        if self.chance.random() < 0.5:
            if self.chance.random() < 0.3:
                for _ in range(self.chance.randrange(20)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(self.chance.random() * self.within)
            self.struck += task.cancel()
        try:
            self.wrong += not await task
            self.done += 1
        except asyncio.CancelledError:
            self.cancelled += 1

    async def look(self, person: NewRecord) -> bool:
        record = await self.store.read(person.session_id)
        mine = (person.session_id, person.fields["me"])
        return record is not None and (record.session_id, record.fields["me"]) == mine

    async def count(self, person: NewRecord) -> bool:
        applied = await self.store.update(person.session_id, a_commit(person, increments={"hits": 1, "me": 0}))
        return applied.counters["me"] == int(person.fields["me"])

    async def enter(self, person: NewRecord) -> bool:
        return (await self.store.create(a_record(fields=person.fields))).version == 1

    async def devices(self, person: NewRecord) -> bool:
        records = await self.store.sessions_of(person.owner or "")
        return {record.fields["me"] for record in records} == {person.fields["me"]}

    async def calm(self) -> None:
        """After it everybody has their own, and what was counted was counted once."""
        for _ in range(3):
            assert all(await asyncio.gather(*map(self.look, self.people * 2)))
        for person in self.people:
            record = await self.store.read(person.session_id)
            assert record is not None
            assert record.version - 1 == int(record.fields.get("hits", "0"))


async def test_what_a_storm_would_leave_is_seen(open_store: URLOpener, proxy: Proxy, prefix: str) -> None:
    store = open_store(f"{proxy.url}?prefix={prefix}&timeout=10")
    mine = a_record()
    await store.create(mine)
    before = unfinished()
    assert not waiting_in(store)
    proxy.reset_counts()
    proxy.judge = lambda command: "hold" if command.number == 0 else "pass"
    reading = asyncio.create_task(store.read(mine.session_id))
    await eventually(lambda: bool(waiting_in(store)), "a request")
    assert (unfinished() - before)["(a request)"] == 1
    reading.cancel()
    await asyncio.wait([reading])
    assert len(waiting_in(store)) == 1, "the place of one that was cancelled"
    kept = asyncio.get_running_loop().create_future()
    assert (unfinished() - before)["(a future)"] == 1
    kept.cancel()
    proxy.release()
    await eventually(lambda: not waiting_in(store), "the answer")
    await nothing_more_is_under_way_than(before)


async def test_a_storm_of_cancellations_mixes_nothing_up_and_leaks_nothing(store: RedisStore, proxy: Proxy) -> None:
    """Behind a proxy that delays replies at random.

    `test_r1_positive_control` shows that such a storm finds the fault in a client that has it.
    """
    pool: Any = getattr(store._transport, "_pool", None)  # an own client's
    proxy._latency = (0.0, 0.004)
    storm = await Storm.of(store, within=0.008)
    if pool is not None:
        await every_slot_is_free(pool)
    before = unfinished()
    if pool is None:  # where all share one connection, as most do
        await storm.rage(2 * CANCELLATIONS, operations=LONG_STORM)
    else:
        await storm.rage()
    proxy._latency = (0.0, 0.0)
    await storm.calm()
    if pool is not None:
        await every_slot_is_free(pool)
    else:
        assert storm.cancelled == storm.struck
        assert not waiting_in(store)
    await nothing_more_is_under_way_than(before)
    expected = 1 if pool is None else pool.max_connections
    await eventually(lambda: proxy.open_connections == expected, "the end of what was cut off")


@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
@pytest.mark.parametrize("durability", ["primary", "replica"])
async def test_a_storm_of_cancellations_at_several_servers_mixes_nothing_up_and_leaks_nothing(
    request: pytest.FixtureRequest, prefix: str, open_store: URLOpener, kind: str, durability: str
) -> None:
    group: SentinelGroup | ClusterGroup = request.getfixturevalue(kind)
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))
    store = open_store(f"{group.url}?prefix={prefix}&durability={durability}&timeout=10")
    storm = await Storm.of(store, within=0.001)  # they answer as quickly as they can
    before = unfinished()
    await storm.rage()
    assert storm.cancelled == storm.struck
    await storm.calm()
    await eventually(lambda: not waiting_in(store), "the answers that nobody waits for")  # of sentinels, for instance
    await nothing_more_is_under_way_than(before)
    ours = [wire for wire in wires_of(store) if wire._connection is not None]
    at_each = Counter((wire.address.host, wire.address.port) for wire in ours)
    assert max(at_each.values()) == (1 if durability == "primary" else 2), "one more where commits wait for a replica"
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == open_before + len(ours), "no more than these")


async def test_a_storm_of_cancellations_with_a_near_cache(prefix: str, open_store: URLOpener, proxy: Proxy) -> None:
    """Half of the people have room in it, so that they push each other out."""
    store = open_store(f"{proxy.url}?prefix={prefix}&timeout=5&near_cache=20")
    assert isinstance(store, NearRedisStore)
    proxy._latency = (0.0, 0.004)
    storm = await NearStorm.of(store, within=0.008)
    before = unfinished()
    await storm.rage()
    assert storm.cancelled == storm.struck
    proxy._latency = (0.0, 0.0)
    await storm.calm()
    assert not waiting_in(store)
    await nothing_more_is_under_way_than(before)
    assert proxy.open_connections == 1
    assert store.near_cache.hits > CANCELLATIONS / 10
    assert store.near_cache.emptied == 0


class NearStorm(Storm):
    async def look(self, person: NewRecord) -> bool:
        """At what is near first."""
        assert isinstance(self.store, NearRedisStore)
        near = self.store.near(person.session_id, "")
        if near is not None and (near.session_id, near.fields["me"]) != (person.session_id, person.fields["me"]):
            return False
        return await super().look(person)


async def test_a_storm_of_cancellations_on_ones_own_client_of_sentinels(sentinels: SentinelGroup, prefix: str) -> None:
    hosts = [("127.0.0.1", each.port) for each in sentinels.sentinels]
    asked: Any = client.Sentinel(hosts, sentinel_kwargs={"socket_timeout": None})  # type: ignore[no-untyped-call]
    options: Any = {"retry": Retry(NoBackoff(), 0), "max_connections": 80, "socket_timeout": None, "client_name": "own"}
    own = asked.master_for(SERVICE, **options)

    async def rest() -> None:
        await every_slot_is_free(own.connection_pool)
        for each in asked.sentinels:  # which are asked on as many connections as it takes
            assert not each.connection_pool._in_use_connections
            await each.connection_pool.disconnect()

    try:
        storm = await Storm.of(RedisStore.from_client(own, prefix=prefix, timeout=10), within=0.004)
        await rest()
        before = unfinished()
        await storm.rage()
        assert storm.cancelled == storm.struck
        await storm.calm()
        await rest()
        await nothing_more_is_under_way_than(before)
        await eventually(lambda: connections_to(sentinels.primary, "own") == 80, "the end of what was cut off")
    finally:
        for each in (own, *asked.sentinels):
            await each.aclose()


@pytest.mark.parametrize("options", [{}, {"socket_timeout": None}], ids=["as it is", "without a socket_timeout"])
async def test_a_storm_of_cancellations_on_ones_own_client_of_a_cluster(
    cluster: ClusterGroup, prefix: str, options: dict[str, Any]
) -> None:
    """As it is, it swallows nearly all of them on Python 3.11. No answer is wrong for that, and nothing leaks."""
    before = unfinished()
    port = cluster.nodes[0].port
    own: Any = client.RedisCluster("127.0.0.1", port, retry=Retry(NoBackoff(), 0), client_name="own", **options)

    def in_no_pool() -> int:
        """Connections that the nodes have, and the client's pools have not: it asked for the slots on one."""
        connected: int = sum(each.is_connected for node in own.get_nodes() for each in node._connections)
        return sum(connections_to(node, "own") for node in cluster.nodes) - connected

    try:
        storm = await Storm.of(RedisStore.from_client(own, prefix=prefix, timeout=10), within=0.004)
        asking = in_no_pool()
        await storm.rage(arriving=bool(options))
        assert storm.cancelled == storm.struck or not options
        await storm.calm()
        for node in own.get_nodes():
            assert len(node._free) == len(node._connections)
        await eventually(lambda: in_no_pool() == asking, "the end of what was cut off")
    finally:
        await own.aclose()
    await nothing_more_is_under_way_than(before)
