"""`?durability=replica`: a commit counts when a replica has it too, and reading never waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from time import process_time

import pytest

from coatcheck.errors import OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.stores.redis import RedisStore, SyncRedisStore
from coatcheck.testing import a_commit, a_record
from tests.servers.clock import fair_time
from tests.servers.fixtures import URLOpener
from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.proxy import Proxy
from tests.servers.sentinel import QUICK
from tests.servers.valkey import Valkey


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Valkey, Valkey]]:
    """A primary and its replica."""
    with Valkey(*QUICK) as primary, Valkey(*QUICK, "--replicaof", f"{LOOPBACK} {primary.port}") as replica:
        wait_until(lambda: replica("ROLE")[3] == b"connected", "the replica to be in step")
        yield primary, replica


@pytest.fixture
def primary(pair: tuple[Valkey, Valkey]) -> Valkey:
    return pair[0]


@pytest.fixture
def replica(pair: tuple[Valkey, Valkey]) -> Iterator[Valkey]:
    yield pair[1]
    pair[1].thaw()
    wait_until(lambda: pair[0]("ROLE")[2] != [], "the replica to follow again")


@pytest.fixture
def store(primary: Valkey, prefix: str, open_store: URLOpener) -> RedisStore:
    return open_store(f"{primary.url}?prefix={prefix}&durability=replica&timeout=1")


async def test_without_a_replica_nothing_is_acknowledged_and_what_was_refused_is_refused(
    store: RedisStore, replica: Valkey
) -> None:
    session, doomed = a_record(fields={"hits": "0"}), a_record()
    await store.create(session)
    await store.create(doomed)
    await store.update(session.session_id, a_commit(session, increments={"hits": 1}))
    replica.freeze()
    with pytest.raises(OutcomeUnknown, match="no replica"):
        await store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=0.4)
    with pytest.raises(OutcomeUnknown, match="no replica"):
        await store.create(a_record(owner="me"), timeout=0.4)
    with pytest.raises(OutcomeUnknown, match="no replica"):
        await store.delete(doomed.session_id, timeout=0.4)
    with pytest.raises(SessionGone):  # which is known, replica or not
        await store.update(doomed.session_id, a_commit(doomed, sets={"a": "1"}), timeout=0.4)
    replica.thaw()
    applied = await store.update(session.session_id, a_commit(session, increments={"hits": 1}))
    assert applied.counters == {"hits": 3}, "it had been applied, as the message said"
    assert await store.delete(session.session_id)


async def test_reading_does_not_wait_behind_commits_that_wait(store: RedisStore, replica: Valkey) -> None:
    session = a_record()
    await store.create(session)
    replica.freeze()
    waiting = [
        asyncio.create_task(store.update(session.session_id, a_commit(session, sets={"a": "1"}), timeout=0.5))
        for _ in range(20)
    ]
    await asyncio.sleep(0.05)
    slowest = 0.0
    while not all(task.done() for task in waiting):
        began = fair_time()
        assert await store.read(session.session_id) is not None
        slowest = max(slowest, fair_time() - began)
        await asyncio.sleep(0.01)
    assert slowest < 0.2
    assert all(isinstance(one, OutcomeUnknown) for one in await asyncio.gather(*waiting, return_exceptions=True))


async def test_a_crowd_of_commits_waits_together(store: RedisStore, replica: Valkey) -> None:
    sessions = [a_record(fields={"hits": "0"}) for _ in range(300)]
    began = fair_time()
    await asyncio.gather(*(store.create(session) for session in sessions))
    await asyncio.gather(
        *(store.update(session.session_id, a_commit(session, increments={"hits": 1})) for session in sessions)
    )
    assert fair_time() - began < 2
    for session in sessions:
        record = await store.read(session.session_id)
        assert record is not None
        assert record.fields == {"hits": "1"}


async def test_one_who_gives_up_takes_nobody_along(store: RedisStore, replica: Valkey) -> None:
    sessions = [a_record() for _ in range(30)]
    tasks = [asyncio.create_task(store.create(session)) for session in sessions]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, asyncio.CancelledError) if number % 3 == 0 else not isinstance(outcome, Exception)
    replica.freeze()
    quick, slow = (asyncio.create_task(store.create(a_record(), timeout=limit)) for limit in (0.1, 0.6))
    began = fair_time()
    with pytest.raises(OutcomeUnknown):
        await quick
    assert fair_time() - began < 0.4
    replica.thaw()
    await slow


async def test_a_commit_whose_answer_was_lost_is_not_taken_for_confirmed(
    primary: Valkey, replica: Valkey, prefix: str, open_store: URLOpener
) -> None:
    """Repeated on another connection it would write nothing, and `WAIT` would say at once that all replicas have that."""
    async with Proxy(primary.port) as proxy:
        store = open_store(f"{proxy.url}?prefix={prefix}&durability=replica&timeout=1")
        session = a_record(fields={"hits": "0"})
        await store.create(session)
        await store.update(session.session_id, a_commit(session, increments={"hits": 1}))
        replica.freeze()
        waits = iter(range(10))
        proxy.judge = lambda command: "cut after" if command.name == "WAIT" and next(waits) == 0 else "pass"
        with pytest.raises(OutcomeUnknown):
            await store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=0.5)


async def test_a_server_that_has_no_replica_never_acknowledges(own_valkey: Valkey, open_store: URLOpener) -> None:
    store = open_store(f"{own_valkey.url}?durability=replica&timeout=0.3")
    with pytest.raises(OutcomeUnknown, match="no replica"):
        await store.create(a_record())
    assert await store.read(a_record().session_id) is None
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await store.create(a_record())


async def test_an_access_list_that_forbids_to_wait_is_told_before_anything_is_applied(
    own_valkey: Valkey, open_store: URLOpener
) -> None:
    own_valkey("ACL", "SETUSER", "web", "reset", "on", ">pw", "~*", "+@all", "-wait")
    url = f"redis://web:pw@{LOOPBACK}:{own_valkey.port}?durability=replica"
    store = open_store(url)
    new = a_record()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"durability=replica.* WAIT.*NOPERM.*\+wait") as refused:
            await store.create(new)
        assert not isinstance(refused.value, OutcomeUnknown)
    with closing(SyncRedisStore.from_url(url)) as threaded:
        with pytest.raises(StoreUnavailable, match=r"\+wait"):
            await asyncio.to_thread(threaded.create, new)
        assert await asyncio.to_thread(threaded.read, new.session_id) is None
    assert await store.read(new.session_id) is None, "reading goes on, and nothing was applied"
    assert own_valkey("DBSIZE") == 0


async def test_a_right_to_wait_that_is_taken_away_is_named(
    primary: Valkey, replica: Valkey, prefix: str, open_store: URLOpener
) -> None:
    primary("ACL", "SETUSER", "web", "reset", "on", ">pw", "~*", "+@all")
    store = open_store(f"redis://web:pw@{LOOPBACK}:{primary.port}?prefix={prefix}&durability=replica")
    await store.create(a_record())
    primary("ACL", "SETUSER", "web", "-wait")
    with pytest.raises(OutcomeUnknown, match=r"no replica has confirmed it.*NOPERM.*wait"):
        await store.create(a_record())


async def test_an_evicting_server_is_warned_of_once(
    primary: Valkey, store: RedisStore, replica: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """There are two connections to it, one for commits and one for all else."""
    primary("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        new = a_record()
        await store.create(new)
        assert await store.read(new.session_id) is not None
    finally:
        primary("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert sum("allkeys-lru" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.alone
async def test_a_crowd_that_gives_up_costs_each_the_same(
    primary: Valkey, replica: Valkey, prefix: str, open_store: URLOpener
) -> None:
    """However many wait for their turn, nobody looks for their place among all others."""
    store = open_store(f"{primary.url}?prefix={prefix}&durability=replica&timeout=20")

    async def cost(size: int) -> float:
        """Seconds of the processor for each commit that is cancelled."""
        replica.freeze()
        first = asyncio.create_task(store.create(a_record()))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(store.create(a_record())) for _ in range(size)]
        await asyncio.sleep(0.05)
        began = process_time()
        for task in reversed(waiting):
            task.cancel()
        await asyncio.wait(waiting)
        took = (process_time() - began) / size
        replica.thaw()
        await first
        return took

    await cost(200)
    few, many = [min([await cost(size) for _ in range(3)]) for size in (200, 4000)]
    assert many < 2 * few


async def test_closing_tells_those_who_wait_and_leaves_nothing_behind(store: RedisStore, replica: Valkey) -> None:
    session = a_record()
    await store.create(session)
    replica.freeze()
    waiting = asyncio.create_task(store.update(session.session_id, a_commit(session, sets={"a": "1"})))
    await asyncio.sleep(0.05)
    await store.close()
    with pytest.raises(OutcomeUnknown):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}
