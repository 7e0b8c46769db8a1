"""A shop whose sessions are on every web server: no Redis, no database.

    SHOP_STORE=replicated://127.0.0.1:7946-7947 uvicorn --factory --workers 2 examples.all_to_all.visits:shop

`/ready` tells the balancer whether this process has all sessions. `kubernetes.yaml` beside this file runs three of them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from coatcheck import open_store
from coatcheck.starlette import SessionMiddleware


def shop() -> Starlette:
    """The application of one process."""
    sessions: Any = open_store(os.environ["SHOP_STORE"])

    async def ready(request: Request) -> PlainTextResponse:
        there = await sessions.ready(timeout=0)
        return PlainTextResponse("ready" if there else "not yet", 200 if there else 503)

    async def visit(request: Request) -> PlainTextResponse:
        session: Any = request.session
        session.increment("visits")
        return PlainTextResponse(f"visit {session['visits']}, served by process {os.getpid()}\n")

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        yield
        await sessions.close()

    return Starlette(
        lifespan=closing,
        routes=[Route("/ready", ready), Route("/", visit)],
        middleware=[Middleware(SessionMiddleware, store=sessions)],
    )
