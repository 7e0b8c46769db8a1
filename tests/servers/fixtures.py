"""Fixtures around the servers. A conftest imports those that its tests use."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.sql import SQLStore
from tests.servers.cluster import ClusterGroup
from tests.servers.mariadb import MariaDB, mariadb_program
from tests.servers.postgresql import PostgreSQL
from tests.servers.sentinel import SentinelGroup
from tests.servers.valkey import Valkey

__all__ = [
    "DatabaseOpener",
    "Opener",
    "URLOpener",
    "cluster",
    "database_url",
    "mariadb",
    "open_database",
    "open_sessions",
    "open_store",
    "own_postgresql",
    "own_valkey",
    "postgresql",
    "prefix",
    "sentinels",
    "valkey",
    "valkey_url",
]

_SHARED = pytest.StashKey[Valkey]()
_POSTGRESQL = pytest.StashKey[PostgreSQL]()
_MARIADB = pytest.StashKey[MariaDB]()
_SENTINELS = pytest.StashKey[SentinelGroup]()
_CLUSTER = pytest.StashKey[ClusterGroup]()

Opener: TypeAlias = Callable[[], AsyncStore]
"""Gives another store onto the same sessions, as each web server of a fleet has its own."""

URLOpener: TypeAlias = Callable[[str], RedisStore]

DatabaseOpener: TypeAlias = Callable[[str], SQLStore]


@pytest.fixture(scope="session")
def valkey(pytestconfig: pytest.Config) -> Valkey:
    """The Valkey that all tests share. Whoever kills, freezes or fills it up takes `own_valkey`."""
    if _SHARED not in pytestconfig.stash:
        server = Valkey()
        server.start()
        pytestconfig.add_cleanup(server.stop)
        pytestconfig.stash[_SHARED] = server
    return pytestconfig.stash[_SHARED]


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> PostgreSQL:
    """The PostgreSQL that all tests share. Whoever kills, freezes or fills it up takes `own_postgresql`."""
    if _POSTGRESQL not in pytestconfig.stash:
        server = pytestconfig.stash[_POSTGRESQL] = PostgreSQL()
        pytestconfig.add_cleanup(server.stop)
        server.start()
    return pytestconfig.stash[_POSTGRESQL]


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL for this test alone."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> MariaDB:
    """The MariaDB that all tests share."""
    if _MARIADB not in pytestconfig.stash:
        if mariadb_program() is None:
            pytest.skip("there is no mariadbd on this machine")
        server = pytestconfig.stash[_MARIADB] = MariaDB()
        pytestconfig.add_cleanup(server.stop)
        server.start()
    return pytestconfig.stash[_MARIADB]


@pytest.fixture
def sentinels(pytestconfig: pytest.Config) -> SentinelGroup:
    """A primary, its replicas and their sentinels, which all tests share. Everything is up when a test begins."""
    if _SENTINELS not in pytestconfig.stash:
        group = pytestconfig.stash[_SENTINELS] = SentinelGroup()
        pytestconfig.add_cleanup(group.stop)
        group.start()
    pytestconfig.stash[_SENTINELS].settle()
    return pytestconfig.stash[_SENTINELS]


@pytest.fixture
def cluster(pytestconfig: pytest.Config) -> ClusterGroup:
    """A cluster that all tests share. Everything is up when a test begins."""
    if _CLUSTER not in pytestconfig.stash:
        group = pytestconfig.stash[_CLUSTER] = ClusterGroup()
        pytestconfig.add_cleanup(group.stop)
        group.start()
    pytestconfig.stash[_CLUSTER].settle()
    return pytestconfig.stash[_CLUSTER]


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A Valkey for this test alone."""
    with Valkey() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """What the keys of this test begin with, so that tests which share a server do not meet."""
    return f"test-{secrets.token_hex(4)}:"


@pytest.fixture
def valkey_url(valkey: Valkey, prefix: str) -> str:
    """The shared Valkey, with keys of this test's own."""
    return f"{valkey.url}?prefix={prefix}&timeout=10"


@pytest.fixture
async def open_store() -> AsyncIterator[URLOpener]:
    """`open_store(url)` that closes the store when the test is over."""
    opened: list[RedisStore] = []

    def another(url: str) -> RedisStore:
        opened.append(RedisStore.from_url(url))
        return opened[-1]

    yield another
    for store in opened:
        await store.close()


@pytest.fixture
async def open_database() -> AsyncIterator[DatabaseOpener]:
    """`open_database(url)` that closes the store when the test is over."""
    opened: list[SQLStore] = []

    def another(url: str) -> SQLStore:
        opened.append(SQLStore.from_url(url))
        return opened[-1]

    yield another
    for store in opened:
        await store.close()


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store in each kind of database in turn, patient enough for a busy machine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db?durability=delayed&timeout=20"
    return f"{request.getfixturevalue(request.param).url}&timeout=20"


@pytest.fixture(params=["memory", "valkey", "near cache", "postgresql", "mariadb", "sqlite"])
def open_sessions(
    request: pytest.FixtureRequest, open_store: URLOpener, open_database: DatabaseOpener, tmp_path: Path
) -> Opener:
    """Every kind of store in turn."""
    if request.param == "memory":
        sessions = MemoryStore()
        return lambda: AsyncMemoryStore(sessions)
    if request.param == "sqlite":
        return lambda: open_database(f"sqlite:///{tmp_path}/sessions.db?durability=delayed")
    if request.param in ("valkey", "near cache"):
        url = request.getfixturevalue("valkey_url")
        near = "&near_cache=1000" if request.param == "near cache" else ""
        return lambda: open_store(url + near)
    server = request.getfixturevalue(request.param)
    return lambda: open_database(server.url)
