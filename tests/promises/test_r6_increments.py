"""R6: an increment is applied exactly once, or reported as unknown; never twice, and never lost once acknowledged."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from coatcheck.changes import Renewal
from coatcheck.errors import OutcomeUnknown, StoreUnavailable
from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import a_commit, a_record
from tests.promises.storm import STORM
from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.proxy import Action, Command, Proxy
from tests.servers.valkey import DURABLE, Valkey
from tests.web.shop import shop


@dataclass
class Tally:
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0

    async def count(self, store: AsyncStore, session: tuple[str, str]) -> None:
        """One increment, as a request does it: read, commit."""
        session_id, proof = session
        try:
            record = await store.read(session_id)
            assert record is not None
            new = a_record(session_id=session_id, secret_hash=proof)
            await store.update(session_id, a_commit(new, increments={"hits": 1}, read_version=record.version))
            self.acknowledged += 1
        except OutcomeUnknown:
            self.unknown += 1
        except StoreUnavailable:
            self.refused += 1
            await asyncio.sleep(0.02)


async def hits(store: AsyncStore, session_id: str) -> int:
    """What has been counted, as soon as the store is up."""
    async with asyncio.timeout(15):
        while True:
            try:
                record = await store.read(session_id)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.02)
    assert record is not None
    assert record.version - 1 == int(record.fields["hits"])
    return int(record.fields["hits"])


async def test_an_answer_that_is_lost_is_asked_for_again_and_the_increment_counts_once(
    store: RedisStore, proxy: Proxy
) -> None:
    new = a_record(fields={"hits": "0"})
    await store.create(new)
    await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    for number in range(5):
        proxy.reset_counts()
        proxy.judge = lambda command: "cut after" if command.number == 0 else "pass"
        applied = await store.update(new.session_id, a_commit(new, increments={"hits": 1}, read_version=number + 2))
        assert applied.counters == {"hits": number + 2}
    assert await hits(store, new.session_id) == 6


async def test_a_command_that_is_lost_is_sent_again(store: RedisStore, proxy: Proxy) -> None:
    new = a_record(fields={"hits": "0"})
    await store.create(new)
    await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    proxy.reset_counts()
    proxy.judge = lambda command: "cut before" if command.number == 0 else "pass"
    assert (await store.update(new.session_id, a_commit(new, increments={"hits": 1}, read_version=2))).version == 3
    assert await hits(store, new.session_id) == 2


async def test_an_answer_that_is_lost_again_and_again_is_reported_as_unknown(store: RedisStore, proxy: Proxy) -> None:
    new = a_record(fields={"hits": "0"})
    await store.create(new)
    await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    proxy.judge = lambda command: "cut after"
    with pytest.raises(OutcomeUnknown, match="may or may not have been saved, but not twice"):
        await store.update(new.session_id, a_commit(new, increments={"hits": 1}, read_version=2))
    proxy.judge = lambda command: "pass"
    assert await hits(store, new.session_id) == 2, "it was applied, once"


async def test_a_new_session_whose_answer_is_lost_is_made_once(store: RedisStore, proxy: Proxy) -> None:
    await store.create(a_record())
    proxy.reset_counts()
    proxy.judge = lambda command: "cut after" if command.number == 0 else "pass"
    new = a_record(fields={"hits": "0"})
    assert (await store.create(new)).version == 1
    assert await hits(store, new.session_id) == 0


async def test_a_renewal_whose_answer_is_lost_is_not_lost(store: RedisStore, proxy: Proxy) -> None:
    """Else the store would wait for a secret that nobody was ever given."""
    new = a_record()
    await store.create(new)
    await store.update(new.session_id, a_commit(new))
    proxy.reset_counts()
    proxy.judge = lambda command: "cut after" if command.number == 0 else "pass"
    renewal = Renewal(secret_hash="f" * 64, grace_ms=60_000, replaces=new.secret_hash)
    assert (await store.update(new.session_id, a_commit(new, operation="", renewal=renewal))).renewed
    record = await store.read(new.session_id)
    assert record is not None
    assert (record.secret_hash, record.previous_hash) == ("f" * 64, new.secret_hash)


async def test_the_user_is_told_when_it_is_not_known(open_store: URLOpener, proxy: Proxy, prefix: str) -> None:
    async with Browser(shop(open_store(f"{proxy.url}?prefix={prefix}"))) as visitor:
        await visitor.post("/put?a=1")
        await visitor.post("/count")
        proxy.judge = lambda command: "cut after" if command.name.startswith("EVAL") else "pass"
        response = await visitor.post("/count")
        assert (response.status_code, "not known" in response.text) == (503, True)
        proxy.judge = lambda command: "pass"
        assert (await visitor.get_when_up("/page")).json() == {"a": "1", "count": 2}


async def test_through_a_storm_of_broken_connections_no_increment_counts_twice(
    valkey: Valkey, proxy: Proxy, prefix: str, open_store: URLOpener
) -> None:
    """Several clients; a proxy that breaks connections before and after the server has done what it was told."""
    chance = random.Random(6)

    def judge(command: Command) -> Action:
        if command.name != "EVALSHA":
            return "pass"
        return chance.choices(("pass", "cut after", "cut before"), (94, 4, 2))[0]

    stores = [open_store(f"{proxy.url}?prefix={prefix}&timeout=5") for _ in range(4)]
    new = a_record(fields={"hits": "0"})
    await stores[0].create(new)
    proxy.judge = judge
    tally = Tally()

    async def worker(store: RedisStore) -> None:
        for _ in range(STORM // 100):
            await tally.count(store, (new.session_id, new.secret_hash))

    async def cutter() -> None:
        while True:
            await asyncio.sleep(chance.random() * 0.2)
            proxy.cut()

    cutting = asyncio.create_task(cutter())
    await asyncio.gather(*(worker(store) for store in stores for _ in range(4)))
    cutting.cancel()
    proxy.judge = lambda command: "pass"
    final = await hits(open_store(f"{valkey.url}?prefix={prefix}"), new.session_id)
    assert tally.acknowledged > STORM // 20, tally
    assert tally.acknowledged <= final <= tally.acknowledged + tally.unknown, tally


async def test_a_killed_server_that_writes_to_disk_loses_no_acknowledged_increment(open_store: URLOpener) -> None:
    with Valkey(*DURABLE) as valkey:
        stores = [open_store(f"{valkey.url}?timeout=2") for _ in range(3)]
        new = a_record(fields={"hits": "0"})
        await stores[0].create(new)
        tally = Tally()
        over = False

        async def worker(store: RedisStore) -> None:
            while not over:
                await tally.count(store, (new.session_id, new.secret_hash))

        workers = [asyncio.create_task(worker(store)) for store in stores for _ in range(4)]
        chance = random.Random(7)
        for _ in range(4):
            goal = tally.acknowledged + chance.randrange(20, 100)
            async with asyncio.timeout(15):
                while tally.acknowledged < goal:
                    await asyncio.sleep(0.001)
            valkey.kill()
            await asyncio.sleep(chance.random() * 0.1)
            await asyncio.to_thread(valkey.start)
        over = True
        await asyncio.gather(*workers)
        final = await hits(open_store(valkey.url), new.session_id)
        assert tally.unknown + tally.refused > 0
        assert tally.acknowledged <= final <= tally.acknowledged + tally.unknown, tally
        assert valkey("PTTL", f"coatcheck:session:{new.session_id}") > 0
