"""How stores in databases are opened: by URL, with somebody's own engine, in threads and forked processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from coatcheck import open_store, open_sync_store
from coatcheck.errors import CoatcheckError, ConfigurationError, Conflict, SessionGone, StoreFull, StoreUnavailable
from coatcheck.stores.sql import SQLStore, SyncSQLStore
from coatcheck.stores.sql.places import Places
from coatcheck.stores.sql.verbs import NOW
from coatcheck.testing import a_commit, a_record
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import eventually, wait_until

PATIENT = "timeout=20"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:hunter2@h/d?nonsense=1", "unknown option 'nonsense'"),
        ("postgresql://u:hun/ter2@h/d", "hunter2|cannot be made out"),
        ("postgresql://u:hunter2@h:port/d", "cannot be made out"),
        ("postgresql://u:%zzhunter2@h/d", "cannot be made out"),
        ("mysql://u:hunter2%@h/d", "cannot be made out"),
        ("postgresql://u:hunter2@h/d?timeout=-1", "timeout='-1': not a positive number"),
        ("postgresql://u:hunter2@h/d?pool_size=0", "pool_size='0': not a positive number"),
        ("postgresql://u:hunter2@h/d?create=perhaps", "create='perhaps': unknown. Use true or false"),
        ("postgresql://u:hunter2@h/d?durability=maybe", "durability='maybe'.*full or delayed or unlogged"),
        ("postgresql://u:hunter2@h/d?prefix=a-b", "prefix='a-b'"),
        ("mysql://u:hunter2@h/d?durability=delayed", "durability='delayed': not for mysql"),
        ("mysql://u:hunter2@h1:1,h2:2/d", "cannot be made out"),
        ("mysql://u:hunter2@h", "it names no database"),
        ("mysql://u:hunter2@h/d?ssl_ca=/nowhere", "ssl_ca='/nowhere': it cannot be read"),
        ("mysql://u:hunter2@h/d?sslmode=require", "unknown option 'sslmode'"),
        ("sqlite://", "in memory would not be shared"),
        ("sqlite:///:memory:", "in memory would not be shared"),
        ("sqlite:///file::memory:", "in memory would not be shared"),
        ("sqlite:////nowhere/at/all.db", "its folder does not exist"),
        ("sqlite://server/file.db", "has no host"),
        ("sqlite:////tmp", "it is a folder"),
        ("sqlite:///a%00b.db", "cannot be made out"),
        ("mysql://u:hunter2@h/d?ssl_key=/tmp/key.pem", "ssl_key='/tmp/key.pem': without a certificate"),
        ("postgresql://u:hunter2@h/d?sslmode=perhaps", "sslmode='perhaps': unknown. Use disable or allow"),
        ("postgresql://u:hunter2@h/d?target_session_attrs=first", "target_session_attrs='first': unknown. Use any or"),
        ("postgresql://u:hunter2@h/d?sslrootcert=/nowhere", "sslrootcert='/nowhere': there is no such file"),
        ("postgresql://u:hunter2@h/d?host=/run/postgresql", "it names its server twice"),
        ("postgresql://u:hunter2@h:1/d?port=2", "it names its server twice"),
        ("postgresql://u:hunter2@h1:1,h2:two/d", "cannot be made out"),
        ("postgresql://u:hunter2@/d?host=h1,h2&port=1,two", "cannot be made out"),
    ],
)
def test_a_mistake_in_the_url_is_refused_at_once(url: str, words: str) -> None:
    for opened in (open_store, open_sync_store):
        with pytest.raises(ConfigurationError, match=words) as refused:
            opened(url)
        assert SECRET not in str(refused.value)


def test_a_driver_may_be_named_if_it_is_one_of_ours() -> None:
    assert isinstance(open_store("postgresql+asyncpg://h/d"), SQLStore)
    assert isinstance(open_sync_store("postgresql+psycopg://h/d"), SyncSQLStore)
    assert isinstance(open_store("mysql+asyncmy://h/d"), SQLStore)
    assert isinstance(open_sync_store("mariadb+pymysql://h/d"), SyncSQLStore)
    with pytest.raises(ConfigurationError, match="no store for the scheme"):
        open_store("postgresql+psycopg2://h/d")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
async def test_no_password_is_shown(scheme: str) -> None:
    url = f"{scheme}://shop:{SECRET}@127.0.0.1:1/shop"
    store, blocking = SQLStore.from_url(url), SyncSQLStore.from_url(url)
    assert repr(store) == f"<SQLStore {scheme}://shop:***@127.0.0.1:1/shop>"
    assert SECRET not in repr(blocking)
    for read in (store.read(a_record().session_id), asyncio.to_thread(blocking.read, a_record().session_id)):
        with pytest.raises(StoreUnavailable) as down:
            await read
        told: BaseException | None = down.value
        while told is not None:
            assert SECRET not in str(told)
            told = told.__cause__ or told.__context__


def test_a_wrong_password_is_down_and_not_quoted(postgresql: PostgreSQL) -> None:
    url = postgresql.plain_url.replace("coatcheck@", f"stranger:{SECRET}@")
    with pytest.raises(StoreUnavailable, match="stranger") as down:
        SyncSQLStore.from_url(url).read(a_record().session_id)
    assert SECRET not in str(down.value)


def test_nor_is_a_value_that_postgresql_refused(postgresql: PostgreSQL, prefix: str) -> None:
    """As it does for a constraint that somebody has added. It quotes the whole row then, and psycopg all that it says."""
    prefix = prefix.replace("-", "_").replace(":", "_")
    store = SyncSQLStore.from_url(f"{postgresql.url}&{PATIENT}&prefix={prefix}")
    store.create(a_record())
    postgresql(f"ALTER TABLE {prefix}fields ADD CHECK (value <> '\"{SECRET}\"')")
    with pytest.raises(StoreUnavailable, match="violates check constraint") as refused:
        store.create(a_record(fields={"card": f'"{SECRET}"'}))
    store.close()
    assert SECRET not in str(refused.value)


async def a_life(store: Any) -> None:
    """A little of everything."""
    new = a_record(fields={"a": "1"}, owner="me")
    await store.create(new)
    applied = await store.update(new.session_id, a_commit(new, increments={"a": 1}, sets={"b": "2"}))
    assert applied.counters == {"a": 2}
    with pytest.raises(Conflict):
        await store.update(new.session_id, a_commit(new, unchanged=True, read_version=1, sets={"b": "3"}))
    record = await store.read(new.session_id)
    assert (record.fields, record.version) == ({"a": "2", "b": "2"}, 2)
    assert new.session_id in {each.session_id for each in await store.sessions_of("me")}
    assert await store.delete(new.session_id)
    with pytest.raises(SessionGone):
        await store.update(new.session_id, a_commit(new))


@pytest.mark.parametrize(
    ("server", "driver"),
    [
        ("postgresql", "postgresql+asyncpg"),
        ("postgresql", "postgresql+psycopg"),  # none of ours: in SQLAlchemy's greenlets
        ("mariadb", "mysql+asyncmy"),
    ],
)
async def test_somebodys_own_engine_is_used_and_left_as_it_was(
    request: pytest.FixtureRequest, server: str, driver: str
) -> None:
    url = request.getfixturevalue(server).url
    made = SyncSQLStore.from_url(url + "&timeout=20")
    made.read(a_record().session_id)
    made.close()
    engine = create_async_engine(driver + url.partition("?")[0].partition(":")[2].join((":", "")), pool_size=2)
    store = SQLStore.from_engine(engine, timeout=20)
    await asyncio.gather(*(a_life(store) for _ in range(6)))
    tasks = [asyncio.ensure_future(store.read(a_record().session_id)) for _ in range(30)]
    await asyncio.sleep(0.005)
    if driver != "postgresql+psycopg":  # with which SQLAlchemy loses connections when it is cancelled while it connects
        for task in tasks[::2]:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()
    assert engine.pool.status().endswith("Current Checked out connections: 0")
    async with engine.connect() as connection:  # and what it does in its own transactions can be taken back
        await connection.execute(text("DELETE FROM coatcheck_schema"))
        await connection.rollback()
        assert (await connection.execute(text("SELECT count(*) FROM coatcheck_schema"))).scalar() == 1
    await engine.dispose()


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg"])
async def test_who_is_cancelled_on_somebodys_own_engine_closes_its_connection_without_a_word(
    postgresql: PostgreSQL, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"cancelled-{driver.rpartition('+')[2]}"
    argument = {"server_settings": {"application_name": name}} if "asyncpg" in driver else {"application_name": name}
    engine = create_async_engine(postgresql.plain_url.replace("postgresql", driver, 1), connect_args=argument)
    store = SQLStore.from_engine(engine, timeout=20)
    new = a_record()
    made = SyncSQLStore.from_url(f"{postgresql.url}&{PATIENT}")
    made.create(new)
    made.close()
    there = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{name}'"
    with postgresql.connect() as keeper, keeper.transaction():
        keeper.execute("SELECT 1 FROM coatcheck_sessions WHERE id = %s FOR UPDATE", [new.session_id])
        commit = asyncio.ensure_future(store.update(new.session_id, a_commit(new, sets={"a": "1"})))
        await eventually(lambda: bool(postgresql(f"{there} AND wait_event_type = 'Lock'")), "the commit that waits")
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    await eventually(lambda: not postgresql(there), "the end of its connection")
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert await store.read(new.session_id) is not None
    await engine.dispose()


@pytest.mark.parametrize(("server", "driver"), [("postgresql", "postgresql+psycopg"), ("mariadb", "mysql+pymysql")])
async def test_so_is_somebodys_own_synchronous_engine(request: pytest.FixtureRequest, server: str, driver: str) -> None:
    from coatcheck.testing.contract import _ThreadedWithIndex

    url = request.getfixturevalue(server).url
    made = SyncSQLStore.from_url(url + "&timeout=20")
    made.read(a_record().session_id)
    made.close()
    engine = create_engine(driver + url.partition("?")[0].partition(":")[2].join((":", "")), pool_size=2)
    store = _ThreadedWithIndex(SyncSQLStore.from_engine(engine, timeout=20))
    await asyncio.gather(*(a_life(store) for _ in range(6)))
    await store.close()
    with engine.connect() as connection:
        connection.execute(text("DELETE FROM coatcheck_schema"))
        connection.rollback()
        assert connection.execute(text("SELECT count(*) FROM coatcheck_schema")).scalar() == 1
    engine.dispose()


def test_a_store_serves_one_event_loop_after_another(postgresql: PostgreSQL) -> None:
    store = SQLStore.from_url(f"{postgresql.url}&{PATIENT}")

    async def once() -> None:
        await a_life(store)
        await store.close()

    for _ in range(3):
        asyncio.run(once())


def test_event_loops_that_ended_without_closing_an_sqlite_file_do_not_keep_it_open(tmp_path: Path) -> None:
    store = SQLStore.from_url(f"sqlite:///{tmp_path}/sessions.db?{PATIENT}")

    def open_files() -> int:
        return sum(os.path.realpath(each).startswith(str(tmp_path)) for each in Path("/proc/self/fd").iterdir())

    asyncio.run(a_life(store))
    once = open_files()
    for _ in range(3):
        asyncio.run(a_life(store))
    assert open_files() == once

    async def close() -> None:
        await store.read(a_record().session_id)
        await store.close()

    asyncio.run(close())
    assert open_files() == 0


def test_in_a_crowd_of_threads_nobody_overtakes_who_waits() -> None:
    places = Places(2)
    assert places.enter(0)
    assert places.enter(0)
    assert not places.enter(0.01), "both are taken"
    order: list[int] = []

    def come(number: int) -> None:
        assert places.enter(30)
        order.append(number)

    threads = [threading.Thread(target=come, args=[number]) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until(lambda number=number: len(places._waiting) == number + 1, "a place in the line")  # type: ignore[misc]
    for served in range(5):
        assert not places.enter(0), "not while somebody waits, nor before a place is free"
        places.leave()
        wait_until(lambda served=served: len(order) == served + 1, "the next one")  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    places.leave()
    assert places.enter(0)


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [open_store, open_sync_store])
async def test_an_sqlite_file_is_its_owners_alone_and_may_be_read_while_it_is_written(
    tmp_path: Path, opened: Any
) -> None:
    file = tmp_path / "sessions.db"
    store: Any = opened(f"sqlite:///{file}?{PATIENT}")
    before = os.umask(0)
    try:
        created = store.create(a_record())
        if opened is open_store:
            await created
        files = sorted(tmp_path.iterdir())
        assert {each.name for each in files} >= {"sessions.db", "sessions.db-wal"}
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    finally:
        os.umask(before)
        closing = store.close()
        if opened is open_store:
            await closing
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_who_keeps_an_sqlite_file_locked_costs_the_others_their_deadline_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    store = SQLStore.from_url(f"sqlite:///{file}?{PATIENT}")
    new = a_record(fields={"a": "1"})
    await store.create(new)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    record = await store.read(new.session_id)
    assert record is not None, "reading does not wait"
    words = rf"sqlite:///{file} is unavailable: no answer within 0.2 s .*database is locked.*Another process keeps it"
    with pytest.raises(StoreUnavailable, match=words):
        await store.update(new.session_id, a_commit(new, sets={"a": "2"}), timeout=0.2)
    waiting = asyncio.ensure_future(store.update(new.session_id, a_commit(new, sets={"a": "3"})))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    assert (await waiting).version == 2
    await store.close()


def test_an_sqlite_file_that_may_not_be_written_says_which_and_what_to_do() -> None:
    """By a process that is not root, who may do everything."""
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-", dir="/tmp"))  # which everybody may enter, unlike TMPDIR
    closed = folder / "closed"
    (closed / "in").mkdir(parents=True)
    closed.chmod(0)
    file, told = folder / "sessions.db", os.pipe()
    made = open_sync_store(f"sqlite:///{file}")
    made.create(a_record())
    made.close()
    child = os.fork()
    if child == 0:
        try:
            folder.chmod(0o555)
            file.chmod(0o444)
            if os.geteuid() == 0:
                os.setuid(65534)
            for name in ("sessions.db", "new.db", "closed/in/new.db"):
                try:
                    open_sync_store(f"sqlite:///{folder}/{name}?{PATIENT}").create(a_record())
                except CoatcheckError as down:
                    os.write(told[1], f"{down}\n".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(told[1])
    with os.fdopen(told[0]) as lines:
        said = lines.read().splitlines()
    folder.chmod(0o755)
    closed.chmod(0o755)
    shutil.rmtree(folder)
    assert len(said) == 3
    assert f"{closed}/in may not be entered. Let the user of this process in" in said.pop()
    for name, line in zip(("sessions.db", "new.db"), said, strict=True):
        assert f"sqlite:///{folder}/{name} is unavailable" in line
        assert "Make the file and its folder writable" in line


def test_an_sqlite_file_without_room_is_full_and_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db?{PATIENT}&pool_size=1"
    store = SyncSQLStore.from_url(url)
    new = a_record(fields={"a": "1"})
    store.create(new)
    [line] = store._desk.resting._lines
    pages = line._driver.execute("PRAGMA page_count").fetchone()[0]
    line._driver.execute(f"PRAGMA max_page_count = {pages + 3}").fetchone()
    with pytest.raises(StoreFull, match=rf"sqlite:///{tmp_path}/sessions.db .*it is full .*Make room on its disk"):
        store.update(new.session_id, a_commit(new, sets={"a": "x" * 100_000}))
    record = store.read(new.session_id)
    assert record is not None
    assert record.fields == {"a": "1"}
    assert store.delete(new.session_id), "logging out still works"
    store.close()

    (tmp_path / "notes.txt").write_text(
        "milk, bread and a good deal more than a hundred characters of other things" * 9
    )
    with pytest.raises(StoreUnavailable, match=r"notes.txt is unavailable: .*not a database.*name another one"):
        SyncSQLStore.from_url(f"sqlite:///{tmp_path}/notes.txt").read(new.session_id)


def test_many_threads_write_to_an_sqlite_file_at_once(tmp_path: Path) -> None:
    store = SyncSQLStore.from_url(f"sqlite:///{tmp_path}/sessions.db?timeout=30")
    new = a_record()
    store.create(new)
    failed: list[Exception] = []

    def count() -> None:
        try:
            for _ in range(20):
                store.update(new.session_id, a_commit(new, increments={"hits": 1}))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    record = store.read(new.session_id)
    assert record is not None
    assert record.fields == {"hits": "160"}
    store.close()


def test_a_duplicate_that_is_none_of_ours_is_told_at_once(mariadb: MariaDB, prefix: str) -> None:
    """An index that somebody added, say. What is ours is told by the contract suite."""
    prefix = prefix.replace("-", "_").replace(":", "_")
    store = SyncSQLStore.from_url(f"{mariadb.url}&{PATIENT}&prefix={prefix}")
    store.create(a_record(owner="me"))
    mariadb(f"CREATE UNIQUE INDEX one_device ON {prefix}sessions (owner(100))")
    with pytest.raises(StoreUnavailable, match=r"is unavailable: \w+: Duplicate entry 'me' for key 'one_device'"):
        store.create(a_record(owner="me"))
    assert len(store.sessions_of("me")) == 1
    store.close()


def test_a_mariadb_that_is_a_replica_now_is_down(mariadb: MariaDB) -> None:
    store = SyncSQLStore.from_url(f"{mariadb.url}&timeout=20")
    new = a_record()
    store.create(new)
    store.close()
    mariadb("CREATE USER IF NOT EXISTS shop@'%'")
    mariadb("GRANT ALL ON coatcheck.* TO shop@'%'")
    mariadb("SET GLOBAL read_only = 1")
    try:
        other = SyncSQLStore.from_url(mariadb.url.replace("root@", "shop@") + "&timeout=20")
        assert other.read(new.session_id) is not None
        with pytest.raises(StoreUnavailable, match="read-only"):
            other.update(new.session_id, a_commit(new, sets={"a": "1"}))
        other.close()
    finally:
        mariadb("SET GLOBAL read_only = 0")


def test_a_clock_that_is_set_back_while_a_statement_waits_does_not_send_mariadb_an_hour_ahead(mariadb: MariaDB) -> None:
    def off(ago: float) -> float:
        """Seconds by which a statement is wrong that began so long ago by the clock, or after now if that was set back."""
        with mariadb.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET timestamp = UNIX_TIMESTAMP(SYSDATE(6)) - {ago}")
            cursor.execute(f"SELECT {NOW['mysql']} / 1000 - UNIX_TIMESTAMP(SYSDATE(6))")
            [[found]] = cursor.fetchall()
            return float(found)

    assert [round(off(ago)) for ago in (0, 10, -0.01, -10)] == [0, 0, 0, 10]


async def test_a_row_that_somebody_keeps_locked_does_not_use_up_the_server(postgresql: PostgreSQL) -> None:
    """Whoever ran out of time has hung up; and the server does not wait for the lock on their behalf for ever."""
    store, session = open_store(f"{postgresql.url}&timeout=1"), a_record()
    await store.create(session, timeout=20)
    engine = create_async_engine(postgresql.url.partition("?")[0].replace("postgresql://", "postgresql+asyncpg://", 1))
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with engine.connect() as keeper, engine.connect() as watcher:
        locked = text("SELECT 1 FROM coatcheck_sessions WHERE id = :id FOR UPDATE")
        await keeper.execute(locked, {"id": session.session_id})
        for _ in range(8):
            with pytest.raises(StoreUnavailable):
                await store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=0.2)
        async with asyncio.timeout(20):
            while (await watcher.execute(waiting)).scalar_one() > 0:
                await watcher.rollback()
                await asyncio.sleep(0.1)
    await engine.dispose()
    await store.close()


def test_an_engine_of_the_wrong_kind_is_refused_at_once(tmp_path: Path) -> None:
    blocking, waiting = create_engine(f"sqlite:///{tmp_path}/a.db"), create_async_engine("postgresql+asyncpg://h/d")
    in_memory = create_engine("sqlite://")
    wrong: list[tuple[Any, Any, str]] = [
        (SQLStore, blocking, "not an asynchronous engine"),
        (SyncSQLStore, waiting, "not a synchronous engine"),
        (SyncSQLStore, in_memory, "would not be shared"),
    ]
    for store, engine, words in wrong:
        with pytest.raises(ConfigurationError, match=words):
            store.from_engine(engine)
    blocking.dispose()
    in_memory.dispose()


async def test_a_store_that_was_closed_may_be_used_again_and_sweeps_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db?sweep=60&{PATIENT}"

    def sweepers() -> int:
        return sum(thread.name == "coatcheck sweeps" for thread in threading.enumerate())

    blocking = open_sync_store(url)
    for _ in range(2):
        await asyncio.to_thread(blocking.read, a_record().session_id)
        assert sweepers() == 1
        await asyncio.to_thread(blocking.close)
        assert sweepers() == 0
