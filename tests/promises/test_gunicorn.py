"""R1, R6, R8, R12, R13 and R16 under gunicorn: 16 threads, processes forked from a warm one, and greenlets."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TypeAlias

import httpx
import pytest

from tests.servers.browser import COOKIE, Browser
from tests.servers.processes import eventually
from tests.servers.proxy import Action, Command, Proxy
from tests.servers.valkey import Valkey
from tests.servers.web import Gunicorn
from tests.web.shops.gates import Gates

SHOP = "tests.web.shops.on_flask:application"

Serve: TypeAlias = Callable[[dict[str, str]], Gunicorn]

KINDS: dict[str, Serve] = {
    "16 threads": partial(Gunicorn, SHOP, threads=16),
    # Both processes have the connection that the parent had opened; neither may use it.
    "forked": lambda environment: Gunicorn(SHOP, {**environment, "SHOP_WARM": "1"}, workers=2, threads=8, preload=True),
    "gevent": partial(Gunicorn, SHOP, worker="gevent", threads=100),
}


@pytest.fixture(scope="module", params=KINDS)
def serve(request: pytest.FixtureRequest) -> Serve:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-") as folder:
        yield folder


@pytest.fixture(scope="module")
def freezable() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def server(serve: Serve, freezable: Valkey, folder: str) -> Iterator[Gunicorn]:
    """A server with fewer connections than it serves requests at once."""
    url = f"{freezable.url}?max_connections=4"
    with serve({"SHOP_STORE": url, "SHOP_PATIENCE": "2", "SHOP_GATES": folder}) as server:
        yield server


@pytest.fixture
async def behind(serve: Serve, proxy: Proxy, prefix: str) -> AsyncIterator[Gunicorn]:
    """A server whose store is behind the proxy."""
    environment = {"SHOP_STORE": f"{proxy.url}?prefix={prefix}&max_connections=4", "SHOP_PATIENCE": "5"}
    server = serve(environment)
    server.launch()
    try:
        await eventually(server.runs, "the start of gunicorn", 30)  # which the proxy has to take part in
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def crowd(server: Gunicorn, number: int) -> list[str]:
    """The tickets of so many users, each logged in by a name of its own."""
    tickets = []
    for at in range(number):
        async with Browser(server.url) as visitor:
            await visitor.post(f"/login?user=user-{at}")
            assert visitor.ticket is not None
            tickets.append(visitor.ticket)
    return tickets


async def test_nobody_gets_anybody_elses_session(proxy: Proxy, behind: Gunicorn) -> None:
    """R1: half of the browsers hang up at random moments, while the store answers late, and not in even time."""
    tickets = await crowd(behind, 24)
    proxy._latency = (0.0, 0.004)
    chance = random.Random(1)
    seen: Counter[str] = Counter()

    async def browse(client: httpx.AsyncClient) -> None:
        for _ in range(16):
            at = chance.randrange(len(tickets))
            patience = chance.uniform(0.001, 0.02) if chance.random() < 0.5 else 20
            path = "/page" if chance.random() < 0.7 else "/count"
            try:
                headers = {"cookie": f"{COOKIE}={tickets[at]}"}
                async with asyncio.timeout(patience):
                    answer = await client.request("GET" if path == "/page" else "POST", path, headers=headers)
            except (TimeoutError, httpx.TransportError):
                seen["hung up"] += 1
                continue
            assert answer.status_code == 200, answer.text
            if path == "/page":
                assert answer.json()["user"] == f"user-{at}"
            seen["served"] += 1

    limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=behind.url, timeout=20, limits=limits) as client:
        await asyncio.gather(*(browse(client) for _ in range(24)))
    assert seen["served"] > 120, seen
    assert seen["hung up"] > 10, seen
    proxy._latency = (0.0, 0.0)
    for at, ticket in enumerate(tickets):
        async with Browser(behind.url, ticket=ticket) as visitor:
            assert (await visitor.get("/page")).json()["user"] == f"user-{at}"


async def test_an_increment_counts_once_or_is_reported_unknown(proxy: Proxy, behind: Gunicorn) -> None:
    """R6: connections break after the server has applied a commit, so that its answer is lost."""
    chance = random.Random(2)

    def judge(command: Command) -> Action:
        return "cut after" if command.name == "EVALSHA" and chance.random() < 0.15 else "pass"

    async with Browser(behind.url) as visitor:
        await visitor.post("/put?first=visit")
        proxy.judge = judge
        tally: Counter[int] = Counter()

        async def count() -> None:
            async with Browser(behind.url, ticket=visitor.ticket) as tab:
                for _ in range(12):
                    answer = await tab.post("/count")
                    tally[answer.status_code] += 1
                    if answer.status_code == 503:
                        await asyncio.sleep(0.05)

        await asyncio.gather(*(count() for _ in range(6)))
        proxy.judge = lambda command: "pass"
        await visitor.get_when_up("/page")
        counted = (await visitor.get("/page")).json().get("count", 0)
    assert set(tally) <= {200, 503}, tally
    assert tally[200] > 10, tally
    assert tally[200] <= counted <= tally[200] + tally[503], (counted, tally)


async def test_logout_is_final(server: Gunicorn, folder: str, request: pytest.FixtureRequest) -> None:
    """R8: slow requests, on all processes there are, span the logout."""
    gates = Gates(folder)
    names = [f"{abs(hash(request.node.name))}-{number}" for number in range(6)]
    async with Browser(server.url) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        tabs = [Browser(server.url, ticket=ticket) for _ in names]
        slow = [
            asyncio.create_task(tab.post(f"/put?late={name}", headers={"x-gate": name}))
            for tab, name in zip(tabs, names, strict=True)
        ]
        await eventually(lambda: all(gates.has_arrived(name) for name in names), "the slow requests")
        await visitor.post("/logout")
        for name in names:
            gates.open(name)
        for refused in await asyncio.gather(*slow):
            assert refused.status_code == 409
            assert "set-cookie" not in refused.headers
    for tab in tabs:
        assert tab.ticket == ticket, "no cookie was touched"
        assert (await tab.get("/page")).json() == {}
        await tab.__aexit__(None, None, None)


async def test_nothing_is_lost_of_what_happens_at_once(server: Gunicorn) -> None:
    """R16 and R13: 16 tabs of one user, with four connections for all of them. Each is served, and everything counts."""
    async with Browser(server.url) as visitor:
        await visitor.post("/put?first=visit")

        async def tab(number: int) -> list[int]:
            async with Browser(server.url, ticket=visitor.ticket) as browser:
                paths = [f"/put?field-{number}={number}", "/count", f"/add/article-{number % 4}", "/count"]
                return [(await browser.post(path)).status_code for path in paths * 2]

        statuses = await asyncio.gather(*(tab(number) for number in range(16)))
        assert {status for each in statuses for status in each} == {200}
        page = (await visitor.get("/page")).json()
    assert page["count"] == 64
    assert {page[f"cart[article-{number}]"] for number in range(4)} == {8}
    assert {page[f"field-{number}"] for number in range(16)} == {str(number) for number in range(16)}


async def test_a_frozen_store_costs_at_most_the_deadline_and_the_server_recovers(
    server: Gunicorn, freezable: Valkey
) -> None:
    """R12 and R13: more requests than connections wait for a store that says nothing. All end in time, none twice as late."""
    async with Browser(server.url) as visitor:
        await visitor.post("/login?user=garimoo")
        freezable.freeze()
        try:
            began = time.monotonic()
            answers = await asyncio.gather(*(visitor.get("/page") for _ in range(16)))
            assert time.monotonic() - began < 2 + 4, "one deadline, and some time for a busy machine"
        finally:
            freezable.thaw()
        assert {answer.status_code for answer in answers} == {503}
        assert all("retry-after" in answer.headers and "set-cookie" not in answer.headers for answer in answers)
        assert (await visitor.get_when_up("/page")).json() == {"user": "garimoo"}
