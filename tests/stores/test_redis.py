"""The Redis and Valkey store: the contract on real servers in every way of connecting, and what is its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

import pytest
import redis
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck.stores.redis import RedisStore
from coatcheck.testing import AsyncStoreContract
from tests.servers.valkey import Valkey, programs


class OnBorrowedClient(RedisStore):
    """A store on somebody's own client, which is closed with it: else nobody would, in the contract."""

    client: client.Redis

    @classmethod
    def lend(cls, server: Valkey, prefix: str, **options: Any) -> OnBorrowedClient:
        retry: Any = Retry(NoBackoff(), 0)
        pool = client.BlockingConnectionPool(host="127.0.0.1", port=server.port, retry=retry, **options)
        own = client.Redis.from_pool(pool)
        store = cls.from_client(own, prefix=prefix)
        assert isinstance(store, cls)
        store.client = own
        return store

    async def close(self) -> None:
        await super().close()
        await self.client.aclose()


_WAYS: dict[str, Callable[[Valkey, str], RedisStore]] = {
    "tcp": lambda server, prefix: RedisStore.from_url(f"{server.url}?prefix={prefix}"),
    "unix socket": lambda server, prefix: RedisStore.from_url(f"{server.socket_url}?prefix={prefix}"),
    "own client": OnBorrowedClient.lend,
    "own client that decodes, RESP2": lambda server, prefix: OnBorrowedClient.lend(
        server, prefix, decode_responses=True, protocol=2
    ),
}


@pytest.fixture(scope="module", params=programs())
def server(request: pytest.FixtureRequest) -> Iterable[Valkey]:
    with Valkey(program=programs()[request.param]) as server:
        yield server


class Contract(AsyncStoreContract):
    __test__ = False
    way: ClassVar[str]

    @pytest.fixture(autouse=True)
    def take(self, server: Valkey, prefix: str) -> None:
        self.server = server
        self.prefix = prefix

    def open_store(self) -> RedisStore:
        return _WAYS[self.way](self.server, self.prefix)

    def corruptions(self, store: Any) -> Iterable[Callable[[str], Awaitable[None]]]:
        def way(*commands: tuple[Any, ...]) -> Callable[[str], Awaitable[None]]:
            async def corrupt(session_id: str) -> None:
                key = f"{self.prefix}session:{session_id}"
                for verb, *rest in (("DEL",), *commands):
                    self.server(verb, key, *rest)

            return corrupt

        whole = {
            "@secret": "0" * 64, "@version": 1, "@created": 1, "@renewed": 1, "@touched": 10**13, "@idle": 10**12
        }  # fmt: skip
        yield way(("SET", "a string"))
        yield way(("RPUSH", "a", "list"))
        yield way(("HSET", "only", "fields"))
        for bad in (*whole, "@deadline", "@previous"):
            for value in (b"", b"x", b"\xff\xfe", b"-1", b"1e3", b"nan", b"9" * 40):
                if bad != "@secret":
                    yield way(("HSET", bad, value))


class TestTCP(Contract):
    __test__ = True
    way = "tcp"


class TestUnixSocket(Contract):
    __test__ = True
    way = "unix socket"
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]  # what it is about is the same over TCP


class TestOwnClient(Contract):
    __test__ = True
    way = "own client"
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]


class TestOwnDecodingClientOnRESP2(Contract):
    __test__ = True
    way = "own client that decodes, RESP2"
