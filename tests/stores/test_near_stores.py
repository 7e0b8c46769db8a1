"""Stores with a near cache: the whole contract, through the cache, on every kind of server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import pytest

from coatcheck import open_store, open_sync_store
from coatcheck.testing import AsyncStoreContract, SyncStoreContract
from tests.servers.cluster import ClusterGroup
from tests.servers.sentinel import SentinelGroup
from tests.servers.valkey import Valkey, programs
from tests.stores.nearly import Nearly, SyncNearly
from tests.stores.test_redis import Contract as OnOneServer
from tests.stores.test_topologies import Contract as OnSeveral

NEAR = "near_cache=50&near_cache_age=30"
"""Longer than any test, so that nothing leaves by itself."""


@pytest.fixture(scope="module", params=programs())
def server(request: pytest.FixtureRequest) -> Iterable[Valkey]:
    with Valkey(program=programs()[request.param]) as server:
        yield server


class Single:
    corruptions = OnOneServer.corruptions
    options: ClassVar[str] = ""

    @pytest.fixture(autouse=True)
    def take(self, server: Valkey, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.url = f"{server.url}?prefix={prefix}&timeout=10&{NEAR}"


class TestAsync(Single, AsyncStoreContract):
    def open_store(self) -> Nearly:
        return Nearly(open_store(self.url))


class TestSync(Single, SyncStoreContract):
    def open_store(self) -> SyncNearly:
        return SyncNearly(open_sync_store(self.url))


class TestSyncOnAUnixSocketWithFewConnections(Single, SyncStoreContract):
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]

    def open_store(self) -> SyncNearly:
        ends = f"prefix={self.prefix}&timeout=10&max_connections=3&{NEAR}"
        return SyncNearly(open_sync_store(f"{self.server.socket_url}?{ends}"))


class Several:
    corruptions = OnSeveral.corruptions
    test_any_history_goes_as_the_model_says = None
    durability: ClassVar[str] = "primary"

    @property
    def options(self) -> str:
        return f"?prefix={self.prefix}&timeout=10&durability={self.durability}&{NEAR}"

    @pytest.fixture(autouse=True)
    def name(self, prefix: str) -> None:
        self.prefix = prefix


class OnSentinel(Several):
    @pytest.fixture(autouse=True)
    def take(self, sentinels: SentinelGroup) -> None:
        self.url = sentinels.url
        self.primary_of = lambda key: sentinels.primary


class OnCluster(Several):
    @pytest.fixture(autouse=True)
    def take(self, cluster: ClusterGroup) -> None:
        self.url = cluster.url
        self.primary_of = cluster.primary_of


class TestSentinel(OnSentinel, AsyncStoreContract):  # type: ignore[misc]
    def open_store(self) -> Nearly:
        return Nearly(open_store(self.url + self.options))


class TestSentinelConfirmed(TestSentinel):
    durability = "replica"


class TestCluster(OnCluster, AsyncStoreContract):  # type: ignore[misc]
    def open_store(self) -> Nearly:
        return Nearly(open_store(self.url + self.options))


class TestSyncSentinel(OnSentinel, SyncStoreContract):  # type: ignore[misc]
    def open_store(self) -> SyncNearly:
        return SyncNearly(open_sync_store(self.url + self.options))


class TestSyncSentinelConfirmed(TestSyncSentinel):
    durability = "replica"


class TestSyncCluster(OnCluster, SyncStoreContract):  # type: ignore[misc]
    def open_store(self) -> SyncNearly:
        return SyncNearly(open_sync_store(self.url + self.options))
