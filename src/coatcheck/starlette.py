"""Sessions for Starlette and FastAPI, at `request.session`: the stock middleware's keywords, with a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from coatcheck import asgi
from coatcheck.asgi import ASGIApp
from coatcheck.codec import Codec
from coatcheck.errors import ConfigurationError
from coatcheck.events import Observer
from coatcheck.observers.logs import log
from coatcheck.settings import CookieSettings, SameSite, Seconds, Settings
from coatcheck.stores.interface import AsyncStore

__all__ = ["SessionMiddleware"]

_TWO_WEEKS = 14 * 86_400
_LEFT_OUT = (None, _TWO_WEEKS, "/", "lax", True, None, None, "default")


class SessionMiddleware(asgi.SessionMiddleware):
    """`starlette.middleware.sessions.SessionMiddleware` with sessions on the server.

        middleware=[Middleware(SessionMiddleware, store="redis://localhost:6379")]

    Keywords that Starlette's own middleware has mean what they mean there, with safer defaults: the cookie is Secure and
    bound to the host unless told otherwise. For development over plain HTTP pass `https_only=False`.

    Args:
        app: the application.
        store: a URL such as `redis://localhost:6379`, or a store.
        session_cookie: the cookie's name; `None` (default) for `__Host-session`, or what the other keywords allow.
        max_age: seconds for which the browser keeps the cookie, counted anew while the session is used; also the idle
            timeout unless `idle_timeout` is given. Default 14 days, as in Starlette. `None`: until the browser closes.
        path: the part of the site that gets the cookie.
        same_site: `lax`, `strict` or `none`.
        https_only: send the cookie over HTTPS only. Default `True`.
        domain: share the session with the subdomains of this domain.
        idle_timeout: a session ends when unused for so long; seconds or a timedelta. Default `max_age`, or 2 hours.
        absolute_timeout: a session ends so long after it began, or after the last login. `None` for never. Default:
            7 days, or `max_age` or `idle_timeout` if that is longer.
        settings: all settings at once, in place of the keywords above.
        load, codec, observers: see `coatcheck.asgi.SessionMiddleware`.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: str | AsyncStore,
        session_cookie: str | None = None,
        max_age: int | None = _TWO_WEEKS,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        *,
        idle_timeout: Seconds | None = None,
        absolute_timeout: Seconds | Literal["default"] | None = "default",
        settings: Settings | None = None,
        load: Literal["eager", "explicit"] = "eager",
        codec: Codec | None = None,
        observers: Iterable[Observer] = (log,),
    ) -> None:
        given = (session_cookie, max_age, path, same_site, https_only, domain, idle_timeout, absolute_timeout)
        if settings is None:
            cookie = CookieSettings(
                name=session_cookie, secure=https_only, same_site=same_site, path=path, domain=domain, max_age=max_age
            )
            if idle_timeout is None:
                idle_timeout = 2 * 3600 if max_age is None else max_age
            settings = Settings(idle_timeout=idle_timeout, absolute_timeout=None, cookie=cookie)
            if absolute_timeout == "default":
                absolute_timeout = max(7 * 86_400, settings.idle_ms / 1000)
            settings = settings.but(absolute_timeout=absolute_timeout)
        elif given != _LEFT_OUT:
            raise ConfigurationError(
                "settings",
                "given together with keywords",
                "either would overrule the other",
                "Put all into Settings(…)",
            )
        super().__init__(app, store=store, settings=settings, load=load, codec=codec, observers=observers)
