"""What a session costs per request over real HTTP: the applications of `asgi`, each behind uvicorn.

    make bench BENCH=http                  a few minutes
    make bench BENCH=http ARGS="--quick"   a look in seconds

Each application has a uvicorn of its own: one process, httptools, no access log. A process of browsers keeps 32
connections to the one whose turn it is, sends a request on each when it has the answer to the last, and checks every
answer; a thousand users take turns, and one request in five writes. At the end every server-side session must have counted
exactly. The browsers are a program of ours (`_browsers.py`), so nothing needs to be installed.

    processor         CPU time of the server's process per request, as it reports it itself
    cost of sessions  what that is more than the bare application's on the same framework, in the same round
    requests/s        with one server process, which shares this machine's processors with the browsers and the store
    p50, p99          from sending a request to having its answer. With all connections always busy this is mostly
                      waiting for one's turn: read it together with requests/s
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

from benchmarks import _browsers as browsers
from benchmarks import _harness as harness
from benchmarks._applications import (
    OURS_IN_WORDS,
    PACKAGES,
    SIGNED,
    STARSESSIONS,
    VARIANTS,
    cost,
    environment_for,
    share,
)
from tests.servers.web import WebServer

WRITE_EVERY = 5
REFERENCES = {"vs signed cookie": SIGNED, "vs starsessions": STARSESSIONS}


async def compare(url: str, options: argparse.Namespace) -> harness.Samples:
    loop = asyncio.get_running_loop()
    uvicorn = {"UVICORN_LOOP": options.loop, "UVICORN_HTTP": "httptools", "UVICORN_LOG_LEVEL": "info"}
    with ExitStack() as stack:
        elsewhere = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        crowds: dict[str, browsers.Crowd] = {}
        for name, variant in VARIANTS.items():
            harness.show_progress(f"logging in {options.sessions} users: {name}")
            environment = uvicorn | environment_for(name, url)
            server = stack.enter_context(WebServer("benchmarks._applications:from_environment", environment))
            crowds[name] = browsers.Crowd(server.port, variant.path, options.sessions)
            if variant.base is not None:
                crowds[name] = await loop.run_in_executor(elsewhere, browsers.log_in, crowds[name])

        async def take(name: str) -> harness.Sample:
            crowds[name], sample = await loop.run_in_executor(
                elsewhere, browsers.work, crowds[name], options.requests, options.connections, WRITE_EVERY
            )
            return sample

        samples = await harness.turns(
            {name: name for name in VARIANTS}, take, number=options.rounds, label=f"{options.connections} connections"
        )
        for name, variant in VARIANTS.items():
            if variant.base is not None:
                found = await loop.run_in_executor(elsewhere, browsers.hits, crowds[name])
                if found != crowds[name].writes:
                    raise AssertionError(f"{name}: {crowds[name].writes} writes, but the sessions counted {found}")
    harness.end_progress()
    return samples


def per_second(taken: harness.Samples, name: str) -> harness.Spread:
    return harness.Spread.of([1e6 / each[name].wall for each in taken.rounds])


def report(taken: harness.Samples, options: argparse.Namespace) -> None:
    rows = []
    for name in VARIANTS:
        over = cost(taken, name)
        row = [name, f"{taken.of(name).median:.0f}"]
        if over is None:
            row += ["", "", *("" for _ in REFERENCES)]
        else:
            row += [f"{over.median:.0f}", f"{over.low:.0f} to {over.high:.0f}"]
            row += [f"{share(taken, name, reference).median:.2f}" for reference in REFERENCES.values()]
        row += [f"{per_second(taken, name).median:,.0f}"]
        row += [f"{taken.of(name, figure).median / 1000:.1f}" for figure in ("p50", "p99")]
        rows.append(row)
    title = f"Over HTTP, {options.connections} connections, {len(taken.rounds)} rounds"
    columns = ["", "processor µs", "cost of sessions", "middle half", *REFERENCES, "requests/s", "p50 ms", "p99 ms"]
    harness.show_table(title, columns, rows)
    print(
        "\nprocessor: CPU time of the server's process per request. cost of sessions: what it is more than the bare "
        "application's\nin the same round, with the middle half of the rounds. p50, p99: with all connections always busy. "
        f"All are medians.\n\n{OURS_IN_WORDS}"
    )


def as_json(taken: harness.Samples, options: argparse.Namespace) -> dict[str, Any]:
    variants = {}
    for name, variant in VARIANTS.items():
        over = cost(taken, name)
        variants[name] = taken.as_json(name) | {"requests_per_second": asdict(per_second(taken, name))}
        if over is not None:
            shares = {reference: asdict(share(taken, name, reference)) for reference in REFERENCES.values()}
            variants[name] |= {"base": variant.base, "cost_us": asdict(over), "cost_as_multiple_of": shares}
    return {
        "benchmark": "http",
        "settings": {
            "loop": options.loop,
            "rounds": options.rounds,
            "requests": options.requests,
            "connections": options.connections,
            "sessions": options.sessions,
            "write_every": WRITE_EVERY,
            "coatcheck": OURS_IN_WORDS.replace("\n", " "),
        },
        "environment": harness.environment((*PACKAGES, "uvicorn", "httptools")),
        "variants": variants,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = harness.Options("http", __doc__, rounds=9)
    parser.amount("--requests", 3000, 300, "requests per variant and round")
    parser.amount("--sessions", 1000, 200, "users logged in")
    parser.amount("--connections", 32, 32, "connections, each with one request at a time")
    parser.loop()
    parser.redis_url()
    options = parser.parse(arguments)
    if options.connections > options.sessions:
        parser.error("--connections must not exceed --sessions: no session may be in two requests at once")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with harness.store(options.redis_url) as url:
        taken = asyncio.run(compare(url, options))
    report(taken, options)
    harness.write_json(options.json, as_json(taken, options))
    costs = {name: over for name in VARIANTS if (over := cost(taken, name)) is not None}
    harness.write_chart(
        options.chart,
        "Cost of sessions per request over HTTP, one write in five",
        "µs of the server's processor time over the bare application",
        {f"{options.connections} connections": costs},
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
