"""One story of a browser, in every framework: real servers, a real store, and both of them killed in the end.

Every framework tells it on Valkey; those that most applications use tell it on PostgreSQL too, and on a store that the web
servers make up among themselves.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from tests.servers.browser import Browser
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import eventually, wait_until
from tests.servers.valkey import DURABLE, Valkey
from tests.servers.web import Gunicorn, WebServer
from tests.stores.replicas import url_for
from tests.web.shops.gates import Gates


@dataclass(frozen=True)
class Framework:
    """How a framework is served, and where it has a custom of its own.

    Attributes:
        serve: gives the server, for the environment of its process.
        gone: the status if the session ended while the request ran.
        login_drops: whether what was there before the login is dropped unless it is kept on purpose.
        reads: whether a request that does not look at its session has it read all the same.
    """

    serve: Callable[[dict[str, str]], WebServer]
    gone: int = 409
    login_drops: bool = True
    reads: bool = False


def served_by(server: type[WebServer], application: str) -> Callable[[dict[str, str]], WebServer]:
    return partial(server, f"tests.web.shops.{application}")


FRAMEWORKS = {
    "asgi": Framework(served_by(WebServer, "on_asgi:make"), reads=True),
    "starlette": Framework(served_by(WebServer, "on_starlette:make"), reads=True),
    "fastapi": Framework(served_by(WebServer, "on_fastapi:make"), reads=True),
    "wsgi": Framework(served_by(Gunicorn, "on_wsgi:application")),
    "flask": Framework(served_by(Gunicorn, "on_flask:application")),
    "quart": Framework(served_by(WebServer, "on_quart:make")),
    # Django's own customs: its login keeps what was there, and it answers 400 (SessionInterrupted) to whoever comes too late.
    "django": Framework(served_by(Gunicorn, "on_django:make_wsgi()"), gone=400, login_drops=False),
    "django-async": Framework(served_by(WebServer, "on_django:make_asgi"), gone=400, login_drops=False),
}


class Stage:
    """The store that all servers share, and the servers, each started when it is first needed.

    Args:
        store: a server that keeps the sessions; `None` if the web servers keep them among themselves.
    """

    def __init__(self, store: Valkey | PostgreSQL | None) -> None:
        self.store = store
        self.url = ""
        self._folder = tempfile.TemporaryDirectory(prefix="coatcheck-")
        self.gates = Gates(self._folder.name)
        self._servers: dict[str, WebServer] = {}

    def start(self) -> None:
        if self.store is not None:
            self.store.start()
            self.url = self.store.url
        else:
            self.url = url_for(len(PEERS), "")
            for framework in PEERS:  # all at once: they are the store
                self.server(framework)
            wait_until(self._ready, "the peers to find each other", 30)

    def _ready(self) -> bool:
        """Whether all servers serve. Asking is what makes a synchronous one begin to look for the others."""
        return {httpx.get(f"{server.url}/ready").status_code for server in self._servers.values()} == {200}

    def server(self, framework: str) -> WebServer:
        if framework not in self._servers:
            environment = {"SHOP_STORE": self.url, "SHOP_PATIENCE": "3", "SHOP_GATES": self._folder.name}
            server = FRAMEWORKS[framework].serve(environment)
            server.start()
            self._servers[framework] = server
        return self._servers[framework]

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()
        if self.store is not None:
            self.store.stop()
        self._folder.cleanup()


AMONG_THEMSELVES = "replicated"
STORES: dict[str, Callable[[], Valkey | PostgreSQL | None]] = {
    "valkey": lambda: Valkey(*DURABLE),
    "postgresql": PostgreSQL,
    AMONG_THEMSELVES: lambda: None,
}
PEERS = ("flask", "django", "starlette")
TOLD = [
    *(("valkey", framework) for framework in FRAMEWORKS),
    *(("postgresql", framework) for framework in ("flask", "django", "django-async")),
    *((AMONG_THEMSELVES, framework) for framework in PEERS),
]
"""Where the story is told, and by whom."""


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(STORES[request.param]())
    try:
        stage.start()
        yield stage
    finally:
        stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each part of the story by all who tell it; what harms the store only where there is one."""
    harmful = "store" in metafunc.fixturenames
    told = [(store, framework) for store, framework in TOLD if not (harmful and store == AMONG_THEMSELVES)]
    ids = [f"{framework} on {store}" for store, framework in told]
    metafunc.parametrize(("stage", "name"), told, indirect=["stage"], ids=ids, scope="module")


@pytest.fixture
def store(stage: Stage) -> Valkey | PostgreSQL:
    assert stage.store is not None
    return stage.store


@pytest.fixture
def framework(name: str) -> Framework:
    return FRAMEWORKS[name]


@pytest.fixture
def server(stage: Stage, name: str) -> WebServer:
    return stage.server(name)


async def slowly(visitor: Browser, path: str, gate: str, gates: Gates) -> asyncio.Task[httpx.Response]:
    """A request that has done all but answer, when this returns."""
    slow = asyncio.create_task(visitor.post(path, headers={"x-gate": gate}))
    await eventually(lambda: gates.has_arrived(gate), "the slow request")
    return slow


async def test_a_visitor_fills_a_cart_and_logs_in(server: WebServer, framework: Framework) -> None:
    async with Browser(server.url) as visitor:
        assert (await visitor.get("/page")).json() == {}
        assert visitor.ticket is None, "who stores nothing gets no cookie"
        await visitor.post("/add/tea")
        await visitor.post("/add/tea")
        await visitor.post("/add/cups")
        await visitor.post("/put?planted=1")
        everything = {"cart[tea]": 2, "cart[cups]": 1, "planted": "1"}
        assert (await visitor.get("/page")).json() == everything

        anonymous = visitor.ticket
        response = await visitor.post("/login?user=garimoo&keep=cart")
        assert response.text == "welcome"
        assert "no-store" in response.headers["cache-control"]
        assert "Cookie" in response.headers["vary"]
        assert visitor.ticket not in (anonymous, None)
        if framework.login_drops:
            del everything["planted"]
        assert (await visitor.get("/page")).json() == {**everything, "user": "garimoo"}

    async with Browser(server.url, ticket=anonymous) as somebody_with_the_old_ticket:
        assert (await somebody_with_the_old_ticket.get("/page")).json() == {}


async def test_an_invented_ticket_is_never_adopted(server: WebServer) -> None:
    for invented in ("", "A" * 48, "x" * 5000, "../" * 16, "*", "{}", '"' + "A" * 48 + '"'):
        async with Browser(server.url, ticket=invented) as attacker:
            assert (await attacker.get("/page")).json() == {}
        async with Browser(server.url, ticket=invented) as attacker:
            await attacker.post("/login?user=mallory")
            assert attacker.ticket not in (invented, None)
            assert (attacker.session_id or "") not in invented


async def test_the_headers_keep_users_apart(server: WebServer) -> None:
    async with Browser(server.url) as visitor:
        assert "vary" not in (await visitor.get("/untouched")).headers
        page = await visitor.get("/page")
        assert (page.headers["vary"], page.headers.get("set-cookie")) == ("Cookie", None)
        stored = await visitor.post("/put?a=1")
        for attribute in ("__Host-session=", "HttpOnly", "SameSite=Lax", "Secure", "Path=/"):
            assert attribute in stored.headers["set-cookie"]
        assert "no-store" in stored.headers["cache-control"]
        assert "vary" not in (await visitor.get("/untouched")).headers


async def test_two_tabs_at_once_lose_nothing(stage: Stage, server: WebServer, name: str) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/put?first=visit")
        slow = await slowly(visitor, "/put?left=1", f"{name}-tabs", stage.gates)
        await visitor.post("/put?right=2")
        stage.gates.open(f"{name}-tabs")
        assert (await slow).status_code == 200
        assert (await visitor.get("/page")).json() == {"first": "visit", "left": "1", "right": "2"}


async def test_a_counter_and_a_cart_are_exact_under_parallel_requests(server: WebServer) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/put?first=visit")
        answers = await asyncio.gather(*(visitor.post(path) for _ in range(12) for path in ("/count", "/add/tea")))
        assert {answer.status_code for answer in answers} == {200}
        assert (await visitor.get("/page")).json() == {"first": "visit", "count": 12, "cart[tea]": 12}


async def test_logout_during_a_slow_request_is_final(
    stage: Stage, server: WebServer, framework: Framework, name: str
) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        slow = await slowly(visitor, "/put?late=1", f"{name}-logout", stage.gates)
        async with Browser(server.url, ticket=ticket) as other_tab:
            assert (await other_tab.post("/logout")).text == "good-bye"
            assert other_tab.ticket is None
        stage.gates.open(f"{name}-logout")
        refused = await slow
        assert refused.status_code == framework.gone
        assert "set-cookie" not in refused.headers
    async with Browser(server.url, ticket=ticket) as revenant:
        assert (await revenant.get("/page")).json() == {}


async def test_require_unchanged_refuses_what_is_no_longer_true(stage: Stage, server: WebServer, name: str) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/put?note=old")
        slow = await slowly(visitor, "/careful?note=slow", f"{name}-careful", stage.gates)
        assert (await visitor.post("/careful?note=quick")).status_code == 200
        stage.gates.open(f"{name}-careful")
        refused = await slow
        assert refused.status_code == 409
        assert "set-cookie" not in refused.headers
        assert (await visitor.get("/page")).json() == {"note": "quick"}


async def test_a_page_that_fails_commits_nothing(server: WebServer) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/put?good=1")
        response = await visitor.post("/boom")
        assert response.status_code == 500
        assert "set-cookie" not in response.headers
    async with Browser(server.url, ticket=visitor.ticket) as visitor:  # servers close the connection after that
        assert (await visitor.get("/page")).json() == {"good": "1"}


async def test_any_framework_serves_any_user(stage: Stage, name: str) -> None:
    """One cookie, one store: what one framework stored, another one finds, and adds to."""
    async with Browser(stage.server(name).url) as visitor:
        await visitor.post("/login?user=garimoo")
        await visitor.post("/add/tea")
    async with Browser(stage.server("starlette").url, ticket=visitor.ticket) as visitor_there:
        assert (await visitor_there.get("/page")).json() == {"user": "garimoo", "cart[tea]": 1}
        await visitor_there.post("/add/tea")
    async with Browser(stage.server(name).url, ticket=visitor.ticket) as visitor:
        assert (await visitor.get("/page")).json() == {"user": "garimoo", "cart[tea]": 2}


async def test_a_killed_server_loses_nobody(stage: Stage, server: WebServer) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/login?user=garimoo")
        await visitor.post("/add/tea")
        server.restart()  # not in a thread of its own: it would take the server with it when it ends
        if stage.store is None:  # it serves nobody until the others have given it all that they hold
            await visitor.get_when_up("/ready")
        assert (await visitor.get("/ready")).status_code == 200
        assert (await visitor.get("/page")).json() == {"user": "garimoo", "cart[tea]": 1}


def refused(response: httpx.Response) -> bool:
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert "set-cookie" not in response.headers
    assert "no-store" in response.headers["cache-control"]
    return True


async def test_a_killed_store_logs_nobody_out(
    store: Valkey | PostgreSQL, server: WebServer, framework: Framework
) -> None:
    async with Browser(server.url) as visitor, Browser(server.url) as newcomer, Browser(server.url) as nobody:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        store.kill()
        try:
            assert refused(await visitor.get("/page")), "with a ticket, nothing can be said about the session"
            for path in ("/put?a=1", "/count", "/logout", "/login?user=other"):
                assert refused(await visitor.post(path))
            assert refused(await newcomer.post("/put?a=1")), "a session that is not stored is not promised"
            assert newcomer.ticket is None
            assert (await nobody.get("/page")).status_code == 200, "who shows no ticket needs no store"
            untouched = await visitor.get("/untouched")
            assert untouched.status_code == (503 if framework.reads else 200), "who does not look needs no store"
        finally:
            store.start()
        await visitor.get_when_up("/page")
        assert visitor.ticket == ticket
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}
        assert (await newcomer.post("/put?a=1")).status_code == 200


async def test_a_frozen_store_costs_at_most_its_timeout(store: Valkey | PostgreSQL, server: WebServer) -> None:
    async with Browser(server.url) as visitor:
        await visitor.post("/login?user=garimoo")
        store.freeze()
        try:
            began = time.monotonic()
            answers = await asyncio.gather(*(visitor.get("/page") for _ in range(8)))
            assert time.monotonic() - began < 3 + 5
            assert all(refused(answer) for answer in answers)
        finally:
            store.thaw()
        await visitor.get_when_up("/page")
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}
