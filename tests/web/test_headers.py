"""What a response must say so that no cache on the way hands one user's page to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck import CookieSettings, Settings
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from tests.servers.browser import Browser

LOOKS: dict[str, Callable[[Any], object]] = {
    "get": lambda session: session.get("user"),
    "item": lambda session: session["user"],
    "in": lambda session: "user" in session,
    "not in": lambda session: "nothing" in session,
    "len": len,
    "bool": bool,
    "iteration": list,
    "keys": lambda session: list(session.keys()),
    "items": lambda session: list(session.items()),
    "values": lambda session: list(session.values()),
    "comparison": lambda session: session == {},
    "map": lambda session: len(session.map("cart")),
    "is_new": lambda session: session.is_new,
    "owner": lambda session: session.owner,
    "created_at": lambda session: session.created_at,
    "expires_at": lambda session: session.expires_at,
    "require_unchanged": lambda session: session.require_unchanged(),
}
CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda session: session.update(more=1),
    "increment": lambda session: session.increment("hits"),
    "delete": lambda session: session.pop("user"),
    "clear": lambda session: session.clear(),
    "renew": lambda session: session.renew(),
    "destroy": lambda session: session.destroy(),
}


def app(do: Callable[[Any], object], headers: dict[str, str] | None = None) -> Starlette:
    """One page that does this to the session, and one that makes a session."""

    async def page(request: Request) -> Response:
        do(request.session)
        return PlainTextResponse("page", headers=headers)

    async def enter(request: Request) -> Response:
        request.session["user"] = "garimoo"
        return PlainTextResponse("welcome")

    return Starlette(
        routes=[Route("/page", page), Route("/enter", enter)],
        middleware=[Middleware(SessionMiddleware, store="memory://", settings=Settings())],
    )


@pytest.mark.parametrize("look", LOOKS)
async def test_any_look_varies_the_response(look: str) -> None:
    async with Browser(app(LOOKS[look])) as visitor:
        await visitor.get("/enter")
        response = await visitor.get("/page")
    assert response.status_code == 200
    assert response.headers["vary"] == "Cookie"
    assert "set-cookie" not in response.headers
    assert "cache-control" not in response.headers, "a page that was only looked at may be cached, for this user"


@pytest.mark.parametrize("look", [look for look in LOOKS if look != "item"])
async def test_a_look_of_somebody_without_a_cookie_varies_it_too(look: str) -> None:
    async with Browser(app(LOOKS[look])) as visitor:
        response = await visitor.get("/page")
    assert response.headers["vary"] == "Cookie"
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("change", CHANGES)
async def test_any_change_varies_the_response(change: str) -> None:
    async with Browser(app(CHANGES[change])) as visitor:
        await visitor.get("/enter")
        response = await visitor.get("/page")
    assert response.headers["vary"] == "Cookie"
    assert ("set-cookie" in response.headers) == (change in ("renew", "destroy"))
    assert ("cache-control" in response.headers) == ("set-cookie" in response.headers)


async def test_a_page_that_never_looks_is_left_alone() -> None:
    async with Browser(app(lambda session: None)) as visitor:
        assert "vary" not in (await visitor.get("/page")).headers
        await visitor.get("/enter")
        response = await visitor.get("/page")
    assert {"vary", "set-cookie", "cache-control"}.isdisjoint(response.headers)


async def test_a_touch_that_sends_the_cookie_again_varies_and_is_not_stored() -> None:
    now = [1_000_000]
    store = AsyncMemoryStore(MemoryStore(clock=lambda: now[0]))
    settings = Settings(idle_timeout=100, cookie=CookieSettings(max_age=100))

    async def untouched(request: Request) -> Response:
        return PlainTextResponse("page")

    async def enter(request: Request) -> Response:
        request.session["user"] = "garimoo"
        return PlainTextResponse("welcome")

    site = Starlette(
        routes=[Route("/untouched", untouched), Route("/enter", enter)],
        middleware=[Middleware(SessionMiddleware, store=store, settings=settings)],
    )
    async with Browser(site) as visitor:
        await visitor.get("/enter")
        now[0] += 50_000
        response = await visitor.get("/untouched")
    assert "Max-Age=100" in response.headers["set-cookie"]
    assert response.headers["vary"] == "Cookie"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, "no-store"),
        ({"Cache-Control": "public, max-age=3600"}, "no-store"),
        ({"Cache-Control": "private"}, "no-store"),
        ({"Cache-Control": 'no-cache="set-cookie"'}, "no-store"),
        ({"Cache-Control": "private, no-store"}, "private, no-store"),
        ({"Cache-Control": "No-Store"}, "No-Store"),
        ({"CDN-Cache-Control": "max-age=60"}, "no-store"),
        ({"Surrogate-Control": "max-age=60"}, "no-store"),
    ],
)
async def test_a_ticket_is_never_stored_on_the_way(given: dict[str, str], sent: str) -> None:
    async with Browser(app(CHANGES["set"], given)) as visitor:
        response = await visitor.get("/page")
    assert visitor.ticket is not None
    assert response.headers.get_list("cache-control") == [sent]
    assert {"cdn-cache-control", "surrogate-control"}.isdisjoint(response.headers)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Accept-Encoding", ["Accept-Encoding", "Cookie"]),
        ("Accept-Encoding, Cookie", ["Accept-Encoding, Cookie"]),
        ("cookie", ["cookie"]),
        ("*", ["*"]),
    ],
)
async def test_vary_is_added_to_what_the_page_varies_by(given: str, sent: list[str]) -> None:
    async with Browser(app(LOOKS["get"], {"Vary": given})) as visitor:
        response = await visitor.get("/page")
    assert response.headers.get_list("vary") == sent


async def test_the_cookie_is_as_strict_as_can_be() -> None:
    async with Browser(app(CHANGES["set"])) as visitor:
        response = await visitor.get("/page")
    name, *attributes = response.headers["set-cookie"].split("; ")
    assert name == f"__Host-session={visitor.ticket}"
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]


async def test_refusals_are_never_stored() -> None:
    gate = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(request: Request) -> Response:
        request.session["late"] = True
        arrived.set()
        await gate.wait()
        return PlainTextResponse("stored", headers={"Cache-Control": "public, max-age=3600"})

    async def leave(request: Request) -> Response:
        session: Any = request.session
        session.destroy()
        return PlainTextResponse("bye")

    async def enter(request: Request) -> Response:
        request.session["user"] = "garimoo"
        return PlainTextResponse("welcome")

    site = Starlette(
        routes=[Route("/slow", slow), Route("/leave", leave), Route("/enter", enter)],
        middleware=[Middleware(SessionMiddleware, store="memory://")],
    )
    async with Browser(site) as visitor:
        await visitor.get("/enter")
        waiting = asyncio.create_task(visitor.get("/slow"))
        await arrived.wait()
        async with Browser(site, ticket=visitor.ticket) as tab:
            await tab.get("/leave")
        gate.set()
        refused = await waiting
    assert refused.status_code == 409
    assert refused.headers.get_list("cache-control") == ["no-store"]
    assert "set-cookie" not in refused.headers
