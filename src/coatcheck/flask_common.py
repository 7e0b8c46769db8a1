"""What the sessions of Flask and of Quart have in common: Flask's attributes of a session, and its settings of the cookie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from flask.sessions import SessionMixin
from markupsafe import Markup
from werkzeug.http import dump_cookie

from coatcheck.codec import Codec
from coatcheck.cookie import SEEN
from coatcheck.errors import ConfigurationError
from coatcheck.events import Observer
from coatcheck.manager import ManagedSession
from coatcheck.observers.logs import log
from coatcheck.responses import REFUSALS, Answer, finish_text_headers
from coatcheck.settings import CookieSettings, Settings
from coatcheck.tags import carry

App = TypeVar("App", bound=Any)
Manager = TypeVar("Manager")
Store = TypeVar("Store")

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


class Keeper(Generic[App, Manager, Store]):
    """What both session interfaces do: run the sessions by the application's present settings."""

    manager_class: ClassVar[Callable[..., Any]]

    def __init__(
        self, app: App, store: Store, settings: Settings, codec: Codec | None, observers: tuple[Observer, ...]
    ) -> None:
        self.store = store
        self._base = settings
        self._codec = codec
        self._observers = observers
        self._configure(app)

    def _configure(self, app: App) -> None:
        present = present_settings(self, app)
        settings = settings_of(self, app, self._base)
        self._manager: Manager = self.manager_class(self.store, settings, codec=self._codec, observers=self._observers)
        self._present = present  # last, so that settings that cannot work are refused at each request

    def manager_of(self, app: App) -> Manager:
        """What runs the sessions, by the application's present settings."""
        if self._present != present_settings(self, app):
            self._configure(app)
        return self._manager


class Extension(Generic[App, Store]):
    """What both extensions do: give an application its session interface."""

    interface_class: ClassVar[Callable[..., Any]]
    """Makes the interface; a subclass may name a subclass of it."""

    def __init__(
        self,
        app: App | None = None,
        *,
        store: str | Store | None = None,
        settings: Settings = FOREVER,
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        self._store = store
        self._settings = settings
        self._codec = codec
        self._observers = tuple(observers)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: App) -> None:
        """Give this application its sessions from the store."""
        named = app.config.get("COATCHECK_STORE") if self._store is None else self._store
        if named is None:
            raise ConfigurationError(
                "store", None, "no store was named",
                "Say where sessions live: Sessions(app, store='redis://localhost:6379'), or set COATCHECK_STORE",
            )  # fmt: skip
        store = self._open(app, named) if isinstance(named, str) else named
        app.session_interface = self.interface_class(app, store, self._settings, self._codec, self._observers)
        app.extensions["coatcheck"] = self
        spec = app.error_handler_spec[None][None]
        for refusal in REFUSALS:
            if refusal not in spec:  # else the application has a page of its own for it
                app.register_error_handler(refusal, self._answer)

    def _open(self, app: App, url: str) -> Store:
        raise NotImplementedError

    @staticmethod
    def _answer(error: Any) -> Any:
        raise NotImplementedError


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
    lifetime = app.permanent_session_lifetime
    try:
        return base.but(idle_timeout=lifetime, cookie=cookie)
    except ConfigurationError as error:
        raise ConfigurationError(
            "PERMANENT_SESSION_LIFETIME", lifetime, f"with these settings it cannot work as the idle timeout ({error})",
            "It takes the place of idle_timeout in settings=Settings(…): change it in app.config",
        ) from None  # fmt: skip


def present_settings(interface: Any, app: Any) -> tuple[Any, ...]:
    """What has to be looked at anew for each request: an application may change it at any time."""
    return interface.get_cookie_name(app), app.permanent_session_lifetime


def cookie_is_due(interface: Any, app: Any, session: FlaskAttributes) -> bool:
    """Whether a permanent session's cookie is sent again, so that the browser keeps it for longer."""
    return bool(
        session.looked_at
        and session.session_id is not None
        and session.permanent
        and interface.should_set_cookie(app, session)
    )


def finish(interface: Any, app: Any, session: FlaskAttributes, response: Any, *, again: bool) -> None:
    """The response as it must be with this session: its cookies if the browser needs any, and the headers for caches."""
    name, ticket = interface.get_cookie_name(app), session.ticket
    set_cookies = []
    if session.set_cookie is not None or (again and session.session_id is not None):
        value, until = ("", 0) if ticket is None else (ticket.cookie_value, interface.get_expiration_time(app, session))
        set_cookies.append(_cookie(interface, app, name, value, until))
    if session.set_seen is not None:
        value, until = ("", 0) if ticket is None or not ticket.seen else (ticket.seen_cookie_value, None)
        set_cookies.append(_cookie(interface, app, name + SEEN, value, until))
    session.set_cookie = session.set_seen = None
    headers = response.headers
    if set_cookies:
        finished = finish_text_headers(headers.to_wsgi_list(), looked_at=True, set_cookies=set_cookies)
        headers.clear()
        headers.extend(finished)
    elif session.accessed:
        vary_by_cookie(response)


def _cookie(interface: Any, app: Any, name: str, value: str, until: Any) -> str:
    """A cookie with all that Flask's settings say of the session's; one without a value is taken back."""
    return dump_cookie(
        name,
        value,
        max_age=None if value else 0,
        expires=until,
        path=interface.get_cookie_path(app),
        domain=interface.get_cookie_domain(app),
        secure=interface.get_cookie_secure(app),
        httponly=interface.get_cookie_httponly(app),
        samesite=interface.get_cookie_samesite(app),
        partitioned=interface.get_cookie_partitioned(app),
    )


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
