"""How each driver connects, and what its errors are."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Dialect, Engine
from sqlalchemy.dialects import registry

from coatcheck.errors import ConfigurationError
from coatcheck.stores.sql.address import Target
from coatcheck.stores.sql.lines import AsyncmyLine, AsyncpgLine, EngineLine, FileLine, GreenletLine, Line
from coatcheck.stores.sql.timing import time_left


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a database.

    Attributes:
        dialect: how SQL is written there, for this driver.
        errors: all that the driver raises.
        open: makes a connection: a `Line`, or something to be awaited for an `AsyncLine`.
        is_file: whether it leads to a file of SQLite; see `files`.
    """

    dialect: Dialect
    errors: tuple[type[Exception], ...]
    open: Callable[[], Any]
    is_file: bool = False


_OURS = {
    ("postgresql", True): "asyncpg",
    ("postgresql", False): "psycopg",
    ("mysql", True): "asyncmy",
    ("mysql", False): "pymysql",
    ("sqlite", True): "pysqlite",  # on threads: a statement takes less time than a hop to aiosqlite's thread and back
    ("sqlite", False): "pysqlite",
}


def way_to(target: Target, *, asynchronous: bool) -> Way:
    """The way to what a URL names, with connections of our own. Nothing is connected yet.

    Raises:
        ConfigurationError: a driver that this store does not know, or that is not installed.
    """
    ours = _OURS[target.database, asynchronous]
    if target.driver not in ("", ours):
        raise ConfigurationError(
            "store", target.shown, f"no driver {target.driver!r} for {'a' if asynchronous else ''}synchronous code",
            f"Use {ours}, or leave it out",
        )  # fmt: skip
    try:
        return _WAYS[ours](target)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "store", target.shown, f"the package {missing.name!r} is not installed",
            "Install it: pip install 'coatcheck[sql]'",
        ) from None  # fmt: skip


def way_through(engine: Engine, *, asynchronous: bool) -> Way:
    """The way through somebody's own engine; for asynchronous code, its `sync_engine`."""
    dialect: Any = engine.dialect
    if dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "engine", str(engine.url), "in memory would not be shared by its connections",
            "Name a file, or use memory:// for one process",
        )  # fmt: skip
    errors: tuple[type[Exception], ...] = (dialect.loaded_dbapi.Error,)
    if dialect.driver == "asyncpg":
        errors += _asyncpg_errors()
    if not asynchronous:
        return Way(dialect, errors, lambda: EngineLine(engine))

    async def connect() -> GreenletLine:
        return await GreenletLine.open(engine)

    return Way(dialect, errors, connect)


def _dialect(name: str, paramstyle: str) -> Dialect:
    made: Dialect = registry.load(name)(paramstyle=paramstyle)
    return made


def _asyncpg(target: Target) -> Way:
    import asyncpg

    settings = _settings(target)

    async def connect() -> AsyncpgLine:
        made = await asyncpg.connect(target.plain, server_settings={"application_name": "coatcheck"})
        try:
            await made.execute(settings)
        except BaseException:
            made.terminate()
            raise
        return AsyncpgLine(made)

    return Way(_dialect("postgresql.asyncpg", "numeric_dollar"), _asyncpg_errors(), connect)


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    import asyncpg

    return (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def _psycopg(target: Target) -> Way:
    import psycopg
    from psycopg import conninfo, generators, waiting

    class Connection(psycopg.Connection[Any]):
        """It waits no longer than the present call may."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            left = time_left()
            return super().wait(gen, interval, left if timeout is None else min(timeout, left))

    settings = _settings(target).encode()
    where = conninfo.make_conninfo(target.plain, application_name="coatcheck")

    def connect() -> Line:
        made = Connection(waiting.wait_conn(generators.connect(where), interval=0.1, timeout=time_left()))
        try:
            made.autocommit = True
            made.execute(settings)
        except BaseException:
            made.close()
            raise
        return Line(made)

    return Way(_dialect("postgresql.psycopg", "pyformat"), (psycopg.Error,), connect)


def _settings(target: Target) -> str:
    """Of a connection to PostgreSQL. Not said while it connects, because PgBouncer refuses to hear them then."""
    # A server that waits for a lock does not notice that whoever asked has hung up: it must not do so for long.
    settings = f"SET lock_timeout = {max(1, int(target.timeout * 1000))}"
    return f"{settings}; SET synchronous_commit = off" if target.durability == "delayed" else settings


def _asyncmy(target: Target) -> Way:
    import asyncmy

    async def connect() -> AsyncmyLine:
        made = await asyncmy.connect(**_mysql_arguments(target))
        try:
            async with made.cursor() as cursor:
                await cursor.execute(_NO_LONG_WAIT)
        except BaseException:
            made.close()
            raise
        return AsyncmyLine(made)

    return Way(_dialect("mysql.asyncmy", "format"), (asyncmy.errors.Error,), connect)


def _pymysql(target: Target) -> Way:
    import pymysql

    def connect() -> Line:
        left = max(0.001, time_left())
        made = pymysql.connect(**_mysql_arguments(target), connect_timeout=left, read_timeout=left, write_timeout=left)
        try:
            with made.cursor() as cursor:
                cursor.execute(_NO_LONG_WAIT)
        except BaseException:
            made.close()
            raise
        return Line(made, must_be_told=True)

    return Way(_dialect("mysql.pymysql", "format"), (pymysql.Error,), connect)


_NO_LONG_WAIT = "SET SESSION innodb_lock_wait_timeout = 1, lock_wait_timeout = 1"
"""Seconds. A server that waits for a lock does not notice that whoever asked has hung up."""


def _mysql_arguments(target: Target) -> dict[str, Any]:
    from pymysql.constants import CLIENT

    return {
        **target.options,
        "charset": "utf8mb4",
        "autocommit": True,
        "client_flag": CLIENT.FOUND_ROWS,
        "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",  # so that no gaps are locked
    }


def _sqlite(target: Target) -> Way:
    def connect() -> Line:
        # Before SQLite does it, with rights for all. Its other files take theirs from this one.
        with suppress(FileExistsError):
            os.close(os.open(target.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # It is told at once that the database is locked, and is asked again by us: its own way of waiting sleeps
        # longer and longer, and whoever has waited long is served last.
        made = sqlite3.connect(target.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            made.execute("PRAGMA journal_mode = WAL").close()
            made.execute(f"PRAGMA synchronous = {'NORMAL' if target.durability == 'delayed' else 'FULL'}").close()
        except BaseException:
            made.close()
            raise
        return FileLine(made)

    return Way(_dialect("sqlite.pysqlite", "qmark"), (sqlite3.Error,), connect, is_file=True)


_WAYS: dict[str, Callable[[Target], Way]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "asyncmy": _asyncmy,
    "pymysql": _pymysql,
    "pysqlite": _sqlite,
}
