"""What the decisions of this store are made of: generators that yield a step, and are sent what came of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from msgspec import Struct
from sqlalchemy import Dialect, text

T = TypeVar("T")

Row: TypeAlias = Sequence[Any]


class Statement:
    """SQL with `:named` parameters, compiled once, as the driver wants it.

    Args:
        sql: one statement.
        dialect: the database's, and the driver's.
    """

    __slots__ = ("_order", "sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled: Any = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        self._order: list[str] | None = (compiled.positiontup or []) if dialect.positional else None

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver wants them."""
        return values if self._order is None else tuple([values[name] for name in self._order])


class Ask(Struct, frozen=True):
    """One statement for the database.

    Attributes:
        sql: as the driver wants it.
        values: of its parameters, as the driver wants them; for `many`, a list of these.
        gives: `rows`, how many rows it changed (`count`), or nothing: once, or with `many` values.
        commits: whether a commit takes effect with it, so that nobody knows about it if no answer comes.
    """

    sql: str
    values: Any = ()
    gives: Literal["rows", "count", "nothing", "many"] = "rows"
    commits: bool = False


class Connect(Struct, frozen=True):
    """Have a connection for the statements that follow."""


class Release(Struct, frozen=True):
    """Be done with the connection.

    Attributes:
        clean: whether it can be used for something else.
        others: whether those that rest are of no use either.
    """

    clean: bool
    others: bool = False


class Pause(Struct, frozen=True):
    """Wait some seconds."""

    seconds: float


Step: TypeAlias = Ask | Connect | Release | Pause
Steps: TypeAlias = Generator[Step, Any, T]


def rows(statement: Statement, **values: Any) -> Ask:
    """A query."""
    return Ask(statement.sql, statement.parameters(values))


def count(statement: Statement, values: Mapping[str, Any], *, commits: bool = False) -> Ask:
    """A change, and how many rows it concerned."""
    return Ask(statement.sql, statement.parameters(values), "count", commits)


def many(statement: Statement, each: Sequence[Mapping[str, Any]]) -> Ask:
    """The same change with each of these."""
    return Ask(statement.sql, [statement.parameters(values) for values in each], "many")


def plainly(sql: str) -> Ask:
    """A statement without parameters, or results."""
    return Ask(sql, (), "nothing")


COMMIT = Ask("COMMIT", (), "nothing", commits=True)
ROLLBACK = plainly("ROLLBACK")
