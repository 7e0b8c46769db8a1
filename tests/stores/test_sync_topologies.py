"""Sentinel and Cluster for synchronous applications: the contract, over the same topologies as for asynchronous ones."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from coatcheck import open_sync_store
from coatcheck.changes import Applied, NewRecord
from coatcheck.errors import OutcomeUnknown, StoreUnavailable
from coatcheck.stores.interface import SyncStore
from coatcheck.stores.redis import SyncRedisStore
from coatcheck.testing import SyncStoreContract, a_commit, a_record
from tests.servers.clock import fair_time
from tests.servers.cluster import ClusterGroup
from tests.servers.processes import LOOPBACK, wait_until
from tests.servers.sentinel import QUICK, SentinelGroup
from tests.servers.valkey import Valkey
from tests.stores.test_topologies import Contract as AsyncContract


class Contract(SyncStoreContract):
    __test__ = False
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]  # the commands are those of one server
    url: str
    corruptions = AsyncContract.corruptions

    @pytest.fixture(autouse=True)
    def name(self, prefix: str) -> None:
        self.prefix = prefix

    def primary_of(self, key: str) -> Valkey:
        raise NotImplementedError

    def open_store(self) -> SyncStore:
        return open_sync_store(f"{self.url}?prefix={self.prefix}&timeout=10")


class TestSentinel(Contract):
    __test__ = True

    @pytest.fixture(autouse=True)
    def take(self, sentinels: SentinelGroup) -> None:
        self.url = sentinels.url
        self.primary_of = lambda key: sentinels.primary  # type: ignore[method-assign]


class TestCluster(Contract):
    __test__ = True

    @pytest.fixture(autouse=True)
    def take(self, cluster: ClusterGroup) -> None:
        self.url = cluster.url.replace("redis", "valkey", 1)
        self.primary_of = cluster.primary_of  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_finds_the_servers_by_itself(sentinels: SentinelGroup, prefix: str) -> None:
    store: Any = open_sync_store(f"{sentinels.url}?prefix={prefix}")
    new = a_record()
    store.create(new)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if store.read(new.session_id) is not None else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert store.read(new.session_id) is not None
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.read(new.session_id)


def test_a_commit_that_no_replica_confirms_is_unknown_and_nobody_who_reads_waits_for_it(prefix: str) -> None:
    with Valkey(*QUICK) as primary, Valkey(*QUICK, "--replicaof", f"{LOOPBACK} {primary.port}") as replica:
        wait_until(lambda: replica("ROLE")[3] == b"connected", "the replica to be in step")
        store = SyncRedisStore.from_url(f"{primary.url}?prefix={prefix}&durability=replica&max_connections=4")
        session = a_record(fields={"hits": "0"})
        wait_until(lambda: _acknowledged(store, session), "the replica to confirm")
        replica.freeze()
        with ThreadPoolExecutor(4) as threads:
            commits = [threads.submit(_count, store, session, 0.5) for _ in range(4)]
            while not all(commit.done() for commit in commits):
                began = fair_time()
                assert store.read(session.session_id) is not None
                assert fair_time() - began < 0.2
                time.sleep(0.005)
            for commit in commits:
                with pytest.raises(OutcomeUnknown, match="no replica"):
                    commit.result()
        replica.thaw()
        wait_until(lambda: _acknowledged(store, a_record()), "the replica to confirm again")
        assert _count(store, session, 5).counters == {"hits": 5}, "they had been applied"
        store.close()


def _acknowledged(store: SyncRedisStore, new: NewRecord) -> bool:
    try:
        return store.create(new).version == 1
    except OutcomeUnknown:
        return False


def _count(store: SyncRedisStore, session: NewRecord, timeout: float) -> Applied:
    return store.update(session.session_id, a_commit(session, increments={"hits": 1}), timeout=timeout)


def test_what_cannot_be_found_is_down() -> None:
    for where, problem in (
        ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/shop", "no primary of 'shop' can be found"),
        ("redis+cluster://127.0.0.1:1,127.0.0.1:2", "no node of the cluster answers"),
    ):
        store = SyncRedisStore.from_url(where)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=problem):
                store.read(a_record().session_id)
        store.close()


def test_an_exception_that_strikes_while_the_servers_are_looked_for_is_forgotten(
    sentinels: SentinelGroup, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SyncRedisStore.from_url(f"{sentinels.url}?prefix={prefix}&timeout=5")

    def struck(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # a signal comes just then
        patch.setattr(threading.Thread, "__init__", struck)
        with pytest.raises(KeyboardInterrupt):
            store.read(a_record().session_id)

    def served() -> bool:
        with suppress(StoreUnavailable):
            return store.read(a_record().session_id, timeout=1.0) is None
        return False

    wait_until(served, "the store to be up")
    store.close()
