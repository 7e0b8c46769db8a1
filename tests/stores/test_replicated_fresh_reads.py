"""Peers of the all-to-all store of which one lags behind, and browsers that have seen more elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from coatcheck.changes import Applied, NewRecord, Renewal
from coatcheck.stores.replicated import ReplicatedStore, SyncReplicatedStore
from coatcheck.stores.replicated.cluster import MOST_INQUIRIES
from coatcheck.testing import a_commit, a_record
from tests.servers.clock import fair_time
from tests.servers.line import Line
from tests.servers.processes import LOOPBACK, free_port
from tests.stores.replicas import close_peers, url_for

LATE = 0.3
"""Seconds by which news are late on a slow line."""


class Peers:
    """So many peers, each behind a line of its own that all others reach it by."""

    def __init__(self, size: int, options: str) -> None:
        self._options = options
        self._ports = [free_port() for _ in range(size)]
        self.lines = [Line(port) for port in self._ports]
        self.stores: list[ReplicatedStore] = []
        self._stack = AsyncExitStack()

    def url(self, number: int) -> str:
        everybody = ",".join(line.address for line in self.lines)
        mine = f"me={self.lines[number].address}&listen={LOOPBACK}:{self._ports[number]}"
        return f"replicated://{everybody}?{mine}&{self._options}"

    async def __aenter__(self) -> Peers:
        for line in self.lines:
            await self._stack.enter_async_context(line)
        self.stores = [ReplicatedStore.from_url(self.url(number)) for number in range(len(self.lines))]
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in self.lines:  # or those that leave wait until the others have heard of it
            line.delay = 0
            await line.cut()
        await close_peers(self.stores)
        await self._stack.aclose()

    def hear_late(self) -> None:
        """From now on nobody confirms anything at once."""
        for line in self.lines:
            line.delay = 0.1

    async def ready(self) -> None:
        assert all(await asyncio.gather(*(store.ready(timeout=15) for store in self.stores)))
        async with asyncio.timeout(15):  # and in step, so that all are waited for
            while any(store.figures["live"] < len(self.stores) - 1 for store in self.stores):
                await asyncio.sleep(0.01)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done in it takes no longer."""
    began = fair_time()
    yield
    assert fair_time() - began < seconds


async def update(store: ReplicatedStore, new: NewRecord, seen: str, **but: Any) -> str:
    """A commit of a browser with this token. Gives the one that it is to hold then."""
    return (await store.update(new.session_id, a_commit(new, seen=seen, **but), timeout=5)).seen


# --- what is late is waited for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", ["none", "majority"])
async def test_a_browser_that_goes_to_and_fro_finds_its_cart_as_it_left_it(stack: AsyncExitStack, ack: str) -> None:
    peers = await stack.enter_async_context(Peers(3, f"ack={ack}&silence=15&catch_up=10"))
    quick, slow = peers.stores[0], peers.stores[2]
    peers.lines[2].delay = LATE
    new = a_record()
    seen = (await quick.create(new, timeout=5)).seen
    assert await slow.read(new.session_id) is None, "or nothing is late"
    assert (await slow.read_fresh(new.session_id, seen)).record is not None
    stale = 0
    for number in range(1, 9):
        here, there = (quick, slow) if number % 2 else (slow, quick)
        seen = await update(here, new, seen, increments={"cart[tea]": 1})
        without = await there.read(new.session_id)
        stale += without is not None and without.fields.get("cart[tea]", "0") != str(number)
        found = await there.read_fresh(new.session_id, seen)
        assert (found.lag, found.seen) == ("", None)
        assert found.record is not None
        assert found.record.fields["cart[tea]"] == str(number)
    assert stale, "or the token has no part in it"


async def test_what_everybody_has_confirmed_needs_no_token(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=15"))
    new = a_record()
    here, there = peers.stores
    seen = [(await here.create(new)).seen]
    seen += [await update(store, new, "", increments={"hits": 1}) for store in (here, there, here)]
    assert seen == [""] * 4
    await peers.stores[1].close()
    assert await update(here, new, "", increments={"hits": 1}), "whoever was away may serve before it has caught up"


async def test_a_touch_hands_out_no_other_token(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=15&ack=none&catch_up=10"))
    peers.hear_late()
    new = a_record()
    seen = (await peers.stores[0].create(new)).seen
    for store in peers.stores:
        await store.read_fresh(new.session_id, seen)
        assert await update(store, new, "", increments={"hits": 1}) != "", (
            "another browser's, which this one has not seen"
        )
        assert await update(store, new, seen, operation="") == seen


async def test_a_login_that_a_slow_server_has_not_heard_of_opens_the_session_there(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=15&ack=none&catch_up=10"))
    here, there = peers.stores
    new = a_record()
    seen = (await here.create(new)).seen
    await there.read_fresh(new.session_id, seen)
    peers.lines[1].delay = LATE
    login = asyncio.create_task(
        here.update(new.session_id, a_commit(new, seen=seen, renewal=Renewal(secret_hash="n" * 44)), timeout=5)
    )
    seen = (await login).seen
    found = await there.read_fresh(new.session_id, seen)
    assert found.record is not None
    assert found.record.secret_hash == "n" * 44


async def test_news_that_come_before_any_answer_will_do(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=15&ack=none&catch_up=10"))
    here, there = peers.stores
    new = a_record()
    seen = (await here.create(new)).seen
    await there.read_fresh(new.session_id, seen)
    peers.lines[1].delay = 2
    seen = await update(here, new, seen, increments={"hits": 1})
    await asyncio.sleep(1.5)
    with within(1.5):  # an answer needs two seconds from now on
        found = await there.read_fresh(new.session_id, seen, timeout=10)
    assert found.record is not None
    assert found.record.fields == {"hits": "1"}


async def test_for_threads_too() -> None:
    url = url_for(2, "silence=15&ack=none&catch_up=10")
    stores = [SyncReplicatedStore.from_url(url) for _ in range(2)]

    def to_and_fro() -> None:
        new = a_record()
        seen = stores[0].create(new).seen
        for number in range(1, 41):
            here, there = stores[number % 2], stores[1 - number % 2]
            assert here.read_fresh(new.session_id, seen).record is not None
            seen = here.update(new.session_id, a_commit(new, seen=seen, increments={"hits": 1})).seen
            record = there.read_fresh(new.session_id, seen).record
            assert record is not None
            assert record.fields["hits"] == str(number)
        assert stores[0].read_fresh(new.session_id, "nonsense").seen == ""

    starting = [asyncio.to_thread(store.ready, timeout=15) for store in stores]
    try:
        assert all(await asyncio.gather(*starting))
        await asyncio.to_thread(to_and_fro)
    finally:
        for store in stores:
            await asyncio.to_thread(store.close)


# --- what does not come ----------------------------------------------------------------------------------------------------


async def test_the_wait_has_an_end_and_the_old_cart_is_shown(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=30&ack=none&catch_up=1"))
    here, there = peers.stores
    new = a_record(fields={"cart[tea]": "1"})
    seen = (await here.create(new)).seen
    assert (await there.read_fresh(new.session_id, seen)).lag == ""
    peers.lines[1].delay = 20
    seen = await update(here, new, seen, increments={"cart[tea]": 1})
    for timeout, most in ((None, 1.0), (0.1, 0.1)):
        began = monotonic()
        with within(most + 0.5):
            found = await there.read_fresh(new.session_id, seen, timeout=timeout)
        assert monotonic() - began >= most * 0.9, "what may still come is waited for"
        assert found.record is not None
        assert (found.lag, found.seen, found.record.fields["cart[tea]"]) == ("late", None, "1")
    assert there.figures["stale"] == 2
    seen = await update(there, new, seen, increments={"cart[cups]": 1})
    found = await here.read_fresh(new.session_id, seen)
    assert found.record is not None
    assert found.record.fields == {"cart[tea]": "2", "cart[cups]": "1"}, "what was late is not forgotten"


async def test_what_died_with_its_server_is_given_up_when_all_others_have_been_asked(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(3, "silence=1&ack=none&catch_up=10"))
    doomed, *others = peers.stores
    new = a_record(fields={"cart[tea]": "1"})
    first = (await doomed.create(new)).seen
    for store in others:
        assert (await store.read_fresh(new.session_id, first)).lag == ""
    peers.lines[1].delay = peers.lines[2].delay = 20
    seen = await update(doomed, new, first, increments={"cart[tea]": 1})
    await doomed.close()
    for line in peers.lines:  # what it had told is lost on the way
        await line.cut()
        line.delay = 0

    async with asyncio.timeout(15):
        while any(store.figures["live"] != 1 for store in others):
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # nothing has been heard of it for longer than `silence`
    with within(1):
        found = await others[0].read_fresh(new.session_id, seen, timeout=10)
    assert found.record is not None
    assert (found.lag, found.seen, found.record.fields) == ("late", None, {"cart[tea]": "1"}), "it may only be cut off"

    peers.stores[0] = ReplicatedStore.from_url(peers.url(0))
    await peers.ready()
    with within(1):
        found = await others[0].read_fresh(new.session_id, seen, timeout=10)
    assert found.record is not None
    assert (found.lag, found.record.fields) == ("rolled back", {"cart[tea]": "1"})
    assert others[0].figures["rolled_back"] == 1
    assert found.seen is not None
    for store in peers.stores:
        again = await store.read_fresh(new.session_id, found.seen)
        assert (again.lag, again.seen) == ("", None), "nobody waits for it again"
    assert await update(others[1], new, found.seen, increments={"cart[tea]": 1}) != seen


async def test_a_token_from_before_all_servers_started_again_costs_an_answer_and_no_wait(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=1&ack=none&catch_up=10"))
    new = a_record()
    seen = (await peers.stores[0].create(new)).seen
    seen = await update(peers.stores[0], new, seen, increments={"hits": 1})
    await close_peers(peers.stores)
    peers.stores = [ReplicatedStore.from_url(peers.url(number)) for number in range(2)]
    await peers.ready()
    with within(1):
        found = await peers.stores[1].read_fresh(new.session_id, seen)
    assert (found.record, found.seen) == (None, None)
    other = a_record()
    await peers.stores[1].create(other)
    with within(1):
        found = await peers.stores[0].read_fresh(other.session_id, seen, timeout=10)
    assert found.record is not None, "nor does it end another session"


async def test_a_session_that_was_ended_stays_so_whatever_token_is_shown(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=15&ack=none&catch_up=10"))
    here, there = peers.stores
    new = a_record()
    seen = await update(here, new, (await here.create(new)).seen, increments={"hits": 1})
    await here.delete(new.session_id)
    for store in peers.stores:
        for token in (seen, "fffff~AAAAAAAA.9~AAAAAAAA"):
            with within(1):
                assert (await store.read_fresh(new.session_id, token)).record is None
    assert here.figures["asked"] == there.figures["asked"] == 0


# --- what was made up ------------------------------------------------------------------------------------------------------


async def test_made_up_tokens_cost_one_answer_of_the_others_each(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(3, "silence=15&ack=none&catch_up=10"))
    peers.hear_late()
    new, another = a_record(fields={"a": "1"}), a_record()
    await peers.stores[0].create(another)
    others = ""
    for _ in range(5):
        others = await update(peers.stores[0], another, "", increments={"hits": 1})
    await peers.stores[0].create(new)
    seen = await update(peers.stores[0], new, "", increments={"hits": 1})
    generation = seen.partition(".")[0]
    store = peers.stores[1]
    assert (await store.read_fresh(new.session_id, seen)).lag == ""
    for forged in (
        "nonsense", "", "~", "x" * 200,
        others,
        f"{seen}.ffffffff~AAAAAAAA",
        ".".join([generation, *(f"ffffffff~{n:08}" for n in range(8))]),
        ".".join([generation, *(f"ffffffff~{n:08}" for n in range(16))]),
        "fffffffffffff~zzzzzzzz.1~zzzzzzzz",
    ):  # fmt: skip
        with within(1):
            found = await store.read_fresh(new.session_id, forged, timeout=10)
        assert found.record is not None
        assert (found.record.fields, found.lag in ("", "rolled back")) == ({"a": "1", "hits": "1"}, True)
        if found.seen is not None:
            assert (await store.read_fresh(new.session_id, found.seen)).lag == "", "the new one is good"
    stranger = a_record()
    assert (await store.read_fresh(stranger.session_id, seen)).record is None
    assert await store.read(stranger.session_id) is None


async def test_a_flood_of_made_up_tokens_while_a_peer_hangs_delays_nobody_else(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=30&ack=none&catch_up=0.5"))
    store = peers.stores[0]
    new = a_record()
    await store.create(new)
    peers.lines[1].delay = 30  # it hears of no question
    flood = [
        asyncio.create_task(store.read_fresh(new.session_id, f"fffffffffffff~zzzzzzzz.{number + 1:x}~zzzzzzzz"))
        for number in range(4 * MOST_INQUIRIES)
    ]
    await asyncio.sleep(0)
    with within(0.3):
        assert await store.read(new.session_id) is not None
        applied = await store.update(new.session_id, a_commit(new, increments={"hits": 1}))
    assert isinstance(applied, Applied)
    with within(2):
        found = await asyncio.gather(*flood)
    assert {each.lag for each in found} == {"late"}
    assert store.figures["asked"] == MOST_INQUIRIES, "more questions than that are not asked at once"
    began = monotonic()
    assert (await store.read_fresh(new.session_id, "fffffffffffff~zzzzzzzz")).lag == "late"
    assert monotonic() - began > 0.4, "whoever is cancelled, or has been answered, asks no more"


async def test_questions_that_are_cancelled_leave_nothing_behind(stack: AsyncExitStack) -> None:
    peers = await stack.enter_async_context(Peers(2, "silence=30&ack=none&catch_up=20"))
    store = peers.stores[0]
    new = a_record()
    await store.create(new)
    peers.lines[1].delay = 30
    for _ in range(3):
        asking = [
            asyncio.create_task(store.read_fresh(new.session_id, "fffffffffffff~zzzzzzzz", timeout=20))
            for _ in range(MOST_INQUIRIES)
        ]
        await asyncio.sleep(0.05)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert store.figures["asked"] == 3 * MOST_INQUIRIES
