"""What went wrong, in the words of three databases and half a dozen drivers."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import exc

from coatcheck.stores.sql.drivers import Way

Kind: TypeAlias = Literal["again", "duplicate", "missing", "broken", "slow", "full", "refused"]


class Trouble(Exception):
    """The database did not do what it was asked.

    Attributes:
        kind: what to make of it. `again`: it lost against another transaction, and was not applied. `duplicate`: nor was
            it, because a row is there that was not there before. `missing`: nor was it, because a table is not there.
            `broken`: the connection is of no use any more. `slow`: time ran out. `full` and `refused`: it was not applied,
            and will not be.
    """

    def __init__(self, kind: Kind, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


_POSTGRESQL: dict[str, Kind] = {
    "40001": "again",  # serialization_failure
    "40P01": "again",  # deadlock_detected
    "55P03": "again",  # lock_not_available
    "53100": "full",  # disk_full
    "53200": "full",  # out_of_memory
    "42P01": "missing",  # undefined_table
    "42883": "missing",  # undefined_function
    "0A000": "broken",  # feature_not_supported: what was prepared does not fit the tables any more
    "26000": "broken",  # invalid_sql_statement_name: what was prepared is unknown, behind a pooler
    "25006": "broken",  # read_only_sql_transaction: it is a standby now; a new connection may find the primary
}
_MYSQL: dict[int, Kind] = {
    1020: "again",  # ER_CHECKREAD
    1062: "duplicate",  # ER_DUP_ENTRY: somebody created the same session meanwhile
    1146: "missing",  # ER_NO_SUCH_TABLE
    1205: "again",  # ER_LOCK_WAIT_TIMEOUT
    1213: "again",  # ER_LOCK_DEADLOCK
    1021: "full",  # ER_DISK_FULL
    1114: "full",  # ER_RECORD_FILE_FULL
    1053: "broken",  # ER_SERVER_SHUTDOWN
    1290: "broken",  # ER_OPTION_PREVENTS_STATEMENT: it is a replica now
    1927: "broken",  # ER_CONNECTION_KILLED
}
_SQLITE: dict[int, Kind] = {
    5: "again",  # SQLITE_BUSY
    6: "again",  # SQLITE_LOCKED
    13: "full",  # SQLITE_FULL
}
_OF_SQLITE: dict[int, str] = {
    5: "Another process keeps it locked: end that one's transaction",
    8: "Make the file and its folder writable for the web server's user",  # SQLITE_READONLY
    10: "Look after its disk",  # SQLITE_IOERR
    11: "Restore the file, or remove it",  # SQLITE_CORRUPT
    13: "Make room on its disk",
    14: "Make the file and its folder writable for the web server's user",  # SQLITE_CANTOPEN
    26: "Restore the file, or name another one",  # SQLITE_NOTADB
}
"""What to do. The file is named by the store's address."""


def trouble(error: Exception, way: Way) -> Exception:
    """What to raise in place of an exception: what it means, if it is the database's or the network's."""
    dialect = way.dialect
    if isinstance(error, Trouble):
        return error
    if isinstance(error, exc.TimeoutError):
        return Trouble("slow", "no connection of the pool in time")
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, Exception):
        error = error.orig
    words = _words(error)
    if dialect.name == "postgresql":
        state: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if state:
            broken = state.startswith(("08", "57P", "53300"))
            # Further lines may quote a whole row: the values of a session.
            first_line = _words(error, str(error).partition("\n")[0])
            return Trouble(_POSTGRESQL.get(state, "broken" if broken else "refused"), first_line)
    elif dialect.name == "sqlite":
        code: int | None = 14 if isinstance(error, OSError) else getattr(error, "sqlite_errorcode", None)
        if code is not None:
            code &= 0xFF
            kind = "missing" if "no such table" in words else _SQLITE.get(code, "refused")
            return Trouble(kind, f"{words}. {_OF_SQLITE[code]}" if code in _OF_SQLITE else words)
    elif error.args and isinstance(error.args[0], int) and not isinstance(error, OSError):
        # From 2000 on they are the client's own, and mean that the connection is lost.
        broken = error.args[0] >= 2000 or error.args[0] == 0
        return Trouble(_MYSQL.get(error.args[0], "broken" if broken else "refused"), words)
    if isinstance(error, (UnicodeError, OverflowError)) or type(error).__name__ == "DataError":
        return Trouble("refused", words)  # by the driver, which could not write it down, and has sent nothing
    # Without a code it comes from the driver, not from the database: the connection could not be had, or is lost.
    return Trouble("broken", words) if isinstance(error, (*way.errors, OSError, EOFError)) else error


def _words(error: Exception, text: object = None) -> str:
    """What the driver says, or this part of it, in one line."""
    if text is None:
        text = error.args[-1] if error.args else ""
    said = " ".join(str(text).split())[:300]
    name = type(error).__name__
    return f"{name}: {said}" if said else name
