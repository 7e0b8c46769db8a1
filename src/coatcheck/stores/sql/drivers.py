"""How each driver connects, and how a connection of it is cut off. Its calls end in time, wherever they wait."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import QueuePool

from coatcheck.errors import ConfigurationError
from coatcheck.stores.sql.address import Target

DEADLINE: ContextVar[float] = ContextVar("DEADLINE", default=float("inf"))
"""Until when the present call may wait, on `time.monotonic`."""

_OURS = {
    ("postgresql", True): "asyncpg",
    ("postgresql", False): "psycopg",
    ("mysql", True): "asyncmy",
    ("mysql", False): "pymysql",
    ("sqlite", True): "pysqlite",  # on threads: a statement takes less time than a hop to aiosqlite's thread and back
    ("sqlite", False): "pysqlite",
}


def open_engine(target: Target, *, asynchronous: bool) -> Engine:
    """An engine whose connections commit each statement by itself. Nothing is connected yet.

    Raises:
        ConfigurationError: a driver that this store does not know, or that is not installed.
    """
    driver = target.driver or _OURS[target.database, asynchronous]
    known = {name for (database, waits), name in _OURS.items() if (database, waits) == (target.database, asynchronous)}
    if driver not in known:
        raise ConfigurationError(
            "store", target.shown, f"no driver {driver!r} for {'a' if asynchronous else ''}synchronous code",
            f"Use {' or '.join(sorted(known))}, or leave it out",
        )  # fmt: skip
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "pool_size": target.pool_size,
        "max_overflow": 0,
        # It would ask the first connection for much that we do not use; and leave it open if that is cancelled.
        "_initialize": False,
        "pool_reset_on_return": None,  # a connection is given back after its transaction has ended, or not at all
    }
    try:
        return _MAKERS[driver](target, options)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "store", target.shown, f"the package {missing.name!r} is not installed",
            "Install it: pip install 'coatcheck[sql]'",
        ) from None  # fmt: skip


def _asyncpg(target: Target, options: dict[str, Any]) -> Engine:
    import asyncpg
    from sqlalchemy.ext.asyncio import create_async_engine

    settings = {"application_name": "coatcheck"} | _commit_settings(target)

    def connect() -> Any:
        return asyncpg.connect(target.plain, server_settings=settings)

    engine = create_async_engine("postgresql+asyncpg://", connect_args={"async_creator_fn": connect}, **options)
    # It would ask the server about its JSON types on each new connection, which is two round trips for nothing.
    dialect: Any = engine.dialect
    dialect.setup_asyncpg_json_codec = dialect.setup_asyncpg_jsonb_codec = _nothing
    return engine.sync_engine


async def _nothing(_: Any) -> None:
    pass


def _psycopg(target: Target, options: dict[str, Any]) -> Engine:
    import psycopg
    from psycopg import conninfo, generators, waiting

    class Connection(psycopg.Connection[Any]):
        """It waits no longer than the present call may."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            left = time_left()
            return super().wait(gen, interval, left if timeout is None else min(timeout, left))

    settings = " ".join(f"-c {name}={value}" for name, value in _commit_settings(target).items())
    more = {"options": settings} if settings else {}
    where = conninfo.make_conninfo(target.plain, application_name="coatcheck", **more)

    def connect() -> Any:
        made = Connection(waiting.wait_conn(generators.connect(where), interval=0.1, timeout=time_left()))
        made.autocommit = True
        return made

    return create_engine("postgresql+psycopg://", creator=connect, **options)


def _commit_settings(target: Target) -> dict[str, str]:
    return {"synchronous_commit": "off"} if target.durability == "delayed" else {}


def _asyncmy(target: Target, options: dict[str, Any]) -> Engine:
    import asyncmy
    from sqlalchemy.ext.asyncio import create_async_engine

    def connect(**_: Any) -> Any:
        return asyncmy.connect(**_mysql_arguments(target))

    return create_async_engine("mysql+asyncmy://", connect_args={"async_creator_fn": connect}, **options).sync_engine


def _pymysql(target: Target, options: dict[str, Any]) -> Engine:
    import pymysql

    def connect() -> Any:
        left = max(0.001, time_left())
        return pymysql.connect(**_mysql_arguments(target), connect_timeout=left, read_timeout=left, write_timeout=left)

    return create_engine("mysql+pymysql://", creator=connect, **options)


def _mysql_arguments(target: Target) -> dict[str, Any]:
    from pymysql.constants import CLIENT

    return {
        **target.options,
        "charset": "utf8mb4",
        "autocommit": True,
        "client_flag": CLIENT.FOUND_ROWS,
        "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",  # so that no gaps are locked
    }


def _sqlite(target: Target, options: dict[str, Any]) -> Engine:
    def connect() -> Any:
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
        return made

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool, **options)


_MAKERS: dict[str, Callable[[Target, dict[str, Any]], Engine]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "asyncmy": _asyncmy,
    "pymysql": _pymysql,
    "pysqlite": _sqlite,
}


def time_left() -> float:
    """Seconds that the present call may still wait."""
    return min(max(0.0, DEADLINE.get() - monotonic()), _LONGEST)


_LONGEST = 86_400.0
"""Seconds that anything waits at most, even outside of any call."""
