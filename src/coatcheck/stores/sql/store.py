"""The store in a database, for asynchronous applications."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import ConfigurationError
from coatcheck.record import Record
from coatcheck.stores.opening import without_password
from coatcheck.stores.sql.address import Target
from coatcheck.stores.sql.asking import Ask, Connect, Release, Step
from coatcheck.stores.sql.core import Call, Core
from coatcheck.stores.sql.desk import Desk, Resting, Uncertainty
from coatcheck.stores.sql.drivers import Way, way_through, way_to
from coatcheck.stores.sql.lines import AsyncLine
from coatcheck.stores.sql.sweeping import BATCH, AsyncSweeper
from coatcheck.stores.sql.sync_store import core_of
from coatcheck.stores.sql.trouble import trouble
from coatcheck.stores.steps import follow

T = TypeVar("T")


class SQLStore:
    """Sessions in a database: a row per session, and a row per field. Any web server serves any user.

    A read is one statement. On PostgreSQL a commit is one round trip. Acknowledged means: committed by the database, as
    durable as it is set up to be. A commit whose answer was lost is sent once more, under the same operation id, so that it
    is applied once. One that lost against another transaction (a deadlock, say) is tried again while there is time.

    Args:
        make: opens what the store works with, for each event loop anew.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self._runners: dict[asyncio.AbstractEventLoop, Runner] = {}
        self._latest: tuple[asyncio.AbstractEventLoop | None, Runner | None] = (None, None)
        self._process = os.getpid()
        self._shown = "(not opened yet)"

    @classmethod
    def from_url(cls, url: str) -> SQLStore:
        """A store by URL; see `coatcheck.stores.sql.address.Target` for its forms and options.

        Raises:
            ConfigurationError: an option that is unknown or cannot work.
        """
        target = Target.parse(url)

        def make() -> Runner:
            way = way_to(target, asynchronous=True)
            core = core_of(target, way)
            if target.database == "sqlite":
                return _OnThreads(Desk(core, way, None), target.pool_size, sweep=target.sweep)
            return _InLoop(core, way, target.pool_size, sweep=target.sweep)

        make().forget()  # a mistake in the URL is found here
        store = cls(make)
        store._shown = target.shown
        return store

    @classmethod
    def from_engine(cls, engine: AsyncEngine, *, prefix: str = "coatcheck_", timeout: float = 1.0) -> SQLStore:
        """A store over the caller's own engine, whose connections it shares and never closes.

        While the store has a connection, each statement on it commits by itself.
        """
        if not isinstance(engine, AsyncEngine):
            raise ConfigurationError(
                "engine",
                type(engine).__qualname__,
                "not an asynchronous engine",
                "Use SQLAlchemy's create_async_engine",
            )
        shown = without_password(engine.url.render_as_string())
        core = Core(engine.dialect, shown, prefix=prefix, timeout=timeout)
        way = way_through(engine.sync_engine, asynchronous=True)
        store = cls(lambda: _InLoop(core, way, None))
        store._shown = shown
        return store

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        runner = self._here()
        return await runner.perform(runner.core.creating(new, timeout))

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        runner = self._here()
        return await runner.perform(runner.core.reading(session_id, timeout))

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        runner = self._here()
        return await runner.perform(runner.core.updating(session_id, changes, timeout))

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        runner = self._here()
        return await runner.perform(runner.core.deleting(session_id, timeout))

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        runner = self._here()
        return await runner.perform(runner.core.finding(owner, timeout))

    async def sweep(self, *, batch: int = BATCH, timeout: float | None = None) -> int:
        """Remove sessions that ended an hour ago or earlier, `batch` at most. How many that were.

        Any number of servers may do it at once: none waits for another.
        """
        runner = self._here()
        return await runner.perform(runner.core.sweeping(batch, timeout))

    async def create_tables(self, *, timeout: float | None = None) -> bool:
        """Create the tables, unless somebody has. Whether they were created now."""
        runner = self._here()
        return await runner.perform(runner.core.installing(timeout))

    async def close(self) -> None:
        """Close this event loop's connections."""
        self._leave_parents()
        runner = self._runners.pop(asyncio.get_running_loop(), None)
        self._latest = (None, None)
        if runner is not None:
            await runner.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def _here(self) -> Runner:
        loop = asyncio.get_running_loop()
        latest, runner = self._latest
        if runner is not None and latest is loop and self._process == os.getpid():
            return runner
        self._leave_parents()
        for other in [other for other in list(self._runners) if other.is_closed()]:
            self._runners.pop(other).forget()
        runner = self._runners[loop] = self._runners.get(loop) or self._make()
        self._latest = (loop, runner)
        return runner

    def _leave_parents(self) -> None:
        """Keep off what is open, if this process was forked since: it is the parent's."""
        if self._process != os.getpid():
            _OF_PARENTS.extend(self._runners.values())
            self._runners.clear()
            self._process = os.getpid()


class Runner(Protocol):
    """Has calls carried out, in one event loop."""

    core: Core

    async def perform(self, call: Call[T]) -> T:
        """See `Core.perform`."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...

    def forget(self) -> None:
        """Let go of what was opened, without a word to the other side: its loop is gone."""
        ...


_OF_PARENTS: list[Runner] = []
"""They are kept as they are: a connection that is closed here would be taken out of the parent's event loop too."""


class _InLoop:
    """With an asynchronous driver.

    Args:
        core: says what is done.
        way: how to reach the database.
        places: how many calls it serves at once; `None` for as many as come, if the engine has its own way.
        sweep: seconds between two sweeps in the background; 0 for none.
    """

    def __init__(self, core: Core, way: Way, places: int | None, *, sweep: float = 0.0) -> None:
        self.core = core
        self.way = way
        self.resting: Resting[AsyncLine] = Resting()
        self._places = asyncio.Semaphore(places or 1_000_000)
        self._sweeper = AsyncSweeper(sweep, lambda: self.perform(core.sweeping(BATCH, None)))

    async def perform(self, call: Call[T]) -> T:
        self._sweeper.begin()
        hand = _Hand(self, call)
        try:
            async with asyncio.timeout(call.timeout), self._places:
                try:
                    return await follow(self.core.perform(call), hand.do)
                finally:
                    hand.let_go()
        except TimeoutError:
            raise call.too_late(self.core.store) from None

    async def close(self) -> None:
        await self._sweeper.end()
        lines = self.resting.all()
        try:
            async with asyncio.timeout(_PATIENCE):
                for line in lines:
                    await line.close()
        except Exception:  # the other side does not listen, or is gone
            for line in lines:
                line.cut()
        await asyncio.sleep(0)  # what was cut off is closed in the next turn of the loop, which may be its last

    def forget(self) -> None:
        self.resting.clear()


class _Hand:
    """What a call has hold of. See `desk`: the same with an await."""

    def __init__(self, runner: _InLoop, call: Call[Any]) -> None:
        self._runner = runner
        self._call = call
        self._line: AsyncLine | None = None

    async def do(self, step: Step) -> Any:
        """Carry out a step. Raises `Trouble`."""
        kind = type(step)
        if kind is Ask:
            return await self._ask(step)  # type: ignore[arg-type]
        if kind is Connect:
            return await self._connect()
        if kind is Release:
            return await self._release(step)  # type: ignore[arg-type]
        return await asyncio.sleep(step.seconds)  # type: ignore[union-attr]

    def let_go(self) -> None:
        """Cut the connection off, if the call ended before it was done with it."""
        line, self._line = self._line, None
        if line is not None:
            line.cut()

    async def _ask(self, ask: Ask) -> Any:
        assert self._line is not None
        with Uncertainty(self._call, ask):
            try:
                return await self._line.ask(ask)
            except Exception as error:
                raise trouble(error, self._runner.way) from error

    async def _connect(self) -> None:
        self._line = self._runner.resting.take()
        if self._line is None:
            try:
                self._line = await self._runner.way.open()
            except Exception as error:
                raise trouble(error, self._runner.way) from error

    async def _release(self, release: Release) -> None:
        line, self._line = self._line, None
        assert line is not None
        if release.others:
            self._runner.resting.clear()
        if not release.clean:
            line.cut()
        elif line.rests:
            self._runner.resting.put(line)
        else:
            await line.close()


class _OnThreads:
    """With a driver that blocks, on a few threads. What a thread has begun it ends, even if nobody waits any more.

    Args:
        desk: serves the threads.
        threads: how many.
        sweep: seconds between two sweeps in the background; 0 for none.
    """

    def __init__(self, desk: Desk, threads: int, *, sweep: float = 0.0) -> None:
        self.core = desk.core
        self._desk = desk
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="coatcheck-sql")
        self._sweeper = AsyncSweeper(sweep, lambda: self.perform(desk.core.sweeping(BATCH, None)))

    async def perform(self, call: Call[T]) -> T:
        self._sweeper.begin()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(call.timeout):
                return await loop.run_in_executor(self._threads, self._desk.perform, call)
        except TimeoutError:
            raise call.too_late(self.core.store) from None

    async def close(self) -> None:
        await self._sweeper.end()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._desk.close()

    def forget(self) -> None:
        self._threads.shutdown(wait=False)
        self._desk.close()


_PATIENCE = 2.0
"""Seconds at most for saying goodbye to the database."""
