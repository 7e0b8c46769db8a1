"""The cookies, of the ticket and of the freshness token: finding one in a request, writing it into a response.

Headers are annotated as Any, for compiled code: in ASGI any two byte strings are a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from mypy_extensions import mypyc_attr

from coatcheck.settings import CookieSettings


@mypyc_attr(allow_interpreted_subclasses=True)
class Cookie:
    """Reads and writes one cookie. Names match by exact bytes, as a browser that enforces `__Host-` matches them.

    Args:
        settings: the ticket's.
        suffix: of the name, for a cookie beside it. The browser keeps that one until it closes.
    """

    def __init__(self, settings: CookieSettings, suffix: str = "") -> None:
        name = self._name = (settings.name or "") + suffix
        self._start = f"{name}=".encode("ascii")
        where = f"; Path={settings.path}" + (f"; Domain={settings.domain}" if settings.domain else "")
        how = f"; HttpOnly; SameSite={settings.same_site.capitalize()}" + ("; Secure" if settings.secure else "")
        age = "" if settings.max_age is None or suffix else f"; Max-Age={settings.max_age}"
        self._write_end = age + where + how
        self._erase = f'{name}=""; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{where}{how}'

    def find(self, headers: Iterable[Any]) -> list[bytes]:
        """All values of this cookie in a request's headers, as they were sent. More than one is somebody's trick.

        Only space and tab are trimmed: a name that differs by any other byte, Unicode space included, is another name.
        """
        start = self._start
        found = []
        for header in headers:
            if header[0] == b"cookie":
                line = header[1] if isinstance(header[1], bytes) else bytes(header[1])
                for pair in line.split(b";"):
                    if not pair.startswith(start):
                        pair = pair.lstrip(b" \t")
                        if not pair.startswith(start):
                            continue
                    found.append(pair[len(start) :].rstrip(b" \t"))
        return found

    def write(self, value: str) -> str:
        """The `Set-Cookie` value that hands it over."""
        return f"{self._name}={value}{self._write_end}"

    def erase(self) -> str:
        """The `Set-Cookie` value that takes it back."""
        return self._erase


SEEN: Final = "-seen"
"""What the name of the freshness token's cookie ends with, after that of the ticket's. It is a cookie of its own: an answer
that hands out a token may arrive after one with a new ticket, from a login beside it, and must not bring back the old one."""


def finish_headers(headers: Iterable[Any], *, looked_at: bool, set_cookies: Sequence[str]) -> list[Any]:
    """A response's headers as they must be for caches on the way not to mix up users.

    `Vary: Cookie` whenever the session was looked at; with a cookie of ours in it `Cache-Control: no-store`, unless it
    forbids storing already (RFC 9111, 5.2.2.5; ASVS 5.0, 14.2.2 and 14.3.2). Fields that would overrule it for one
    kind of cache (RFC 9213) go.
    """
    headers = list(headers)
    if set_cookies:
        stored_nowhere = b"no-store" in _words(headers, b"cache-control")
        kept_out = TARGETED_CACHE_FIELDS if stored_nowhere else (*TARGETED_CACHE_FIELDS, b"cache-control")
        headers = [(name, value) for name, value in headers if name.lower() not in kept_out]
        headers += [(b"set-cookie", set_cookie.encode("ascii")) for set_cookie in set_cookies]
        if not stored_nowhere:
            headers.append((b"cache-control", b"no-store"))
    if looked_at or set_cookies:
        for header in headers:
            if header[0].lower() == b"vary" and not _BY_COOKIE.isdisjoint(_words([header], b"vary")):
                break
        else:
            headers.append((b"vary", b"Cookie"))
    return headers


def keeps_users_apart(headers: Iterable[Any]) -> bool:
    """Whether a response with these headers may depend on the cookie: no cache gives it to another user."""
    headers = list(headers)
    if not _BY_COOKIE.isdisjoint(_words(headers, b"vary")):
        return True
    for_one = {b"no-store", b"private"} & _words(headers, b"cache-control")
    return bool(for_one) and not any(name.lower() in TARGETED_CACHE_FIELDS for name, _ in headers)


def _words(headers: Iterable[Any], field: bytes) -> set[bytes]:
    """The comma-separated parts of a header field, in lower case."""
    return {part.strip().lower() for name, value in headers if name.lower() == field for part in value.split(b",")}


_BY_COOKIE: Final = frozenset({b"cookie", b"*"})
TARGETED_CACHE_FIELDS: Final = (
    b"cdn-cache-control",
    b"cloudflare-cdn-cache-control",
    b"surrogate-control",
    b"x-accel-expires",
)
"""What overrules `Cache-Control` for one kind of cache (RFC 9213, and what was there before it)."""
