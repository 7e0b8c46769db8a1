"""A connection, and asking something on it: one class per way of waiting.

On connections of our own the statements go to the driver itself. SQLAlchemy's execution, and the greenlets in which it
runs asynchronous drivers, would cost more than the query; see `docs/decisions/0010-sql-on-the-driver.md`.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any, Protocol

from sqlalchemy import Dialect, Engine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from coatcheck.stores.sql.asking import Ask
from coatcheck.stores.sql.timing import time_left


class Line:
    """A connection for code that blocks, on which each statement commits by itself unless a transaction is begun.

    Args:
        driver: the driver's connection.
        must_be_told: whether the driver has no other way to know how long it may wait.

    Attributes:
        rests: whether it is kept for the next call, rather than closed.
        is_dead: whether it is known, without asking, that the other side has hung up.
    """

    rests = True
    is_dead = False

    def __init__(self, driver: Any, *, must_be_told: bool = False) -> None:
        self._driver = driver
        self._must_be_told = must_be_told

    def ask(self, ask: Ask) -> Any:
        """What the database answers: see `Ask.gives`."""
        if self._must_be_told:
            self._driver._read_timeout = self._driver._write_timeout = max(0.001, time_left())
        cursor = self._driver.cursor()
        answer = self._answer(cursor, ask)
        cursor.close()
        return answer

    def _answer(self, cursor: Any, ask: Ask) -> Any:
        if ask.gives == "many":
            cursor.executemany(ask.sql, ask.values)
            return None
        # Without values a % in it is just that.
        cursor.execute(ask.sql, ask.values) if ask.values else cursor.execute(ask.sql)
        return cursor.fetchall() if ask.gives == "rows" else cursor.rowcount

    def close(self) -> None:
        """Be done with it."""
        self._driver.close()

    def cut(self) -> None:
        """Close it at once: something may be under way on it."""
        with suppress(Exception):  # which may be just why it is cut off
            self._driver.close()


class FileLine(Line):
    """A connection to a file of SQLite."""

    def ask(self, ask: Ask) -> Any:
        # A cursor that was left open, and that a traceback still holds, would keep the file open, and its locks, beyond the
        # closing of the connection.
        with closing(self._driver.cursor()) as cursor:
            return self._answer(cursor, ask)


class EngineLine(Line):
    """A connection of somebody's own engine. While we have it, each statement commits by itself there too.

    Args:
        engine: the engine.
    """

    rests = False

    def __init__(self, engine: Engine) -> None:
        self._dialect: Dialect = engine.dialect
        self._connection: PoolProxiedConnection = engine.raw_connection()
        try:
            self._dialect.set_isolation_level(self._inner, "AUTOCOMMIT")
        except BaseException:
            self._connection.invalidate()
            raise
        super().__init__(self._connection)

    def close(self) -> None:
        """Give it back to the pool, as it was."""
        try:
            self._dialect.reset_isolation_level(self._inner)
        except BaseException:
            self._connection.invalidate()
            raise
        self._connection.close()

    def cut(self) -> None:
        with suppress(Exception):
            self._connection.invalidate()

    @property
    def _inner(self) -> Any:
        return self._connection.dbapi_connection


class AsyncLine(Protocol):
    """The same for code that awaits."""

    @property
    def rests(self) -> bool:
        """See `Line`."""
        ...

    @property
    def is_dead(self) -> bool:
        """See `Line`."""
        ...

    async def ask(self, ask: Ask) -> Any:
        """See `Line.ask`."""
        ...

    async def close(self) -> None:
        """See `Line.close`."""
        ...

    def cut(self) -> None:
        """See `Line.cut`. It waits for nothing."""
        ...


class AsyncpgLine:
    """A connection of asyncpg."""

    rests = True

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    @property
    def is_dead(self) -> bool:
        return bool(self._driver.is_closed())

    async def ask(self, ask: Ask) -> Any:
        if ask.gives == "rows":
            return await self._driver.fetch(ask.sql, *ask.values)
        if ask.gives == "many":
            return await self._driver.executemany(ask.sql, ask.values)
        status: str = await self._driver.execute(ask.sql, *ask.values)
        return int(status.rpartition(" ")[2]) if ask.gives == "count" else None

    async def close(self) -> None:
        await self._driver.close()

    def cut(self) -> None:
        with suppress(Exception):  # its event loop may have ended
            self._driver.terminate()


class AsyncmyLine:
    """A connection of asyncmy."""

    rests = True
    is_dead = False

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def ask(self, ask: Ask) -> Any:
        cursor = self._driver.cursor()
        if ask.gives == "many":
            await cursor.executemany(ask.sql, ask.values)
            answer: Any = None
        else:
            await cursor.execute(ask.sql, ask.values or None)
            answer = await cursor.fetchall() if ask.gives == "rows" else cursor.rowcount
        await cursor.close()
        return answer

    async def close(self) -> None:
        await self._driver.ensure_closed()

    def cut(self) -> None:
        with suppress(Exception):  # its event loop may have ended
            self._driver.close()


class GreenletLine:
    """A connection of somebody's own asynchronous engine, in SQLAlchemy's greenlets: whatever its driver is."""

    rests = False
    is_dead = False

    def __init__(self, line: EngineLine, dialect: Dialect) -> None:
        self._line = line
        self._is_cut_anywhere = dialect.has_terminate

    @classmethod
    async def open(cls, engine: Engine) -> GreenletLine:
        return cls(await greenlet_spawn(EngineLine, engine), engine.dialect)

    async def ask(self, ask: Ask) -> Any:
        return await greenlet_spawn(self._line.ask, ask)

    async def close(self) -> None:
        await greenlet_spawn(self._line.close)

    def cut(self) -> None:
        if self._is_cut_anywhere:
            self._line.cut()
        else:  # psycopg is closed by awaiting, which SQLAlchemy does in a greenlet only, though nothing is waited for
            with suppress(StopIteration):
                greenlet_spawn(self._line.cut).send(None)
