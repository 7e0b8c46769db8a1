"""R8: logout is final, and so is a login's end of the old ticket, however slow a request beside it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from coatcheck.stores.redis import RedisStore
from coatcheck.testing import a_record
from tests.servers.browser import Browser
from tests.servers.fixtures import Opener
from tests.servers.processes import eventually
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey
from tests.servers.web import WebServer
from tests.web.shop import shop

ACTS = ["/put?late=1", "/count", "/add/tea", "/careful?note=late"]


@pytest.fixture(scope="module")
def fleet(valkey: Valkey) -> Iterator[list[WebServer]]:
    """Two web server processes on one Valkey."""
    environment = {"SHOP_STORE": f"{valkey.url}?prefix=fleet:"}
    shop_process = "tests.web.shop:from_environment"
    with WebServer(shop_process, environment) as one, WebServer(shop_process, environment) as other:
        yield [one, other]


@pytest.mark.parametrize("act", ACTS)
async def test_a_slow_request_on_another_server_revives_nothing(
    fleet: list[WebServer], valkey: Valkey, act: str
) -> None:
    here, there = fleet
    async with Browser(here.url) as slow, Browser(there.url) as quick, Browser(here.url) as gatekeeper:
        await slow.post("/login?user=garimoo")
        quick.ticket = ticket = slow.ticket
        key = f"fleet:session:{slow.session_id}"
        gate = f"gate-{slow.session_id}"
        request = asyncio.create_task(slow.post(act, headers={"x-gate": gate}))
        async with asyncio.timeout(10):
            while gate not in (await gatekeeper.get("/waiting")).json():
                assert not request.done()
        assert (await quick.post("/logout")).status_code == 200
        assert valkey("EXISTS", key) == 0

        await gatekeeper.post(f"/gates/{gate}")
        answer = await request
        assert answer.status_code == 409
        assert "set-cookie" not in answer.headers
        assert valkey("EXISTS", key) == 0, "the session rose from the dead"
        for server in fleet:
            async with Browser(server.url, ticket=ticket) as revenant:
                assert (await revenant.get("/page")).json() == {}
    for server in fleet:
        assert "Traceback" not in server.log


@pytest.mark.parametrize("act", ACTS)
async def test_a_request_from_before_the_login_adds_nothing_after_it(open_sessions: Opener, act: str) -> None:
    """It was made with the old ticket, which whoever planted it may know."""
    here, there = shop(open_sessions()), shop(open_sessions())
    async with Browser(here) as slow, Browser(there) as quick:
        await slow.post("/put?anonymous=1")
        quick.ticket = old = slow.ticket
        request = asyncio.create_task(slow.post(act, headers={"x-gate": "slow"}))
        await eventually(lambda: here.state.waiting == ["slow"], "the slow request")
        await quick.post("/login?user=garimoo")
        here.state.gates["slow"].set()
        answer = await request
        assert answer.status_code == 409
        assert "set-cookie" not in answer.headers
        assert (await quick.get("/page")).json() == {"user": "garimoo"}
        async with Browser(there, ticket=old) as with_the_old_ticket:
            assert (await with_the_old_ticket.get("/page")).json() == {}


async def test_two_logouts_at_once_are_fine(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    async with Browser(app) as one, Browser(app) as other:
        await one.post("/login?user=garimoo")
        other.ticket = one.ticket
        answers = await asyncio.gather(one.post("/logout"), other.post("/logout"))
        assert {answer.status_code for answer in answers} == {200}


async def test_a_logout_whose_answer_was_lost_is_not_told_to_have_found_nobody(store: RedisStore, proxy: Proxy) -> None:
    new = a_record()
    await store.create(new)
    proxy.reset_counts()
    proxy.judge = lambda command: "cut after" if command.name == "UNLINK" and command.number < 2 else "pass"
    assert await store.delete(new.session_id)
    assert proxy.commands.count("UNLINK") == 2
    assert await store.read(new.session_id) is None
    assert not await store.delete(new.session_id), "an answer that came is believed"
