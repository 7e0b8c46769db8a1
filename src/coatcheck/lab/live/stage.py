"""The real parts behind the page. Runs in the main thread, which alone may start and stop processes."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Mapping
from pathlib import Path

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.bench import Bench, built
from coatcheck.lab.errors import LabError
from coatcheck.lab.live.serving import LiveServer, Order
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
            with built(
                ARCHITECTURES[name],
                servers=_SERVERS,
                run=Path(scratch),
                folder=folder,
                programs=programs,
                stop=stop,
                given_urls={},
            ) as bench:
                _show(live, bench)
                name = _obey(live, bench, stop)


def _show(live: LiveServer, bench: Bench) -> None:
    architecture = bench.architecture
    what = {
        "architecture": architecture.name,
        "title": architecture.title,
        "sticky": architecture.balancing == "sticky",
        "service": next(iter(architecture.needs), None),
    }
    port, ports = bench.port, dict(bench.ports)
    live.tell(lambda world: world.built(what, port, ports))


def _obey(live: LiveServer, bench: Bench, stop: StopRequests) -> str:
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
            words = _do(live, bench, order)
        except LabError as problem:
            words = str(problem)
        live.tell(lambda world, words=words: world.note("", words))  # type: ignore[misc]


def _do(live: LiveServer, bench: Bench, order: Order) -> str:
    server = order.what
    if order.do == "kill":
        bench.kill(server)
        _set(live, server, "down")
        return f"{server} was killed. What it alone held is gone."
    if order.do == "revive":
        bench.orders.set_state(server, "ready")
        bench.start(server)
        _set(live, server, "up")
        return f"{server} is back, as a new process."
    if order.do == "cut":
        bench.orders.set_state(server, "maint")
        _set(live, server, "cut")
        return f"The link to {server} is cut. It lives on, but nobody reaches it."
    if order.do == "mend":
        bench.orders.set_state(server, "ready")
        bench.supervisor.wait_until(lambda: bench.orders.is_up(server), seconds=10, what=f"the return of {server}")
        _set(live, server, "up")
        return f"The link to {server} is mended."
    kind, service = next(iter(bench.services.items()))
    if order.do == "kill-store":
        bench.supervisor.kill(bench.supervisor.named(kind))
        live.tell(lambda world: setattr(world, "service_state", "down"))
        return "The store was killed. Nobody is logged out: the shop asks people to come again."
    assert service.again is not None
    service.again()
    live.tell(lambda world: setattr(world, "service_state", "up"))
    return "The store is back, with what it had written to disk."


def _set(live: LiveServer, server: str, state: str) -> None:
    live.tell(lambda world: world.servers.update({server: state}))  # type: ignore[dict-item]
