"""`coatcheck schema` and `coatcheck sweep`: the tables of sessions in a database, and what has expired in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Literal

from cyclopts import App, Parameter
from sqlalchemy.dialects import mysql, postgresql, sqlite

from coatcheck.errors import CoatcheckError, ConfigurationError
from coatcheck.stores.sql import SyncSQLStore, statements
from coatcheck.stores.sql.address import Target
from coatcheck.stores.sql.sweeping import BATCH, REST

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

schema = App(
    name="schema",
    help="""The tables of sessions in a database.

Try:

  coatcheck schema create postgresql://shop@localhost/shop
  coatcheck schema show --dialect postgresql > sessions.sql
""",
    help_format="plaintext",
    version_flags=[],
)

sweep = App(
    name="sweep",
    help="Remove expired sessions from a database.",
    help_format="plaintext",
    version_flags=[],
)

_DIALECTS = {
    "postgresql": postgresql.dialect,
    "mysql": mysql.dialect,
    "mariadb": mysql.dialect,
    "sqlite": sqlite.dialect,
}


@schema.command
def show(
    *,
    dialect: Literal["postgresql", "mysql", "mariadb", "sqlite"],
    prefix: str = "coatcheck_",
    unlogged: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Print the SQL that creates the tables, for a database that is looked after by hand.

    Parameters
    ----------
    dialect
        Which database it is for.
    prefix
        What the names of tables begin with.
    unlogged
        On PostgreSQL, tables without a write-ahead log: cheaper to write, and empty after a crash.
    """
    return _told(
        lambda: "\n\n".join(f"{text};" for text in statements(_DIALECTS[dialect](), prefix, unlogged=unlogged)) + "\n"
    )


@schema.command
def create(url: str, /) -> int:
    """Create the tables, unless they are there.

    Parameters
    ----------
    url
        The store's URL, with the options that the web servers use, such as ?prefix= and ?durability=unlogged.
    """

    def create_tables() -> str:
        with closing(SyncSQLStore.from_url(url)) as store:
            created = store.create_tables(timeout=60)
        return "The tables have been created." if created else "The tables are there already."

    return _told(create_tables)


@sweep.default
def sweep_database(url: str, /, *, batch: int = BATCH, seconds: float = 60.0) -> int:
    """Remove sessions that ended an hour ago or earlier.

    Any number of servers may do it at once, and while others use their sessions: a few rows at a time are locked, and
    none that somebody else has in hand. After each batch it rests for three times as long as that took.

    Parameters
    ----------
    url
        The store's URL.
    batch
        Sessions that one statement removes, at most.
    seconds
        When to stop, even if there are more.
    """

    def remove() -> str:
        end = monotonic() + seconds
        removed = 0
        if batch < 1:
            raise ConfigurationError("--batch", batch, "not a number of sessions", "Use 1 or more")
        target = Target.parse(url)
        if target.path and not Path(target.path).is_file():
            raise ConfigurationError(
                "URL", target.shown, "there is no such file", "Name the one that the web servers use"
            )
        with closing(SyncSQLStore.from_url(url)) as store:
            while monotonic() < end:
                began = monotonic()
                some = store.sweep(batch=batch, timeout=max(1.0, end - monotonic()))
                removed += some
                if some < batch:
                    break
                sleep(REST * (monotonic() - began))
        return f"{removed} expired sessions removed."

    return _told(remove)


def _told(do: Callable[[], str]) -> int:
    """Do it, print what it says, or what went wrong, and give the exit code."""
    try:
        said = do()
    except ConfigurationError as mistake:
        return _failed(mistake, EXIT_USAGE)
    except CoatcheckError as failure:
        return _failed(failure, EXIT_FAILED)
    print(said)
    return EXIT_OK


def _failed(failure: CoatcheckError, code: int) -> int:
    print(f"coatcheck: {failure}", file=sys.stderr)
    return code
