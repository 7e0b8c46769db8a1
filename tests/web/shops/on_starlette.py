"""The shop on Starlette."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coatcheck import AsyncSession
from coatcheck.starlette import SessionMiddleware
from tests.web.shops.pages import SETTINGS, STORE, await_at, page


async def ready(request: Request) -> Response:
    session = request.session
    assert isinstance(session, AsyncSession)
    return Response(status_code=200 if await session.manager.ready(timeout=0) else 503)


async def shop(request: Request) -> Response:
    text = page(request.session, request.url.path, request.url.query)
    await await_at(request.headers.get("x-gate"))
    return PlainTextResponse(text)


def make() -> Starlette:
    return Starlette(
        routes=[Route("/ready", ready), Route("/{path:path}", shop, methods=["GET", "POST"])],
        middleware=[Middleware(SessionMiddleware, store=STORE, settings=SETTINGS)],
    )
