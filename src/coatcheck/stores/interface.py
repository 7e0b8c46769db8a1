"""The store contract. These docstrings are the contract; `coatcheck.testing` holds any store against them.

A store keeps records by session id. It is small enough to write in an afternoon: four verbs, and what each must do is
spelled out by `coatcheck.record.created` and `coatcheck.record.apply`, which a store may call. Powers beyond the four are
protocols of their own.

**Time** is the store's own, in whole milliseconds since 1970. A store never trusts a web server's clock, and hands out the
moment of reading with each record.

**Failing** has three outcomes that never mix. *Absent*: `read` gives `None`, `update` raises `SessionGone`. *Down*:
`StoreUnavailable` (or `OutcomeUnknown`, when a commit was sent and its answer never came). *Corrupt*: `CorruptRecord`.

**Time to wait** is the caller's: `timeout` is what is left, in seconds, of the time that one request may spend on its
store, connecting included. A store that needs longer raises `StoreUnavailable` or `OutcomeUnknown`. `None` leaves it to the
store. A store that never waits may ignore it.

**Cancelling** a call at any moment leaks nothing, and never lets its answer reach another call.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.record import Record


class FreshRead(Struct, frozen=True, gc=False):
    """What a store read that was asked for no less than a freshness token stands for.

    Attributes:
        record: the best that could be had; `None` if there is no such session.
        lag: `""` if it has all that the token stands for; `late` if not, and the rest may still come; `rolled back` if
            the rest is nowhere any more.
        seen: the freshness token that the browser is to hold instead, `""` for none; `None` to keep the one that it has.
    """

    record: Record | None
    lag: Literal["", "late", "rolled back"] = ""
    seen: str | None = None


class AsyncStore(Protocol):
    """Where sessions live, for asynchronous applications. Used from one event loop at a time.

    Each verb is awaited, so it may be an `async def`, or hand out another one's coroutine.
    """

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Coroutine[Any, Any, Applied]:
        """Store a new record, with version 1, that expires by its idle and absolute timeouts.

        Atomic: a record with all fields and its expiry, or none. Repeating the call with the same `operation`
        succeeds and changes nothing.

        Raises:
            SessionExists: there is a live record with this id already; it is left as it is. A store may also refuse an id
                that it remembers to have been deleted, since ids are never reused.
            StoreFull: there is no room.
            StoreUnavailable, OutcomeUnknown: see the module's docstring.
        """
        ...

    def read(self, session_id: str, *, timeout: float | None = None) -> Coroutine[Any, Any, Record | None]:
        """The live record with this id, the store's present time included, or `None`.

        Reading does not touch. An expired record is absent, whether or not it has been removed yet. The record
        given must be `session_id`'s own: a store that gets another one drops the connection and raises.

        Raises:
            CorruptRecord: what is stored under this id is no session record.
            ForeignReply: the answer belonged to another request.
            StoreUnavailable: see the module's docstring.
        """
        ...

    def update(
        self, session_id: str, changes: Changes, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, Applied]:
        """Apply a commit atomically, exactly once, and never to a record that is gone.

        What it means is `coatcheck.record.apply`, by the store's own clock. Two commits never interleave. Repeating
        a commit that was applied (the same `operation`, among the last `OPERATIONS_REMEMBERED`) changes nothing and
        gives the record's present version and counters.

        Returns:
            the new version, the time of the commit and the new values of the incremented fields.

        Raises:
            SessionGone: no live record, or `changes.proof` opens it no longer. Nothing was written or created.
            Conflict: `changes.unchanged`, and the version has moved on. Nothing was written.
            NotACounter: an increment of something else, or one that leaves 64 bits. Nothing was written.
            TooLong, BadFieldName, UnstorableValue: a store has no room for a name or an owner, or cannot keep a name or a
                text. Nothing was written.
            StoreFull: there is no room for it. Nothing was written.
            OutcomeUnknown: it was sent, and whether it was applied cannot be known.
            StoreUnavailable: it was not applied.
            CorruptRecord, ForeignReply: as for `read`.
        """
        ...

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        """Remove the record, whatever is in it. Repeating is harmless.

        Returns:
            whether there was one. If an answer was lost and the store had to ask again, whether there may have been one.

        Raises:
            StoreUnavailable: see the module's docstring.
        """
        ...

    async def close(self) -> None:
        """Let go of connections that this store opened itself. What it was handed stays open."""
        ...


class SyncStore(Protocol):
    """Where sessions live, for synchronous applications. May be used from many threads. Means what `AsyncStore` means."""

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        """See `AsyncStore.create`."""
        ...

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        """See `AsyncStore.read`."""
        ...

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        """See `AsyncStore.update`."""
        ...

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        """See `AsyncStore.delete`."""
        ...

    def close(self) -> None:
        """See `AsyncStore.close`."""
        ...


@runtime_checkable
class AsyncOwnerIndex(Protocol):
    """A store that can find the sessions of one owner: for a list of devices, and for logging out everywhere."""

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        """All live records of this owner, the most recently touched first. Reading them does not touch them.

        `timeout` is for the whole list, however many sessions are in it and however often the store has to be asked: all
        of them are given by then, or none. Work of the store's own, such as mending its index, never makes it fail.

        Raises:
            StoreUnavailable: see the module's docstring.
        """
        ...


@runtime_checkable
class SyncOwnerIndex(Protocol):
    """See `AsyncOwnerIndex`."""

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        """See `AsyncOwnerIndex.sessions_of`."""
        ...


@runtime_checkable
class NearReading(Protocol):
    """A store, synchronous or not, that may have a record at hand without asking anybody."""

    def near(self, session_id: str, seen: str) -> Record | None:
        """The record, as it was a moment ago, or `None` if that is not known here. Never waits.

        It is the caller's own, and carries the store's present time as `read` does. It has all that the freshness token
        `seen` stands for (`""` for nothing). Else it may be out of date by as long as the store's documentation says; so
        it is good for letting somebody in, and never for refusing him. `read` and all else give the present truth.
        """
        ...


@runtime_checkable
class AsyncSweeping(Protocol):
    """A store that can be told to remove what has expired now, rather than when it does so by itself."""

    async def sweep(self) -> int:
        """Remove expired records, some at a time. Returns how many; 0 when there are none left."""
        ...


@runtime_checkable
class SyncSweeping(Protocol):
    """See `AsyncSweeping`."""

    def sweep(self) -> int:
        """See `AsyncSweeping.sweep`."""
        ...


@runtime_checkable
class AsyncJoining(Protocol):
    """A store that has to find others, and take over what they hold, before it can serve."""

    async def start(self) -> None:
        """Begin with that, without waiting for it. Calling it again is harmless.

        Raises:
            ConfigurationError: it cannot work as it is set up.
            StoreUnavailable: it cannot begin yet.
        """
        ...

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether it serves; waits for that, `timeout` seconds at most, or for as long as it takes. Starts it, too."""
        ...


@runtime_checkable
class SyncJoining(Protocol):
    """See `AsyncJoining`."""

    def ready(self, *, timeout: float | None = None) -> bool:
        """See `AsyncJoining.ready`."""
        ...


@runtime_checkable
class AsyncFreshness(Protocol):
    """A store that may show one server less than the same browser has seen on another one already, and knows of it.

    Its answers to `create` and `update` say in `Applied.seen` which **freshness token** the browser is to hold: ASCII
    letters, digits and `_.~-`, `coatcheck.ticket.LONGEST_SEEN` of them at most, and `""` for none. It comes back with the
    next request, to whichever server, in `Changes.seen` and here. What is in it is the store's own business. It may be
    old, or made up by anybody: it may cost a short wait, and must never open, end or create a session.
    """

    async def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        """`AsyncStore.read`, with no less than `seen` stands for, if that can be had without waiting for long.

        Raises:
            CorruptRecord, ForeignReply, StoreUnavailable: as for `read`. That something is late, or lost, is no error.
        """
        ...


@runtime_checkable
class SyncFreshness(Protocol):
    """See `AsyncFreshness`."""

    def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        """See `AsyncFreshness.read_fresh`."""
        ...
