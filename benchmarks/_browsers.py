"""Browsers over real HTTP, in a process of their own, so that what they cost is not taken for the server's.

Each keeps one connection and sends its next request when it has the answer to the last. They know as much HTTP as the
answers of these benchmarks need: a `content-length`, and perhaps some `set-cookie`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from benchmarks._harness import Sample, percentiles

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COOKIE = re.compile(rb"\r\nset-cookie: *([^;\r]*)", re.IGNORECASE)
_FEW = 8
"""Connections for what is not measured."""


@dataclass(slots=True)
class Crowd:
    """The users of one server, with the cookies that they were given. Travels between the processes.

    Attributes:
        port: of the server, on this machine.
        path: what they ask for.
        size: how many there are.
        cookies: of those who have one.
        turn: how many requests each connection has made.
        writes: how many of them wrote.
    """

    port: int
    path: str
    size: int
    cookies: dict[int, bytes] = field(default_factory=dict)
    turn: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """Attributes:
    line: such as `GET /work`.
    user: whose cookie goes with it; `None` for nobody's.
    wanted: the right answer; `None` for any.
    """

    line: str
    user: int | None = None
    wanted: bytes | None = None


class Browser(asyncio.Protocol):
    """One connection.

    Attributes:
        bodies: the answers.
        durations: how long each took, in µs.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._buffer = b""
        self._answered: asyncio.Future[bytes] | None = None
        self.durations: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, request: Request) -> bytes:
        """Send one request, keep the cookie that comes with its answer, and give the answer's body."""
        cookies = self._crowd.cookies
        cookie = b"" if request.user not in cookies else b"cookie: " + cookies[request.user] + b"\r\n"
        began = time.perf_counter_ns()
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(
            b"%b HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\nuser-agent: benchmark\r\ncontent-length: 0\r\n%b\r\n"
            % (request.line.encode("ascii"), cookie)
        )
        answer = await self._answered
        self.durations.append((time.perf_counter_ns() - began) / 1000)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or request.wanted not in (None, body):
            raise AssertionError(f"{request} was answered with {answer!r}")
        if request.user is not None and (given := _COOKIE.findall(head)):
            jar = {
                pair.partition(b"=")[0]: pair for pair in (*cookies.get(request.user, b"").split(b"; "), *given) if pair
            }
            cookies[request.user] = b"; ".join(jar.values())
        return body

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(body) >= int(length[1]) and self._answered is not None:
            self._answered.set_result(self._buffer)
            self._buffer = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError(f"the server hung up ({exc})"))


@asynccontextmanager
async def _browsers(crowd: Crowd, number: int) -> AsyncIterator[list[Browser]]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Browser(crowd), "127.0.0.1", crowd.port) for _ in range(number)]
    try:
        yield [browser for _, browser in made]
    finally:
        for _, browser in made:
            browser.transport.abort()


async def _ask(browsers: list[Browser], plan: Callable[[int], Iterable[Request]]) -> list[bytes]:
    """Each browser, given its number, makes the requests of its plan one after another."""

    async def work(at: int) -> list[bytes]:
        return [await browsers[at].ask(request) for request in plan(at)]

    answers = await asyncio.gather(*map(work, range(len(browsers))))
    return [body for each in answers for body in each]


# --- what the benchmark has done in the process of the browsers ------------------------------------------------------


def log_in(crowd: Crowd) -> Crowd:
    """Log all users in."""

    def plan(at: int) -> Iterator[Request]:
        return (Request(f"POST /login?user=user-{user}", user) for user in range(at, crowd.size, _FEW))

    async def run() -> None:
        async with _browsers(crowd, _FEW) as browsers:
            await _ask(browsers, plan)

    asyncio.run(run())
    return crowd


def work(crowd: Crowd, requests: int, connections: int, write_every: int) -> tuple[Crowd, Sample]:
    """Users in turn, so many at a time. Processor time is what the server says that it used.

    Every connection has users of its own, so no session is ever in two requests at once.
    """
    share = max(1, requests // connections)

    def plan(at: int) -> Iterator[Request]:
        own = range(at, crowd.size, connections)
        for turn in range(crowd.turn, crowd.turn + share):
            user, write = own[turn % len(own)], (turn * connections + at) % write_every == 0
            crowd.writes += write
            method = "POST" if write else "GET"
            wanted = method if crowd.path == "/bare" else f"user-{user}"
            yield Request(f"{method} {crowd.path}", user, wanted.encode("ascii"))

    async def run() -> Sample:
        async with _browsers(crowd, connections) as browsers:
            cpu = int(await browsers[0].ask(Request("GET /cpu")))
            browsers[0].durations.clear()
            began = time.perf_counter_ns()
            done = len(await _ask(browsers, plan))
            wall = time.perf_counter_ns() - began
            p50, p99 = percentiles([duration for browser in browsers for duration in browser.durations])
            cpu = int(await browsers[0].ask(Request("GET /cpu"))) - cpu
        return Sample(cpu / done / 1000, wall / done / 1000, p50=p50, p99=p99)

    sample = asyncio.run(run())
    crowd.turn += share
    return crowd, sample


def hits(crowd: Crowd) -> int:
    """What the sessions of all users have counted."""

    def plan(at: int) -> Iterator[Request]:
        return (Request("GET /hits", user) for user in range(at, crowd.size, _FEW))

    async def run() -> list[bytes]:
        async with _browsers(crowd, _FEW) as browsers:
            return await _ask(browsers, plan)

    return sum(map(int, asyncio.run(run())))
