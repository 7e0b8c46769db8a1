"""The near cache: sessions that this process has read of late, for as long as the server says nothing else. No I/O, no clock.

The server remembers which keys it has told over a connection, and announces on that same connection when one of them changes
(`CLIENT TRACKING ON`, RESP3). Answers and announcements come in order, so a record belongs to the connection over which it
was read: that one hears when it changes, and what was read over it counts no more when it is lost. Nothing has to be agreed
between connections, and there is no moment at which an announcement could be missed.

Should the server's word be lost all the same, a record counts for so many seconds after it was asked for and no longer.

Only who has the right ticket is served from here, and only what exists: that there is no session, or that a secret is wrong,
is for the server to say.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from math import inf
from typing import Any, Final

from coatcheck.changes import Applied
from coatcheck.record import Record
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.redis.address import Target
from coatcheck.stores.redis.forking import AfterFork
from coatcheck.stores.redis.layout import Layout
from coatcheck.stores.redis.transport import Source, Told


class _Kept:
    """What is known of a session.

    Attributes:
        record: `None` if it is only known that older versions are out of date.
        version: nothing older than this is taken in.
        source, asked_at: as of the replies. Nobody vouches for what is not there.
        known_at: when it was known at the latest that it had this version. What is asked after that is no older.
        places: how much room it takes.
    """

    __slots__ = ("asked_at", "known_at", "places", "record", "source", "version")

    def __init__(
        self, record: Record | None, version: float, source: Source, asked_at: float, known_at: float, places: int
    ) -> None:
        self.record = record
        self.version = version
        self.source = source
        self.asked_at = asked_at
        self.known_at = known_at
        self.places = places


class NearCache:
    """What one store keeps of the sessions that it read. May be used from many threads.

    Args:
        places: how many sessions are kept at most, those that were not used for the longest time leaving first. One of more
            than 4096 characters takes a place for each 4096, so this bounds the memory too.
        max_age: seconds for which a record counts, from when it was asked for.
        prefix: what the keys of sessions begin with.

    Attributes:
        max_age: as above.
        hits: how often a session was found here.
        misses: how often not, and the server was asked.
        invalidations: how often the server announced that a session had changed, or all of them.
        emptied: how often what was read over a connection counted no more because the connection was lost.
    """

    def __init__(self, places: int, *, max_age: float, prefix: str) -> None:
        self._places = places
        self.max_age = max_age
        self._prefix = prefix
        self.hits = self.misses = self.invalidations = self.emptied = 0
        self.forked()
        self._after_fork = AfterFork(self.forked)

    def forked(self) -> None:
        """Begin anew. In a forked process the connections are the parent's, and so is what they hear."""
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._taken = 0
        self._forgotten_at = -inf  # when the last was learned of what is not known any more
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self._kept)} sessions in {self._taken} of {self._places} places, "
            f"{self.hits} hits, {self.misses} misses, {self.invalidations} invalidations, emptied {self.emptied} times>"
        )

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def look(self, session_id: str, seen: int, now: float) -> Record | None:
        """A copy of the record, with the time that it is on the store's clock now; or `None` if the server is to be asked.

        That time is late rather than early, by the time that the answer took, so that nothing is served after its end.

        Args:
            session_id: whose record.
            seen: the version that the browser has seen already; 0 for none.
            now: on `time.monotonic`.
        """
        kept = self._kept.get(session_id)
        if kept is not None and kept.record is not None and kept.version >= seen:
            record, age = kept.record, now - kept.asked_at
            if age < self.max_age and kept.source.vouches() and self._kept.get(session_id) is kept:
                try:  # noqa: SIM105 - contextlib is slow, and this is in every request
                    self._kept.move_to_end(session_id)
                except KeyError:  # another thread heard something in this very moment
                    pass
                self.hits += 1
                private = record.at(record.read_at_ms + int(age * 1000) + 1)
                private.fields = record.fields.copy()
                return private
        self.misses += 1
        return None

    # --- what it is told ---------------------------------------------------------------------------------------------

    def keep(self, record: Record, replies: list[Any]) -> None:
        """Take in what was just read, unless it is known already to be out of date. It remains the caller's.

        To be called by whoever reads the replies, before the connection hears anything else.
        """
        if type(replies) is not Told:  # nobody would announce its changes
            return
        places = 1 + sum(map(len, record.fields.values())) // _CHARACTERS
        private = record.at(record.read_at_ms)
        private.fields = record.fields.copy()
        with self._lock:
            if replies.asked_at > self._forgotten_at:  # else it may be older than what was forgotten
                self._put(record.session_id, private, record.version, replies.source, replies.asked_at, places)

    def changed(self, session_id: str, version: float, now: float) -> None:
        """This process has changed the session: what is older than `version` is not to be served, or taken in, any more.

        Args:
            session_id: which.
            version: its version since; `GONE` if it has been deleted.
            now: on `time.monotonic`.
        """
        with self._lock:
            self._put(session_id, None, version, _NOBODY, now, 1)

    def drop(self, session_id: str) -> None:
        """It may be changed from now on."""
        with self._lock:
            self._remove(session_id)

    def announced(self, source: Source, push: list[Any]) -> None:
        """The server says something on a connection, unasked.

        Raises:
            ValueError: it makes no sense, so nobody knows what has changed.
        """
        if push[:1] != ["invalidate"]:
            return
        keys = push[1] if len(push) == 2 else ()
        if keys is not None and (type(keys) is not list or any(type(key) is not str for key in keys)):
            raise ValueError("it announces what is no key")
        self.invalidations += 1
        with self._lock:
            if keys is None:  # all of them
                self._remove_all(source)
                return
            for key in keys:
                session_id = key.removeprefix(self._prefix)
                kept = self._kept.get(session_id)
                if kept is not None and kept.source is source:  # it has been read over another one since
                    self._remove(session_id)

    def lost(self, source: Source) -> None:
        """A connection is lost: nobody announces any more what was read over it."""
        with self._lock:
            self.emptied += self._remove_all(source)

    # --- keeping order -----------------------------------------------------------------------------------------------

    def _put(
        self, session_id: str, record: Record | None, version: float, source: Source, asked_at: float, places: int
    ) -> None:
        present = self._kept.pop(session_id, None)
        known_at = asked_at
        if present is not None:
            # What is older was under way when the session changed. But not for ever: versions go back when a replica is
            # promoted that had not heard of the last ones.
            if present.version > version and asked_at < present.asked_at + self.max_age:
                self._kept[session_id] = present
                return
            self._taken -= present.places
            known_at = max(asked_at, present.known_at)
        if places > self._places:
            self._forgotten_at = max(self._forgotten_at, known_at)
            return
        while self._taken + places > self._places:
            self._forget(self._kept.popitem(last=False)[1])
        self._kept[session_id] = _Kept(record, version, source, asked_at, known_at, places)
        self._taken += places

    def _remove(self, session_id: str) -> None:
        kept = self._kept.pop(session_id, None)
        if kept is not None:
            self._forget(kept)

    def _forget(self, kept: _Kept) -> None:
        self._taken -= kept.places
        self._forgotten_at = max(self._forgotten_at, kept.known_at)

    def _remove_all(self, source: Source) -> bool:
        theirs = [session_id for session_id, kept in self._kept.items() if kept.source is source]
        for session_id in theirs:
            self._remove(session_id)
        return bool(theirs)


def near_cache_of(target: Target, layout: Layout) -> NearCache | None:
    """The near cache that a URL asks for, if it does."""
    if not target.near_cache:
        return None
    return NearCache(target.near_cache, max_age=target.near_cache_age, prefix=layout.session_key(""))


def freshness_token(record: Record | Applied) -> str:
    """What stands for all that a browser has seen: the version."""
    return str(record.version)


def version_of(token: str) -> int:
    """The version that a freshness token stands for; 0 if it is none."""
    return int(token) if token.isdigit() else 0


def as_seen(record: Record | None, token: str) -> FreshRead:
    """What the server itself has, for a browser that shows this freshness token.

    It is the one place where sessions are. If it has less than the browser has seen, what is missing was lost, in a failover
    for instance, and nobody waits for it.
    """
    if record is None or 0 < version_of(token) <= record.version:
        return FreshRead(record)
    return FreshRead(record, "rolled back" if version_of(token) else "", freshness_token(record))


class _Nobody:
    def vouches(self) -> bool:
        return False


_NOBODY: Final = _Nobody()

GONE: Final = inf
"""The version of a session that has been deleted: its id is never used again."""

_CHARACTERS: Final = 4096
"""How many characters of values a place has."""
