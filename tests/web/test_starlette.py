"""The Starlette module: what was written for Starlette's own middleware runs with ours, wherever it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware as StockMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from coatcheck import Settings
from coatcheck.errors import ConfigurationError, InsecureCookieWarning
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.memory import AsyncMemoryStore
from tests.servers.browser import Browser
from tests.servers.fixtures import Opener
from tests.servers.processes import eventually
from tests.web.shop import shop


class GuestBook:
    """A small application written for Starlette's own SessionMiddleware: nothing in it knows of coatcheck."""

    def __init__(self, middleware: Middleware) -> None:
        self.app = Starlette(
            routes=[
                Route("/view", self.view),
                Route("/update", self.update, methods=["POST"]),
                Route("/clear", self.clear, methods=["POST"]),
                Route("/append", self.append, methods=["POST"]),
            ],
            middleware=[middleware],
        )

    async def view(self, request: Request) -> Response:
        return JSONResponse({"session": dict(request.session)})

    async def update(self, request: Request) -> Response:
        request.session.update(await request.json())
        return JSONResponse({"session": dict(request.session)})

    async def clear(self, request: Request) -> Response:
        request.session.clear()
        return JSONResponse({"session": dict(request.session)})

    async def append(self, request: Request) -> Response:
        guests = request.session.setdefault("guests", [])
        guests.append(request.query_params["name"])
        request.session["guests"] = guests
        return JSONResponse(request.session["guests"])


STOCK: dict[str, Any] = {
    "session_cookie": "guest",
    "max_age": 3600,
    "path": "/",
    "same_site": "strict",
    "https_only": True,
}


@pytest.mark.parametrize(
    "middleware",
    [Middleware(StockMiddleware, secret_key="x", **STOCK), Middleware(SessionMiddleware, store="memory://", **STOCK)],
    ids=["starlette's own", "ours"],
)
def test_an_application_for_the_stock_middleware_runs_unchanged(middleware: Middleware) -> None:
    with TestClient(GuestBook(middleware).app, base_url="https://testserver") as client:
        assert client.get("/view").json() == {"session": {}}
        response = client.post("/update", json={"some": "data", "list": [1, {"a": None}]})
        assert response.json() == {"session": {"some": "data", "list": [1, {"a": None}]}}
        attributes = response.headers["set-cookie"].lower().split("; ")
        assert attributes[0].startswith("guest=")
        assert {"path=/", "max-age=3600", "httponly", "samesite=strict", "secure"} == set(attributes[1:])
        assert client.get("/view").json() == {"session": {"some": "data", "list": [1, {"a": None}]}}
        assert client.post("/append?name=one").json() == ["one"]
        assert client.post("/append?name=two").json() == ["one", "two"]
        assert client.post("/clear").json() == {"session": {}}
        assert client.get("/view").json() == {"session": {}}


@pytest.mark.parametrize(
    ("keywords", "cookie"),
    [
        ({}, "__Host-session={}; Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"max_age": None}, "__Host-session={}; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"max_age": 60}, "__Host-session={}; Max-Age=60; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"max_age": None, "path": "/shop"}, "__Secure-session={}; Path=/shop; HttpOnly; SameSite=Lax; Secure"),
        (
            {"max_age": None, "domain": "example.org"},
            "__Secure-session={}; Path=/; Domain=example.org; HttpOnly; SameSite=Lax; Secure",
        ),
        ({"max_age": None, "same_site": "none"}, "__Host-session={}; Path=/; HttpOnly; SameSite=None; Secure"),
        ({"max_age": None, "session_cookie": "sid"}, "sid={}; Path=/; HttpOnly; SameSite=Lax; Secure"),
    ],
)
async def test_the_stock_keywords_mean_what_they_mean_there(keywords: dict[str, Any], cookie: str) -> None:
    name = cookie.partition("=")[0]
    path = keywords.get("path", "")
    app: Any = shop("memory://", settings=None, **keywords)
    if path:
        app = Starlette(routes=[Mount(path, app)])
    async with Browser(app, cookie=name) as visitor:
        response = await visitor.post(path + "/put?a=1")
        assert response.headers["set-cookie"] == cookie.format(visitor.ticket)
        assert (await visitor.get(path + "/page")).json() == {"a": "1"}
        erased = (await visitor.post(path + "/logout")).headers["set-cookie"]
        assert erased.startswith(f'{name}=""; Max-Age=0; ')
        for attribute in cookie.split("; ")[1:]:
            assert attribute.startswith("Max-Age") or attribute in erased


def test_keywords_may_be_given_in_the_stock_order() -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(""))])
    with pytest.warns(InsecureCookieWarning):
        middleware = SessionMiddleware(app, "memory://", "sid", 60, "/", "strict", False, None)
    settings = middleware.manager.settings
    assert (settings.cookie.name, settings.cookie.max_age, settings.cookie.same_site) == ("sid", 60, "strict")
    assert (settings.idle_ms, settings.absolute_ms, settings.cookie.secure) == (60_000, 7 * 86_400_000, False)


@pytest.mark.parametrize(
    ("keywords", "idle", "absolute"),
    [
        ({}, timedelta(days=14), timedelta(days=14)),
        ({"max_age": None}, timedelta(hours=2), timedelta(days=7)),
        ({"idle_timeout": 60}, timedelta(seconds=60), timedelta(days=7)),
        ({"idle_timeout": timedelta(days=9)}, timedelta(days=9), timedelta(days=9)),
        ({"absolute_timeout": None}, timedelta(days=14), None),
        ({"max_age": 60, "absolute_timeout": 90}, timedelta(seconds=60), timedelta(seconds=90)),
    ],
)
def test_timeouts_follow_from_one_another(
    keywords: dict[str, Any], idle: timedelta, absolute: timedelta | None
) -> None:
    settings = SessionMiddleware(_nothing, "memory://", **keywords).manager.settings
    assert settings.idle_ms == idle / timedelta(milliseconds=1)
    assert settings.absolute_ms == (None if absolute is None else absolute / timedelta(milliseconds=1))


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"store": "nosuch://"}, "nosuch"),
        ({"same_site": "none", "https_only": False}, "same_site"),
        ({"same_site": "Lax"}, "same_site"),
        ({"max_age": -1}, "max_age"),
        ({"session_cookie": "a b"}, "cookie name"),
        ({"path": "shop"}, "path"),
        ({"path": "/;"}, "path"),
        ({"idle_timeout": -1}, "idle_timeout"),
        ({"idle_timeout": 100, "absolute_timeout": 50}, "absolute_timeout"),
        ({"load": "lazy"}, "load"),
        ({"settings": Settings(), "path": "/shop"}, "settings"),
        ({"settings": Settings(), "max_age": 60}, "settings"),
        ({"settings": Settings(), "absolute_timeout": 60}, "settings"),
        ({"session_cookie": "__Host-session", "domain": "example.org"}, "__Host-"),
        ({"session_cookie": "__Host-session", "https_only": False}, "__Host-"),
        ({"session_cookie": "__Host-session", "path": "/shop"}, "__Host-"),
    ],
)
@pytest.mark.filterwarnings("ignore::coatcheck.errors.InsecureCookieWarning")
def test_bad_settings_are_refused_at_start(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        SessionMiddleware(_nothing, **{"store": "memory://", **keywords})


def test_plain_http_is_said_aloud() -> None:
    with pytest.warns(InsecureCookieWarning, match="plain HTTP"):
        SessionMiddleware(_nothing, "memory://", https_only=False)


async def test_middleware_in_between_sees_the_session_and_may_change_it(open_sessions: Opener) -> None:
    class Visits(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            request.session["before"] = True
            response = await call_next(request)
            request.session["after"] = request.session.get("a")
            return response

    app = shop(open_sessions(), inside=(Middleware(Visits), Middleware(GZipMiddleware)))
    async with Browser(app) as visitor:
        await visitor.post("/put?a=1")
        assert (await visitor.get("/page")).json() == {"before": True, "a": "1", "after": "1"}


async def test_a_refusal_passes_through_middleware_in_between(open_sessions: Opener) -> None:
    class Plain(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    app = shop(open_sessions(), inside=(Middleware(Plain),))
    async with Browser(app) as visitor, Browser(app) as tab:
        await visitor.post("/login?user=garimoo")
        tab.ticket = visitor.ticket
        slow = asyncio.create_task(visitor.post("/put?late=1", headers={"x-gate": "slow"}))
        await eventually(lambda: "slow" in app.state.waiting, "the slow request")
        await tab.post("/logout")
        app.state.gates["slow"].set()
        assert (await slow).status_code == 409


async def test_a_mounted_application_shares_the_session(open_sessions: Opener) -> None:
    inner = Starlette(routes=[Route("/page", lambda request: JSONResponse(dict(request.session)))])
    app = shop(open_sessions())
    app.router.routes.append(Mount("/inner", inner))
    async with Browser(app) as visitor:
        await visitor.post("/put?a=1")
        response = await visitor.get("/inner/page")
        assert (response.json(), response.headers["vary"]) == ({"a": "1"}, "Cookie")


async def test_a_session_for_one_mounted_application_alone(open_sessions: Opener) -> None:
    app = Starlette(routes=[Mount("/shop", shop(open_sessions())), Route("/", lambda request: PlainTextResponse("hi"))])
    async with Browser(app) as visitor:
        await visitor.post("/shop/put?a=1")
        assert (await visitor.get("/shop/page")).json() == {"a": "1"}
        assert "vary" not in (await visitor.get("/")).headers


def test_the_lifespan_closes_what_the_middleware_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Noted(AsyncMemoryStore):
        async def close(self) -> None:
            closed.append("handed in")

    handed_in = shop(Noted())
    with TestClient(handed_in, base_url="https://testserver") as client:
        client.post("/put?a=1")
    assert closed == [], "what was handed in stays open"

    async def close(store: AsyncMemoryStore) -> None:
        closed.append("opened")

    monkeypatch.setattr(AsyncMemoryStore, "close", close)
    with TestClient(shop("memory://"), base_url="https://testserver") as client:
        client.post("/put?a=1")
    assert closed == ["opened"]


def test_a_valkey_store_is_closed_by_the_lifespan(valkey: Any, valkey_url: str) -> None:
    """Warnings are errors here: a socket left open would be told of by Python."""
    before = valkey("INFO", "clients")["connected_clients"]
    with TestClient(shop(valkey_url), base_url="https://testserver") as client:
        client.post("/put?a=1")
        assert client.get("/page").json() == {"a": "1"}
        assert valkey("INFO", "clients")["connected_clients"] > before
    assert valkey("INFO", "clients")["connected_clients"] == before


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


LOADS: dict[str, Callable[[Any], object]] = {"look": dict, "change": lambda session: session.update(a=1)}


async def test_explicit_loading_reads_on_request_only(open_sessions: Opener) -> None:
    async def page(request: Request) -> Response:
        session: Any = request.session
        if "load" in request.query_params:
            await session.load()
        for name in LOADS.keys() & request.query_params.keys():
            LOADS[name](session)
        return PlainTextResponse("page")

    app = Starlette(
        routes=[Route("/page", page)],
        middleware=[Middleware(SessionMiddleware, store=open_sessions(), load="explicit", max_age=None)],
    )
    async with Browser(app) as visitor:
        response = await visitor.get("/page?change")
        assert "set-cookie" in response.headers, "who shows no ticket has nothing to load"
        response = await visitor.get("/page")
        assert (response.status_code, response.headers.get("vary")) == (200, None)
        for look in LOADS:
            assert (await visitor.get(f"/page?{look}")).status_code == 500
            response = await visitor.get(f"/page?load&{look}")
            assert (response.status_code, response.headers["vary"]) == (200, "Cookie")
