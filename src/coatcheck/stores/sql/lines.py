"""A connection, and asking something on it: one class per way of waiting.

The statements go to the driver itself, not through SQLAlchemy's execution and, where the driver is asynchronous and one of
ours, not through the greenlets in which SQLAlchemy runs it: see `docs/decisions/0010-sql-on-the-driver.md`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from sqlalchemy import Dialect
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from coatcheck.stores.sql.asking import Ask
from coatcheck.stores.sql.drivers import time_left


class Line:
    """A connection for code that blocks.

    Args:
        connection: from an engine's pool.
        dialect: the engine's.
    """

    def __init__(self, connection: PoolProxiedConnection, dialect: Dialect) -> None:
        self.connection = connection
        self._limited: Any = connection.driver_connection if dialect.driver == "pymysql" else None

    is_dead = False

    def ask(self, ask: Ask) -> Any:
        """What the database answers: see `Ask.gives`."""
        if self._limited is not None:  # it has no other way to be told
            self._limited._read_timeout = self._limited._write_timeout = max(0.001, time_left())
        cursor = self.connection.cursor()
        if ask.gives == "many":
            cursor.executemany(ask.sql, ask.values)
            answer: Any = None
        else:
            # Without values a % in it is just that.
            cursor.execute(ask.sql, ask.values) if ask.values else cursor.execute(ask.sql)
            answer = cursor.fetchall() if ask.gives == "rows" else cursor.rowcount
        cursor.close()
        return answer

    def cut(self) -> None:
        """Close it at once: something may be under way on it."""
        self.connection.invalidate()


class AsyncLine(Protocol):
    """A connection for code that awaits."""

    connection: PoolProxiedConnection

    @property
    def is_dead(self) -> bool:
        """Whether it is known, without asking, that the other side has hung up."""
        ...

    def ask(self, ask: Ask) -> Awaitable[Any]:
        """What the database answers: see `Ask.gives`."""
        ...

    def cut(self) -> None:
        """Close it at once: something may be under way on it."""
        ...


class AsyncpgLine:
    """A connection of asyncpg."""

    def __init__(self, connection: PoolProxiedConnection) -> None:
        self.connection = connection
        self._driver: Any = connection.driver_connection

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

    def cut(self) -> None:
        self.connection.invalidate()


class AsyncmyLine:
    """A connection of asyncmy."""

    is_dead = False

    def __init__(self, connection: PoolProxiedConnection) -> None:
        self.connection = connection
        self._driver: Any = connection.driver_connection

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

    def cut(self) -> None:
        self.connection.invalidate()


class GreenletLine:
    """A connection of any other asynchronous driver, of the caller's own engine."""

    is_dead = False

    def __init__(self, connection: PoolProxiedConnection, dialect: Dialect) -> None:
        self.connection = connection
        self._line = Line(connection, dialect)

    def ask(self, ask: Ask) -> Awaitable[Any]:
        return greenlet_spawn(self._line.ask, ask)

    def cut(self) -> None:
        self._line.cut()


def async_line(connection: PoolProxiedConnection, dialect: Dialect) -> AsyncLine:
    """The connection, as code that awaits wants it."""
    if dialect.driver == "asyncpg":
        return AsyncpgLine(connection)
    return AsyncmyLine(connection) if dialect.driver == "asyncmy" else GreenletLine(connection, dialect)
