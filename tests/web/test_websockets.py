"""WebSockets on a real server with a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers.browser import COOKIE, Browser
from tests.servers.valkey import Valkey
from tests.servers.web import WebServer

SHOP = "tests.web.shop:from_environment"


@pytest.fixture(scope="module", params=["memory", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[WebServer]:
    valkey: Valkey = request.getfixturevalue("valkey")
    url = "memory://" if request.param == "memory" else f"{valkey.url}?prefix=sockets:"
    with WebServer(SHOP, {"SHOP_STORE": url}) as server:
        yield server


@pytest.fixture
async def visitor(server: WebServer) -> AsyncIterator[Browser]:
    async with Browser(server.url) as visitor:
        yield visitor


def chat(server: WebServer, ticket: str | None) -> connect:
    headers = {} if ticket is None else {"Cookie": f"{COOKIE}={ticket}"}
    return connect(server.url.replace("http", "ws") + "/chat", additional_headers=headers)


async def ask(socket: ClientConnection, question: str) -> str | bytes:
    async with asyncio.timeout(10):
        await socket.send(question)
        return await socket.recv()


async def test_a_socket_reads_and_commits(server: WebServer, visitor: Browser) -> None:
    await visitor.post("/login?user=garimoo")
    async with chat(server, visitor.ticket) as socket:
        assert socket.response is not None
        assert "set-cookie" not in socket.response.headers
        assert await ask(socket, "get user") == '"garimoo"'
        assert (await visitor.get("/page")).json()["chats"] == 1, "committed when the socket was accepted"
        await ask(socket, "set mood happy")
        assert "mood" not in (await visitor.get("/page")).json()
        await ask(socket, "commit")
        assert (await visitor.get("/page")).json()["mood"] == "happy"

        await visitor.post("/put?news=1")
        assert await ask(socket, "get news") == "null"
        await ask(socket, "reload")
        assert await ask(socket, "get news") == '"1"'
        await ask(socket, "set last word")
    # What was left is stored when the socket ends, which the server notices by itself.
    stored: dict[str, str] = {}
    for _ in range(500):
        stored = (await visitor.get("/page")).json()
        if "last" in stored:
            break
    assert stored["last"] == "word"


async def test_a_new_session_is_handed_over_with_the_accept(server: WebServer, visitor: Browser) -> None:
    async with chat(server, None) as socket:
        assert socket.response is not None
        header = socket.response.headers["set-cookie"]
        assert (socket.response.headers["cache-control"], socket.response.headers["vary"]) == ("no-store", "Cookie")
        visitor.ticket = header.partition("=")[2].partition(";")[0]
        assert (await visitor.get("/page")).json() == {"chats": 1}


async def test_a_socket_is_told_that_its_session_is_gone(server: WebServer, visitor: Browser) -> None:
    await visitor.post("/login?user=garimoo")
    for question in ("reload", "commit"):
        await visitor.post("/login?user=garimoo")
        async with chat(server, visitor.ticket) as socket:
            await ask(socket, "set late 1")
            await visitor.post("/logout")
            with pytest.raises(ConnectionClosed):
                await ask(socket, question)
    assert "SessionGone" in server.log
    assert (await visitor.get("/page")).json() == {}


async def test_an_unknown_ticket_is_not_adopted(server: WebServer, visitor: Browser) -> None:
    invented = "A" * 48
    async with chat(server, invented) as socket:
        assert socket.response is not None
        header = socket.response.headers["set-cookie"]
        assert invented[:16] not in header


async def test_sockets_are_denied_while_the_store_is_down(own_valkey: Valkey) -> None:
    with WebServer(SHOP, {"SHOP_STORE": own_valkey.url, "SHOP_PATIENCE": "0.5"}) as server:
        async with Browser(server.url) as visitor:
            await visitor.post("/login?user=garimoo")
            own_valkey.freeze()
            for ticket in (visitor.ticket, None):
                with pytest.raises(InvalidStatus) as denial:
                    await chat(server, ticket)
                response = denial.value.response
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert "set-cookie" not in response.headers
            own_valkey.thaw()
            await visitor.get_when_up("/page")
            async with chat(server, visitor.ticket) as socket:
                assert await ask(socket, "get user") == '"garimoo"'
        assert "Traceback" not in server.log
