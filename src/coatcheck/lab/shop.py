"""The shop: a small web application with a cart in its session, and the process that serves it.

    PUT /cart          {"shopper": "shopper-7", "items": {"hat-s7-g1": 2}}    replaces the whole cart
    GET /cart          {"server": "web-1", "shopper": "shopper-7", "items": {"hat-s7-g1": 2}}
    POST /cart/hat     puts one more into the cart; `?wait=50` lets the request take 50 ms longer
    POST /logout       ends the session

Nothing in it knows which architecture it runs in. Only the store's URL differs. For measuring, the lab itself asks each
web server (`POST /lab/fill?count=100&bytes=1000`, to have so many sessions; `POST /lab/prepare` and `/lab/work`, to do
nothing but session work; `GET /lab/traffic`; `GET /lab/has?ids=…`, which of some sessions it finds), and
`coatcheck.lab.meter` adds a header to every answer.

Started as `python -m coatcheck.lab.shop NAME SOCKET`, with the number of a bound socket that it inherits, and the
store's URL in the environment (a URL may hold a password, and arguments can be read by everybody on the machine).
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coatcheck.changes import Changes, NewRecord
from coatcheck.errors import StoreError
from coatcheck.lab.architectures import SINGLE_VALUE
from coatcheck.lab.content import content
from coatcheck.lab.haproxy import HEALTH_PATH
from coatcheck.lab.meter import Meter, MeteredStore, traffic
from coatcheck.lab.processes import STORE_VARIABLE
from coatcheck.session import Session
from coatcheck.starlette import SessionMiddleware
from coatcheck.stores.interface import AsyncJoining, AsyncStore
from coatcheck.stores.opening import open_store
from coatcheck.ticket import Ticket, is_session_id, new_operation_id

SERVER_HEADER = "x-served-by"
IDLE_TIMEOUT = 600  # seconds; sessions in a store that outlives the run are gone soon after

_FILLED_AT_ONCE = 50
_KEEP_ALIVE = 120  # seconds; longer than a balancer keeps an idle connection, so that it is never the server who closes


def open_shop_store(url: str) -> AsyncStore:
    """The store for a URL: one of the library's, or the lab's own baseline."""
    if url.startswith(SINGLE_VALUE):
        from coatcheck.lab.single_value import SingleValueStore

        return SingleValueStore(url.removeprefix(SINGLE_VALUE))
    return open_store(url)


def create_shop(server: str, store: AsyncStore, port: int = 0) -> Starlette:
    """The application.

    Args:
        server: the name by which this server signs its answers.
        store: where it keeps its sessions.
        port: where it serves.
    """
    sessions, store = store, MeteredStore(store)
    workers: list[NewRecord] = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if isinstance(sessions, AsyncJoining):
            await sessions.start()
        yield
        await sessions.close()

    def answer(session: Session) -> Response:
        shown = {"server": server, "shopper": session.get("shopper"), "items": dict(session.map("cart"))}
        return JSONResponse(shown, headers={SERVER_HEADER: server})

    async def cart(request: Request) -> Response:
        session = cast(Session, request.session)  # Starlette declares a dict; coatcheck's mapping can do more
        if request.method == "PUT":
            order = await request.json()
            session["shopper"] = order["shopper"]
            if "profile" in order:
                session["profile"] = order["profile"]
            items = session.map("cart")
            items.clear()
            items.update(order["items"])
        return answer(session)

    async def add(request: Request) -> Response:
        session = cast(Session, request.session)
        session.map("cart").increment(request.path_params["item"])
        await asyncio.sleep(int(request.query_params.get("wait", 0)) / 1000)
        return answer(session)

    async def logout(request: Request) -> Response:
        cast(Session, request.session).destroy()
        return JSONResponse({"server": server}, headers={SERVER_HEADER: server})

    async def health(_request: Request) -> Response:
        if isinstance(sessions, AsyncJoining) and not await sessions.ready(timeout=0):
            return PlainTextResponse("its sessions are still on their way here", 503)
        return PlainTextResponse("ok")

    async def fill(request: Request) -> Response:
        count, size = (int(request.query_params[name]) for name in ("count", "bytes"))
        for begin in range(0, count, _FILLED_AT_ONCE):
            some = range(begin, min(begin + _FILLED_AT_ONCE, count))
            await asyncio.gather(*(store.create(_anybody(number, size)) for number in some))
        gc.collect()
        return PlainTextResponse("ok")

    async def prepare(request: Request) -> Response:
        count, size = (int(request.query_params[name]) for name in ("count", "bytes"))
        workers[:] = [_anybody(number, size) for number in range(count)]
        for begin in range(0, count, _FILLED_AT_ONCE):
            await asyncio.gather(*(sessions.create(new) for new in workers[begin : begin + _FILLED_AT_ONCE]))
        return PlainTextResponse("ok")

    async def work(request: Request) -> Response:
        asked = request.query_params
        return JSONResponse(
            await do_work(sessions, workers, asked["kind"], int(asked["count"]), float(asked["write_share"]))
        )

    async def tell_traffic(_request: Request) -> Response:
        counted = traffic(port)
        return JSONResponse(None if counted is None else {"sent": counted.sent, "received": counted.received})

    async def has(request: Request) -> Response:
        asked = [each for each in request.query_params.get("ids", "").split(",") if is_session_id(each)]
        try:
            records = await asyncio.gather(*(store.read(each) for each in asked))
        except StoreError:
            return JSONResponse(None)
        return JSONResponse([each for each, record in zip(asked, records, strict=True) if record is not None])

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/cart", cart, methods=["GET", "PUT"]),
            Route("/cart/{item}", add, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route(HEALTH_PATH, health),
            Route("/lab/fill", fill, methods=["POST"]),
            Route("/lab/prepare", prepare, methods=["POST"]),
            Route("/lab/work", work, methods=["POST"]),
            Route("/lab/traffic", tell_traffic),
            Route("/lab/has", has),
        ],
        middleware=[
            Middleware(Meter),
            # Plain HTTP, so the cookie cannot be Secure. This warns, and rightly so; here nothing leaves the machine.
            Middleware(SessionMiddleware, store=store, https_only=False, idle_timeout=IDLE_TIMEOUT),
        ],
    )


def _anybody(number: int, size: int) -> NewRecord:
    """Somebody's session, with `size` bytes besides the name."""
    ticket = Ticket.new()
    return NewRecord(
        session_id=ticket.session_id,
        secret_hash=ticket.secret_hash,
        fields={"shopper": f'"anybody-{number}"', "profile": f'"{content(size, ticket.session_id)}"'},
        idle_ms=IDLE_TIMEOUT * 1000,
        absolute_ms=None,
        owner=None,
        operation=new_operation_id(),
    )


async def do_work(
    store: AsyncStore, people: Sequence[NewRecord], kind: str, count: int, write_share: float
) -> list[int]:
    """Have people with sessions do `count` pieces of work between them, all at once; gives the microseconds that each took.

    What they do is that of `coatcheck.lab.samples.Burst.kind`.
    """
    turns, waits = iter(range(count)), list[int]()
    every = round(1 / write_share) if write_share else 0

    async def come(person: NewRecord) -> None:
        changes = Changes(proof=person.secret_hash, idle_ms=person.idle_ms, increments={"hits": 1})
        for turn in turns:
            begun = time.perf_counter()
            if kind == "create":
                ticket = Ticket.new()
                await store.create(replace(person, session_id=ticket.session_id, operation=new_operation_id()))
            if kind in ("read", "visit"):
                await store.read(person.session_id)
            if kind == "change" or (kind == "visit" and every and turn % every == 0):
                await store.update(person.session_id, replace(changes, operation=new_operation_id()))
            waits.append(round((time.perf_counter() - begun) * 1e6))

    await asyncio.gather(*(come(person) for person in people))
    return waits


def main() -> None:
    """Serve the shop until SIGTERM."""
    server, number = sys.argv[1], int(sys.argv[2])
    listening = socket.socket(fileno=number)
    config = uvicorn.Config(
        create_shop(server, open_shop_store(os.environ[STORE_VARIABLE]), listening.getsockname()[1]),
        access_log=False,  # the history has every request, as the shopper saw it
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=1,
        log_level="info",
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
