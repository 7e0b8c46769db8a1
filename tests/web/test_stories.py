"""What a shop's visitors live through, on every store."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from coatcheck import CookieSettings
from coatcheck.cookie import SEEN
from tests.servers.browser import Browser
from tests.servers.fixtures import Opener
from tests.servers.processes import eventually
from tests.web.shop import PATIENT, shop


async def test_a_visitor_fills_a_cart_and_logs_in(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as visitor:
        assert (await visitor.post("/add/tea")).status_code == 200
        await visitor.post("/add/tea")
        await visitor.post("/add/cups")
        assert (await visitor.get("/page")).json() == {"cart[tea]": 2, "cart[cups]": 1}

        anonymous = visitor.ticket
        response = await visitor.post("/login?user=garimoo&keep=cart")
        assert response.headers["cache-control"] == "no-store"
        assert visitor.ticket != anonymous
        assert visitor.session_id == (anonymous or "")[:16]
        assert (await visitor.get("/page")).json() == {"cart[tea]": 2, "cart[cups]": 1, "user": "garimoo"}

    async with Browser(app, ticket=anonymous) as somebody_with_the_old_ticket:
        assert (await somebody_with_the_old_ticket.get("/page")).json() == {}


async def test_any_server_serves_any_user(open_sessions: Opener) -> None:
    servers = [shop(open_sessions()) for _ in range(3)]
    async with Browser(servers[0]) as visitor:
        await visitor.post("/login?user=garimoo")
    for server in servers * 2:
        async with Browser(server, ticket=visitor.ticket) as visitor_there:
            assert (await visitor_there.post("/count")).status_code == 200
    async with Browser(servers[0], ticket=visitor.ticket) as visitor:
        assert (await visitor.get("/page")).json() == {"user": "garimoo", "count": 6}


async def test_what_was_anonymous_is_dropped_at_login_unless_kept(open_sessions: Opener) -> None:
    async with Browser(shop(open_sessions())) as visitor:
        await visitor.post("/put?planted=1&chosen=2")
        await visitor.post("/login?user=garimoo&keep=chosen")
        assert (await visitor.get("/page")).json() == {"chosen": "2", "user": "garimoo"}


async def test_two_tabs_at_once_lose_nothing(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as visitor:
        await visitor.post("/put?first=visit")
        slow = asyncio.create_task(visitor.post("/put?left=1", headers={"x-gate": "left"}))
        await eventually(lambda: "left" in app.state.waiting, "the slow tab")
        await visitor.post("/put?right=2")
        app.state.gates["left"].set()
        assert (await slow).status_code == 200
        assert (await visitor.get("/page")).json() == {"first": "visit", "left": "1", "right": "2"}


async def test_a_counter_is_exact_under_parallel_requests(open_sessions: Opener) -> None:
    servers = [shop(open_sessions()) for _ in range(2)]
    async with Browser(servers[0]) as visitor:
        await visitor.post("/put?first=visit")
        async with Browser(servers[1], ticket=visitor.ticket) as other_tab:
            answers = await asyncio.gather(
                *(tab.post(path) for _ in range(20) for tab in (visitor, other_tab) for path in ("/count", "/add/tea"))
            )
        assert {answer.status_code for answer in answers} == {200}
        assert (await visitor.get("/page")).json() == {"first": "visit", "count": 40, "cart[tea]": 40}


async def test_logout_during_a_slow_request_is_final(open_sessions: Opener) -> None:
    here, there = shop(open_sessions()), shop(open_sessions())
    async with Browser(here) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        slow = asyncio.create_task(visitor.post("/put?late=1", headers={"x-gate": "slow"}))
        await eventually(lambda: "slow" in here.state.waiting, "the slow request")
        async with Browser(there, ticket=ticket) as other_tab:
            response = await other_tab.post("/logout")
            assert 'session=""' in response.headers["set-cookie"]
            assert other_tab.ticket is None
        here.state.gates["slow"].set()
        refused = await slow
        assert refused.status_code == 409
        assert "set-cookie" not in refused.headers
        assert "nothing was saved" in refused.text
    for app in (here, there):
        async with Browser(app, ticket=ticket) as revenant:
            assert (await revenant.get("/page")).json() == {}


async def test_require_unchanged_refuses_what_is_no_longer_true(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as visitor:
        await visitor.post("/put?note=old")
        slow = asyncio.create_task(visitor.post("/careful?note=slow", headers={"x-gate": "slow"}))
        await eventually(lambda: "slow" in app.state.waiting, "the slow request")
        await visitor.post("/careful?note=quick")
        app.state.gates["slow"].set()
        refused = await slow
        assert refused.status_code == 409
        assert "set-cookie" not in refused.headers
        assert (await visitor.get("/page")).json() == {"note": "quick"}
        assert (await visitor.post("/careful?note=again")).status_code == 200


async def test_a_handler_that_raises_commits_nothing(open_sessions: Opener) -> None:
    async with Browser(shop(open_sessions())) as visitor:
        await visitor.post("/put?good=1")
        response = await visitor.post("/boom")
        assert response.status_code == 500
        assert "set-cookie" not in response.headers
        assert (await visitor.get("/page")).json() == {"good": "1"}


async def test_a_refusal_that_the_handler_means_is_an_answer_like_any_other(open_sessions: Opener) -> None:
    async with Browser(shop(open_sessions())) as visitor:
        assert (await visitor.post("/forbidden")).status_code == 403
        assert (await visitor.post("/forbidden")).status_code == 403
        assert (await visitor.get("/page")).json() == {"attempts": 2}


async def test_logging_in_again_after_logout_is_a_new_session(open_sessions: Opener) -> None:
    async with Browser(shop(open_sessions())) as visitor:
        await visitor.post("/login?user=garimoo")
        first = visitor.session_id
        await visitor.post("/logout")
        await visitor.post("/login?user=garimoo")
        assert visitor.session_id not in (None, first)


async def test_head_and_redirect_store_too(open_sessions: Opener) -> None:
    async with Browser(shop(open_sessions())) as visitor:
        head = await visitor.request("HEAD", "/moved")
        assert head.status_code == 303
        assert visitor.ticket is not None
        again = await visitor.get("/moved")
        assert again.headers["location"] == "/page"
        assert again.headers["vary"] == "Cookie"
        page = await visitor.request("HEAD", "/page")
        assert (page.content, page.headers["vary"]) == (b"", "Cookie")
        assert (await visitor.get("/page")).json() == {"seen": True}


async def test_a_standard_cookie_jar_takes_and_gives_back_the_ticket(open_sessions: Opener) -> None:
    transport = httpx.ASGITransport(shop(open_sessions()))
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        await client.post("/login?user=garimoo")
        assert (await client.get("/page")).json() == {"user": "garimoo"}
        [cookie] = [cookie for cookie in client.cookies.jar if not cookie.name.endswith(SEEN)]
        assert (cookie.name, cookie.secure, cookie.path) == ("__Host-session", True, "/")
        assert not cookie.domain_specified
        assert cookie.has_nonstandard_attr("HttpOnly")
        await client.post("/logout")
        assert not list(client.cookies.jar)
        assert (await client.get("/page")).json() == {}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        await client.post("/login?user=garimoo")
        assert (await client.get("/page")).json() == {}, "a Secure cookie went over plain HTTP"


@pytest.mark.parametrize("max_age", [None, 3600])
async def test_two_tabs_that_renew_the_ticket_at_once_leave_the_browser_a_good_one(
    open_sessions: Opener, max_age: int | None
) -> None:
    """A user comes back after a while, and the browser opens two tabs. Only one answer carries the new ticket."""
    settings = PATIENT.but(renew_every=0.01, touch_every=0, cookie=CookieSettings(max_age=max_age))
    app = shop(open_sessions(), settings=settings)
    async with Browser(app) as visitor:
        for _ in range(5):
            await visitor.post("/login?user=garimoo")
            await asyncio.sleep(0.02)
            tabs = [asyncio.create_task(visitor.get("/wait", headers={"x-gate": "tabs"})) for _ in range(4)]
            await eventually(lambda: len(app.state.waiting) == 4, "all tabs")
            app.state.gates["tabs"].set()
            answers = await asyncio.gather(*tabs)
            assert sum("set-cookie" in answer.headers for answer in answers) == 1
            app.state.gates.clear()
            app.state.waiting.clear()
            assert (await visitor.get("/page")).json() == {"user": "garimoo"}
