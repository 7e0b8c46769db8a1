"""Sessions for Quart, at `quart.session`: Quart's own interface and settings, with a store."""

from __future__ import annotations

from typing import Any

from quart import (
    Quart,
    Response,
    current_app,
    got_request_exception,
    got_websocket_exception,
    has_request_context,
    request,
    websocket,
)
from quart.sessions import SessionInterface, SessionMixin
from quart.typing import ResponseReturnValue
from quart.wrappers import BaseRequestWebsocket, Websocket
from werkzeug.datastructures import Headers

from coatcheck.errors import CoatcheckError, SessionGone, TooLate
from coatcheck.flask_common import (
    Extension,
    FlaskAttributes,
    Keeper,
    cookie_is_due,
    finish,
    replace,
    vary_by_cookie,
)
from coatcheck.manager import AsyncSession, SessionManager
from coatcheck.responses import HEADERS_SENT, REFUSALS, answer_to, response_started
from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.opening import open_store

__all__ = ["QuartSession", "QuartSessionInterface", "Sessions"]

_RESPONSE_STARTED = response_started("await ")

_NO_COOKIE = TooLate(
    "new session or renewal",
    "this is a WebSocket, and Quart accepts it without a cookie of the session's, so that none can reach the browser",
    "Do it in a request before it",
)


class QuartSession(AsyncSession, FlaskAttributes):
    """`quart.session`: a `coatcheck.AsyncSession` that has `permanent`, `new`, `modified` and `accessed` too."""

    unread: CoatcheckError | None = None
    """Why it could not be read. Whoever does not look at it is served all the same."""

    def _look(self) -> dict[str, str]:
        if self.unread is not None and not self.loaded:
            self.looked_at = True
            raise self.unread
        return super()._look()


class QuartSessionInterface(Keeper[Quart, SessionManager, AsyncStore], SessionInterface):
    """Gives Quart its sessions from a store. Its methods `get_cookie_…` may be overridden as those of Quart's own."""

    manager_class = SessionManager

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> QuartSession:
        """See `quart.sessions.SessionInterface`. A request that shows a ticket has its session read at once."""
        manager = self.manager_of(app)
        session = QuartSession(manager, manager.ticket_of(request.scope["headers"]))
        try:
            await session.load()
        except REFUSALS as error:
            session.unread = error
        if isinstance(request, Websocket):
            session.close(None, _NO_COOKIE)
        return session

    async def save_session(self, app: Quart, session: SessionMixin, response: Any) -> None:
        """See `quart.sessions.SessionInterface`. If the session cannot be stored, the response becomes 409 or 503."""
        assert isinstance(session, QuartSession)
        again = False
        if not _scope().pop(_FAILED, False):
            again = response is not None and cookie_is_due(self, app, session)
            try:
                surely = session.prepare()
                if surely or not session.manager.is_settled(session):
                    await session.manager.commit(session, surely=surely)
            except REFUSALS as error:
                if response is None:  # a WebSocket that has ended
                    if not isinstance(error, SessionGone):
                        raise
                    return
                replace(response, answer_to(error))
                return
            session.stored()
        if response is None:
            return
        session.close(_RESPONSE_STARTED, HEADERS_SENT)
        finish(self, app, session, response, again=again)
        if isinstance(response.response, Response.iterable_body_class):
            vary_by_cookie(response)  # what makes it may look at the session when it has begun


class Sessions(Extension[Quart, AsyncStore]):
    """An extension that keeps Quart's sessions in a store.

        sessions = Sessions(app, store="redis://localhost:6379")

    Quart's settings mean what they mean for its own sessions: all that begin with `SESSION_`, and
    `PERMANENT_SESSION_LIFETIME`, after which a session that is not used ends.

    Args:
        app: the application; or call `init_app` later.
        store: a URL such as `redis://localhost:6379`, closed when the application has been served, or a store; by default
            the application's setting `COATCHECK_STORE`.
        settings: for what Quart has no settings of its own; see `coatcheck.flask.Sessions`.
        codec: how values are encoded; JSON by default.
        observers: called with each `coatcheck.events.Event`; by default each is logged.

    Raises:
        ConfigurationError: a setting that cannot work, or no store.
    """

    interface_class = QuartSessionInterface

    def init_app(self, app: Quart) -> None:
        """Give this application its sessions from the store."""
        super().init_app(app)
        got_request_exception.connect(_note_failure, app)
        got_websocket_exception.connect(_note_failure, app)

        @app.before_serving
        async def start() -> None:
            await _manager(app).start()

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the current application's sessions can be served, for a view that a readiness probe asks.

        Args:
            timeout: seconds to wait at most for a store that has to join others; `None` for as long as it takes.
        """
        return await _manager(current_app).ready(timeout=timeout)

    def _open(self, app: Quart, url: str) -> AsyncStore:
        store = open_store(url)
        app.after_serving(store.close)
        return store

    @staticmethod
    async def _answer(error: CoatcheckError) -> ResponseReturnValue:
        answer = answer_to(error)
        return answer.text, answer.status, Headers(answer.headers)


def _manager(app: Quart) -> SessionManager:
    interface = app.session_interface
    assert isinstance(interface, QuartSessionInterface)
    return interface.manager_of(app)


_FAILED = "coatcheck.failed"
"""In the scope, not in `g`, which several requests share inside one application context, as tests like to have it."""


def _scope() -> Any:
    return request.scope if has_request_context() else websocket.scope


async def _note_failure(app: Quart, **_: Any) -> None:
    """An exception that nobody handled: what the request changed before it is not stored."""
    _scope()[_FAILED] = True
