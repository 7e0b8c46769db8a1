"""Sessions in the memory of this process: for development, tests, and one web server, or several behind a sticky balancer."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import ConfigurationError, OutcomeUnknown, SessionExists, StoreFull
from coatcheck.record import Record, apply, created, remembers
from coatcheck.stores.opening import without_password

_CLOCK_START = time.time_ns() - time.monotonic_ns()


def _now_ms() -> int:
    """Wall-clock time that never steps: a clock set back or forth must not end sessions, nor prolong them."""
    return (_CLOCK_START + time.monotonic_ns()) // 1_000_000


class MemoryStore:
    """A bounded, expiring store in this process's memory. Acknowledged means: this process holds it.

    Each process has its own; a session is lost with its process. Thread-safe.

    Args:
        max_sessions: how many sessions it holds at most. A full store refuses new ones (`StoreFull`) rather than ending
            somebody's session; those that have expired make room. Default 100,000.
        clock: milliseconds since 1970; for tests.
    """

    def __init__(self, *, max_sessions: int = 100_000, clock: Callable[[], int] = _now_ms) -> None:
        if isinstance(max_sessions, bool) or not isinstance(max_sessions, int) or max_sessions < 1:
            raise ConfigurationError(
                "max_sessions", max_sessions, "not a positive whole number", "Use one, or leave it out"
            )
        self._max_sessions = max_sessions
        self._clock = clock
        self._records: dict[str, Record] = {}
        # One entry per record, by an expiry that may have moved on since: the record itself knows better. A second one
        # where it moved nearer.
        self._expiries: list[tuple[int, str]] = []
        self._owners: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        """`memory://` or `memory://?max_sessions=1000`."""
        parts = urlsplit(url)
        shown = without_password(url)
        if parts.netloc or parts.path.strip("/"):
            raise ConfigurationError("store", shown, "memory:// has no host and no path", "Use 'memory://'")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        most = options.pop("max_sessions", "100000")
        if options:
            raise ConfigurationError("store", shown, f"unknown option {next(iter(options))!r}", "Known: max_sessions")
        if not (most.isascii() and most.isdigit()):
            raise ConfigurationError("max_sessions", most, "not a positive whole number", "Use one, or leave it out")
        return cls(max_sessions=int(most))

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        with self._lock:
            now_ms = self._clock()
            self._sweep(now_ms)
            present = self._live(new.session_id, now_ms)
            if present is not None:
                if remembers(present.operations, new.operation):
                    return Applied(present.version, present.touched_ms)
                raise SessionExists(new.session_id)
            if len(self._records) >= self._max_sessions:
                raise StoreFull("memory://", f"max_sessions={self._max_sessions}")
            record = created(new, now_ms)
            self._keep(record)
            return Applied(record.version, now_ms)

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        with self._lock:
            now_ms = self._clock()
            record = self._live(session_id, now_ms)
            # The copy shares `fields`, which are never changed in place: a commit makes new ones.
            return None if record is None else record.at(now_ms)

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        with self._lock:
            record, outcome = apply(self._records.get(session_id), changes, session_id, self._clock())
            if outcome == "unknown":
                raise OutcomeUnknown("memory://", session_id, "too many commits came since")
            self._keep(record)
            return outcome

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        with self._lock:
            alive = self._live(session_id, self._clock()) is not None
            self._drop(session_id)
            return alive

    def close(self) -> None:
        """Nothing to let go of: the sessions stay for as long as the store is referred to."""

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        with self._lock:
            now_ms = self._clock()
            found = (self._live(session_id, now_ms) for session_id in self._owners.get(owner, ()))
            records = [record.at(now_ms) for record in found if record is not None]
            return sorted(records, key=lambda record: record.touched_ms, reverse=True)

    def sweep(self) -> int:
        with self._lock:
            before = len(self._records)
            self._sweep(self._clock())
            return before - len(self._records)

    def __len__(self) -> int:
        """How many sessions are held, expired ones that have not been swept included."""
        return len(self._records)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._records)} of at most {self._max_sessions} sessions>"

    def _live(self, session_id: str, now_ms: int) -> Record | None:
        record = self._records.get(session_id)
        return None if record is None or record.expires_ms <= now_ms else record

    def _keep(self, record: Record) -> None:
        before = self._records.get(record.session_id)
        if before is None or record.expires_ms < before.expires_ms:
            heapq.heappush(self._expiries, (record.expires_ms, record.session_id))
        if before is not None and before.owner is not None and before.owner != record.owner:
            self._disown(before)
        self._records[record.session_id] = record
        if record.owner is not None:
            self._owners.setdefault(record.owner, set()).add(record.session_id)

    def _drop(self, session_id: str) -> None:
        record = self._records.pop(session_id, None)
        if record is not None and record.owner is not None:
            self._disown(record)

    def _disown(self, record: Record) -> None:
        assert record.owner is not None
        sessions = self._owners[record.owner]
        sessions.discard(record.session_id)
        if not sessions:
            del self._owners[record.owner]

    def _sweep(self, now_ms: int) -> None:
        """Remove what has expired. By itself at creation only: each record costs one push and, on average, one pop."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, session_id = heapq.heappop(self._expiries)
            record = self._records.get(session_id)
            if record is None:
                continue
            if record.expires_ms <= now_ms:
                self._drop(session_id)
            else:
                heapq.heappush(self._expiries, (record.expires_ms, session_id))
        if len(self._expiries) > 2 * len(self._records) + 100:  # entries of deleted sessions that lie further down
            self._expiries = [(record.expires_ms, record.session_id) for record in self._records.values()]
            heapq.heapify(self._expiries)


class AsyncMemoryStore:
    """`MemoryStore` for asynchronous applications. It never waits.

    Args:
        store: the sessions to share with synchronous code of the same process; a new `MemoryStore` if left out.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = MemoryStore() if store is None else store

    @classmethod
    def from_url(cls, url: str) -> AsyncMemoryStore:
        """See `MemoryStore.from_url`."""
        return cls(MemoryStore.from_url(url))

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self._store.create(new)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        return self._store.read(session_id)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return self._store.update(session_id, changes)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self._store.delete(session_id)

    async def close(self) -> None:
        self._store.close()

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return self._store.sessions_of(owner)

    async def sweep(self) -> int:
        return self._store.sweep()

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} sessions>"
