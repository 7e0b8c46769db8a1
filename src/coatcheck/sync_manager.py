"""`manager` for synchronous applications: the very same code, on a store that answers at once.

A coroutine that never waits is an ordinary function in another coat. `SessionManager` waits for nothing but its store, so
on a store whose answers are there when it asks, each of its coroutines runs from its beginning to its end in one go.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.codec import Codec
from coatcheck.errors import ConfigurationError, NotLoaded
from coatcheck.events import Observer
from coatcheck.manager import ManagedSession, SessionManager, check_store
from coatcheck.observers.logs import log
from coatcheck.record import Record
from coatcheck.settings import Settings
from coatcheck.stores.interface import FreshRead, NearReading, SyncFreshness, SyncJoining, SyncOwnerIndex, SyncStore
from coatcheck.stores.opening import open_sync_store
from coatcheck.ticket import Ticket

T = TypeVar("T")


class SyncSession(ManagedSession):
    """A `Session` for synchronous code. It is read from the store when it is first looked at, and not before.

    It belongs to its request: use it from one thread at a time.
    """

    __slots__ = ("manager",)

    def __init__(self, manager: SyncSessionManager, ticket: Ticket | None) -> None:
        super().__init__(manager.shared, ticket)
        self.manager = manager

    def load(self) -> None:
        """Read the session from the store, unless that has been done. The first look at it does so too.

        Raises:
            StoreUnavailable: the store is down; nothing is known about the session.
        """
        self.manager.load(self)

    def commit(self) -> None:
        """Store this request's changes now rather than at its end; see `coatcheck.manager.AsyncSession.commit`."""
        self.time_left = self.manager.shared.store_seconds
        self.manager.commit(self)

    def reload(self) -> None:
        """Read the session again, dropping changes that were not committed; see `coatcheck.manager.AsyncSession.reload`."""
        if not self.loaded:
            self._look()  # as any other first look
        at_once(self.manager.shared.reload(self))

    def _look(self) -> dict[str, str]:
        if self._fields is None:
            with suppress(NotLoaded):  # note the look, unless it comes too late
                super()._look()
            self.load()
        return super()._look()


class SyncSessionManager:
    """`SessionManager` for synchronous applications. May be used from many threads. One per application.

    Args:
        store: where sessions live: a URL, or a store from `open_sync_store`. One that this manager opened it also closes.
        settings, codec, observers: as for `coatcheck.SessionManager`. Observers are called in the request's thread.

    Attributes:
        shared: the manager that does the work.
    """

    def __init__(
        self,
        store: str | SyncStore,
        settings: Settings | None = None,
        *,
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        self._owns_store = isinstance(store, str)
        self.store: SyncStore = open_sync_store(store) if isinstance(store, str) else store
        check_store(self.store, "open_sync_store()")
        if iscoroutinefunction(self.store.close):
            raise ConfigurationError(
                "store", type(self.store).__qualname__, "an asynchronous store in a synchronous application",
                "Give a URL, or what open_sync_store() returns",
            )  # fmt: skip
        answering = _AnswersAtOnce(self.store)
        if isinstance(self.store, SyncFreshness):
            answering = _FreshAtOnce(self.store, self.store)
        self.shared = SessionManager(answering, settings, codec=codec, observers=observers)
        self.settings = self.shared.settings
        self.codec = self.shared.codec
        self.cookie = self.shared.cookie

    def ticket_of(self, cookie_header: str) -> Ticket | None:
        """The ticket that a request with this `Cookie` header (as WSGI has it; empty if there is none) shows."""
        return self.shared.ticket_of(((b"cookie", cookie_header.encode("latin-1")),)) if cookie_header else None

    def session_for(self, cookie_header: str) -> SyncSession:
        """The session of a request with this `Cookie` header, to be read from the store when it is looked at."""
        return SyncSession(self, self.ticket_of(cookie_header))

    def load(self, session: ManagedSession) -> None:
        """Read the session from the store, unless that has been done; see `SyncSession.load`."""
        at_once(self.shared.load(session))

    def is_settled(self, session: ManagedSession) -> bool:
        """Whether a commit would find nothing to do; see `coatcheck.SessionManager.is_settled`."""
        return self.shared.is_settled(session)

    def commit(self, session: ManagedSession, *, surely: bool = False) -> None:
        """Store the session's changes; see `SyncSession.commit`, and `lifecycle.plan` for `surely`."""
        at_once(self.shared.commit(session, surely=surely))

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        """All live sessions of one owner, the most recently used first; see `coatcheck.SessionManager.sessions_of`."""
        return at_once(self.shared.sessions_of(owner, timeout=timeout))

    def end_sessions_of(self, owner: str, *, but: str | None = None, timeout: float | None = None) -> int:
        """End all sessions of one owner but one; returns how many. See `coatcheck.SessionManager.end_sessions_of`."""
        return at_once(self.shared.end_sessions_of(owner, but=but, timeout=timeout))

    def ready(self, *, timeout: float | None = None) -> bool:
        """Whether sessions can be served, for a readiness probe; see `coatcheck.SessionManager.ready`.

        A store that has to join others begins with it when it is first asked for anything, in each worker process for
        itself. So let the probe ask, or the first users find a server that is not ready.
        """
        return not isinstance(self.store, SyncJoining) or self.store.ready(timeout=timeout)

    def close(self) -> None:
        """Close the store if this manager opened it."""
        if self._owns_store:
            self.store.close()


class _AnswersAtOnce:
    """A synchronous store as `SessionManager` wants it."""

    def __init__(self, store: SyncStore) -> None:
        self._store = store
        if isinstance(store, NearReading):
            self.near = store.near

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self._store.create(new, timeout=timeout)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        return self._store.read(session_id, timeout=timeout)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return self._store.update(session_id, changes, timeout=timeout)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self._store.delete(session_id, timeout=timeout)

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        if not isinstance(self._store, SyncOwnerIndex):
            raise NotImplementedError(f"{type(self._store).__name__} keeps no index of owners")
        return self._store.sessions_of(owner, timeout=timeout)

    async def close(self) -> None:
        self._store.close()


class _FreshAtOnce(_AnswersAtOnce):
    """The same, of one that knows of freshness tokens."""

    def __init__(self, store: SyncStore, fresh: SyncFreshness) -> None:
        super().__init__(store)
        self._fresh = fresh

    async def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        return self._fresh.read_fresh(session_id, seen, timeout=timeout)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("a synchronous store was waited for")
