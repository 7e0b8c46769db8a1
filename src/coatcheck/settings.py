"""Every setting of a session, its default, its unit and what it trades."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from coatcheck.errors import ConfigurationError, InsecureCookieWarning

Seconds: TypeAlias = float | timedelta
SameSite: TypeAlias = Literal["lax", "strict", "none"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # RFC 6265, 4.1.1: cookie-name = token
_LONGEST_COOKIE = 400 * 86_400  # RFC 6265bis, 5.5: browsers cap a cookie's life at 400 days
LONGEST_MS = 100 * 366 * 86_400 * 1000
"""Milliseconds that a duration may have at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieSettings:
    """The cookie that carries the ticket.

    Attributes:
        name: the cookie's name, or `None` for the safest that the other settings allow: `__Host-session`; with a
            `domain` or a `path` of your own `__Secure-session`; without `secure` plain `session`. A browser takes a
            `__Host-` cookie only from the very host it belongs to, so no sister domain can plant one.
        secure: send it over HTTPS only. Switch it off for development over plain HTTP, never else; it warns.
        same_site: `lax` (default) keeps it out of cross-site requests except links; `strict` out of these too;
            `none` sends it everywhere and needs `secure`.
        path: the part of the site that gets it.
        domain: `None` for this host alone (safest); a domain shares the session with all its subdomains.
        max_age: seconds for which the browser keeps it, counted anew at each touch; `None` until the browser closes.
            This is tidiness only: when a session ends, the server decides.
    """

    name: str | None = None
    secure: bool = True
    same_site: SameSite = "lax"
    path: str = "/"
    domain: str | None = None
    max_age: int | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            prefix = "" if not self.secure else "__Secure-" if self.domain or self.path != "/" else "__Host-"
            object.__setattr__(self, "name", prefix + "session")
        name = self.name or ""
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(
                "cookie name", name, "not a cookie name", "Use letters, digits, - and _ (RFC 6265, 4.1.1)"
            )
        if self.same_site not in ("lax", "strict", "none"):
            raise ConfigurationError("same_site", self.same_site, "unknown", "Use 'lax', 'strict' or 'none'")
        if self.same_site == "none" and not self.secure:
            raise ConfigurationError(
                "same_site", "none", "browsers refuse it without Secure", "Serve over HTTPS, or use same_site='lax'"
            )
        if not isinstance(self.path, str) or not self.path.startswith("/") or not _harmless(self.path):
            raise ConfigurationError("path", self.path, "not a cookie path", "Use a path such as '/' or '/shop'")
        if self.domain is not None and not (isinstance(self.domain, str) and self.domain and _harmless(self.domain)):
            raise ConfigurationError("domain", self.domain, "not a domain", "Use a name such as 'example.org', or None")
        if self.max_age is not None and not (type(self.max_age) is int and 0 < self.max_age <= _LONGEST_COOKIE):
            raise ConfigurationError(
                "max_age",
                self.max_age,
                "not a number of seconds that browsers take",
                f"Use whole seconds from 1 to {_LONGEST_COOKIE}, or None for a browser session",
            )
        lower = name.lower()
        if lower.startswith(("__host-", "__secure-")) and not self.secure:
            raise ConfigurationError(
                "cookie name", name, "browsers refuse this prefix without Secure",
                "Serve over HTTPS, or name the cookie 'session' for development",
            )  # fmt: skip
        if lower.startswith("__host-") and (self.domain is not None or self.path != "/"):
            raise ConfigurationError(
                "cookie name", name, "browsers refuse __Host- with a domain or a path other than /",
                "Drop domain and path, or use the prefix __Secure-",
            )  # fmt: skip
        if not self.secure:
            warnings.warn(
                "the session cookie is not Secure: anybody on the network can read it and take over sessions. "
                "Use this for development over plain HTTP only",
                InsecureCookieWarning,
                stacklevel=3,
            )


def _harmless(text: str) -> bool:
    """Whether `text` can stand in a Set-Cookie attribute: visible ASCII without the separator."""
    return all(" " < character <= "~" and character != ";" for character in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What governs a session's life.

    Attributes:
        idle_timeout: a session ends when it has not been used for this long. Default 2 hours. Shorter is safer and
            keeps the store smaller; longer is kinder.
        absolute_timeout: a session ends this long after it began, or after the last login (`renew(owner=…)`), however
            busy it is. Default 7 days; `None` for never.
        touch_every: a request that only reads extends the idle timeout at most once in this time, to save writes. A
            session may therefore end this much early. `None` (default): 5 % of the idle timeout, at most 60 s.
        renew_every: replace the ticket's secret when it is this old, so that a stolen ticket soon stops working.
            `None` (default): only at login and where the application calls `renew()`.
        renew_grace: after such a periodic renewal the previous secret still works for this long, for requests that
            were under way. Default 60 s. A browser that the new ticket never reached, because the answer with it got
            lost, is logged out after that. A renewal by the application ends the old secret at once.
        store_timeout: what one request may spend on its store, for reading and for the commit at its end together,
            connecting included; each `await session.commit()` or `reload()` of the application has its own, and so has a list
            of a user's sessions. Default 0.25 s. A slower store is answered with 503, so that each of these costs a user this
            much at most.
        cookie: the cookie that carries the ticket.

    All times are seconds (int, float) or a `timedelta`; they are kept as whole milliseconds in `idle_ms` and so on.

    Raises:
        ConfigurationError: a value that cannot work; the message names the setting, the value and the next step.
    """

    idle_timeout: Seconds = 2 * 3600
    absolute_timeout: Seconds | None = 7 * 86_400
    touch_every: Seconds | None = None
    renew_every: Seconds | None = None
    renew_grace: Seconds = 60
    store_timeout: Seconds = 0.25
    cookie: CookieSettings = CookieSettings()

    idle_ms: int = field(init=False, repr=False)
    absolute_ms: int | None = field(init=False, repr=False)
    touch_ms: int = field(init=False, repr=False)
    renew_ms: int | None = field(init=False, repr=False)
    renew_grace_ms: int = field(init=False, repr=False)
    store_ms: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.cookie, CookieSettings):
            raise ConfigurationError("cookie", self.cookie, "not a CookieSettings", "Use CookieSettings(name=…)")
        idle = _checked_ms("idle_timeout", self.idle_timeout)
        absolute = None if self.absolute_timeout is None else _checked_ms("absolute_timeout", self.absolute_timeout)
        if absolute is not None and absolute < idle:
            raise ConfigurationError(
                "absolute_timeout", self.absolute_timeout, f"shorter than idle_timeout={self.idle_timeout!r}",
                "A session cannot be idle for longer than it lives: lower idle_timeout, or raise absolute_timeout",
            )  # fmt: skip
        touch = min(idle // 20, 60_000)
        if self.touch_every is not None:
            touch = _checked_ms("touch_every", self.touch_every, least=0)
            if touch >= idle:
                raise ConfigurationError(
                    "touch_every", self.touch_every, f"not shorter than idle_timeout={self.idle_timeout!r}",
                    "A session in use would end; leave it at None, or use a tenth of idle_timeout",
                )  # fmt: skip
        object.__setattr__(self, "idle_ms", idle)
        object.__setattr__(self, "absolute_ms", absolute)
        object.__setattr__(self, "touch_ms", touch)
        object.__setattr__(
            self, "renew_ms", None if self.renew_every is None else _checked_ms("renew_every", self.renew_every)
        )
        object.__setattr__(self, "store_ms", _checked_ms("store_timeout", self.store_timeout))
        object.__setattr__(self, "renew_grace_ms", _checked_ms("renew_grace", self.renew_grace, least=0))

    def but(self, **changes: Any) -> Settings:
        """These settings with some changed, checked again."""
        return replace(self, **changes)


def _checked_ms(setting: str, time: object, *, least: int = 1) -> int:
    """`time` in milliseconds, refused with its setting's name if it cannot be a duration."""
    if isinstance(time, bool) or not isinstance(time, (int, float, timedelta)):
        raise ConfigurationError(setting, time, "not a duration", "Use seconds (a number) or a timedelta")
    try:
        ms = round((time.total_seconds() if isinstance(time, timedelta) else time) * 1000)
    except (ValueError, OverflowError):  # nan, inf
        ms = -1
    if not least <= ms <= LONGEST_MS:
        raise ConfigurationError(setting, time, "out of range", "Use a positive number of seconds, at most 100 years")
    return ms


AAL1 = Settings(idle_timeout=timedelta(days=30), absolute_timeout=timedelta(days=30))
"""NIST SP 800-63B-4, 5.1, assurance level 1: reauthenticate at least every 30 days."""

AAL2 = Settings(idle_timeout=timedelta(hours=1), absolute_timeout=timedelta(hours=24))
"""NIST SP 800-63B-4, 5.1, assurance level 2: at least every 24 hours, and after 1 hour of idleness."""

AAL3 = Settings(idle_timeout=timedelta(minutes=15), absolute_timeout=timedelta(hours=12))
"""NIST SP 800-63B-4, 5.1, assurance level 3: at least every 12 hours, and after 15 minutes of idleness."""
