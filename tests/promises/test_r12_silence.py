"""R12 where there are several servers: they all fall silent, and nobody waits for them who need not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

import pytest

from coatcheck import open_sync_store
from coatcheck.errors import OutcomeUnknown, StoreUnavailable
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import a_commit, a_record
from tests.servers.clock import fair_time
from tests.servers.cluster import ClusterGroup
from tests.servers.processes import eventually
from tests.servers.sentinel import SentinelGroup

pytestmark = pytest.mark.alone

DEADLINE = 0.25
"""Seconds that a request waits for its store, at most."""

AT_ONCE = DEADLINE / 4
"""Seconds, and less, for a request that does not wait; on a machine that has other work too."""

KNOWN = 1.5
"""Seconds after which it is known that all are down, at the latest."""

RATE = 100
"""Requests a second, whatever becomes of those before."""


class Visit(NamedTuple):
    came: float
    """On `time.monotonic`."""
    took: float
    trouble: str
    """What was said instead of an answer."""


Look: TypeAlias = Callable[[int], Coroutine[Any, Any, Visit]]
"""Reads one of a few sessions, or commits to it: they are on all nodes of a cluster."""


@asynccontextmanager
async def looking(kind: str, url: str) -> AsyncIterator[Look]:
    """Where commits wait for a replica it is those that are looked at, since they go another way than reading does."""
    sessions = [a_record() for _ in range(16)]
    commits = "durability=replica" in url
    if kind == "async":
        store = RedisStore.from_url(url)
        for session in sessions:
            await store.create(session)

        async def look(number: int) -> Visit:
            came, began = monotonic(), fair_time()
            trouble = ""
            session = sessions[number % 16]
            try:
                if commits:
                    await store.update(session.session_id, a_commit(session), timeout=DEADLINE)
                else:
                    assert await store.read(session.session_id, timeout=DEADLINE) is not None
            except (StoreUnavailable, OutcomeUnknown) as down:
                trouble = str(down)
            return Visit(came, fair_time() - began, trouble)

        yield look
        await store.close()
        return

    blocking = open_sync_store(url)

    def look_from_thread(number: int) -> Visit:
        came, began = monotonic(), fair_time()
        trouble = ""
        session = sessions[number % 16]
        try:
            if commits:
                blocking.update(session.session_id, a_commit(session), timeout=DEADLINE)
            else:
                assert blocking.read(session.session_id, timeout=DEADLINE) is not None
        except (StoreUnavailable, OutcomeUnknown) as down:
            trouble = str(down)
        return Visit(came, fair_time() - began, trouble)

    with ThreadPoolExecutor(64) as threads:
        for made in [threads.submit(blocking.create, session) for session in sessions]:
            await asyncio.wrap_future(made)
        loop = asyncio.get_running_loop()

        async def look(number: int) -> Visit:
            return await loop.run_in_executor(threads, look_from_thread, number)

        yield look
    blocking.close()


@asynccontextmanager
async def traffic(look: Look) -> AsyncIterator[list[Visit]]:
    """Requests at a steady rate; what became of them is added to the list."""
    visits: list[Visit] = []
    over = asyncio.Event()

    async def request(number: int) -> None:
        visits.append(await look(number))

    async def everybody() -> None:
        async with asyncio.TaskGroup() as requests:
            for number in count():
                if over.is_set():
                    return
                requests.create_task(request(number))
                await asyncio.sleep(1 / RATE)

    going = asyncio.create_task(everybody())
    try:
        yield visits
    finally:
        over.set()
        await going


@pytest.mark.parametrize("kind", ["async", "threads"])
@pytest.mark.parametrize(
    ("servers", "durability"), [("sentinels", "primary"), ("cluster", "primary"), ("cluster", "replica")]
)
async def test_when_all_fall_silent_requests_fail_at_once_until_they_are_back(
    request: pytest.FixtureRequest, prefix: str, kind: str, servers: str, durability: str
) -> None:
    group: SentinelGroup | ClusterGroup = request.getfixturevalue(servers)
    async with looking(kind, f"{group.url}?prefix={prefix}&durability={durability}") as look, traffic(look) as visits:
        await asyncio.sleep(0.5)
        assert not any(visit.trouble for visit in visits)
        group.freeze()
        frozen = monotonic()
        try:
            await asyncio.sleep(KNOWN + 4.0)
        finally:
            group.revive()
        thawed = monotonic()
        await asyncio.to_thread(group.wait)
        settled = monotonic()
        await eventually(lambda: not any(visit.trouble for visit in visits[-RATE // 2 :]), "all to be served", 5)
    known = [visit for visit in visits if frozen + KNOWN < visit.came < thawed - DEADLINE]
    waited = [visit for visit in known if visit.took > AT_ONCE]
    last = max(visit.came for visit in visits if visit.trouble)
    print(
        f"\n  {1 - len(waited) / len(known):.1%} of {len(known)} failed at once, {len(waited) / 3.75:.1f} a second waited;"
        f" settled after {settled - thawed:.2f} s, the last failed after {last - thawed:.2f} s"
    )
    assert all(visit.trouble for visit in known)
    assert len(waited) <= 0.1 * len(known)
    assert any("it is down, and is being tried again" in visit.trouble for visit in known)
    assert last < settled + 2.0
