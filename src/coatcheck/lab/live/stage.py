"""The real parts behind the page. Runs in the main thread, which alone may start and stop processes."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Mapping
from pathlib import Path

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.bench import Bench, built
from coatcheck.lab.errors import LabError
from coatcheck.lab.live.links import Links
from coatcheck.lab.live.serving import LiveServer, Order
from coatcheck.lab.live.world import World
from coatcheck.lab.stopping import StopRequests

_SERVERS = 3
_LOOK_EVERY = 0.05  # seconds between looks at what somebody wants


def watch(live: LiveServer, first: str, programs: Mapping[str, Path], stop: StopRequests) -> None:
    """Build `first`, do as the page says, until somebody asks the lab to stop.

    Raises:
        Interrupted: that was it.
        LabError: a part could not be built.
    """
    with tempfile.TemporaryDirectory(prefix="coatcheck-live-") as scratch:
        name, turn = first, 0
        while True:
            turn += 1
            folder = Path(scratch) / f"{turn}"
            live.tell(lambda world, name=name: world.note(f"building {name}"))  # type: ignore[misc]
            with (
                Links() as links,
                built(
                    ARCHITECTURES[name],
                    servers=_SERVERS,
                    run=Path(scratch),
                    folder=folder,
                    programs=programs,
                    stop=stop,
                    given_urls={},
                    route=links.through,
                ) as bench,
            ):
                links.processes = lambda bench=bench: {  # type: ignore[misc]
                    name: process.popen.pid for name, process in bench.processes.items()
                }
                _show(live, bench)
                name = _obey(live, bench, links, stop)


def _show(live: LiveServer, bench: Bench) -> None:
    architecture = bench.architecture
    what = {
        "architecture": architecture.name,
        "title": architecture.title,
        "sticky": architecture.balancing == "sticky",
        "service": next(iter(architecture.needs), None),
        "links": ["balancer", *(["store"] if architecture.needs else []), *(["peers"] if architecture.copies else [])],
    }
    port, ports = bench.port, dict(bench.ports)
    live.tell(lambda world: world.built(what, port, ports))


def _obey(live: LiveServer, bench: Bench, links: Links, stop: StopRequests) -> str:
    """Do what is asked for, one thing after the other, until another architecture is; gives its name."""
    while True:
        stop.check()
        try:
            order = live.orders.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            continue
        if order.do == "build":
            return order.what
        try:
            words = _do(live, bench, links, order)
        except LabError as problem:
            words = str(problem)
        live.tell(lambda world, words=words: world.note("", words))  # type: ignore[misc]


def _do(live: LiveServer, bench: Bench, links: Links, order: Order) -> str:
    server = order.what
    if order.do == "kill":
        bench.kill(server)
        links.gone(server)
        _set(live, server, "down")
        return f"{server} was killed. What it alone held is gone."
    if order.do == "revive":
        for link in _LINKS:
            _set_link(live, bench, links, server, link, cut=False)
        links.back(server)
        bench.start(server)
        _set(live, server, "up")
        return f"{server} is back, as a new process."
    if order.do in ("cut", "mend"):
        cut = order.do == "cut"
        _set_link(live, bench, links, server, order.link, cut=cut)
        words = (_CUT if cut else _MENDED)[order.link]
        return words.format(server)
    kind, service = next(iter(bench.services.items()))
    if order.do == "kill-store":
        bench.supervisor.kill(bench.supervisor.named(kind))
        links.gone(kind)
        live.tell(lambda world: setattr(world, "service_state", "down"))
        return "The store was killed. Nobody is logged out: the shop asks people to come again."
    assert service.again is not None
    links.back(kind)
    service.again()
    live.tell(lambda world: setattr(world, "service_state", "up"))
    return "The store is back, with what it had written to disk."


_CUT = {
    "balancer": "The link between the balancer and {} is cut. It lives on, but nobody reaches it; until the balancer has "
    "noticed, a few seconds, people wait in vain.",
    "store": "The link between {} and the store is cut. Whoever is sent there is asked to come again; nobody is logged out.",
    "peers": "The links between {} and the other web servers are cut. Each side goes on with what it has, once it has "
    "noticed.",
}
_MENDED = {
    "balancer": "The link between the balancer and {} is mended.",
    "store": "The link between {} and the store is mended.",
    "peers": "The links between {} and the other web servers are mended. They tell one another what they missed.",
}
_LINKS = tuple(_CUT)


def _set_link(live: LiveServer, bench: Bench, links: Links, server: str, link: str, *, cut: bool) -> None:
    """Cut or mend what there is of this kind between this server and the others."""
    ends: dict[str, list[str]] = {
        "balancer": ["balancer"],
        "store": list(bench.services),
        "peers": [name for name in bench.servers if name != server],
    }
    for end in ends[link]:
        (links.cut if cut else links.mend)(server, end)

    def note(world: World) -> None:
        left = [each for each in world.cuts.get(server, []) if each != link]
        world.cuts = {**world.cuts, server: [*left, link] if cut else left}  # type: ignore[list-item]

    live.tell(note)


def _set(live: LiveServer, server: str, state: str) -> None:
    live.tell(lambda world: world.servers.update({server: state}))  # type: ignore[dict-item]
