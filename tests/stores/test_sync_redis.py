"""The synchronous Redis and Valkey store: the contract on real servers in every way of connecting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
import redis as client
from redis.backoff import NoBackoff
from redis.retry import Retry

from coatcheck import open_sync_store
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.stores.interface import SyncStore
from coatcheck.stores.redis import SyncRedisStore
from coatcheck.testing import SyncStoreContract, a_commit, a_record
from tests.servers.fixtures import URLOpener
from tests.servers.haproxy import TLS
from tests.servers.valkey import Valkey, programs
from tests.stores.test_redis import Contract as AsyncContract


class OnBorrowedClient(SyncRedisStore):
    """A store on somebody's own client, which is closed with it: else nobody would, in the contract."""

    client: client.Redis

    @classmethod
    def lend(cls, server: Valkey, prefix: str, **options: Any) -> OnBorrowedClient:
        make: Any = client.BlockingConnectionPool
        pool = make(host="127.0.0.1", port=server.port, retry=Retry(NoBackoff(), 0), timeout=5, **options)
        own = client.Redis.from_pool(pool)
        store = cls.from_client(own, prefix=prefix, timeout=10)
        assert isinstance(store, cls)
        store.client = own
        return store

    def close(self) -> None:
        super().close()
        self.client.close()


_WAYS: dict[str, Callable[[Valkey, str], SyncStore]] = {
    "tcp": lambda server, prefix: open_sync_store(f"{server.url}?prefix={prefix}&timeout=10"),
    "unix socket": lambda server, prefix: open_sync_store(
        f"{server.socket_url}?prefix={prefix}&timeout=10&max_connections=3"
    ),
    "own client that decodes, RESP2": lambda server, prefix: OnBorrowedClient.lend(
        server, prefix, decode_responses=True, protocol=2
    ),
}


@pytest.fixture(scope="module", params=programs())
def server(request: pytest.FixtureRequest) -> Iterable[Valkey]:
    with Valkey(program=programs()[request.param]) as server:
        yield server


@pytest.fixture(scope="module")
def tls(server: Valkey) -> Iterable[TLS]:
    with TLS(server.port) as tls:
        yield tls


class Contract(SyncStoreContract):
    __test__ = False
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]  # the commands are `RedisStore`'s
    way: ClassVar[str]
    corruptions = AsyncContract.corruptions

    @pytest.fixture(autouse=True)
    def take(self, server: Valkey, prefix: str) -> None:
        self.server = server
        self.prefix = prefix

    def open_store(self) -> SyncStore:
        return _WAYS[self.way](self.server, self.prefix)


class TestTCP(Contract):
    __test__ = True
    way = "tcp"


class TestUnixSocket(Contract):
    __test__ = True
    way = "unix socket"


class TestTLS(Contract):
    __test__ = True

    @pytest.fixture(autouse=True)
    def secure(self, tls: TLS) -> None:
        self.tls = tls

    def open_store(self) -> SyncStore:
        ends = f"127.0.0.1:{self.tls.port}/0?prefix={self.prefix}&timeout=10&ssl_ca_certs={self.tls.authority}"
        return open_sync_store(f"rediss://{ends}&max_connections=8")


class TestOwnDecodingClientOnRESP2(Contract):
    __test__ = True
    way = "own client that decodes, RESP2"


async def test_synchronous_and_asynchronous_applications_share_their_sessions(
    valkey_url: str, open_store: URLOpener
) -> None:
    one, other = open_sync_store(valkey_url), open_store(valkey_url.replace("redis", "valkey", 1))
    new = a_record(fields={"n": "1"})
    one.create(new)
    await other.update(new.session_id, a_commit(new, increments={"n": 1}))
    one.update(new.session_id, a_commit(new, increments={"n": 1}))
    record = await other.read(new.session_id)
    assert record is not None
    assert record.fields == {"n": "3"}
    assert one.delete(new.session_id)
    assert await other.read(new.session_id) is None
    one.close()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://localhost?max_connections=0", "max_connections"),
        ("redis://localhost?max_connections=many", "max_connections"),
        ("redis://localhost?nosuch=1", "nosuch"),
        ("rediss://localhost?ssl_ca_certs=/nowhere", "ssl_ca_certs"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_options_name(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        open_sync_store(url)


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1", f"redis://{'a' * 80}", "unix:///nowhere/socket"])
def test_a_server_that_cannot_be_reached_is_down(address: str) -> None:
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=address.partition("?")[0]):
            open_sync_store(f"{address}?timeout=5").read(a_record().session_id)


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ("&ssl_ca_certs={0.other_authority}", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("&ssl_ca_certs={0.authority}", "localhost"),
    ],
    ids=["another authority", "the system's authorities", "another host's certificate"],
)
def test_tls_with_a_certificate_that_is_not_trusted(tls: TLS, options: str, host: str) -> None:
    store = open_sync_store(f"rediss://{host}:{tls.port}/0?timeout=5" + options.format(tls))
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        store.read(a_record().session_id)
    store.close()


def test_a_wrong_password_is_reported_and_not_shown(own_valkey: Valkey) -> None:
    own_valkey("CONFIG", "SET", "requirepass", "right")
    store = open_sync_store(f"redis://:wr0ng-s3cret@127.0.0.1:{own_valkey.port}")
    with pytest.raises(StoreUnavailable, match="does not let us in") as refused:
        store.read(a_record().session_id)
    assert "wr0ng-s3cret" not in f"{refused.value!r} {store!r}"


def test_a_client_that_was_handed_in_stays_open(valkey: Valkey, prefix: str) -> None:
    with client.Redis(port=valkey.port) as own:
        store = SyncRedisStore.from_client(own, prefix=prefix, timeout=5)
        store.create(a_record())
        store.close()
        assert own.ping()
