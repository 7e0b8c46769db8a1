"""Where a server is, and how to be let in."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

from coatcheck.errors import ConfigurationError
from coatcheck.stores.opening import without_password
from coatcheck.stores.query import TRUE_OR_FALSE, choice, number
from coatcheck.stores.redis.commands import Command
from coatcheck.stores.redis.confirming import MAY_WAIT, is_forbidden
from coatcheck.stores.redis.evicting import QUESTIONS, Eviction
from coatcheck.stores.redis.transport import ErrorReply

T = TypeVar("T")

_NUMBER = re.compile("/?|/[0-9]+")
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}

_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server.

    Attributes:
        host, port: for TCP.
        path: of a unix socket, in place of host and port.
        tls: how to check the server's certificate and show our own; `None` for a plain connection.
        username, password: of the server's access list; `None` for the default user without a password.
        database: its number.
        confirms: whether commits wait on its connections until a replica has them. Then it is asked whether it lets us.
        kind: what it must be. A `primary` is asked for its role on each connection, because one that was replaced comes
            back as a replica, under the same address; a `sentinel` has no databases.
        announces: whether it is to say, on each connection, when something changes that was read there; see `near`.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0
    confirms: bool = False
    kind: Literal["any", "primary", "sentinel"] = "any"
    announces: bool = False

    def handshake(self) -> list[Command]:
        """What is said first on each connection; see `objection`."""
        hello: list[str | int] = ["HELLO", 3]
        if self.password is not None or self.username is not None:  # there are users without a password
            hello += ["AUTH", self.username or "default", self.password or ""]
        hello += ["SETNAME", "coatcheck"]
        # Nothing is asked of a sentinel but a sign of life: it knows few commands.
        chosen: Command = ("PING",) if self.kind == "sentinel" else ("SELECT", self.database)
        role: list[Command] = [("ROLE",)] if self.kind == "primary" else []
        about = [] if self.kind == "sentinel" else [MAY_WAIT] if self.confirms else QUESTIONS
        announcing: list[Command] = [("CLIENT", "TRACKING", "ON")] if self.announces else []
        return [
            tuple(hello),
            chosen,
            # Servers before Redis 7.2 do not know these two, which is no harm.
            ("CLIENT", "SETINFO", "LIB-NAME", "coatcheck"),
            ("CLIENT", "SETINFO", "LIB-VER", _our_version()),
            *about,
            *announcing,
            *role,
        ]

    def refusal(self, replies: Sequence[Any]) -> str:
        """How the server refused to let us in, by those of its replies to `handshake` that came; `""` if it did not."""
        for reply in replies[:2]:  # the greeting, and the choice of the database
            if type(reply) is ErrorReply:
                return f"it does not let us in: {self._harmless(reply)}"
        return ""

    def objection(self, replies: list[Any]) -> str:
        """Why a connection on which `handshake` was answered so cannot be used; `""` if it can."""
        if refusal := self.refusal(replies):
            return refusal
        if self.announces and replies[4 + len(QUESTIONS)] != "OK":
            return (
                f"it does not announce what changes: {self._harmless(replies[4 + len(QUESTIONS)])}. near_cache needs that: "
                "allow CLIENT|TRACKING to the user in the server's access list, or leave ?near_cache= out"
            )
        if self.kind == "primary":
            role = replies[-1]
            if type(role) is ErrorReply:
                return f"it does not say whether it is a primary: {self._harmless(role)}"
            if not role or role[0] != "master":
                return "it is a replica"
        if self.confirms and is_forbidden(replies[4]):
            return (
                f"durability=replica needs the command WAIT, which the user may not use: {self._harmless(replies[4])}. "
                "Give the user that right (ACL SETUSER … +wait), or choose durability=primary"
            )
        return ""

    def eviction(self, replies: list[Any]) -> Eviction | None:
        """Whether the server evicts sessions, by its replies to `handshake`; it is asked on ordinary connections."""
        return None if self.kind == "sentinel" or self.confirms else Eviction.told(replies[4:6])

    def _harmless(self, refusal: ErrorReply) -> str:
        """The server's words, but for what it quotes of ours: that may be the password."""
        words = refusal.message
        if refusal.code != "NOPERM":  # what that quotes is the name of the command
            words = re.split("['`\"]", words, maxsplit=1)[0].strip()
        if self.password and self.password in words:
            words = refusal.code
        return f"{words} (is it older than Redis 6, or are its commands renamed?)" if "unknown" in words else words

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@cache
def _our_version() -> str:
    """It is read from a file, which would take a millisecond on each connection."""
    return version("coatcheck")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a store's URL names.

    - `redis://user:password@host:6379/0`, one server; `rediss://` for TLS, `unix:///path/to/socket?db=0`.
    - `redis+sentinel://user:password@host1:26379,host2,host3/service?db=0`: whichever server the sentinels call the
      primary of that service. User and password are the server's; the sentinels' own are options.
    - `redis+cluster://user:password@host1:6379,host2,host3`: a cluster, of which some nodes are named.

    `valkey` and `valkeys` mean what `redis` and `rediss` mean. All else stands in the query: `?prefix=shop:&timeout=0.5`.

    Attributes:
        shown: the URL without its password, for messages.
        addresses: of the server; of the sentinels; of some nodes of the cluster.
        topology: which of the three.
        server: for Sentinel, how to be let in by the servers that the sentinels name; its host and port mean nothing.
        service: for Sentinel, what the sentinels call the primary and its replicas.
        prefix: what all keys begin with; default `coatcheck:`.
        timeout: seconds for one exchange where the caller gives none, and for connecting; default 1.
        max_in_flight: exchanges under way at most on the one connection of an event loop; default 4096. Further ones wait
            their turn.
        max_connections: of a synchronous store, each lent to one thread at a time; default 32. Further threads wait their
            turn.
        heartbeat: seconds of silence after which the server is asked for a sign of life; default 10.
        durability: `primary` (default): a commit is acknowledged when the server has applied it. `replica`: when one of
            its replicas has it too.
        near_cache: how many sessions this process keeps of those that it read, for as long as the server does not say that
            they have changed; default `None`, none.
        near_cache_age: seconds for which such a session counts at most, whatever is lost on the way; default 5.

    For TLS, the query also takes `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths), `ssl_cert_reqs` (`required` or
    `none`) and `ssl_check_hostname` (`true` or `false`); for Sentinel, `sentinel_username` and `sentinel_password`.
    """

    shown: str
    addresses: tuple[Address, ...]
    topology: Literal["single", "sentinel", "cluster"] = "single"
    server: Address | None = None
    service: str = ""
    prefix: str = "coatcheck:"
    timeout: float = 1.0
    max_in_flight: int = 4096
    max_connections: int = 32
    heartbeat: float = 10.0
    durability: Literal["primary", "replica"] = "primary"
    near_cache: int = 0
    near_cache_age: float = 5.0

    @property
    def confirmed(self) -> bool:
        """Whether a commit counts only when a replica has it too."""
        return self.durability == "replica"

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take the URL apart.

        Raises:
            ConfigurationError: a part or an option that is unknown or cannot work.
        """
        shown = without_password(url)
        scheme, _, kind = url.partition("://")[0].lower().partition("+")
        where: dict[str, Any]
        if kind == "sentinel":
            where, options = _sentinels(scheme, url, shown)
        elif kind == "cluster":
            addresses, options = _several(scheme, url, "cluster", shown)
            if addresses[0].database:
                raise ConfigurationError(
                    "db", addresses[0].database, "a cluster has no database but 0", "Tell users apart by ?prefix="
                )
            where = {"topology": "cluster", "addresses": addresses}
        else:
            address, options = _address(url, shown)
            where = {"addresses": (address,)}
        durable = choice("durability", options, {"primary": False, "replica": True}, False)
        near = number("near_cache", options, 0)
        if near:
            where = _announcing(where)
        elif "near_cache_age" in options:
            raise ConfigurationError(
                "near_cache_age",
                options["near_cache_age"],
                "there is no near cache",
                "Add one, such as ?near_cache=10000",
            )
        target = cls(
            shown=shown,
            prefix=options.pop("prefix", "coatcheck:"),
            timeout=number("timeout", options, 1.0),
            max_in_flight=number("max_in_flight", options, 4096),
            max_connections=number("max_connections", options, 32),
            heartbeat=number("heartbeat", options, 10.0),
            durability="replica" if durable else "primary",
            near_cache=near,
            near_cache_age=number("near_cache_age", options, 5.0),
            **where,
        )
        if options:
            known = (
                "Known: prefix, timeout, max_in_flight, max_connections, heartbeat, durability, near_cache, near_cache_age, "
                "db, ssl_… for TLS, and sentinel_username and sentinel_password for Sentinel"
            )
            raise ConfigurationError("store", shown, f"unknown option {next(iter(options))!r}", known)
        return target


def _announcing(where: dict[str, Any]) -> dict[str, Any]:
    """The same servers, which announce changes. Sentinels do not: they hold no sessions."""
    if "server" in where:
        return where | {"server": replace(where["server"], announces=True)}
    return where | {"addresses": tuple(replace(address, announces=True) for address in where["addresses"])}


def _sentinels(scheme: str, url: str, shown: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a URL says of sentinels and their service, and what else is in its query."""
    parts = _split(url, shown)
    service = unquote(parts.path[1:])
    if not service or "/" in parts.path[1:] or "@" in parts.path:
        raise ConfigurationError(
            "store", shown, "the name of the service, which the sentinels watch, is missing or unclear",
            f"Write it after the hosts: '{scheme}+sentinel://host1:26379,host2,host3/mymaster?db=0'",
        )  # fmt: skip
    addresses, options = _several(scheme, urlunsplit(parts._replace(path="/")), "sentinel", shown)
    user, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    if user and not password:
        raise ConfigurationError("sentinel_username", user, "it has no password", "Add sentinel_password")
    sentinels = [replace(each, username=user, password=password, database=0, kind="sentinel") for each in addresses]
    server = replace(addresses[0], kind="primary")
    return {"topology": "sentinel", "addresses": tuple(sentinels), "server": server, "service": service}, options


def _several(scheme: str, url: str, kind: str, shown: str) -> tuple[tuple[Address, ...], dict[str, str]]:
    """The servers whose hosts stand in a URL, with commas between them, and what else is in its query."""
    parts = _split(url, shown)
    user, at, hosts = parts.netloc.rpartition("@")
    addresses: list[Address] = []
    options: dict[str, str] = {}
    for host in hosts.split(","):
        if not host or scheme not in ("redis", "rediss", "valkey", "valkeys"):
            raise ConfigurationError(
                "store", shown, "a host is missing, or the scheme is unknown",
                f"Use one such as 'redis+{kind}://host1:{_PORTS[kind]},host2,host3'",
            )  # fmt: skip
        port = "" if re.search(r":[^\]:]*$", host) else f":{_PORTS[kind]}"
        one = urlunsplit(parts._replace(scheme=scheme, netloc=f"{user}{at}{host}{port}"))
        address, options = _address(one, shown)
        # What is checked with certificates is one thing, so that addresses that say the same are equal.
        addresses.append(replace(address, tls=addresses[0].tls) if addresses else address)
    return tuple(dict.fromkeys(addresses)), options


def _address(url: str, shown: str) -> tuple[Address, dict[str, str]]:
    """The server that a URL names, and those options in its query that do not concern the connection."""
    parts = _split(url, shown)
    port = parts.netloc.rpartition(":")[2]
    if port.isdecimal() and not 0 < int(port[:9]) < 65_536 and "@" not in url.partition(parts.netloc)[2]:
        raise ConfigurationError("store", shown, "there is no such port", "Use one from 1 to 65535, or leave it out")
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        options = dict(pairs)
        unclear = "@" in parts.path + parts.query or "#" in url or len(pairs) != len(options)
        tls_options = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
        database = {"db": options.pop("db")} if "db" in options else {}
        plain = urlunsplit(parts._replace(scheme=_SCHEMES[parts.scheme.lower()], query=urlencode(database)))
        found = parse_url(plain)
        unclear = "@" in parts.path + parts.query or "#" in url or len(pairs) != len(dict(pairs))
        if parts.scheme.lower() != "unix":
            unclear = unclear or not _NUMBER.fullmatch(parts.path) or "," in parts.netloc
            unclear = unclear or (bool(database) and parts.path not in ("", "/"))
        if unclear or found.get("db", 0) < 0:
            raise ValueError
    except ValueError:
        # Not the error's own words: they may quote a piece of the password, taken for the port or for an option.
        raise _unclear(shown) from None
    if parts.scheme.lower() == "unix":
        _check_path(parts, shown)
    elif not parts.hostname:
        raise ConfigurationError(
            "store", shown, "the host is missing", f"Name it, for instance {parts.scheme}://localhost:6379"
        )
    secure = parts.scheme.lower() in ("rediss", "valkeys")
    if tls_options and not secure:
        name, text = next(iter(tls_options.items()))
        raise ConfigurationError(
            name, text, f"it is for TLS, which {parts.scheme}:// is without", "Use rediss or valkeys, or leave it out"
        )
    address = Address(
        host=found.get("host", "localhost"),
        port=found.get("port", 6379),
        path=found.get("path"),
        tls=_tls(tls_options, shown) if secure else None,
        username=found.get("username"),
        password=found.get("password"),
        database=found.get("db", 0),
    )
    return address, options


def _check_path(parts: SplitResult, shown: str) -> None:
    host = parts.netloc.rpartition("@")[2]
    if host or parts.path in ("", "/"):
        problem = f"{host!r} stands where a host would, and a unix socket has none" if host else "the path is missing"
        right = f"unix:///{host}{parts.path}" if host else "unix:///run/valkey.sock"
        raise ConfigurationError("store", shown, problem, f"Write the whole path after three slashes: {right!r}")


def _split(url: str, shown: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _unclear(shown) from None


def _unclear(shown: str) -> ConfigurationError:
    return ConfigurationError(
        "store", shown, "host, port, path, options or number of the database cannot be made out",
        "Use one such as 'redis://localhost:6379/0' or 'unix:///run/valkey.sock?db=0'; "
        "in a password write / ? # @ as %2F %3F %23 %40",
    )  # fmt: skip


def _tls(options: dict[str, str], shown: str) -> ssl.SSLContext:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if options.get(name) == "":
            raise ConfigurationError(name, "", "it is empty", "Give the path of a PEM file, or leave it out")
    authorities = options.pop("ssl_ca_certs", None)
    context = _tried("ssl_ca_certs", authorities, lambda: ssl.create_default_context(cafile=authorities))
    certificate, key = options.pop("ssl_certfile", None), options.pop("ssl_keyfile", None)
    if certificate is not None:
        _tried("ssl_certfile", certificate, lambda: ssl.create_default_context(cafile=certificate))
        named = ("ssl_certfile", certificate) if key is None else ("ssl_keyfile", key)
        wanted = "of the private key of that certificate, without a password"
        _tried(*named, lambda: context.load_cert_chain(certificate, key, password=""), wanted)
    elif key is not None:
        raise ConfigurationError(
            "ssl_keyfile", key, "there is no certificate to it", "Add ssl_certfile, or leave it out"
        )
    if not choice("ssl_check_hostname", options, TRUE_OR_FALSE, True):
        context.check_hostname = False
    if not choice("ssl_cert_reqs", options, {"required": True, "none": False}, True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options:
        raise ConfigurationError("store", shown, f"unknown option {next(iter(options))!r}", f"Known: {', '.join(_TLS)}")
    return context


_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


def _tried(name: str, path: str | None, load: Callable[[], T], wanted: str = "") -> T:
    try:
        return load()
    except OSError as error:  # ssl.SSLError is one
        advice = f"Give the path of a PEM file {wanted}".strip()
        raise ConfigurationError(name, path, f"it cannot be read ({error})", advice) from None
