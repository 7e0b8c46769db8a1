"""Sessions for any WSGI application, at `environ["coatcheck.session"]`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from coatcheck.codec import Codec
from coatcheck.errors import CoatcheckError
from coatcheck.events import Observer
from coatcheck.observers.logs import log
from coatcheck.responses import (
    HEADERS_SENT,
    REFUSALS,
    answer_to,
    as_bytes,
    finish_text_headers,
    refuse_first_look,
    response_started,
)
from coatcheck.settings import Settings
from coatcheck.stores.interface import SyncStore
from coatcheck.sync_manager import SyncSession, SyncSessionManager

if TYPE_CHECKING:  # there is nothing to import when it runs
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

KEY = "coatcheck.session"
"""Where the session is in `environ`."""

RESPONSE_STARTED = response_started("")


class SessionMiddleware:
    """Gives each request its session, as a mapping, at `environ["coatcheck.session"]`.

    The session is read from the store when the application first looks at it, and committed when the response starts, before
    its first byte leaves. An exception that leaves the application commits nothing. If the session cannot be read or
    stored, the application's response is replaced: 409 if the session ended or changed meanwhile, 503 with `Retry-After` if
    the store is down. Neither ever touches the browser's cookie.

    A response starts, as WSGI has it, with the first piece of its body that is not empty, with the first `write()`, or with
    its end. Until then the application may call `start_response` again, with `exc_info`.

    Args:
        app: the application.
        store: a URL such as `redis://localhost:6379`, or a store from `open_sync_store`. It may be opened before a server
            forks its workers.
        settings: timeouts and cookie; see `coatcheck.Settings`.
        codec: how values are encoded; JSON by default.
        observers: called with each `coatcheck.events.Event`; by default each is logged, see `coatcheck.observers.logs`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        store: str | SyncStore,
        settings: Settings | None = None,
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        self.app = app
        self.manager = SyncSessionManager(store, settings, codec=codec, observers=observers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = environ[KEY] = self.manager.session_for(environ.get("HTTP_COOKIE", ""))
        response = _Response(self.manager, session, start_response)
        body: Iterable[bytes] = ()
        try:
            body = self.app(environ, response.start)
            if response.replacement is None and _is_complete(body, environ):
                if response.begun:  # by `write()`
                    response.end()
                else:
                    response.begin(streams=False)
                return body
        except _Replaced:
            pass
        except REFUSALS as error:
            if response.begun:
                raise
            response.replace(error)
        return _Body(response, body)

    def close(self) -> None:
        """Close the store if it was given as a URL."""
        self.manager.close()


class _Replaced(Exception):
    """The application's response was replaced by ours: it must not go on for nobody."""


class _Response:
    """One response, from what the application says to what the server is told.

    Attributes:
        begun: whether the server has been told.
        replacement: what is sent in place of the application's body.
    """

    def __init__(self, manager: SyncSessionManager, session: SyncSession, start_response: StartResponse) -> None:
        self._manager = manager
        self.session = session
        self._start_response = start_response
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Any = None
        self.begun = False
        self.replacement: bytes | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /) -> Any:
        """`start_response` for the application. Nothing leaves yet."""
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response() was called a second time without exc_info")
        if self.replacement is not None:
            raise _Replaced
        if self.begun:
            return self._start_response(
                status, headers, exc_info
            )  # which raises it: it is too late for another response
        self._head = (status, headers)
        return self.write

    def write(self, data: bytes, /) -> object:
        """What `start_response` returns, for applications that push their body."""
        if self.replacement is not None:
            raise _Replaced
        if not self.begun:
            self.begin()
        return self._write(data)

    def begin(self, *, streams: bool = True) -> None:
        """Commit the session, and tell the server how the response starts.

        Args:
            streams: whether code of the application may still run after this.

        Raises:
            _Replaced: the session could not be stored.
        """
        if self._head is None:
            raise AssertionError("the body begins before start_response() was called")
        session = self.session
        if not self._manager.is_settled(session):
            try:
                self._manager.commit(session)
            except REFUSALS as error:
                self.replace(error)
                raise _Replaced from None
        session.close(RESPONSE_STARTED, HEADERS_SENT)
        status, headers = self._head
        looked_at, set_cookies = session.looked_at, session.set_cookies
        if looked_at or set_cookies:
            headers = finish_text_headers(headers, looked_at=looked_at, set_cookies=set_cookies)
        elif streams:
            session.guard_first_look(partial(refuse_first_look, as_bytes(headers)))
        self.begun = True
        self._write = self._start_response(status, headers)

    def replace(self, error: CoatcheckError) -> None:
        """Answer ourselves."""
        answer = answer_to(error)
        self.replacement = answer.text.encode()
        self.begun = True
        self._start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", answer.headers)

    def end(self) -> None:
        """The application is done: what has it changed since the response began?"""
        session = self.session
        if not session.sealed:  # it was read anew
            session.commit()
        elif session.delta() or session.renewing:
            raise RESPONSE_STARTED.anew()


class _Body:
    """A body that comes in pieces; the response begins with the first that is not empty."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response = response
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        response = self._response
        if self._over:
            raise StopIteration
        if response.replacement is not None:
            return self._replaced()
        try:
            if self._pieces is None:
                self._pieces = iter(self._body)
            piece = b""
            while not piece:
                try:
                    piece = next(self._pieces)
                except StopIteration:
                    self._over = True
                    if not response.begun:
                        response.begin()
                    response.end()
                    raise
            if not response.begun:
                response.begin()
        except _Replaced:
            return self._replaced()
        except REFUSALS as error:
            if response.begun:
                raise
            response.replace(error)
            return self._replaced()
        return piece

    def _replaced(self) -> bytes:
        assert self._response.replacement is not None
        self._over = True
        return self._response.replacement

    def close(self) -> None:
        """For the server, which calls it whatever happens."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _is_complete(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Whether no code of the application runs any more to make this body, so that the server may have it as it is.

    A server does better with a list of one piece, whose length it knows, and with its own wrapper of a file.
    """
    if type(body) in (list, tuple):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)
