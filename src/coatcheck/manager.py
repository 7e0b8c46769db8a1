"""Runs the lifecycle against a store: everything in a session's life that waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from mypy_extensions import mypyc_attr

from coatcheck.changes import Applied
from coatcheck.clock import monotonic
from coatcheck.codec import Codec, JSONCodec
from coatcheck.cookie import SEEN, Cookie
from coatcheck.errors import (
    ConfigurationError,
    Conflict,
    CorruptRecord,
    ForeignReply,
    NotACounter,
    NotLoaded,
    OutcomeUnknown,
    SessionGone,
    StoreError,
    StoreUnavailable,
)
from coatcheck.events import Event, EventName, Observer
from coatcheck.lifecycle import (
    NOTHING,
    CookieAction,
    Plan,
    admit,
    begin,
    is_settled,
    plan,
    refusal_of,
    settle,
    ticket_of,
)
from coatcheck.observers.logs import log
from coatcheck.record import Record
from coatcheck.session import Session
from coatcheck.settings import Settings
from coatcheck.stores.interface import AsyncFreshness, AsyncJoining, AsyncOwnerIndex, AsyncStore, FreshRead, NearReading
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.opening import open_store
from coatcheck.ticket import Ticket

_log = logging.getLogger("coatcheck")

LEAST_TIME: Final = 0.05
"""Seconds that are left for each step at least: the time that a busy event loop took must not count as the store's."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ManagedSession(Session):
    """A request's `Session`, with what a manager notes of it."""

    __slots__ = ("committing", "set_cookie", "set_seen", "settings", "time_left")

    def __init__(self, manager: SessionManager, ticket: Ticket | None) -> None:
        super().__init__(manager.codec, ticket)
        self.settings = manager.settings
        self.set_cookie: str | None = None  # what the response must carry after a commit, if anything
        self.set_seen: str | None = None  # the same of the freshness token
        self.committing: list[asyncio.Future[None]] | None = None  # while a commit is under way, who waits for its end
        self.time_left = manager.store_seconds  # seconds that this request may still spend on its store

    @property
    def set_cookies(self) -> Sequence[str]:
        """All `Set-Cookie` values that the response must carry."""
        if self.set_cookie is None and self.set_seen is None:
            return ()
        return [each for each in (self.set_cookie, self.set_seen) if each is not None]


@mypyc_attr(allow_interpreted_subclasses=True)
class AsyncSession(ManagedSession):
    """A `Session` that can go to the store and back in the middle of a request."""

    __slots__ = ("manager",)

    def __init__(self, manager: SessionManager, ticket: Ticket | None) -> None:
        super().__init__(manager, ticket)
        self.manager = manager

    async def load(self) -> None:
        """Read the session from the store, unless that has been done. For `load="explicit"`.

        Raises:
            StoreUnavailable: the store is down; nothing is known about the session.
        """
        await self.manager.load(self)

    async def commit(self) -> None:
        """Store this request's changes now rather than at its end; afterwards counters are exact.

        For event streams, WebSockets, and handlers that want to catch a refusal themselves. It has a `store_timeout` of its
        own. After a refusal the changes are still there, to be committed again; after `OutcomeUnknown` they are not.

        Raises:
            SessionGone: the session ended meanwhile. Nothing was saved.
            Conflict: it was changed meanwhile, and `require_unchanged()` was asked for. Nothing was saved.
            UnstorableValue: a value cannot be stored. Nothing was saved.
            StoreUnavailable: the store is down, or full; nothing was saved.
            OutcomeUnknown: the store's answer was lost; the changes may or may not have been saved.
        """
        self.time_left = self.manager.store_seconds
        await self.manager.commit(self)

    async def reload(self) -> None:
        """Read the session again, dropping changes that were not committed.

        In a stream or a WebSocket that lives on, this shows what other requests did, and allows changes again, to be
        stored with `commit()`. A session that has not been stored yet stays as it is.

        Raises:
            SessionGone: the session has ended: close the connection.
            NotLoaded: it has not been loaded in the first place.
            CorruptRecord, StoreUnavailable: as for `load` and `commit`.
        """
        await self.manager.reload(self)


def check_store(store: object, opener: str) -> None:
    """Refuse what has not even a store's verbs; `opener` is what gives one of the right kind."""
    for verb in ("create", "read", "update", "delete", "close"):
        if not callable(getattr(store, verb, None)):
            raise ConfigurationError(
                "store", type(store).__qualname__, f"it is neither a URL nor a store: it has no {verb}()",
                f"Give a URL such as 'redis://localhost:6379', or what {opener} returns",
            )  # fmt: skip


@mypyc_attr(allow_interpreted_subclasses=True)
class SessionManager:
    """Finds, loads and commits sessions for asynchronous applications. One per application.

    Args:
        store: where sessions live: a URL, or a store. A store that this manager opened it also closes.
        settings: timeouts and cookie; the defaults are safe.
        codec: how values are encoded; JSON by default.
        observers: called with each `Event`; by default `coatcheck.observers.logs.log`, which logs it. An observer that raises
            is logged and passed over.
    """

    def __init__(
        self,
        store: str | AsyncStore,
        settings: Settings | None = None,
        *,
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        self.settings = settings or Settings()
        self.store_seconds = self.settings.store_ms / 1000
        self.codec: Codec = JSONCodec() if codec is None else codec
        self.cookie = Cookie(self.settings.cookie)
        self._owns_store = isinstance(store, str)
        self.store: AsyncStore = open_store(store) if isinstance(store, str) else store
        self._fresh = self.store if isinstance(self.store, AsyncFreshness) else None
        self._seen_cookie = None if self._fresh is None else Cookie(self.settings.cookie, SEEN)
        self._near = self.store.near if isinstance(self.store, NearReading) else None
        self._observers = tuple(observers)
        self._check_parts()

    def _check_parts(self) -> None:
        """A wrong part is refused at start, not at the first request."""
        check_store(self.store, "open_store()")
        if isinstance(self.store, MemoryStore):
            raise ConfigurationError(
                "store", type(self.store).__qualname__, "a synchronous store in an asynchronous application",
                "Wrap it: AsyncMemoryStore(store)",
            )  # fmt: skip
        if not (callable(getattr(self.codec, "encode", None)) and callable(getattr(self.codec, "decode", None))):
            raise ConfigurationError(
                "codec", type(self.codec).__qualname__, "it has no encode() and decode()", "See coatcheck.codec.Codec"
            )
        for observer in self._observers:
            if not callable(observer):
                raise ConfigurationError(
                    "observers", type(observer).__qualname__, "an observer is called with each event",
                    "Give functions, such as coatcheck.observers.logs.log",
                )  # fmt: skip

    def session_for(self, headers: Iterable[Any]) -> AsyncSession:
        """The session of a request with these headers, not yet loaded if the request shows a ticket."""
        return AsyncSession(self, self.ticket_of(headers))

    def ticket_of(self, headers: Iterable[Any]) -> Ticket | None:
        """The ticket that a request with these headers shows, if it is one."""
        if self._seen_cookie is not None:  # they are looked through twice
            headers = [header for header in headers if header[0] == b"cookie"]
        ticket, refusal = ticket_of(headers, self.cookie)
        if refusal:
            self._tell("ticket_refused", None, refusal)
        elif ticket is not None and self._seen_cookie is not None:
            shown = self._seen_cookie.find(headers)
            if len(shown) == 1:
                ticket.show(shown[0])
        return ticket

    async def load(self, session: ManagedSession, *, anew: bool = False) -> None:
        """See `AsyncSession.load`.

        Args:
            session: whose.
            anew: ask the store in any case, for its present truth; see `stores.interface.NearReading`.
        """
        ticket = session.ticket
        if ticket is None or session.loaded:
            return
        if self._near is not None and not anew:
            record = self._near(ticket.session_id, ticket.seen)
            # Only who is let in is served from there; to refuse somebody is up to the store.
            if record is not None and not refusal_of(ticket, record):
                session.admit(record)
                return
        began = monotonic()
        found: FreshRead | None = None
        try:
            if self._fresh is not None and ticket.seen:
                found = await self._fresh.read_fresh(ticket.session_id, ticket.seen, timeout=session.time_left)
                record = found.record
            else:
                record = await self.store.read(ticket.session_id, timeout=session.time_left)
        except CorruptRecord as error:
            self._tell("record_corrupt", ticket.session_id, error.problem)
            if not session.loaded:
                session.admit(None)
            return
        except StoreError as error:
            raise self._told(error, ticket.session_id) from None
        finally:  # a store that did not answer has used up the time of an error page that looks again
            session.time_left = max(LEAST_TIME, session.time_left - (monotonic() - began))
        if session.loaded or session.ticket is not ticket:
            return  # another task of this request was quicker, and may have changed it already
        refusal = admit(session, ticket, record)
        if refusal:
            self._tell("ticket_refused", ticket.session_id, refusal)
        elif found is not None:
            self._note_lag(session, ticket, found)

    def is_settled(self, session: ManagedSession) -> bool:
        """Whether a commit would find nothing to do: the store has all that the session holds, and no touch is due."""
        return session.committing is None and is_settled(session, session.settings)

    async def commit(self, session: ManagedSession, *, surely: bool = False) -> None:
        """See `AsyncSession.commit`; and `lifecycle.plan` for `surely`."""
        while session.committing is not None:  # another task of this request is at it
            over = asyncio.get_running_loop().create_future()
            session.committing.append(over)
            await over
        todo = plan(session, session.settings, surely=surely)
        if session.unreadable_fields:
            self._tell_of_unreadable_fields(session)
        if todo is NOTHING:
            return
        begin(session, todo)
        session_id = session.session_id
        waiting = session.committing = []
        began = monotonic()
        try:
            if todo.update is not None and session_id is not None and todo.delete is None:
                applied: Applied | None = await self.store.update(session_id, todo.update, timeout=session.time_left)
            else:
                applied = await self._delete_and_create(todo, session.time_left)
        except (SessionGone, Conflict, NotACounter) as refusal:
            self._tell("commit_refused", session_id, type(refusal).__name__)
            if not todo.essential:
                return  # a mere touch came too late; that is no concern of this request's
            todo.refused()
            raise
        except CorruptRecord as error:
            self._tell("record_corrupt", session_id, error.problem)
            todo.refused()
            raise
        except StoreError as error:
            # What may have been done is not to be done again; but a deletion may, and a creation under another id.
            if todo.update is None or not isinstance(error, (OutcomeUnknown, ForeignReply)):
                todo.refused()
            if todo.create is not None and session.ticket is todo.shown:
                session.ticket = None
            self._told(error, session_id)
            if todo.essential:
                raise
            return
        except Exception:
            todo.refused()
            raise
        finally:
            session.committing = None
            session.time_left = max(LEAST_TIME, session.time_left - (monotonic() - began))
            for over in waiting:
                if not over.done():
                    over.set_result(None)
        action = settle(session, todo, applied, session.settings)
        if action == "write" and todo.ticket is not None:
            session.set_cookie = self.cookie.write(todo.ticket.cookie_value)
        elif action == "erase":
            session.set_cookie = self.cookie.erase()
        if self._seen_cookie is not None:
            self._note_seen(session, todo, applied, action)
        if todo.create is not None:
            self._tell("created", todo.create.session_id)
        elif applied is not None and applied.renewed:
            self._tell("renewed", session_id)
        if todo.delete is not None:
            self._tell("destroyed", todo.delete)

    async def reload(self, session: ManagedSession) -> None:
        """See `AsyncSession.reload`."""
        session_id, ticket = session.session_id, session.ticket
        if not session.loaded:
            raise NotLoaded
        if session_id is None or ticket is None:
            return
        try:
            record = await self.store.read(session_id, timeout=self.store_seconds)
        except CorruptRecord as error:
            self._tell("record_corrupt", session_id, error.problem)
            raise
        except StoreError as error:
            raise self._told(error, session_id) from None
        if admit(session, ticket, record):
            raise SessionGone(session_id)
        session.unseal()
        session.time_left = self.store_seconds

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        """All live sessions of one owner, the most recently used first.

        Args:
            owner: whose sessions.
            timeout: seconds for the whole list, however long it is; `None` for the setting `store_timeout`.

        Raises:
            NotImplementedError: the store keeps no index of owners.
            StoreUnavailable: the store is down, or did not give all of them in time.
        """
        return await self._index().sessions_of(owner, timeout=self.store_seconds if timeout is None else timeout)

    async def end_sessions_of(self, owner: str, *, but: str | None = None, timeout: float | None = None) -> int:
        """End all sessions of one owner, for instance after a change of password. Returns how many there were.

        Args:
            owner: whose sessions.
            but: a session id to spare, usually the present one's.
            timeout: seconds for finding them, and again for ending each of them; `None` for the setting `store_timeout`, and
                ten times that for finding them: nobody keeps his sessions by having made thousands.

        Raises:
            NotImplementedError: the store keeps no index of owners.
            StoreUnavailable: the store is down, or too slow. Some may have ended; call it again to end the others.
        """
        seconds = self.store_seconds if timeout is None else timeout
        finding = 10 * seconds if timeout is None else timeout
        ended = 0
        for record in await self._index().sessions_of(owner, timeout=finding):
            if record.session_id != but and await self.store.delete(record.session_id, timeout=seconds):
                ended += 1
                self._tell("destroyed", record.session_id)
        return ended

    async def start(self) -> None:
        """At the application's start: a store that has to join others begins with it, rather than at the first request.

        Raises:
            ConfigurationError: it cannot work as it is set up.
        """
        if isinstance(self.store, AsyncJoining):
            with suppress(StoreUnavailable):  # it is tried again by the first who needs it
                await self.store.start()

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether sessions can be served, for a readiness probe. A store that has to join others is waited for.

        Args:
            timeout: seconds to wait at most; `None` for as long as it takes.
        """
        return not isinstance(self.store, AsyncJoining) or await self.store.ready(timeout=timeout)

    async def close(self) -> None:
        """Close the store if this manager opened it."""
        if self._owns_store:
            await self.store.close()

    async def _delete_and_create(self, todo: Plan, time_left: float) -> Applied | None:
        # The old session ends before a new one begins: a crash in between leaves the user logged out, never logged in.
        if todo.delete is not None:
            began = monotonic()
            await self.store.delete(todo.delete, timeout=time_left)
            time_left -= monotonic() - began
        return None if todo.create is None else await self.store.create(todo.create, timeout=time_left)

    def _note_seen(self, session: ManagedSession, todo: Plan, applied: Applied | None, action: CookieAction) -> None:
        """The browser is to hold the freshness token of what was committed."""
        ticket = session.ticket
        if action == "erase" and self._seen_cookie is not None:
            session.set_seen = self._seen_cookie.erase()
        elif applied is not None and ticket is not None and (ticket is todo.shown or ticket is todo.ticket):
            self._hand_out(session, ticket, applied.seen)

    def _note_lag(self, session: ManagedSession, ticket: Ticket, found: FreshRead) -> None:
        """What was read may lack something that the browser has seen already."""
        if found.seen is not None:
            self._hand_out(session, ticket, found.seen)
        if found.lag == "late":
            self._tell("read_stale", ticket.session_id)
        elif found.lag == "rolled back":
            self._tell("rolled_back", ticket.session_id)

    def _hand_out(self, session: ManagedSession, ticket: Ticket, seen: str) -> None:
        if self._seen_cookie is not None and seen != ticket.seen:
            ticket.seen = seen
            session.set_seen = self._seen_cookie.write(ticket.seen_cookie_value) if seen else self._seen_cookie.erase()

    def _index(self) -> AsyncOwnerIndex:
        if not isinstance(self.store, AsyncOwnerIndex):
            raise NotImplementedError(f"{type(self.store).__name__} keeps no index of owners")
        return self.store

    def _told(self, error: StoreError, session_id: str | None) -> StoreError:
        name: EventName = "foreign_reply" if isinstance(error, ForeignReply) else "store_unavailable"
        self._tell(name, session_id, str(error))
        return error

    def _tell_of_unreadable_fields(self, session: Session) -> None:
        for error in session.take_unreadable():
            self._tell("field_unreadable", error.session_id, f"{error.field}: {error.problem}")

    def _tell(self, name: EventName, session_id: str | None, detail: str = "") -> None:
        if self._observers:
            event = Event(name, session_id, detail)
            for observer in self._observers:
                try:
                    observer(event)
                except Exception:
                    _log.exception("an observer of sessions failed at %s", name)
