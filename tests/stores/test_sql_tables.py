"""The tables of sessions in a database: how they come to be, of which version they are, and how they are swept."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from coatcheck import open_store
from coatcheck.cli import main
from coatcheck.errors import OutcomeUnknown, StoreUnavailable
from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.sql import SQLStore, SyncSQLStore, metadata, statements, tables
from coatcheck.stores.sql.schema import VERSION
from coatcheck.testing import a_commit, a_record
from coatcheck.testing.contract import _ThreadedWithIndex
from tests.servers.fixtures import DatabaseOpener
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import eventually

PATIENT = "timeout=20"


def opened(kind: str, url: str) -> AsyncStore:
    return SQLStore.from_url(url) if kind == "async" else _ThreadedWithIndex(SyncSQLStore.from_url(url))


class Place:
    """A database, and tables of the test's own in it.

    Attributes:
        url: of a store there, with tables that nobody has made yet.
        do: executes one statement, beside the store.
    """

    def __init__(self, dialect: str, url: str, prefix: str, do: Callable[..., Any]) -> None:
        self.dialect = dialect
        self.url = url
        self.prefix = prefix
        self.do = do


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Iterator[Place]:
    prefix = prefix.replace("-", "_").replace(":", "_")
    if request.param == "sqlite":
        file = tmp_path / "sessions.db"

        def do(sql: str) -> Any:
            with sqlite3.connect(file, timeout=20, isolation_level=None) as connection:
                rows = connection.execute(sql).fetchall()
            connection.close()
            return rows

        yield Place("sqlite", f"sqlite:///{file}?{PATIENT}&create=false&prefix={prefix}", prefix, do)
        return
    server: Any = request.getfixturevalue(request.param)
    yield Place(request.param, f"{server.url.replace('create=true', PATIENT)}&prefix={prefix}", prefix, server)


async def test_missing_tables_are_called_missing_and_who_makes_them(place: Place) -> None:
    store = open_store(place.url)
    with pytest.raises(StoreUnavailable, match=r"its tables are missing.*coatcheck schema create"):
        await store.read(a_record().session_id)
    assert main(["schema", "create", place.url]) == 0
    new = a_record(fields={"a": "1"})
    await store.create(new)  # the same store goes on, once they are there
    assert main(["schema", "create", place.url]) == 0
    record = await store.read(new.session_id)
    assert record is not None
    assert record.fields == {"a": "1"}
    await store.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_table_that_was_dropped_is_called_missing(place: Place, kind: str) -> None:
    assert main(["schema", "create", place.url]) == 0
    store: Any = opened(kind, place.url)
    new = a_record(fields={"a": "1"})
    await store.create(new)
    await asyncio.to_thread(place.do, f"DROP TABLE {place.prefix}fields")
    calls: list[Callable[[], Any]] = [
        lambda: store.read(new.session_id),
        lambda: store.update(new.session_id, a_commit(new, sets={"a": "2"})),
        lambda: store.create(a_record(fields={"a": "1"})),
    ]
    for call in calls:
        with pytest.raises(
            StoreUnavailable, match=r"some of its tables.*missing.*fields.*coatcheck schema create"
        ) as said:
            await call()
        assert not isinstance(said.value, OutcomeUnknown)
        assert f"all whose names begin with {place.prefix}" in str(said.value)
    await asyncio.to_thread(place.do, f"DROP TABLE {place.prefix}sessions")
    await asyncio.to_thread(place.do, f"DROP TABLE {place.prefix}schema")
    for call in calls:
        with pytest.raises(StoreUnavailable, match=r"its tables are missing.*coatcheck schema create"):
            await call()
    await store.close()


async def test_tables_without_their_functions_are_called_incomplete(postgresql: PostgreSQL, prefix: str) -> None:
    """As they are when Alembic makes them from the metadata alone."""
    prefix = prefix.replace("-", "_").replace(":", "_")
    for text in [
        *statements(create_engine("postgresql://").dialect, prefix)[:5],
        f"INSERT INTO {prefix}schema VALUES ({VERSION})",
    ]:
        postgresql(text)
    store = SQLStore.from_url(f"{postgresql.plain_url}?{PATIENT}&prefix={prefix}")
    with pytest.raises(StoreUnavailable, match=r"some of its tables, or their functions, are missing"):
        await store.create(a_record())
    await store.close()


async def finished(call: Callable[[], Any]) -> Any:
    """What comes of it, awaited or on a thread."""
    if asyncio.iscoroutinefunction(call):
        return await call()
    return await asyncio.to_thread(call)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_who_cannot_make_tables_keeps_nobody_else_from_it(postgresql: PostgreSQL, prefix: str, kind: str) -> None:
    prefix = prefix.replace("-", "_").replace(":", "_")
    store: Any = (SQLStore if kind == "async" else SyncSQLStore).from_url(
        f"{postgresql.plain_url}?timeout=0.5&prefix={prefix}"
    )
    with postgresql.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('coatcheck schema'))")
        with pytest.raises(StoreUnavailable, match=r"no answer within 2.5 s.*lock timeout"):
            await finished(partial(store.create_tables, timeout=2.5))
    begun = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'coatcheck' AND state LIKE 'idle in transaction%'"
    await eventually(lambda: not postgresql(begun), "the end of its transaction")
    assert await finished(partial(store.create_tables, timeout=20)), "the same store, when it can"
    await finished(store.close)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_nor_on_mariadb(mariadb: MariaDB, prefix: str, kind: str) -> None:
    prefix = prefix.replace("-", "_").replace(":", "_")
    url = f"{mariadb.url.partition('?')[0]}?{PATIENT}&prefix={prefix}"
    assert main(["schema", "create", url]) == 0
    mariadb(f"DROP TABLE {prefix}schema")
    store: Any = (SQLStore if kind == "async" else SyncSQLStore).from_url(url)
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {prefix}sessions WRITE")
        with pytest.raises(StoreUnavailable, match=r"no answer within 2.5 s.*Lock wait timeout"):
            await finished(partial(store.create_tables, timeout=2.5))
        await eventually(lambda: mariadb("SELECT IS_FREE_LOCK('coatcheck schema')") == [(1,)], "the end of its lock")
        cursor.execute("UNLOCK TABLES")
        cursor.execute("SELECT GET_LOCK('coatcheck schema', 0)")
        with pytest.raises(StoreUnavailable, match=r"no answer within 2.5 s.*somebody else is creating tables"):
            await finished(partial(store.create_tables, timeout=2.5))
    assert await finished(partial(store.create_tables, timeout=20)), "the same store, when it can"
    await finished(store.close)


async def test_who_begins_at_once_makes_them_once(place: Place) -> None:
    stores = [SQLStore.from_url(place.url.replace("create=false", "") + "&create=true") for _ in range(5)]
    sessions = [a_record() for _ in stores]
    await asyncio.gather(*(store.create(new) for store, new in zip(stores, sessions, strict=True)))
    assert place.do(f"SELECT version FROM {place.prefix}schema") in ([(1,)], [[1]], ((1,),))
    for store in stores:
        await store.close()


@pytest.mark.parametrize(("version", "words"), [(0, "and this coatcheck needs 1"), (2, "made by a newer")])
def test_tables_of_another_version_are_left_alone(
    place: Place, version: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "create", place.url]) == 0
    place.do(f"UPDATE {place.prefix}schema SET version = {version}")
    store = SyncSQLStore.from_url(place.url)
    with pytest.raises(StoreUnavailable, match=words):
        store.read(a_record().session_id)
    store.close()
    assert main(["schema", "create", place.url]) == 1
    assert words in capsys.readouterr().err


def test_what_is_shown_is_what_is_made(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "show", "--dialect", place.dialect, "--prefix", place.prefix]) == 0
    shown = capsys.readouterr().out
    # PostgreSQL is given all of it, as by psql; the others' drivers take one statement at a time.
    for part in [shown] if place.dialect == "postgresql" else shown.split(";\n\n")[:-1]:
        place.do(part)
    store = SyncSQLStore.from_url(place.url)
    new = a_record(fields={"a": "1"})
    store.create(new)
    assert store.update(new.session_id, a_commit(new, increments={"a": 1})).counters == {"a": 2}
    store.close()


def test_a_table_removed_by_hand_takes_its_fields_along(place: Place) -> None:
    assert main(["schema", "create", place.url]) == 0
    store = SyncSQLStore.from_url(place.url)
    gone, kept = a_record(owner="me", fields={"a": "1"}), a_record(owner="you", fields={"b": "2"})
    store.create(gone)
    store.create(kept)
    place.do(f"DELETE FROM {place.prefix}sessions WHERE owner = 'me'")
    assert [len(row) and row[0] for row in place.do(f"SELECT count(*) FROM {place.prefix}fields")] == [1]
    assert store.read(gone.session_id) is None
    store.close()


def test_the_tables_are_there_for_alembic() -> None:
    assert sorted(metadata.tables) == ["coatcheck_fields", "coatcheck_schema", "coatcheck_sessions"]
    engine = create_engine("sqlite://")
    tables("shop_").create_all(engine)
    assert inspect(engine).get_table_names() == ["shop_fields", "shop_schema", "shop_sessions"]
    assert all(isinstance(text, str) for text in statements(engine.dialect))
    engine.dispose()


async def test_durability_is_as_named() -> None:
    """`unlogged` is empty after a crash, and goes on; `full` and `delayed` differ in what each commit waits for."""
    with PostgreSQL() as server:
        unlogged = SQLStore.from_url(f"{server.url}&{PATIENT}&prefix=unlogged_&durability=unlogged")
        full = SQLStore.from_url(f"{server.url}&{PATIENT}&durability=full")
        new = a_record(fields={"a": "1"})
        for store in (unlogged, full):
            await store.create(new)
        await unlogged.close()
        await asyncio.to_thread(server.restart)
        unlogged = SQLStore.from_url(f"{server.url}&{PATIENT}&prefix=unlogged_&durability=unlogged")
        assert await unlogged.read(new.session_id) is None
        await unlogged.create(new)
        assert await full.read(new.session_id) is not None
        for store in (unlogged, full):
            await store.close()
        for asked, found in (("full", "on"), ("delayed", "off")):
            store = SQLStore.from_url(f"{server.url}&{PATIENT}&durability={asked}")
            await store.read(new.session_id)
            runner: Any = store._here()
            [line] = runner.resting._lines
            assert await line._driver.fetchval("SHOW synchronous_commit") == found
            await store.close()
        blocking = SyncSQLStore.from_url(f"{server.url}&{PATIENT}&durability=delayed")
        blocking.read(new.session_id)
        [blocking_line] = blocking._desk.resting._lines
        assert blocking_line._driver.execute("SHOW synchronous_commit").fetchall() == [("off",)]
        blocking.close()


# --- sweeping --------------------------------------------------------------------------------------------------------


def fill(place: Place, store: SyncSQLStore, ended: int, alive: int) -> None:
    for number in range(ended + alive):
        store.create(a_record(fields={"a": "1", "b": "2"}, owner="ended" if number < ended else "alive"))
    place.do(f"UPDATE {place.prefix}sessions SET expires_ms = 1000, sweep_hour = 1 WHERE owner = 'ended'")


def count(place: Place, table: str) -> int:
    return int(place.do(f"SELECT count(*) FROM {place.prefix}{table}")[0][0])


def test_a_sweep_removes_what_has_ended_and_nothing_else(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "create", place.url]) == 0
    store = SyncSQLStore.from_url(place.url)
    fill(place, store, ended=25, alive=5)
    assert store.sweep(batch=10) == 10, "a few at a time"
    assert (count(place, "sessions"), count(place, "fields")) == (20, 40)
    capsys.readouterr()
    assert main(["sweep", place.url, "--batch", "7"]) == 0
    assert capsys.readouterr().out == "15 expired sessions removed.\n"
    assert (count(place, "sessions"), count(place, "fields")) == (5, 10)
    assert len(store.sessions_of("alive")) == 5
    assert store.sweep() == 0
    store.close()


async def test_all_servers_may_sweep_at_once(place: Place) -> None:
    assert main(["schema", "create", place.url]) == 0
    store = SyncSQLStore.from_url(place.url)
    fill(place, store, ended=60, alive=3)
    sweepers = [SQLStore.from_url(place.url) for _ in range(4)]

    async def sweep(sweeper: SQLStore) -> int:
        removed = 0
        while some := await sweeper.sweep(batch=5):
            removed += some
        return removed

    removed = await asyncio.gather(*map(sweep, sweepers))
    assert sum(removed) + store.sweep() == 60
    assert count(place, "sessions") == 3
    for sweeper in sweepers:
        await sweeper.close()
    store.close()


async def test_a_sweep_leaves_alone_what_somebody_has_in_hand(postgresql: PostgreSQL, prefix: str) -> None:
    prefix = prefix.replace("-", "_").replace(":", "_")
    place = Place("postgresql", f"{postgresql.url}&{PATIENT}&prefix={prefix}", prefix, postgresql)
    store = SyncSQLStore.from_url(place.url)
    fill(place, store, ended=6, alive=0)
    with postgresql.connect() as connection, connection.transaction():
        connection.execute(f"SELECT 1 FROM {prefix}sessions LIMIT 2 FOR UPDATE".encode())
        assert store.sweep(timeout=10) == 4, "it does not wait for the two"
    assert store.sweep() == 2
    store.close()


@pytest.mark.parametrize("kind", [SQLStore, SyncSQLStore])
async def test_a_store_may_sweep_by_itself(place: Place, kind: Any) -> None:
    assert main(["schema", "create", place.url]) == 0
    beside = SyncSQLStore.from_url(place.url)
    fill(place, beside, ended=4, alive=2)
    beside.close()
    store = kind.from_url(f"{place.url}&sweep=0.05")
    answer = store.read(a_record().session_id)
    if kind is SQLStore:
        await answer
    async with asyncio.timeout(30):
        while await asyncio.to_thread(count, place, "sessions") > 2:
            await asyncio.sleep(0.05)
    closing = store.close()
    if kind is SQLStore:
        await closing


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["sweep", "sqlite://"], ["schema", "create", "postgresql://u:hunter2@h/d?nonsense=1"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "coatcheck: store=" in said
        assert "hunter2" not in said
    for wrong, problem in (
        (["sweep", "postgresql://h/d", "--batch", "0"], "--batch=0: not a number of sessions"),
        (["sweep", "sqlite:////tmp/there-is-no-such-file.db"], "there is no such file"),
        (["schema", "create", "redis://h"], "no database"),
    ):
        assert main(wrong) == 2
        assert problem in capsys.readouterr().err
    assert main(["sweep", "postgresql://u:hunter2@127.0.0.1:1/d"]) == 1
    said = capsys.readouterr().err
    assert "unavailable" in said
    assert "hunter2" not in said


def test_the_command_is_on_the_path() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("coatcheck"), "schema", "show", "--dialect", "postgresql"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CREATE TABLE coatcheck_sessions" in done.stdout
    assert "CREATE FUNCTION coatcheck_update" in done.stdout


async def test_a_borrowed_server_is_not_asked_for_more_than_it_has(
    mariadb: MariaDB, open_database: DatabaseOpener
) -> None:
    """`Too many connections` is down, not a traceback."""
    [(most,)] = mariadb("SELECT @@max_connections")
    store = open_database(f"{mariadb.url}&{PATIENT}")
    assert await store.read(a_record().session_id) is None
    mariadb("SET GLOBAL max_connections = 10")
    held: list[Any] = []
    try:
        with pytest.raises(Exception, match="Too many connections"):
            held.extend(mariadb.connect() for _ in range(20))
        other = SQLStore.from_url(mariadb.url)
        with pytest.raises(StoreUnavailable, match="Too many connections"):
            await other.read(a_record().session_id)
        await other.close()
    finally:
        for connection in held[:2]:
            connection.close()
        mariadb(f"SET GLOBAL max_connections = {most}")
        for connection in held[2:]:
            connection.close()
    assert await store.read(a_record().session_id) is None
