"""Where a server is, and how to be let in."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

from coatcheck.errors import ConfigurationError
from coatcheck.stores.opening import without_password
from coatcheck.stores.redis.transport import Command

T = TypeVar("T")

_NUMBER = re.compile("/?|/[0-9]+")
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server.

    Attributes:
        host, port: for TCP.
        path: of a unix socket, in place of host and port.
        tls: how to check the server's certificate and show our own; `None` for a plain connection.
        username, password: of the server's access list; `None` for the default user without a password.
        database: its number.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0

    def handshake(self) -> list[Command]:
        """What is said first on each connection; see `ESSENTIAL_REPLIES`."""
        hello: list[str | int] = ["HELLO", 3]
        if self.password is not None:
            hello += ["AUTH", self.username or "default", self.password]
        hello += ["SETNAME", "coatcheck"]
        return [
            tuple(hello),
            ("SELECT", self.database),
            # Servers before Redis 7.2 do not know these two, which is no harm.
            ("CLIENT", "SETINFO", "LIB-NAME", "coatcheck"),
            ("CLIENT", "SETINFO", "LIB-VER", version("coatcheck")),
        ]

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


ESSENTIAL_REPLIES = 2
"""How many replies to `Address.handshake` must be good: the greeting and the choice of the database."""


def parse(url: str) -> tuple[Address, dict[str, str]]:
    """The server that a URL names, and those options in its query that do not concern the connection.

    Options for TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths), `ssl_cert_reqs` (`required` or `none`),
    `ssl_check_hostname` (`true` or `false`).

    Raises:
        ConfigurationError: it names none.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        options = dict(pairs)
        unclear = "@" in parts.path + parts.query or "#" in url or len(pairs) != len(options)
        tls_options = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
        database = {"db": options.pop("db")} if "db" in options else {}
        plain = urlunsplit(parts._replace(scheme=_SCHEMES[parts.scheme.lower()], query=urlencode(database)))
        found = parse_url(plain)
        unclear = "@" in parts.path + parts.query or "#" in url or len(pairs) != len(dict(pairs))
        if parts.scheme.lower() == "unix":
            unclear = unclear or not parts.path
        else:
            unclear = unclear or not _NUMBER.fullmatch(parts.path) or "," in parts.netloc or found.get("port") == 0
            unclear = unclear or (bool(database) and parts.path not in ("", "/"))
        if unclear or found.get("db", 0) < 0:
            raise ValueError
    except ValueError:
        # Not the error's own words: they may quote a piece of the password, taken for the port or for an option.
        raise ConfigurationError(
            "store", without_password(url), "host, port, path, options or number of the database cannot be made out",
            "Use one such as 'redis://localhost:6379/0' or 'unix:///run/valkey.sock?db=0'; "
            "in a password write / ? # @ as %2F %3F %23 %40",
        ) from None  # fmt: skip
    secure = parts.scheme.lower() in ("rediss", "valkeys")
    if tls_options and not secure:
        raise ConfigurationError(
            "store", without_password(url), f"{next(iter(tls_options))} is for TLS", "Use rediss:// or valkeys://"
        )
    address = Address(
        host=found.get("host", "localhost"),
        port=found.get("port", 6379),
        path=found.get("path"),
        tls=_tls(tls_options, url) if secure else None,
        username=found.get("username"),
        password=found.get("password"),
        database=found.get("db", 0),
    )
    return address, options


def _tls(options: dict[str, str], url: str) -> ssl.SSLContext:
    context = _tried("ssl_ca_certs", options, lambda path: ssl.create_default_context(cafile=path))
    context = context or ssl.create_default_context()
    keyfile = options.pop("ssl_keyfile", None)
    _tried("ssl_certfile", options, lambda path: context.load_cert_chain(path, keyfile))
    if not _choice("ssl_check_hostname", options, {"true": True, "false": False}, default=True):
        context.check_hostname = False
    if not _choice("ssl_cert_reqs", options, {"required": True, "none": False}, default=True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options:
        raise ConfigurationError(
            "store", without_password(url), f"unknown option {next(iter(options))!r}", f"Known: {', '.join(_TLS)}"
        )
    return context


_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


def _tried(name: str, options: dict[str, str], load: Callable[[str], T]) -> T | None:
    path = options.pop(name, None)
    if path is None:
        return None
    try:
        return load(path)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(name, path, f"it cannot be read ({error})", "Give the path of a PEM file") from None


def _choice(name: str, options: dict[str, str], choices: Mapping[str, bool], *, default: bool) -> bool:
    text = options.pop(name, None)
    if text is None:
        return default
    if text.lower() not in choices:
        raise ConfigurationError(name, text, "unknown", f"Use {' or '.join(choices)}")
    return choices[text.lower()]
