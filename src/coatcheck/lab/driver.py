"""The load generator of the experiments, in a process of its own: arrivals that wait for nobody, and races.

Started as `python -m coatcheck.lab.driver`. It is told a `LoadJob` and then when to begin, one JSON object per line, appends
what it met to a file of samples, and waits for the next job. `coatcheck.lab.shoppers` is its sister for the experiment
with the carts.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from pathlib import Path
from typing import IO

import aiohttp
import msgspec

from coatcheck.lab.content import content
from coatcheck.lab.messages import SETTLE, WARM_UP_RATE, Enough, LoadJob, Progress, Start, line
from coatcheck.lab.meter import HEADER
from coatcheck.lab.processes import LOOPBACK
from coatcheck.lab.samples import Finished, Logout, Race, Sample, append
from coatcheck.lab.shoppers import PATIENCE, Answer, CookieJar

_SLOW = 60  # ms that a request in a race takes at least, so that they meet
_LOGOUT_AFTER = 20  # ms
_WRITE_EVERY = 2000  # samples


class Browser:
    """One person's browser, which may have several requests under way."""

    def __init__(self, user: int, shop: aiohttp.ClientSession, job: LoadJob, start: float) -> None:
        self.user = user
        self.server = ""  # that served the first request
        self._cookies = CookieJar()
        self._shop = shop
        self._size = job.size
        self._start = start
        self._added = 0

    async def begin(self, scheduled: float) -> Sample:
        """Start a session: a name, an empty cart, and as much as sessions are to hold."""
        order = {"shopper": f"shopper-{self.user}", "items": {}, "profile": content(self._size, f"user {self.user}")}
        sample, _ = await self._ask(scheduled, "begin", "PUT", "/cart", order)
        self.server = sample.server
        return sample

    async def visit(self, scheduled: float, *, write: bool) -> Sample:
        """Look at the cart, or put one thing in."""
        if not write:
            return (await self._ask(scheduled, "read", "GET", "/cart"))[0]
        self._added += 1
        return (await self._ask(scheduled, "write", "POST", f"/cart/hat-{self._added % 4}"))[0]

    async def race(self, at_once: int, looks: int) -> Race:
        """Put several things in at once, one request each, and see what is there when all have been answered."""
        things = [f"thing-{number}" for number in range(at_once)]
        samples = await asyncio.gather(
            *(self._ask(0.0, "write", "POST", f"/cart/{thing}?wait={_SLOW}") for thing in things)
        )
        answered = [sample.status == 200 for sample, _ in samples]
        seen = [(await self._ask(0.0, "read", "GET", "/cart"))[1] for _ in range(looks)]
        return Race(
            user=self.user,
            acknowledged=tuple(thing for thing, fine in zip(things, answered, strict=True) if fine),
            unanswered=tuple(thing for thing, fine in zip(things, answered, strict=True) if not fine),
            seen=tuple(None if answer is None else answer.items for answer in seen),
        )

    async def log_out(self, looks: int) -> Logout:
        """Log out while another request is under way, and try the old ticket when both have been answered."""
        late = asyncio.create_task(self._ask(0.0, "write", "POST", f"/cart/late?wait={_SLOW * 2}", keep=False))
        await asyncio.sleep(_LOGOUT_AFTER / 1000)
        logout, _ = await self._ask(0.0, "write", "POST", "/logout", keep=False)
        in_time = logout.status == 200 and not late.done()
        sample, _ = await late
        seen = [(await self._ask(0.0, "read", "GET", "/cart", keep=False))[1] for _ in range(looks)]
        alive = tuple(None if answer is None else bool(answer.shopper or answer.items) for answer in seen)
        return Logout(user=self.user, acknowledged=in_time, late_status=sample.status, alive=alive)

    async def _ask(
        self, scheduled: float, kind: str, method: str, path: str, order: object = None, *, keep: bool = True
    ) -> tuple[Sample, Answer | None]:
        """One request. `keep`: whether the cookies that come with the answer are kept."""
        status, server, told = 0, "", "0 0"
        answer: Answer | None = None
        sent = time.monotonic()
        try:
            async with self._shop.request(method, path, json=order, headers=self._cookies.header()) as response:
                body = await response.read()
                status = response.status
                told = response.headers.get(HEADER, told)
                if keep:
                    for set_cookie in response.headers.getall("Set-Cookie", ()):
                        self._cookies.take(set_cookie)
            if status == 200 and path != "/logout":
                answer = msgspec.json.decode(body, type=Answer)
                server = answer.server
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError):
            status = 0
        completed = time.monotonic()
        calls, _, microseconds = told.partition(" ")
        sample = Sample(
            scheduled=round(scheduled, 6),
            sent=round(sent - self._start, 6),
            completed=round(completed - self._start, 6),
            user=self.user,
            kind=kind,  # type: ignore[arg-type]
            status=status,
            server=server,
            known=answer is not None and answer.shopper == f"shopper-{self.user}",
            store_calls=int(calls),
            store_us=int(microseconds),
        )
        return sample, answer


class Driver:
    """Does one job."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._file = Path(job.file)
        self._samples: list[Sample] = []
        self._count = self._errors = 0
        self._last = math.inf

    async def run(self, start: float, orders: IO[bytes] | None = None) -> None:
        """Let everybody begin, then do what the job says from `start` on, by `time.monotonic()`.

        Args:
            start: when the first one is due.
            orders: where `Enough` may be said meanwhile.
        """
        job = self._job

        def hear() -> None:
            assert orders is not None
            if said := orders.readline():
                self._last = msgspec.json.decode(said, type=Enough).at

        if orders is not None:
            asyncio.get_running_loop().add_reader(orders.fileno(), hear)
        async with aiohttp.ClientSession(
            f"http://{LOOPBACK}:{job.port}",
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        ) as shop:
            browsers = [Browser(user, shop, job, start) for user in range(job.users)]
            first = -job.users / WARM_UP_RATE - SETTLE
            await self._at([(first + user / WARM_UP_RATE, user) for user in range(job.users)], browsers, start, None)
            _say(Progress(completed=self._count))
            cpu = time.process_time()
            if job.rate:
                await self._at(self._arrivals(browsers), browsers, start, random.Random(f"writes {job.seed}"))
            for begin in range(0, job.races, 10):
                some = browsers[begin : min(begin + 10, job.races)]
                self._write(await asyncio.gather(*(each.race(job.at_once, job.looks) for each in some)))
            for begin in range(0, job.logouts, 10):
                some = browsers[begin : min(begin + 10, job.logouts)]
                self._write(await asyncio.gather(*(each.log_out(job.looks) for each in some)))
            elapsed, cpu = time.monotonic() - start, time.process_time() - cpu
        self._flush()
        append(self._file, [Finished(count=self._count, elapsed=round(elapsed, 6), cpu=round(cpu, 6))])

    def _arrivals(self, browsers: list[Browser]) -> list[tuple[float, int]]:
        """Who comes when. Everybody comes equally often, but for the crowd."""
        job = self._job
        dice = random.Random(f"arrivals {job.seed}")
        crowd = [browser.user for browser in browsers if job.crowd_server and browser.server == job.crowd_server]
        arrivals, order = [], list[int]()
        for number in range(round(job.rate * job.seconds)):
            if crowd and dice.random() < job.crowd_share:
                user = dice.choice(crowd)
            else:
                if not order:
                    order = list(range(job.users))
                    dice.shuffle(order)
                user = order.pop()
            arrivals.append((number / job.rate, user))
        return arrivals

    async def _at(
        self, arrivals: list[tuple[float, int]], browsers: list[Browser], start: float, dice: random.Random | None
    ) -> None:
        """Send everybody on their way when they are due. Without `dice`, they begin their sessions."""
        under_way: set[asyncio.Task[None]] = set()
        for number, (scheduled, user) in enumerate(arrivals):
            if scheduled > self._last:
                break
            early = start + scheduled - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            elif number % 50 == 0:
                await asyncio.sleep(0)  # when late, still let answers in
            write = None if dice is None else dice.random() < self._job.write_share
            task = asyncio.create_task(self._visit(browsers[user], scheduled, write))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _visit(self, browser: Browser, scheduled: float, write: bool | None) -> None:
        sample = await (browser.begin(scheduled) if write is None else browser.visit(scheduled, write=write))
        self._samples.append(sample)
        self._count += 1
        self._errors += sample.status != 200
        if len(self._samples) >= _WRITE_EVERY:
            self._flush()
            _say(Progress(completed=self._count, errors=self._errors))

    def _write(self, found: list[Race] | list[Logout]) -> None:
        append(self._file, found)
        self._count += len(found)

    def _flush(self) -> None:
        samples, self._samples = self._samples, []
        append(self._file, samples)


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(line(progress))
    sys.stdout.buffer.flush()


def main() -> None:
    """Do one job after the other, as long as there are any."""
    while said := sys.stdin.buffer.readline():
        driver = Driver(msgspec.json.decode(said, type=LoadJob))
        _say(Progress())
        start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
        asyncio.run(driver.run(start.at, sys.stdin.buffer))
        _say(Progress(done=True))


if __name__ == "__main__":
    main()
