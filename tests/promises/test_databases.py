"""The promises on databases: killed, stopped and overrun; with queries that are cancelled, and processes side by side."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest

from coatcheck import Settings
from coatcheck.errors import CorruptRecord, OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.interface import AsyncOwnerIndex, AsyncStore
from coatcheck.stores.sql import SQLStore, SyncSQLStore
from coatcheck.testing import a_commit, a_record
from coatcheck.testing.contract import _ThreadedWithIndex
from tests.promises.crowd import crowd
from tests.promises.storm import CANCELLATIONS
from tests.promises.test_r6_increments import Tally, hits
from tests.promises.test_r12_r13_time import DEADLINE, p99, visit
from tests.servers.browser import Browser
from tests.servers.fixtures import DatabaseOpener
from tests.servers.mariadb import MariaDB, mariadb_program
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import Process, eventually, wait_until
from tests.servers.swallower import Swallower
from tests.servers.web import WebServer
from tests.web.shop import shop

PATIENT = "&timeout=20"  # where a busy machine is no reason to fail
KILLS = 3


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A database of the test's own."""
    if request.param == "mariadb" and mariadb_program() is None:
        pytest.skip("there is no mariadbd on this machine")
    with PostgreSQL() if request.param == "postgresql" else MariaDB() as database:
        yield database


Open = Callable[..., AsyncStore]


@pytest.fixture(params=["async", "sync"])
async def open_either(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """`open_either(url)`: the asynchronous store, or the synchronous one on threads."""
    opened: list[AsyncStore] = []

    def another(url: str) -> AsyncStore:
        store = SQLStore.from_url(url) if request.param == "async" else _ThreadedWithIndex(SyncSQLStore.from_url(url))
        opened.append(store)
        return store

    yield another
    for store in opened:
        await store.close()


async def when_up(store: AsyncStore, session_id: str) -> Record | None:
    """The first answer that is not "down"."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.read(session_id)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


# --- R2 and R3: cancelling -------------------------------------------------------------------------------------------


async def test_r2_cancelling_leaves_no_connection_no_task_and_no_place_in_use(postgresql: PostgreSQL) -> None:
    store = SQLStore.from_url(f"{postgresql.url}&pool_size=5{PATIENT}")
    people = [a_record(fields={"me": str(number)}) for number in range(20)]
    for person in people:
        await store.create(person)
    chance = random.Random(2)
    cancelled = 0

    async def worker() -> None:
        nonlocal cancelled
        while cancelled < CANCELLATIONS:
            person = chance.choice(people)
            if chance.random() < 0.5:
                work: Any = store.read(person.session_id)
            else:
                work = store.update(person.session_id, a_commit(person, increments={"hits": 1, "me": 0}))
            task = asyncio.ensure_future(work)
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.01)
                task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                cancelled += 1
                continue
            if isinstance(answer, Record):
                assert answer.fields["me"] == person.fields["me"]
            else:
                assert answer.counters["me"] == int(person.fields["me"])

    await asyncio.gather(*(worker() for _ in range(40)))
    runner: Any = store._here()
    assert runner._places._value == 5, "nobody keeps a place"
    await asyncio.gather(*(store.read(person.session_id) for person in people))
    resting = len(runner.resting._lines)
    assert 1 <= resting <= 5
    await eventually(lambda: connections_to(postgresql) == resting, "the end of what was cut off")
    for person in people:  # a commit was applied whole or not at all, cancelled or not
        record = await store.read(person.session_id)
        assert record is not None
        assert int(record.fields.get("hits", "0")) == record.version - 1
    await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await eventually(lambda: connections_to(postgresql) == 0, "the end of all connections")


def connections_to(server: PostgreSQL) -> int:
    return int(server("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coatcheck'")[0][0])


async def test_r3_a_cancelled_query_never_hits_the_next_one(server: Any, open_database: DatabaseOpener) -> None:
    """Our drivers see to that by themselves, too; its connection is cut off all the same."""
    store = open_database(f"{server.url}&pool_size=1{PATIENT}")
    new = a_record(fields={"me": "1"})
    await store.create(new)
    for _ in range(10):
        async with locked(server, new.session_id):
            task = asyncio.ensure_future(store.update(new.session_id, a_commit(new, sets={"late": "1"})))
            await asyncio.sleep(0.02)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(5):  # on whatever connection there is now
                record = await store.read(new.session_id)
                assert record is not None
                assert record.fields["me"] == "1"
        other = a_record()
        await store.create(other)
        assert await store.delete(other.session_id)


@asynccontextmanager
async def locked(server: Any, session_id: str) -> AsyncIterator[None]:
    """Keep a session's row locked, as somebody's long transaction would."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        select = f"SELECT 1 FROM coatcheck_sessions WHERE id = '{session_id}' FOR UPDATE"
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            cursor.execute(select)
            begun.set()
            over.wait(30)
            cursor.execute("ROLLBACK")

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert await asyncio.to_thread(begun.wait, 30)
        yield
    finally:
        over.set()
        await asyncio.to_thread(thread.join)


# --- R4: three outcomes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_r4_a_database_that_is_down_says_so_and_nothing_about_the_session(
    server: Any, open_either: Open, how: str
) -> None:
    store = open_either(f"{server.url}{PATIENT}")
    live, unknown, corrupt = a_record(owner="me"), a_record(), a_record()
    await store.create(live)
    await store.update(live.session_id, a_commit(live, sets={"a": "1"}))
    await store.create(corrupt)
    server(f"UPDATE coatcheck_sessions SET version = 0 WHERE id = '{corrupt.session_id}'")
    assert await store.read(unknown.session_id) is None
    with pytest.raises(SessionGone):
        await store.update(unknown.session_id, a_commit(unknown, sets={"a": "1"}))
    with pytest.raises(CorruptRecord):
        await store.read(corrupt.session_id)

    server.kill() if how == "killed" else server.freeze()
    for record in (live, unknown, corrupt):
        calls: list[Any] = [
            store.read(record.session_id, timeout=0.3),
            store.update(record.session_id, a_commit(record, sets={"b": "2"}), timeout=0.3),
            store.delete(unknown.session_id, timeout=0.3),
            store.create(a_record(), timeout=0.3),
        ]
        for call in calls:
            began = monotonic()
            with pytest.raises(StoreUnavailable):
                await call
            assert monotonic() - began < 0.3 + 1.5
    server.start() if how == "killed" else server.thaw()

    found = await when_up(store, live.session_id)
    assert found is not None
    assert found.fields.items() >= {"a": "1"}.items()
    if how == "killed":  # a frozen one may yet do what it was told: that is what OutcomeUnknown says
        assert "b" not in found.fields
    assert await when_up(store, unknown.session_id) is None
    with pytest.raises(CorruptRecord):
        await store.read(corrupt.session_id)


# --- R5 and R6: acknowledged, once -----------------------------------------------------------------------------------


async def test_r5_r6_a_database_that_hangs_and_is_killed_loses_no_acknowledged_increment_and_counts_none_twice(
    server: Any, open_either: Open
) -> None:
    stores = [open_either(f"{server.url}&timeout=3") for _ in range(2)]
    new = a_record(fields={"hits": "0"})
    await stores[0].create(new, timeout=20)
    tally = Tally()
    over = False

    async def worker(store: AsyncStore) -> None:
        while not over:
            await tally.count(store, (new.session_id, new.secret_hash))

    workers = [asyncio.create_task(worker(store)) for store in stores for _ in range(4)]
    chance = random.Random(5)
    for turn in range(KILLS):
        goal = tally.acknowledged + chance.randrange(20, 100)
        await eventually(lambda goal=goal: tally.acknowledged >= goal, "increments", 60)  # type: ignore[misc]
        if turn == 0:
            server.freeze()
            await asyncio.sleep(3.5)  # longer than anybody waits
            server.thaw()
            continue
        server.kill()
        await asyncio.sleep(chance.random() * 0.1)
        await asyncio.to_thread(server.start)
    goal = tally.acknowledged + 20
    await eventually(lambda: tally.acknowledged >= goal, "increments", 60)
    over = True
    await asyncio.gather(*workers)
    final = await hits(stores[0], new.session_id)
    assert tally.acknowledged <= final <= tally.acknowledged + tally.unknown, tally


async def test_r6_an_answer_that_is_lost_is_asked_for_again_and_the_increment_counts_once(
    postgresql: PostgreSQL, open_either: Open
) -> None:
    await answers_are_lost(postgresql, open_either)


async def test_r6_on_mariadb_too(mariadb: MariaDB, open_either: Open) -> None:
    await answers_are_lost(mariadb, open_either)


async def answers_are_lost(server: Any, open_either: Open) -> None:
    commit = b"\x03COMMIT" if server.name == "MariaDB" else b""
    async with Swallower(server.port) as middle:
        store = open_either(server.url.replace(f":{server.port}/", f":{middle.port}/") + PATIENT)
        new = a_record(fields={"hits": "0"})
        assert await store.read(new.session_id) is None
        middle.prey = commit or new.session_id.encode()
        assert (await store.create(new)).version == 1
        assert middle.swallowed == 1
        for number in range(3):
            middle.prey = commit or new.session_id.encode()
            before = middle.swallowed
            applied = await store.update(new.session_id, a_commit(new, increments={"hits": 1}, read_version=number + 1))
            assert middle.swallowed == before + 1
            assert applied.counters == {"hits": number + 1}
        assert await hits(store, new.session_id) == 3
        middle.prey = new.session_id.encode()
        assert await store.delete(new.session_id), "what the first try removed is not called absent"
        assert middle.swallowed == 5
        assert await store.read(new.session_id) is None


async def test_r6_what_comes_too_late_is_unknown(server: Any, open_either: Open) -> None:
    store = open_either(f"{server.url}{PATIENT}")
    new = a_record(fields={"hits": "0"})
    await store.create(new)
    await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    async with locked(server, new.session_id):
        with pytest.raises(StoreUnavailable) as late:
            await store.update(new.session_id, a_commit(new, increments={"hits": 1}, read_version=2), timeout=0.2)
        # On PostgreSQL all of a commit is one statement, which may yet be carried out. Elsewhere it had not come to COMMIT.
        assert isinstance(late.value, OutcomeUnknown) == (server.name == "PostgreSQL")
    assert await hits(store, new.session_id) in ((1, 2) if server.name == "PostgreSQL" else (1,))


# --- R7: whole or not at all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["postgresql", "sqlite"])
async def test_r7_a_web_server_killed_at_random_moments_leaves_every_session_whole(
    request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    if where == "sqlite":
        url = f"sqlite:///{tmp_path}/sessions.db?durability=delayed"
    else:
        url = request.getfixturevalue("postgresql").url
    store = SyncSQLStore.from_url(url + PATIENT)
    chance = random.Random(8)
    owner = f"shopper {chance.random()}"
    with WebServer("tests.web.shop:from_environment", {"SHOP_STORE": url}) as web:
        over, answered = False, 0

        async def shopper() -> None:
            nonlocal answered
            async with Browser(web.url) as visitor:
                shown, known = 0, False
                while not over:
                    try:
                        if not known:
                            known = (await visitor.post(f"/login?user={owner}")).status_code == 200
                        answer = await visitor.post("/transfer")
                    except Exception:  # nobody there: the process is dead just now
                        await asyncio.sleep(0.05)
                        continue
                    if answer.status_code == 200:
                        assert int(answer.text) > shown, "an answer that was seen is stored"
                        shown = int(answer.text)
                        answered += 1

        def check() -> None:
            sessions = store.sessions_of(owner)
            assert sessions
            for session in sessions:
                parts = {session.fields.get(name) for name in ("first", "second", "third")}
                assert len(parts) == 1, session

        shoppers = [asyncio.create_task(shopper()) for _ in range(8)]
        for _ in range(2):
            goal = answered + 80
            await eventually(lambda goal=goal: answered >= goal or any(s.done() for s in shoppers), "orders", 60)  # type: ignore[misc]
            await asyncio.sleep(chance.random() * 0.02)
            web.kill()
            await asyncio.to_thread(check)
            await asyncio.to_thread(web.start)
        over = True
        await asyncio.gather(*shoppers)
        await asyncio.to_thread(check)
    store.close()


# --- R8: logout is final ---------------------------------------------------------------------------------------------


async def test_r8_a_slow_request_on_another_server_revives_nothing(postgresql: PostgreSQL) -> None:
    environment = {"SHOP_STORE": postgresql.url}
    process = "tests.web.shop:from_environment"
    with WebServer(process, environment) as here, WebServer(process, environment) as there:
        async with Browser(here.url) as slow, Browser(there.url) as quick, Browser(here.url) as gatekeeper:
            await slow.post("/login?user=garimoo")
            quick.ticket = ticket = slow.ticket
            gate = f"gate-{slow.session_id}"
            request = asyncio.create_task(slow.post("/count", headers={"x-gate": gate}))
            async with asyncio.timeout(20):
                while gate not in (await gatekeeper.get("/waiting")).json():
                    assert not request.done()
            assert (await quick.post("/logout")).status_code == 200
            await gatekeeper.post(f"/gates/{gate}")
            assert (await request).status_code == 409
            async with Browser(here.url, ticket=ticket) as revenant:
                assert (await revenant.get("/page")).json() == {}
    assert ticket is not None
    for table, column in (("sessions", "id"), ("fields", "session_id")):
        assert postgresql(f"SELECT count(*) FROM coatcheck_{table} WHERE {column} = '{ticket[:16]}'") == [(0,)]


# --- R12 and R13: time -----------------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_r12_a_frozen_database_costs_one_deadline_and_then_all_goes_on(
    server: Any, open_database: DatabaseOpener
) -> None:
    app = shop(open_database(server.url), settings=Settings(store_timeout=DEADLINE))
    calm = shop(open_database(server.url))
    async with Browser(calm) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket or ""
        server.freeze()
        statuses, took = await visit(app, ticket, 1.5)
        server.thaw()
        assert statuses.keys() == {503}
        assert p99(took) <= DEADLINE + 1, "one deadline, on however busy a machine"
        assert (await visitor.get_when_up("/page")).json()["user"] == "garimoo"
        assert (await visitor.post("/count")).status_code == 200


@pytest.mark.alone
async def test_r12_a_frozen_database_costs_a_list_of_sessions_one_deadline(server: Any, open_either: Open) -> None:
    store = open_either(f"{server.url}{PATIENT}")
    index = cast(AsyncOwnerIndex, store)
    await store.create(a_record(owner="me"))
    assert len(await index.sessions_of("me")) == 1
    server.freeze()
    try:
        began = monotonic()
        with pytest.raises(StoreUnavailable):
            await index.sessions_of("me", timeout=DEADLINE)
        assert monotonic() - began <= DEADLINE + 1
    finally:
        server.thaw()
    assert len(await index.sessions_of("me")) == 1


@pytest.mark.alone
async def test_r13_each_of_a_crowd_waits_no_longer_than_its_own_deadline(server: Any, open_either: Open) -> None:
    store = open_either(f"{server.url}&pool_size=3{PATIENT}")
    new = a_record()
    await store.create(new)
    chance = random.Random(13)

    async def request(number: int) -> float:
        limit = chance.uniform(0.2, 0.5)
        began = monotonic()
        with pytest.raises(StoreUnavailable):
            if number % 2:
                await store.read(new.session_id, timeout=limit)
            else:
                await store.update(new.session_id, a_commit(new, increments={"hits": 1}), timeout=limit)
        return monotonic() - began - limit

    server.freeze()
    began = monotonic()
    # No more than there are threads for the synchronous store: who waits for a thread has not begun.
    late = await asyncio.gather(*(request(number) for number in range(30)))
    assert monotonic() - began < 10
    server.thaw()
    assert sorted(late)[len(late) // 2] <= 1.0
    assert await when_up(store, new.session_id) is not None


@pytest.mark.alone
async def test_r13_nobody_in_a_crowd_that_stays_is_passed_over(
    postgresql: PostgreSQL, open_database: DatabaseOpener
) -> None:
    store = open_database(f"{postgresql.url}&pool_size=3{PATIENT}")
    new = a_record()
    await store.create(new)
    await asyncio.gather(*(store.read(new.session_id) for _ in range(30)))
    over = monotonic() + 1.5

    async def keep_reading() -> int:
        reads = 0
        while monotonic() < over:
            assert await store.read(new.session_id) is not None
            reads += 1
        return reads

    reads = await asyncio.gather(*(keep_reading() for _ in range(30)))
    assert min(reads) >= 2
    assert max(reads) <= 2 * min(reads), reads
    assert connections_to(postgresql) >= 1


# --- others beside us ------------------------------------------------------------------------------------------------


async def test_transactions_that_fail_to_serialise_are_tried_again(open_either: Open) -> None:
    with PostgreSQL("default_transaction_isolation=serializable") as server:
        store = open_either(f"{server.url}{PATIENT}")
        new = a_record()
        await store.create(new)
        commits = (store.update(new.session_id, a_commit(new, increments={"hits": 1})) for _ in range(60))
        assert sorted(applied.counters["hits"] for applied in await asyncio.gather(*commits)) == list(range(1, 61))


WAITING = {
    "PostgreSQL": "SELECT 1 FROM pg_stat_activity WHERE application_name = 'coatcheck' AND wait_event_type = 'Lock'",
    # Not `innodb_trx`: that shows what it showed before, if it was looked at within the last 0.1 s.
    "MariaDB": "SELECT 1 FROM information_schema.global_status "
    "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND variable_value > 0",
}


async def test_deadlocks_are_tried_again(server: Any, open_either: Open) -> None:
    """Somebody locks a field, and then its session: the opposite of our order. One of the two must give way."""
    store = open_either(f"{server.url}{PATIENT}")
    new = a_record(fields={"hits": "0"})
    await store.create(new)
    holds, waits = threading.Event(), threading.Event()

    def somebody() -> None:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            if server.name == "PostgreSQL":  # ours is found out first, then, and gives way
                cursor.execute("SET LOCAL deadlock_timeout = '60s'")
            cursor.execute("UPDATE coatcheck_fields SET value = '7' WHERE session_id = %s", [new.session_id])
            holds.set()
            assert waits.wait(30)
            cursor.execute("SELECT 1 FROM coatcheck_sessions WHERE id = %s FOR UPDATE", [new.session_id])
            cursor.execute("COMMIT")

    other = asyncio.create_task(asyncio.to_thread(somebody))
    assert await asyncio.to_thread(holds.wait, 30)
    commit = asyncio.create_task(store.update(new.session_id, a_commit(new, increments={"hits": 1})))
    await eventually(lambda: bool(server(WAITING[server.name])), "the commit that waits")
    waits.set()
    assert (await commit).counters == {"hits": 8}, "after the other's 7"
    await other
    if server.name == "PostgreSQL":
        assert "deadlock detected" in server.process.log
    else:
        assert "LATEST DETECTED DEADLOCK" in server("SHOW ENGINE INNODB STATUS")[0][2]


@pytest.mark.parametrize("where", ["postgresql", "mariadb", "sqlite"])
async def test_r16_several_processes_at_once_lose_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    """Nor does any of them hear that the database is locked."""
    if where == "sqlite":
        url = f"sqlite:///{tmp_path}/sessions.db?timeout=30"
    else:
        url = request.getfixturevalue(where).url + "&timeout=30"
    store = SQLStore.from_url(url)
    new = a_record()
    await store.create(new)
    times = 40
    counting = [
        Process(
            [sys.executable, "-m", "tests.promises.counting", url, new.session_id, new.secret_hash, str(times), name],
            tmp_path / f"log-{name}",
        )
        for name in "abcd"
    ]
    await asyncio.to_thread(
        wait_until, lambda: not any(process.alive for process in counting), "the counting processes", 90
    )
    for process in counting:
        assert process._popen.returncode == 0, process.log
    record = await store.read(new.session_id)
    await store.close()
    assert record is not None
    assert record.fields["hits"] == str(4 * times)
    assert record.version == 4 * times + 1
    assert {record.fields[f"cart[{name}]"] for name in "abcd"} == {str(times)}


async def test_a_crowd_goes_on_shopping_while_the_database_is_killed(open_database: DatabaseOpener) -> None:
    with PostgreSQL() as server:
        store = open_database(server.url + "&timeout=3")
        async with crowd(store, 10) as users:
            for _ in range(2):
                server.kill()
                await asyncio.sleep(0.1)
                await asyncio.to_thread(server.start)
                await users.go_on()
        await users.check(nothing_lost=True)
