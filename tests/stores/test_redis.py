"""The Redis and Valkey store: the contract on real servers in every way of connecting, and what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from typing import Any, ClassVar

import pytest
import redis
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coatcheck import open_store as open_store_by_url
from coatcheck.errors import ConfigurationError, CorruptRecord, OutcomeUnknown, StoreUnavailable
from coatcheck.stores.redis import RedisStore, SyncRedisStore
from coatcheck.testing import AsyncStoreContract, a_commit, a_record
from coatcheck.ticket import Ticket
from tests.servers.browser import Browser
from tests.servers.fixtures import URLOpener
from tests.servers.haproxy import TLS
from tests.servers.monitor import Monitor
from tests.servers.processes import ROOT, eventually
from tests.servers.proxy import Proxy
from tests.servers.valkey import DURABLE, Valkey, programs
from tests.web.shop import PATIENT, shop


class OnBorrowedClient(RedisStore):
    """A store on somebody's own client, which is closed with it: else nobody would, in the contract."""

    client: client.Redis

    @classmethod
    def lend(cls, server: Valkey, prefix: str, **options: Any) -> OnBorrowedClient:
        retry: Any = Retry(NoBackoff(), 0)
        pool = client.BlockingConnectionPool(host="127.0.0.1", port=server.port, retry=retry, **options)
        own = client.Redis.from_pool(pool)
        store = cls.from_client(own, prefix=prefix, timeout=10)
        assert isinstance(store, cls)
        store.client = own
        return store

    async def close(self) -> None:
        await super().close()
        await self.client.aclose()


_WAYS: dict[str, Callable[[Valkey, str], RedisStore]] = {
    "tcp": lambda server, prefix: RedisStore.from_url(f"{server.url}?prefix={prefix}&timeout=10"),
    "unix socket": lambda server, prefix: RedisStore.from_url(f"{server.socket_url}?prefix={prefix}&timeout=10"),
    "own client": OnBorrowedClient.lend,
    "own client that decodes, RESP2": lambda server, prefix: OnBorrowedClient.lend(
        server, prefix, decode_responses=True, protocol=2
    ),
}


@pytest.fixture(scope="module", params=programs())
def server(request: pytest.FixtureRequest) -> Iterable[Valkey]:
    with Valkey(program=programs()[request.param]) as server:
        yield server


GOOD = "the ticket of the record"


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
        def way(*command: str | bytes) -> Callable[[str], Awaitable[None]]:
            async def corrupt(session_id: str) -> None:
                key = f"{self.prefix}session:{session_id}"
                verb, *rest = command
                self.server("DEL", key)
                self.server(
                    verb, key, *(b"%b %b" % (session_id.encode(), b"0" * 44) if it == GOOD else it for it in rest)
                )

            return corrupt

        yield way("SET", "a string")
        yield way("RPUSH", "a", "list")
        yield way("HSET", "only", "fields")
        for value in (b"", b"x", b"\xff\xfe", b"-1", b"1e3", b"nan", b"9" * 40):
            yield way("HSET", "@life", f"[1,1,0,{10**13},{10**12},0]", "@ticket", value)
            yield way("HSET", "@life", f"[1,1,0,{10**13},{10**12},0]", "@ticket", GOOD, "@previous", value)
            for place in range(6):
                numbers = [b"7"] * 6
                numbers[place] = value
                yield way("HSET", "@ticket", GOOD, "@life", b"[%b]" % b",".join(numbers))


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
    test_any_history_goes_as_the_model_says = None  # type: ignore[assignment]


# --- how a session looks -----------------------------------------------------------------------------------------------


def key_of(prefix: str, visitor: Browser) -> str:
    return f"{prefix}session:{visitor.session_id}"


async def test_a_session_reads_as_a_person_would_write_it(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    async with Browser(shop(open_store(valkey_url))) as visitor:
        await visitor.post("/login?user=Garimoo")
        await visitor.post("/put?ip=10.20.104.30")
        await visitor.post("/count?by=2")
        await visitor.post("/add/tea")
        with valkey.client() as client:
            shown = client.hgetall(key_of(prefix, visitor))
    assert {name: text for name, text in shown.items() if name[0] != "@"} == {
        "user": '"Garimoo"', "ip": '"10.20.104.30"', "count": "2", "cart[tea]": "1"
    }  # fmt: skip
    assert shown.keys() - {"user", "ip", "count", "cart[tea]"} == {
        "@ticket", "@life", "@owner", "@operations"
    }  # fmt: skip
    assert shown["@ticket"].split()[0] == visitor.session_id
    assert shown["@owner"] == "Garimoo"
    version, created, renewed, touched, idle, deadline = json.loads(shown["@life"])
    assert (version, idle) == (4, 7_200_000)
    assert created > 1_700_000_000_000
    assert 0 <= renewed <= touched < deadline <= touched + 7 * 86_400_000
    assert len(shown["@operations"]) == 4 * 8


async def test_what_others_write_into_a_session_is_seen_by_the_next_request(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    """An administrator with a command line, or a program in another language."""
    async with Browser(shop(open_store(valkey_url))) as visitor:
        await visitor.post("/count")
        with valkey.client() as client:
            key = key_of(prefix, visitor)
            client.hset(key, "note", '"from outside"')
            client.hset(key, "list", ' [1,  2, {"a": null}] ')
            client.hset(key, "visits", "41")
            assert client.hincrby(key, "visits", 1) == 42
            assert client.hincrby(key, "count", 9) == 10
            expected = {"count": 10, "note": "from outside", "list": [1, 2, {"a": None}], "visits": 42}
            assert (await visitor.get("/page")).json() == expected
            await visitor.post("/count")
            assert client.hget(key, "count") == "11"
            assert client.hget(key, "list") == ' [1,  2, {"a": null}] ', "what was only read is left as it was written"
            client.hdel(key, "note")
            assert "note" not in (await visitor.get("/page")).json()


async def test_no_key_is_ever_without_an_expiry(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    """Somebody looks all the time, while visitors do all there is to do."""
    eternal: list[bytes] = []
    over = threading.Event()

    def look(client: redis.Redis) -> None:
        eternal.extend(key for key in client.scan_iter(f"{prefix}*", 1000) if client.pttl(key) == -1)

    def keep_looking() -> None:
        with redis.Redis(port=valkey.port) as client:
            while not over.is_set():
                look(client)

    onlooker = threading.Thread(target=keep_looking)
    onlooker.start()
    try:
        with redis.Redis(port=valkey.port) as client:
            for settings in (
                PATIENT,
                PATIENT.but(absolute_timeout=None),
                PATIENT.but(renew_every=0.001, touch_every=0),
            ):
                async with Browser(shop(open_store(valkey_url), settings=settings)) as visitor:
                    for path in (
                        "/put?a=1",
                        "/login?user=garimoo",
                        "/count",
                        "/flush",
                        "/login?user=other",
                        "/logout",
                    ) * 5:
                        assert (await visitor.post(path)).status_code == 200
                        look(client)
    finally:
        over.set()
        onlooker.join()
    assert eternal == []


async def test_a_key_that_somebody_made_live_for_ever_gets_its_expiry_back_with_the_next_write(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    async with Browser(shop(open_store(valkey_url))) as visitor:
        await visitor.post("/login?user=garimoo")
        valkey("PERSIST", key_of(prefix, visitor))
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}
        await visitor.post("/count")
        assert 0 < valkey("PTTL", key_of(prefix, visitor)) <= 7_200_000


async def test_the_key_lives_exactly_as_long_as_the_session(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    for settings, longest in (
        (PATIENT.but(idle_timeout=1000, absolute_timeout=None), 1_000_000),
        (PATIENT.but(idle_timeout=1000, absolute_timeout=1000), 1_000_000),
        (PATIENT.but(idle_timeout=50, absolute_timeout=1000), 50_000),
    ):
        async with Browser(shop(open_store(valkey_url), settings=settings)) as visitor:
            await visitor.post("/put?a=1")
            assert longest - 5_000 < valkey("PTTL", key_of(prefix, visitor)) <= longest


# --- the index of owners -------------------------------------------------------------------------------------------------


def index(valkey: Valkey, prefix: str, owner: str) -> set[str]:
    return {member.decode() for member in valkey("ZRANGE", f"{prefix}owner:{owner}", 0, -1)}


async def test_the_index_follows_a_session_through_its_life(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    store = open_store(valkey_url)
    app = shop(store)
    async with Browser(app) as phone, Browser(app) as desk:
        await phone.post("/login?user=garimoo")
        await desk.post("/login?user=garimoo")
        assert index(valkey, prefix, "garimoo") == {phone.session_id, desk.session_id}
        assert {record.session_id for record in await store.sessions_of("garimoo")} == {
            phone.session_id,
            desk.session_id,
        }
        assert await store.sessions_of("nobody") == []

        await phone.post("/logout")
        assert index(valkey, prefix, "garimoo") == {desk.session_id}

        await desk.post("/login?user=somebody-else")
        assert await store.sessions_of("garimoo") == [], "it changed hands"
        assert [record.session_id for record in await store.sessions_of("somebody-else")] == [desk.session_id]
        assert valkey("PTTL", f"{prefix}owner:garimoo") > 0
        assert valkey("PTTL", f"{prefix}owner:somebody-else") > 0


async def test_the_index_is_repaired_as_it_is_read(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    store = open_store(valkey_url)
    gone, alive = a_record(owner="me", idle_ms=80), a_record(owner="me", idle_ms=60_000)
    await store.create(gone)
    await store.create(alive)
    valkey("ZADD", f"{prefix}owner:me", 1, "AAAAAAAAAAAAAAAA", 2, b"\xff\xfe")  # one of them nobody's session id
    assert len(index_bytes(valkey, prefix, "me")) == 4
    async with asyncio.timeout(10):
        while index_bytes(valkey, prefix, "me") != {alive.session_id.encode(), b"\xff\xfe"}:
            listed = {record.session_id for record in await store.sessions_of("me")}
            assert listed in ({alive.session_id}, {alive.session_id, gone.session_id})
            await asyncio.sleep(0.02)


async def test_an_index_that_nobody_reads_does_not_grow_for_ever(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    valkey("ZADD", f"{prefix}owner:robot", 1, "AAAAAAAAAAAAAAAA", 2, "BBBBBBBBBBBBBBBB")  # they ended long ago
    new = a_record(owner="robot")
    await open_store(valkey_url).create(new)
    assert index(valkey, prefix, "robot") == {new.session_id}


def index_bytes(valkey: Valkey, prefix: str, owner: str) -> set[bytes]:
    return set(valkey("ZRANGE", f"{prefix}owner:{owner}", 0, -1))


async def test_an_index_that_is_no_index_keeps_nobody_from_logging_in(
    valkey: Valkey, valkey_url: str, prefix: str, open_store: URLOpener
) -> None:
    valkey("SET", f"{prefix}owner:garimoo", "nonsense")
    store = open_store(valkey_url)
    with contextlib.suppress(CorruptRecord, StoreUnavailable):
        assert await store.sessions_of("garimoo") == []
    async with Browser(shop(store)) as visitor:
        assert (await visitor.post("/login?user=garimoo")).status_code == 200
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}
        assert [record.session_id for record in await store.sessions_of("garimoo")] == [visitor.session_id]


# --- scripts, restarts ---------------------------------------------------------------------------------------------------


async def test_scripts_are_loaded_again_when_the_server_forgot_them(
    valkey: Valkey, valkey_url: str, open_store: URLOpener
) -> None:
    async with Browser(shop(open_store(valkey_url), settings=PATIENT.but(absolute_timeout=None))) as visitor:
        await visitor.post("/login?user=garimoo")
        for number in range(1, 6):
            valkey("SCRIPT", "FLUSH")
            assert (await visitor.post("/count")).status_code == 200
            assert (await visitor.get("/page")).json() == {"user": "garimoo", "count": number}
        valkey("SCRIPT", "FLUSH")
        assert (await visitor.post("/login?user=garimoo")).status_code == 200


@pytest.mark.parametrize("options", [(), DURABLE], ids=["in memory", "on disk"])
async def test_a_restart_of_the_server_needs_nobodys_help(options: tuple[str, ...], open_store: URLOpener) -> None:
    with Valkey(*options) as valkey:
        async with Browser(shop(open_store(valkey.url))) as visitor:
            await visitor.post("/login?user=garimoo")
            valkey.restart()
            assert (await visitor.get_when_up("/page")).json() == ({"user": "garimoo"} if options else {})
            assert (await visitor.post("/login?user=garimoo")).status_code == 200
            assert (await visitor.post("/count")).status_code == 200


# --- URLs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://localhost?timeout=soon", "timeout"),
        ("redis://localhost?timeout=0", "timeout"),
        ("redis://localhost?timeout=-1", "timeout"),
        ("redis://localhost?timeout=nan", "timeout"),
        ("redis://localhost?timeout=inf", "timeout"),
        ("redis://localhost?timeout=", "timeout"),
        ("redis://localhost?nosuch=1", "nosuch"),
        ("redis://localhost?Timeout=1", "Timeout"),
        ("redis://localhost/zero", "database"),
        ("redis://localhost/1/2", "database"),
        ("redis://localhost/-1", "database"),
        ("redis://localhost?db=zero", "database"),
        ("redis://localhost?db=-1", "database"),
        ("redis://localhost:port", "port"),
        ("redis://localhost:99999", "port"),
        ("redis://[::1", "host"),
        ("redis://localhost?ssl_ca_certs=/nowhere", "ssl_ca_certs"),
        ("rediss://localhost?ssl_ca_certs=/nowhere", "ssl_ca_certs"),
        ("rediss://localhost?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
        ("rediss://localhost?ssl_nosuch=1", "ssl_nosuch"),
        ("rediss://localhost?ssl_ca_certs=", "ssl_ca_certs='': it is empty"),
        ("rediss://localhost?ssl_certfile=", "ssl_certfile='': it is empty"),
        ("rediss://localhost?ssl_keyfile=/key", "ssl_keyfile='/key': there is no certificate.*ssl_certfile"),
        ("redis://localhost?ssl_cert_reqs=none", "ssl_cert_reqs='none': it is for TLS.*rediss"),
        ("unix:///socket?ssl_ca_certs=/ca", "ssl_ca_certs='/ca': it is for TLS, which unix:// is without"),
        ("unix://run/x.sock", "'run' stands where a host would.*'unix:///run/x.sock'"),
        ("unix://user:pw@run/x.sock", "'run' stands where a host would.*'unix:///run/x.sock'"),
        ("unix:///", "the path is missing"),
        ("redis://localhost:0", "no such port.*1 to 65535"),
        ("redis://localhost:65536/0", "no such port.*1 to 65535"),
        ("redis://:6379", "the host is missing"),
        ("redis://user:pw@:6379/0", "the host is missing"),
        ("rediss:///0", "the host is missing"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_options_name(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        open_store_by_url(url)
    with pytest.raises(ConfigurationError, match=named):
        open_store_by_url(url.replace("redis", "valkey", 1))


@pytest.mark.parametrize(
    ("certificate", "key", "blamed"),
    [
        ("client", "/nowhere", "ssl_keyfile='/nowhere'"),
        ("client", "authority", "ssl_keyfile"),
        ("client", "", "ssl_certfile"),
        ("client_key", "client_key", "ssl_certfile"),
        ("/nowhere", "client_key", "ssl_certfile='/nowhere'"),
    ],
    ids=["no key file", "no key in it", "no key at all", "a key for a certificate", "no certificate file"],
)
def test_of_a_certificate_and_its_key_that_one_is_blamed_that_is_wrong(
    tls: TLS, certificate: str, key: str, blamed: str
) -> None:
    def path(name: str) -> str:
        return str(getattr(tls, name, name))

    url = f"rediss://localhost?ssl_certfile={path(certificate)}" + (f"&ssl_keyfile={path(key)}" if key else "")
    with pytest.raises(ConfigurationError, match=f"^{blamed}.*PEM file"):
        open_store_by_url(url)


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1", f"redis://{'a' * 80}", "unix:///nowhere/socket"])
async def test_a_server_that_cannot_be_reached_is_down(address: str, open_store: URLOpener) -> None:
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=address.partition("?")[0]):
            await open_store(f"{address}?timeout=5").read(a_record().session_id)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_databases_are_apart(own_valkey: Valkey, open_store: URLOpener, scheme: str) -> None:
    new = a_record()
    address = f"{scheme}://127.0.0.1:{own_valkey.port}"
    await open_store(f"{address}/3").create(new)
    assert await open_store(f"{address}?db=3").read(new.session_id) is not None
    assert await open_store(f"{own_valkey.socket_url}?db=3").read(new.session_id) is not None
    for other in ("", "/", "/0", "/2"):
        assert await open_store(address + other).read(new.session_id) is None


@pytest.mark.parametrize(("user", "good"), [("coat:check%2F%40%3A", True), (":wrong", False), ("", False)])
async def test_a_password_is_asked_for(own_valkey: Valkey, open_store: URLOpener, user: str, good: bool) -> None:
    own_valkey("ACL", "SETUSER", "coat", "on", ">check/@:", "~*", "+@all")
    own_valkey("ACL", "SETUSER", "default", "resetpass", ">other")
    at = "@" if user else ""
    store = open_store(f"redis://{user}{at}127.0.0.1:{own_valkey.port}/0")
    if good:
        assert await store.read(a_record().session_id) is None
    else:
        with pytest.raises(StoreUnavailable) as refused:
            await store.read(a_record().session_id)
        assert "wrong" not in str(refused.value)


async def refusals(url: str, open_store: URLOpener) -> list[str]:
    """What both kinds of store say of a server that does not serve them: the first time, and right after it."""
    store, threaded = open_store(url), SyncRedisStore.from_url(url)
    said = []
    with closing(threaded):
        for _ in range(2):
            with pytest.raises(StoreUnavailable) as refused:
                await store.read(a_record().session_id)
            said.append(str(refused.value))
            with pytest.raises(StoreUnavailable) as refused:
                await asyncio.to_thread(threaded.read, a_record().session_id)
            said.append(str(refused.value))
    return said


@pytest.mark.parametrize(
    ("setting", "user", "words"),
    [
        (("maxclients", 1), "", "max number of clients reached"),
        (("requirepass", "right"), "", "NOAUTH"),
        (("requirepass", "right"), ":wr0ng-s3cret@", "WRONGPASS invalid username-password pair"),
        (("requirepass", "right"), "nobody:wr0ng-s3cret@", "WRONGPASS invalid username-password pair"),
    ],
    ids=["full", "no password", "wrong password", "unknown user"],
)
async def test_why_a_server_lets_nobody_in_is_told_in_its_own_words(
    own_valkey: Valkey, open_store: URLOpener, setting: tuple[Any, ...], user: str, words: str
) -> None:
    """A full server answers before it has been asked, and hangs up."""
    with own_valkey.client() as administrator:  # who keeps a connection
        administrator.execute_command("CONFIG", "SET", *setting)
        for said in await refusals(f"redis://{user}127.0.0.1:{own_valkey.port}", open_store):
            assert re.search(f"does not let us in: .*{words}", said)
            assert "wr0ng-s3cret" not in said


async def test_a_server_that_still_loads_its_data_says_so(open_store: URLOpener) -> None:
    slowly = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    with Valkey() as server:
        for number in range(100):
            server("SET", number, os.urandom(2000))
        server("SAVE")
        server._options = slowly
        server.restart()
        for said in await refusals(server.url, open_store):
            assert "LOADING" in said


# --- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(valkey: Valkey) -> Iterable[TLS]:
    with TLS(valkey.port) as tls:
        yield tls


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_tls_with_a_certificate_that_is_trusted(
    tls: TLS, prefix: str, open_store: URLOpener, scheme: str
) -> None:
    url = f"{scheme}://127.0.0.1:{tls.port}/0?prefix={prefix}&timeout=5&ssl_ca_certs={tls.authority}"
    async with Browser(shop(open_store(url))) as visitor:
        await visitor.post("/login?user=garimoo")
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ("&ssl_ca_certs={0.other_authority}", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("&ssl_ca_certs={0.authority}", "localhost"),
    ],
    ids=["another authority", "the system's authorities", "another host's certificate"],
)
async def test_tls_with_a_certificate_that_is_not_trusted(
    tls: TLS, valkey: Valkey, prefix: str, open_store: URLOpener, options: str, host: str
) -> None:
    own = len(os.listdir("/proc/self/fd"))
    with Monitor(valkey.port) as monitor:
        store = open_store(f"rediss://{host}:{tls.port}/0?prefix={prefix}&timeout=5" + options.format(tls))
        async with Browser(shop(store), ticket=Ticket.new().cookie_value) as visitor:
            answer = await visitor.get("/page")
            assert (answer.status_code, "set-cookie" in answer.headers) == (503, False)
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate|tried again"):
            await store.create(a_record())
        assert monitor.commands() == [], "nothing was said to a stranger"
    await store.close()
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= own, "the closing of all sockets")


async def test_a_server_that_asks_for_a_certificate_gets_ours(
    valkey: Valkey, prefix: str, open_store: URLOpener
) -> None:
    new = a_record()
    with TLS(valkey.port, mutual=True) as tls:
        url = f"rediss://127.0.0.1:{tls.port}/0?prefix={prefix}&timeout=5&ssl_ca_certs={tls.authority}"
        own = f"&ssl_certfile={tls.client}&ssl_keyfile={tls.client_key}"
        await open_store(url + own).create(new)
        with closing(SyncRedisStore.from_url(url + own)) as threaded:
            assert threaded.read(new.session_id) is not None
        with pytest.raises(StoreUnavailable):
            await open_store(url).read(new.session_id)
        with closing(SyncRedisStore.from_url(url)) as threaded, pytest.raises(StoreUnavailable):
            threaded.read(new.session_id)


async def test_plain_text_to_a_tls_port_and_the_reverse_are_down_not_a_traceback(
    tls: TLS, valkey: Valkey, open_store: URLOpener
) -> None:
    for url in (f"redis://127.0.0.1:{tls.port}", f"rediss://127.0.0.1:{valkey.port}?ssl_cert_reqs=none"):
        with pytest.raises(StoreUnavailable):
            await open_store(url + ("&" if "?" in url else "?") + "timeout=1").read(a_record().session_id)


# --- rights on the server ------------------------------------------------------------------------------------------------


async def test_a_user_without_a_password_is_that_user(own_valkey: Valkey, open_store: URLOpener) -> None:
    own_valkey("ACL", "SETUSER", "web", "reset", "on", "nopass", "~*", "+@all")
    for who in ("web", "web:"):
        await open_store(f"redis://{who}@127.0.0.1:{own_valkey.port}").create(a_record())
    with closing(SyncRedisStore.from_url(f"redis://web@127.0.0.1:{own_valkey.port}")) as threaded:
        threaded.create(a_record())
        ours = [line for line in own_valkey("CLIENT", "LIST").splitlines() if b"name=coatcheck" in line]
        assert len(ours) == 3
        assert all(b"user=web " in line for line in ours)


async def test_the_rights_that_the_documentation_names_are_enough(own_valkey: Valkey, open_store: URLOpener) -> None:
    page = (ROOT / "docs" / "stores.md").read_text("utf-8").partition("### Rights")[2]
    commands = page.partition("\n\n    ")[2].partition("\n\n")[0].split()
    rights = [f"+{command.lower()}" for command in commands]
    own_valkey("ACL", "SETUSER", "web", "reset", "on", ">pw", "~coatcheck:*", *rights)
    store = open_store(f"redis://web:pw@127.0.0.1:{own_valkey.port}")
    session = a_record(owner="me", fields={"hits": "0", "old": "1", "other": "2"})
    await store.create(session)
    everything: dict[str, Any] = {"increments": {"hits": 1}, "deletes": ("old",), "sets": {"new": "1"}}
    everything["retain"] = ("hits", "old")
    await store.update(session.session_id, a_commit(session, owner="me", **everything))
    own_valkey("ZADD", "coatcheck:owner:me", 1, "AAAAAAAAAAAAAAAA")  # to be repaired
    [record] = await store.sessions_of("me")
    assert record.fields == {"hits": "1", "new": "1"}
    own_valkey("DEL", "coatcheck:owner:you")
    own_valkey("SET", "coatcheck:owner:you", "nonsense")  # to be replaced
    await store.create(a_record(owner="you"))
    assert await store.delete(session.session_id)
    await store.close()
    threaded = SyncRedisStore.from_url(f"redis://web:pw@127.0.0.1:{own_valkey.port}?heartbeat=0.01")
    for _ in range(2):
        assert await asyncio.to_thread(threaded.read, session.session_id) is None
        await asyncio.sleep(0.05)  # until a sign of life is asked for
    threaded.close()


@pytest.mark.parametrize("missing", ["hdel", "pexpireat"])
async def test_a_commit_that_the_access_list_stopped_half_way_is_not_said_to_be_undone(
    own_valkey: Valkey, open_store: URLOpener, missing: str
) -> None:
    own_valkey("ACL", "SETUSER", "web", "reset", "on", ">pw", "~*", "+@all")
    store = open_store(f"redis://web:pw@127.0.0.1:{own_valkey.port}")
    session = a_record(fields={"hits": "0", "old": "1"})
    await store.create(session)
    own_valkey("ACL", "SETUSER", "web", f"-{missing}")
    with pytest.raises(OutcomeUnknown, match=missing):
        await store.update(session.session_id, a_commit(session, increments={"hits": 1}, deletes=("old",)))
    record = await store.read(session.session_id)
    assert record is not None
    assert record.fields["hits"] == "1"


async def test_an_address_that_leads_to_another_primary_is_followed(own_valkey: Valkey, open_store: URLOpener) -> None:
    """The address of a managed server, say: it points to the new primary, while the old one lives on as a replica."""
    with Valkey() as new_primary:
        async with Proxy(own_valkey.port) as proxy:
            store, threaded = open_store(proxy.url), SyncRedisStore.from_url(proxy.url)
            await store.create(a_record())
            await asyncio.to_thread(threaded.create, a_record())
            own_valkey("REPLICAOF", "127.0.0.1", str(new_primary.port))
            proxy._server_port = new_primary.port
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await store.create(a_record())
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await asyncio.to_thread(threaded.create, a_record())
            await store.create(a_record())
            await asyncio.to_thread(threaded.create, a_record())
            threaded.close()
        assert new_primary("DBSIZE") == 2


# --- somebody's own client -----------------------------------------------------------------------------------------------


async def test_a_client_that_was_handed_in_stays_open(valkey: Valkey, prefix: str) -> None:
    own = client.Redis(port=valkey.port)
    store = RedisStore.from_client(own, prefix=prefix, timeout=5)
    await store.create(a_record())
    await store.close()
    assert await own.ping()
    await own.aclose()
