"""R12 and R13: a slow store costs one deadline, and a crowd is served in turn. (Of threads tells `test_threads.py`.)

That one exchange ends by its time limit is shown in `tests/stores/test_wire.py`; here it is whole requests, of which some
read and commit, one after another, for as long as the trouble lasts.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeAlias

import pytest

from coatcheck import SessionManager, Settings, SyncSessionManager
from coatcheck.asgi import ASGIApp
from coatcheck.changes import NewRecord
from coatcheck.errors import StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.redis.wire import Wire
from coatcheck.testing import a_commit, a_record
from tests.servers.browser import Browser
from tests.servers.clock import fair_time
from tests.servers.fixtures import URLOpener
from tests.servers.proxy import Action, Command, Proxy
from tests.servers.valkey import Valkey
from tests.web.shop import shop

pytestmark = pytest.mark.alone

DEADLINE = 0.25
"""Seconds that one request may spend on its store, reading and committing together."""

SLACK = 0.15
"""Seconds for the request's own work, and for a machine that is busy."""

RATE = 60
"""Requests a second, whatever becomes of those before."""


async def visit(app: ASGIApp, ticket: str, seconds: float) -> tuple[Counter[int], list[float]]:
    """Send requests at a steady rate. Gives how many had which status, and how long each took, sorted."""
    statuses: Counter[int] = Counter()
    took: list[float] = []

    async def request(number: int) -> None:
        async with Browser(app, ticket=ticket) as visitor:
            began = fair_time()
            answer = await (visitor.post("/count") if number % 2 else visitor.get("/page"))
            took.append(fair_time() - began)
            statuses[answer.status_code] += 1

    async with asyncio.TaskGroup() as requests:
        for number in range(int(seconds * RATE)):
            requests.create_task(request(number))
            await asyncio.sleep(1 / RATE)
    return statuses, sorted(took)


def p99(took: list[float]) -> float:
    return took[int(len(took) * 0.99)]


async def test_a_slow_store_costs_one_deadline_for_the_whole_request(own_valkey: Valkey, open_store: URLOpener) -> None:
    async with Proxy(own_valkey.port) as proxy:
        app = shop(open_store(proxy.url), settings=Settings(store_timeout=DEADLINE))
        async with Browser(app) as visitor:
            await visitor.post("/login?user=garimoo")
            ticket = visitor.ticket or ""
            assert (await visitor.post("/count")).status_code == 200

            async def recovers() -> None:
                await visitor.get_when_up("/page")
                statuses, _ = await visit(app, ticket, 0.3)
                assert statuses.keys() == {200}, "it has recovered by itself, and stays so"
                assert (await visitor.get("/page")).json()["user"] == "garimoo"

            proxy._latency = (1.0, 1.0)
            statuses, took = await visit(app, ticket, 1.5)
            assert statuses.keys() == {503}
            assert p99(took) <= DEADLINE + SLACK
            proxy._latency = (0.0, 0.0)
            await recovers()

            own_valkey.freeze()
            statuses, took = await visit(app, ticket, 1.5)
            own_valkey.thaw()
            assert statuses.keys() == {503}
            assert p99(took) <= DEADLINE + SLACK
            await recovers()


async def test_reading_and_committing_share_one_deadline(own_valkey: Valkey, open_store: URLOpener) -> None:
    deadline = 2.0
    async with Proxy(own_valkey.port) as proxy:
        app = shop(open_store(f"{proxy.url}?timeout=10"), settings=Settings(store_timeout=deadline))
        async with Browser(app) as visitor:
            await visitor.post("/login?user=garimoo")
            assert (await visitor.post("/count")).status_code == 200
            proxy._latency = (1.2, 1.2)  # time enough to read or to commit, and not for both
            for _ in range(2):
                assert (await visitor.get("/page")).status_code == 200
                began = fair_time()
                assert (await visitor.post("/count")).status_code == 503
                assert fair_time() - began <= deadline + 3 * SLACK
                await asyncio.sleep(1.0)  # until the answer that came too late has gone by
            proxy._latency = (0.0, 0.0)
            await visitor.get_when_up("/page")
            assert (await visitor.get("/page")).json()["user"] == "garimoo"


# --- R13 ---------------------------------------------------------------------------------------------------------------

MOST = 8
CROWD = 10 * MOST


async def crowded(open_store: URLOpener, proxy: Proxy) -> tuple[RedisStore, NewRecord]:
    store = open_store(f"{proxy.url}?timeout=10&max_in_flight={MOST}")
    new = a_record()
    await store.create(new)
    return store, new


def nobody_waits(store: RedisStore) -> bool:
    [wire] = store._transport._wires.values()  # type: ignore[attr-defined]
    assert isinstance(wire, Wire)
    return not wire._turns


async def test_a_crowd_is_served_in_the_order_in_which_it_came(own_valkey: Valkey, open_store: URLOpener) -> None:
    """And who cannot be served in time is told so in time."""
    async with Proxy(own_valkey.port) as proxy:
        store, session = await crowded(open_store, proxy)
        proxy._latency = (0.05, 0.05)
        served: list[int] = []

        async def read(number: int) -> float:
            began = fair_time()
            try:
                assert await store.read(session.session_id, timeout=DEADLINE) is not None
                served.append(number)
            except StoreUnavailable:
                pass
            return fair_time() - began

        took = await asyncio.gather(*(read(number) for number in range(CROWD)))
        assert max(took) <= DEADLINE + SLACK
        # On a machine that stands still for a moment some may run out of time in the middle; nobody overtakes.
        assert served == sorted(served), "first come, first served"
        assert MOST <= len(served) < CROWD
        assert nobody_waits(store)
        proxy._latency = (0.0, 0.0)
        await asyncio.sleep(0.1)
        served.clear()
        await asyncio.gather(*(read(number) for number in range(CROWD)))
        assert len(served) == CROWD, "afterwards all goes on"


async def test_nobody_in_a_crowd_that_stays_is_passed_over(own_valkey: Valkey, open_store: URLOpener) -> None:
    async with Proxy(own_valkey.port) as proxy:
        store, session = await crowded(open_store, proxy)
        proxy._latency = (0.005, 0.005)
        over = monotonic() + 1.5

        async def keep_reading() -> int:
            reads = 0
            while monotonic() < over:
                assert await store.read(session.session_id) is not None
                reads += 1
            return reads

        reads = await asyncio.gather(*(keep_reading() for _ in range(CROWD)))
        assert min(reads) >= 5
        assert max(reads) <= min(reads) + 2, reads
        assert nobody_waits(store)


async def test_each_of_a_crowd_waits_no_longer_than_its_own_deadline(own_valkey: Valkey, open_store: URLOpener) -> None:
    async with Proxy(own_valkey.port) as proxy:
        store, session = await crowded(open_store, proxy)
        chance = random.Random(13)

        async def request(number: int) -> float:
            limit = chance.uniform(0.1, 0.5)
            began = fair_time()
            with pytest.raises(StoreUnavailable):
                if number % 2:
                    await store.read(session.session_id, timeout=limit)
                else:
                    await store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=limit)
            return fair_time() - began - limit

        own_valkey.freeze()
        late = await asyncio.gather(*(request(number) for number in range(CROWD)))
        own_valkey.thaw()
        assert max(late) <= SLACK
        assert nobody_waits(store)
        assert await store.read(session.session_id, timeout=5) is not None


# --- the sessions of one owner -----------------------------------------------------------------------------------------

MANY = 350
"""So many that the server has to be asked for them in several round trips."""


class OnThreads:
    """A synchronous manager that is asked on other threads."""

    def __init__(self, manager: SyncSessionManager) -> None:
        self._manager = manager

    async def sessions_of(self, owner: str, **more: Any) -> list[Record]:
        return await asyncio.to_thread(self._manager.sessions_of, owner, **more)

    async def end_sessions_of(self, owner: str, **more: Any) -> int:
        return await asyncio.to_thread(self._manager.end_sessions_of, owner, **more)

    async def close(self) -> None:
        await asyncio.to_thread(self._manager.close)


Manager: TypeAlias = SessionManager | OnThreads
ManagerOpener: TypeAlias = Callable[[str, float], Manager]


@pytest.fixture(params=["async", "threads"])
async def open_manager(request: pytest.FixtureRequest) -> AsyncIterator[ManagerOpener]:
    """`open_manager(url, store_timeout)`, closed when the test is over."""
    opened: list[Manager] = []

    def another(url: str, store_timeout: float) -> Manager:
        settings = Settings(store_timeout=store_timeout)
        on_threads = request.param == "threads"
        opened.append(OnThreads(SyncSessionManager(url, settings)) if on_threads else SessionManager(url, settings))
        return opened[-1]

    yield another
    for manager in opened:
        await manager.close()


async def enter(open_store: URLOpener, valkey: Valkey, owner: str, count: int) -> set[str]:
    """Sessions of one owner, created without delay. Gives their ids."""
    store = open_store(f"{valkey.url}?timeout=20")
    sessions = [a_record(owner=owner) for _ in range(count)]
    await asyncio.gather(*map(store.create, sessions))
    return {new.session_id for new in sessions}


async def test_a_long_list_of_sessions_costs_one_deadline(
    own_valkey: Valkey, open_store: URLOpener, open_manager: ManagerOpener
) -> None:
    """Each of its round trips is quick enough, and all of them together are not."""
    mine = await enter(open_store, own_valkey, "garimoo", MANY)
    async with Proxy(own_valkey.port) as proxy:
        manager = open_manager(f"{proxy.url}?timeout=10", DEADLINE)
        assert await manager.sessions_of("nobody") == []
        proxy._latency = (0.1, 0.1)
        for _ in range(2):
            began = fair_time()
            with pytest.raises(StoreUnavailable):
                await manager.sessions_of("garimoo")
            assert fair_time() - began <= DEADLINE + SLACK
            await asyncio.sleep(0.2)  # until the answer that came too late has gone by
        found = await manager.sessions_of("garimoo", timeout=20)  # who can wait gets them all
        assert {record.session_id for record in found} == mine


async def test_a_listing_of_a_server_that_says_nothing_costs_one_deadline(
    own_valkey: Valkey, open_store: URLOpener, open_manager: ManagerOpener
) -> None:
    await enter(open_store, own_valkey, "garimoo", 3)
    manager = open_manager(f"{own_valkey.url}?timeout=10", DEADLINE)
    assert len(await manager.sessions_of("garimoo", timeout=10)) == 3
    own_valkey.freeze()
    try:
        for ask, limit in ((manager.sessions_of, DEADLINE), (manager.end_sessions_of, 10 * DEADLINE)):
            began = fair_time()
            with pytest.raises(StoreUnavailable):
                await ask("garimoo")
            assert fair_time() - began <= limit + SLACK
    finally:
        own_valkey.thaw()
    for _ in range(100):
        with suppress(StoreUnavailable):  # it is known to be down for a moment still
            assert len(await manager.sessions_of("garimoo", timeout=10)) == 3
            return
        await asyncio.sleep(0.05)
    pytest.fail("the server was not found again")


async def test_nobody_stays_logged_in_because_there_are_many(
    own_valkey: Valkey, open_store: URLOpener, open_manager: ManagerOpener
) -> None:
    """Finding the sessions is done by one deadline, and each of them ends by its own."""
    mine = await enter(open_store, own_valkey, "garimoo", 6)
    here = min(mine)
    async with Proxy(own_valkey.port) as proxy:
        manager = open_manager(f"{proxy.url}?timeout=10", 1.0)
        assert await manager.sessions_of("nobody") == []
        proxy._latency = (0.2, 0.2)
        began = monotonic()
        assert await manager.end_sessions_of("garimoo", but=here) == 5
        assert monotonic() - began > 1.0, "they took longer than one deadline, or nothing was shown"
        proxy._latency = (0.0, 0.0)
        assert [record.session_id for record in await manager.sessions_of("garimoo", timeout=10)] == [here]


@pytest.mark.parametrize("trouble", ["no answer", "cut off", "no index any more"])
async def test_a_list_that_is_complete_does_not_fail_for_the_repair_of_its_index(
    own_valkey: Valkey, open_store: URLOpener, open_manager: ManagerOpener, trouble: str
) -> None:
    mine = await enter(open_store, own_valkey, "garimoo", 2)
    own_valkey("ZADD", "coatcheck:owner:garimoo", 1, "A" * 16)  # it ended long ago
    repairs = 0

    def judge(command: Command) -> Action:
        nonlocal repairs
        if command.name != "EVALSHA":
            return "pass"
        repairs += 1
        if trouble == "no index any more":
            own_valkey("SET", "coatcheck:owner:garimoo", "nonsense")
            return "pass"
        return "hold" if trouble == "no answer" else "cut before"

    async with Proxy(own_valkey.port) as proxy:
        proxy.judge = judge
        manager = open_manager(f"{proxy.url}?timeout=10", 1.0)
        began = fair_time()
        found = await manager.sessions_of("garimoo")
        assert fair_time() - began <= 1.0 + SLACK
        assert {record.session_id for record in found} == mine
        assert repairs
