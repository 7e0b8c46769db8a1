"""Responses that go on after they have begun: what can be changed when, and what happens when it is too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from coatcheck.errors import SessionGone, TooLate
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.interface import AsyncStore
from tests.servers.browser import Browser
from tests.servers.fixtures import Opener
from tests.web.shop import PATIENT

Streamer: TypeAlias = Callable[[Any], AsyncIterator[str]]


def site(
    store: AsyncStore,
    stream: Streamer,
    before: Callable[[Any], object] = lambda session: None,
    headers: dict[str, str] | None = None,
) -> Starlette:
    """A site with one stream: `before` is done to the session before it begins."""

    async def enter(request: Request) -> Response:
        request.session.update(user="garimoo", basket=["tea"])
        return PlainTextResponse("welcome")

    async def leave(request: Request) -> Response:
        session: Any = request.session
        session.destroy()
        return PlainTextResponse("bye")

    async def page(request: Request) -> Response:
        return PlainTextResponse(str(dict(request.session)))

    async def streamed(request: Request) -> Response:
        before(request.session)
        return StreamingResponse(stream(request.session), headers=headers)

    return Starlette(
        routes=[Route("/enter", enter), Route("/leave", leave), Route("/page", page), Route("/stream", streamed)],
        middleware=[Middleware(SessionMiddleware, store=store, settings=PATIENT)],
    )


async def outcome(app: Starlette, ticket: str | None) -> str:
    """What the stream gives to this ticket. What it raises is raised here."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        headers = {} if ticket is None else {"cookie": f"__Host-session={ticket}"}
        return (await client.get("/stream", headers=headers)).text


async def test_a_change_after_the_start_says_what_to_do(open_sessions: Opener) -> None:
    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        session["late"] = 1

    app = site(open_sessions(), stream, before=dict)
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        with pytest.raises(TooLate, match=r"await session\.reload\(\).*await session\.commit\(\)"):
            await outcome(app, visitor.ticket)
        assert "late" not in (await visitor.get("/page")).text


async def test_a_value_changed_in_place_after_the_start_is_noticed(open_sessions: Opener) -> None:
    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        session["basket"].append("cups")

    app = site(open_sessions(), stream, before=dict)
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        with pytest.raises(TooLate, match="Change it earlier"):
            await outcome(app, visitor.ticket)
        assert "cups" not in (await visitor.get("/page")).text


@pytest.mark.parametrize("act", ["set", "renew", "login"])
async def test_no_ticket_can_be_had_after_the_start(open_sessions: Opener, act: str) -> None:
    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        if act == "set":
            session["first"] = 1
        else:
            session.renew(owner="garimoo" if act == "login" else None)

    app = site(open_sessions(), stream, before=dict)
    with pytest.raises(TooLate):
        await outcome(app, None)


async def test_a_renewal_in_a_stream_is_too_late_even_after_reload(open_sessions: Opener) -> None:
    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        await session.reload()
        session.renew()

    app = site(open_sessions(), stream, before=dict)
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        with pytest.raises(TooLate, match="no cookie can reach the browser"):
            await outcome(app, visitor.ticket)
        assert "garimoo" in (await visitor.get("/page")).text


async def test_a_stream_reloads_and_commits(open_sessions: Opener) -> None:
    tab: list[Awaitable[Any]] = []

    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        await tab.pop()
        assert "note" not in session
        await session.reload()
        yield session["note"]
        session["answer"] = 42
        await session.commit()

    async def note(request: Request) -> Response:
        request.session["note"] = "news"
        return PlainTextResponse("noted")

    app = site(open_sessions(), stream, before=dict)
    app.router.routes.append(Route("/note", note))
    async with Browser(app) as visitor, Browser(app) as other:
        await visitor.get("/enter")
        other.ticket = visitor.ticket
        tab.append(other.get("/note"))
        assert await outcome(app, visitor.ticket) == "begunnews"
        assert "'answer': 42" in (await visitor.get("/page")).text


async def test_a_stream_learns_that_its_session_is_gone(open_sessions: Opener) -> None:
    tab: list[Awaitable[Any]] = []

    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        await tab.pop()
        try:
            await session.reload()
        except SessionGone:
            yield ", gone"

    app = site(open_sessions(), stream, before=dict)
    async with Browser(app) as visitor, Browser(app) as other:
        await visitor.get("/enter")
        other.ticket = visitor.ticket
        tab.append(other.get("/leave"))
        assert await outcome(app, visitor.ticket) == "begun, gone"


async def test_a_commit_in_a_stream_never_revives(open_sessions: Opener) -> None:
    tab: list[Awaitable[Any]] = []

    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        await session.reload()
        session["late"] = 1
        await tab.pop()
        try:
            await session.commit()
        except SessionGone:
            yield ", refused"
        await asyncio.sleep(0)

    app = site(open_sessions(), stream, before=dict)
    async with Browser(app) as visitor, Browser(app) as other:
        await visitor.get("/enter")
        other.ticket = visitor.ticket
        tab.append(other.get("/leave"))
        with pytest.raises(SessionGone):  # what is left to be stored at the end is refused again, aloud
            await outcome(app, visitor.ticket)
        assert (await visitor.get("/page")).text == "{}"


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])  # Starlette streams in two ways
async def test_a_refused_stream_ends_without_ado(open_sessions: Opener, spec_version: str) -> None:
    """The 409 stands in for the whole response; the stream is not driven on for nobody, and nothing is raised."""
    tab: list[Awaitable[Any]] = []
    went_on = False

    async def stream(session: Any) -> AsyncIterator[str]:
        nonlocal went_on
        yield "begun"
        went_on = True
        yield "never sent"

    def change(session: Any) -> None:
        session["late"] = 1

    store = open_sessions()
    app = site(store, stream, before=change)

    class LogoutFirst:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["asgi"] = {"version": "3.0", "spec_version": spec_version}

            async def slowly(message: Any) -> None:
                if tab:
                    await tab.pop()
                await send(message)

            await self.app(scope, receive, slowly)

    app.user_middleware.append(Middleware(LogoutFirst))
    async with Browser(app) as visitor, Browser(app) as other:
        await visitor.get("/enter")
        other.ticket = visitor.ticket
        tab.append(other.get("/leave"))
        assert "nothing was saved" in await outcome(app, visitor.ticket)
        assert not went_on


async def late_look(session: Any) -> AsyncIterator[str]:
    yield "begun"
    yield session.get("user", "nobody")


async def test_a_first_look_after_the_start_is_refused(open_sessions: Opener) -> None:
    """The headers left without `Vary: Cookie`, so what the stream reads could be handed to somebody else."""
    app = site(open_sessions(), late_look)
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        for ticket in (visitor.ticket, None):
            with pytest.raises(
                TooLate, match=r"without `Vary: Cookie`.*Look at the session before the response begins"
            ):
                await outcome(app, ticket)
    assert await outcome(site(open_sessions(), late_look, before=dict), visitor.ticket) == "begungarimoo"


@pytest.mark.parametrize("header", ["Vary: Cookie", "Vary: *", "Cache-Control: no-store", "Cache-Control: private"])
async def test_a_first_look_after_the_start_is_fine_where_no_cache_shares(open_sessions: Opener, header: str) -> None:
    app = site(open_sessions(), late_look, headers=dict([header.split(": ")]))
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        assert await outcome(app, visitor.ticket) == "begungarimoo"


async def test_a_mistake_made_again_and_again_costs_no_memory(open_sessions: Opener) -> None:
    async def stream(session: Any) -> AsyncIterator[str]:
        yield "begun"
        session["late"] = 1

    app = site(open_sessions(), stream, before=dict)
    lengths = []
    async with Browser(app) as visitor:
        await visitor.get("/enter")
        for _ in range(5):
            with pytest.raises(TooLate) as raised:
                await outcome(app, visitor.ticket)
            lengths.append(len(raised.traceback))
    assert len(set(lengths)) == 1, "the same exception is raised each time, and its traceback grows"
