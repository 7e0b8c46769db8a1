"""Whether a request costs more when more sessions are stored.

    make bench BENCH=stored                  some minutes; takes under 1 GB of memory
    make bench BENCH=stored ARGS="--quick"   1,000 against 10,000, a look in seconds

One Valkey for each number of sessions, all running at the same time, so that they take turns in every round. The requests
are those of `asgi`, one in five of which writes, by as many users on each, who are drawn at random in every round and checked
to be served their own sessions. All sessions are copies of one that the store itself created and wrote eight times, each with
its own id, secret and user, so that a session which is visited often is as large as one that is not.

    processor   CPU time of this process per request
    store       CPU time of the store's process per request, as it reports it itself. It grows a little with more sessions,
                because those asked for are no longer in the processor's caches
    both        the sum of the two
    p50, p99    how long a request took. One at a time, this is the latency; with many in flight it is mostly waiting
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks import _bare as bare
from benchmarks import _harness as harness
from benchmarks import _sessions as sessions
from benchmarks._applications import OURS, OURS_IN_WORDS, PACKAGES, VARIANTS
from benchmarks.asgi import WRITE_EVERY, Users
from coatcheck.asgi import ASGIApp
from coatcheck.record import OPERATIONS_REMEMBERED
from coatcheck.stores.redis import RedisStore
from tests.servers.valkey import Valkey

AT_MOST = 1.15
"""What a request with the most sessions may cost, as a multiple of one with the fewest."""

BATCH = 1000


@dataclass(frozen=True, slots=True)
class World:
    """A server with so many sessions, and an application on it."""

    size: int
    server: Valkey
    app: ASGIApp

    def some_users(self, number: int) -> Users:
        """Users drawn at random, no one twice."""
        drawn = random.sample(range(self.size), number)
        return Users(self.app, drawn, (f"__Host-session={sessions.ticket(at).cookie_value}".encode() for at in drawn))

    def store_cpu(self) -> float:
        """The processor time that the server has used, in µs."""
        told = self.server("INFO", "cpu")
        return float((told["used_cpu_user"] + told["used_cpu_sys"]) * 1e6)


async def fill(server: Valkey, size: int) -> None:
    """Store so many sessions: one as the store does it, and copies of that."""
    first = sessions.new(0)
    store = RedisStore.from_url(server.url)
    await store.create(first)
    for _ in range(OPERATIONS_REMEMBERED):
        await store.update(first.session_id, sessions.write_of_one_field(first, sessions.user(0)))
    await store.close()
    pipe = bare.Blocking(bare.address_of(server.url))
    prefix = "coatcheck:session:"
    record, ends_at = pipe.exchange(
        [("HGETALL", prefix + first.session_id), ("PEXPIRETIME", prefix + first.session_id)]
    )
    record["hits"] = "0"
    for start in range(0, size, BATCH):
        harness.show_progress(f"storing {size:,} sessions: {start:,}")
        commands: list[bare.Command] = []
        for number in range(start, min(start + BATCH, size)):
            key = prefix + sessions.ticket(number).session_id
            commands.append(("HSET", key, *as_anothers(record, number)))
            commands.append(("PEXPIREAT", key, ends_at))
        pipe.exchange(commands)
    stored = pipe.exchange([("DBSIZE",)])[0]
    assert stored == size, f"{stored} sessions are stored, not {size}"
    pipe.close()


def as_anothers(record: dict[str, str], number: int) -> Iterator[str]:
    """Names and values of session 0's record, made into those of session `number`, wherever its id and secret stand."""
    first, its = sessions.ticket(0), sessions.ticket(number)
    for name, text in record.items():
        yield name
        if name == "user":
            yield sessions.user(number)
        else:
            yield text.replace(first.session_id, its.session_id).replace(first.secret_hash, its.secret_hash)


async def compare(options: argparse.Namespace) -> dict[int, harness.Samples]:
    samples = {}
    with ExitStack() as stack:
        worlds = {}
        for size in options.stored:
            server = stack.enter_context(Valkey())
            await fill(server, size)
            worlds[name_of(size)] = World(size, server, VARIANTS[OURS].build(server.url))
        for in_flight in options.in_flight:

            async def take(world: World, in_flight: int = in_flight) -> harness.Sample:
                users = world.some_users(min(options.requests, *options.stored))
                return await harness.measure(
                    users.work,
                    operations=options.requests,
                    in_flight=in_flight,
                    time_each=True,
                    store_cpu=world.store_cpu,
                )

            samples[in_flight] = await harness.turns(
                worlds, take, number=options.rounds, label=f"{in_flight} in flight"
            )
    harness.end_progress()
    return samples


def name_of(size: int) -> str:
    return f"coatcheck, {size:,} stored"


def report(samples: dict[int, harness.Samples], sizes: list[int]) -> None:
    fewest = name_of(sizes[0])
    for in_flight, taken in samples.items():
        rows = []
        for name in map(name_of, sizes):
            row = [name]
            for figure in ("cpu", "store_cpu", "both_cpu", "p50"):
                spread, ratio = taken.of(name, figure), taken.ratio(name, fewest, figure)
                row += [f"{spread.median:.1f}", f"{ratio.median:.2f}"]
            rows.append([*row, f"{taken.of(name, 'p99').median:.1f}"])
        columns = ["", "processor", "ratio", "store", "ratio", "both", "ratio", "p50", "ratio", "p99"]
        harness.show_table(f"Per request in µs, {in_flight} in flight, {len(taken.rounds)} rounds", columns, rows)
    print(
        "\nprocessor, store: CPU time of this process, and of the store's. ratio: as a multiple of the first row, within "
        f"the\nsame round. All are medians.\n\n{OURS_IN_WORDS}\n"
    )


def targets(samples: dict[int, harness.Samples], sizes: list[int]) -> list[dict[str, Any]]:
    fewest, most = sizes[0], sizes[-1]
    told = {"cpu": "processor time", "both_cpu": "processor time of both", "p50": "median latency"}
    return [
        harness.show_target(
            f"{what} with {most:,} stored over {fewest:,}, {in_flight} in flight",
            taken.ratio(name_of(most), name_of(fewest), figure),
            at_most=AT_MOST,
        )
        for in_flight, taken in samples.items()
        for figure, what in told.items()
    ]


def as_json(samples: dict[int, harness.Samples], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "benchmark": "stored",
        "settings": {
            "rounds": options.rounds,
            "requests": options.requests,
            "fields": sessions.TYPICAL,
            "write_every": WRITE_EVERY,
            "coatcheck": OURS_IN_WORDS.replace("\n", " "),
        },
        "environment": harness.environment(PACKAGES),
        "in_flight": {
            str(in_flight): {str(size): taken.as_json(name_of(size)) for size in options.stored}
            for in_flight, taken in samples.items()
        },
    }


def main(arguments: list[str]) -> int:
    parser = harness.Options("stored", __doc__)
    parser.amounts("--stored", [1000, 100_000, 1_000_000], [1000, 10_000], "sessions stored")
    parser.amount("--requests", 2000, 1000, "requests per number of sessions and round")
    parser.amounts("--in-flight", [1, 64], [1, 64], "requests at a time")
    options = parser.parse(arguments)
    if max(options.in_flight) > min(options.stored):
        parser.error("--in-flight must not exceed --stored: no session may be in two requests at once")
    options.stored.sort()
    samples = asyncio.run(compare(options))
    report(samples, options.stored)
    harness.write_json(options.json, as_json(samples, options) | {"targets": targets(samples, options.stored)})
    harness.write_chart(
        options.chart,
        "A request, by the number of sessions stored",
        "µs of processor time, the web server's",
        {
            f"{in_flight} in flight": {name_of(size): taken.of(name_of(size)) for size in options.stored}
            for in_flight, taken in samples.items()
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
