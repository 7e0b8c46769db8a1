"""R14: a full store is loud. (What the user sees at first is told in `tests/web/test_store_down.py`.)"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from coatcheck.changes import NewRecord
from coatcheck.errors import StoreFull
from coatcheck.stores.redis import RedisStore, SyncRedisStore
from coatcheck.stores.redis.evicting import Eviction
from coatcheck.testing import a_commit, a_record
from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.valkey import Valkey
from tests.web.shop import shop

FULL = 100_000
"""Bytes of memory that a server uses as soon as it is started."""


def has_room_for(valkey: Valkey, size: int) -> None:
    valkey("CONFIG", "SET", "maxmemory", valkey("INFO", "memory")["used_memory"] + size)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "maxmemory-policy" in record.getMessage()]


async def fill(store: RedisStore) -> list[NewRecord]:
    """Log users in until the store refuses. Gives those who were let in."""
    inside: list[NewRecord] = []
    with pytest.raises(StoreFull) as full:
        while len(inside) < 2000:
            new = a_record(owner=f"user-{len(inside)}", fields={"cart": f'"{"x" * 10_000}"'})
            await store.create(new)
            inside.append(new)
    assert full.value.retry_after == 30
    return inside


async def test_a_store_that_fills_up_keeps_what_it_has_acknowledged(own_valkey: Valkey, open_store: URLOpener) -> None:
    store = open_store(own_valkey.url)
    await store.read(a_record().session_id)
    has_room_for(own_valkey, 2_000_000)
    inside = await fill(store)
    assert len(inside) > 100
    one, gone = inside[0], inside[1:80]
    has_room_for(own_valkey, -300_000)  # for not even a small commit
    for commit in (
        a_commit(one, sets={"a": "1"}),
        a_commit(one, increments={"hits": 1}),
        a_commit(one, owner="somebody"),
    ):
        with pytest.raises(StoreFull):
            await store.update(one.session_id, commit)

    for each in inside:
        record = await store.read(each.session_id)
        assert record is not None
        assert (record.version, record.fields, record.owner) == (1, each.fields, each.owner), "nothing is half done"
    for each in gone:
        assert await store.delete(each.session_id), "logging out makes room"
        assert await store.read(each.session_id) is None
    assert (await store.update(one.session_id, a_commit(one, increments={"hits": 1}))).counters == {"hits": 1}
    await store.create(a_record())


async def test_a_store_that_a_crowd_fills_tells_each_of_them_the_truth(
    own_valkey: Valkey, open_store: URLOpener
) -> None:
    """Under load: while some write, others read and leave."""
    store = open_store(own_valkey.url)
    residents = [a_record() for _ in range(50)]
    await asyncio.gather(*(store.create(each) for each in residents))
    has_room_for(own_valkey, 2_000_000)
    inside: list[NewRecord] = []
    refused = 0

    async def come(number: int) -> None:
        nonlocal refused
        new = a_record(owner=f"user-{number % 7}", fields={"cart": f'"{"x" * 10_000}"'})
        try:
            await store.create(new)
        except StoreFull:
            refused += 1
        else:
            inside.append(new)

    async def look(resident: NewRecord) -> None:
        record = await store.read(resident.session_id)
        assert record is not None
        assert record.fields == resident.fields

    await asyncio.gather(*(come(number) for number in range(600)), *(look(residents[at % 50]) for at in range(600)))
    assert len(inside) > 50
    assert refused > 50
    await asyncio.gather(*(look(each) for each in inside))
    assert all(await asyncio.gather(*(store.delete(each.session_id) for each in [*residents, *inside])))


async def test_the_users_of_a_full_store_go_on_when_it_has_more_memory(
    own_valkey: Valkey, open_store: URLOpener
) -> None:
    app = shop(open_store(own_valkey.url))
    async with Browser(app) as visitor, Browser(app) as leaving, Browser(app) as newcomer:
        await visitor.post("/login?user=garimoo")
        await visitor.post("/count")
        await leaving.post("/login?user=leaving")
        ticket, left = visitor.ticket, leaving.ticket
        own_valkey("CONFIG", "SET", "maxmemory", FULL)
        for _ in range(20):
            for browser, path in ((visitor, "/put?a=1"), (visitor, "/count"), (newcomer, "/login?user=new")):
                answer = await browser.post(path)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) == 30
                assert "set-cookie" not in answer.headers
            assert (await visitor.get("/page")).status_code == 200
        assert (await leaving.post("/logout")).status_code == 200
        own_valkey("CONFIG", "SET", "maxmemory", 0)

        assert (await newcomer.post("/login?user=new")).status_code == 200, "at once, since it was never down"
        await visitor.post("/count")
        page = (await visitor.get("/page")).json()
        assert (page["user"], page["count"]) == ("garimoo", 2), "what was refused was not applied"
        assert visitor.ticket == ticket
        async with Browser(app, ticket=left) as stranger:
            assert "user" not in (await stranger.get("/page")).json(), "and who had left is gone"


def test_threads_are_told_too(own_valkey: Valkey) -> None:
    store = SyncRedisStore.from_url(own_valkey.url)
    one = a_record()
    store.create(one)
    own_valkey("CONFIG", "SET", "maxmemory", FULL)
    with pytest.raises(StoreFull):
        store.create(a_record())
    with pytest.raises(StoreFull):
        store.update(one.session_id, a_commit(one, sets={"a": "1"}))
    assert store.read(one.session_id) is not None
    assert store.delete(one.session_id)
    own_valkey("CONFIG", "SET", "maxmemory", 0)
    store.create(one)
    store.close()


# --- a server that evicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_evicting_policy_is_warned_of_and_evictions_are_counted(
    open_store: URLOpener, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def start() -> None:
        """A web server starts, and serves some requests."""
        if kind == "async":
            store = open_store(valkey.url)
            for _ in range(3):
                await store.read(a_record().session_id)
            return

        def in_a_thread() -> None:
            store = SyncRedisStore.from_url(valkey.url)
            for _ in range(3):
                store.read(a_record().session_id)
            store.close()

        await asyncio.to_thread(in_a_thread)

    with Valkey("--maxmemory-policy", "allkeys-lru") as valkey, caplog.at_level(logging.WARNING, "coatcheck"):
        await start()
        assert len(warnings(caplog)) == 1, "once, and not for each request"
        assert "maxmemory-policy is allkeys-lru, and 0 keys were evicted" in warnings(caplog)[0]
        assert "Set maxmemory-policy noeviction" in warnings(caplog)[0]
        assert str(valkey.port) in warnings(caplog)[0]

        filling = open_store(valkey.url)
        has_room_for(valkey, 500_000)
        for _ in range(100):
            with suppress(StoreFull):
                await filling.create(a_record(fields={"cart": f'"{"x" * 10_000}"'}))
        evicted = valkey("INFO", "stats")["evicted_keys"]
        assert evicted > 0, "sessions ended of users who did nothing wrong"
        caplog.clear()
        await start()
        assert len(warnings(caplog)) == 1
        assert f"and {evicted} keys were evicted" in warnings(caplog)[0]


async def test_it_is_said_once_however_often_it_connects_again(
    open_store: URLOpener, caplog: pytest.LogCaptureFixture
) -> None:
    with Valkey("--maxmemory-policy", "volatile-ttl") as valkey, caplog.at_level(logging.WARNING, "coatcheck"):
        store = open_store(valkey.url)
        for _ in range(5):
            await store.read(a_record().session_id)
            valkey("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.02)
        assert valkey("INFO", "stats")["total_connections_received"] > 10
        assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_that_tells_nothing_is_no_harm(
    open_store: URLOpener, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Managed servers forbid the question to their users."""
    with Valkey("--maxmemory-policy", "allkeys-lru") as valkey, caplog.at_level(logging.WARNING, "coatcheck"):
        valkey("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all", "-info")
        url = valkey.url.replace("://", "://shop:pw@")
        new = a_record()
        if kind == "async":
            store = open_store(url)
            await store.create(new)
            assert await store.read(new.session_id) is not None
        else:
            threads = SyncRedisStore.from_url(url)
            await asyncio.to_thread(threads.create, new)
            assert await asyncio.to_thread(threads.read, new.session_id) is not None
            threads.close()
        assert valkey("INFO", "errorstats")["errorstat_NOPERM"]["count"] >= 1
    assert not caplog.records


async def test_a_server_that_refuses_when_it_is_full_is_not_warned_of(
    own_valkey: Valkey, open_store: URLOpener, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "coatcheck"):
        await open_store(own_valkey.url).read(a_record().session_id)
    assert not caplog.records


def test_whatever_the_server_answers_is_read_without_harm() -> None:
    assert Eviction.told(["# Memory\r\nmaxmemory_policy:allkeys-lfu\r\n", "evicted_keys:7\r\n"]) == Eviction(
        "allkeys-lfu", 7
    )
    assert Eviction.told(["maxmemory_policy:noeviction\r\n", "evicted_keys:7\r\n"]) is None
    harmless: list[list[Any]] = [
        [],
        [None, 1],
        ["", ""],
        ["OK", "OK"],
        ["maxmemory_policy:", "evicted_keys:x"],
        [[], {}],
    ]
    for answers in harmless:
        assert Eviction.told(answers) is None
    assert Eviction.told(["maxmemory_policy:allkeys-lru", "evicted_keys:-"]) == Eviction("allkeys-lru", 0)
