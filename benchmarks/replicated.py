"""What does it cost to keep every session on every web server?

    python -m benchmarks.replicated             some minutes
    python -m benchmarks.replicated --quick     a look in seconds

For 1 to 8 processes on loopback, each of them a peer: how many commits they get acknowledged by all others in a second, how
long one takes, and how much work it is for each of them; what a session takes in memory, in all processes together; and
how many bytes are sent for it.
And once: what reading costs, compared with the memory store.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from benchmarks import _harness as harness
from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.memory import AsyncMemoryStore
from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.testing import a_record
from tests.servers.peers import PeerProcess, agreement
from tests.stores.replicas import close_peers, open_peers, url_for

PACKAGES = ["coatcheck", "pyzmq", "msgspec"]
FIELDS = {"user": '"ann"', "theme": '"dark"', "cart[sku-1]": "1", "cart[sku-2]": "2", "hits": "0"}
OPTIONS = "silence=30&timeout=60&compare=3600&max_sessions=1000000"


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many peers cost.

    Attributes:
        commits: acknowledged by all, in a second, by all peers together.
        p50_ms, p99_ms: how long one took, from its caller's point of view.
        cpu_us: microseconds of processor time for a commit, on each of the servers.
        memory: bytes per session, in all processes together.
        traffic: bytes sent per session that is created, by all processes together.
        commit_traffic: bytes sent per commit.
    """

    commits: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory: float
    traffic: float
    commit_traffic: float


async def cost_of(peers: list[PeerProcess], options: argparse.Namespace) -> Cost:
    """Measure peers that are ready."""
    share = options.sessions // len(peers)
    await together(
        peers, "create", count=1000, fields=FIELDS, idle_ms=3_600_000
    )  # buffers and code have their size now
    await agreement(peers, 60)
    memory, sent = await total(peers, "memory"), await bytes_sent(peers)
    made: list[dict[str, str]] = await together(peers, "create", count=share, fields=FIELDS, idle_ms=3_600_000)
    await agreement(peers, 120)
    memory, sent = await total(peers, "memory") - memory, await bytes_sent(peers) - sent
    sessions = share * len(peers)

    each = options.commits // len(peers)
    before, worked, began = await bytes_sent(peers), await total(peers, "processor_time"), perf_counter()
    several = [dict(list(mine.items())[:200]) for mine in made]
    work = (
        peer("commit", sessions=mine, count=each, in_flight=options.in_flight)
        for peer, mine in zip(peers, several, strict=True)
    )
    took = [duration for durations in await asyncio.gather(*work) for duration in durations]
    seconds = perf_counter() - began
    worked = await total(peers, "processor_time") - worked
    p50, p99 = harness.percentiles(took)
    commits = each * len(peers)
    told = await bytes_sent(peers) - before
    cpu_us = worked / commits / len(peers) / 1000
    return Cost(commits / seconds, p50, p99, cpu_us, memory / sessions, sent / sessions, told / commits)


async def together(peers: list[PeerProcess], do: str, **arguments: Any) -> list[Any]:
    return list(await asyncio.gather(*(peer(do, **arguments) for peer in peers)))


async def total(peers: list[PeerProcess], what: str) -> int:
    return int(sum(await together(peers, what)))


async def bytes_sent(peers: list[PeerProcess]) -> int:
    return sum(look.get("bytes_sent", 0) for look in await together(peers, "look"))


async def costs(options: argparse.Namespace) -> dict[int, Cost]:
    found = {}
    for count in options.peers:
        harness.show_progress(f"{count} peers")
        url = url_for(count, OPTIONS)
        peers = [await PeerProcess.start(url) for _ in range(count)]
        try:
            assert all(await together(peers, "ready", timeout=60))
            found[count] = await cost_of(peers, options)
        finally:
            for peer in peers:
                await peer.stop()
    harness.end_progress()
    return found


async def reading(options: argparse.Namespace) -> harness.Samples:
    """What reading costs, in this process."""
    peers: list[ReplicatedStore] = await open_peers(2)
    stores: dict[str, AsyncStore] = {"memory store": AsyncMemoryStore(), "coatcheck all-to-all": peers[0]}
    sessions = [a_record(fields=FIELDS) for _ in range(100)]
    try:
        for store in stores.values():
            for new in sessions:
                await store.create(new)

        def read(store: AsyncStore) -> Callable[[int], Awaitable[None]]:
            async def one(number: int) -> None:
                assert await store.read(sessions[number % 100].session_id) is not None

            return one

        return await harness.rounds(
            {name: read(store) for name, store in stores.items()},
            number=options.rounds,
            operations=options.reads,
            in_flight=1,
        )
    finally:
        await close_peers(peers)


def formula(found: dict[int, Cost]) -> tuple[float, float, float]:
    """Bytes per session: of one copy, of what its own server keeps in addition, and of telling one other server.

    By the smallest and the next number of peers; whether the others follow is the question.
    """
    few, more = sorted(found)[:2]
    copy = (found[more].memory - found[few].memory) / (more - few)
    return copy, found[few].memory - few * copy, found[more].traffic / (more - 1)


def report(found: dict[int, Cost], read: harness.Samples) -> list[dict[str, Any]]:
    copy, own, told = formula(found)
    rows = [
        [
            str(count),
            f"{cost.commits:,.0f}",
            f"{cost.p50_ms:.1f}",
            f"{cost.p99_ms:.1f}",
            f"{cost.cpu_us:.0f}",
            f"{cost.memory:,.0f}",
            f"{count * copy + own:,.0f}",
            f"{cost.traffic:,.0f}",
            f"{(count - 1) * told:,.0f}",
            f"{cost.commit_traffic:,.0f}",
        ]
        for count, cost in found.items()
    ]
    columns = [
        "peers",
        "commits/s",
        "p50 ms",
        "p99 ms",
        "cpu us",
        "bytes a session",
        "formula",
        "sent a session",
        "formula",
        "a commit",
    ]
    harness.show_table("All peers together", columns, rows)
    print(
        f"\nMemory: {copy:,.0f} bytes on each server, and {own:,.0f} on the one that uses it. "
        f"Sent: {told:,.0f} to each other one."
    )
    ratio = read.ratio("coatcheck all-to-all", "memory store")
    targets = [harness.show_target("reading, as a multiple of the memory store's", ratio, at_most=1.2)]
    for count, cost in found.items():
        if count > sorted(found)[1]:
            for what, measured, expected in (
                ("memory", cost.memory, count * copy + own),
                ("traffic", cost.traffic, (count - 1) * told),
            ):
                off = abs(measured / expected - 1)
                targets.append(
                    harness.show_target(
                        f"{what} of {count} peers, off the formula by", harness.Spread.of([off]), at_most=0.1
                    )
                )
    return targets


def main(arguments: list[str]) -> int:
    parser = harness.Options("replicated", __doc__, rounds=9)
    parser.amounts("--peers", [1, 2, 4, 8], [1, 2], "how many processes")
    parser.amount("--sessions", 20_000, 2_000, "sessions created")
    parser.amount("--commits", 8_000, 800, "commits, by all peers together")
    parser.amount("--in-flight", 8, 8, "commits at a time, on each peer")
    parser.amount("--reads", 20_000, 2_000, "reads in a round")
    options = parser.parse(arguments)
    read = harness.run(reading(options))
    found = harness.run(costs(options))
    targets = report(found, read)
    content = {
        "benchmark": "replicated",
        "settings": {
            name: getattr(options, name) for name in ("rounds", "peers", "sessions", "commits", "in_flight", "reads")
        },
        "environment": harness.environment(PACKAGES),
        "peers": {str(count): asdict(cost) for count, cost in found.items()},
        "reading": {name: read.as_json(name) for name in ("memory store", "coatcheck all-to-all")},
        "targets": targets,
    }
    harness.write_json(options.json, content)
    bars = {
        "commits in a second": {f"{n} peers": harness.Spread.of([cost.commits]) for n, cost in found.items()},
        "a commit, 99th percentile, ms": {f"{n} peers": harness.Spread.of([cost.p99_ms]) for n, cost in found.items()},
        "memory, bytes a session": {f"{n} peers": harness.Spread.of([cost.memory]) for n, cost in found.items()},
        "sent, bytes a session": {f"{n} peers": harness.Spread.of([cost.traffic]) for n, cost in found.items()},
    }
    harness.write_chart(options.chart, "Every session on every server: all servers together", "", bars)
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
