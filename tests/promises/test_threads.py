"""R1, R2, R6, R12 and R13 for synchronous stores: threads that are interrupted, that crowd, and whose server fails."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest
import redis as client
from redis.backoff import NoBackoff
from redis.retry import Retry

from coatcheck.changes import NewRecord
from coatcheck.errors import CoatcheckError, ForeignReply, OutcomeUnknown, StoreUnavailable
from coatcheck.stores.redis import SyncRedisStore
from coatcheck.stores.redis.blocking_wire import BlockingWire
from coatcheck.testing import a_commit, a_record
from tests.promises.storm import STORM
from tests.promises.test_r1_r2_replies import somebody_elses
from tests.servers.clock import fair_time
from tests.servers.processes import wait_until
from tests.servers.proxy import Action, Command, Proxy
from tests.servers.valkey import DURABLE, Valkey


def strikes(test: Any) -> Any:
    """For tests in which threads are struck from outside.

    What is struck between two steps leaves its socket to the garbage collector, which closes it, and says so; and what
    strikes a finaliser is ignored there.
    """
    for ignored in ("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"):
        test = pytest.mark.filterwarnings(ignored)(test)
    return test


@contextmanager
def opened(url: str) -> Iterator[SyncRedisStore]:
    store = SyncRedisStore.from_url(url)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(params=["wire", "own client"])
def store(request: pytest.FixtureRequest, proxy: Proxy, prefix: str) -> Iterator[SyncRedisStore]:
    """A synchronous store through the proxy, over either transport."""
    if request.param == "wire":
        with opened(f"{proxy.url}?prefix={prefix}&timeout=5&max_connections=8") as store:
            yield store
        return
    make: Any = client.BlockingConnectionPool
    with client.Redis.from_pool(make(port=proxy.port, max_connections=8, retry=Retry(NoBackoff(), 0))) as own:
        yield SyncRedisStore.from_client(own, prefix=prefix, timeout=5)


def wire_of(store: SyncRedisStore) -> BlockingWire:
    wire = store._transport
    assert isinstance(wire, BlockingWire)
    return wire


def open_sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def nothing_is_lent(store: SyncRedisStore) -> None:
    wire = wire_of(store)
    assert (wire._loans, wire._turns) == (set(), {})
    assert all(connection.at_rest for connection in wire._idle)


# --- R1, R2 --------------------------------------------------------------------------------------------------------------


class Struck(BaseException):
    """What strikes a thread from outside, as a time limit of gevent or the handler of a signal does."""


class Acts:
    """What requests do, each with a check that the answer is its own."""

    def __init__(self, store: SyncRedisStore, people: list[NewRecord]) -> None:
        self._store = store
        self._people = people
        self._chance = random.Random()
        self.wrong = self.done = self.late = 0

    def one(self, timeout: float | None = None) -> None:
        act = self._chance.choice([self.look] * 5 + [self.count] * 3 + [self.enter, self.devices])
        try:
            self.wrong += not act(self._chance.choice(self._people), timeout)
            self.done += 1
        except StoreUnavailable:  # or nobody knows
            self.late += 1

    def look(self, person: NewRecord, timeout: float | None = None) -> bool:
        record = self._store.read(person.session_id, timeout=timeout)
        return record is not None and (record.session_id, record.fields["me"]) == (
            person.session_id,
            person.fields["me"],
        )

    def count(self, person: NewRecord, timeout: float | None = None) -> bool:
        commit = a_commit(person, increments={"hits": 1, "me": 0})
        return self._store.update(person.session_id, commit, timeout=timeout).counters["me"] == int(person.fields["me"])

    def enter(self, person: NewRecord, timeout: float | None = None) -> bool:
        return self._store.create(a_record(fields=person.fields), timeout=timeout).version == 1

    def devices(self, person: NewRecord, timeout: float | None = None) -> bool:
        owned = self._store.sessions_of(person.owner or "")
        return {record.fields["me"] for record in owned} == {person.fields["me"]}


class Victim(threading.Thread):
    """A thread that makes requests, and is struck while it does.

    Args:
        acts: what it does.
        share: how often.
    """

    def __init__(self, acts: Acts, share: int) -> None:
        super().__init__(daemon=True)
        self._acts = acts
        self._left = share
        self._chance = random.Random()
        self._lock = threading.Lock()
        self._due = False  # whether a strike is under way
        self.struck = 0
        self.problem: Exception | None = None

    def run(self) -> None:
        while self._left:
            try:
                self._go_on()
            except Struck:
                self.struck += 1
                self._due = False
            except Exception as problem:
                self.problem = problem
                return

    def _go_on(self) -> None:
        while self._left > 1:
            self._left -= 1
            self._acts.one(self._chance.random() * 0.01 if self._chance.random() < 0.2 else None)
        with self._lock:  # no more strikes from here on
            self._left = 0
        end = monotonic() + 1  # it may have come where exceptions are ignored, such as in a finaliser
        while self._due and monotonic() < end:
            time.sleep(0.001)

    def strike(self) -> None:
        with self._lock:
            if self._left > 1 and not self._due and self.ident is not None:
                self._due = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(Struck))


@strikes
async def test_a_storm_of_interruptions_mixes_nothing_up_and_leaks_nothing(
    proxy: Proxy, valkey: Valkey, prefix: str
) -> None:
    """Threads are struck by exceptions at random moments, and run out of time, behind a proxy that delays at random."""
    proxy._latency = (0.0, 0.004)
    people = [a_record(fields={"me": str(number)}, owner=f"owner-{number}") for number in range(40)]
    ours = open_sockets()
    with opened(f"{proxy.url}?prefix={prefix}&timeout=5&max_connections=8") as store:
        for person in people:
            await asyncio.to_thread(store.create, person)
        acts = [Acts(store, people) for _ in range(16)]
        victims = [Victim(each, STORM // 32) for each in acts]

        def strike() -> None:
            chance = random.Random(1)
            for victim in victims:
                victim.start()
            while any(victim.is_alive() for victim in victims):
                time.sleep(chance.random() * 0.005)
                chance.choice(victims).strike()
            for victim in victims:
                victim.join()

        await asyncio.to_thread(strike)
        for victim in victims:
            if victim.problem is not None:
                raise victim.problem
        struck = sum(victim.struck for victim in victims)
        done, late = sum(each.done for each in acts), sum(each.late for each in acts)
        assert sum(each.wrong for each in acts) == 0
        assert struck > STORM / 40, (struck, done, late)
        assert late > STORM / 40, (struck, done, late)
        assert done > STORM / 10, (struck, done, late)

        nothing_is_lent(store)
        proxy._latency = (0.0, 0.0)
        last = Acts(store, people)
        for _ in range(3):
            assert all(await asyncio.gather(*(asyncio.to_thread(last.look, person) for person in people)))
        assert len(wire_of(store)._idle) <= 8
        await asyncio.to_thread(wait_until, lambda: proxy.open_connections <= 8, "the end of the connections dropped")
        for person in people:
            record = await asyncio.to_thread(store.read, person.session_id)
            assert record is not None
            assert record.version - 1 == int(record.fields.get("hits", 0))
    await asyncio.to_thread(wait_until, lambda: proxy.open_connections == 0, "the end of all connections")
    await asyncio.to_thread(wait_until, lambda: open_sockets() <= ours, "the closing of all sockets")


@strikes
def test_a_signal_may_strike_anywhere(own_valkey: Valkey) -> None:
    """The main thread is struck by a signal, in the midst of sending, waiting, taking and giving back."""
    people = [a_record(fields={"me": str(number)}, owner=f"owner-{number}") for number in range(5)]
    chance = random.Random(2)
    main = threading.get_ident()
    armed, over = threading.Semaphore(0), False

    def strike(*_: object) -> None:
        raise Struck

    def send_signals() -> None:
        while armed.acquire() and not over:
            time.sleep(chance.random() * 0.002)
            signal.pthread_kill(main, signal.SIGUSR1)

    def struck_in(act: Callable[[], None]) -> None:
        """Do something until a signal comes."""
        with suppress(Struck):
            armed.release()
            while True:
                act()

    before = signal.signal(signal.SIGUSR1, strike)
    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        with opened(f"{own_valkey.url}?max_connections=2&timeout=5") as store:
            acts = Acts(store, people)
            for person in people:
                store.create(person)
            for _ in range(STORM // 10):
                struck_in(acts.one)
            assert (acts.wrong, acts.late) == (0, 0)
            assert acts.done > STORM // 20
            nothing_is_lent(store)
            assert len(wire_of(store)._idle) <= 2
            with ThreadPoolExecutor(4) as threads:
                assert all(threads.map(acts.look, people * 4))
    finally:
        over = True
        armed.release()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    wait_until(lambda: b"name=coatcheck" not in own_valkey("CLIENT", "LIST"), "the end of all connections")


@pytest.mark.parametrize("act", ["read", "update"])
async def test_a_surplus_reply_is_noticed_and_nobody_is_served_it(
    store: SyncRedisStore, proxy: Proxy, valkey: Valkey, prefix: str, act: str
) -> None:
    mine, other = (a_record(fields={"me": f'"{name}"'}) for name in ("mine", "other"))
    for record in (mine, other):
        await asyncio.to_thread(store.create, record)
        await asyncio.to_thread(store.update, record.session_id, a_commit(record, sets={"warm": "1"}))
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: store.read(mine.session_id),
        "update": lambda: store.update(mine.session_id, a_commit(mine, increments={"hits": 1})),
    }
    for kind, surplus in somebody_elses(valkey, prefix, other).items():
        connections = proxy.connections
        proxy.reset_counts()
        proxy.judge = lambda command, surplus=surplus: surplus if command.number == 0 else "pass"  # type: ignore[misc]
        # What is an error cannot be told from an error of our own, which is served to nobody either.
        with pytest.raises(CoatcheckError if kind == "an error" else ForeignReply):
            await asyncio.to_thread(acts[act])
        proxy.judge = lambda command: "pass"
        for _ in range(3):
            read = await asyncio.to_thread(store.read, mine.session_id)
            assert read is not None
            assert read.fields["me"] == '"mine"', kind
        assert proxy.connections > connections, f"after {kind} the connection was not dropped"


# --- R6 ------------------------------------------------------------------------------------------------------------------


class Tally:
    """Counts increments of one session by what became of them."""

    def __init__(self, session: NewRecord) -> None:
        self._session = session
        self._lock = threading.Lock()
        self.acknowledged = self.unknown = self.refused = 0

    def count(self, store: SyncRedisStore) -> None:
        """One increment, as a request does it: read, commit."""
        session_id = self._session.session_id
        outcome = "acknowledged"
        try:
            record = store.read(session_id)
            assert record is not None
            store.update(session_id, a_commit(self._session, increments={"hits": 1}, read_version=record.version))
        except OutcomeUnknown:
            outcome = "unknown"
        except StoreUnavailable:
            outcome = "refused"
            time.sleep(0.02)
        with self._lock:
            setattr(self, outcome, getattr(self, outcome) + 1)

    def holds(self, final: int) -> bool:
        return self.acknowledged <= final <= self.acknowledged + self.unknown

    def __repr__(self) -> str:
        return f"{self.acknowledged} acknowledged, {self.unknown} unknown, {self.refused} refused"


def hits(store: SyncRedisStore, session: NewRecord) -> int:
    """What has been counted, as soon as the store is up."""
    found: list[int] = []

    def up() -> bool:
        with suppress(StoreUnavailable):
            record = store.read(session.session_id)
            assert record is not None
            assert record.version - 1 == int(record.fields["hits"])
            found.append(int(record.fields["hits"]))
        return bool(found)

    wait_until(up, "the store to be up")
    return found[0]


@pytest.mark.parametrize("cut", ["cut after", "cut before"])
async def test_an_answer_that_is_lost_is_asked_for_again_and_the_increment_counts_once(
    store: SyncRedisStore, proxy: Proxy, cut: Action
) -> None:
    new = a_record(fields={"hits": "0"})
    await asyncio.to_thread(store.create, new)
    await asyncio.to_thread(store.update, new.session_id, a_commit(new, increments={"hits": 1}))
    for number in range(5):
        proxy.reset_counts()
        proxy.judge = lambda command: cut if command.number == 0 else "pass"
        commit = a_commit(new, increments={"hits": 1}, read_version=number + 2)
        applied = await asyncio.to_thread(store.update, new.session_id, commit)
        assert applied.counters == {"hits": number + 2}
    assert await asyncio.to_thread(hits, store, new) == 6


async def test_an_answer_that_is_lost_again_and_again_is_reported_as_unknown(
    store: SyncRedisStore, proxy: Proxy
) -> None:
    new = a_record(fields={"hits": "0"})
    await asyncio.to_thread(store.create, new)
    await asyncio.to_thread(store.update, new.session_id, a_commit(new, increments={"hits": 1}))
    proxy.judge = lambda command: "cut after"
    with pytest.raises(OutcomeUnknown, match="may or may not have been saved, but not twice"):
        await asyncio.to_thread(store.update, new.session_id, a_commit(new, increments={"hits": 1}, read_version=2))
    proxy.judge = lambda command: "pass"
    assert await asyncio.to_thread(hits, store, new) == 2, "it was applied, once"


async def test_increments_of_threads_whose_connections_break_add_up(valkey: Valkey, proxy: Proxy, prefix: str) -> None:
    chance = random.Random(6)

    def judge(command: Command) -> Action:
        if command.name != "EVALSHA":
            return "pass"
        return chance.choices(("pass", "cut after", "cut before"), (94, 4, 2))[0]

    new = a_record(fields={"hits": "0"})
    with opened(f"{proxy.url}?prefix={prefix}&timeout=5&max_connections=6") as store:
        await asyncio.to_thread(store.create, new)
        proxy.judge = judge
        tally = Tally(new)
        await asyncio.gather(*(asyncio.to_thread(_repeat, tally, store, STORM // 200) for _ in range(8)))
        proxy.judge = lambda command: "pass"
        final = await asyncio.to_thread(hits, store, new)
    assert tally.acknowledged > STORM // 50, tally
    assert tally.holds(final), (tally, final)


def _repeat(tally: Tally, store: SyncRedisStore, times: int) -> None:
    for _ in range(times):
        tally.count(store)


def test_a_killed_server_that_writes_to_disk_loses_no_acknowledged_increment() -> None:
    new = a_record(fields={"hits": "0"})
    tally = Tally(new)
    over = threading.Event()
    chance = random.Random(7)
    with Valkey(*DURABLE) as valkey, opened(f"{valkey.url}?timeout=2&max_connections=4") as store:
        store.create(new)

        def keep_counting() -> None:
            while not over.is_set():
                tally.count(store)

        with ThreadPoolExecutor(8) as threads:
            counting = [threads.submit(keep_counting) for _ in range(8)]
            try:
                for _ in range(3):
                    goal = tally.acknowledged + chance.randrange(20, 100)
                    wait_until(lambda goal=goal: tally.acknowledged >= goal, "some increments")  # type: ignore[misc]
                    valkey.kill()
                    time.sleep(chance.random() * 0.1)
                    valkey.start()
            finally:
                over.set()
            for each in counting:
                each.result()
        final = hits(store, new)
        assert tally.unknown + tally.refused > 0
        assert tally.holds(final), (tally, final)


# --- R12, R13 ------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("how", ["slow", "frozen"])
async def test_a_slow_store_costs_at_most_the_time_limit(own_valkey: Valkey, how: str) -> None:
    new = a_record()
    limit = 0.25
    async with Proxy(own_valkey.port) as proxy:
        with opened(f"{proxy.url}?max_connections=8") as store, ThreadPoolExecutor(16) as threads:
            store_is_ready = asyncio.get_running_loop().run_in_executor(threads, store.create, new)
            await store_is_ready

            def request(_: int) -> float:
                began = fair_time()
                with pytest.raises(StoreUnavailable):
                    store.read(new.session_id, timeout=limit)
                return fair_time() - began

            def crowd() -> list[float]:
                return list(threads.map(request, range(200)))

            if how == "slow":
                proxy._latency = (1.0, 1.0)
            else:
                own_valkey.freeze()
            try:
                took = sorted(await asyncio.to_thread(crowd))
            finally:
                proxy._latency = (0.0, 0.0)
                own_valkey.thaw()
            assert took[int(len(took) * 0.99)] < limit + 0.1
            assert took[len(took) // 2] < 0.05, "and most are told at once"

            def up() -> bool:
                with suppress(StoreUnavailable):
                    return store.read(new.session_id) is not None
                return False

            await asyncio.to_thread(wait_until, up, "the store to be up")


@pytest.mark.alone
async def test_ten_times_as_many_threads_as_connections_are_all_served(
    proxy: Proxy, valkey: Valkey, prefix: str
) -> None:
    """Nobody is passed over: in the time in which all could have had so many turns, each has had nearly as many."""
    proxy._latency = (0.002, 0.002)
    new = a_record(fields={"me": "1"})
    with opened(f"{proxy.url}?prefix={prefix}&timeout=10&max_connections=4") as store:
        await asyncio.to_thread(store.create, new)
        over = monotonic() + 2.5

        def keep_reading() -> tuple[int, float]:
            reads, longest = 0, 0.0
            while (began := monotonic()) < over:
                assert store.read(new.session_id) is not None
                reads += 1
                longest = max(longest, monotonic() - began)
            return reads, longest

        def crowd() -> list[tuple[int, float]]:
            with ThreadPoolExecutor(40) as threads:
                return [each.result() for each in [threads.submit(keep_reading) for _ in range(40)]]

        served = await asyncio.to_thread(crowd)
        fewest, most = min(reads for reads, _ in served), max(reads for reads, _ in served)
        assert fewest >= 5
        assert most <= 1.5 * fewest + 3, (fewest, most)
        assert proxy.connections <= 5
        nothing_is_lent(store)


@pytest.mark.alone
async def test_ten_times_as_many_threads_as_connections_end_by_their_time_limit(own_valkey: Valkey) -> None:
    new = a_record()
    with opened(f"{own_valkey.url}?timeout=8&max_connections=4") as store:
        await asyncio.to_thread(store.create, new)
        chance = random.Random(13)

        def request(limit: float) -> float:
            began = fair_time()
            with pytest.raises(StoreUnavailable):
                store.read(new.session_id, timeout=limit)
            return fair_time() - began - limit

        def crowd() -> list[float]:
            with ThreadPoolExecutor(40) as threads:
                return list(threads.map(request, [0.2 + chance.random() * 0.3 for _ in range(40)]))

        own_valkey.freeze()
        try:
            over = await asyncio.to_thread(crowd)
        finally:
            own_valkey.thaw()
        assert max(over) < 0.15
        nothing_is_lent(store)
        assert await asyncio.to_thread(store.read, new.session_id, timeout=5.0) is not None
