"""R4: down is not absent is not corrupt. (What the user sees of it is told in `tests/web/test_store_down.py`.)"""

from __future__ import annotations

import asyncio
import random

import pytest

from coatcheck.errors import CoatcheckError, CorruptRecord, OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import a_commit, a_record
from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.valkey import DURABLE, Valkey
from tests.web.shop import shop


async def when_up(store: RedisStore, session_id: str) -> Record | None:
    """The first answer that is not "down"."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await store.read(session_id)
            except StoreUnavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_store_that_is_down_says_so_and_nothing_about_the_session(open_store: URLOpener, how: str) -> None:
    with Valkey(*DURABLE) as valkey:
        store = open_store(f"{valkey.url}?timeout=0.5")
        live, unknown, corrupt = a_record(owner="me"), a_record(), a_record()
        await store.create(live)
        await store.update(live.session_id, a_commit(live, sets={"a": "1"}))
        valkey("SET", f"coatcheck:session:{corrupt.session_id}", "nonsense")
        assert await store.read(unknown.session_id) is None
        with pytest.raises(SessionGone):
            await store.update(unknown.session_id, a_commit(unknown, sets={"a": "1"}))
        with pytest.raises(CorruptRecord):
            await store.read(corrupt.session_id)

        valkey.kill() if how == "killed" else valkey.freeze()
        for record in (live, unknown, corrupt):
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await store.read(record.session_id)
                with pytest.raises(StoreUnavailable):
                    await store.update(record.session_id, a_commit(record, sets={"b": "2"}))
                with pytest.raises(StoreUnavailable):
                    await store.delete(record.session_id)
                with pytest.raises(StoreUnavailable):
                    await store.create(a_record())
                with pytest.raises(StoreUnavailable):
                    await store.sessions_of("me")
        valkey.start() if how == "killed" else valkey.thaw()

        if how == "killed":  # a frozen one may yet do what it was told: that is what OutcomeUnknown says
            found = await when_up(store, live.session_id)
            assert found is not None
            assert found.fields == {"a": "1"}
        assert await when_up(store, unknown.session_id) is None


async def test_through_a_storm_of_kills_nobody_is_logged_out(open_store: URLOpener) -> None:
    """Users go on shopping while their store is killed again and again: 200 with their own data, or 503, nothing else."""
    with Valkey(*DURABLE) as valkey:
        app = shop(open_store(valkey.url))
        chance = random.Random(4)
        over = False
        seen: dict[int, int] = {}

        async def user(number: int) -> None:
            async with Browser(app) as visitor:
                await visitor.post(f"/login?user={number}")
                ticket = visitor.ticket
                while not over:
                    answer = await (visitor.get("/page") if chance.random() < 0.5 else visitor.post("/count"))
                    seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                    assert answer.status_code in (200, 503)
                    assert "set-cookie" not in answer.headers
                    if answer.headers["content-type"] == "application/json":
                        assert answer.json()["user"] == str(number)
                    if answer.status_code == 503:
                        assert "retry-after" in answer.headers
                        await asyncio.sleep(0.02)
                page = await visitor.get_when_up("/page")
                assert page.json()["user"] == str(number)
                assert visitor.ticket == ticket

        users = [asyncio.create_task(user(number)) for number in range(10)]
        for _ in range(3):
            goal = seen.get(200, 0) + 200
            async with asyncio.timeout(20):
                while seen.get(200, 0) < goal:
                    await asyncio.sleep(0.005)
                    for done in (one for one in users if one.done()):
                        done.result()
            valkey.kill()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(valkey.start)
        over = True
        await asyncio.gather(*users)
        assert seen[503] > 0


async def test_an_unknown_outcome_is_down_too(open_store: URLOpener, own_valkey: Valkey) -> None:
    store = open_store(f"{own_valkey.url}?timeout=0.3")
    new = a_record()
    await store.create(new)
    own_valkey.freeze()
    with pytest.raises(OutcomeUnknown) as unknown:
        await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    own_valkey.thaw()
    assert isinstance(unknown.value, StoreUnavailable)
    assert isinstance(unknown.value, CoatcheckError)
    assert unknown.value.retry_after >= 1
