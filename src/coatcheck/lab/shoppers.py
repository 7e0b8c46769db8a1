"""The load generator: virtual shoppers, in a process of their own.

Started as `python -m coatcheck.lab.shoppers`; `coatcheck.lab.messages` has what it is told and what it says. What the
shoppers meet goes into the history.

Each shopper is a browser with one tab: it keeps its own cookies, makes one request at a time, and knows what it put
into its cart. A shopper who is due while the previous request is still under way comes as soon as it is back; the
waiting counts, for the shopper would have waited.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import msgspec

from coatcheck.lab.checker import owner_of
from coatcheck.lab.haproxy import COOKIE as BALANCER_COOKIE
from coatcheck.lab.history import Ended, Operation, Writer
from coatcheck.lab.messages import Job, Progress, Start, line
from coatcheck.lab.plan import Arrival, Cart, Kind, cart_of
from coatcheck.lab.processes import LOOPBACK

SESSION_COOKIE = "session"  # what coatcheck calls it over plain HTTP
SESSION_ID_CHARACTERS = 16  # the part of the ticket that names the session; the rest is secret
PATIENCE = 10.0  # seconds until a shopper gives up on an answer

_REPORT_EVERY = 0.2  # seconds


class CookieJar:
    """A browser's cookies, as far as one host over plain HTTP needs them."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def take(self, set_cookie: str) -> None:
        """Follow one `Set-Cookie` header: keep the cookie, or remove it if it has expired."""
        pair, _, attributes = set_cookie.partition(";")
        name, separator, value = pair.partition("=")
        if not separator:
            return
        if _has_expired(attributes):
            self._cookies.pop(name.strip(), None)
        else:
            self._cookies[name.strip()] = value.strip()

    def get(self, name: str) -> str | None:
        """The value of one cookie."""
        return self._cookies.get(name)

    def header(self) -> dict[str, str]:
        """The `Cookie` header to send, if there is anything to send."""
        if not self._cookies:
            return {}
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}


def _has_expired(attributes: str) -> bool:
    for attribute in attributes.split(";"):
        name, _, value = attribute.strip().partition("=")
        if name.lower() == "max-age":
            return value.strip() in ("0", "-1")
        if name.lower() == "expires" and "1970" in value:
            return True
    return False


class Shopper:
    """One shopper: cookies, and a memory of the cart."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.turn = asyncio.Lock()  # one request at a time, in the order in which they were due
        self._seed = seed
        self._cookies = CookieJar()
        self._generation = 0
        # What the cart may hold. Empty: never filled. More than one: a fill had no answer, so nobody knows.
        self._possible: tuple[Cart, ...] = ()

    async def visit(self, number: int, arrival: Arrival, shop: aiohttp.ClientSession, start: float) -> Operation:
        """Make one request, and judge the answer.

        Args:
            number: the operation's id.
            arrival: when this visit was due, and what for.
            shop: the connection to the shop.
            start: the start of the run, by `time.monotonic()`.
        """
        # Nobody looks at a cart that was never filled: if the first fill failed, the next visit fills it.
        kind: Kind = arrival.kind if self._possible else "fill"
        order: dict[str, object] | None = None
        expected = self._possible
        if kind == "fill":
            self._generation += 1
            cart = cart_of(self._seed, self.number, self._generation)
            order = {"shopper": owner_of(self.number), "items": cart}
            expected = (cart,)

        status: int | None = None
        error: str | None = None
        answer: Answer | None = None
        sent = time.monotonic()
        try:
            async with shop.request(
                "PUT" if kind == "fill" else "GET", "/cart", json=order, headers=self._cookies.header()
            ) as response:
                status = response.status
                body = await response.read()
                for set_cookie in response.headers.getall("Set-Cookie", ()):
                    self._cookies.take(set_cookie)
            if status == 200:
                answer = _answer.decode(body)
            else:
                error = f"http {status}"
        except TimeoutError:
            error, status = "timeout", None
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as problem:
            error, status = type(problem).__name__, None
        completed = time.monotonic()

        seen = right = None
        if kind == "fill":
            # Without an answer, the shopper does not know whether the cart was filled.
            if answer is not None:
                self._possible = expected
            elif self._possible:
                self._possible += expected
        elif answer is not None:
            seen = answer.items
            right = seen in expected and answer.shopper in (None, owner_of(self.number))
            if right:
                self._possible = expected if seen == expected[0] else (seen,)

        ticket = self._cookies.get(SESSION_COOKIE)
        return Operation(
            id=number,
            shopper=self.number,
            kind=kind,
            generation=self._generation,
            scheduled=round(arrival.scheduled, 6),
            sent=round(sent - start, 6),
            completed=round(completed - start, 6),
            outcome="ok" if answer is not None else "error",
            status=status,
            error=error,
            server=answer.server if answer is not None else None,
            expected=expected,
            seen=seen,
            owner=answer.shopper if answer is not None else None,
            right=right,
            session=None if ticket is None else ticket[:SESSION_ID_CHARACTERS],
            pinned=self._cookies.get(BALANCER_COOKIE),
        )


class Answer(msgspec.Struct, frozen=True):
    """What the shop says about a cart."""

    server: str
    shopper: str | None
    items: Cart


_answer = msgspec.json.Decoder(Answer)


class Generator:
    """Sends all shoppers on their way and writes down what they met."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shoppers = [Shopper(number, job.plan.seed) for number in range(job.plan.shoppers)]
        self._done: list[Operation] = []
        self._count = self._reads = self._wrong = self._errors = 0

    async def run(self, start: float) -> None:
        """Let everybody come when they are due, and wait until the last has been served."""
        plan, history = self._job.plan, Writer(Path(self._job.history))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(
            f"http://{LOOPBACK}:{self._job.port}",
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        ) as shop:
            reporter = asyncio.create_task(self._report(history))
            visits: set[asyncio.Task[None]] = set()
            await asyncio.sleep(max(0.0, start - time.monotonic()))
            cpu = time.process_time()
            for number, arrival in enumerate(plan.arrivals()):
                early = start + arrival.scheduled - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                visit = asyncio.create_task(self._visit(number, arrival, shop, start))
                visits.add(visit)
                visit.add_done_callback(visits.discard)
                if number % 50 == 0:
                    await asyncio.sleep(0)  # when late, still let answers in
            await asyncio.gather(*visits)
            elapsed, cpu = time.monotonic() - start, time.process_time() - cpu
            if reporter.done():
                await reporter  # it never ends by itself: this raises what ended it, such as a full disk
            reporter.cancel()
        self._flush(history)
        history.write([Ended(operations=self._count, elapsed=round(elapsed, 6), cpu=round(cpu, 6))])
        history.close()

    async def _visit(self, number: int, arrival: Arrival, shop: aiohttp.ClientSession, start: float) -> None:
        shopper = self._shoppers[arrival.shopper]
        async with shopper.turn:
            operation = await shopper.visit(number, arrival, shop, start)
        self._done.append(operation)
        self._count += 1
        self._reads += operation.right is not None
        self._wrong += operation.right is False
        self._errors += operation.outcome == "error"

    async def _report(self, history: Writer) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self._flush(history)
            _say(Progress(completed=self._count, reads=self._reads, wrong=self._wrong, errors=self._errors))

    def _flush(self, history: Writer) -> None:
        done, self._done = self._done, []
        history.write(done)


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(line(progress))
    sys.stdout.buffer.flush()


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    generator = Generator(job)
    _say(Progress())
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    asyncio.run(generator.run(start.at))
    _say(Progress(done=True))


if __name__ == "__main__":
    main()
