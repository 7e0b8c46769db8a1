"""Quart: an application written for Quart's own sessions runs unchanged, and every setting of Quart's counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from quart import Quart, flash, get_flashed_messages, redirect, session, stream_with_context, websocket
from quart.testing.connections import WebsocketDisconnectError
from quart.typing import TestClientProtocol as Client

from coatcheck import Settings
from coatcheck.errors import ConfigurationError, StoreUnavailable, TooLate
from coatcheck.quart import QuartSession, Sessions
from coatcheck.record import Record
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore

current = cast(QuartSession, session)


class Failing(AsyncMemoryStore):
    """Goes down when it is told to."""

    down = False

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        if self.down:
            raise StoreUnavailable("test://", "down", retry_after=7)
        return await super().read(session_id)

    async def create(self, new: Any, *, timeout: float | None = None) -> Any:
        if self.down:
            raise StoreUnavailable("test://", "down", retry_after=7)
        return await super().create(new)


def make(store: Any = None, **config: Any) -> Quart:
    app = Quart("shop")
    app.config.update({"SESSION_COOKIE_SECURE": True, **config})
    Sessions(app, store=AsyncMemoryStore() if store is None else store)

    @app.get("/page")
    async def page() -> dict[str, Any]:
        return dict(session)

    @app.get("/untouched")
    async def untouched() -> str:
        return "the same for everybody"

    @app.post("/login/<name>")
    async def login(name: str) -> str:
        session.clear()
        session["user"] = name
        return "welcome"

    @app.post("/logout")
    async def logout() -> str:
        session.clear()
        return "good-bye"

    @app.post("/put/<name>/<value>")
    async def put(name: str, value: str) -> str:
        session[name] = value
        return "stored"

    @app.post("/remember")
    async def remember() -> str:
        session.permanent = True
        session["user"] = "garimoo"
        return "remembered"

    @app.post("/say")
    async def say() -> str:
        await flash("hello")
        return "said"

    @app.get("/hear")
    async def hear() -> list[Any]:
        return [str(text) for text in get_flashed_messages()]

    @app.post("/boom")
    async def boom() -> str:
        session["broken"] = True
        raise RuntimeError

    @app.get("/stream")
    async def stream() -> Any:
        @stream_with_context
        async def pieces() -> AsyncIterator[str]:
            yield "a is "
            yield str(session.get("a"))

        return pieces()

    @app.websocket("/chat")
    async def chat() -> None:
        while (word := await websocket.receive()) != "end":
            current.increment(str(word))
            await current.commit()
            await websocket.send(str(session[str(word)]))

    return app


def ticket(client: Client) -> str | None:
    assert client.cookie_jar is not None
    return next((each.value for each in client.cookie_jar if each.name == "session"), None)


async def get(client: Client, path: str) -> Any:
    return await client.get(path, scheme="https")


async def post(client: Client, path: str) -> Any:
    return await client.post(path, scheme="https")


async def page(client: Client) -> Any:
    return await (await get(client, "/page")).get_json()


async def test_login_and_logout() -> None:
    store = AsyncMemoryStore()
    client = make(store).test_client()
    await post(client, "/put/planted/1")
    anonymous = ticket(client)
    await post(client, "/login/garimoo")
    assert ticket(client) not in (anonymous, None)
    assert await page(client) == {"user": "garimoo"}
    response = await get(client, "/page")
    assert response.headers["Vary"] == "Cookie"
    assert "Vary" not in (await get(client, "/untouched")).headers
    response = await post(client, "/logout")
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert response.headers["Cache-Control"] == "no-store"
    assert len(store) == 0


async def test_flashed_messages() -> None:
    client = make().test_client()
    await post(client, "/say")
    assert await (await get(client, "/hear")).get_json() == ["hello"]
    assert await (await get(client, "/hear")).get_json() == []


async def test_a_permanent_session_lasts_as_long_as_quart_is_told() -> None:
    shared = MemoryStore()
    client = make(AsyncMemoryStore(shared), PERMANENT_SESSION_LIFETIME=timedelta(hours=1)).test_client()
    assert "Expires" in (await post(client, "/remember")).headers["Set-Cookie"]
    record = shared.read((ticket(client) or "")[:16])
    assert record is not None
    assert (record.idle_ms, record.deadline_ms) == (3_600_000, None)
    assert "Set-Cookie" in (await get(client, "/page")).headers
    client = make(SESSION_REFRESH_EACH_REQUEST=False).test_client()
    await post(client, "/remember")
    assert "Set-Cookie" not in (await get(client, "/page")).headers


async def test_a_store_that_is_down_is_answered_for() -> None:
    store = Failing()
    client = make(store).test_client()
    await post(client, "/put/a/1")
    before = ticket(client)
    store.down = True
    for answer in (
        await get(client, "/page"),
        await post(client, "/put/a/2"),
        await post(make(store).test_client(), "/put/a/1"),
    ):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert "Set-Cookie" not in answer.headers
        assert "test://" not in await answer.get_data(as_text=True)
    assert (await get(client, "/untouched")).status_code == 200
    store.down = False
    assert ticket(client) == before
    assert await page(client) == {"a": "1"}


async def test_an_exception_that_nobody_handles_stores_nothing() -> None:
    client = make().test_client()
    await post(client, "/put/a/1")
    assert (await post(client, "/boom")).status_code == 500
    assert await page(client) == {"a": "1"}


async def test_such_an_exception_is_forgotten_with_its_request() -> None:
    """As in a test that keeps one application context open, in which all its requests then share `g`."""
    app = make(PROPAGATE_EXCEPTIONS=True)
    client = app.test_client()
    async with app.app_context():
        with pytest.raises(RuntimeError):
            await post(client, "/boom")
        await post(client, "/put/a/1")
        assert await page(client) == {"a": "1"}


async def test_a_redirect_to_any_letters_may_carry_the_cookie() -> None:
    app = make()

    @app.post("/move")
    async def move() -> Any:
        session["moved"] = True
        return redirect("/用户/münchen")

    client = app.test_client()
    assert (await post(client, "/move")).status_code == 302
    assert await page(client) == {"moved": True}


async def test_a_stream_may_look_at_the_session() -> None:
    client = make().test_client()
    await post(client, "/put/a/1")
    response = await get(client, "/stream")
    assert await response.get_data(as_text=True) == "a is 1"
    assert response.headers["Vary"] == "Cookie"


async def test_a_websocket_commits_as_it_goes() -> None:
    client = make().test_client()
    await post(client, "/put/a/1")
    async with client.websocket("/chat", scheme="wss") as socket:
        for expected in ("1", "2"):
            await socket.send("hello")
            assert await socket.receive() == expected
        await socket.send("end")
    assert await page(client) == {"a": "1", "hello": 2}


async def test_no_new_ticket_is_lost_in_a_websocket() -> None:
    """No cookie can reach the browser there: whoever began a session or renewed a ticket would be logged out by it."""
    store = MemoryStore()
    app = Quart("shop")
    app.config.update(SESSION_COOKIE_SECURE=True)
    Sessions(app, store=AsyncMemoryStore(store), settings=Settings(absolute_timeout=None, renew_every=0.001))

    @app.post("/begin")
    async def begin() -> str:
        session["a"] = 1
        return "begun"

    @app.get("/page")
    async def read() -> dict[str, Any]:
        return dict(session)

    @app.websocket("/change")
    async def change() -> None:
        await websocket.accept()
        with pytest.raises(TooLate, match="in a request before it"):
            current.renew(owner="garimoo")
        session["b"] = 2
        await websocket.send("changed")

    client = app.test_client()
    async with client.websocket("/change", scheme="wss") as socket:
        with pytest.raises(WebsocketDisconnectError):  # by what the view did not catch
            await socket.receive()
    assert len(store) == 0, "nobody could find it again"
    await post(client, "/begin")
    before = ticket(client)
    record = store.read((before or "")[:16])
    assert record is not None
    await asyncio.sleep(0.01)
    async with client.websocket("/change", scheme="wss") as socket:
        assert await socket.receive() == "changed"
    again = store.read(record.session_id)
    assert again is not None
    assert (again.secret_hash, set(again.fields)) == (record.secret_hash, {"a", "b"})


async def test_a_websocket_that_fails_stores_nothing_more() -> None:
    app = make()

    @app.websocket("/fall")
    async def fall() -> None:
        current.increment("kept")
        await current.commit()
        await websocket.send("kept")
        session["lost"] = True
        raise RuntimeError

    client = app.test_client()
    await post(client, "/put/a/1")
    async with client.websocket("/fall", scheme="wss") as socket:
        assert await socket.receive() == "kept"
        with pytest.raises(WebsocketDisconnectError):
            await socket.receive()
    assert await page(client) == {"a": "1", "kept": 1}


async def test_the_test_clients_session_transaction() -> None:
    app = make(SESSION_COOKIE_SECURE=True)
    client = app.test_client()
    async with client.session_transaction(scheme="https") as opened:
        opened["a"] = 1
    assert await page(client) == {"a": 1}


async def test_a_store_given_as_a_url_is_closed_when_the_application_has_been_served(valkey_url: str) -> None:
    app = Quart("shop")
    app.config.update(SESSION_COOKIE_SECURE=True, COATCHECK_STORE=valkey_url)
    Sessions(app, settings=Settings(absolute_timeout=None, store_timeout=5))

    @app.get("/")
    async def count() -> str:
        return str(current.increment("hits"))

    async with app.test_app() as served:
        client = served.test_client()
        assert [await (await get(client, "/")).get_data(as_text=True) for _ in range(3)] == ["1", "2", "3"]


def test_wrong_settings_are_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="COATCHECK_STORE"):
        Sessions(Quart("shop"))
    with pytest.raises(ConfigurationError, match="same_site"):
        make(SESSION_COOKIE_SAMESITE="perhaps")
    with pytest.raises(ConfigurationError, match="a synchronous store"):
        make(MemoryStore())
