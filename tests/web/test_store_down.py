"""The store fails: the user is told to try again, nothing is written, no cookie is touched, nobody is logged out (R4)."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck import Settings
from coatcheck.changes import Applied, Changes
from coatcheck.errors import OutcomeUnknown, StoreFull, StoreUnavailable
from coatcheck.events import Event
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from tests.servers.browser import Browser
from tests.servers.clock import fair_time
from tests.servers.fixtures import URLOpener
from tests.servers.processes import eventually
from tests.servers.proxy import Proxy
from tests.servers.valkey import DURABLE, Valkey
from tests.servers.web import WebServer
from tests.web.shop import shop


def refused(response: httpx.Response) -> bool:
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert "set-cookie" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    return True


async def test_a_killed_store_logs_nobody_out() -> None:
    with Valkey(*DURABLE) as valkey:
        events: list[Event] = []
        with WebServer("tests.web.shop:from_environment", {"SHOP_STORE": valkey.url, "SHOP_PATIENCE": "1"}) as server:
            async with Browser(server.url) as visitor, Browser(server.url) as newcomer, Browser(server.url) as nobody:
                await visitor.post("/login?user=garimoo")
                ticket = visitor.ticket
                valkey.kill()
                for path in ("/page", "/untouched"):
                    assert refused(await visitor.get(path)), "with a ticket, nothing can be said about the session"
                for path in ("/put?a=1", "/count", "/logout", "/login?user=other"):
                    assert refused(await visitor.post(path))
                assert refused(await newcomer.post("/login?user=new")), "a session that is not stored is not promised"
                assert newcomer.ticket is None
                assert (await nobody.get("/page")).status_code == 200, "who shows no ticket needs no store"
                valkey.start()
                await visitor.get_when_up("/page")
                assert visitor.ticket == ticket
                assert (await visitor.get("/page")).json() == {"user": "garimoo"}
                assert (await newcomer.post("/login?user=new")).status_code == 200
            assert "Traceback" not in server.log
            assert "store_unavailable" in server.log
            assert not events


async def test_a_frozen_store_costs_at_most_its_timeout(own_valkey: Valkey, open_store: URLOpener) -> None:
    app = shop(open_store(f"{own_valkey.url}?timeout=10"), settings=Settings(store_timeout=0.3))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        await visitor.get("/page")
        own_valkey.freeze()
        began = fair_time()
        answers = await asyncio.gather(*(visitor.get("/page") for _ in range(20)))
        assert fair_time() - began < 0.3 + 2.0
        assert all(refused(answer) for answer in answers)
        own_valkey.thaw()
        await visitor.get_when_up("/page")
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}


async def test_a_store_frozen_during_the_request_refuses_the_commit(own_valkey: Valkey, open_store: URLOpener) -> None:
    app = shop(open_store(own_valkey.url), settings=Settings(store_timeout=0.3))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        slow = asyncio.create_task(visitor.post("/put?late=1", headers={"x-gate": "slow"}))
        await eventually(lambda: "slow" in app.state.waiting, "the slow request")
        own_valkey.freeze()
        app.state.gates["slow"].set()
        response = await slow
        assert refused(response)
        assert "not known whether" in response.text, "it was sent, and may yet be applied"
        own_valkey.thaw()
        await visitor.get_when_up("/page")
        assert (await visitor.get("/page")).json()["user"] == "garimoo"


async def test_a_touch_that_fails_does_not_fail_the_request(own_valkey: Valkey, open_store: URLOpener) -> None:
    events: list[Event] = []
    async with Proxy(own_valkey.port) as proxy:
        app = shop(open_store(proxy.url), settings=Settings(touch_every=0), observers=[events.append])
        async with Browser(app) as visitor:
            await visitor.post("/login?user=garimoo")
            proxy.judge = lambda command: "cut before" if command.name.startswith("EVAL") else "pass"
            page = await visitor.get("/page")
            assert (page.status_code, page.json()) == (200, {"user": "garimoo"})
            assert [event.name for event in events][-1] == "store_unavailable"
            assert refused(await visitor.post("/put?a=1")), "a change that cannot be stored does fail it"


async def test_a_touch_that_comes_too_late_does_not_fail_the_request() -> None:
    """The session ends between this request's read and its touch."""
    sessions = AsyncMemoryStore()

    class Late(AsyncMemoryStore):
        async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
            await self.delete(session_id)
            return await super().update(session_id, changes)

    shared = MemoryStore()
    sessions, late = AsyncMemoryStore(shared), Late(shared)
    async with Browser(shop(sessions)) as visitor:
        await visitor.post("/login?user=garimoo")
        async with Browser(shop(late, settings=Settings(touch_every=0)), ticket=visitor.ticket) as visitor:
            page = await visitor.get("/page")
    assert (page.status_code, page.json()) == (200, {"user": "garimoo"})
    assert "set-cookie" not in page.headers


async def test_a_full_store_is_loud_and_still_logs_out(open_store: URLOpener) -> None:
    with Valkey("--maxmemory-policy", "noeviction") as valkey:
        app = shop(open_store(valkey.url))
        async with Browser(app) as visitor, Browser(app) as newcomer:
            await visitor.post("/login?user=garimoo")
            valkey("CONFIG", "SET", "maxmemory", "100kb")
            answer = await visitor.post("/put?a=1")
            assert refused(answer)
            assert answer.headers["retry-after"] == "30"
            assert refused(await newcomer.post("/login?user=new"))
            assert (await visitor.get("/page")).json() == {"user": "garimoo"}
            assert (await visitor.post("/logout")).status_code == 200
            assert visitor.ticket is None


@pytest.mark.parametrize(
    ("error", "seconds", "text"),
    [
        (StoreUnavailable("test://", "down", retry_after=7), "7", "try again"),
        (StoreFull("test://", "all full"), "30", "try again"),
        (OutcomeUnknown("test://", "AAAAAAAAAAAAAAAA", "no answer"), "1", "not known"),
    ],
)
@pytest.mark.parametrize("where", ["in the middle", "at the end"])
async def test_every_way_of_being_down_says_when_to_try_again(
    error: StoreUnavailable, seconds: str, text: str, where: str
) -> None:
    class Down(AsyncMemoryStore):
        async def create(self, new: Any, *, timeout: float | None = None) -> Applied:
            raise error

    async def page(request: Request) -> Response:
        session: Any = request.session
        session["a"] = 1
        if where == "in the middle":
            await session.commit()
        return PlainTextResponse("stored")

    app = Starlette(routes=[Route("/", page)], middleware=[Middleware(SessionMiddleware, store=Down())])
    async with Browser(app) as visitor:
        answer = await visitor.get("/")
        assert refused(answer)
        assert answer.headers["retry-after"] == seconds
        assert text in answer.text
        assert "test://" not in answer.text, "the store's address is nobody's business"


async def test_a_handler_may_deal_with_it_itself() -> None:
    class Down(AsyncMemoryStore):
        async def create(self, new: Any, *, timeout: float | None = None) -> Applied:
            raise StoreUnavailable("test://", "down")

    async def page(request: Request) -> Response:
        session: Any = request.session
        session["a"] = 1
        try:
            await session.commit()
        except StoreUnavailable:
            session.clear()
            return PlainTextResponse("without a session, then")
        return PlainTextResponse("stored")

    app = Starlette(routes=[Route("/", page)], middleware=[Middleware(SessionMiddleware, store=Down())])
    async with Browser(app) as visitor:
        answer = await visitor.get("/")
    assert (answer.status_code, answer.text) == (200, "without a session, then")
    assert "set-cookie" not in answer.headers
