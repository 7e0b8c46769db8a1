"""R17: failover is followed. A crowd shops while primaries are killed, frozen and replaced, and slots move."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from coatcheck.stores.redis import cluster as cluster_module
from coatcheck.stores.redis import sentinel as sentinel_module
from coatcheck.stores.redis.topology import Refused
from coatcheck.stores.redis.transport import ErrorReply
from tests.promises.crowd import Crowd, User, crowd
from tests.servers.cluster import ClusterGroup
from tests.servers.fixtures import URLOpener
from tests.servers.oracle import Oracle
from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.sentinel import QUICK, SentinelGroup
from tests.servers.valkey import Valkey

OURS = 2
"""Seconds at most from the moment when another primary takes writes until all users are served again."""

WHOLE = 60
"""Seconds at most without service. Most of it is the servers' own: on a busy machine they elect again and again."""


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often servers refused, by the code of what they said."""
    count: Counter[str] = Counter()

    class Counted(Refused):
        def __init__(self, reply: ErrorReply) -> None:
            super().__init__(reply)
            count[self.code] += 1

    monkeypatch.setattr(cluster_module, "Refused", Counted)
    monkeypatch.setattr(sentinel_module, "Refused", Counted)
    return count


@pytest.fixture
def report() -> Callable[..., None]:
    def tell(everybody: Crowd, count: Counter[str], found: float = 0.0) -> None:
        print(f"\n  {everybody.without_service:.2f} s without service, {found:.2f} of it ours; commits: {dict(count)}")

    return tell


# --- Sentinel ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["primary", "replica"])
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_primary_that_is_gone_is_replaced_and_nobody_is_logged_out(
    sentinels: SentinelGroup, prefix: str, open_store: URLOpener, report: Any, how: str, durability: str
) -> None:
    store = open_store(f"{sentinels.url}?prefix={prefix}&durability={durability}")
    async with crowd(store) as everybody:
        before = sentinels.primary
        before.kill() if how == "killed" else before.freeze()
        found = await everybody.served_once(lambda: sentinels.has_replaced(before))
        await everybody.go_on()
        sentinels.revive()
        await asyncio.to_thread(sentinels.wait)  # the old one comes back, and becomes a replica
        assert before in sentinels.replicas
        await everybody.go_on()
    report(everybody, await everybody.check(nothing_lost=durability == "replica"), found)
    assert found < OURS
    assert everybody.without_service < WHOLE


async def test_what_no_replica_has_is_not_acknowledged(open_store: URLOpener, report: Any) -> None:
    """R5: the replica loses the primary from sight, and just then the primary dies, and the replica is promoted."""
    with Valkey(*QUICK) as primary, Valkey(*QUICK, "--replicaof", f"{LOOPBACK} {primary.port}") as replica:
        wait_until(lambda: replica("ROLE")[3] == b"connected", "the replica to be in step")
        async with Oracle(primary) as oracle:
            store = open_store(f"redis+sentinel://{LOOPBACK}:{oracle.port}/shop?durability=replica")
            async with crowd(store) as everybody:
                await everybody.go_on(20)
                replica("REPLICAOF", LOOPBACK, 1)
                await asyncio.sleep(0.4)
                primary.kill()
                replica("REPLICAOF", "NO", "ONE")
                oracle.names, oracle.epoch = replica, 1
                await everybody.go_on()
            count = await everybody.check(nothing_lost=True)
    report(everybody, count)
    assert count["unknown"] > 0


@pytest.mark.parametrize("how", ["", "COORDINATED"])
async def test_a_planned_change_of_the_primary(
    sentinels: SentinelGroup, prefix: str, open_store: URLOpener, report: Any, how: str
) -> None:
    store = open_store(f"{sentinels.url}?prefix={prefix}")
    async with crowd(store) as everybody:
        before = sentinels.primary
        sentinels.fail_over(how)
        await everybody.until(lambda: sentinels.primary is not before)
        await everybody.go_on()
        await asyncio.to_thread(sentinels.wait)
        await everybody.go_on()
    count = await everybody.check(nothing_lost=how == "COORDINATED")
    report(everybody, count)
    # Sentinel lets the old primary go on for seconds; what it was told until we noticed is lost.
    assert count["lost"] < everybody.commits_in(2)
    assert everybody.without_service < 4


# --- Cluster -------------------------------------------------------------------------------------------------------------


def key_of(prefix: str, user: User) -> str:
    return f"{prefix}session:{user.session.session_id}"


@pytest.mark.parametrize("durability", ["primary", "replica"])
async def test_a_node_that_is_killed_is_replaced_by_its_replica(
    cluster: ClusterGroup, prefix: str, open_store: URLOpener, report: Any, durability: str
) -> None:
    store = open_store(f"{cluster.url}?prefix={prefix}&durability={durability}")
    async with crowd(store) as everybody:
        key = key_of(prefix, everybody.users[0])
        before = cluster.primary_of(key)
        before.kill()
        found = await everybody.served_once(lambda: cluster.has_replaced(before, key))
        await everybody.go_on()
        cluster.revive()
        await asyncio.to_thread(cluster.wait)
        assert cluster.primary_of(key) is not before
        await everybody.go_on()
    report(everybody, await everybody.check(nothing_lost=durability == "replica"), found)
    assert found < OURS
    assert everybody.without_service < WHOLE


async def test_a_replica_takes_over_as_planned(
    cluster: ClusterGroup, prefix: str, open_store: URLOpener, report: Any, refusals: Counter[str]
) -> None:
    store = open_store(f"{cluster.url}?prefix={prefix}")
    async with crowd(store) as everybody:
        key = key_of(prefix, everybody.users[0])
        before = cluster.primary_of(key)
        after = cluster.replica_of(before)
        after("CLUSTER", "FAILOVER")
        await everybody.until(lambda: cluster.primary_of(key) is after)
        await everybody.go_on()
    report(everybody, await everybody.check(nothing_lost=True))
    assert refusals["MOVED"] > 0
    assert everybody.without_service < 2


async def test_slots_that_move_under_load(
    cluster: ClusterGroup, prefix: str, open_store: URLOpener, report: Any, refusals: Counter[str]
) -> None:
    store = open_store(f"{cluster.url}?prefix={prefix}")
    async with crowd(store) as everybody:
        for number, user in enumerate(everybody.users[:6]):
            key = key_of(prefix, user)
            source = cluster.primary_of(key)
            target = next(node for node in cluster.primaries if node is not source)
            pause = 0.4 if number < 2 else 0.05  # longer than a request may take, and shorter
            await asyncio.to_thread(cluster.move, key_slot(key.encode()), source, target, pause=pause)
            assert cluster.primary_of(key) is target
        await everybody.go_on()
    report(everybody, await everybody.check(nothing_lost=True))
    assert sum(user.down for user in everybody.users) == 0
    assert refusals["ASK"] >= 6, refusals
    assert refusals["MOVED"] >= 3, refusals
    assert everybody.without_service < 1
