"""R15: the near cache never serves a revoked session beyond its bound, whatever becomes of the server's word.

Each story is told of an asynchronous store and of a synchronous one. `near` is what a web server knows without asking.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from time import monotonic
from typing import Any, cast

import pytest

from coatcheck import Settings, open_store, open_sync_store
from coatcheck.asgi import ASGIApp
from coatcheck.changes import Renewal
from coatcheck.errors import ConfigurationError, SessionGone, StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.redis.store import NearRedisStore
from coatcheck.stores.redis.sync_store import SyncNearRedisStore
from coatcheck.testing import a_commit, a_record
from coatcheck.ticket import Ticket
from tests.servers.browser import Browser
from tests.servers.cluster import ClusterGroup
from tests.servers.fixtures import URLOpener
from tests.servers.processes import eventually, wait_until
from tests.servers.proxy import Action, Command, Proxy
from tests.servers.sentinel import SentinelGroup
from tests.servers.valkey import Valkey
from tests.web.shop import PATIENT, shop

AGE = 1.0
"""Seconds: the bound, where a story needs it short."""

LONG = "near_cache=100&near_cache_age=600"
SHORT = f"near_cache=100&near_cache_age={AGE}"


class WebServer:
    """What one web server does with its sessions, of either kind."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.store: Any = open_store(url) if kind == "async" else open_sync_store(url)
        assert isinstance(self.store, NearRedisStore | SyncNearRedisStore)
        self._threads = kind == "sync"

    async def __call__(self, verb: str, *arguments: Any) -> Any:
        call = partial(getattr(self.store, verb), *arguments)
        return await (asyncio.to_thread(call) if self._threads else call())

    def near(self, session_id: str, seen: str = "") -> Record | None:
        record: Record | None = self.store.near(session_id, seen)
        return record

    async def until_gone(self, session_id: str) -> None:
        await eventually(lambda: self.near(session_id) is None, "the news")


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def web(kind: str) -> AsyncIterator[Callable[[str], WebServer]]:
    """`web(url)` opens a store that is closed when the test is over."""
    opened: list[WebServer] = []

    def open_one(url: str) -> WebServer:
        opened.append(WebServer(url, kind))
        return opened[-1]

    yield open_one
    for one in opened:
        await one("close")


# --- what it is for --------------------------------------------------------------------------------------------------------


async def test_a_session_that_nobody_changes_is_asked_for_once(
    proxy: Proxy, prefix: str, open_store: URLOpener
) -> None:
    app = shop(open_store(f"{proxy.url}?prefix={prefix}&{LONG}"))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        await visitor.get("/page")
        proxy.reset_counts()
        for _ in range(20):
            assert (await visitor.get("/page")).json() == {"user": "garimoo"}
        assert proxy.commands == []


async def test_who_writes_does_not_have_to_ask_afterwards(proxy: Proxy, prefix: str, open_store: URLOpener) -> None:
    app = shop(open_store(f"{proxy.url}?prefix={prefix}&{LONG}"))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        await visitor.post("/count")
        proxy.reset_counts()
        for number in range(2, 7):
            await visitor.post("/count")
            assert (await visitor.get("/page")).json()["count"] == number
        assert proxy.round_trips == 5


async def test_a_session_in_use_lives_on_though_nobody_asks_for_it(valkey_url: str, open_store: URLOpener) -> None:
    settings = Settings(idle_timeout=1.0, touch_every=0.2, store_timeout=5)
    app = shop(open_store(f"{valkey_url}&{LONG}"), settings=settings)
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        for _ in range(25):
            assert (await visitor.get("/page")).json() == {"user": "garimoo"}
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.1)
        assert (await visitor.get("/page")).json() == {}, "it outlived its end in the cache"


async def test_a_secret_counts_as_long_as_its_grace_and_no_longer(valkey_url: str, open_store: URLOpener) -> None:
    """The record that is kept knows two secrets. When the grace of one is over, nobody has to announce it."""
    settings = PATIENT.but(renew_every=0.5, renew_grace=1.0)
    app = shop(open_store(f"{valkey_url}&{LONG}"), settings=settings)
    async with Browser(app) as visitor, Browser(app) as late:
        await visitor.post("/login?user=garimoo")
        late.ticket = old = visitor.ticket
        await asyncio.sleep(0.6)
        await visitor.get("/page")
        assert visitor.ticket != old
        renewed_at = monotonic()
        assert (await late.get("/page")).json() == {"user": "garimoo"} or monotonic() > renewed_at + 0.9
        await asyncio.sleep(1.1)
        late.ticket = old
        assert (await late.get("/page")).json() == {}


# --- the server's word is heard --------------------------------------------------------------------------------------------


async def test_what_another_server_does_is_heard_of(web: Any, kind: str, valkey_url: str) -> None:
    here, there = web(f"{valkey_url}&{LONG}"), web(f"{valkey_url}&{LONG}")
    new = a_record(fields={"n": "1"})
    await here("create", new)
    for number in range(2, 5):
        assert (await here("read", new.session_id)).fields == {"n": str(number - 1)}
        assert here.near(new.session_id) is not None
        await there("update", new.session_id, a_commit(new, sets={"n": str(number)}))
        await here.until_gone(new.session_id)
    await here("read", new.session_id)
    await there("delete", new.session_id)
    await here.until_gone(new.session_id)
    assert await here("read", new.session_id) is None
    assert here.near(new.session_id) is None, "that there is none was kept"


@pytest.mark.parametrize("act", ["FLUSHALL", "restart", "CLIENT KILL", "HSET", "EXPIRE"])
async def test_what_befalls_the_server_is_heard_of(web: Any, own_valkey: Valkey, act: str) -> None:
    here = web(f"{own_valkey.url}?{LONG}")
    new = a_record(fields={"n": "1"})
    await here("create", new)
    await here("read", new.session_id)
    key = f"coatcheck:session:{new.session_id}"
    await asyncio.sleep(0.1)
    assert here.near(new.session_id) is not None
    if act == "restart":
        own_valkey.restart()
    elif act == "CLIENT KILL":
        own_valkey("CLIENT", "KILL", "TYPE", "normal")
    elif act == "HSET":
        own_valkey("HSET", key, "n", "2")  # by hand
    elif act == "EXPIRE":
        own_valkey("PEXPIRE", key, "1")
    else:
        own_valkey(act)
    await here.until_gone(new.session_id)
    await asyncio.sleep(0.05)
    lost = act in ("restart", "CLIENT KILL")
    assert here.store.near_cache.emptied == int(lost)
    await eventually_up(here, new.session_id)
    after = await here("read", new.session_id)
    assert (after is None) == (act not in ("CLIENT KILL", "HSET"))


async def eventually_up(here: WebServer, session_id: str) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                await here("read", session_id)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_while_the_server_is_down_nothing_is_served(web: Any, own_valkey: Valkey) -> None:
    here = web(f"{own_valkey.url}?{LONG}")
    new = a_record()
    await here("create", new)
    await here("read", new.session_id)
    own_valkey.kill()
    await here.until_gone(new.session_id)
    with pytest.raises(StoreUnavailable):
        await here("read", new.session_id)


async def test_news_that_comes_before_an_answer_is_heard(web: Any, own_valkey: Valkey) -> None:
    """The server was held up, and then carries out one after the other what has come meanwhile."""
    here, there = (web(f"{own_valkey.url}?timeout=20&{LONG}") for _ in range(2))
    new, other = a_record(), a_record()
    for each in (new, other):
        await there("create", each)
        await here("read", each.session_id)
    assert here.near(new.session_id) is not None
    own_valkey.freeze()
    changing = asyncio.create_task(there("delete", new.session_id))
    await asyncio.sleep(0.1)
    asking = asyncio.create_task(here("read", other.session_id))
    await asyncio.sleep(0.1)
    own_valkey.thaw()
    await asyncio.gather(changing, asking)
    await here.until_gone(new.session_id)


# --- the server's word is lost ---------------------------------------------------------------------------------------------


async def test_a_session_whose_end_nobody_hears_of_is_served_within_the_bound(
    web: Any, proxy: Proxy, prefix: str, valkey_url: str
) -> None:
    here, there = web(f"{proxy.url}?prefix={prefix}&timeout=5&{SHORT}"), web(f"{valkey_url}&{LONG}")
    proxy.swallows_news = True
    new = a_record()
    await here("create", new)
    await here("read", new.session_id)
    await there("delete", new.session_id)
    ended_at = monotonic()
    served = 0
    while monotonic() < ended_at + 2 * AGE:
        looked_at = monotonic()
        if here.near(new.session_id) is not None:
            assert looked_at - ended_at < AGE
            served += 1
        await asyncio.sleep(0.01)
    assert served > 10, "the news was not lost, so nothing has been shown"
    assert proxy.swallowed


async def test_a_late_answer_is_as_old_as_its_question(web: Any, proxy: Proxy, prefix: str, valkey_url: str) -> None:
    """While it is under way the session ends, and nobody hears of it."""
    here, there = web(f"{proxy.url}?prefix={prefix}&timeout=15&{SHORT}"), web(f"{valkey_url}&{LONG}")
    proxy.swallows_news = True
    proxy.judge = hold
    new = a_record()
    await there("create", new)
    reading = asyncio.create_task(here("read", new.session_id))
    await eventually(lambda: "HGETALL" in proxy.commands, "the question")
    asked_at = monotonic()
    await there("delete", new.session_id)
    await asyncio.sleep(AGE / 2)
    proxy.release()
    assert await reading is not None
    served = 0
    while monotonic() < asked_at + 2 * AGE:
        looked_at = monotonic()
        if here.near(new.session_id) is not None:
            assert looked_at - asked_at < AGE
            served += 1
        await asyncio.sleep(0.01)
    assert served


def hold(command: Command) -> Action:
    return "hold" if command.name == "HGETALL" else "pass"


async def test_news_that_overtakes_no_answer_is_heard_after_it(
    web: Any, proxy: Proxy, prefix: str, valkey_url: str
) -> None:
    """The answer was right when it was given, and out of date when it arrived."""
    here, there = web(f"{proxy.url}?prefix={prefix}&timeout=15&{LONG}"), web(f"{valkey_url}&{LONG}")
    new = a_record()
    await here("create", new)
    proxy.judge = hold
    reading = asyncio.create_task(here("read", new.session_id))
    await eventually(lambda: "HGETALL" in proxy.commands, "the question")
    await asyncio.sleep(0.1)
    await there("delete", new.session_id)
    proxy.release()
    assert await reading is not None
    await here.until_gone(new.session_id)


@pytest.mark.parametrize("how", ["cut", "silence"])
async def test_a_lost_connection_empties_it_at_once(
    web: Any, proxy: Proxy, prefix: str, valkey_url: str, how: str
) -> None:
    here, there = web(f"{proxy.url}?prefix={prefix}&timeout=0.5&heartbeat=0.5&{LONG}"), web(f"{valkey_url}&{LONG}")
    sessions = [a_record() for _ in range(20)]
    for new in sessions:
        await there("create", new)
        await here("read", new.session_id)
    assert all(here.near(new.session_id) is not None for new in sessions)
    if how == "cut":
        proxy.cut()
    else:  # whoever asks finds out that nobody answers
        proxy.judge = lambda command: "hold"
        with pytest.raises(StoreUnavailable):
            await here("read", sessions[0].session_id)
    await eventually(lambda: not any(here.near(new.session_id) for new in sessions), "the loss")
    assert here.store.near_cache.emptied >= 1
    assert len(here.store.near_cache) == 0


@pytest.mark.parametrize("act", ["delete", "update"])
async def test_what_this_server_did_itself_it_knows_without_being_told(
    web: Any, proxy: Proxy, prefix: str, act: str
) -> None:
    """An answer from before was on its way meanwhile."""
    here = web(f"{proxy.url}?prefix={prefix}&timeout=15&{LONG}")
    proxy.swallows_news = True
    new = a_record(fields={"n": "1"})
    await here("create", new)
    await asyncio.gather(*(here("read", a_record().session_id) for _ in range(4)))  # so that there are connections
    await here("update", new.session_id, a_commit(new))  # and the server knows the script
    proxy.reset_counts()
    proxy.judge = lambda command: "hold" if command.name == "HGETALL" and not command.number else "pass"
    reading = asyncio.create_task(here("read", new.session_id))
    await eventually(lambda: "HGETALL" in proxy.commands, "the question")
    commit = (a_commit(new, sets={"n": "2"}),) if act == "update" else ()
    acting = asyncio.create_task(here(act, new.session_id, *commit))
    await eventually(lambda: len(proxy.commands) >= 4, "the other question")
    await asyncio.sleep(0.1)
    proxy.release()
    assert (await reading).fields == {"n": "1"}
    await acting
    record = here.near(new.session_id)
    assert record is None or (act, record.fields) == ("update", {"n": "2"})


async def test_a_commit_that_waits_for_a_replica_ends_what_was_known_before(
    web: Any, sentinels: SentinelGroup, prefix: str
) -> None:
    """It goes over a connection of its own, where nobody hears of anything."""
    async with Proxy(sentinels.primary.port) as proxy:
        proxy.swallows_news = True
        url = f"{proxy.url}?prefix={prefix}&timeout=15&{LONG}&durability=replica"
        here = web(url)
        new = a_record(fields={"n": "1"})
        await here("create", new)
        proxy.judge = hold
        reading = asyncio.create_task(here("read", new.session_id))
        await eventually(lambda: "HGETALL" in proxy.commands, "the question")
        await here("update", new.session_id, a_commit(new, sets={"n": "2"}))
        proxy.release()
        assert (await reading).fields == {"n": "1"}
        assert here.near(new.session_id) is None
        proxy.judge = lambda command: "pass"
        assert (await here("read", new.session_id)).fields == {"n": "2"}
        assert here.near(new.session_id) is not None
        await here("close")


# --- logging in and out ----------------------------------------------------------------------------------------------------


async def test_the_secret_from_before_a_login_is_dead_at_once_where_that_took_place_and_soon_elsewhere(
    web: Any, proxy: Proxy, prefix: str, valkey_url: str
) -> None:
    here, there = web(f"{valkey_url}&{LONG}"), web(f"{proxy.url}?prefix={prefix}&timeout=5&{SHORT}")
    proxy.swallows_news = True
    new, secret = a_record(), Ticket.new().secret_hash
    await here("create", new)
    for server in (here, there):
        await server("read", new.session_id)
        assert opens(server.near(new.session_id), new.secret_hash)
    await here("update", new.session_id, a_commit(new, renewal=Renewal(secret_hash=secret)))
    renewed_at = monotonic()
    assert not opens(here.near(new.session_id), new.secret_hash)
    while opens(there.near(new.session_id), new.secret_hash):
        assert monotonic() - renewed_at < AGE + 0.2
        await asyncio.sleep(0.01)
    with pytest.raises(SessionGone):
        await there("update", new.session_id, a_commit(new, sets={"late": "1"}))
    assert opens(await there("read", new.session_id), secret)


def opens(record: Record | None, secret_hash: str) -> bool:
    return record is not None and record.accepts(secret_hash, record.read_at_ms)


@pytest.fixture
def shops(proxy: Proxy, prefix: str, valkey_url: str, open_store: URLOpener) -> tuple[ASGIApp, ASGIApp]:
    """Two of one fleet, the first of which never hears what the other does."""
    proxy.swallows_news = True
    return (
        shop(open_store(f"{proxy.url}?prefix={prefix}&timeout=5&{LONG}")),
        shop(open_store(f"{valkey_url}&{LONG}")),
    )


async def test_whoever_is_served_from_memory_cannot_write_to_a_session_that_has_ended(
    shops: tuple[ASGIApp, ASGIApp],
) -> None:
    """R8, with a cache that has not heard of the logout."""
    here, there = shops
    async with Browser(here) as visitor, Browser(there) as elsewhere:
        await visitor.post("/login?user=garimoo")
        await visitor.get("/page")
        elsewhere.ticket = ticket = visitor.ticket
        await elsewhere.post("/logout")
        visitor.ticket = ticket
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}, "the news was not lost"
        assert (await visitor.post("/put?late=1")).status_code == 409
        assert (await visitor.get("/page")).json() == {}, "the refusal showed that it is out of date"


async def test_a_browser_reads_what_it_wrote_on_another_server(
    shops: tuple[ASGIApp, ASGIApp],
) -> None:
    """Though no news of it arrives, ever."""
    here, there = shops
    async with Browser(here) as visitor, Browser(there) as elsewhere:
        await visitor.post("/put?n=0")
        for number in range(1, 6):
            await visitor.get("/page")
            elsewhere.ticket, elsewhere.seen = visitor.ticket, visitor.seen
            await elsewhere.post(f"/put?n={number}")
            assert (await visitor.get("/page")).json() == {"n": str(number - 1)}, "the news was not lost"
            visitor.seen = elsewhere.seen
            assert (await visitor.get("/page")).json() == {"n": str(number)}


async def test_what_a_failover_lost_is_reported_and_waited_for_by_nobody(
    own_valkey: Valkey, open_store: URLOpener
) -> None:
    events: list[str] = []
    app = shop(open_store(f"{own_valkey.url}?{LONG}"), observers=[lambda event: events.append(event.name)])
    async with Browser(app) as visitor:
        await visitor.post("/put?n=1")
        key = f"coatcheck:session:{visitor.session_id}"
        before = own_valkey("DUMP", key)
        await visitor.post("/put?n=2")
        own_valkey("RESTORE", key, "60000", before, "REPLACE")
        await asyncio.sleep(0.1)
        answer = await visitor.get("/page")
        assert answer.json() == {"n": "1"}
        assert events.count("rolled_back") == 1
        await visitor.get("/page")
        assert events.count("rolled_back") == 1, "the browser was not given a new token"


# --- where it cannot work --------------------------------------------------------------------------------------------------


async def test_a_server_that_may_not_announce_is_refused_by_name(web: Any, own_valkey: Valkey) -> None:
    own_valkey("ACL", "SETUSER", "web", "on", ">pw", "~*", "+@all", "-client|tracking")
    here = web(f"redis://web:pw@127.0.0.1:{own_valkey.port}?{LONG}")
    with pytest.raises(StoreUnavailable, match=r"near_cache needs that: allow CLIENT\|TRACKING"):
        await here("read", a_record().session_id)
    own_valkey("ACL", "SETUSER", "web", "+client|tracking")
    await eventually_up(here, a_record().session_id)


@pytest.mark.parametrize(
    ("options", "named"),
    [("near_cache=0", "near_cache"), ("near_cache=yes", "near_cache"), ("near_cache=9&near_cache_age=0", "near_cache_age"),
     ("near_cache_age=5", "near_cache_age")],
)  # fmt: skip
def test_an_option_that_cannot_work_is_refused_by_name(kind: str, options: str, named: str) -> None:
    opener: Callable[[str], object] = open_store if kind == "async" else open_sync_store
    with pytest.raises(ConfigurationError, match=named):
        opener(f"redis://localhost?{options}")


# --- several servers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "frozen", "planned"])
async def test_after_a_failover_nothing_of_the_old_primary_is_served_beyond_the_bound(
    web: Any, sentinels: SentinelGroup, prefix: str, how: str
) -> None:
    url = f"{sentinels.url}?prefix={prefix}&timeout=0.5&durability=replica"
    here, there = web(f"{url}&{SHORT}"), web(f"{url}&{SHORT}")
    new = a_record(fields={"n": "1"})
    await there("create", new)
    await eventually_up(here, new.session_id)
    assert here.near(new.session_id) is not None
    before = sentinels.primary
    if how == "planned":
        sentinels.fail_over("COORDINATED")
    else:
        before.kill() if how == "killed" else before.freeze()
    await eventually(lambda: sentinels.primary is not before, "another primary", 30)
    commit = a_commit(new, sets={"n": "2"})
    async with asyncio.timeout(30):
        while True:
            try:
                await there("update", new.session_id, commit.again())
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    changed_at = monotonic()
    while monotonic() < changed_at + 1.5 * AGE:
        looked_at = monotonic()
        record = here.near(new.session_id)
        assert record is None or record.fields == {"n": "2"} or looked_at - changed_at < AGE
        await asyncio.sleep(0.01)
    sentinels.revive()


async def test_a_slot_that_moves_takes_its_sessions_out_of_the_cache(
    web: Any, cluster: ClusterGroup, prefix: str
) -> None:
    here, there = (web(f"{cluster.url}?prefix={prefix}&timeout=5&{LONG}") for _ in range(2))
    new = a_record(fields={"n": "1"})
    await there("create", new)
    await here("read", new.session_id)
    assert here.near(new.session_id) is not None
    key = f"{prefix}session:{new.session_id}"
    source = cluster.primary_of(key)
    target = next(node for node in cluster.primaries if node is not source)
    slot = source("CLUSTER", "KEYSLOT", key)
    cluster.move(slot, source, target)
    await here.until_gone(new.session_id)
    assert (await here("read", new.session_id)).fields == {"n": "1"}
    assert here.near(new.session_id) is not None
    await there("update", new.session_id, a_commit(new, sets={"n": "2"}))
    await here.until_gone(new.session_id)
    assert (await here("read", new.session_id)).fields == {"n": "2"}
    cluster.move(slot, target, source)


# --- processes and threads -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_begins_with_nothing_and_hears_for_itself(valkey_url: str) -> None:
    store: Any = open_sync_store(f"{valkey_url}&{LONG}")
    other: Any = open_sync_store(valkey_url)
    new = a_record(fields={"n": "1"})
    store.create(new)
    store.read(new.session_id)
    assert store.near(new.session_id, "") is not None
    told, tell = os.pipe()
    lock = store.near_cache._lock
    lock.acquire()  # another thread is at work in it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert store.near(new.session_id, "") is None
            assert len(store.near_cache) == 0
            assert store.read(new.session_id) is not None
            assert store.near(new.session_id, "") is not None
            os.write(tell, b"x")
            end = monotonic() + 10
            while store.near(new.session_id, "") is not None:
                assert monotonic() < end
            status = 0
        finally:
            os._exit(status)
    lock.release()
    os.read(told, 1)
    assert store.near(new.session_id, "") is not None
    other.update(new.session_id, a_commit(new, sets={"n": "2"}))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    for _ in range(1000):
        if store.near(new.session_id, "") is None:
            break
        threading.Event().wait(0.01)
    assert store.near(new.session_id, "") is None, "the child heard it in the parent's place"
    for each in (store, other):
        each.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_an_asynchronous_application_may_fork_too(valkey_url: str) -> None:
    store: Any = open_store(f"{valkey_url}&{LONG}")
    new = a_record()

    async def serve() -> bool:
        await store.read(new.session_id)
        there = store.near(new.session_id, "") is not None
        await store.close()
        return there

    async def begin() -> bool:
        await store.create(new)
        return await serve()

    assert asyncio.run(begin())
    lock = store.near_cache._lock
    lock.acquire()  # another thread is at work in it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if asyncio.run(serve()) else 2
        finally:
            os._exit(status)
    lock.release()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_threads_never_see_a_session_older_than_what_one_of_them_was_told(valkey_url: str) -> None:
    """Sixteen threads change and read the same few sessions, by many connections, for two seconds."""
    store: Any = open_sync_store(f"{valkey_url}&near_cache=3&near_cache_age=600")
    sessions = [a_record(fields={"n": "0"}) for _ in range(4)]
    for new in sessions:
        store.create(new)
    known = dict.fromkeys((new.session_id for new in sessions), 1)
    lock, over = threading.Lock(), monotonic() + 2.0
    wrong: list[tuple[int, int]] = []

    def work(number: int) -> None:
        turn = number
        while monotonic() < over and not wrong:
            turn += 1
            new = sessions[turn % 4]
            floor = known[new.session_id]
            record = store.near(new.session_id, "") or store.read(new.session_id)
            if record.version < floor:
                wrong.append((record.version, floor))
            if turn % 5 == 0:
                applied = store.update(new.session_id, a_commit(new, increments={"n": 1}, read_version=floor))
                with lock:
                    known[new.session_id] = max(known[new.session_id], applied.version)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.near_cache.hits > 100
    assert len(store.near_cache) <= 3
    store.close()


def test_a_connection_that_is_not_needed_any_more_does_not_gather_news_for_ever(own_valkey: Valkey) -> None:
    """After a rush there are many connections, of which one suffices from then on."""
    url = f"{own_valkey.url}?heartbeat=0.2&near_cache=100&near_cache_age=0.3"
    with closing(cast(Any, open_sync_store(url))) as store:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(store.read, [a_record().session_id for _ in range(200)]))
        before = connections(own_valkey)
        assert before > 1
        time.sleep(0.4)
        for _ in range(before):
            store.read(a_record().session_id)
        wait_until(lambda: connections(own_valkey) == 1, "the others to be closed")


def connections(server: Valkey) -> int:
    return sum(b"name=coatcheck" in line for line in server("CLIENT", "LIST").splitlines())
