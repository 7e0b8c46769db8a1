"""What a request costs at the store: how many commands, by the server's own account, and how many round trips."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.redis import RedisStore
from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.monitor import Monitor
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey
from tests.web.shop import PATIENT


@pytest.fixture
async def proxy(own_valkey: Valkey) -> AsyncIterator[Proxy]:
    async with Proxy(own_valkey.port) as proxy:
        yield proxy


@pytest.fixture
def monitor(own_valkey: Valkey) -> Iterator[Monitor]:
    with Monitor(own_valkey.port) as monitor:
        yield monitor


@pytest.fixture
def store(proxy: Proxy, open_store: URLOpener) -> RedisStore:
    return open_store(proxy.url)


def site(store: RedisStore, **options: Any) -> Starlette:
    async def page(request: Request) -> Response:
        session: Any = request.session
        match request.query_params.get("do"):
            case "load":
                await session.load()
            case "read":
                session.get("user")
            case "write":
                session["mood"] = "happy"
            case "much":
                session["user"] = "garimoo"
                session["mood"] = "sad"
                session.increment("visits")
                session.map("cart")["tea"] = 2
                session.pop("mood")
            case "login":
                session.renew(owner="garimoo")
            case "logout":
                session.destroy()
            case "logout and begin":
                session.destroy()
                session["new"] = True
            case "commit":
                session["mood"] = "happy"
                await session.commit()
        return PlainTextResponse("page")

    middleware = Middleware(SessionMiddleware, store=store, **{"settings": PATIENT, **options})
    return Starlette(routes=[Route("/page", page)], middleware=[middleware])


READ = ["HGETALL", "PTTL"]
WRITE = ["EVALSHA"]


@pytest.mark.parametrize(
    ("do", "load", "commands", "round_trips"),
    [
        (None, "eager", READ, 1),
        (None, "explicit", [], 0),
        ("load", "explicit", READ, 1),
        ("read", "eager", READ, 1),
        ("write", "eager", READ + WRITE, 2),
        ("much", "eager", READ + WRITE, 2),
        ("commit", "eager", READ + WRITE, 2),
        ("login", "eager", READ + WRITE * 2, 2),  # the index of owners goes along in the same round trip
        ("logout", "eager", [*READ, "HGET", "UNLINK", "ZREM"], 3),  # the only one with a third: the owner's index
    ],
)
async def test_a_request_with_a_session(
    store: RedisStore, proxy: Proxy, monitor: Monitor, do: str | None, load: str, commands: list[str], round_trips: int
) -> None:
    app = site(store, load=load)
    async with Browser(site(store)) as visitor, Browser(site(store)) as other:
        for warm_up in ("much", "login", "write", "write"):
            await visitor.get(f"/page?do={warm_up}")
            await other.get(f"/page?do={warm_up}")
        await other.get("/page?do=logout")
        monitor.commands()
        proxy.reset_counts()
        async with Browser(app, ticket=visitor.ticket) as visitor:
            response = await visitor.get("/page" if do is None else f"/page?do={do}")
        assert response.status_code == 200
        assert monitor.commands() == commands
        assert proxy.commands == commands
        assert proxy.round_trips == round_trips


@pytest.mark.parametrize("load", ["eager", "explicit"])
@pytest.mark.parametrize("do", [None, "load", "read", "logout"])
async def test_a_visitor_who_stores_nothing_costs_nothing(
    store: RedisStore, monitor: Monitor, do: str | None, load: str
) -> None:
    async with Browser(site(store, load=load)) as visitor:
        response = await visitor.get("/page" if do is None else f"/page?do={do}")
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    assert monitor.commands() == []


@pytest.mark.parametrize("do", ["write", "much", "logout and begin"])
async def test_a_new_session_is_one_round_trip(store: RedisStore, proxy: Proxy, monitor: Monitor, do: str) -> None:
    async with Browser(site(store)) as warm_up:
        await warm_up.get("/page?do=write")
    monitor.commands()
    proxy.reset_counts()
    async with Browser(site(store)) as visitor:
        await visitor.get(f"/page?do={do}")
    assert monitor.commands() == WRITE
    assert proxy.round_trips == 1


async def test_malformed_cookies_cost_nothing(store: RedisStore, monitor: Monitor) -> None:
    for ticket in ("", "x", "A" * 47, "A" * 49, "A" * 47 + "*"):
        async with Browser(site(store), ticket=ticket) as visitor:
            await visitor.get("/page?do=read")
    assert monitor.commands() == []


async def test_a_touch_comes_seldom(store: RedisStore, monitor: Monitor) -> None:
    """20 readers within the throttle cost 20 reads and no write; with no throttle each of them writes."""
    async with Browser(site(store)) as visitor:
        await visitor.get("/page?do=write")
        await visitor.get("/page?do=write")
        monitor.commands()
        for _ in range(20):
            await visitor.get("/page?do=read")
        assert monitor.commands() == READ * 20
        async with Browser(site(store, settings=PATIENT.but(touch_every=0)), ticket=visitor.ticket) as visitor:
            for _ in range(3):
                await visitor.get("/page?do=read")
        assert monitor.commands() == (READ + WRITE) * 3
