"""The store in a database, for synchronous applications."""

from __future__ import annotations

import os
from collections.abc import Callable

from sqlalchemy import Engine

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import ConfigurationError
from coatcheck.record import Record
from coatcheck.stores.opening import without_password
from coatcheck.stores.sql.address import Target
from coatcheck.stores.sql.core import Core
from coatcheck.stores.sql.desk import Desk
from coatcheck.stores.sql.drivers import Way, way_through, way_to
from coatcheck.stores.sql.sweeping import BATCH


class SyncSQLStore:
    """`SQLStore` for synchronous applications: the same sessions, the same promises. May be used from many threads.

    It has a few connections (`pool_size` in the URL), each lent to one thread at a time. Further threads wait, first come
    first served, for as long as their time limit allows. A forked process has connections of its own, so a store may be
    opened before the web server forks its workers.

    Args:
        make: opens what the store works with, in each process anew.
    """

    def __init__(self, make: Callable[[], Desk]) -> None:
        self._make = make
        self._desk = make()
        self._process = os.getpid()

    @classmethod
    def from_url(cls, url: str) -> SyncSQLStore:
        """A store by URL; see `coatcheck.stores.sql.address.Target` for its forms and options.

        Raises:
            ConfigurationError: an option that is unknown or cannot work.
        """
        target = Target.parse(url)

        def make() -> Desk:
            way = way_to(target, asynchronous=False)
            return Desk(core_of(target, way), way, target.pool_size, sweep=target.sweep)

        return cls(make)

    @classmethod
    def from_engine(cls, engine: Engine, *, prefix: str = "coatcheck_", timeout: float = 1.0) -> SyncSQLStore:
        """A store over the caller's own engine, whose connections it shares and never closes.

        While the store has a connection, each statement on it commits by itself. How long a call waits for a connection of
        the pool, for connecting and for an answer is up to the engine's own settings: `timeout` seconds, or those that the
        caller gives, bound only when something is begun.
        """
        if not isinstance(engine, Engine):
            raise ConfigurationError(
                "engine", type(engine).__qualname__, "not a synchronous engine", "Use SQLAlchemy's create_engine"
            )
        shown = without_password(engine.url.render_as_string())
        core = Core(engine.dialect, shown, prefix=prefix, timeout=timeout)
        return cls(lambda: Desk(core, way_through(engine, asynchronous=False), None))

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        desk = self._here()
        return desk.perform(desk.core.creating(new, timeout))

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        desk = self._here()
        return desk.perform(desk.core.reading(session_id, timeout))

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        desk = self._here()
        return desk.perform(desk.core.updating(session_id, changes, timeout))

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        desk = self._here()
        return desk.perform(desk.core.deleting(session_id, timeout))

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        desk = self._here()
        return desk.perform(desk.core.finding(owner, timeout))

    def sweep(self, *, batch: int = BATCH, timeout: float | None = None) -> int:
        """Remove sessions that ended an hour ago or earlier, `batch` at most. How many that were.

        Any number of servers may do it at once: none waits for another.
        """
        desk = self._here()
        return desk.perform(desk.core.sweeping(batch, timeout))

    def create_tables(self, *, timeout: float | None = None) -> bool:
        """Create the tables, unless somebody has. Whether they were created now."""
        desk = self._here()
        return desk.perform(desk.core.installing(timeout))

    def close(self) -> None:
        """Close the connections that the store opened itself. It may be used again, and then makes new ones."""
        self._here().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._desk.core.store}>"

    def _here(self) -> Desk:
        if self._process != os.getpid():
            self._desk.forget()
            self._desk = self._make()
            self._process = os.getpid()
        return self._desk


def core_of(target: Target, way: Way) -> Core:
    """What is done in the database that a URL names."""
    return Core(
        way.dialect,
        target.shown,
        prefix=target.prefix,
        timeout=target.timeout,
        create=target.create,
        unlogged=target.durability == "unlogged",
    )
