"""What a session costs per request on Flask and Django: ours, Flask-Session, Django's cache sessions, signed cookies.

    make bench BENCH=frameworks                      the whole comparison, a few minutes
    make bench BENCH=frameworks ARGS="--quick"       a look in seconds

Every variant runs in this process and in one thread, without an HTTP server, against one Valkey of its own: a request is a
call of the WSGI application. The handler reads `session["user"]`, and every fifth request counts up `session["hits"]`. The
users are logged in and take turns. Each answer is checked, and at the end every session must have counted exactly.

What is compared is the *cost over the bare application*: processor time of this process per request, less that of the
same application on the same framework without sessions in the same round.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks import _harness as harness
from benchmarks._wsgi_applications import (
    CACHE_DJANGO,
    FLASK_SESSION,
    NEAR_ON_DJANGO,
    NEAR_ON_FLASK,
    PACKAGES,
    VARIANTS,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

WRITE_EVERY = 5
TARGETS = ((NEAR_ON_FLASK, FLASK_SESSION, 0.35), (NEAR_ON_DJANGO, CACHE_DJANGO, 0.45))


class Users:
    """Browsers of one application, each with its own cookie, as cheap as they can be made.

    Args:
        app: the application.
        number: how many.
    """

    def __init__(self, app: WSGIApplication, number: int) -> None:
        self._app = app
        self.names = [f"user-{at}" for at in range(number)]
        self._cookies = [""] * number  # the header
        self._jars: list[dict[str, str]] = [{} for _ in range(number)]  # its parts by name
        self._next = 0
        self.writes = 0

    def request(self, user: int, method: str, path: str, query: str = "") -> bytes:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "shop.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "shop.example",
            "HTTP_ACCEPT": "*/*",
            "HTTP_USER_AGENT": "benchmark",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        if self._cookies[user]:
            environ["HTTP_COOKIE"] = self._cookies[user]
        status = ""

        def start_response(said: str, headers: Iterable[tuple[str, str]], exc_info: object = None) -> Any:
            nonlocal status
            status = said
            for name, value in headers:
                if name.lower() == "set-cookie":
                    pair = value.partition(";")[0]
                    jar = self._jars[user]
                    jar[pair.partition("=")[0]] = pair
                    self._cookies[user] = "; ".join(jar.values())

        body: Any = self._app(environ, start_response)
        text = b"".join(body)
        if hasattr(body, "close"):
            body.close()
        if not status.startswith("200"):
            raise AssertionError(f"{method} {path} was answered with {status}: {text!r}")
        return text

    def log_in(self) -> None:
        for user, name in enumerate(self.names):
            self.request(user, "POST", "/login", "user=" + name)

    async def work(self, number: int) -> None:
        """One request of the benchmark, by the user whose turn it is."""
        user, write = self._turn(number)
        self.writes += write
        text = self.request(user, "POST" if write else "GET", "/work")
        if text != self.names[user].encode():
            raise AssertionError(f"{self.names[user]!r} was taken for {text!r}")

    async def work_without_session(self, number: int) -> None:
        user, write = self._turn(number)
        method = "POST" if write else "GET"
        if self.request(user, method, "/bare") != method.encode():
            raise AssertionError("wrong answer")

    def check_hits(self) -> None:
        """Every write of every user must have counted."""
        found = sum(int(self.request(user, "GET", "/hits")) for user in range(len(self.names)))
        if found != self.writes:
            raise AssertionError(f"{self.writes} writes, but the sessions counted {found}")

    def _turn(self, number: int) -> tuple[int, bool]:
        user = self._next
        self._next = (user + 1) % len(self.names)
        return user, number % WRITE_EVERY == 0


async def compare(url: str, options: argparse.Namespace) -> harness.Samples:
    crowds: dict[str, Users] = {}
    operations: dict[str, harness.Operation] = {}
    for name, variant in VARIANTS.items():
        harness.show_progress(f"logging in {options.sessions} users: {name}")
        users = crowds[name] = Users(variant.build(url), options.sessions)
        if variant.base is not None:
            users.log_in()
        operations[name] = users.work if variant.base is not None else users.work_without_session
    taken = await harness.rounds(operations, number=options.rounds, operations=options.requests, in_flight=1)
    for name, users in crowds.items():
        if VARIANTS[name].base is not None:
            users.check_hits()
    harness.end_progress()
    return taken


def share(taken: harness.Samples, name: str, reference: str) -> harness.Spread:
    """The cost of a variant's sessions as a multiple of the reference's, on the same framework."""
    return taken.cost_ratio(name, VARIANTS[name].base or name, reference, VARIANTS[reference].base or reference)


def report(taken: harness.Samples) -> None:
    rows = []
    for name, variant in VARIANTS.items():
        row = [name, f"{taken.of(name).median:.1f}"]
        if variant.base is None:
            row += ["", ""]
        else:
            over = taken.over(name, variant.base)
            row += [f"{over.median:.1f}", f"{over.low:.1f} to {over.high:.1f}"]
        rows.append([*row, f"{taken.of(name, 'wall').median:.1f}"])
    title = f"Per request in µs, one at a time, {len(taken.rounds)} rounds"
    harness.show_table(title, ["", "processor", "cost of sessions", "middle half", "time"], rows)
    print(
        "\nprocessor: CPU time of this process. cost of sessions: what it is more than the bare application's in the same "
        "round,\nwith the middle half of the rounds. time: until the next request, waiting for the store included. "
        "All are medians.\n"
    )


def main(arguments: list[str]) -> int:
    parser = harness.Options("frameworks", __doc__)
    parser.amount("--requests", 1000, 200, "requests per variant and round")
    parser.amount("--sessions", 1000, 200, "users logged in")
    parser.redis_url()
    options = parser.parse(arguments)
    with harness.store(options.redis_url) as url:
        taken = harness.run(compare(url, options))
    report(taken)
    targets = [
        harness.show_target(f"{ours}: cost as a share of {theirs}", share(taken, ours, theirs), at_most=most)
        for ours, theirs, most in TARGETS
    ]
    costs = {name: taken.over(name, variant.base) for name, variant in VARIANTS.items() if variant.base is not None}
    variants = {
        name: taken.as_json(name) | ({"cost_us": asdict(costs[name])} if name in costs else {}) for name in VARIANTS
    }
    harness.write_json(
        options.json,
        {
            "benchmark": "frameworks",
            "settings": {
                "rounds": options.rounds,
                "requests": options.requests,
                "sessions": options.sessions,
                "write_every": WRITE_EVERY,
            },
            "environment": harness.environment(PACKAGES),
            "variants": variants,
            "targets": targets,
        },
    )
    harness.write_chart(
        options.chart,
        "Cost of sessions per request, one write in five",
        "µs of processor time over the bare application",
        {"one at a time": costs},
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
