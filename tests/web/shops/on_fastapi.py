"""The shop on FastAPI, with the session as an annotated dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from coatcheck import AsyncSession
from coatcheck.starlette import SessionMiddleware
from tests.web.shops.pages import SETTINGS, STORE, await_at, page


def current_session(request: Request) -> AsyncSession:
    session = request.session
    assert isinstance(session, AsyncSession)
    return session


async def ready(session: Annotated[AsyncSession, Depends(current_session)], response: Response) -> None:
    if not await session.manager.ready(timeout=0):
        response.status_code = 503


async def shop(request: Request, session: Annotated[AsyncSession, Depends(current_session)]) -> PlainTextResponse:
    text = page(session, request.url.path, request.url.query)
    await await_at(request.headers.get("x-gate"))
    return PlainTextResponse(text)


def make() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/ready", ready)
    app.add_api_route("/{path:path}", shop, methods=["GET", "POST"])
    app.add_middleware(SessionMiddleware, store=STORE, settings=SETTINGS)
    return app
