"""A crowd of users who go on shopping while their servers are killed, and who remember what they were told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from coatcheck.changes import NewRecord
from coatcheck.errors import OutcomeUnknown, StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.interface import AsyncStore
from coatcheck.testing import a_commit, a_record
from tests.servers.clock import fair_time

DEADLINE = 0.25
"""Seconds that a request may spend on its store: the default of `Settings.store_timeout`."""


@dataclass
class User:
    """One user: a session, and what each of its commits was answered.

    Attributes:
        well, down: how many requests went well, and how many did not.
        longest: seconds between two requests that went well, at the most.
        slowest: seconds that one request took, at the most.
    """

    session: NewRecord
    acknowledged: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    well: int = 0
    down: int = 0
    longest: float = 0.0
    slowest: float = 0.0
    over: bool = False

    async def shop(self, store: AsyncStore, chance: random.Random) -> None:
        """Read, and now and then put something into the cart."""
        last = monotonic()
        number = 0
        while not self.over:
            await asyncio.sleep(chance.uniform(0.002, 0.01))
            number += 1
            began = fair_time()
            try:
                record = await store.read(self.session.session_id, timeout=DEADLINE)
                self.see(record)
                if number % 3 == 0:
                    await self.put(store, number, record)
            except StoreUnavailable as unavailable:
                self.down += 1
                if not isinstance(unavailable, OutcomeUnknown):
                    await asyncio.sleep(0.02)
            else:
                self.well += 1
                self.longest = max(self.longest, monotonic() - last)
                last = monotonic()
            self.slowest = max(self.slowest, fair_time() - began)

    async def put(self, store: AsyncStore, number: int, record: Record | None) -> None:
        assert record is not None
        item = {"hits": 1, f"cart[{number}]": 1}
        commit = a_commit(self.session, increments=item, read_version=record.version)
        try:
            applied = await store.update(self.session.session_id, commit, timeout=DEADLINE)
        except OutcomeUnknown:
            self.unknown.add(number)
            raise
        except StoreUnavailable:
            self.refused.add(number)
            raise
        assert applied.counters[f"cart[{number}]"] == 1
        self.acknowledged.add(number)

    def see(self, record: Record | None) -> None:
        """What was read is this user's own session, and nothing counts twice."""
        assert record is not None, "logged out"
        assert record.owner == self.session.owner
        assert record.fields["user"] == self.session.fields["user"]
        assert record.version - 1 == int(record.fields.get("hits", "0")) == len(self.cart(record))

    def cart(self, record: Record) -> set[int]:
        items = {name: text for name, text in record.fields.items() if name.startswith("cart[")}
        assert set(items.values()) <= {"1"}, "an increment was applied twice"
        return {int(name[5:-1]) for name in items}


class Crowd:
    """What all of them saw."""

    def __init__(self, store: AsyncStore, users: list[User]) -> None:
        self.store = store
        self.users = users
        self.tasks: list[asyncio.Task[None]] = []
        self.pace = 0.0

    async def go_on(self, times: int = 10) -> None:
        """Until every user has been served so many times more."""
        goals = [user.well + times for user in self.users]
        await self.until(lambda: all(user.well >= goal for user, goal in zip(self.users, goals, strict=True)))

    async def served_once(self, ready: Callable[[], bool]) -> float:
        """Seconds from the moment when the servers are ready until every user has been served again: our part of it."""
        async with asyncio.timeout(60):
            # In a thread: while the loop is busy with asking, nobody in the crowd is served.
            while not await asyncio.to_thread(ready):
                await asyncio.sleep(0.005)
        began = fair_time()
        await self.go_on(1)
        return fair_time() - began

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)

    @property
    def without_service(self) -> float:
        """Seconds between two requests of one user that went well, at the most."""
        return max(user.longest for user in self.users)

    def commits_in(self, seconds: float) -> float:
        """How many commits they make in so many seconds, when all goes well."""
        return self.pace * seconds

    async def check(self, *, nothing_lost: bool) -> Counter[str]:
        """What the store holds in the end is what the users were told.

        Args:
            nothing_lost: whether every commit that was acknowledged must be there.
        """
        count: Counter[str] = Counter()
        for user in self.users:
            record = await self.store.read(user.session.session_id, timeout=5)
            user.see(record)
            assert record is not None
            cart = user.cart(record)
            assert cart <= user.acknowledged | user.unknown, "what was refused was applied"
            assert user.acknowledged <= cart or not nothing_lost, "an acknowledged commit is lost"
            assert user.slowest < 3 * DEADLINE + 0.5, "a request took longer than its deadlines"
            count["acknowledged"] += len(user.acknowledged)
            count["lost"] += len(user.acknowledged - cart)
            count["unknown"] += len(user.unknown)
            count["refused"] += len(user.refused)
        assert count["acknowledged"] > 3 * len(self.users)
        return count


@asynccontextmanager
async def crowd(store: AsyncStore, size: int = 20) -> AsyncIterator[Crowd]:
    """Users with sessions that all replicas have, who shop until the end."""
    users = []
    for number in range(size):
        users.append(User(a_record(owner=f"user-{number}", fields={"user": str(number)}, absolute_ms=3_600_000)))
        await store.create(users[-1].session, timeout=5)
    await asyncio.sleep(0.2)  # for the replicas
    everybody = Crowd(store, users)
    chance = random.Random(17)
    everybody.tasks = [asyncio.create_task(user.shop(store, chance)) for user in users]
    try:
        began = monotonic()
        await everybody.go_on()
        everybody.pace = sum(len(user.acknowledged) for user in users) / (monotonic() - began)
        yield everybody
    finally:
        for user in users:
            user.over = True
        await asyncio.wait(everybody.tasks)
    for task in everybody.tasks:
        task.result()
