"""What is done for a call: a connection, time, and another try where that is right. Pure: see `asking`."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

from sqlalchemy import Dialect

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import CoatcheckError, ForeignReply, OutcomeUnknown, StoreFull, StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.sql import schema
from coatcheck.stores.sql.asking import ROLLBACK, Connect, Pause, Release, Steps
from coatcheck.stores.sql.postgresql import PostgreSQLVerbs
from coatcheck.stores.sql.trouble import Trouble
from coatcheck.stores.sql.verbs import MySQLVerbs, SQLiteVerbs, Verbs, family

T = TypeVar("T")

_VERBS: dict[str, type[Verbs]] = {"postgresql": PostgreSQLVerbs, "mysql": MySQLVerbs, "sqlite": SQLiteVerbs}

_PAUSE = 0.01
"""Seconds at most before a transaction that lost against another is tried again."""


class Call(Generic[T]):
    """One call of the store.

    Args:
        work: what is to be done on a connection.
        timeout: seconds for all of it.
        again: the same, where it may have been done already; `None` if that makes no difference.
        session_id: whose commit it is; `""` for what is no commit.
        needs_tables: whether the tables have to be there.

    Attributes:
        deadline: when the time is over, on `time.monotonic`.
        uncertain: whether a commit is on its way, or was when the connection broke, and no answer has come.
        lost: why it lost against another transaction, the last time that it did.
    """

    __slots__ = ("again", "deadline", "lost", "needs_tables", "session_id", "timeout", "uncertain", "work")

    def __init__(
        self,
        work: Callable[[], Steps[T]],
        timeout: float,
        *,
        again: Callable[[], Steps[T]] | None = None,
        session_id: str = "",
        needs_tables: bool = True,
    ) -> None:
        self.work = work
        self.again = again or work
        self.session_id = session_id
        self.needs_tables = needs_tables
        self.timeout = timeout
        self.deadline = monotonic() + timeout
        self.uncertain = False
        self.lost = ""

    def failed(self, store: str, problem: str) -> StoreUnavailable:
        """What to tell the caller."""
        if self.uncertain and self.session_id:
            return OutcomeUnknown(store, self.session_id, problem)
        return StoreUnavailable(store, problem)

    def too_late(self, store: str) -> StoreUnavailable:
        """The same, when time has run out."""
        why = f" ({self.lost})" if self.lost else ""
        return self.failed(store, f"no answer within {self.timeout:g} s{why}")


class Core:
    """The store, in steps.

    Args:
        dialect: the database's, and the driver's.
        store: the store's address without its password, for messages.
        prefix: what the names of tables begin with.
        timeout: seconds for one call where the caller gives none.
        create: whether the tables are created if they are missing.
        unlogged: how they are created, then.
    """

    def __init__(
        self,
        dialect: Dialect,
        store: str,
        *,
        prefix: str,
        timeout: float,
        create: bool = False,
        unlogged: bool = False,
    ) -> None:
        self.dialect = dialect
        self.store = store
        self.prefix = prefix
        self.timeout = timeout
        self._create = create
        self._unlogged = unlogged
        self._checked = False  # whether the tables are there, and ours
        self.verbs = _VERBS[family(dialect)](dialect, prefix, store)

    # --- the calls ---------------------------------------------------------------------------------------------------

    def creating(self, new: NewRecord, timeout: float | None) -> Call[Applied]:
        return self._call(lambda: self.verbs.create(new), timeout, session_id=new.session_id)

    def reading(self, session_id: str, timeout: float | None) -> Call[Record | None]:
        return self._call(lambda: self.verbs.read(session_id), timeout)

    def updating(self, session_id: str, changes: Changes, timeout: float | None) -> Call[Applied]:
        return self._call(
            lambda: self.verbs.update(session_id, changes),
            timeout,
            again=lambda: self.verbs.update(session_id, changes.again()),
            session_id=session_id,
        )

    def deleting(self, session_id: str, timeout: float | None) -> Call[bool]:
        return self._call(
            lambda: self.verbs.delete(session_id), timeout, again=lambda: self.verbs.delete_again(session_id)
        )

    def finding(self, owner: str, timeout: float | None) -> Call[list[Record]]:
        return self._call(lambda: self.verbs.sessions_of(owner), timeout)

    def sweeping(self, most: int, timeout: float | None) -> Call[int]:
        return self._call(lambda: self.verbs.sweep(most), timeout)

    def installing(self, timeout: float | None) -> Call[bool]:
        return self._call(self._create_tables, timeout, needs_tables=False)

    def _call(self, work: Callable[[], Steps[T]], timeout: float | None, **more: Any) -> Call[T]:
        return Call(work, self.timeout if timeout is None else timeout, **more)

    # --- carrying them out -------------------------------------------------------------------------------------------

    def perform(self, call: Call[T]) -> Steps[T]:
        """Do it, and again where that is right: when it lost against another transaction, until time is over; and once
        when the connection broke under way, or when what it found was not as it had been. While the database cannot be
        reached nothing is repeated.

        Raises:
            StoreUnavailable, OutcomeUnknown: it could not be done, or nobody knows whether it was.
        """
        once = {"broken", "duplicate", "missing"}
        while True:
            connected = False
            try:
                yield Connect()
                connected = True
                if not self._checked and call.needs_tables:
                    yield from self._check_tables()
                answer = yield from call.again() if call.uncertain else call.work()
                yield Release(clean=True)
                return answer
            except CoatcheckError as refusal:
                yield from self._undo()
                yield Release(clean=not isinstance(refusal, ForeignReply))
                raise
            except Trouble as problem:
                kind = problem.kind
                if connected:
                    lost = kind in ("again", "duplicate")
                    if lost:
                        yield from self._undo()
                    # Who was about to create tables has locked out all others who want to: that ends with the connection.
                    clean = lost and self._checked and call.needs_tables
                    yield Release(clean=clean, others=kind == "broken")
                if kind == "again":
                    call.lost = str(problem)
                elif kind == "missing":
                    self._checked = False
                if kind == "slow" or monotonic() >= call.deadline:
                    raise call.too_late(self.store) from problem
                if kind == "again":
                    pause = random.uniform(0.1, 1) * _PAUSE  # noqa: S311
                    yield Pause(min(pause, call.deadline - monotonic()))
                elif kind in once and connected:
                    once.remove(kind)
                elif kind == "full":
                    raise StoreFull(self.store, str(problem)) from problem
                elif kind == "missing":
                    raise call.failed(self.store, incomplete(self.prefix, str(problem))) from problem
                else:
                    self._checked = False  # so that missing tables are called by their name
                    raise call.failed(self.store, str(problem)) from problem

    def _undo(self) -> Steps[None]:
        if self.verbs.in_transactions:
            with suppress(Trouble):  # a connection that breaks now is found out by whoever uses it next
                yield ROLLBACK

    # --- the tables --------------------------------------------------------------------------------------------------

    def _check_tables(self) -> Steps[None]:
        version = yield from self.verbs.version()
        if version is None and self._create:
            yield from self._create_tables()
            version = yield from self.verbs.version()
        if version != schema.VERSION:
            raise StoreUnavailable(self.store, advice(version))
        self._checked = True

    def _create_tables(self) -> Steps[bool]:
        texts = schema.statements(self.dialect, self.prefix, unlogged=self._unlogged)
        created = yield from self.verbs.install(texts)
        version = schema.VERSION if created else (yield from self.verbs.version())
        if version != schema.VERSION:
            raise StoreUnavailable(self.store, advice(version))
        return created


def incomplete(prefix: str, problem: str) -> str:
    """What is wrong if the version is there and something else is not, and what to do."""
    return (
        f"some of its tables, or their functions, are missing ({problem}). Restore them, or drop all whose names begin "
        f"with {prefix} and create them anew with `coatcheck schema create URL`"
    )


def advice(version: int | None) -> str:
    """What is wrong with tables of this version, and what to do."""
    if version is None:
        return "its tables are missing. Create them with `coatcheck schema create URL`, or add ?create=true to the URL"
    if version > schema.VERSION:
        return (
            f"its tables have version {version}, and this coatcheck knows {schema.VERSION}: they were made by a newer "
            "one. Upgrade coatcheck"
        )
    return f"its tables have version {version}, and this coatcheck needs {schema.VERSION}. Drop and create them anew"
