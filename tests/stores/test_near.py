"""The near cache by itself: what it may serve, against a model of a server, its connections and what is under way on them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coatcheck.record import Record
from coatcheck.stores.redis.near import GONE, NearCache, as_seen, version_of
from coatcheck.stores.redis.transport import Told

KEYS = [f"session-{number:08}" for number in range(3)]
PREFIX = "test:session:"
MAX_AGE = 5.0


def a_record(session_id: str, version: int, size: int = 10, **but: Any) -> Record:
    usual: dict[str, Any] = {
        "session_id": session_id, "secret_hash": "h" * 44, "version": version, "created_ms": 10**12,
        "renewed_ms": 10**12, "touched_ms": 10**12, "idle_ms": 10**9, "read_at_ms": 10**12, "fields": {"a": "x" * size},
    }  # fmt: skip
    return Record(**(usual | but))


@dataclass(eq=False)
class Line:
    """A connection as the cache knows it: it hears what has arrived before it vouches for anything."""

    world: Any = None
    under_way: deque[Any] = field(default_factory=deque)
    tracked: set[str] = field(default_factory=set)
    stands: bool = True

    def vouches(self) -> bool:
        while self.stands and self.under_way:
            self.world.hear(self)
        return self.stands


class World(RuleBasedStateMachine):
    """A server, two connections of ours, and others who change sessions. Whatever is sent has arrived, but may be unread.

    A session is served as it is, whatever is under way in whichever order; and what the server's word was lost for, for
    `MAX_AGE` at most.
    """

    places = 2

    @initialize()
    def begin(self) -> None:
        self.cache = NearCache(self.places, max_age=MAX_AGE, prefix=PREFIX)
        self.now = 100.0
        self.versions = dict.fromkeys(KEYS, 1)  # 0 if it was deleted
        self.outdated: dict[tuple[str, int], float] = {}  # when each version was replaced
        self.lines = [Line(self) for _ in range(2)]
        self.floor = dict.fromkeys(KEYS, 0.0)  # what this process knows to have been committed
        self.swallowed: set[tuple[str, int]] = set()  # versions of whose end nothing was heard

    # --- the server --------------------------------------------------------------------------------------------------

    def change(self, key: str, version: int) -> None:
        self.outdated[key, self.versions[key]] = self.now
        self.versions[key] = version
        for line in self.lines:
            if key in line.tracked:
                line.tracked.discard(key)
                line.under_way.append(("push", [PREFIX + key]))

    def answer(self, line: Line, key: str) -> tuple[Record | None, Told]:
        line.tracked.add(key)
        replies = Told(line, self.now)
        return (a_record(key, self.versions[key]) if self.versions[key] else None), replies

    # --- what we do --------------------------------------------------------------------------------------------------

    @rule(at=st.integers(0, 1), key=st.sampled_from(KEYS))
    def ask(self, at: int, key: str) -> None:
        line = self.lines[at]
        line.under_way.append(("read", *self.answer(line, key)))

    @rule(at=st.integers(0, 1), key=st.sampled_from(KEYS))
    def read(self, at: int, key: str) -> None:
        """Ask, and wait for the answer."""
        self.ask(at, key)
        while self.lines[at].under_way:
            self.hear(self.lines[at])

    @rule(at=st.integers(0, 1), key=st.sampled_from(KEYS), patient=st.booleans(), reads=st.booleans())
    def commit(self, at: int, key: str, patient: bool, reads: bool) -> None:
        line = self.lines[at]
        self.cache.drop(key)
        if not self.versions[key]:
            return
        self.change(key, self.versions[key] + 1)
        if reads:  # it is read again, unless it waits for a replica
            record, replies = self.answer(line, key)
        else:
            record, replies = None, Told(line, self.now)
        line.under_way.append(("commit" if patient else "nobody", key, self.versions[key], record, replies))

    @rule(at=st.integers(0, 1), key=st.sampled_from(KEYS))
    def delete(self, at: int, key: str) -> None:
        self.cache.drop(key)
        self.change(key, 0)
        self.lines[at].under_way.append(("deleted", key))

    @rule(at=st.integers(0, 1))
    def hear_one(self, at: int) -> None:
        if self.lines[at].under_way:
            self.hear(self.lines[at])

    def hear(self, line: Line) -> None:
        what, *rest = line.under_way.popleft()
        if what == "push":
            self.cache.announced(line, ["invalidate", rest[0]])
        elif what == "read":
            record, replies = rest
            if record is not None:
                self.cache.keep(record, replies)
        elif what == "commit":
            key, version, record, replies = rest
            self.floor[key] = max(self.floor[key], version)
            self.cache.changed(key, version, self.now)
            if record is not None:
                self.cache.keep(record, replies)
        elif what == "deleted":
            self.floor[rest[0]] = GONE
            self.cache.changed(rest[0], GONE, self.now)

    @rule(key=st.sampled_from(KEYS), seen=st.sampled_from([0, 0, 0, 1, 2, 3]))
    def look(self, key: str, seen: int) -> None:
        record = self.cache.look(key, seen, self.now)
        if record is None:
            return
        assert record.session_id == key
        assert record.version >= max(seen, self.floor[key])
        if record.version != self.versions[key]:
            late = self.now - self.outdated[key, record.version]
            assert (key, record.version) in self.swallowed, "the server said so"
            assert late < MAX_AGE
        record.fields["a"] = "changed by whoever was served"
        again = self.cache.look(key, seen, self.now)
        assert again is None or again.fields["a"] == "x" * 10

    # --- what befalls us ---------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS))
    def others_change(self, key: str) -> None:
        if self.versions[key]:
            self.change(key, self.versions[key] + 1)

    @rule(key=st.sampled_from(KEYS))
    def others_delete(self, key: str) -> None:
        self.change(key, 0)

    @rule(at=st.integers(0, 1))
    def lose(self, at: int) -> None:
        self.lines[at].stands = False
        self.cache.lost(self.lines[at])
        self.lines[at] = Line(self)

    @rule(key=st.sampled_from(KEYS))
    def change_unannounced(self, key: str) -> None:
        """Somebody on the way keeps the announcement to himself."""
        if self.versions[key]:
            told = [line for line in self.lines if key in line.tracked]
            self.change(key, self.versions[key] + 1)
            for line in told:
                line.under_way.pop()
            self.swallowed.add((key, self.versions[key] - 1))

    @rule()
    def flush(self) -> None:
        """An administrator empties the server."""
        for key in KEYS:
            self.outdated[key, self.versions[key]] = self.now
            self.versions[key] = 0
        for line in self.lines:
            line.under_way.append(("push", None))
            line.tracked.clear()

    @rule(seconds=st.sampled_from([0.1, 1.0, MAX_AGE / 2, MAX_AGE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def room_is_bounded(self) -> None:
        assert len(self.cache) <= self.places
        assert self.cache._taken == sum(kept.places for kept in self.cache._kept.values()) <= self.places


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)


# --- one thing at a time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cache() -> NearCache:
    return NearCache(10, max_age=MAX_AGE, prefix=PREFIX)


LINE = Line()


def test_what_it_gives_has_the_time_that_it_is_now(cache: NearCache) -> None:
    record = a_record(KEYS[0], 1, touched_ms=10**12, read_at_ms=10**12 + 700)
    cache.keep(record, Told(LINE, 100.0))
    given = cache.look(KEYS[0], 0, 102.5)
    assert given is not None
    assert given.read_at_ms == 10**12 + 700 + 2500 + 1
    assert given.at(record.read_at_ms) == record


def test_what_the_caller_does_to_what_he_read_stays_his(cache: NearCache) -> None:
    record = a_record(KEYS[0], 1)
    cache.keep(record, Told(LINE, 100.0))
    record.fields["a"] = "changed"
    record.version = 7
    given = cache.look(KEYS[0], 0, 100.0)
    assert given is not None
    assert (given.version, given.fields) == (1, {"a": "x" * 10})


def test_what_has_been_read_over_another_connection_since_stays(cache: NearCache) -> None:
    other = Line()
    cache.keep(a_record(KEYS[0], 1), Told(LINE, 100.0))
    cache.keep(a_record(KEYS[0], 2), Told(other, 100.0))
    cache.announced(LINE, ["invalidate", [PREFIX + KEYS[0]]])
    cache.lost(LINE)
    assert cache.look(KEYS[0], 0, 100.0) is not None
    cache.announced(other, ["invalidate", [PREFIX + KEYS[0]]])
    assert cache.look(KEYS[0], 0, 100.0) is None


def test_replies_that_nobody_would_announce_changes_of_are_not_kept(cache: NearCache) -> None:
    cache.keep(a_record(KEYS[0], 1), [{}, 1])
    assert cache.look(KEYS[0], 0, 100.0) is None


def test_the_one_that_was_not_used_for_the_longest_time_leaves_first(cache: NearCache) -> None:
    for number in range(10):
        cache.keep(a_record(f"session-{number}", 1), Told(LINE, 100.0))
    assert cache.look("session-0", 0, 100.0) is not None
    cache.keep(a_record("another", 1), Told(LINE, 100.0))
    assert cache.look("session-0", 0, 100.0) is not None
    assert cache.look("session-1", 0, 100.0) is None
    assert len(cache) == 10


@pytest.mark.parametrize(("size", "left"), [(4000, 9), (5000, 8), (8 * 4096, 1), (10 * 4096, 9)])
def test_a_big_session_takes_the_room_of_several(cache: NearCache, size: int, left: int) -> None:
    """One that does not fit at all is not kept, and makes nobody leave."""
    for number in range(9):
        cache.keep(a_record(f"session-{number}", 1), Told(LINE, 100.0))
    cache.keep(a_record("big", 1, size=size), Told(LINE, 100.0))
    small = sum(cache.look(f"session-{number}", 0, 100.0) is not None for number in range(9))
    assert small == left
    assert (cache.look("big", 0, 100.0) is None) == (size == 10 * 4096)


def test_it_can_be_seen_how_it_does_and_not_whom_it_serves(cache: NearCache) -> None:
    cache.keep(a_record(KEYS[0], 1), Told(LINE, 100.0))
    cache.look(KEYS[0], 0, 100.0)
    cache.look(KEYS[1], 0, 100.0)
    cache.announced(LINE, ["invalidate", [PREFIX + KEYS[1]]])
    cache.announced(LINE, ["something", "else"])
    cache.lost(Line())
    assert repr(cache) == (
        "<NearCache 1 sessions in 1 of 10 places, 1 hits, 1 misses, 1 invalidations, emptied 0 times>"
    )
    cache.lost(LINE)
    assert (cache.emptied, len(cache)) == (1, 0)


def test_after_its_time_nobody_is_served_whatever_was_heard(cache: NearCache) -> None:
    cache.keep(a_record(KEYS[0], 1), Told(LINE, 100.0))
    assert cache.look(KEYS[0], 0, 100.0 + MAX_AGE - 0.01) is not None
    assert cache.look(KEYS[0], 0, 100.0 + MAX_AGE) is None


def test_when_all_may_have_changed_all_goes_that_was_read_over_that_connection(cache: NearCache) -> None:
    for number in range(5):
        cache.keep(a_record(f"session-{number}", 1), Told(LINE, 100.0))
    cache.keep(a_record("another", 1), Told(Line(), 100.0))
    cache.announced(LINE, ["invalidate", None])
    assert len(cache) == 1
    assert cache.look("another", 0, 100.0) is not None


@pytest.mark.parametrize("keys", [(), ("key",), ([1],), ([["key"]],), (["key"], ["key"])])
def test_news_that_makes_no_sense_is_refused(cache: NearCache, keys: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="no key"):
        cache.announced(LINE, ["invalidate", *keys])
    for other in ([], ["message", "a", "b"], [["invalidate"]]):  # what is no news is none of its business
        cache.announced(LINE, other)


@pytest.mark.parametrize("how", ["pushed out", "dropped", "announced"])
def test_what_is_forgotten_is_not_replaced_by_something_older(cache: NearCache, how: str) -> None:
    """An answer that was on its way when this process changed the session, and then had no room for it any more."""
    late = a_record(KEYS[0], 1), Told(LINE, 101.0)
    cache.changed(KEYS[0], 2, 102.0)
    cache.keep(a_record(KEYS[0], 2), Told(LINE, 100.5))
    if how == "pushed out":
        for number in range(10):
            cache.keep(a_record(f"session-{number}", 1), Told(LINE, 100.0))
    elif how == "dropped":
        cache.drop(KEYS[0])
    else:
        cache.announced(LINE, ["invalidate", [PREFIX + KEYS[0]]])
    cache.keep(*late)
    assert cache.look(KEYS[0], 0, 102.0) is None
    cache.keep(a_record(KEYS[0], 2), Told(LINE, 102.1))
    assert cache.look(KEYS[0], 0, 102.2) is not None


def test_versions_that_go_back_are_taken_in_when_the_newer_one_has_aged(cache: NearCache) -> None:
    """As after a failover that lost commits."""
    cache.changed(KEYS[0], 9, 100.0)
    cache.keep(a_record(KEYS[0], 8), Told(LINE, 101.0))
    assert cache.look(KEYS[0], 0, 101.0) is None
    cache.keep(a_record(KEYS[0], 8), Told(LINE, 100.0 + MAX_AGE))
    assert cache.look(KEYS[0], 0, 100.0 + MAX_AGE) is not None


@pytest.mark.parametrize(
    ("token", "lag", "given"),
    [("3", "", None), ("2", "", None), ("4", "rolled back", "3"), ("junk", "", "3"), ("9" * 200, "rolled back", "3")],
)
def test_who_has_seen_more_than_the_server_has_is_told(token: str, lag: str, given: str | None) -> None:
    found = as_seen(a_record(KEYS[0], 3), token)
    assert found.record is not None
    assert (found.lag, found.seen) == (lag, given)
    assert as_seen(None, token).record is None


def test_a_token_is_a_version() -> None:
    assert [version_of(token) for token in ("12", "", "x", "-1", "1.5", "9" * 200)] == [12, 0, 0, 0, 0, int("9" * 200)]
