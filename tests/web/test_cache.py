"""Behind a real cache that all users share: HAProxy's. First see that it would mix users up, then that it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coatcheck.starlette import SessionMiddleware
from tests.servers.browser import Browser
from tests.servers.haproxy import Cache
from tests.servers.web import WebServer


class _Careless:
    """Sends responses as they would be without what our middleware does for caches: the positive control."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [one for one in message["headers"] if one[0] not in (b"cache-control", b"vary")]
                message = {**message, "headers": [*headers, (b"cache-control", b"public, max-age=60")]}
            await send(message)

        await self.app(scope, receive, without)


def site() -> Starlette:
    """Pages that say they may be cached by anybody."""

    async def enter(request: Request) -> Response:
        session: Any = request.session
        session.renew(owner=request.query_params["user"])
        session["user"] = request.query_params["user"]
        return PlainTextResponse("welcome", headers=_ANYBODY)

    async def page(request: Request) -> Response:
        return PlainTextResponse(f"page of {request.session.get('user', 'nobody')}", headers=_ANYBODY)

    async def untouched(request: Request) -> Response:
        return PlainTextResponse("the same for everybody", headers=_ANYBODY)

    async def tracked(request: Request) -> Response:
        """Gives a session to whoever comes."""
        session: Any = request.session
        session.increment("visits")
        return PlainTextResponse("hello", headers=_ANYBODY)

    careless = [Middleware(_Careless)] if os.environ.get("SITE_CARELESS") else []
    return Starlette(
        routes=[
            Route("/enter", enter),
            Route("/page", page),
            Route("/untouched", untouched),
            Route("/tracked", tracked),
        ],
        middleware=[*careless, Middleware(SessionMiddleware, store="memory://", max_age=None)],
    )


_ANYBODY = {"Cache-Control": "public, max-age=60"}


def in_front(environment: dict[str, str]) -> Iterator[str]:
    with WebServer("tests.web.test_cache:site", environment) as server, Cache(server.port) as proxy:
        yield f"http://127.0.0.1:{proxy.port}"


@pytest.fixture
def cache() -> Iterator[str]:
    yield from in_front({})


@pytest.fixture
def careless_cache() -> Iterator[str]:
    yield from in_front({"SITE_CARELESS": "1"})


async def test_without_our_headers_the_cache_mixes_users_up(careless_cache: str) -> None:
    async with Browser(careless_cache) as one, Browser(careless_cache) as other:
        await one.get("/enter?user=one")
        await other.get("/enter?user=other")
        assert (await one.get("/page")).text == "page of one"
        stolen = await other.get("/page")
        assert (stolen.text, stolen.headers.get("x-cache")) == ("page of one", "hit")
        async with Browser(careless_cache) as first, Browser(careless_cache) as second:
            await first.get("/tracked")
            await second.get("/tracked")
            assert first.ticket == second.ticket, "the cache hands the first visitor's ticket to the second"


async def test_with_our_headers_everybody_gets_their_own_page(cache: str) -> None:
    async with Browser(cache) as one, Browser(cache) as other, Browser(cache) as nobody:
        assert (await nobody.get("/page")).text == "page of nobody"
        await one.get("/enter?user=one")
        await other.get("/enter?user=other")
        for _ in range(3):
            assert (await one.get("/page")).text == "page of one"
            assert (await other.get("/page")).text == "page of other"
            assert (await nobody.get("/page")).text == "page of nobody"
        await nobody.get("/tracked")
        await one.get("/tracked")
        async with Browser(cache) as somebody:
            await somebody.get("/tracked")
        assert len({visitor.ticket for visitor in (nobody, one, other, somebody)}) == 4


async def test_what_never_looks_is_cached_for_all(cache: str) -> None:
    async with Browser(cache) as one, Browser(cache) as other:
        await one.get("/enter?user=one")
        await one.get("/untouched")
        again = await other.get("/untouched")
        assert (again.text, again.headers.get("x-cache")) == ("the same for everybody", "hit")
