"""A store of which each server keeps copies: the browser shows what it has seen already, and gets no less."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck import CookieSettings, Settings, SyncSessionManager
from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.events import Event
from coatcheck.record import Record
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.ticket import LONGEST_SEEN, Ticket
from tests.servers.browser import Browser
from tests.web.shop import shop


class Copies(MemoryStore):
    """Reads what it has a copy of from there, however old: what it is asked for by version at least, it has looked up."""

    def __init__(self, origin: MemoryStore) -> None:
        super().__init__()
        self.origin = origin
        self._copies: dict[str, Record | None] = {}

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self._handing_out(self.origin.create(new))

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        applied = self.origin.update(session_id, changes)
        self._copies.pop(session_id, None)
        return self._handing_out(applied)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self.origin.delete(session_id)

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        if session_id not in self._copies:
            self._copies[session_id] = self.origin.read(session_id)
        return self._copies[session_id]

    def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        if not seen.isdecimal():
            return FreshRead(self.read(session_id), seen="")
        copy = self.read(session_id)
        if copy is not None and copy.version >= int(seen):
            return FreshRead(copy)
        record = self._copies[session_id] = self.origin.read(session_id)
        if record is None or record.version >= int(seen):
            return FreshRead(record)
        return FreshRead(record, "rolled back", str(record.version))

    def _handing_out(self, applied: Applied) -> Applied:
        return Applied(
            applied.version, applied.touched_ms, applied.counters, applied.renewed, seen=str(applied.version)
        )


class AsyncCopies(AsyncMemoryStore):
    def __init__(self, origin: MemoryStore) -> None:
        self.copies = Copies(origin)
        super().__init__(self.copies)

    async def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        return self.copies.read_fresh(session_id, seen)


@pytest.fixture
def origin() -> MemoryStore:
    return MemoryStore()


def two_servers(origin: MemoryStore, **options: Any) -> tuple[Any, Any]:
    return shop(AsyncCopies(origin), **options), shop(AsyncCopies(origin), **options)


def the_same(browser: Browser, app: Any) -> Browser:
    """The same browser, at another server."""
    there = Browser(app, ticket=browser.ticket)
    there.seen = browser.seen
    return there


async def test_a_browser_reads_its_own_writes_on_any_server(origin: MemoryStore) -> None:
    a, b = two_servers(origin)
    async with Browser(a) as here, Browser(b) as there:
        for number in range(1, 6):
            for one, other in ((here, there), (there, here)):
                answer = await one.post("/add/tea")
                assert "no-store" in answer.headers["cache-control"]
                other.ticket, other.seen = one.ticket, one.seen
                assert (await other.get("/page")).json() == {"cart[tea]": 2 * number - (one is here)}
        await there.get("/page")
        await here.post("/add/tea")
        async with Browser(b, ticket=here.ticket) as without_token, the_same(here, b) as with_token:
            assert (await without_token.get("/page")).json() == {"cart[tea]": 10}, "or the token has no part in it"
            assert (await with_token.get("/page")).json() == {"cart[tea]": 11}


async def test_reading_and_what_stores_nothing_write_no_cookie(origin: MemoryStore) -> None:
    a, b = two_servers(origin)
    async with Browser(a) as visitor:
        await visitor.post("/add/tea")
        async with the_same(visitor, b) as there:
            for _ in range(3):
                assert "set-cookie" not in (await there.get("/page")).headers
                assert "set-cookie" not in (await there.get("/untouched")).headers


async def test_the_token_has_a_cookie_of_its_own_as_safe_as_the_tickets(origin: MemoryStore) -> None:
    app = shop(AsyncCopies(origin), settings=Settings(cookie=CookieSettings(max_age=3600)))
    async with Browser(app) as visitor:
        first = (await visitor.post("/add/tea")).headers.get_list("set-cookie")
        assert [cookie.partition("=")[0] for cookie in first] == ["__Host-session", "__Host-session-seen"]
        for attribute in ("Path=/", "HttpOnly", "SameSite=Lax", "Secure"):
            assert attribute in first[1]
        assert ["Max-Age" in cookie for cookie in first] == [True, False], "what it is for is over in seconds"
        [second] = (await visitor.post("/add/tea")).headers.get_list("set-cookie")
        assert second.startswith("__Host-session-seen="), "the ticket is not written again"
        await visitor.post("/logout")
        assert (visitor.ticket, visitor.seen) == (None, None)


async def test_what_was_lost_is_reported_once_and_not_asked_for_again(origin: MemoryStore) -> None:
    events: list[Event] = []
    app = shop(AsyncCopies(origin), observers=[events.append])
    async with Browser(app) as visitor:
        await visitor.post("/add/tea")
        assert visitor.ticket is not None
        visitor.seen = visitor.ticket[:4] + "9"  # as if the store had lost its last commits
        page = await visitor.get("/page")
        assert (page.json(), visitor.seen) == ({"cart[tea]": 1}, visitor.ticket[:4] + "1")
        assert "no-store" in page.headers["cache-control"]
        assert "Cookie" in page.headers["vary"]
        assert "set-cookie" not in (await visitor.get("/page")).headers
        assert [event.name for event in events].count("rolled_back") == 1


async def test_a_token_that_is_none_or_another_sessions_is_none(origin: MemoryStore) -> None:
    a, _ = two_servers(origin)
    async with Browser(a) as visitor, Browser(a) as mallory:
        await visitor.post("/add/tea")
        for _ in range(3):  # so that it would be ahead of the other's
            await mallory.post("/add/gold")
        for forged in ("", "x", "../" * 20, "A" * 5000, str(mallory.seen), f'"{visitor.seen}"', f"{visitor.seen} "):
            visitor.seen = forged
            page = await visitor.get("/page")
            assert (page.json(), "set-cookie" in page.headers) == ({"cart[tea]": 1}, False)


async def test_a_token_opens_nothing(origin: MemoryStore) -> None:
    events: list[Event] = []
    a = shop(AsyncCopies(origin), observers=[events.append])
    async with Browser(a) as visitor, Browser(a) as thief:
        await visitor.post("/login?user=garimoo")
        assert visitor.ticket is not None
        thief.ticket, thief.seen = visitor.ticket[:16] + "A" * 32, visitor.ticket[:4] + "99"
        page = await thief.get("/page")
        assert (page.json(), "set-cookie" in page.headers) == ({}, False), "nor is a new token handed out"
        assert "rolled_back" not in [event.name for event in events]
        invented = Ticket.new()
        thief.ticket, thief.seen = invented.cookie_value, invented.session_id[:4] + "1"
        assert (await thief.get("/page")).json() == {}
        await thief.post("/add/gold")
        assert thief.session_id not in (None, invented.session_id), "nothing is adopted"


async def test_a_late_answer_with_a_token_does_not_bring_back_the_ticket_from_before_a_login(
    origin: MemoryStore,
) -> None:
    """A slow request stores in the middle and answers at its end, when its user has logged in beside it."""
    stored, over = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        session: Any = request.session
        session["slow"] = True
        await session.commit()
        stored.set()
        await over.wait()
        return PlainTextResponse("at last")

    store = AsyncCopies(origin)
    app = Starlette(routes=[Route("/slow", slow)], middleware=[Middleware(SessionMiddleware, store=store)])
    async with Browser(shop(store)) as visitor, the_same(visitor, app) as tab:
        await visitor.post("/put?a=1")
        tab.ticket = visitor.ticket
        answer = asyncio.create_task(tab.get("/slow"))
        await stored.wait()
        await visitor.post("/login?user=garimoo&keep=slow")
        over.set()
        for cookie in (await answer).headers.get_list("set-cookie"):
            visitor._take(cookie)  # both tabs are one browser's
        assert (await visitor.get("/page")).json() == {"slow": True, "user": "garimoo"}


def test_the_same_without_await(origin: MemoryStore) -> None:
    here, there = (SyncSessionManager(Copies(origin)) for _ in range(2))
    session = here.session_for("")
    session["cart"] = 1
    session.commit()
    cookies = {cookie.partition("=")[0]: cookie.partition(";")[0] for cookie in session.set_cookies}
    assert there.session_for("; ".join(cookies.values()))["cart"] == 1
    session = here.session_for("; ".join(cookies.values()))
    session["cart"] = 2
    session.commit()
    [token] = session.set_cookies
    assert there.session_for(cookies["__Host-session"])["cart"] == 1, "or the token has no part in it"
    assert there.session_for(f"{cookies['__Host-session']}; {token.partition(';')[0]}")["cart"] == 2


def test_stores_without_the_power_see_and_write_none() -> None:
    manager = SyncSessionManager(MemoryStore())
    session = manager.session_for("")
    session["a"] = 1
    session.commit()
    [cookie] = session.set_cookies
    ticket = cookie.partition(";")[0]
    session = manager.session_for(
        f"{ticket}; __Host-session-seen={session.session_id[:4] if session.session_id else ''}5"
    )
    session["a"] = 2
    session.commit()
    assert session.set_cookies == ()


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_anything_may_be_shown_as_a_token(value: bytes | str) -> None:
    ticket = Ticket.new()
    ticket.show(value)
    assert ticket.seen == ""


@given(st.from_regex(rf"[A-Za-z0-9_.~-]{{1,{LONGEST_SEEN}}}", fullmatch=True))
def test_a_token_comes_back_as_it_was_and_for_its_own_session_only(token: str) -> None:
    ticket = Ticket.new()
    ticket.seen = token
    same, renewed, other = Ticket.parse(ticket.cookie_value), ticket.renewed(), Ticket.new()
    assert same is not None
    same.show(ticket.seen_cookie_value)
    other.show(ticket.seen_cookie_value)
    assert (same.seen, renewed.seen, other.seen) == (token, token, "")
    same.show(ticket.seen_cookie_value + "x" * LONGEST_SEEN)
    assert same.seen == ""
