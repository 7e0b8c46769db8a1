"""R18: a store in trouble is not flooded too: what reaches it is at most 1.1 times what it gets when all is well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic, sleep

import pytest

from coatcheck.changes import NewRecord
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.redis import RedisStore, SyncRedisStore
from coatcheck.stores.redis.gate import LONGEST_PAUSE, Gate
from coatcheck.testing import a_commit, a_record
from tests.servers.processes import eventually
from tests.servers.proxy import Proxy
from tests.servers.valkey import DURABLE, Valkey

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "ci"
OUTAGE = 10.0 if LONG else 3.0
SHORTER = 10.0 if LONG else 1.2
"""Seconds."""

SERVERS = 4
"""Web servers, each with a store of its own."""

RATE = 240
"""Requests a second, of all together, whatever becomes of them: users do not wait for each other."""

DEADLINE = 0.25


@dataclass
class Load:
    """What is asked of the stores, and what of that reaches the server's address.

    Attributes:
        offered: how many requests there were.
        well, down: how they went.
    """

    proxy: Proxy
    sessions: list[NewRecord]
    offered: int = 0
    well: int = 0
    down: int = 0
    over: bool = False

    @property
    def reached(self) -> int:
        """Commands, and attempts to connect."""
        return len(self.proxy.commands) + self.proxy.connections

    async def phase(self, seconds: float, *, waiting: bool = False) -> float:
        """How many commands and attempts to connect each request causes, in the next seconds.

        Args:
            seconds: how long.
            waiting: whether those that have come lately may be waiting still.
        """
        offered, reached = self.offered, self.reached
        await asyncio.sleep(seconds)
        async with asyncio.timeout(60):  # a busy machine may not keep the rate
            while self.offered - offered < 0.7 * RATE * seconds:
                await asyncio.sleep(0.01)
        requests = self.offered - offered + (RATE * DEADLINE if waiting else 0)
        return (self.reached - reached) / requests

    # --- one request: a read, and for one in three a commit ------------------------------------------------------------

    async def request(self, store: RedisStore, number: int) -> None:
        session = self.sessions[number % len(self.sessions)]
        try:
            assert await store.read(session.session_id, timeout=DEADLINE) is not None
            if number % 3 == 0:
                await store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=DEADLINE)
        except StoreUnavailable:
            self.down += 1
        else:
            self.well += 1

    async def crowd(self, stores: list[RedisStore]) -> None:
        async with asyncio.TaskGroup() as requests:
            began = monotonic()
            while not self.over:
                while self.offered < (monotonic() - began) * RATE:
                    requests.create_task(self.request(stores[self.offered % len(stores)], self.offered))
                    self.offered += 1
                await asyncio.sleep(0.005)

    def thread_request(self, store: SyncRedisStore, number: int) -> None:
        session = self.sessions[number % len(self.sessions)]
        try:
            assert store.read(session.session_id, timeout=DEADLINE) is not None
            if number % 3 == 0:
                store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=DEADLINE)
        except StoreUnavailable:
            self.down += 1
        else:
            self.well += 1

    def thread_crowd(self, stores: list[SyncRedisStore]) -> None:
        with ThreadPoolExecutor(64) as threads:
            requests = []
            began = monotonic()
            while not self.over:
                while self.offered < (monotonic() - began) * RATE:
                    store = stores[self.offered % len(stores)]
                    requests.append(threads.submit(self.thread_request, store, self.offered))
                    self.offered += 1
                sleep(0.005)
        for request in requests:
            request.result()


@asynccontextmanager
async def load(kind: str, valkey: Valkey, servers: int = SERVERS) -> AsyncIterator[Load]:
    async with Proxy(valkey.port) as proxy:
        first = RedisStore.from_url(proxy.url)
        sessions = [a_record() for _ in range(20)]
        for each in sessions:
            await first.create(each)
        load = Load(proxy, sessions)
        stores = [first]
        threads: list[SyncRedisStore] = []
        if kind == "async":
            stores += [RedisStore.from_url(proxy.url) for _ in range(servers - 1)]
            crowd = asyncio.create_task(load.crowd(stores))
        else:
            threads += [SyncRedisStore.from_url(f"{proxy.url}?max_connections=8") for _ in range(servers)]
            crowd = asyncio.create_task(asyncio.to_thread(load.thread_crowd, threads))
        try:
            await load.phase(0.3)  # until all are connected
            assert load.down == 0
            yield load
        finally:
            load.over = True
            await crowd
            for store in stores:
                await store.close()
            for each_store in threads:
                each_store.close()


@pytest.fixture
def durable() -> Iterator[Valkey]:
    with Valkey(*DURABLE) as valkey:
        yield valkey


async def goes_on(load: Load) -> None:
    well = load.well
    await eventually(lambda: load.well > well + RATE / 4, "the service to be back")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_that_is_away_and_comes_back_is_not_flooded(durable: Valkey, kind: str) -> None:
    async with load(kind, durable) as everybody:
        normal = await everybody.phase(0.5)
        durable.kill()
        away = await everybody.phase(OUTAGE)
        served = everybody.well
        durable.start()
        back = await everybody.phase(1.0, waiting=True)
        await goes_on(everybody)
    print(f"\n{kind}, killed: {normal:.2f} for each request when all is well, {away:.3f} while away, {back:.2f} after")
    assert everybody.well > served
    assert 2.2 < normal < 2.5, "two commands for a read, one for a commit"
    assert away < 0.1 * normal, "it is looked at now and then, and not for each request"
    assert back <= 1.1 * normal


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_that_hangs_is_not_flooded(durable: Valkey, kind: str) -> None:
    async with load(kind, durable) as everybody:
        normal = await everybody.phase(0.5)
        durable.freeze()
        away = await everybody.phase(SHORTER)
        durable.thaw()
        back = await everybody.phase(1.0, waiting=True)
        await goes_on(everybody)
    print(f"\n{kind}, frozen: {normal:.2f} for each request when all is well, {away:.3f} while away, {back:.2f} after")
    assert away <= 1.1 * normal
    assert back <= 1.1 * normal


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_whose_connections_keep_breaking_is_not_asked_everything_twice(
    durable: Valkey, kind: str
) -> None:
    """The answer to one command in six is lost, and the connection with it: each of these would be worth a repeat."""
    async with load(kind, durable, servers=1) as everybody:
        normal = await everybody.phase(0.5)
        everybody.proxy.judge = lambda command: "cut after" if command.number % 6 == 0 else "pass"
        before = len(everybody.proxy.commands), everybody.offered
        await everybody.phase(SHORTER)
        commands = (len(everybody.proxy.commands) - before[0]) / (everybody.offered - before[1])
        everybody.proxy.judge = lambda command: "pass"
        back = await everybody.phase(1.0, waiting=True)
        await goes_on(everybody)
    print(f"\n{kind}, breaking: {normal:.2f} for each request when all is well, {commands:.3f} then, {back:.2f} after")
    assert commands <= 1.1 * normal
    assert back <= 1.1 * normal


def test_web_servers_do_not_all_come_back_at_the_same_moment() -> None:
    gates = [Gate() for _ in range(100)]
    for gate in gates:
        for _ in range(10):
            gate.failed(0.0, "a test")
    pauses = sorted(gate.closed_for(0.0) for gate in gates)
    assert pauses[-1] <= LONGEST_PAUSE
    assert pauses[0] >= LONGEST_PAUSE / 2
    for tenth in range(5, 10):
        share = sum(LONGEST_PAUSE * tenth / 10 <= pause < LONGEST_PAUSE * (tenth + 1) / 10 for pause in pauses)
        assert 3 <= share <= 45, "spread over the time"
