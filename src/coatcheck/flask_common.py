"""What the sessions of Flask and of Quart have in common: Flask's attributes of a session, and its settings of the cookie."""

from __future__ import annotations

from typing import Any

from flask.sessions import SessionMixin
from markupsafe import Markup
from werkzeug.http import dump_cookie

from coatcheck.codec import carry
from coatcheck.errors import ConfigurationError
from coatcheck.manager import ManagedSession
from coatcheck.responses import Answer, finish_text_headers
from coatcheck.settings import CookieSettings, Settings

FOREVER = Settings(absolute_timeout=None)
"""As in Flask itself a session that is in use ends when its user logs out."""

carry(Markup, "@html", str.__str__, Markup)  # which Flask's own sessions carry too, in flashed messages above all


class FlaskAttributes(ManagedSession, SessionMixin):
    """A session with the attributes that Flask's own have.

    `modified = True` stores the session, and so prolongs its life, even if nothing else changed. It is not needed to have
    changes noticed: values that are changed in place are noticed by themselves.
    """

    _forced = False
    _accessed = False
    _cleared = False

    @property
    def permanent(self) -> bool:
        """Whether the browser keeps the cookie for `PERMANENT_SESSION_LIFETIME`, not just until it is closed."""
        return bool(self.get("_permanent", False))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        if self.permanent is not bool(value):  # applications say so at each request, and that is no change
            self["_permanent"] = bool(value)

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether nothing has been stored yet."""
        return self.is_new

    @property
    def modified(self) -> bool:
        """Whether there is anything to store."""
        return self._forced or bool(self.delta()) or self.renewing or self.ended

    @modified.setter
    def modified(self, value: bool) -> None:
        self._forced = value

    @property
    def accessed(self) -> bool:
        """Whether the response depends on the session."""
        return self._accessed or self.looked_at

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self._accessed = value

    def copy(self) -> dict[str, Any]:
        """All that is in it, as a dict."""
        return dict(self)

    def clear(self) -> None:
        """Remove everything. It ends the session, or, if something is set after it, the ticket of the time before.

        So do applications written for Flask's own sessions log in and out.
        """
        super().clear()
        if self.session_id is not None:
            self.renew()
            self._cleared = True

    def prepare(self) -> bool:
        """Before a commit: leave out what Flask would not keep. Gives whether the store must be told, even of no change."""
        if self._forced:
            self._look()
        pending = self._pending
        if pending is not None:
            if self._cleared and self._record is not None and not self:
                self.destroy()
            elif self._record is None and self._owner is None and pending.written.keys() <= {"_permanent"}:
                self._pending = None  # no crowd of visitors who are told to be permanent can fill the store
        return self._forced and self._record is not None

    def stored(self) -> None:
        """After a commit."""
        self._forced = self._cleared = False


def settings_of(interface: Any, app: Any, base: Settings) -> Settings:
    """`base`, but with all that Flask has settings of its own for.

    Raises:
        ConfigurationError: they cannot work.
    """
    same_site = interface.get_cookie_samesite(app)
    cookie = CookieSettings(
        name=interface.get_cookie_name(app),
        secure=bool(interface.get_cookie_secure(app) or interface.get_cookie_partitioned(app)),
        same_site="lax" if same_site is None else str(same_site).lower(),  # type: ignore[arg-type]
        path=interface.get_cookie_path(app) or "/",
        domain=interface.get_cookie_domain(app) or None,
    )
    return base.but(idle_timeout=app.permanent_session_lifetime, cookie=cookie)


def present_settings(interface: Any, app: Any) -> tuple[Any, ...]:
    """What has to be looked at anew for each request: an application may change it at any time."""
    return interface.get_cookie_name(app), app.permanent_session_lifetime


def store_of(app: Any, store: Any) -> Any:
    """The store that the extension was given, or that the application's configuration names."""
    found = app.config.get("COATCHECK_STORE") if store is None else store
    if found is None:
        raise ConfigurationError(
            "store", None, "no store was named",
            "Say where sessions live: Sessions(app, store='redis://localhost:6379'), or set COATCHECK_STORE",
        )  # fmt: skip
    return found


def cookie_is_due(interface: Any, app: Any, session: FlaskAttributes) -> bool:
    """Whether a permanent session's cookie is sent again, so that the browser keeps it for longer."""
    return bool(
        session.looked_at
        and session.session_id is not None
        and session.permanent
        and interface.should_set_cookie(app, session)
    )


def finish(interface: Any, app: Any, session: FlaskAttributes, response: Any, *, again: bool) -> None:
    """The response as it must be with this session: its cookie if the browser needs one, and the headers for caches."""
    set_cookie = None
    if session.set_cookie is not None or (again and session.session_id is not None):
        ticket = session.ticket
        set_cookie = dump_cookie(
            interface.get_cookie_name(app),
            "" if ticket is None else ticket.cookie_value,
            max_age=0 if ticket is None else None,
            expires=0 if ticket is None else interface.get_expiration_time(app, session),
            path=interface.get_cookie_path(app),
            domain=interface.get_cookie_domain(app),
            secure=interface.get_cookie_secure(app),
            httponly=interface.get_cookie_httponly(app),
            samesite=interface.get_cookie_samesite(app),
            partitioned=interface.get_cookie_partitioned(app),
        )
        session.set_cookie = None
    headers = response.headers
    if set_cookie is not None:
        finished = finish_text_headers(headers.to_wsgi_list(), looked_at=True, set_cookie=set_cookie)
        headers.clear()
        headers.extend(finished)
    elif session.accessed:
        vary_by_cookie(response)


def vary_by_cookie(response: Any) -> None:
    """Tell caches on the way that the response depends on the cookie."""
    if "Vary" in response.headers:
        response.vary.add("Cookie")
    else:
        response.headers["Vary"] = "Cookie"


def replace(response: Any, answer: Answer) -> None:
    """Put our answer in place of the application's response, in the same object."""
    response.set_data(answer.text)
    response.status_code = answer.status
    response.headers.clear()
    response.headers.extend(answer.headers)
