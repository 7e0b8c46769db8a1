"""A browser that changes servers, in every framework: two real servers, each with its own copies, of which one hears late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.servers.browser import Browser
from tests.servers.line import Line
from tests.servers.processes import LOOPBACK, eventually, free_port
from tests.servers.web import WebServer
from tests.web.test_frameworks import FRAMEWORKS

LATE = 0.4
"""Seconds by which the second server hears of what the first one did."""


@pytest.fixture(params=FRAMEWORKS)
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[tuple[WebServer, WebServer, Line]]:
    """Two servers, and the line to the second."""
    async with AsyncExitStack() as stack:
        ports = [free_port(), free_port()]
        lines = [await stack.enter_async_context(Line(port)) for port in ports]
        found = []
        for line, port in zip(lines, ports, strict=True):
            store = (
                f"replicated://{lines[0].address},{lines[1].address}?me={line.address}&listen={LOOPBACK}:{port}"
                "&ack=none&silence=15&catch_up=5"
            )
            serve = FRAMEWORKS[str(request.param)].serve
            found.append(serve({"SHOP_STORE": store, "SHOP_PATIENCE": "15", "SHOP_GATES": ""}))
            found[-1].launch()
            # On a thread, so that the lines go on: a server leaves when the other one has heard of it.
            stack.push_async_callback(asyncio.to_thread, found[-1].stop)
        for server in found:
            await eventually(server.runs, "the web servers")
        async with Browser(found[0].url) as first, Browser(found[1].url) as second:
            # A store starts with the first request, if not with its server, and waits for the others.
            answers = await asyncio.gather(*(visitor.post("/put?warm=1") for visitor in (first, second)))
            assert [answer.status_code for answer in answers] == [200, 200]
        yield found[0], found[1], lines[1]


async def test_a_cart_is_as_its_user_left_it_on_whichever_server(servers: tuple[WebServer, WebServer, Line]) -> None:
    quick, slow, line = servers
    line.delay = LATE
    async with Browser(quick.url) as here, Browser(slow.url) as there:
        first = await here.post("/add/tea")
        assert (first.status_code, here.seen is not None) == (200, True)
        assert "no-store" in first.headers["cache-control"]
        assert "Cookie" in first.headers["vary"]
        [token] = [each for each in first.headers.get_list("set-cookie") if each.startswith("__Host-session-seen=")]
        for attribute in ("HttpOnly", "SameSite=Lax", "Secure", "Path=/"):
            assert attribute in token
        there.ticket, there.seen = here.ticket, here.seen
        assert (await there.get("/page")).json() == {"cart[tea]": 1}

        for count in (2, 3):
            ticket = here.ticket
            await here.post("/add/tea")
            assert here.ticket == ticket
            there.seen = None
            without = await there.get("/page")
            there.seen = here.seen
            page = await there.get("/page")
            assert page.json() == {"cart[tea]": count}
            assert "set-cookie" not in page.headers
            assert without.json() == {"cart[tea]": count - 1}, "or nothing was late, and the token has no part in it"

        there.seen = f"{(there.ticket or '')[:4]}fffffffffffff~AAAAAAAA"
        page = await there.get("/page")
        assert page.json() == {"cart[tea]": 3}, "who makes up a token harms nobody"
        assert there.seen is None
        assert "no-store" in page.headers["cache-control"]
        assert "Cookie" in page.headers["vary"]
        there.seen = here.seen

        await there.post("/login?user=garimoo&keep=cart")
        here.ticket, here.seen = there.ticket, there.seen
        assert (await here.get("/page")).json() == {"cart[tea]": 3, "user": "garimoo"}
        logged_in = here.ticket
        await here.post("/logout")
        assert (here.ticket, here.seen) == (None, None)
        there.ticket = logged_in
        assert (await there.get("/page")).json() == {}


async def test_a_token_adopts_no_session(servers: tuple[WebServer, WebServer, Line]) -> None:
    quick, slow, line = servers
    line.delay = LATE
    async with Browser(quick.url) as owner, Browser(slow.url) as thief:
        await owner.post("/login?user=garimoo")
        for ticket in ((owner.ticket or "")[:16] + "A" * 32, "A" * 48):
            thief.ticket, thief.seen = ticket, ticket[:4] + (owner.seen or "")[4:]
            page = await thief.get("/page")
            assert (page.json(), "-seen=" in page.headers.get("set-cookie", "")) == ({}, False)
            assert thief.ticket in (ticket, None), "Django takes back what opens nothing"
            await thief.post("/add/tea")
            assert thief.session_id not in (None, ticket[:16])
