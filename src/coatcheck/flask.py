"""Sessions for Flask, at `flask.session`: Flask's own interface and settings, with a store."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import click
from flask import Flask, Request, Response, current_app, got_request_exception, request
from flask.cli import AppGroup
from flask.sessions import SessionInterface, SessionMixin
from flask.typing import ResponseReturnValue

from coatcheck.errors import CoatcheckError
from coatcheck.flask_common import (
    Extension,
    FlaskAttributes,
    Keeper,
    cookie_is_due,
    finish,
    replace,
    vary_by_cookie,
)
from coatcheck.responses import HEADERS_SENT, REFUSALS, answer_to, response_started
from coatcheck.stores.interface import SyncStore
from coatcheck.stores.opening import open_sync_store
from coatcheck.sync_manager import SyncSession, SyncSessionManager

__all__ = ["FlaskSession", "FlaskSessionInterface", "Sessions"]

_RESPONSE_STARTED = response_started("")


class FlaskSession(SyncSession, FlaskAttributes):
    """`flask.session`: a `coatcheck.SyncSession` that has `permanent`, `new`, `modified` and `accessed` too."""


class FlaskSessionInterface(Keeper[Flask, SyncSessionManager, SyncStore], SessionInterface):
    """Gives Flask its sessions from a store. Its methods `get_cookie_…` may be overridden as those of Flask's own."""

    manager_class = SyncSessionManager

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """See `flask.sessions.SessionInterface`. The store is asked when the session is first looked at."""
        manager = self.manager_of(app)
        return FlaskSession(manager, manager.ticket_of(request.environ.get("HTTP_COOKIE", "")))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """See `flask.sessions.SessionInterface`. If the session cannot be stored, the response becomes 409 or 503."""
        assert isinstance(session, FlaskSession)
        again = False
        failed = request.environ.pop(_FAILED, False)
        if not failed:
            again = cookie_is_due(self, app, session)
            try:
                surely = session.prepare()
                if surely or not session.manager.is_settled(session):
                    session.manager.commit(session, surely=surely)
            except REFUSALS as error:
                close = getattr(response.response, "close", None)
                if close is not None:
                    close()
                response.direct_passthrough = False
                replace(response, answer_to(error))
                return
            session.stored()
        session.close(_RESPONSE_STARTED, HEADERS_SENT)
        finish(self, app, session, response, again=again)
        if response.is_streamed and not response.direct_passthrough:
            vary_by_cookie(response)  # what makes it may look at the session when it has begun
            if not failed:
                response.call_on_close(partial(_refuse_what_came_too_late, session))


class Sessions(Extension[Flask, SyncStore]):
    """An extension that keeps Flask's sessions in a store.

        sessions = Sessions(app, store="redis://localhost:6379")

    Flask's settings mean what they mean for its own sessions: all that begin with `SESSION_`, and
    `PERMANENT_SESSION_LIFETIME`, after which a session that is not used ends.

    Args:
        app: the application; or call `init_app` later, for one or more.
        store: a URL such as `redis://localhost:6379`, or a store from `open_sync_store`; by default the application's setting
            `COATCHECK_STORE`.
        settings: for what Flask has no settings of its own: `absolute_timeout` (default never, as in Flask), `touch_every`,
            `renew_every`, `renew_grace`, `store_timeout`. `idle_timeout` and `cookie` come from Flask.
        codec: how values are encoded; JSON by default.
        observers: called with each `coatcheck.events.Event`; by default each is logged.

    Raises:
        ConfigurationError: a setting that cannot work, or no store.
    """

    interface_class = FlaskSessionInterface

    def init_app(self, app: Flask) -> None:
        """Give this application its sessions from the store."""
        super().init_app(app)
        got_request_exception.connect(_note_failure, app)
        app.cli.add_command(_commands)

    def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the current application's sessions can be served, for a view that a readiness probe asks.

        Args:
            timeout: seconds to wait at most for a store that has to join others; `None` for as long as it takes.
        """
        return _manager().ready(timeout=timeout)

    def close(self) -> None:
        """Close the stores that were given as URLs."""
        for store in self._opened:
            store.close()

    @cached_property
    def _opened(self) -> list[SyncStore]:
        return []

    def _open(self, app: Flask, url: str) -> SyncStore:
        self._opened.append(open_sync_store(url))
        return self._opened[-1]

    @staticmethod
    def _answer(error: CoatcheckError) -> ResponseReturnValue:
        answer = answer_to(error)
        return answer.text, answer.status, answer.headers


def _refuse_what_came_too_late(session: FlaskSession) -> None:
    """A value that a stream changed in place: no other change gets as far as this."""
    if session.sealed and session.delta():
        raise _RESPONSE_STARTED.anew()


_FAILED = "coatcheck.failed"
"""In `environ`, not in `g`, which several requests share inside one application context, as tests like to have it."""


def _note_failure(app: Flask, **_: Any) -> None:
    """An exception that nobody handled: what the request changed before it is not stored."""
    request.environ[_FAILED] = True


# --- flask coatcheck … ----------------------------------------------------------------------------------------------------

_commands = AppGroup("coatcheck", help="Sessions in the store.")


def _manager() -> SyncSessionManager:
    interface = current_app.session_interface
    assert isinstance(interface, FlaskSessionInterface)
    return interface.manager_of(current_app)


@_commands.command("settings")
def _show_settings() -> None:
    """Show the settings in force, and the store."""
    manager = _manager()
    settings = manager.settings
    cookie = settings.cookie
    interface = current_app.session_interface
    click.echo(f"store             {manager.store!r}")
    click.echo(f"idle timeout      {settings.idle_ms / 1000:g} s")
    absolute = "never" if settings.absolute_ms is None else f"{settings.absolute_ms / 1000:g} s"
    click.echo(f"absolute timeout  {absolute}")
    click.echo(f"cookie            {cookie.name}, path {cookie.path}, domain {cookie.domain or 'this host alone'}")
    flags = {
        "Secure": interface.get_cookie_secure(current_app),
        "HttpOnly": interface.get_cookie_httponly(current_app),
        f"SameSite={interface.get_cookie_samesite(current_app)}": interface.get_cookie_samesite(current_app),
        "Partitioned": interface.get_cookie_partitioned(current_app),
    }
    click.echo(f"                  {', '.join(flag for flag, there in flags.items() if there) or 'no flags'}")


_PATIENCE = 10.0
"""Seconds that whoever types a command waits for the store, rather than a user's `store_timeout`."""


@_commands.command("list")
@click.argument("owner")
def _list_sessions(owner: str) -> None:
    """List the live sessions of OWNER, as given to session.renew(owner=…)."""
    for record in _manager().sessions_of(owner, timeout=_PATIENCE):
        used, ends = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (record.touched_ms, record.expires_ms))
        click.echo(f"{record.session_id}  last used {used:%Y-%m-%d %H:%M} UTC, ends {ends:%Y-%m-%d %H:%M} UTC")


@_commands.command("end")
@click.argument("owner")
@click.option("--but", metavar="ID", help="A session id to spare.")
def _end_sessions(owner: str, but: str | None) -> None:
    """End all sessions of OWNER, on every server."""
    click.echo(f"ended {_manager().end_sessions_of(owner, but=but, timeout=_PATIENCE)}")
