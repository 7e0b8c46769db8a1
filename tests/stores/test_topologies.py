"""Sentinel and Cluster: the contract, and what becomes of an exchange on its way to the right server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck.stores.redis import RedisStore
from coatcheck.testing import AsyncStoreContract
from tests.servers.cluster import ClusterGroup
from tests.servers.sentinel import SERVICE, SentinelGroup
from tests.servers.valkey import Valkey


class Contract(AsyncStoreContract):
    __test__ = False
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]  # the commands are those of one server
    url: str
    options = ""

    @pytest.fixture(autouse=True)
    def name(self, prefix: str) -> None:
        self.prefix = prefix

    def primary_of(self, key: str) -> Valkey:
        raise NotImplementedError

    def open_store(self) -> RedisStore:
        return RedisStore.from_url(f"{self.url}?prefix={self.prefix}&timeout=10{self.options}")

    def corruptions(self, store: Any) -> Iterable[Callable[[str], Awaitable[None]]]:
        async def corrupt(session_id: str) -> None:
            key = f"{self.prefix}session:{session_id}"
            self.primary_of(key)("DEL", key)
            self.primary_of(key)("SET", key, "a string")

        yield corrupt


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
        self.url = cluster.url
        self.primary_of = cluster.primary_of  # type: ignore[method-assign]


class OnBorrowedClient(RedisStore):
    """A store on somebody's own client, which is closed with it: else nobody would, in the contract."""

    clients: tuple[Any, ...]

    @classmethod
    def lend(cls, own: Any, prefix: str, *others: Any) -> OnBorrowedClient:
        store = cls.from_client(own, prefix=prefix, timeout=10)  # each connection of a crowd asks the sentinels first
        assert isinstance(store, cls)
        store.clients = (own, *others)
        return store

    async def close(self) -> None:
        await super().close()
        for one in self.clients:
            await one.aclose()


def no_retries() -> Any:
    return Retry(NoBackoff(), 0)


class TestOwnSentinelClient(TestSentinel):
    @pytest.fixture(autouse=True)
    def take_sentinels(self, sentinels: SentinelGroup) -> None:
        self.hosts = [("127.0.0.1", each.port) for each in sentinels.sentinels]

    def open_store(self) -> RedisStore:
        sentinel = client.Sentinel(self.hosts)  # type: ignore[no-untyped-call]
        own = sentinel.master_for(SERVICE, retry=no_retries(), max_connections=2000)
        return OnBorrowedClient.lend(own, self.prefix, *sentinel.sentinels)


class TestOwnDecodingClusterClientOnRESP2(TestCluster):
    def open_store(self) -> RedisStore:
        host, _, port = self.url.partition("://")[2].partition(",")[0].partition(":")
        options: Any = {"decode_responses": True, "protocol": 2, "max_connections": 2000}
        own: Any = client.RedisCluster(host, int(port), retry=no_retries(), **options)
        return OnBorrowedClient.lend(own, self.prefix)


class TestClusterConfirmed(TestCluster):
    options = "&durability=replica"
