"""One architecture, built and running, and what can be done to it: send people, break parts, read the meters."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace

from coatcheck.lab import haproxy, samples
from coatcheck.lab.architectures import Architecture, Service, Site
from coatcheck.lab.errors import LabError, ProcessFailed
from coatcheck.lab.messages import Enough, Job, LoadJob, Progress, Start, head_start, line
from coatcheck.lab.processes import LOOPBACK, STORE_VARIABLE, Process, Supervisor, bound_socket, free_port
from coatcheck.lab.running import Running
from coatcheck.lab.samples import Burst, BurstKind, Fault, Reading
from coatcheck.lab.services import SERVICES, given
from coatcheck.lab.stopping import StopRequests

LAST_ANSWERS = 60.0  # seconds after the last arrival in which the last answers must be in
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_OF_ALL_THREADS = 2  # Linux: the clock of the processor time of a process, by its id, see clock_getcpuclockid(3)
_READY_WITHIN = 30.0  # seconds
_IDLE = 0.7  # seconds


Route = Callable[[str, str, int], int]
"""The port by which a client reaches a server that listens at a port: names of both, `""` for any client, and the port."""


def direct(_client: str, _server: str, port: int) -> int:
    """Nothing is in between."""
    return port


Watcher = Callable[[float, Progress], None]
"""Who is told how a drive goes, several times a second: the seconds since the first arrival, and how far it is."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something to be done during a drive.

    Attributes:
        at: seconds after the first arrival.
        do: what.
    """

    at: float
    do: Callable[[], None]


@dataclass(slots=True)
class Bench:
    """One architecture, running. Made by `built`.

    Attributes:
        architecture: which.
        folder: where its files go.
        supervisor: its processes.
        servers: the web servers that serve from the start.
        spare: a web server that gets no request until `orders` says so; `""` for none.
        port: where shoppers come in.
        orders: what the balancer can be told.
        services: what stands beside the web servers.
        route: how the parts reach one another.
        moment: when the drive under way has its first arrival, by `time.monotonic()`.
    """

    architecture: Architecture
    folder: Path
    supervisor: Supervisor
    servers: tuple[str, ...]
    spare: str
    port: int
    orders: haproxy.Orders
    services: Mapping[Service, Running]
    ports: dict[str, int]
    peer_ports: dict[str, int]
    balancer: Process
    processes: dict[str, Process]
    route: Route = direct
    moment: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    generators: dict[str, _Listener] = field(default_factory=dict)

    # --- parts -------------------------------------------------------------------------------------------------------

    def kill(self, server: str) -> None:
        """Kill a web server as a power cut would."""
        self.supervisor.kill(self.processes[server])

    def stop(self, server: str) -> None:
        """Let a web server finish what it does, and end."""
        self.supervisor.end(self.processes[server])

    def start(self, server: str) -> None:
        """Start a web server that was ended, at its old place, and wait until it and the balancer are ready."""
        self.processes[server] = _start_server(self, server)
        self.wait_for(server)
        self.supervisor.wait_until(
            lambda: self.orders.is_up(server), seconds=_READY_WITHIN, what=f"the return of {server}"
        )

    def wait_for(self, server: str) -> None:
        """Wait until a web server answers."""
        self.supervisor.wait_until(
            functools.partial(haproxy.answers, self.ports[server]), seconds=_READY_WITHIN, what=f"the start of {server}"
        )

    def enough(self, after: float) -> None:
        """Let nobody come any more who is due later than `after` seconds from now, in the drive under way."""
        _tell(self.generators["driver"].process, Enough(at=time.monotonic() - self.moment + after))

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Write down as a fault what is done inside."""
        begun = time.monotonic() - self.moment
        yield
        self.faults.append(Fault(what, round(begun, 6), round(time.monotonic() - self.moment, 6)))

    # --- meters ------------------------------------------------------------------------------------------------------

    def fill(self, count: int, size: int) -> None:
        """Have `count` more sessions of `size` bytes, begun evenly at all web servers."""
        each = count // len(self.servers)
        for server in self.servers:
            self._ask(server, "POST", f"/lab/fill?count={each}&bytes={size}")

    def reading(self, moment: str) -> Reading:
        """Read all meters."""
        # To be asked costs processor time as well: it must not fall into the time that is measured.
        cpu = self._processor_times() if moment == "after" else {}
        kept: dict[str, int] = {name: one.kept_bytes() for name, one in self.services.items()}
        network: dict[str, tuple[int, int]] | None = {}
        for server in self.servers:
            told = msgspec.json.decode(self._ask(server, "GET", "/lab/traffic"), type=dict[str, int] | None)
            network = None if told is None or network is None else network | {server: (told["sent"], told["received"])}
        return Reading(
            moment=moment,  # type: ignore[arg-type]
            at=round(time.monotonic() - self.moment, 6),
            memory={name: memory(self.processes[name].popen.pid) for name in self.servers},
            kept=kept,
            network=network,
            cpu=cpu or self._processor_times(),
        )

    def _processor_times(self) -> dict[str, float]:
        running = {name: self.processes[name] for name in self.servers} | {"haproxy": self.balancer}
        running |= {name: one.process for name, one in self.services.items() if one.process is not None}
        return {name: processor_time(process.popen.pid) for name, process in running.items()}

    def warm_up(self, people: int, size: int) -> None:
        """Let each web server open its connections and read its code, which it does once and for all."""
        for server in self.servers:
            self._ask(server, "POST", f"/lab/prepare?count={people}&bytes={size}")
            self._ask(server, "POST", f"/lab/work?kind=visit&count={2 * people}&write_share=0.5")

    def prepare(self, people: int, size: int) -> None:
        """Give the first web server sessions of `size` bytes to work with."""
        self._ask(self.servers[0], "POST", f"/lab/prepare?count={people}&bytes={size}")

    def work(self, kind: BurstKind, people: int, count: int, write_share: float) -> Burst:
        """Have the first web server do session work and nothing else, see `Burst`. Nothing, for a while, if `idle`."""
        begun, waits = time.monotonic(), tuple[int, ...]()
        if kind == "idle":
            self.supervisor.pause(_IDLE)
        else:
            asked = f"kind={kind}&count={count}&write_share={write_share:g}"
            waits = msgspec.json.decode(self._ask(self.servers[0], "POST", f"/lab/work?{asked}"), type=tuple[int, ...])
        return Burst(kind, people, round(time.monotonic() - begun, 6), waits)

    def _ask(self, server: str, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, self.ports[server], timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as problem:
            raise LabError(f"{server} does not answer {path}: {problem}") from problem
        finally:
            connection.close()
        if answer.status != 200:
            raise LabError(f"{server} answers {path} with {answer.status}")
        return body

    # --- people ------------------------------------------------------------------------------------------------------

    def drive(self, job: LoadJob, actions: Sequence[Action] = (), watch: Watcher | None = None) -> None:
        """Send people as `job` says, and do each of `actions` when it is time.

        The faults noted meanwhile, and the meters before and after, go into the job's file of samples.
        """
        file = Path(job.file)
        self.moment = 0.0
        before = self.reading("before")
        self.faults.clear()
        run_generator(self, "driver", "coatcheck.lab.driver", job, head_start(job.users), job.seconds, actions, watch)
        before = replace(before, at=round(before.at - self.moment, 6))  # by the clock of all that follows
        after = self.reading("after")
        samples.append(file, [before, *self.faults, after])


def run_generator(
    bench: Bench,
    name: str,
    module: str,
    job: LoadJob | Job,
    head_start: float,
    seconds: float,
    actions: Sequence[Action],
    watch: Watcher | None,
) -> None:
    """Have a load generator do a job. It is started once for all jobs with this architecture, and waits in between.

    Args:
        bench: whose shop it visits.
        name, module: of its process.
        job: what it is told.
        head_start: seconds until the first arrival.
        seconds: how long people keep coming.
        actions: what is done meanwhile.
        watch: who is told how it goes.
    """
    supervisor = bench.supervisor
    told = bench.generators.get(name)
    if told is None:
        told = _Listener(supervisor.start(name, [sys.executable, "-m", module], talks=True, may_end=True))
        bench.generators[name] = told
    generator, told.latest = told.process, None
    _tell(generator, job)
    supervisor.wait_until(
        lambda: told.latest is not None or generator.popen.poll() is not None,
        seconds=_READY_WITHIN,
        what=f"the start of the {name}",
    )
    bench.moment = start = time.monotonic() + head_start
    _tell(generator, Start(at=start))

    left = sorted(actions, key=lambda action: action.at)
    while not (told.latest or Progress()).done:
        if generator.popen.poll() is not None and not told.done():
            raise ProcessFailed(generator.name, f"ended with exit code {generator.popen.returncode}", generator.log)
        supervisor.check()
        elapsed = time.monotonic() - start
        if left and elapsed >= left[0].at:
            left.pop(0).do()
            continue
        if elapsed > seconds + LAST_ANSWERS:
            raise LabError(f"the {name} were not done {LAST_ANSWERS:g} s after the last arrival")
        if watch is not None:
            watch(max(0.0, elapsed), told.latest or Progress())
        until_next = left[0].at - (time.monotonic() - start) if left else 0.1
        supervisor.pause(min(0.02 if elapsed > seconds else 0.1, max(0.0, until_next)))
    supervisor.check()


@contextmanager
def built(
    architecture: Architecture,
    *,
    servers: int,
    run: Path,
    folder: Path,
    programs: Mapping[str, Path],
    stop: StopRequests,
    given_urls: Mapping[Service, str],
    spare: bool = False,
    route: Route = direct,
) -> Iterator[Bench]:
    """Build an architecture, hand it out running, and take it down.

    Args:
        architecture: which.
        servers: how many web servers.
        run: the run's folder.
        folder: the folder for this architecture's files.
        programs: the programs of HAProxy and of the services, by name.
        stop: where requests to stop are noticed.
        given_urls: services that run already.
        spare: have one more web server, which waits.
        route: how the parts reach one another: `balancer`, the web servers, and the services by their kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"web-{number}" for number in range(1, servers + 1))
    waiting = f"web-{servers + 1}" if spare else ""
    everybody = (*names, waiting) if spare else names
    with (
        tempfile.TemporaryDirectory(prefix="coatcheck-", dir=_place_for_sockets()) as scratch,
        Supervisor(run, folder / "logs", stop) as supervisor,
    ):
        services: dict[Service, Running] = {}
        try:
            for kind in sorted(architecture.needs):
                url = given_urls.get(kind)
                services[kind] = SERVICES[kind](supervisor, programs, folder) if url is None else given(kind, url)
            admin = Path(scratch) / "haproxy"
            bench = Bench(
                architecture=architecture,
                folder=folder,
                supervisor=supervisor,
                servers=names,
                spare=waiting,
                port=0,
                orders=haproxy.Orders(admin),
                services=services,
                ports={},
                peer_ports={name: free_port() for name in everybody},
                balancer=None,  # type: ignore[arg-type]
                processes={},
                route=route,
            )
            for name in everybody:
                bench.processes[name] = _start_server(bench, name)
            for name in everybody:
                bench.wait_for(name)
            bench.port = haproxy.start(
                supervisor, programs["haproxy"], folder,
                {name: route("balancer", name, port) for name, port in bench.ports.items()},
                architecture.balancing, admin, frozenset({waiting} if spare else ()),
            )  # fmt: skip
            bench.balancer = supervisor.named("haproxy")
            yield bench
        finally:
            supervisor.stop_all()
            for service in services.values():
                service.tidy()  # what it kept is of no use any more, and large


def _place_for_sockets() -> str:
    """Where the path of a unix socket is short enough: not below the run's folder, nor wherever TMPDIR may point."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 60 else "/tmp"  # noqa: S108


def _start_server(bench: Bench, name: str) -> Process:
    # The lab binds the port and hands it over: no other program can take it in between.
    listening = bound_socket(bench.ports.get(name, 0))
    bench.ports[name] = listening.getsockname()[1]
    urls = {kind: _by_way_of(bench.route, name, kind, service.url) for kind, service in bench.services.items()}
    site = Site(
        server=name,
        redis_url=urls.get("valkey"),
        database_url=urls.get("database"),
        peer_ports=bench.peer_ports,
        peer_doors={peer: bench.route("", peer, port) for peer, port in bench.peer_ports.items()},
    )
    return bench.supervisor.start(
        name,
        [sys.executable, "-m", "coatcheck.lab.shop", name, str(listening.fileno())],
        environment={STORE_VARIABLE: bench.architecture.store_url(site)},
        listening=listening,
    )


def _by_way_of(route: Route, client: str, server: str, url: str) -> str:
    """A service's URL, as this client reaches it."""
    parts = urlsplit(url)
    if parts.port is None:
        return url  # a file
    host = parts.netloc.removesuffix(f":{parts.port}")
    return urlunsplit(parts._replace(netloc=f"{host}:{route(client, server, parts.port)}"))


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process and its children, those included that have ended; 0 where nobody counts.

    What a living process has used is counted in nanoseconds. The system shows it in steps of 10 ms elsewhere, too coarse
    for the processes of a database: a dozen of them, each of which rounds for itself.
    """
    total = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total = time.clock_gettime(~pid << 3 | _OF_ALL_THREADS) + sum(map(int, fields[13:15])) / _TICKS
    return total + sum(map(processor_time, _children(pid)))


def memory(pid: int) -> int:
    """Bytes of memory of a process and its children, what they share counted once; 0 where nobody counts."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = int(told.partition("\nPss:")[2].split()[0]) * 1024
    return total + sum(map(memory, _children(pid)))


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _tell(generator: Process, message: LoadJob | Job | Start | Enough) -> None:
    assert generator.popen.stdin is not None
    try:
        generator.popen.stdin.write(line(message))
        generator.popen.stdin.flush()
    except BrokenPipeError:
        generator.popen.wait()
        raise ProcessFailed(generator.name, "ended before it began", generator.log) from None


class _Listener(threading.Thread):
    """Reads what the generator says, so that it never has to wait for a reader. Ends when the generator does."""

    def __init__(self, process: Process) -> None:
        super().__init__(daemon=True)
        assert process.popen.stdout is not None
        self.process = process
        self._stream: IO[bytes] = process.popen.stdout
        self.latest: Progress | None = None
        self.start()

    def done(self) -> bool:
        """Whether a generator that has ended was done."""
        self.join(5)
        return self.latest is not None and self.latest.done

    def run(self) -> None:
        try:
            for said in self._stream:
                self.latest = msgspec.json.decode(said, type=Progress)
        except (OSError, ValueError):
            pass  # the pipe was closed, or a line was cut off: the generator is gone
