"""Fixtures of the promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck.stores.redis import RedisStore
from tests.servers.fixtures import *  # noqa: F403 - all of them
from tests.servers.fixtures import URLOpener
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    """A man in the middle in front of the shared Valkey."""
    async with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture(params=["wire", "own client"])
async def store(
    request: pytest.FixtureRequest, proxy: Proxy, prefix: str, open_store: URLOpener
) -> AsyncIterator[RedisStore]:
    """A store through the proxy, over either transport."""
    if request.param == "wire":
        yield open_store(f"{proxy.url}?prefix={prefix}&timeout=5")
        return
    pool = client.BlockingConnectionPool(port=proxy.port, max_connections=16, retry=Retry(NoBackoff(), 0))
    own = client.Redis.from_pool(pool)
    yield RedisStore.from_client(own, prefix=prefix, timeout=5)
    await own.aclose()
