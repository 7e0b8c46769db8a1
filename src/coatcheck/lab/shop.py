"""The shop: a small web application with a cart in its session, and the process that serves it.

    PUT /cart   {"shopper": "shopper-7", "items": {"hat-s7-g1": 2}}    replaces the whole cart
    GET /cart   {"server": "web-1", "shopper": "shopper-7", "items": {"hat-s7-g1": 2}}

Nothing in it knows which architecture it runs in, or that it is being measured. Only the store's URL differs.

Started as `python -m coatcheck.lab.shop NAME SOCKET`, with the number of a bound socket that it inherits, and the
store's URL in the environment (a URL may hold a password, and arguments can be read by everybody on the machine).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coatcheck.lab.haproxy import HEALTH_PATH
from coatcheck.lab.processes import STORE_VARIABLE
from coatcheck.session import Session
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.interface import AsyncJoining
from coatcheck.stores.opening import open_store

SERVER_HEADER = "x-served-by"
IDLE_TIMEOUT = 600  # seconds; sessions in a store that outlives the run are gone soon after

_KEEP_ALIVE = 120  # seconds; longer than a balancer keeps an idle connection, so that it is never the server who closes


def create_shop(server: str, store: str) -> Starlette:
    """The application.

    Args:
        server: the name by which this server signs its answers.
        store: the URL of its session store.
    """

    async def cart(request: Request) -> Response:
        session = cast(Session, request.session)  # Starlette declares a dict; coatcheck's mapping can do more
        items = session.map("cart")
        if request.method == "PUT":
            order = await request.json()
            session["shopper"] = order["shopper"]
            items.clear()
            items.update(order["items"])
        return JSONResponse(
            {"server": server, "shopper": session.get("shopper"), "items": dict(items)},
            headers={SERVER_HEADER: server},
        )

    async def health(_request: Request) -> Response:
        if isinstance(sessions, AsyncJoining) and not await sessions.ready(timeout=0):
            return PlainTextResponse("its sessions are still on their way here", 503)
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def closing(_app: Starlette) -> AsyncIterator[None]:
        yield
        await sessions.close()

    sessions = open_store(store)
    return Starlette(
        lifespan=closing,
        routes=[Route("/cart", cart, methods=["GET", "PUT"]), Route(HEALTH_PATH, health)],
        # Plain HTTP, so the cookie cannot be Secure. This warns, and rightly so; here nothing leaves the machine.
        middleware=[Middleware(SessionMiddleware, store=sessions, https_only=False, idle_timeout=IDLE_TIMEOUT)],
    )


def main() -> None:
    """Serve the shop until SIGTERM."""
    server, number = sys.argv[1], int(sys.argv[2])
    listening = socket.socket(fileno=number)
    config = uvicorn.Config(
        create_shop(server, os.environ[STORE_VARIABLE]),
        access_log=False,  # the history has every request, as the shopper saw it
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=1,
        log_level="info",
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
