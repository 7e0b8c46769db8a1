"""R17 for synchronous stores: a crowd on threads shops while primaries are killed, frozen and replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coatcheck import open_sync_store
from coatcheck.testing.contract import _Threaded
from tests.promises.crowd import crowd
from tests.promises.test_r17_failover import OURS, WHOLE
from tests.servers.cluster import ClusterGroup
from tests.servers.sentinel import SentinelGroup


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """One for each of the crowd, and some."""
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_primary_that_is_gone_is_replaced_and_nobody_is_logged_out(
    sentinels: SentinelGroup, prefix: str, threads: Any, how: str
) -> None:
    asyncio.get_running_loop().set_default_executor(threads)
    store = _Threaded(open_sync_store(f"{sentinels.url}?prefix={prefix}&durability=replica"))
    async with crowd(store) as everybody:
        before = sentinels.primary
        before.kill() if how == "killed" else before.freeze()
        found = await everybody.served_once(lambda: sentinels.has_replaced(before))
        await everybody.go_on()
        sentinels.revive()
        await asyncio.to_thread(sentinels.wait)  # the old one comes back, and becomes a replica
        await everybody.go_on()
    await everybody.check(nothing_lost=True)
    assert found < OURS
    assert everybody.without_service < WHOLE
    await store.close()


async def test_a_node_that_is_killed_is_replaced_by_its_replica(
    cluster: ClusterGroup, prefix: str, threads: Any
) -> None:
    asyncio.get_running_loop().set_default_executor(threads)
    store = _Threaded(open_sync_store(f"{cluster.url}?prefix={prefix}&durability=replica"))
    async with crowd(store) as everybody:
        key = f"{prefix}session:{everybody.users[0].session.session_id}"
        before = cluster.primary_of(key)
        before.kill()
        found = await everybody.served_once(lambda: cluster.has_replaced(before, key))
        await everybody.go_on()
        cluster.revive()
        await asyncio.to_thread(cluster.wait)
        assert cluster.primary_of(key) is not before
        await everybody.go_on()
    await everybody.check(nothing_lost=True)
    assert found < OURS
    assert everybody.without_service < WHOLE
    await store.close()
