"""What a store's URL names."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from coatcheck.errors import ConfigurationError
from coatcheck.stores.opening import without_password
from coatcheck.stores.query import TRUE_OR_FALSE, choice, number

Database = Literal["postgresql", "mysql", "sqlite"]
Durability = Literal["full", "delayed", "unlogged"]

_SCHEMES: dict[str, Database] = {
    "postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite",
}  # fmt: skip
_DURABILITIES: dict[Database, tuple[Durability, ...]] = {
    "postgresql": ("full", "delayed", "unlogged"),
    "mysql": ("full",),
    "sqlite": ("full", "delayed"),
}
# Of libpq, and understood by asyncpg too.
_OF_POSTGRESQL = frozenset({
    "host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "passfile",
    "target_session_attrs",
})  # fmt: skip
_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_OF_MYSQL = frozenset({"unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname"})
_EXAMPLES: dict[Database, str] = {
    "postgresql": "postgresql://user:password@host:5432/database",
    "mysql": "mysql://user:password@host:3306/database",
    "sqlite": "sqlite:////var/lib/shop/sessions.db",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a store's URL names.

    - `postgresql://user:password@host:5432/database`, with libpq's options for TLS, several hosts and unix sockets
    - `mysql://user:password@host:3306/database` or `mariadb://…`
    - `sqlite:///relative.db`, `sqlite:////absolute/path.db`

    A driver may be named, as in `postgresql+psycopg://`. All else stands in the query: `?prefix=shop_&timeout=0.5`.

    Attributes:
        shown: the URL without its password, for messages.
        database: which kind it is.
        driver: the driver asked for; `""` for ours.
        plain: the URL for the driver: without our own options, and without the driver's name.
        path: of the file, for SQLite.
        options: the driver's.
        prefix: what the names of tables begin with; default `coatcheck_`.
        timeout: seconds for one call where the caller gives none, connecting included; default 1.
        pool_size: connections at most, for each process (and event loop); default 10, for SQLite 4. Further calls wait
            their turn.
        create: whether the tables are created if they are missing; default only for SQLite.
        durability: what "acknowledged" means: `full` (default), `delayed` or `unlogged`.
        sweep: seconds between two sweeps in the background; none unless they are given.
    """

    shown: str
    database: Database
    driver: str = ""
    plain: str = field(default="", repr=False)
    path: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    prefix: str = "coatcheck_"
    timeout: float = 1.0
    pool_size: int = 10
    create: bool = False
    durability: Durability = "full"
    sweep: float = 0.0

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take the URL apart.

        Raises:
            ConfigurationError: a part or an option that is unknown or cannot work.
        """
        shown = without_password(url)
        scheme, _, driver = url.partition("://")[0].lower().partition("+")
        if scheme not in _SCHEMES:
            raise ConfigurationError("store", shown, "no database", f"Use one such as '{_EXAMPLES['postgresql']}'")
        database = _SCHEMES[scheme]
        try:
            parts = urlsplit(url)
            pairs = parse_qsl(parts.query, keep_blank_values=True)
            several = "," in parts.netloc and database == "postgresql"
            # A % that one driver takes as it stands, and another quotes; or a NUL, which is in no name.
            unclear = re.search("%(?![0-9A-Fa-f]{2})|%00", url)
            if unclear or "@" in parts.path + parts.query or parts.fragment or len(pairs) != len(dict(pairs)):
                raise ValueError
            if not several and parts.port == 0:
                raise ValueError
            server = parts.netloc.rpartition("@")[2]
            if database == "postgresql":
                _check_ports([host.rpartition("]")[2].partition(":")[2] for host in server.split(",")])
                _check_ports(dict(pairs).get("port", "").split(","))
        except ValueError:  # not its own words: they may quote a piece of the password
            raise ConfigurationError(
                "store", shown, "host, port, database or options cannot be made out",
                f"Use one such as '{_EXAMPLES[database]}'; in a password write / ? # @ % as %2F %3F %23 %40 %25",
            ) from None  # fmt: skip
        options = dict(pairs)
        durability = options.pop("durability", "full")
        if durability not in _DURABILITIES[database]:
            raise ConfigurationError(
                "durability", durability, f"not for {database}", f"Use {' or '.join(_DURABILITIES[database])}"
            )
        own: dict[str, Any] = {
            "prefix": options.pop("prefix", "coatcheck_"),
            "timeout": number("timeout", options, 1.0),
            "pool_size": number("pool_size", options, 4 if database == "sqlite" else 10),
            "create": choice("create", options, TRUE_OR_FALSE, database == "sqlite"),
            "sweep": number("sweep", options, 0.0),
            "durability": durability,
        }
        _check_prefix(own["prefix"])
        allowed = {"postgresql": _OF_POSTGRESQL, "mysql": _OF_MYSQL, "sqlite": frozenset[str]()}[database]
        for name in options:
            if name not in allowed:
                known = ", ".join(["prefix, timeout, pool_size, create, durability, sweep", *sorted(allowed)])
                raise ConfigurationError("store", shown, f"unknown option {name!r}", f"Known: {known}")
        where: dict[str, Any] = {}
        if database == "sqlite":
            where["path"] = _file(url, shown, parts.netloc)
        elif database == "mysql":
            where["options"] = _mysql(parts, options, shown)
        else:
            _check_postgresql(server, options, shown)
            query = url.partition("?")[2]
            kept = [pair for pair in query.split("&") if pair.partition("=")[0] in _OF_POSTGRESQL]
            where["plain"] = "postgresql://" + url.partition("://")[2].partition("?")[0]
            where["plain"] += "?" + "&".join(kept) if kept else ""
        return cls(shown=shown, database=database, driver=driver, **where, **own)


def _check_ports(ports: list[str]) -> None:
    if not all(port == "" or (port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise ValueError


def _check_postgresql(server: str, options: dict[str, str], shown: str) -> None:
    if server and options.keys() & {"host", "port"}:
        raise ConfigurationError(
            "store", shown, "it names its server twice, and drivers differ on which one they take",
            "Name host and port either after the :// or as options",
        )  # fmt: skip
    for name in options.keys() & _WORDS.keys():
        if options[name] not in _WORDS[name]:
            raise ConfigurationError(name, options[name], "unknown", f"Use {' or '.join(_WORDS[name])}")
    for name in options.keys() & set(_FILES):
        if options[name] != "system" and not isfile(options[name]):
            raise ConfigurationError(name, options[name], "there is no such file", "Give the path of a PEM file")


def _check_prefix(prefix: str) -> None:
    from coatcheck.stores.sql.schema import tables

    tables(prefix)


def _file(url: str, shown: str, host: str) -> str:
    """The path of an SQLite database."""
    path = unquote(url.partition("://")[2].partition("?")[0])
    if host:
        raise ConfigurationError(
            "store", shown, "an SQLite database has no host", "Write three slashes, or four before an absolute path"
        )
    path = path[1:]
    if path in ("", ":memory:") or path.startswith("file:"):
        raise ConfigurationError(
            "store", shown, "a database in memory would not be shared by the connections, let alone by processes",
            "Name a file, as in 'sqlite:///sessions.db', or use 'memory://' for one process",
        )  # fmt: skip
    folder = Path(path).absolute().parent
    try:
        if Path(path).is_dir():
            raise ConfigurationError(
                "store", shown, "it is a folder", "Name a file in it, as in 'sqlite:///sessions.db'"
            )
        if not folder.is_dir():
            raise ConfigurationError("store", shown, "its folder does not exist", f"Create {folder}")
    except PermissionError:
        raise ConfigurationError(
            "store", shown, f"{folder} may not be entered", "Let the user of this process in, or name another folder"
        ) from None
    return path


def _mysql(parts: Any, options: dict[str, str], shown: str) -> dict[str, Any]:
    """How to connect, in the words that PyMySQL and asyncmy share."""
    if not parts.path.strip("/"):
        raise ConfigurationError("store", shown, "it names no database", f"Use one such as '{_EXAMPLES['mysql']}'")
    found: dict[str, Any] = {
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path[1:]),
    }
    if "unix_socket" in options:
        found["unix_socket"] = options["unix_socket"]
    else:
        found |= {"host": parts.hostname or "localhost", "port": parts.port or 3306}
    tls = {name: text for name, text in options.items() if name.startswith("ssl_")}
    if tls:
        found["ssl"] = _tls(tls)
    return found


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    if "ssl_key" in options and "ssl_cert" not in options:
        raise ConfigurationError("ssl_key", options["ssl_key"], "without a certificate", "Give that as ssl_cert")
    name = "ssl_ca"
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca"))
        name = "ssl_cert"
        if name in options:
            context.load_cert_chain(options[name], options.get("ssl_key"))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            name, options[name], f"it cannot be read ({error})", "Give the path of a PEM file"
        ) from None
    context.check_hostname = choice("ssl_check_hostname", options, TRUE_OR_FALSE, True)
    return context
