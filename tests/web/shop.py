"""A small web shop: the application of the stories in this folder, and of the promises."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Lifespan
from starlette.websockets import WebSocket, WebSocketDisconnect

from coatcheck import Settings, open_store
from coatcheck.observers.logs import log
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.interface import AsyncJoining, AsyncStore

PATIENT = Settings(store_timeout=5)
"""The defaults, on a machine that may be busy with other tests."""


def shop(
    store: str | AsyncStore,
    *,
    inside: tuple[Middleware, ...] = (),
    lifespan: Lifespan[Starlette] | None = None,
    **options: Any,
) -> Starlette:
    """The shop on a store.

    Args:
        store: a URL or a store.
        inside: middleware between the sessions and the shop.
        lifespan: what to do at the start and the end.
        options: for the session middleware; left out or without `settings` and keywords, the settings are `PATIENT`.
    """
    if options.keys() <= {"observers", "load", "codec"}:
        options["settings"] = PATIENT
    sessions = Middleware(SessionMiddleware, store=store, **options)
    app = Starlette(routes=_ROUTES, middleware=[sessions, *inside], lifespan=lifespan)
    app.state.store = store
    app.state.gates = defaultdict(asyncio.Event)  # what slow requests wait for, by name
    app.state.waiting = []  # the names of the gates at which a request has arrived
    return app


def from_environment() -> Starlette:
    """The shop of a web server process: its store's URL is in `SHOP_STORE`, and how long it waits in `SHOP_PATIENCE`."""
    patience = float(os.environ.get("SHOP_PATIENCE", "5"))
    store = open_store(os.environ["SHOP_STORE"])

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        yield
        await store.close()

    return shop(store, lifespan=closing, observers=[log], settings=Settings(store_timeout=patience))


async def ready(request: Request) -> Response:
    """For the balancer: whether this process has all sessions, where it needs them."""
    store = request.app.state.store
    there = not isinstance(store, AsyncJoining) or await store.ready(timeout=0)
    return PlainTextResponse("ready" if there else "not yet", 200 if there else 503)


async def untouched(request: Request) -> Response:
    return PlainTextResponse("the same for everybody")


async def page(request: Request) -> Response:
    """What this user has, as JSON."""
    session = request.session
    return JSONResponse({name: session[name] for name in session})


async def login(request: Request) -> Response:
    session: Any = request.session
    session.renew(owner=request.query_params["user"], keep=request.query_params.getlist("keep"))
    session["user"] = request.query_params["user"]
    return PlainTextResponse("welcome")


async def logout(request: Request) -> Response:
    session: Any = request.session
    session.destroy()
    return PlainTextResponse("good-bye")


async def flush(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("nothing left")


async def put(request: Request) -> Response:
    """Set each field of the query."""
    request.session.update(request.query_params)
    await _pass_gate(request)
    return PlainTextResponse("stored")


async def count(request: Request) -> Response:
    session: Any = request.session
    session.increment("count", int(request.query_params.get("by", "1")))
    await _pass_gate(request)
    return PlainTextResponse("counted")


async def add(request: Request) -> Response:
    session: Any = request.session
    session.map("cart").increment(request.path_params["article"])
    await _pass_gate(request)
    return PlainTextResponse("in the cart")


async def transfer(request: Request) -> Response:
    """Three fields that must change together or not at all."""
    session: Any = request.session
    number = session.get("first", 0) + 1
    for name in ("first", "second", "third"):
        session[name] = number
    return PlainTextResponse(str(number))


async def careful(request: Request) -> Response:
    """Change a field, unless anybody else has changed the session meanwhile."""
    session: Any = request.session
    session.require_unchanged()
    session["note"] = request.query_params["note"]
    await _pass_gate(request)
    return PlainTextResponse("stored")


async def boom(request: Request) -> Response:
    request.session["broken"] = True
    raise RuntimeError("this handler is broken")


async def forbidden(request: Request) -> Response:
    request.session["attempts"] = request.session.get("attempts", 0) + 1
    raise HTTPException(403)


async def moved(request: Request) -> Response:
    request.session["seen"] = True
    return RedirectResponse("/page", 303)


async def wait(request: Request) -> Response:
    await _pass_gate(request)
    return PlainTextResponse("waited")


async def open_gate(request: Request) -> Response:
    request.app.state.gates[request.path_params["name"]].set()
    return PlainTextResponse("open")


async def waiting(request: Request) -> Response:
    return JSONResponse(request.app.state.waiting)


async def _pass_gate(request: Request) -> None:
    """Be as slow as the test wants: `?gate=name` waits until that gate is opened."""
    gate = request.headers.get("x-gate")
    if gate is not None:
        request.app.state.waiting.append(gate)
        await request.app.state.gates[gate].wait()


async def chat(websocket: WebSocket) -> None:
    """A WebSocket that reads, changes and commits as it is told."""
    session: Any = websocket.session
    session.setdefault("chats", 0)
    session.increment("chats")
    await websocket.accept()
    try:
        while True:
            match (await websocket.receive_text()).split():
                case ["get", name]:
                    await websocket.send_json(session.get(name))
                case ["set", name, value]:
                    session[name] = value
                    await websocket.send_text("set")
                case ["commit"]:
                    await session.commit()
                    await websocket.send_text("committed")
                case ["reload"]:
                    await session.reload()
                    await websocket.send_text("reloaded")
    except WebSocketDisconnect:
        pass


_ROUTES = [
    Route("/ready", ready),
    Route("/untouched", untouched),
    Route("/page", page),
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/flush", flush, methods=["POST"]),
    Route("/put", put, methods=["POST"]),
    Route("/count", count, methods=["POST"]),
    Route("/add/{article}", add, methods=["POST"]),
    Route("/transfer", transfer, methods=["POST"]),
    Route("/careful", careful, methods=["POST"]),
    Route("/boom", boom, methods=["POST"]),
    Route("/forbidden", forbidden, methods=["POST"]),
    Route("/moved", moved),
    Route("/wait", wait),
    Route("/gates/{name}", open_gate, methods=["POST"]),
    Route("/waiting", waiting),
    WebSocketRoute("/chat", chat),
]
