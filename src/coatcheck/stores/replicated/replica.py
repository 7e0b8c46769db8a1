"""This server's copy of all sessions: what the store contract does to it, and what others' news do. No sockets.

Each verb gives, beside its answer, the `News` for the other servers, or `None` if nothing changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TypeAlias

from msgspec import Struct

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import OutcomeUnknown, SessionExists, SessionGone, StoreFull, StoreUnavailable
from coatcheck.record import Record, apply, created, remembers
from coatcheck.stores.replicated.freshness import Seen, includes
from coatcheck.stores.replicated.merge import (
    BEFORE_ALL,
    LogicalClock,
    Stamp,
    State,
    born,
    change,
    condensed,
    fingerprint,
    join,
    record_of,
    shifted,
)

BUCKETS = 256
"""Copies are compared in so many parts."""

# Bytes of memory beside the texts themselves, as measured: of a session, of each field, and of a logout that is remembered.
_A_SESSION, _A_FIELD, _A_LOGOUT = 1500, 100, 450


_MAKE_ROOM = "Raise it on all servers, or shorten the idle timeout"


class News(Struct, frozen=True, array_like=True, gc=False):
    """What others are told of one session. Times are relative to the moment of sending.

    Attributes:
        session_id: which.
        state: what changed, or the whole session; `None` if it was deleted.
        remember_ms: for how long a deletion must be remembered from now on.
        missing: how many earlier commits are not in a whole session, as far as its sender knows.
    """

    session_id: str
    state: State | None
    remember_ms: int = 0
    missing: int = 0


class Claim(Struct, frozen=True, array_like=True, gc=False):
    """Somebody is about to change a session that must not have changed, and asks the others to leave that to him.

    Attributes:
        session_id: which.
        stamp: of several claims, the earliest counts.
        for_ms: for how long; 0 to give it up.
    """

    session_id: str
    stamp: Stamp
    for_ms: int


Listing: TypeAlias = list[tuple[str, int]]
"""Session ids, and the fingerprints of their states."""


class _Entry:
    """One session. The record is made when it is first read: most copies never are."""

    __slots__ = ("expires_ms", "record", "size", "state")

    def __init__(self) -> None:
        self.state: State
        self.record: Record | None = None
        self.expires_ms = 0
        self.size = 0  # as it travels

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes."""
        return self.size + _A_SESSION + _A_FIELD * len(self.state.cells)


class Replica:
    """All sessions.

    Args:
        store: what the store is called in messages.
        node: this node's name; see `LogicalClock`.
        clock: milliseconds since 1970, on a clock that does not step.
        max_sessions: how many this server holds before it refuses new ones.
        max_bytes: how many bytes of memory sessions and remembered deletions take before it refuses what makes them grow.
        max_message: bytes of the largest message.
        remember_ms: how long a deletion is remembered.

    Attributes:
        bytes: of memory that is taken by now, as reckoned; within a tenth of what is measured.
        servers: how many hold these sessions. While they are cut off from each other, each may add to a session until
            it has its share of a message, and all of it together must still fit into one.
    """

    def __init__(
        self,
        *,
        store: str,
        node: str,
        clock: Callable[[], int],
        max_sessions: int,
        max_bytes: int,
        max_message: int,
        remember_ms: int,
    ) -> None:
        self.clock = LogicalClock(node, clock)
        self.bytes = 0
        self.servers = 1
        self._store = store
        self._now = clock
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._max_message = max_message
        self._remember_ms = remember_ms
        self._entries: dict[str, _Entry] = {}
        self._deleted: dict[str, int] = {}  # until when each is remembered
        self._missing: dict[str, int] = {}  # commits that came before ones heard of, and that have not been heard of
        self._owners: dict[str, set[str]] = {}
        self._claims: dict[str, tuple[Stamp, int]] = {}  # whose, and until when
        self._ends: list[tuple[int, str]] = []  # of sessions and of memories; the entry itself knows better
        self._buckets: list[dict[str, int]] = [{} for _ in range(BUCKETS)]
        self._digests = [0] * BUCKETS

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def create(self, new: NewRecord) -> tuple[Applied, News | None]:
        now = self._now()
        present = self._live(new.session_id, now)
        if present is not None:
            if remembers(present.operations, new.operation):
                return Applied(present.version, present.touched_ms), None
            raise SessionExists(new.session_id)
        if new.session_id in self._deleted:
            raise SessionExists(new.session_id)
        if len(self._entries) >= self._max_sessions:
            raise StoreFull(self._store, f"max_sessions={self._max_sessions}", _MAKE_ROOM)
        state = born(new, self.clock.stamp(), now)
        self._keep(new.session_id, state, created(new, now), limited=True)
        return Applied(1, now), News(new.session_id, shifted(state, -now))

    def read(self, session_id: str) -> Record | None:
        entry = self._entries.get(session_id)
        if entry is None:
            return None
        record = entry.record or self._record(session_id, entry)
        now = self._now()
        # The copy shares `fields`, which are never changed in place.
        return None if record.expires_ms <= now else record.at(now)

    def update(self, session_id: str, changes: Changes) -> tuple[Applied, News | None]:
        now = self._now()
        entry = self._entries.get(session_id)
        if entry is None:
            raise SessionGone(session_id)
        before = entry.record or self._record(session_id, entry)
        after, applied = apply(before, changes, session_id, now)
        if applied == "unknown":
            raise OutcomeUnknown(self._store, session_id, "too many commits came since")
        if after is before:
            return applied, None
        delta = change(entry.state, before, after, changes, applied, self.clock.stamp())
        limited = bool(changes.sets or changes.increments)
        self._keep(session_id, join(entry.state, delta), after, limited=limited)
        return applied, News(session_id, shifted(delta, -now))

    def delete(self, session_id: str) -> tuple[bool, News | None]:
        entry = self._entries.get(session_id)
        if entry is None:
            return False, None
        alive = entry.expires_ms > self._now()
        self._bury(session_id, self._remember_ms)
        return alive, News(session_id, None, self._remember_ms)

    def sessions_of(self, owner: str) -> list[Record]:
        found = map(self.read, sorted(self._owners.get(owner, ())))
        records = [record for record in found if record is not None]
        return sorted(records, key=lambda record: record.touched_ms, reverse=True)

    def claim(self, session_id: str, for_ms: int) -> Claim | None:
        """Ask for a session before changing it under `require_unchanged`; `None` if somebody else has."""
        now = self._now()
        _, until = self._claims.get(session_id, (BEFORE_ALL, 0))
        if until > now:
            return None
        mine = Claim(session_id, self.clock.stamp(), for_ms)
        self._claims[session_id] = (mine.stamp, now + for_ms)
        return mine

    def holds(self, claim: Claim) -> bool:
        """Whether nobody was earlier."""
        return self._claims.get(claim.session_id, (BEFORE_ALL, 0))[0] == claim.stamp

    def learn_claim(self, claim: Claim) -> None:
        """Note somebody's claim, or its end."""
        now = self._now()
        stamp, until = self._claims.get(claim.session_id, (BEFORE_ALL, 0))
        if claim.for_ms and (until <= now or claim.stamp < stamp):
            self._claims[claim.session_id] = (claim.stamp, now + claim.for_ms)
        elif not claim.for_ms and claim.stamp == stamp:
            del self._claims[claim.session_id]

    def generation_of(self, session_id: str) -> object:
        """Changes when somebody's login, or the end of the session, makes nothing of a commit that came before."""
        entry = self._entries.get(session_id)
        return None if entry is None else entry.state.generation

    def state_of(self, session_id: str) -> State | None:
        """All of a session; `None` if there is no such session."""
        entry = self._entries.get(session_id)
        return None if entry is None else entry.state

    def includes(self, session_id: str, seen: Seen) -> bool:
        """Whether all that was seen of a session is here. There is nothing more of one that was deleted."""
        if session_id in self._deleted:
            return True
        entry = self._entries.get(session_id)
        return entry is not None and session_id not in self._missing and includes(entry.state, seen)

    def give_up(self, session_id: str) -> None:
        """Nobody has any more of this session: what is missing of it is lost."""
        self._missing.pop(session_id, None)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._entries

    def __len__(self) -> int:
        """How many sessions are held, expired ones that have not been swept included."""
        return len(self._entries)

    # --- what others say ---------------------------------------------------------------------------------------------

    def learn(self, news: Iterable[News]) -> int:
        """Take in what others did. Returns how much of it was new."""
        now = self._now()
        changed = 0
        for item in news:
            session_id = item.session_id
            if item.state is None:
                changed += session_id not in self._deleted
                self._bury(session_id, item.remember_ms)
                continue
            if session_id in self._deleted:
                continue  # whatever it is, it comes too late
            state = shifted(item.state, now)
            if state.complete:
                state = condensed(state)
            entry = self._entries.get(session_id)
            if entry is None:
                if _end(state) > now:
                    self._note_missing(session_id, None, state, item.missing)
                    self._keep(session_id, state, None)
                    changed += 1
                continue
            joined = join(entry.state, state)
            if joined != entry.state:
                self._note_missing(session_id, entry.state, state, item.missing)
                self._keep(session_id, joined, None)
                changed += 1
        return changed

    def _note_missing(self, session_id: str, before: State | None, news: State, missing_there: int) -> None:
        """Whether news leave out commits that came before them: their number alone does not tell that they are here."""
        if before is not None and before.generation > news.generation:
            return
        known = before.commits if before is not None and before.generation == news.generation else {}
        missing = self._missing.get(session_id, 0) if known else 0
        if news.complete:
            covers_all = all(news.commits.get(node, 0) >= count for node, count in known.items())
            missing = missing_there if covers_all else missing + missing_there
        else:
            for node, count in news.commits.items():
                here = known.get(node, 0)
                missing += count - here - 1 if count > here else -1  # one that was overtaken fills its gap
        if missing > 0:
            self._missing[session_id] = missing
        else:
            self._missing.pop(session_id, None)

    def born_before(self, item: News, moment_ms: int) -> bool:
        """Whether a session began before this moment, by this server's clock, as far as can be told from `item`."""
        origin = None if item.state is None else item.state.origin
        return origin is not None and self._now() + origin.created < moment_ms

    # --- comparing copies --------------------------------------------------------------------------------------------

    @property
    def digests(self) -> list[int]:
        """What each bucket holds, in 64 bits: equal for equal sessions."""
        return self._digests.copy()

    @property
    def digest(self) -> str:
        """What all of it is, for people to compare."""
        return f"{hash(tuple(self._digests)) & (2**64 - 1):016x}"

    def differing(self, digests: list[int]) -> list[int]:
        """The buckets in which somebody with these digests holds something else."""
        pairs = zip(self._digests, digests, strict=True)
        return [bucket for bucket, (mine, theirs) in enumerate(pairs) if mine != theirs]

    def listing(self, bucket: int) -> Listing:
        """What is in a bucket."""
        return list(self._buckets[bucket].items())

    def wanted(self, bucket: int, listing: Listing) -> list[str]:
        """What somebody else has in this bucket, by his listing, that is not here in the same state."""
        mine = self._buckets[bucket]
        return [session_id for session_id, mark in listing if mine.get(session_id) != mark]

    def old_and_unlisted(self, bucket: int, listing: Listing, moment_ms: int) -> list[str]:
        """Sessions that began before this moment, and that somebody with this listing does not have."""
        others = {session_id for session_id, _ in listing}
        found = []
        for session_id in self._buckets[bucket]:
            entry = self._entries.get(session_id)
            origin = None if entry is None else entry.state.origin
            if session_id not in others and origin is not None and origin.created < moment_ms:
                found.append(session_id)
        return found

    def news_of(self, session_ids: Iterable[str], most_bytes: int) -> tuple[list[News], int]:
        """The whole of these sessions, as far as they fit into so many bytes, but one at least; and of how many, from the
        first on."""
        now = self._now()
        news: list[News] = []
        size = done = 0
        for session_id in session_ids:
            entry = self._entries.get(session_id)
            if news and size + (0 if entry is None else entry.size) > most_bytes:
                break
            done += 1
            if entry is not None:
                size += entry.size
                missing = self._missing.get(session_id, 0)
                news.append(News(session_id, shifted(entry.state, -now), missing=missing))
            elif session_id in self._deleted:
                news.append(News(session_id, None, self._deleted[session_id] - now))
        return news, done

    def mark_of(self, session_id: str) -> int:
        """What a session's copy here has in common with equal ones elsewhere; 0 if there is nothing."""
        return self._buckets[_bucket_of(session_id)].get(session_id, 0)

    # --- inside ------------------------------------------------------------------------------------------------------

    def sweep(self, most: int = 1000) -> None:
        """Remove what has expired, and forget deletions whose time is over; at most so many at a time."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now and most:
            most -= 1
            _, session_id = heapq.heappop(self._ends)
            entry = self._entries.get(session_id)
            until = self._deleted.get(session_id, 0) if entry is None else entry.expires_ms
            if until > now:
                heapq.heappush(self._ends, (until, session_id))
            elif entry is not None:
                self._drop(session_id, entry)
                self._mark(session_id, 0)
            elif self._deleted.pop(session_id, None) is not None:
                self.bytes -= _A_LOGOUT
                self._mark(session_id, 0)
        if self._claims:
            self._claims = {claimed: claim for claimed, claim in self._claims.items() if claim[1] > now}
        if len(self._ends) > 2 * (len(self._entries) + len(self._deleted)) + 100:  # of sessions that are gone
            ends = {session_id: entry.expires_ms for session_id, entry in self._entries.items()} | self._deleted
            self._ends = [(at, session_id) for session_id, at in ends.items()]
            heapq.heapify(self._ends)

    def _live(self, session_id: str, now: int) -> Record | None:
        entry = self._entries.get(session_id)
        if entry is None or (entry.state.complete and entry.expires_ms <= now):
            return None
        return entry.record or self._record(session_id, entry)

    def _record(self, session_id: str, entry: _Entry) -> Record:
        if not entry.state.complete:
            raise StoreUnavailable(self._store, "this session's beginning is still on its way here")
        record = entry.record = record_of(session_id, entry.state)
        return record

    def _keep(self, session_id: str, state: State, record: Record | None, *, limited: bool = False) -> None:
        mark, size = fingerprint(session_id, state)
        if limited and self.bytes >= self._max_bytes:
            raise StoreFull(self._store, f"max_bytes={self._max_bytes}", _MAKE_ROOM)
        if limited and size > (most := self._max_message // (self.servers + 1)):
            raise StoreFull(
                self._store,
                f"max_message={self._max_message}: a session of {self.servers} servers may have {most} bytes, "
                f"and {session_id} would have {size}",
                "Nothing was changed. Keep less in the session, or raise max_message on all servers",
            )
        entry = self._entries.get(session_id)
        owner_before = None if entry is None or entry.state.owner is None else entry.state.owner.name
        owner = None if state.owner is None else state.owner.name
        if entry is None:
            entry = self._entries[session_id] = _Entry()
        else:
            self.bytes -= entry.weight
        if owner != owner_before:
            if owner_before is not None:
                self._disown(owner_before, session_id)
            if owner is not None:
                self._owners.setdefault(owner, set()).add(session_id)
        entry.state, entry.record = state, record
        end = _end(state)
        if not entry.expires_ms or end < entry.expires_ms:
            heapq.heappush(self._ends, (end, session_id))
        entry.expires_ms = end
        entry.size = size
        self.bytes += entry.weight
        self._mark(session_id, mark)

    def _bury(self, session_id: str, remember_ms: int) -> None:
        until = self._now() + remember_ms
        entry = self._entries.get(session_id)
        if entry is not None:
            self._drop(session_id, entry)
        if until > self._deleted.get(session_id, 0):
            if session_id not in self._deleted:
                heapq.heappush(self._ends, (until, session_id))
                self._mark(session_id, fingerprint(session_id, None)[0])
                self.bytes += _A_LOGOUT
            self._deleted[session_id] = until

    def _drop(self, session_id: str, entry: _Entry) -> None:
        del self._entries[session_id]
        self._missing.pop(session_id, None)
        self.bytes -= entry.weight
        if entry.state.owner is not None:
            self._disown(entry.state.owner.name, session_id)

    def _disown(self, owner: str, session_id: str) -> None:
        sessions = self._owners[owner]
        sessions.discard(session_id)
        if not sessions:
            del self._owners[owner]

    def _mark(self, session_id: str, mark: int) -> None:
        """What a session contributes to its bucket's digest from now on; 0 for nothing."""
        at = _bucket_of(session_id)
        bucket = self._buckets[at]
        self._digests[at] ^= bucket.pop(session_id, 0) ^ mark
        if mark:
            bucket[session_id] = mark


def _bucket_of(session_id: str) -> int:
    # Ids are random, so any two of their characters, of 64 each, spread them evenly.
    return (ord(session_id[0]) * 31 + ord(session_id[1])) % BUCKETS


def _end(state: State) -> int:
    """When a session ends unless it is touched. Changes whose beginning never comes end too."""
    idle_end = 0 if state.touch is None else state.touch.at + state.touch.idle_ms
    return idle_end if state.deadline is None else min(idle_end, state.deadline.at)
