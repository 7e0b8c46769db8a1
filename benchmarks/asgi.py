"""What a session costs per request: ours, Starlette's signed cookie, starsessions and Litestar's, over a bare application.

    make bench                      the whole comparison, a few minutes
    make bench ARGS="--quick"       a look in seconds
    make bench ARGS="--help"

Every variant runs in this process, without an HTTP server, against one Valkey of its own: a request is a call of the ASGI
application. The handler reads `session["user"]`, and every fifth request counts up `session["hits"]`. A thousand users
are logged in and take turns, so no session is in two requests at once. Each answer is checked, and at the end every
server-side session must have counted exactly. Settings are the defaults of each library.

What is compared is the *cost over the bare application*: processor time of this process per request, less that of the
same application without sessions in the same round. Litestar's sessions are compared with a bare Litestar.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import _harness as harness
from benchmarks._applications import (
    NEAR,
    OURS,
    OURS_IN_WORDS,
    PACKAGES,
    SIGNED,
    STARSESSIONS,
    VARIANTS,
    cost,
    share,
)
from coatcheck.asgi import ASGIApp

WRITE_EVERY = 5
REFERENCES = {"vs signed cookie": SIGNED, "vs starsessions": STARSESSIONS}


@dataclass(slots=True)
class Answer:
    """What the application sent."""

    status: int = 0
    body: bytes = b""
    set_cookies: list[bytes] = field(default_factory=list)


class Users:
    """Browsers of one application, each with its own cookie, as cheap as they can be made.

    Args:
        app: the application.
        numbers: of the users.
        cookies: of those who are logged in already.
    """

    def __init__(self, app: ASGIApp, numbers: Iterable[int], cookies: Iterable[bytes] | None = None) -> None:
        self._app = app
        self.names = [b"user-%d" % number for number in numbers]
        self._cookies = [b""] * len(self.names) if cookies is None else list(cookies)  # the header
        self._jars: list[dict[bytes, bytes]] = [{} for _ in self.names]  # its parts by name, of those given here
        self._next = 0
        self._busy: set[int] = set()  # users whose request is under way
        self.writes = 0

    async def request(self, user: int, method: str, path: str, query: bytes = b"") -> Answer:
        headers = [(b"host", b"shop.example"), (b"accept", b"*/*"), (b"user-agent", b"benchmark")]
        if self._cookies[user]:
            headers.append((b"cookie", self._cookies[user]))
        scope: dict[str, Any] = {
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
                        answer.set_cookies.append(value)
            else:
                answer.body += message.get("body", b"")

        await self._app(scope, receive, send)
        if answer.status != 200:
            raise AssertionError(f"{method} {path} was answered with {answer.status}: {answer.body!r}")
        for set_cookie in answer.set_cookies:
            pair = set_cookie.partition(b";")[0]
            self._jars[user][pair.partition(b"=")[0]] = pair
            self._cookies[user] = b"; ".join(self._jars[user].values())
        return answer

    async def log_in(self) -> None:
        for user, name in enumerate(self.names):
            await self.request(user, "POST", "/login", b"user=" + name)

    async def work(self, number: int) -> None:
        """One request of the benchmark, by the user whose turn it is."""
        user = self._next
        while user in self._busy:  # requests that wait for nothing overtake those that do
            user = (user + 1) % len(self.names)
        self._next = (user + 1) % len(self.names)
        write = number % WRITE_EVERY == 0
        self.writes += write
        self._busy.add(user)
        answer = await self.request(user, "POST" if write else "GET", "/work")
        self._busy.discard(user)
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


async def compare(url: str, options: argparse.Namespace) -> dict[int, harness.Samples]:
    crowds = {}
    for name, variant in VARIANTS.items():
        harness.show_progress(f"logging in {options.sessions} users: {name}")
        crowds[name] = Users(variant.build(url), range(options.sessions))
        if variant.base is not None:
            await crowds[name].log_in()
    operations: dict[str, harness.Operation] = {
        name: users.work if VARIANTS[name].base else users.work_without_session for name, users in crowds.items()
    }
    samples = {}
    for in_flight in options.in_flight:
        samples[in_flight] = await harness.rounds(
            operations, number=options.rounds, operations=options.requests, in_flight=in_flight
        )
    for name, users in crowds.items():
        if VARIANTS[name].base is not None:
            await users.check_hits()
    harness.end_progress()
    return samples


def report(samples: dict[int, harness.Samples]) -> None:
    for in_flight, taken in samples.items():
        rows = []
        for name in VARIANTS:
            over = cost(taken, name)
            row = [name, f"{taken.of(name).median:.1f}"]
            if over is None:
                row += ["", "", *("" for _ in REFERENCES)]
            else:
                row += [f"{over.median:.1f}", f"{over.low:.1f} to {over.high:.1f}"]
                row += [f"{share(taken, name, reference).median:.2f}" for reference in REFERENCES.values()]
            rows.append([*row, f"{taken.of(name, 'wall').median:.1f}"])
        title = f"Per request in µs, {in_flight} in flight, {len(taken.rounds)} rounds"
        columns = ["", "processor", "cost of sessions", "middle half", *REFERENCES, "time"]
        harness.show_table(title, columns, rows)
    print(
        "\nprocessor: CPU time of this process. cost of sessions: what it is more than the bare application's in the same "
        "round,\nwith the middle half of the rounds. time: until the next request, waiting for the store included. "
        f"All are medians.\n\n{OURS_IN_WORDS}\n"
    )


def targets(samples: dict[int, harness.Samples]) -> list[dict[str, Any]]:
    """What was set beforehand, where the load for it was among those measured."""
    if 64 not in samples:
        return []
    taken = samples[64]
    return [
        harness.show_target(
            f"{ours}: its cost as a share of {whose}, 64 in flight", share(taken, ours, reference), at_most=most
        )
        for ours in (OURS, NEAR)
        for reference, whose, most in ((STARSESSIONS, "starsessions'", 0.1), (SIGNED, "the signed cookie's", 0.6))
    ]


def as_json(samples: dict[int, harness.Samples], options: argparse.Namespace) -> dict[str, Any]:
    loads = {}
    for in_flight, taken in samples.items():
        variants = {}
        for name, variant in VARIANTS.items():
            over = cost(taken, name)
            variants[name] = taken.as_json(name)
            if over is not None:
                shares = {reference: asdict(share(taken, name, reference)) for reference in REFERENCES.values()}
                variants[name] |= {"base": variant.base, "cost_us": asdict(over), "cost_as_multiple_of": shares}
        loads[str(in_flight)] = variants
    return {
        "benchmark": "asgi",
        "settings": {
            "loop": options.loop,
            "rounds": options.rounds,
            "requests": options.requests,
            "sessions": options.sessions,
            "write_every": WRITE_EVERY,
            "coatcheck": OURS_IN_WORDS.replace("\n", " "),
        },
        "environment": harness.environment(PACKAGES),
        "in_flight": loads,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = harness.Options("asgi", __doc__)
    parser.amount("--requests", 2000, 300, "requests per variant and round")
    parser.amount("--sessions", 1000, 200, "users logged in")
    parser.amounts("--in-flight", [1, 64], [1, 64], "requests at a time")
    parser.loop()
    parser.redis_url()
    options = parser.parse(arguments)
    if max(options.in_flight) > options.sessions:
        parser.error("--in-flight must not exceed --sessions: no session may be in two requests at once")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with harness.store(options.redis_url) as url:
        samples = harness.run(compare(url, options), options.loop)
    report(samples)
    harness.write_json(options.json, as_json(samples, options) | {"targets": targets(samples)})
    harness.write_chart(
        options.chart,
        "Cost of sessions per request, one write in five",
        "µs of processor time over the bare application",
        {
            f"{in_flight} in flight": {name: over for name in VARIANTS if (over := cost(taken, name)) is not None}
            for in_flight, taken in samples.items()
        },
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
