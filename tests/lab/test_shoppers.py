"""The shoppers, against a real web server that behaves in ways a shop should not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from coatcheck.lab import history
from coatcheck.lab.checker import check, owner_of
from coatcheck.lab.history import Killed, Operation, Started
from coatcheck.lab.messages import Job
from coatcheck.lab.plan import Arrival, Plan, cart_of
from coatcheck.lab.shoppers import CookieJar, Generator, Shopper

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[BaseTestServer]:
    application = web.Application()
    application.router.add_route("*", "/cart", handler)
    async with TestServer(application, host="127.0.0.1") as server:
        yield server


@asynccontextmanager
async def visiting(handler: Handler) -> AsyncIterator[Callable[[str], Awaitable[Operation]]]:
    """Shopper 7 at a shop; what it gives makes a visit of a kind and returns what happened."""
    shopper, visits = Shopper(7, seed=1), 0
    async with (
        serving(handler) as server,
        aiohttp.ClientSession(server.make_url("/"), cookie_jar=aiohttp.DummyCookieJar()) as shop,
    ):

        async def visit(kind: str) -> Operation:
            nonlocal visits
            visits += 1
            arrival = Arrival(0.0, 7, "fill" if kind == "fill" else "read")
            return await shopper.visit(visits, arrival, shop, time.monotonic())

        yield visit


def cart_answer(items: dict[str, int], shopper: str | None = owner_of(7)) -> web.Response:
    return web.json_response({"server": "web-1", "shopper": shopper, "items": items})


FIRST, SECOND = cart_of(1, 7, 1), cart_of(1, 7, 2)


# --- cookies --------------------------------------------------------------------------------------------------------


def test_cookies_are_kept_replaced_and_removed_as_the_server_says() -> None:
    jar = CookieJar()
    assert jar.header() == {}
    jar.take("session=abc; Path=/; HttpOnly; SameSite=Lax")
    jar.take("SRV=web-1; path=/")
    assert jar.header() == {"Cookie": "session=abc; SRV=web-1"}
    jar.take("session=def; Max-Age=3600")
    assert jar.get("session") == "def"
    jar.take("session=; Max-Age=0; Path=/")
    assert jar.header() == {"Cookie": "SRV=web-1"}
    jar.take("SRV=; expires=Thu, 01 Jan 1970 00:00:00 GMT")
    assert jar.header() == {}
    jar.take("nonsense")
    assert jar.header() == {}


async def test_a_shopper_shows_the_cookies_of_the_shop_and_of_the_balancer() -> None:
    shown: list[str | None] = []

    async def shop(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Cookie"))
        answer = cart_answer(FIRST)
        if len(shown) == 1:
            answer.headers.add("Set-Cookie", f"session={'i' * 16}{'s' * 32}; Path=/")
            answer.headers.add("Set-Cookie", "SRV=web-3; path=/")
        return answer

    async with visiting(shop) as visit:
        operation = await visit("fill")
        await visit("read")
    assert shown == [None, f"session={'i' * 16}{'s' * 32}; SRV=web-3"]
    # The history names the session; the secret that opens it is not written down.
    assert (operation.session, operation.pinned) == ("i" * 16, "web-3")


# --- what a shopper makes of an answer ------------------------------------------------------------------------------


async def test_a_shopper_knows_a_right_cart_from_a_wrong_one() -> None:
    answers = [FIRST, FIRST, {}, SECOND, FIRST]

    async def shop(request: web.Request) -> web.Response:
        return cart_answer(answers.pop(0))

    async with visiting(shop) as visit:
        seen = [await visit("fill")] + [await visit("read") for _ in range(4)]
    assert [operation.right for operation in seen] == [None, True, False, False, True]
    assert all(operation.expected == (FIRST,) for operation in seen)


async def test_a_session_of_somebody_else_is_wrong_whatever_is_in_the_cart() -> None:
    async def shop(request: web.Request) -> web.Response:
        return cart_answer(FIRST, shopper=owner_of(8))

    async with visiting(shop) as visit:
        await visit("fill")
        assert (await visit("read")).right is False


async def test_a_shopper_whose_first_fill_failed_fills_again_instead_of_looking() -> None:
    async def shop(request: web.Request) -> web.Response:
        return web.Response(status=503)

    async with visiting(shop) as visit:
        first, second = await visit("fill"), await visit("read")
    assert (first.kind, first.outcome, first.status, first.error) == ("fill", "error", 503, "http 503")
    assert (second.kind, second.generation) == ("fill", 2)


async def test_after_a_fill_without_answer_a_shopper_takes_either_cart_until_one_was_seen() -> None:
    script: list[dict[str, int] | None] = [FIRST, None, FIRST, SECOND, FIRST]

    async def shop(request: web.Request) -> web.Response:
        items = script.pop(0)
        return web.Response(status=502) if items is None else cart_answer(items)

    async with visiting(shop) as visit:
        seen = [await visit("fill"), await visit("fill")] + [await visit("read") for _ in range(3)]
    assert [operation.right for operation in seen] == [None, None, True, True, False]
    assert seen[2].expected == (FIRST, SECOND)
    assert seen[4].expected == (SECOND,)


@pytest.mark.parametrize("body", [b"<html>sorry</html>", b'{"server": "web-1"}'])
async def test_an_answer_that_makes_no_sense_is_an_error(body: bytes) -> None:
    async def shop(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with visiting(shop) as visit:
        operation = await visit("fill")
    assert operation.outcome == "error"
    assert operation.status is None
    assert operation.error in ("DecodeError", "ValidationError")


async def test_a_connection_that_breaks_is_an_error() -> None:
    async def shop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with visiting(shop) as visit:
        operation = await visit("fill")
    assert (operation.outcome, operation.status, operation.server) == ("error", None, None)
    assert operation.error


# --- the crowd ------------------------------------------------------------------------------------------------------


async def test_a_stall_is_felt_by_everyone_who_would_have_come(tmp_path: Path) -> None:
    """The shop hangs for half a second. Somebody who waits for answers before sending more would see one slow request."""
    plan = Plan(shoppers=40, rate=100.0, seconds=2.0, kill_at=1.9, servers=2, seed=1)
    carts: dict[str, dict[str, int]] = {}
    stall: list[float] = []

    async def shop(request: web.Request) -> web.Response:
        now = time.monotonic()
        stall.append(now)
        since = now - stall[0]
        if 0.5 <= since < 1.0:
            await asyncio.sleep(1.0 - since)
        ticket = request.cookies.get("session")
        if request.method == "PUT":
            order = await request.json()
            ticket = order["shopper"]
            carts[ticket] = order["items"]
        assert ticket is not None
        answer = cart_answer(carts[ticket], shopper=ticket)
        answer.headers.add("Set-Cookie", f"session={ticket}; Path=/")
        return answer

    file = tmp_path / history.FILE
    async with serving(shop) as server:
        assert server.port is not None
        await Generator(Job(port=server.port, history=str(file), plan=plan)).run(time.monotonic() + 0.1)
    writer = history.Writer(file)
    writer.write([Killed(server="web-2", begun=1.9, done=1.9)])
    writer.close()
    started = Started(
        schema=history.SCHEMA, architecture="imagined", sticky=False, servers=("web-1", "web-2"),
        operations=plan.count, shoppers=plan.shoppers, rate=plan.rate, seconds=plan.seconds, kill_at=1.9, seed=1,
    )  # fmt: skip
    entries = [started, *history.read(file)]
    figures = check(entries)

    assert figures.operations == 200
    assert figures.errors == figures.in_all.wrong == 0
    slow = [op for op in entries if isinstance(op, Operation) and op.completed - op.scheduled > 0.1]
    assert 35 <= len(slow) <= 60, "100 arrivals per second: some 40 waited for more than a tenth of a second"
    assert figures.latency.p90 > 100
    assert figures.latency.p50 < 100
    assert figures.lag.p90 < 50, "it was the shop that was late, and not the generator"
