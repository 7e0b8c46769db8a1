"""Sentinel and Cluster: the contract, and what becomes of an exchange on its way to the right server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, closing
from typing import Any

import pytest
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck.errors import ForeignReply
from coatcheck.stores.redis import RedisStore, SyncRedisStore
from coatcheck.stores.redis.blocking_fleet import BlockingFleet
from coatcheck.stores.redis.commands import Command
from coatcheck.stores.redis.transport import Read, whole
from coatcheck.testing import AsyncStoreContract
from tests.servers.cluster import ClusterGroup
from tests.servers.fixtures import URLOpener
from tests.servers.processes import eventually
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


@pytest.mark.parametrize("kind", ["wires", "threads", "own client"])
@pytest.mark.parametrize("command", ["HGETALL", "UNLINK"], ids=["reading", "changing"])
async def test_an_answer_of_several_nodes_that_is_somebody_elses_drops_their_connections(
    cluster: ClusterGroup, prefix: str, open_store: URLOpener, kind: str, command: str
) -> None:
    """R1: no connection sees the whole of such an answer, and none of those that gave a part of it is used again."""

    def connections(having: str = "") -> set[bytes]:
        lines = [line for node in cluster.nodes for line in node("CLIENT", "LIST").splitlines()]
        return {line.split(b" addr=")[1].split(b" ")[0] for line in lines if having.encode() in line}

    def not_mine(_: list[Any]) -> None:
        raise ForeignReply("here", "id", "a test")

    async with AsyncExitStack() as closed_after:
        url = f"{cluster.url}?prefix={prefix}&timeout=10"
        transport: Any = open_store(url)._transport
        if kind == "threads":
            blocking: Any = closed_after.enter_context(closing(SyncRedisStore.from_url(url)._transport))
            transport = _InThreads(blocking)
        elif kind == "own client":
            own = client.RedisCluster("127.0.0.1", cluster.nodes[0].port, retry=no_retries())
            closed_after.push_async_callback(own.aclose)
            transport = RedisStore.from_client(own, timeout=10)._transport
        commands = [(command, f"{prefix}{{{number}}}") for number in range(64)]
        assert len(await transport.exchange(commands, whole)) == 64
        before = connections(f" cmd={command.lower()} ")
        assert len(before) == 3
        with pytest.raises(ForeignReply):
            await transport.exchange(commands, not_mine)
        await eventually(lambda: not before & connections(), "the connections to be dropped")
        assert len(await transport.exchange(commands, whole)) == 64


class _InThreads:
    """A transport for threads, awaited."""

    def __init__(self, transport: BlockingFleet) -> None:
        self._transport = transport

    async def exchange(self, commands: list[Command], read: Read[Any]) -> Any:
        return await asyncio.to_thread(self._transport.exchange, commands, read)
