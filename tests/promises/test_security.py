"""The security table of the promises: tests named after what went wrong elsewhere."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck import asgi, starlette
from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.events import Event
from coatcheck.observers.logs import log
from coatcheck.record import Record
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.ticket import Ticket
from tests.promises.storm import STORM
from tests.servers.browser import COOKIE, Browser
from tests.servers.clock import fair_time
from tests.servers.fixtures import Opener, URLOpener
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey
from tests.web.shop import PATIENT, shop


class Spy(AsyncMemoryStore):
    """A memory store that notes what it is asked."""

    def __init__(self) -> None:
        self.sessions = MemoryStore()
        super().__init__(self.sessions)
        self.calls: list[tuple[str, str]] = []

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        self.calls.append(("create", new.session_id))
        return await super().create(new)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        self.calls.append(("read", session_id))
        return await super().read(session_id)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        self.calls.append(("update", session_id))
        return await super().update(session_id, changes)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        self.calls.append(("delete", session_id))
        return await super().delete(session_id)


def plain_asgi(store: Any) -> asgi.SessionMiddleware:
    """The smallest application on the ASGI module: each request counts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].increment("count")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(scope["session"]["count"]).encode()})

    return asgi.SessionMiddleware(app, store=store, settings=PATIENT)


def on_starlette(store: Any) -> starlette.SessionMiddleware:
    async def count(request: Request) -> Response:
        session: Any = request.session
        session.increment("count")
        return PlainTextResponse(str(session["count"]))

    return starlette.SessionMiddleware(Route("/count", count), store, settings=PATIENT)


MODULES: dict[str, Callable[[Any], Any]] = {"asgi": plain_asgi, "starlette": on_starlette}


# --- fixation: litestar 2.25 and starsessions 2.2.1 adopt an invented id ---------------------------------------------


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("kind", ["invented", "empty", "malformed", "expired", "revoked", "wrong secret", "duplicate"])
async def test_fixation_no_ticket_is_ever_adopted(module: str, kind: str) -> None:
    now = [1_800_000_000_000]
    store = AsyncMemoryStore(MemoryStore(clock=lambda: now[0]))
    app = MODULES[module](store)
    planted: str = Ticket.new().cookie_value
    if kind in ("expired", "revoked", "wrong secret"):
        async with Browser(app) as attacker:
            assert (await attacker.get("/count")).text == "1"
            planted = attacker.ticket or ""
        if kind == "expired":
            now[0] += 8 * 86_400_000
        elif kind == "revoked":
            await store.delete(planted[:16])
        else:
            planted = planted[:16] + "x" * 32
    planted = {"empty": "", "malformed": "attacker", "duplicate": f"{planted}; {COOKIE}={planted}"}.get(kind, planted)
    async with Browser(app, ticket=planted) as victim:
        assert (await victim.get("/count")).text == "1"
        assert victim.ticket is not None
        assert planted[:16] not in victim.ticket or not planted
    if kind != "duplicate":
        async with Browser(app, ticket=planted) as attacker:
            assert (await attacker.get("/count")).text == "1", "the attacker's ticket opens the victim's session"


# --- CVE-2022-25896, CVE-2023-29019, CVE-2019-10158: login without a new secret --------------------------------------


async def test_cve_2022_25896_login_renews_the_secret_on_every_server(open_sessions: Opener) -> None:
    servers = [shop(open_sessions()) for _ in range(3)]
    async with Browser(servers[0]) as visitor:
        await visitor.post("/put?a=1")
        old = visitor.ticket
        await visitor.post("/login?user=garimoo")
        assert visitor.ticket != old
        assert visitor.session_id == (old or "")[:16]
    for server in servers:
        async with Browser(server, ticket=old) as attacker:
            assert (await attacker.get("/page")).json() == {}
            assert (await attacker.post("/count")).status_code == 200
            assert attacker.session_id != visitor.session_id
    async with Browser(servers[1], ticket=visitor.ticket) as visitor:
        assert (await visitor.get("/page")).json() == {"user": "garimoo"}


# --- CVE-2023-29020: what was planted before the login survives it ---------------------------------------------------


async def test_cve_2023_29020_login_drops_anonymous_fields(open_sessions: Opener) -> None:
    here, there = shop(open_sessions()), shop(open_sessions())
    async with Browser(here) as visitor, Browser(there) as beside:
        await visitor.post("/put?csrf=planted&kept=1")
        await visitor.post("/add/planted")
        beside.ticket = visitor.ticket
        # Planted while the login is under way: nothing of it has been seen by the login's request.
        await beside.post("/put?meanwhile=planted")
        await visitor.post("/login?user=garimoo&keep=kept")
        assert (await visitor.get("/page")).json() == {"kept": "1", "user": "garimoo"}
        await visitor.post("/put?own=1")
        await visitor.post("/login?user=garimoo")
        assert (await visitor.get("/page")).json() == {"kept": "1", "user": "garimoo", "own": "1"}, "the same owner"
        await visitor.post("/login?user=somebody-else")
        assert (await visitor.get("/page")).json() == {"user": "somebody-else"}


# --- CVE-2018-1000814, CVE-2024-31999: replaying a cookie that is over -----------------------------------------------


async def test_cve_2018_1000814_a_destroyed_cookie_cannot_be_replayed(open_sessions: Opener) -> None:
    here, there = shop(open_sessions()), shop(open_sessions())
    async with Browser(here) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        await visitor.post("/logout")
    for app in (here, there):
        async with Browser(app, ticket=ticket) as replay:
            assert (await replay.get("/page")).json() == {}


async def test_cve_2024_31999_an_expired_cookie_cannot_be_replayed() -> None:
    now = [1_800_000_000_000]
    store = AsyncMemoryStore(MemoryStore(clock=lambda: now[0]))
    app = shop(store, settings=PATIENT.but(idle_timeout=100, absolute_timeout=1000))
    async with Browser(app) as idle, Browser(app) as busy:
        await idle.post("/login?user=garimoo")
        await busy.post("/login?user=garimoo")
        tickets = idle.ticket, busy.ticket
        for _ in range(19):
            now[0] += 51_000
            assert (await busy.get("/page")).json() == {"user": "garimoo"}
        assert (await idle.get("/page")).json() == {}, "the idle timeout"
        now[0] += 51_000
        assert (await busy.get("/page")).json() == {}, "the absolute timeout ends even a busy session"
        for ticket in tickets:
            async with Browser(app, ticket=ticket) as replay:
                assert (await replay.get("/page")).json() == {}


async def test_an_expired_session_is_over_in_valkey_too(
    open_store: URLOpener, valkey_url: str, prefix: str, valkey: Valkey
) -> None:
    app = shop(open_store(valkey_url), settings=PATIENT.but(idle_timeout=0.15))
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket
        async with asyncio.timeout(10):
            while valkey("EXISTS", f"{prefix}session:{visitor.session_id}"):
                await asyncio.sleep(0.02)
        async with Browser(app, ticket=ticket) as replay:
            assert (await replay.get("/page")).json() == {}


# --- CVE-2015-5143, CVE-2015-5963, CVE-2015-5964: anybody can fill the store -----------------------------------------


async def test_cve_2015_5143_ten_thousand_strangers_leave_no_record() -> None:
    store = Spy()
    app = plain = shop(store)
    paths = ("/page", "/untouched", "/logout", "/flush")
    async with Browser(app) as stranger:
        for number in range(STORM):
            stranger.ticket = Ticket.new().cookie_value if number % 3 else None
            path = paths[number % len(paths)]
            response = await stranger.request("POST" if path in ("/logout", "/flush") else "GET", path)
            assert response.status_code == 200
            assert "set-cookie" not in response.headers or "Max-Age=0" in response.headers["set-cookie"]
    assert plain is app
    assert len(store) == 0
    assert {call for call, _ in store.calls} == {"read"}


async def test_cve_2015_5963_the_same_in_valkey(
    open_store: URLOpener, valkey: Valkey, valkey_url: str, prefix: str
) -> None:
    app = shop(open_store(valkey_url))
    paths = ("/page", "/logout", "/flush")
    async with Browser(app) as stranger:
        for number in range(STORM // 20):
            stranger.ticket = Ticket.new().cookie_value
            path = paths[number % len(paths)]
            await stranger.request("GET" if path == "/page" else "POST", path)
    assert valkey("KEYS", f"{prefix}*") == []


# --- CVE-2019-16782: what the store holds opens a session ------------------------------------------------------------


async def test_cve_2019_16782_only_a_hash_is_stored_and_it_opens_nothing(
    open_store: URLOpener, valkey: Valkey, valkey_url: str, prefix: str
) -> None:
    app = shop(open_store(valkey_url), settings=PATIENT.but(renew_every=1000))
    async with Browser(app) as visitor:
        await visitor.post("/put?a=1")
        before = visitor.ticket or ""
        await visitor.post("/login?user=garimoo")
        ticket = visitor.ticket or ""
        secret = ticket[16:]
        everything = b""
        for key in valkey("KEYS", f"{prefix}*"):
            everything += key + repr(valkey("DUMP", key)).encode()
            if valkey("TYPE", key) == b"hash":
                everything += repr(valkey("HGETALL", key)).encode()
        assert secret.encode() not in everything
        assert before[16:].encode() not in everything
        session_id, stored = valkey("HGET", f"{prefix}session:{ticket[:16]}", "@ticket").decode().split()
        assert session_id == ticket[:16]
        assert stored == base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()
        for forged in (stored, ticket[:16] + stored, ticket[:16] + stored[:32], ticket[:16] + stored[32:]):
            async with Browser(app, ticket=forged) as thief:
                assert (await thief.get("/page")).json() == {}


# --- CVE-2013-0263: comparisons that leak by their time --------------------------------------------------------------


async def test_cve_2013_0263_every_comparison_of_secrets_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each proof passes through `hmac.compare_digest`: without it no ticket opens anything."""
    app = shop(AsyncMemoryStore())
    async with Browser(app) as visitor:
        await visitor.post("/login?user=garimoo")
        compared: list[tuple[bytes, bytes]] = []
        monkeypatch.setattr("coatcheck.ticket.compare_digest", lambda a, b: compared.append((a, b)))
        assert (await visitor.get("/page")).json() == {}
    assert len(compared) == 1
    assert all(len(one) == 44 for one in compared[0])


# --- CVE-2023-20866: secrets in logs ---------------------------------------------------------------------------------


@contextlib.contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """Every logger there is, at its most talkative, with tracebacks."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)r"))
    names = [None, "coatcheck", "asyncio", "redis", "uvicorn", "starlette", *logging.root.manager.loggerDict]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    logging.root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
    try:
        yield written
    finally:
        logging.root.removeHandler(handler)
        for logger, level, disabled in before:
            logger.setLevel(level)
            logger.disabled = disabled


async def test_cve_2023_20866_no_secret_in_any_log_traceback_or_repr(
    open_store: URLOpener, valkey: Valkey, proxy: Proxy, prefix: str
) -> None:
    """A whole life, with everything that can go wrong, while everybody talks."""
    secrets: set[str] = set()
    shown: list[str] = []
    events: list[Event] = []
    asyncio.get_running_loop().set_debug(True)
    with everything_logged() as written:
        store = open_store(f"{proxy.url}?prefix={prefix}")
        app = shop(store, observers=[log, events.append])

        async def look(request: Request) -> Response:
            session: Any = request.session
            shown.extend(
                [repr(session), str(session), repr(session.ticket), repr(session.manager), repr(session.map("cart"))]
            )
            session["confidential"] = "value-of-the-user"
            try:
                session["confidential"] = object()
            except TypeError:
                shown.append(traceback.format_exc())
            for doing in ("raise", "commit"):
                try:
                    if doing == "raise":
                        session.increment("user")
                    else:
                        await session.commit()
                except Exception as error:
                    shown.extend([repr(error), str(error), *_with_locals(error)])
            return PlainTextResponse("seen")

        app.router.routes.append(Route("/look", look, methods=["POST"]))
        async with Browser(app) as visitor:

            async def act(path: str) -> None:
                with contextlib.suppress(Exception):
                    await visitor.request("GET" if path == "/page" else "POST", path)
                if visitor.ticket:
                    secrets.add(visitor.ticket[16:])

            for path in ("/put?a=1", "/login?user=garimoo", "/page", "/look", "/boom", "/login?user=other", "/look"):
                await act(path)
            proxy.judge = lambda command: "cut after"
            await act("/look")
            await act("/count")
            proxy.judge = lambda command: "pass"
            await visitor.get_when_up("/page")
            proxy.judge = lambda command: b":1\r\n" if command.number % 2 else b"$-1\r\n"
            await act("/page")
            await act("/look")
            proxy.judge = lambda command: "pass"
            await visitor.get_when_up("/page")
            valkey("HSET", f"{prefix}session:{visitor.session_id}", "user", b"\xff", "@version", "x")
            await act("/look")
            await act("/login?user=third")
            visitor.ticket = (visitor.ticket or "")[:16] + "W" * 32
            secrets.add("W" * 32)
            await act("/page")
            await act("/logout")
            shown.extend([repr(store), repr(events), str(events)])
    text = written.getvalue() + "\n".join(shown)
    assert len(secrets) >= 4
    assert "coatcheck" in text
    assert "foreign_reply" in text
    for secret in secrets:
        assert secret not in text
    assert "value-of-the-user" not in written.getvalue()


def _with_locals(error: BaseException) -> list[str]:
    """A traceback as crash reporters write it: with the `repr` of every local variable of the library's own frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [line for line in told.format() if "Browser" not in line]


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:PASSWORD@127.0.0.1:1/0",
        "redis://:PASSWORD@127.0.0.1:1/0",
        "redis://PASSWORD@127.0.0.1:1/0",
        "redis://user:PASSWORD@127.0.0.1:1/0?nosuch=1",
        "redis://user:PASSWORD@127.0.0.1:1/0?timeout=soon",
        "redis://user:PASSWORD@127.0.0.1:1/0?timeout=-1",
        "redis://user:PASSWORD@127.0.0.1:1/0?password=PASSWORD",
        "redis://user:PASSWORD@127.0.0.1:1/zero",
        "redis://user:PASSWORD@127.0.0.1:1/-1",
        "redis://user:PASSWORD@127.0.0.1:1?db=zero",
        "redis://user:PASSWORD@127.0.0.1:port/0",
        "redis://user:PASSWORD@127.0.0.1:99999/0",
        "redis://user:PASSWORD@[::1/0",
        "redis://user:PASS/PASSWORD@127.0.0.1:1/0",
        "redis://user:PASSWORD/x@127.0.0.1:1/0",
        "redis://user:PASSWORD#x@127.0.0.1:1/0",
        "redis://user:PASSWORD?x@127.0.0.1:1/0",
        "redis://user:1?PASSWORD@127.0.0.1:1/0",
        "redis://user:1/PASSWORD@127.0.0.1:1/0",
        "redis://user:1#PASSWORD@127.0.0.1:1/0",
        "memory://user:PASSWORD@127.0.0.1",
        "redis://user:PASSWORD@127.0.0.1:1/0?ssl_ca_certs=/nowhere",
        "rediss://user:PASSWORD@127.0.0.1:1/0?ssl_ca_certs=/nowhere",
        "nosuch://user:PASSWORD@127.0.0.1/0",
        "user:PASSWORD@127.0.0.1",
        "redis:user:PASSWORD@127.0.0.1",
    ],
)
async def test_a_password_in_a_url_is_shown_nowhere(url: str) -> None:
    from coatcheck import SessionManager

    with everything_logged() as written:
        shown: list[str] = []
        try:
            manager = SessionManager(url, observers=[log])
            shown.append(repr(manager.store))
            async with Browser(shop(manager.store, observers=[log]), ticket=Ticket.new().cookie_value) as visitor:
                shown.append((await visitor.get("/page")).text)
            with pytest.raises(StoreUnavailable) as down:
                await manager.store.read("A" * 16)
            shown.extend([repr(down.value), *traceback.format_exception(down.value)])
            await manager.close()
        except ConfigurationError as error:
            shown.extend([repr(error), *traceback.format_exception(error)])
    assert "PASSWORD" not in (written.getvalue() + "".join(shown)).replace(f'"{url}"', "")


# --- CVE-2013-7489, CVE-2021-33026: a pickle in the store is executed ------------------------------------------------


class Bomb:
    exploded = False

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    Bomb.exploded = True


async def test_cve_2021_33026_a_pickle_planted_in_the_store_is_inert(
    open_store: URLOpener, valkey: Valkey, valkey_url: str, prefix: str
) -> None:
    bomb = pickle.dumps(Bomb())
    app = shop(open_store(valkey_url))
    async with Browser(app) as visitor:
        await visitor.post("/put?good=1&bad=1")
        key = f"{prefix}session:{visitor.session_id}"
        code = json.dumps({"py/reduce": [{"py/type": "tests.promises.test_security._explode"}, []]})
        for field, planted in (
            ("bad", bomb),
            ("@owner", bomb),
            ("bad", code),
            ("bad", "__import__('os')"),
            ("@life", bomb),
        ):
            valkey("HSET", key, field, planted)
            answer = await visitor.get("/page")
            assert answer.status_code == 200
            assert "Bomb" not in answer.text
        valkey("SET", key, bomb)
        assert (await visitor.get("/page")).json() == {}
    assert not Bomb.exploded
    pickle.loads(bomb)
    assert Bomb.exploded, "the bomb would have worked"
    Bomb.exploded = False


# --- CVE-2020-9484, CVE-2025-24813: ids that are paths, patterns and commands ----------------------------------------

ODD = [
    b"../" * 16, b"..%2f" * 10, b"\x00" * 48, b"A" * 47 + b"\x00", b"A" * 1_000_000, b"A" * 47, b"A" * 49, b"*" * 48,
    b"{" * 24 + b"}" * 24, b"A" * 46 + b"\r\n", b"A" * 47 + b"\n", b"A" * 47 + b" ", b"A" * 47 + b"\xff", b"\xff" * 48,
    "\uff21".encode() * 16, b"A" * 47 + b"=", b"A" * 47 + b"+", b"A" * 47 + b"/", b"", b'"' + b"A" * 48 + b'"',
    b"null", b"None",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("module", MODULES)
async def test_cve_2020_9484_odd_tickets_are_refused_before_the_store_is_asked(module: str, value: bytes) -> None:
    store = Spy()
    status, headers, _ = await raw(MODULES[module](store), [(b"cookie", COOKIE.encode() + b"=" + value)])
    assert status == 200
    assert [call for call, _ in store.calls] == ["create"], "nothing but the new session of this request"
    assert b"set-cookie" in headers


async def test_a_cookie_header_of_any_length_takes_no_time() -> None:
    app = plain_asgi(Spy())
    name = COOKIE.encode()
    for line in (
        name + b"=" + b" " * 60_000 + b"x",
        b"; ".join([name] * 5_000),
        (name + b"=;") * 5_000,
        b";" * 60_000,
        b" " * 60_000 + name,
        (b"; " + b" " * 300) * 200,
        name + b"=" + b"\t " * 30_000 + b";",
    ):
        began = fair_time()
        status, _, _ = await raw(app, [(b"cookie", line)])
        assert (status, fair_time() - began < 1) == (200, True), line[:40]


# --- `__Host-` bypass with Unicode space, and duplicates -------------------------------------------------------------


@pytest.mark.parametrize(
    "space", [b"\xc2\x85", b"\xc2\xa0", b"\xe2\x80\x80", b"\xe3\x80\x80", b"\x0b", b"\x0c", b"\x85", b"\xa0"]
)
@pytest.mark.parametrize("module", MODULES)
async def test_a_cookie_whose_name_is_padded_with_unicode_space_is_another_cookie(module: str, space: bytes) -> None:
    """Any site of the domain may set `\\u2000__Host-session`; a server that trims it has no `__Host-` any more."""
    store = Spy()
    app = MODULES[module](store)
    async with Browser(app) as attacker:
        await attacker.get("/count")
        ticket = (attacker.ticket or "").encode()
    for planted in (space + COOKIE.encode() + b"=", COOKIE.encode() + space + b"="):
        store.calls.clear()
        await raw(app, [(b"cookie", planted + ticket)])
        assert ("read", ticket[:16].decode()) not in store.calls
        # Beside the real one it is no duplicate either: nobody can shut a user out by planting it.
        await raw(app, [(b"cookie", planted + b"x; " + COOKIE.encode() + b"=" + ticket)])
        assert ("read", ticket[:16].decode()) in store.calls


@pytest.mark.parametrize("name", ["__host-session", "__HOST-SESSION", "session", "__Host-session2", "x__Host-session"])
async def test_names_match_by_exact_bytes(name: str) -> None:
    store = Spy()
    await raw(plain_asgi(store), [(b"cookie", f"{name}={Ticket.new().cookie_value}".encode())])
    assert [call for call, _ in store.calls] == ["create"]


@pytest.mark.parametrize("apart", [False, True], ids=["in one header", "in two"])
@pytest.mark.parametrize("module", MODULES)
async def test_duplicates_are_refused(module: str, apart: bool) -> None:
    store = Spy()
    app = MODULES[module](store)
    async with Browser(app) as visitor:
        await visitor.get("/count")
    mine = f"{COOKIE}={visitor.ticket}".encode()
    planted = f"{COOKIE}={Ticket.new().cookie_value}".encode()
    for first, second in ((mine, planted), (planted, mine), (mine, mine)):
        store.calls.clear()
        headers = [(b"cookie", first), (b"cookie", second)] if apart else [(b"cookie", first + b"; " + second)]
        await raw(app, headers)
        assert [call for call, _ in store.calls] == ["create"]


# --- CVE-2025-12390: an id is used again -----------------------------------------------------------------------------


async def test_cve_2025_12390_an_id_is_never_used_again(open_sessions: Opener) -> None:
    app = shop(open_sessions())
    seen: list[str | None] = []
    async with Browser(app) as visitor:
        for _ in range(50):
            await visitor.post("/login?user=garimoo")
            seen.append(visitor.session_id)
            old = visitor.ticket
            await visitor.post("/logout")
            visitor.ticket = old  # a browser that did not listen
    assert len(set(seen)) == 50
    assert None not in seen


async def raw(app: Any, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request with headers that no well-behaved client would send."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "https",
        "path": "/count", "raw_path": b"/count", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("testserver", 443),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(part.get("body", b"") for part in sent[1:])
