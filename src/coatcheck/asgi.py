"""Sessions for any ASGI application, at `scope["session"]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, Final, TypeAlias

from mypy_extensions import mypyc_attr

from coatcheck.codec import Codec
from coatcheck.cookie import finish_headers
from coatcheck.errors import CoatcheckError, ConfigurationError
from coatcheck.events import Observer
from coatcheck.manager import AsyncSession, SessionManager
from coatcheck.observers.logs import log
from coatcheck.responses import (
    HEADERS_SENT,
    REFUSALS,
    ResponseReplaced,
    answer_to,
    as_bytes,
    refuse_first_look,
    response_started,
)
from coatcheck.settings import Settings
from coatcheck.stores.interface import AsyncStore

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@mypyc_attr(allow_interpreted_subclasses=True)
class SessionMiddleware:
    """Gives each http and websocket request its session, as a mapping, at `scope["session"]`.

    The session is committed when the response starts, before its first byte leaves, so an answer that the user sees is an
    answer whose changes are stored. An exception that leaves the application commits nothing. If the commit is refused,
    the handler's response is replaced: 409 if the session ended or changed meanwhile, 503 with `Retry-After` if the store
    is down. Neither ever touches the browser's cookie.

    A WebSocket commits when it is accepted and when it ends, and in between with `await session.commit()`.

    Args:
        app: the application.
        store: a URL such as `redis://localhost:6379`, or a store. A URL's store is closed at the end of the lifespan.
        settings: timeouts and cookie; see `coatcheck.Settings`.
        load: `eager` (default) reads the session before the application is called, if the request shows a ticket, so
            that `scope["session"]` is a plain mapping. `explicit` reads it when the handler calls
            `await session.load()`, and not at all when it does not.
        codec: how values are encoded; JSON by default.
        observers: called with each `coatcheck.events.Event`; by default each is logged, see `coatcheck.observers.logs`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: str | AsyncStore,
        settings: Settings | None = None,
        load: Any = "eager",
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        if load not in ("eager", "explicit"):
            raise ConfigurationError("load", load, "unknown", "Use 'eager' or 'explicit'")
        self.app = app
        self.manager = SessionManager(store, settings, codec=codec, observers=observers)
        self._eager = load == "eager"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = _START.get(scope["type"])
        if start is None:
            await self._serve_other(scope, receive, send)
            return
        manager = self.manager
        session = scope["session"] = manager.session_for(scope["headers"])
        if start == "websocket.accept":
            receive = _Greeting(receive)
        response = _Response(manager, session, start, scope, send)
        try:
            if self._eager and session.ticket is not None:
                await manager.load(session)
            await self.app(scope, receive, response)
        except ResponseReplaced:
            return
        except REFUSALS as error:
            if response.started or response.replaced:
                raise
            if isinstance(receive, _Greeting) and not receive.taken:
                await receive()  # websocket.connect must be taken before it can be answered
            await _answer(error, scope, send)
            return
        except Exception as error:
            if not _comes_of_replacing(error):
                raise
        if response.started:  # what changed since then?
            if not session.sealed:
                await session.commit()
            elif session.at_rest:
                return
            elif session.delta() or session.renewing:
                raise _RESPONSE_STARTED.anew()
            elif session.ended:  # while the commit before the response was under way: a logout needs no cookie
                await session.commit()

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def receive_and_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.manager.start()
                except ConfigurationError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
            return message

        async def send_and_close(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.manager.close()
            await send(message)

        await self.app(scope, receive_and_start, send_and_close)


class _Response:
    """What the application sends through: the session is committed before the first byte, and its cookie goes with it.

    Attributes:
        started: whether the application's response has begun.
        replaced: whether it was replaced by ours, and the rest of it goes nowhere.
    """

    __slots__ = ("_manager", "_scope", "_send", "_session", "_start", "replaced", "started")

    def __init__(self, manager: SessionManager, session: AsyncSession, start: str, scope: Scope, send: Send) -> None:
        self._manager = manager
        self._session = session
        self._start = start
        self._scope = scope
        self._send = send
        self.started = self.replaced = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if self.replaced:
            # An endless stream must not go on for nobody, nor background tasks run for what was refused.
            raise ResponseReplaced
        if message["type"] != self._start:
            return self._send(message)
        if not self._manager.is_settled(self._session):
            return self._commit_and_send(message)
        self.started = True
        return self._send(self._begun(message))

    async def _commit_and_send(self, message: Message) -> None:
        try:
            await self._manager.commit(self._session)
        except REFUSALS as error:
            self.replaced = True
            await _answer(error, self._scope, self._send)
            return
        self.started = True
        await self._send(self._begun(message))

    def _begun(self, message: Message) -> Message:
        """The start of the response, as it has to be with this session."""
        session = self._session
        is_http = self._start == "http.response.start"
        session.close(_RESPONSE_STARTED if is_http else None, _HEADERS_SENT)
        looked_at, set_cookies = session.looked_at, session.set_cookies
        if looked_at or set_cookies:
            headers = finish_headers(message.get("headers", ()), looked_at=looked_at, set_cookies=set_cookies)
            return {**message, "headers": headers}
        if is_http:
            session.guard_first_look(partial(refuse_first_look, message.get("headers", ())))
        return message


_START: Final = {"http": "http.response.start", "websocket": "websocket.accept"}

_RESPONSE_STARTED: Final = response_started("await ")
_HEADERS_SENT: Final = HEADERS_SENT  # compiled code looks for no name that is Final


class _Greeting:
    """A WebSocket's `receive` that knows whether it has been called, and so whether websocket.connect has been taken."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.taken = False

    async def __call__(self) -> Message:
        self.taken = True
        return await self._receive()


def _comes_of_replacing(error: BaseException) -> bool:
    """Whether this is what the framework or a group of tasks made of `ResponseReplaced`, which is no news."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_comes_of_replacing, error.exceptions))
    return isinstance(error, ResponseReplaced) or isinstance(error.__context__, ResponseReplaced)


async def _answer(error: CoatcheckError, scope: Scope, send: Send) -> None:
    """The response in place of the application's: why nothing was stored, in words for a user. No cookie is touched."""
    answer = answer_to(error)
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1013, "reason": answer.text})  # 1013: try again later
            return
        prefix = "websocket."
    headers = as_bytes(answer.headers)
    await send({"type": f"{prefix}http.response.start", "status": answer.status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": answer.text.encode()})
