"""What a store's URL names: who the peers are, which of them is this process, and how they talk."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from coatcheck.errors import ConfigurationError
from coatcheck.stores.opening import without_password
from coatcheck.stores.replicated.keys import ClusterKey

Ack = Literal["all", "majority", "none"]

_PEER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?")
_EXAMPLE = "Use one such as 'replicated://10.0.0.1:7946,10.0.0.2:7946,10.0.0.3:7946'"
N = TypeVar("N", int, float)


PRESETS: dict[str, dict[str, Any]] = {
    "local": {"silence": 1.0, "timeout": 2.0, "compare": 5.0, "reread": 1.0},
    "lan": {},
    "wan": {
        "silence": 10.0,
        "timeout": 15.0,
        "compare": 60.0,
        "reread": 30.0,
        "remember": 86_400.0,
        "max_queue": 256 << 20,
    },
}
"""Defaults for processes of one machine, servers of one network, and servers with the internet between them: how long to
wait for signs of life and answers, and how long and how much to keep for whoever is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a store's URL names.

    - `replicated://host1:7946,host2:7946`: a list of peers. `host:7946-7949` stands for four of them, one for each worker
      process on that host.
    - `replicated+dns://name:7946`: a peer at each address of that name, looked up again and again.
    - `replicated+file:///path/of/a/file`: a peer per line, read again and again; `#` begins a comment.

    A process is the first of the peers whose address it can listen on. All else stands in the query:
    `?keys=/etc/coatcheck/cluster.key&ack=majority`.

    Attributes:
        shown: the URL, for messages.
        peers: the list; for DNS and file what stands in the URL.
        source: where the list comes from.
        keys: path of the cluster's key, see `coatcheck replicated keys`; needed unless all peers are on loopback.
        plaintext: `yes` does without encryption, and lets anybody in who reaches the port; default `no`.
        me: this process's own address among the peers, where it cannot be found out by listening; with `listen`.
        listen: the address to listen on, if it is not `me`: `0.0.0.0:7946` in a container.
        ack: when a commit is answered: `all` (default), when every live peer has it; `majority`, when most of all
            peers have it, or not at all; `none`, when this process has it.
            `all` loses nothing that was acknowledged while one server lives, and costs the way to the slowest and back.
            `majority` costs the way to the slowest of the nearer half, and those who are cut off from most only read.
            `none` costs nothing, and a process that dies takes along what it has not told yet.
        preset: `local`, `lan` (default) or `wan`: other defaults of what follows, see `PRESETS`. None of them
            changes what acknowledged means.
        silence: seconds without a sign of life after which a peer counts as gone; default 2. A short one lets commits
            wait less for a server that hangs or is cut off; a long one forgives a busy or slow one, which otherwise has
            to catch up.
        timeout: seconds to wait for acknowledgements where the caller gives no time; default 5. More makes fewer outcomes
            unknown, and callers wait longer.
        compare: seconds between comparisons of all copies; default 10. So long may something stay missed that no gap
            in the messages told of, or that had to come round by a third server; each costs 2.5 kB per peer.
        reread: seconds between looks at the DNS name or the file; default 5. So long may a new peer stay unknown.
        catch_up: seconds that a request waits at most for what its browser has done on another server, if that is not
            here yet; default 0.1. After that it gets what is here.
        remember: seconds for which a logout is remembered; default 3600. Servers that were apart for longer drop
            sessions from before that only one of them has. More costs 450 bytes of memory for each logout in that time.
        quorum: how many peers, this one included, must have been heard before a starting process serves; 0 (default) for
            most of them. With fewer a server starts sooner, and may begin with nothing while others hold sessions; say it
            where a name or a file may list too few at first.
        max_sessions: sessions that a process holds before it refuses new ones rather than end somebody's; default 100,000.
        max_bytes: bytes of memory for sessions and remembered logouts before it refuses what makes them grow; default
            1 GiB.
        max_queue: bytes on their way to one peer. With half of that, commits wait; with all of it the peer counts as
            gone, and has to catch up. Default 64 MiB. More rides out longer stalls, and takes as much memory for each peer.
        max_message: bytes of the largest message taken; default 16 MiB. With N servers a session may have 1/(N + 1) of it.
    """

    shown: str
    peers: tuple[str, ...]
    source: Literal["list", "dns", "file"] = "list"
    keys: ClusterKey | None = field(default=None, repr=False)
    plaintext: bool = False
    me: str | None = None
    listen: str | None = None
    ack: Ack = "all"
    silence: float = 2.0
    timeout: float = 5.0
    compare: float = 10.0
    reread: float = 5.0
    catch_up: float = 0.1
    remember: float = 3600.0
    quorum: int = 0
    max_sessions: int = 100_000
    max_bytes: int = 1 << 30
    max_queue: int = 64 << 20
    max_message: int = 16 << 20

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take the URL apart.

        Raises:
            ConfigurationError: a part or an option that is unknown or cannot work.
        """
        shown = without_password(url)
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        peers: tuple[str, ...]
        kind = parts.scheme.lower().partition("+")[2] or "list"
        if kind == "file":
            if parts.netloc or len(parts.path) < 2:
                raise ConfigurationError(
                    "store", shown, "the path is missing", "Use one such as 'replicated+file:///etc/coatcheck/peers'"
                )
            peers = (unquote(parts.path),)
        else:
            if parts.path.strip("/") or not parts.netloc or "@" in parts.netloc:
                raise ConfigurationError("store", shown, "it is not a list of host:port", _EXAMPLE)
            peers = tuple(each for item in parts.netloc.split(",") for each in spelled_out(item))
            if kind == "dns" and len(peers) != 1:
                raise ConfigurationError(
                    "store", shown, "one name, with one port, is looked up",
                    "Use one such as 'replicated+dns://shop-peers:7946'",
                )  # fmt: skip
        check_distinct(peers)
        usual = PRESETS[_choice("preset", options.pop("preset", "lan"), tuple(PRESETS))]
        given = {
            name: _number(name, options.pop(name), type(default))
            for name, default in _LIMITS.items()
            if name in options
        }
        target = cls(
            shown=shown,
            peers=peers,
            source=cast(Literal["list", "dns", "file"], kind),
            keys=ClusterKey.read(Path(options.pop("keys"))) if "keys" in options else None,
            plaintext=_choice("plaintext", options.pop("plaintext", "no"), ("yes", "no")) == "yes",
            me=_one("me", options.pop("me", None)),
            listen=_one("listen", options.pop("listen", None)),
            ack=cast(Ack, _choice("ack", options.pop("ack", "all"), get_args(Ack))),
            **(usual | given),
        )  # fmt: skip
        if options:
            known = ", ".join(("keys", "plaintext", "me", "listen", "ack", "preset", *_LIMITS))
            raise ConfigurationError("store", shown, f"unknown option {next(iter(options))!r}", f"Known: {known}")
        if target.source == "list":
            if target.quorum > len(target.peers):
                raise ConfigurationError(
                    "quorum", target.quorum, f"only {len(target.peers)} peers are listed, so that none would ever serve",
                    "Use a smaller one, or list them all",
                )  # fmt: skip
            target.check_secrecy(target.peers)
        return target

    @property
    def shared(self) -> dict[str, int | float | str]:
        """The settings in which all servers must be the same."""
        return {
            name: getattr(self, name)
            for name in ("ack", "silence", "remember", "max_sessions", "max_bytes", "max_message")
        }

    def check_secrecy(self, peers: tuple[str, ...]) -> None:
        """Plain text leaves the machine only where it was asked for by name."""
        if self.keys is not None or self.plaintext:
            return
        for peer in peers:
            host = peer.rpartition(":")[0].strip("[]")
            if not _on_loopback(host):
                raise ConfigurationError(
                    "keys", None, f"{peer} is not on loopback, and sessions would travel there in plain text",
                    "Make a key with `coatcheck replicated keys FILE`, copy it to every server and add ?keys=FILE; "
                    "or say ?plaintext=yes if nobody else can reach this network",
                )  # fmt: skip

    @property
    def moves(self) -> bool:
        """Whether who the peers are, or where, may change while they run."""
        return self.source != "list" or not all(map(has_ip, self.peers))

    def addresses(self, known: Mapping[str, str] = {}) -> dict[str, str]:
        """Who the peers are at present: each as it is listed, and by its IP address. Waits for DNS, or reads the file.

        Args:
            known: the addresses before, for names that cannot be looked up now. A name that never could be stands for
                itself: somebody who is not there yet, or no more.

        Raises:
            OSError: no name can be looked up, or the file cannot be read.
            ConfigurationError: what was found there cannot work.
        """
        found: dict[str, str] = {}
        problem: OSError | None = None
        for name in self._listed():
            try:
                found[name] = _resolved(name)
            except OSError as error:
                problem = error
                found[name] = known.get(name, name)
        if problem is not None and not any(map(has_ip, found.values())):
            raise problem
        for name, address in found.items():
            twin = next((other for other in found if other != name and found[other] == address), None)
            if twin is not None:
                raise ConfigurationError(
                    "store", self.shown, f"{name} and {twin} are the same peer, {address}", "List each process once"
                )
        return found

    def _listed(self) -> tuple[str, ...]:
        if self.source == "list":
            return self.peers
        if self.source == "dns":
            host, _, port = self.peers[0].rpartition(":")
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            names = sorted({str(each[4][0]) for each in found})
            peers = tuple(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names)
        else:
            lines = [line.partition("#")[0].strip() for line in Path(self.peers[0]).read_text("utf-8").splitlines()]
            peers = tuple(each for line in lines if line for each in spelled_out(line))
        if not peers:  # it may be just being written
            raise ConfigurationError("store", self.shown, "no peer is listed", "List this process at least")
        check_distinct(peers)
        self.check_secrecy(peers)
        return peers


_LIMITS: dict[str, Any] = {
    name: Target.__dataclass_fields__[name].default
    for name in (
        "silence", "timeout", "compare", "reread", "catch_up", "remember", "quorum",
        "max_sessions", "max_bytes", "max_queue", "max_message",
    )
}  # fmt: skip


def spelled_out(item: str) -> list[str]:
    """The peers that `host:port` or `host:first-last` stands for."""
    match = _PEER.fullmatch(item)
    first, last = (int(match["first"]), int(match["last"] or match["first"])) if match else (0, 0)
    if match is None or not 0 < first <= last < 65_536:
        raise ConfigurationError("store", item, "a peer is host:port, or host:first-last", _EXAMPLE)
    return [f"{match['host'].lower()}:{port}" for port in range(first, last + 1)]


def check_distinct(peers: tuple[str, ...]) -> None:
    """A peer that is listed twice would be waited for twice."""
    for peer in peers:
        if peers.count(peer) > 1:
            raise ConfigurationError("store", peer, "this peer is listed twice", "List each process once")


def has_ip(peer: str) -> bool:
    """Whether `host:port` has an IP address for a host."""
    try:
        ipaddress.ip_address(peer.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def _resolved(peer: str) -> str:
    """`host:port` with the host as an IP address, by which all servers call this peer."""
    host, _, port = peer.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    # All servers must choose alike: the first IPv4 address in order, or the first one there is.
    name = min((str(each[4][0]) for each in found), key=lambda name: (":" in name, name))
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _on_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _one(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    peers = spelled_out(text)
    if len(peers) != 1:
        raise ConfigurationError(name, text, "one address", "Use one such as '10.0.0.1:7946'")
    return peers[0]


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ConfigurationError(name, text, "unknown", f"Use {', '.join(choices)}")
    return text


def _number(name: str, text: str, kind: Callable[[Any], N]) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = kind(-1)
    least = 0 if name == "quorum" else 1 if kind is int else 0.01
    if not (least <= number < float("inf") and text.isascii()):
        what = "a whole number" if kind is int else "a number of seconds"
        raise ConfigurationError(name, text, f"not {what} from {least} on", "Use one, or leave it out")
    return number
