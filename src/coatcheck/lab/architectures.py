"""The ways of keeping sessions that the lab compares. One entry each; the rest of the lab only reads this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

SINGLE_VALUE = "single-value+"  # before redis://: the lab's own baseline store
Service = Literal["valkey", "database"]
Balancing = Literal["round-robin", "sticky"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a web server's store URL is made from.

    Attributes:
        server: the web server that asks, such as `web-1`.
        redis_url: the Redis or Valkey of this run, if the architecture needs one.
        database_url: the database of this run, if it needs that.
        peer_ports: for stores that talk to one another, a free port for each web server.
        peer_doors: where the others find each of them, if not there.
    """

    server: str
    redis_url: str | None = None
    database_url: str | None = None
    peer_ports: Mapping[str, int] = field(default_factory=dict)
    peer_doors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What an architecture is said to do, to be confirmed or refuted. Shares from 0 to 1 for a number of web servers.

    Attributes:
        wrong_reads: the share of reads, before the kill, that show a wrong cart.
        lost_sessions: the share of sessions lost when one web server is killed.
        wrong_reads_in_all: the share of wrong reads over the whole run, kill included; `None` where nothing is said.
    """

    wrong_reads: Callable[[int], float]
    lost_sessions: Callable[[int], float]
    wrong_reads_in_all: Callable[[int], float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One way of keeping sessions.

    Attributes:
        name: as in `--only`, in file names and in reports.
        title: what it is, in a few words.
        how: how it works, as a sentence for the report.
        balancing: how HAProxy picks a web server.
        needs: what has to be started besides HAProxy and the web servers.
        store_url: gives a web server its store.
        promise: what is claimed of it.
        copies: whether every web server has a copy of every session.
        keeps: what an acknowledged change survives, as the documentation of the stores has it.
        runs: what has to be run besides the web servers and the balancer.
    """

    name: str
    title: str
    how: str
    balancing: Balancing
    needs: frozenset[Service]
    store_url: Callable[[Site], str]
    promise: Promise
    copies: bool = False
    keeps: str = ""
    runs: str = "nothing"


def _none(_servers: int) -> float:
    return 0.0


def _own_share(servers: int) -> float:
    """What one of N servers holds."""
    return 1 / servers


def _share_of_the_others(servers: int) -> float:
    """What the other N-1 servers would answer if all took turns."""
    return (servers - 1) / servers


def _own_memory(_site: Site) -> str:
    return "memory://"


def _redis(site: Site) -> str:
    if site.redis_url is None:
        raise ValueError("this architecture needs a Redis or Valkey: list it in `needs`")
    return site.redis_url


def _database(site: Site) -> str:
    if site.database_url is None:
        raise ValueError("this architecture needs a database: list it in `needs`")
    return site.database_url


def _redis_single_value(site: Site) -> str:
    return SINGLE_VALUE + _redis(site)


def _all_to_all(site: Site) -> str:
    doors = site.peer_doors or site.peer_ports
    peers = "replicated://" + ",".join(f"127.0.0.1:{port}" for port in doors.values())
    me, listen = doors[site.server], site.peer_ports[site.server]
    return peers if me == listen else f"{peers}?me=127.0.0.1:{me}&listen=127.0.0.1:{listen}"


_ALL = (
    Architecture(
        name="local",
        title="a store per web server",
        how="Each web server keeps its own sessions, and the balancer takes turns.",
        balancing="round-robin",
        needs=frozenset(),
        store_url=_own_memory,
        promise=Promise(wrong_reads=_share_of_the_others, lost_sessions=_own_share),
        keeps="as long as that server runs",
    ),
    Architecture(
        name="sticky",
        title="a store per web server, shoppers pinned to theirs",
        how="Each web server keeps its own sessions, and a cookie brings each shopper back to the same one.",
        balancing="sticky",
        needs=frozenset(),
        store_url=_own_memory,
        promise=Promise(wrong_reads=_none, lost_sessions=_own_share),
        keeps="as long as that server runs",
    ),
    Architecture(
        name="all-to-all",
        title="all sessions on every web server",
        how="Each web server holds all sessions and tells the others of each change, and the balancer takes turns.",
        balancing="round-robin",
        needs=frozenset(),
        store_url=_all_to_all,
        promise=Promise(wrong_reads=_none, lost_sessions=_none, wrong_reads_in_all=_none),
        copies=True,
        keeps="as long as one server runs",
    ),
    Architecture(
        name="redis",
        title="one store beside the web servers",
        how="All web servers share one Redis or Valkey, and the balancer takes turns.",
        balancing="round-robin",
        needs=frozenset({"valkey"}),
        store_url=_redis,
        promise=Promise(wrong_reads=_none, lost_sessions=_none, wrong_reads_in_all=_none),
        keeps="a crash; its last second only with appendfsync always",
        runs="Redis or Valkey",
    ),
    Architecture(
        name="database",
        title="one database beside the web servers",
        how="All web servers keep their sessions in one database, and the balancer takes turns.",
        balancing="round-robin",
        needs=frozenset({"database"}),
        store_url=_database,
        promise=Promise(wrong_reads=_none, lost_sessions=_none, wrong_reads_in_all=_none),
        keeps="a crash and a power cut",
        runs="a database",
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
"""Those that are compared with one another, in the order in which they are shown."""

BASELINE = Architecture(
    name="redis-value",
    title="one store, one serialised value per session",
    how="The same Redis or Valkey, but each session is one value, read and written whole, as most libraries do.",
    balancing="round-robin",
    needs=frozenset({"valkey"}),
    store_url=_redis_single_value,
    promise=Promise(wrong_reads=_none, lost_sessions=_none),
)
"""For the experiment that compares the layouts, and no other: coatcheck itself keeps no session like this."""
