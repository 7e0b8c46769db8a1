"""Whom Sentinel's word makes the primary, and whom not. The sentinels here say what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from coatcheck import open_sync_store
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.sentinel import Sentinel
from coatcheck.stores.redis.topology import Send, Step
from coatcheck.stores.redis.transport import ExchangeFailed, whole
from coatcheck.stores.steps import follow_blocking
from coatcheck.testing import a_commit, a_record
from coatcheck.testing.contract import _Threaded
from tests.servers.clock import fair_time
from tests.servers.fixtures import URLOpener
from tests.servers.oracle import Oracle
from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.sentinel import QUICK, SERVICE
from tests.servers.valkey import Valkey


@pytest.fixture
def pair() -> Iterator[tuple[Valkey, Valkey]]:
    """A primary and its replica."""
    with Valkey(*QUICK) as primary, Valkey(*QUICK) as replica:
        follow(replica, primary)
        yield primary, replica


def follow(replica: Valkey, primary: Valkey) -> None:
    primary("REPLICAOF", "NO", "ONE")
    replica("REPLICAOF", LOOPBACK, primary.port)
    wait_until(lambda: replica("ROLE")[3] == b"connected", "the replica to be in step")


def url(*oracles: Oracle) -> str:
    return f"redis+sentinel://{','.join(f'{LOOPBACK}:{oracle.port}' for oracle in oracles)}/{SERVICE}"


def has(server: Valkey, session_id: str) -> bool:
    return bool(server("EXISTS", f"coatcheck:session:{session_id}"))


async def lands_on(store: RedisStore, server: Valkey) -> bool:
    new = a_record()
    await store.create(new)
    return has(server, new.session_id)


async def test_a_planned_change_is_noticed_though_the_old_primary_goes_on(
    pair: tuple[Valkey, Valkey], open_store: URLOpener
) -> None:
    old, new = pair
    async with Oracle(old) as oracle:
        store = open_store(url(oracle))
        assert await lands_on(store, old)
        new("REPLICAOF", "NO", "ONE")
        oracle.names, oracle.epoch = new, 1
        began = fair_time()
        async with asyncio.timeout(10):
            while not await lands_on(store, new):
                await asyncio.sleep(0.01)
        assert fair_time() - began < 1.5
        assert oracle.asked < 6, "asking is cheap, but not for nothing"


async def test_a_sentinel_that_is_behind_is_not_believed(pair: tuple[Valkey, Valkey], open_store: URLOpener) -> None:
    old, new = pair
    new("REPLICAOF", "NO", "ONE")
    async with Oracle(new, epoch=2) as informed, Oracle(old, epoch=1) as behind:
        store = open_store(url(informed, behind))
        for _ in range(30):
            assert await lands_on(store, new)
            await asyncio.sleep(0.05)
        assert behind.asked > 0


async def test_a_primary_that_became_a_replica_refuses_and_the_commit_goes_to_the_new_one(
    pair: tuple[Valkey, Valkey], open_store: URLOpener
) -> None:
    """`READONLY`: it has executed nothing, so the same commit is sent again at once."""
    old, new = pair
    async with Oracle(old) as oracle:
        store = open_store(url(oracle))
        session = a_record(fields={"hits": "0"})
        await store.create(session)
        assert (await store.read(session.session_id)) is not None
        wait_until(lambda: has(new, session.session_id), "the replica to have it")
        follow(old, new)
        oracle.names, oracle.epoch = new, 1
        for number in range(1, 6):
            applied = await store.update(session.session_id, a_commit(session, increments={"hits": 1}))
            assert applied.counters == {"hits": number}
        assert new("HGET", f"coatcheck:session:{session.session_id}", "hits") == b"5"


async def test_a_replica_is_never_asked_whoever_calls_it_the_primary(
    pair: tuple[Valkey, Valkey], open_store: URLOpener
) -> None:
    """It may be seconds behind, and would say that a new session is none."""
    primary, replica = pair
    async with Oracle(replica) as mistaken, Oracle(primary) as right:
        with pytest.raises(StoreUnavailable, match="it is a replica"):
            await open_store(url(mistaken)).read(a_record().session_id)
        assert await lands_on(open_store(url(mistaken, right)), primary)


async def test_a_primary_that_comes_back_as_a_replica_is_left(
    pair: tuple[Valkey, Valkey], open_store: URLOpener
) -> None:
    """Under its old address, to which a connection makes itself anew."""
    old, new = pair
    async with Oracle(old) as oracle:
        store = open_store(url(oracle))
        session = a_record()
        await store.create(session)
        wait_until(lambda: has(new, session.session_id), "the replica to have it")
        new("REPLICAOF", "NO", "ONE")
        late = a_record()
        await open_store(new.url).create(late)
        old("REPLICAOF", LOOPBACK, 1)  # it follows nobody yet, and knows nothing of the new session
        old("CLIENT", "KILL", "TYPE", "normal")
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await store.read(late.session_id)
            await asyncio.sleep(0.02)
        oracle.names, oracle.epoch = new, 1
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await store.read(late.session_id) is not None
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_whoever_looks_first_when_a_primary_is_named_again_is_served(
    own_valkey: Valkey, open_store: URLOpener, kind: str
) -> None:
    """Others who come meanwhile are told what was before; but this one waits for what comes of it."""
    async with Oracle(None) as oracle:
        options = "?timeout=5"
        store = (
            open_store(url(oracle) + options) if kind == "async" else _Threaded(open_sync_store(url(oracle) + options))
        )
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="knows no service 'shop'"):
                await store.read(a_record().session_id)
            await asyncio.sleep(0.2)
        oracle.names = own_valkey
        await asyncio.sleep(0.6)  # nobody has looked for longer than what is known is fresh
        assert await store.read(a_record().session_id) is None
        await store.close()


def test_what_no_sentinel_vouches_for_is_no_news_but_goes_on_being_used() -> None:
    """When all have fallen silent, that is known before the primary's connection is given up too."""
    sentinels = [Address(host=LOOPBACK, port=port) for port in (1, 2)]
    topology = Sentinel(sentinels, SERVICE, Address(host=LOOPBACK, port=0))

    def answers(step: Step) -> Any:
        return ("10.0.0.7", 6379, 1) if isinstance(step, Send) and step.to in sentinels else None

    def is_silent(step: Step) -> Any:
        raise ExchangeFailed("no answer in time", sent=True, slow=True)

    follow_blocking(topology.refresh(), answers)
    with pytest.raises(ExchangeFailed, match="no answer in time"):
        follow_blocking(topology.refresh(), is_silent)
    step = next(topology.exchange([("PING",)], whole))
    assert isinstance(step, Send)
    assert step.to.host == "10.0.0.7"


async def test_what_the_sentinels_do_not_know_is_told(open_store: URLOpener) -> None:
    async with Oracle(None) as oracle:
        with pytest.raises(StoreUnavailable, match="knows no service 'shop'"):
            await open_store(url(oracle)).read(a_record().session_id)
    with pytest.raises(StoreUnavailable, match="no primary of 'shop' can be found"):
        await open_store(f"redis+sentinel://{LOOPBACK}:1,{LOOPBACK}:2/shop").read(a_record().session_id)


@pytest.mark.parametrize(("password", "good"), [("s3cret%2F", True), ("wr0ng", False)])
async def test_sentinels_have_a_password_of_their_own(
    own_valkey: Valkey, open_store: URLOpener, password: str, good: bool
) -> None:
    config = f"sentinel monitor {SERVICE} {LOOPBACK} {own_valkey.port} 1\n"
    with Valkey("--sentinel", config=config) as sentinel:
        sentinel("ACL", "SETUSER", "coat", "on", ">s3cret/", "+@all")
        sentinel("ACL", "SETUSER", "default", "resetpass", ">other")
        options = f"sentinel_username=coat&sentinel_password={password}"
        store = open_store(f"redis+sentinel://{LOOPBACK}:{sentinel.port}/{SERVICE}?{options}")
        if good:
            assert await store.read(a_record().session_id) is None
        else:
            with pytest.raises(StoreUnavailable) as refused:
                await store.read(a_record().session_id)
            assert "wr0ng" not in str(refused.value)
