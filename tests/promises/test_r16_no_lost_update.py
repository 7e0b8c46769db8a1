"""R16: no lost update. Different fields both survive, counters and maps are exact, and a conflict is told where asked for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coatcheck.testing import a_record
from tests.servers.browser import Browser
from tests.servers.fixtures import Opener, URLOpener
from tests.servers.processes import Process, eventually, wait_until
from tests.servers.valkey import Valkey
from tests.web.shop import shop


async def test_many_processes_count_exactly(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener, tmp_path: Path
) -> None:
    new = a_record(fields={"hits": "0"})
    await open_store(valkey_url).create(new)
    module = [sys.executable, "-m", "tests.promises.counting", valkey_url]
    processes = [
        Process([*module, new.session_id, new.secret_hash, "250", f"p{number}"], tmp_path / f"log{number}")
        for number in range(4)
    ]
    try:
        wait_until(lambda: not any(process.alive for process in processes), "the end of all processes", seconds=40)
        assert [process.log for process in processes] == [""] * 4
    finally:
        for process in processes:
            process.stop()
    with valkey.client() as client:
        stored = client.hgetall(f"{prefix}session:{new.session_id}")
    assert stored["hits"] == "1000"
    assert {stored[f"cart[p{number}]"] for number in range(4)} == {"250"}
    assert {stored[f"last p{number}"] for number in range(4)} == {"240"}
    assert stored["@life"].startswith("[1001,")


async def test_requests_that_overlap_keep_each_others_fields_entries_and_counts(open_sessions: Opener) -> None:
    """All of them have read the session before any of them commits."""
    servers = [shop(open_sessions()) for _ in range(3)]
    async with Browser(servers[0]) as visitor:
        await visitor.post("/put?first=visit")
        tabs = [Browser(server, ticket=visitor.ticket) for server in servers for _ in range(5)]
        paths = ["/put?f{}=x", "/count", "/add/tea", "/add/article{}"]
        requests = [
            asyncio.create_task(tab.post(path.format(number), headers={"x-gate": "all"}))
            for number, tab in enumerate(tabs)
            for path in paths
        ]
        waiting = [server.state.waiting for server in servers]
        await eventually(lambda: sum(map(len, waiting)) == len(requests), "all requests")
        for server in servers:
            server.state.gates["all"].set()
        answers = await asyncio.gather(*requests)
        assert {answer.status_code for answer in answers} == {200}
        expected = {"first": "visit", "count": 15, "cart[tea]": 15}
        expected |= {f"f{number}": "x" for number in range(15)} | {f"cart[article{number}]": 1 for number in range(15)}
        assert (await visitor.get("/page")).json() == expected


async def test_on_one_field_the_later_request_wins_whole(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as visitor:
        await visitor.post("/put?first=visit")
        slow = asyncio.create_task(visitor.post("/put?name=slow", headers={"x-gate": "slow"}))
        await eventually(lambda: app.state.waiting == ["slow"], "the slow request")
        await visitor.post("/put?name=quick")
        app.state.gates["slow"].set()
        await slow
        assert (await visitor.get("/page")).json()["name"] == "slow"


async def test_of_many_that_require_it_unchanged_exactly_one_is_stored(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as visitor:
        await visitor.post("/put?note=old")
        requests = [
            asyncio.create_task(visitor.post(f"/careful?note={number}", headers={"x-gate": "all"}))
            for number in range(10)
        ]
        await eventually(lambda: len(app.state.waiting) == 10, "all requests")
        app.state.gates["all"].set()
        answers = await asyncio.gather(*requests)
        stored = [number for number, answer in enumerate(answers) if answer.status_code == 200]
        assert len(stored) == 1
        assert sorted({answer.status_code for answer in answers}) == [200, 409]
        assert (await visitor.get("/page")).json() == {"note": str(stored[0])}
