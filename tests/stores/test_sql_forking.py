"""Stores in databases, in processes that fork while they use them: what was acknowledged stays, whoever it was told."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck import open_sync_store
from coatcheck.changes import NewRecord
from coatcheck.stores.sql import SQLStore, SyncSQLStore
from coatcheck.testing import a_commit, a_record
from tests.servers.processes import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

CHILDREN = 8
EACH = 20  # commits of a child


def forked(work: Callable[[], object]) -> int:
    """The id of a child that does this, and ends well if it did."""
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            work()
            failed = 0
        finally:
            os._exit(failed)
    return child


def ended_well(children: list[int]) -> bool:
    """Whether all did. One that hangs says where, by pytest's fault handler, and is ended."""
    ends: dict[int, int] = {}

    def all_ended() -> bool:
        for child in set(children) - ends.keys():
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                ends[child] = status
        return ends.keys() == set(children)

    try:
        wait_until(all_ended, "the end of the children", 60)
    finally:
        for child in set(children) - ends.keys():
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
    return set(ends.values()) == {0}


async def test_a_child_that_is_forked_while_a_loop_runs_loses_nothing_and_takes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    """Commits of the parent are under way all the time: on threads, with SQLite; else on connections of its loop."""
    store = SQLStore.from_url(database_url)
    new = a_record(fields={"parent": "0", "child": "0"})
    await store.create(new)
    await everybody(store, new)
    acknowledged, over = 0, False

    async def shopper() -> None:
        nonlocal acknowledged
        while not over:
            await store.update(new.session_id, a_commit(new, increments={"parent": 1}))
            acknowledged += 1

    async def of_a_child() -> None:
        for _ in range(EACH):
            await store.update(new.session_id, a_commit(new, increments={"child": 1}))

    shoppers = [asyncio.create_task(shopper()) for _ in range(8)]
    children = []
    for _ in range(CHILDREN):
        await asyncio.sleep(0.05)
        children.append(forked(lambda: asyncio.run(of_a_child())))
    well = await asyncio.to_thread(ended_well, children)
    over = True
    await asyncio.gather(*shoppers)
    await everybody(store, new)
    assert well
    record = await store.read(new.session_id)
    await store.close()
    assert record is not None
    assert record.fields == {"parent": str(acknowledged), "child": str(CHILDREN * EACH)}
    if database_url.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "sessions.db") as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        file.close()


async def everybody(store: SQLStore, new: NewRecord) -> None:
    """More readers at once than there are shoppers: some connections rest while the children are forked."""
    await asyncio.gather(*(store.read(new.session_id) for _ in range(10)))


def test_nor_does_one_that_is_forked_while_threads_use_the_store(database_url: str) -> None:
    store = SyncSQLStore.from_url(database_url)
    new = a_record(fields={"parent": "0", "child": "0"})
    store.create(new)
    acknowledged, over = [0, 0, 0, 0], False

    def shopper(number: int) -> None:
        while not over:
            store.update(new.session_id, a_commit(new, increments={"parent": 1}))
            acknowledged[number] += 1

    def of_a_child() -> None:
        for _ in range(EACH):
            store.update(new.session_id, a_commit(new, increments={"child": 1}))

    threads = [threading.Thread(target=shopper, args=[number], daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(CHILDREN):
        goal = sum(acknowledged) + 10
        wait_until(lambda goal=goal: sum(acknowledged) >= goal, "commits of the parent")  # type: ignore[misc]
        children.append(forked(of_a_child))
    well = ended_well(children)
    over = True
    for thread in threads:
        thread.join()
    assert well
    record = store.read(new.session_id)
    store.close()
    assert record is not None
    assert record.fields == {"parent": str(sum(acknowledged)), "child": str(CHILDREN * EACH)}


def test_an_sqlite_file_that_was_used_before_a_fork_loses_nothing_after_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db?timeout=20"
    store, session = open_sync_store(url), a_record()
    store.create(session)  # as an application does that is loaded before its workers are forked
    parents_turn, childs_turn = os.pipe(), os.pipe()

    def of_a_child() -> None:
        for turn in range(2):
            for _ in range(5):
                store.update(session.session_id, a_commit(session, increments={"hits": 1}))
            if turn == 0:
                os.write(parents_turn[1], b"x")
                os.read(childs_turn[0], 1)  # until the parent has closed its store

    child = forked(of_a_child)
    os.read(parents_turn[0], 1)
    store.close()
    os.write(childs_turn[1], b"x")
    assert ended_well([child])
    for end in (*parents_turn, *childs_turn):
        os.close(end)
    again = open_sync_store(url)
    record = again.read(session.session_id)
    again.close()
    assert record is not None
    assert record.fields["hits"] == "10", "an acknowledged commit is lost"


def test_who_is_forked_while_a_store_is_closed_can_open_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db?timeout=20"
    new = a_record(fields={"parent": "0", "child": "0"})
    store = open_sync_store(url)
    store.create(new)
    store.close()
    acknowledged, over = 0, False

    def parent() -> None:
        nonlocal acknowledged
        while not over:
            own = open_sync_store(url)
            own.update(new.session_id, a_commit(new, increments={"parent": 1}, sets={"long": f'"{"x" * 400_000}"'}))
            acknowledged += 1
            own.close()  # the last one of a file writes much: all of its write-ahead log

    def of_a_child() -> None:
        own = open_sync_store(url)
        own.update(new.session_id, a_commit(new, increments={"child": 1}))

    thread = threading.Thread(target=parent, daemon=True)
    thread.start()
    children = 40
    try:
        assert all(ended_well([forked(of_a_child)]) for _ in range(children))
    finally:
        over = True
        thread.join()
    record = store.read(new.session_id)
    store.close()
    assert record is not None
    assert (record.fields["parent"], record.fields["child"]) == (str(acknowledged), str(children))


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_child_that_closes_a_store_leaves_its_parents_connections_alone(
    request: pytest.FixtureRequest, server: str
) -> None:
    """Also in the event loop that it has from its parent, as it goes with one that was made before the workers."""
    store = SQLStore.from_url(f"{request.getfixturevalue(server).url}&timeout=20")
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(store.read("A" * 16)) is None  # on a connection that rests now
        assert ended_well([forked(lambda: loop.run_until_complete(store.close()))])
        assert loop.run_until_complete(store.read("A" * 16, timeout=5)) is None
        loop.run_until_complete(store.close())
    finally:
        loop.close()
