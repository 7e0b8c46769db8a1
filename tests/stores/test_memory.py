"""The memory store: the contract, and what is its own."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from coatcheck.errors import ConfigurationError, StoreFull
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.stores.opening import open_store, open_sync_store
from coatcheck.testing import AsyncStoreContract, SyncStoreContract, a_commit, a_record


class TestAsyncMemoryStore(AsyncStoreContract):
    now = 1_800_000_000_000

    def open_store(self) -> AsyncMemoryStore:
        return AsyncMemoryStore(MemoryStore(clock=lambda: self.now))

    def advance(self, ms: int) -> None:
        self.now += ms


class TestMemoryStore(SyncStoreContract):
    now = 1_800_000_000_000

    def open_store(self) -> MemoryStore:
        return MemoryStore(clock=lambda: self.now)

    def advance(self, ms: int) -> None:
        self.now += ms


class TestMemoryStoreInRealTime(AsyncStoreContract):
    def open_store(self) -> AsyncMemoryStore:
        return AsyncMemoryStore()


# --- bounded ---------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_full_store_refuses_new_sessions_loudly_and_ends_nobodys(clock: Clock) -> None:
    store = MemoryStore(max_sessions=2, clock=clock)
    first, second, third = (a_record(owner="ann", fields={"n": str(n)}) for n in range(3))
    store.create(first)
    store.create(second)
    with pytest.raises(StoreFull, match=r"memory://.*max_sessions=2") as full:
        store.create(third)
    assert full.value.retry_after > 0
    assert store.read(third.session_id) is None

    assert store.create(first).version == 1, "a repeated create needs no room"
    assert store.update(first.session_id, a_commit(first, sets={"n": "9"})).version == 2
    assert len(store.sessions_of("ann")) == 2
    assert store.delete(second.session_id)
    store.create(third)
    assert [record.session_id for record in map(store.read, (first.session_id, third.session_id)) if record] == [
        first.session_id,
        third.session_id,
    ]


def test_sessions_that_ended_make_room(clock: Clock) -> None:
    store = MemoryStore(max_sessions=3, clock=clock)
    short, touched, absolute = a_record(idle_ms=1000), a_record(idle_ms=1000), a_record(absolute_ms=1000)
    for new in (short, touched, absolute):
        store.create(new)
    clock.now += 999
    store.update(touched.session_id, a_commit(touched))
    with pytest.raises(StoreFull):
        store.create(a_record())
    clock.now += 1
    store.create(a_record())
    store.create(a_record())
    with pytest.raises(StoreFull):
        store.create(a_record())
    assert store.read(touched.session_id) is not None


def test_a_session_that_came_to_end_sooner_makes_room_too(clock: Clock) -> None:
    store = MemoryStore(max_sessions=1, clock=clock)
    new = a_record(idle_ms=3_600_000)
    store.create(new)
    store.update(new.session_id, a_commit(new, idle_ms=1000))
    clock.now += 1000
    store.create(a_record())


def test_memory_does_not_grow_with_sessions_that_come_and_go(clock: Clock) -> None:
    store = MemoryStore(max_sessions=1000, clock=clock)
    stay = [a_record(owner="ann", idle_ms=10**15) for _ in range(10)]
    for new in stay:
        store.create(new)

    def come_and_go() -> int:
        for n in range(3000):
            new = a_record(fields={"n": "1"}, owner=f"user-{clock.now}", idle_ms=1000 if n % 2 else 10**12)
            store.create(new)
            store.update(new.session_id, a_commit(new, owner=f"another-{clock.now}"))
            clock.now += 3
            if n % 2 == 0:
                store.delete(new.session_id)  # the other half ends by itself
        clock.now += 1000
        store.create(a_record(idle_ms=1))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        come_and_go()
        before = come_and_go()
        after = come_and_go()
    finally:
        tracemalloc.stop()
    assert len(store) == len(stay) + 1
    assert after - before < 30_000, "not even a few bytes of each that came and went stay"
    assert len(store.sessions_of("ann")) == len(stay)


def test_touching_does_not_make_memory_grow(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    new = a_record(absolute_ms=10**9)
    store.create(new)

    def touch() -> int:
        for _ in range(5000):
            clock.now += 1
            store.update(new.session_id, a_commit(new, operation=""))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = touch()  # what is kept once, by whomever, is there now
        after = touch()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "10", None])
def test_a_bound_is_a_positive_whole_number(most: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_sessions=.*positive whole number"):
        MemoryStore(max_sessions=most)


# --- its clock -------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_neither_ends_nor_untouches_a_session(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    new = a_record(idle_ms=10_000)
    store.create(new)
    clock.now += 5_000
    store.update(new.session_id, a_commit(new))
    clock.now -= 4_000
    assert store.update(new.session_id, a_commit(new, sets={"n": "1"})).touched_ms == clock.now + 4_000
    record = store.read(new.session_id)
    assert record is not None
    assert record.expires_ms == clock.now + 14_000


def test_its_own_clock_is_the_walls_and_never_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    new = a_record(idle_ms=3_600_000)
    created = store.create(new).touched_ms
    assert abs(created - time.time() * 1000) < 60_000
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    record = store.read(new.session_id)
    assert record is not None
    assert 0 <= record.read_at_ms - created < 60_000


# --- by URL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory://", "memory:///", "memory://?max_sessions=3", "MEMORY://?max_sessions=00003"])
def test_it_opens_by_url(url: str) -> None:
    for store in (open_store(url), open_sync_store(url), MemoryStore.from_url(url), AsyncMemoryStore.from_url(url)):
        assert isinstance(store, (MemoryStore, AsyncMemoryStore))
        assert len(store) == 0
    assert ("at most 3" in repr(MemoryStore.from_url(url))) == ("3" in url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://host", "no host and no path"),
        ("memory:///path", "no host and no path"),
        ("memory://user:hunter2@", "no host and no path"),
        ("memory://user:hunter2@host/", "no host and no path"),
        ("memory://?max_session=3", "unknown option 'max_session'"),
        ("memory://?max_sessions=3&prefix=x", "unknown option 'prefix'"),
        ("memory://?password=hunter2", "unknown option 'password'"),
        ("memory://?max_sessions=", "max_sessions"),
        ("memory://?max_sessions=0", "max_sessions"),
        ("memory://?max_sessions=-3", "max_sessions"),
        ("memory://?max_sessions=many", "max_sessions"),
        ("memory://?max_sessions=1e3", "max_sessions"),
        ("memory://?max_sessions=\u0663", "max_sessions"),
    ],
)
def test_a_url_that_cannot_work_is_refused_in_words(url: str, says: str) -> None:
    for opened in (open_store, open_sync_store):
        with pytest.raises(ConfigurationError) as refused:
            opened(url)
        assert says in str(refused.value)
        assert "hunter2" not in str(refused.value)
        assert "hunter2" not in repr(refused.value)


# --- shared by synchronous and asynchronous code ---------------------------------------------------------------------


async def test_both_kinds_of_code_may_share_one_store() -> None:
    store = MemoryStore()
    shared = AsyncMemoryStore(store)
    new = a_record(fields={"n": "1"})
    await shared.create(new)
    store.update(new.session_id, a_commit(new, increments={"n": 1}))
    record = await shared.read(new.session_id)
    assert record is not None
    assert record.fields == {"n": "2"}
    assert len(shared) == len(store) == 1


def test_its_repr_shows_no_session() -> None:
    store = MemoryStore(max_sessions=5)
    new = a_record(fields={"n": '"four thousand"'}, owner="ann")
    store.create(new)
    for shown in (repr(store), repr(AsyncMemoryStore(store))):
        assert new.session_id not in shown
        assert new.secret_hash not in shown
        assert "thousand" not in shown
        assert "1" in shown
