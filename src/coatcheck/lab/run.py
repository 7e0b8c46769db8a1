"""A run: one architecture after the other, each built, driven, broken, judged and taken down again."""

from __future__ import annotations

import functools
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

import msgspec

from coatcheck.lab import haproxy, programs, results, valkey
from coatcheck.lab.architectures import Architecture, Site
from coatcheck.lab.errors import LabError, ProcessFailed
from coatcheck.lab.history import FILE as HISTORY
from coatcheck.lab.history import SCHEMA, Killed, Started, Writer
from coatcheck.lab.messages import Job, Progress, Start, line
from coatcheck.lab.plan import Plan
from coatcheck.lab.processes import LOOPBACK, STORE_VARIABLE, Process, Supervisor, bound_socket, free_port
from coatcheck.lab.settings import Settings
from coatcheck.lab.stopping import StopRequests

_HEAD_START = 0.3  # seconds from the word "go" to the first arrival
_LAST_ANSWERS = 60.0  # seconds after the last arrival in which the last answers must be in


class Display(Protocol):
    """Who watches a run."""

    def begin(self, architecture: Architecture, plan: Plan) -> None:
        """An architecture is being built."""

    def shopping(self, elapsed: float, progress: Progress, killed: str | None) -> None:
        """Traffic is under way; called several times a second.

        Args:
            elapsed: seconds since the first arrival.
            progress: how far the shoppers are.
            killed: the web server killed, once it is.
        """

    def finish(self, outcome: results.Outcome) -> None:
        """An architecture has been run and judged."""


def run(settings: Settings, display: Display, stop: StopRequests) -> results.Results:
    """Run all architectures that `settings` asks for, and keep everything in a new folder.

    Raises:
        UsageError: a setting cannot work.
        MissingPart: a program or package is missing; the message says how to get it.
        LabError: the run failed. What was recorded until then is kept.
        Interrupted: somebody asked the lab to stop. The same holds.
    """
    settings.check()
    programs.check_packages(redis=any("valkey" in one.needs for one in settings.architectures))
    parts = {"haproxy": programs.haproxy(settings.haproxy)}
    if settings.starts_valkey:
        parts["valkey"] = programs.valkey(settings.valkey)
    elif settings.redis_url is not None:
        valkey.check_url(settings.redis_url)
    machine = results.this_machine({name: programs.version(program) for name, program in parts.items()})

    folder = results.new_folder(settings.runs)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    outcomes: list[results.Outcome] = []
    found = results.collect(folder, settings, machine, started, outcomes)
    results.write(found, folder)
    try:
        for architecture in settings.architectures:
            stop.check()
            display.begin(architecture, settings.plan)
            _one(architecture, settings, parts, folder, display, stop)
            outcomes.append(results.outcome(architecture, folder))
            found = results.collect(folder, settings, machine, started, outcomes)
            results.write(found, folder)
            display.finish(outcomes[-1])
    except LabError as failure:
        finished = ", ".join(one.architecture for one in outcomes) or "none"
        failure.add_note(f"Finished before that: {finished}. What was recorded is kept in {folder}")
        raise
    results.point_latest_at(folder)
    return found


def _one(
    architecture: Architecture,
    settings: Settings,
    parts: dict[str, Path],
    run_folder: Path,
    display: Display,
    stop: StopRequests,
) -> None:
    """Build one architecture, send the shoppers, kill a server midway, and leave a history."""
    folder = run_folder / architecture.name
    folder.mkdir()
    plan = settings.plan
    with Supervisor(run_folder, folder / "logs", stop) as supervisor:
        redis_url = settings.redis_url
        if "valkey" in architecture.needs and redis_url is None:
            redis_url = valkey.start(supervisor, parts["valkey"], folder)
        servers, ports = _start_servers(supervisor, architecture, settings.servers, redis_url)
        port = haproxy.start(supervisor, parts["haproxy"], folder, ports, architecture.balancing)

        # The middle one: neither the first nor the last in the balancer's list.
        victim = servers[list(servers)[(len(servers) - 1) // 2]]
        writer = Writer(folder / HISTORY)
        try:
            writer.write(
                [
                    Started(
                        schema=SCHEMA,
                        architecture=architecture.name,
                        sticky=architecture.balancing == "sticky",
                        servers=tuple(servers),
                        operations=plan.count,
                        shoppers=plan.shoppers,
                        rate=plan.rate,
                        seconds=plan.seconds,
                        kill_at=plan.kill_at,
                        seed=plan.seed,
                    )
                ]
            )
            _drive(supervisor, plan, port, folder / HISTORY, writer, victim, display)
        finally:
            writer.close()


def _start_servers(
    supervisor: Supervisor, architecture: Architecture, count: int, redis_url: str | None
) -> tuple[dict[str, Process], dict[str, int]]:
    """Start the web servers, wait until each answers, and give the processes and their ports by name."""
    servers: dict[str, Process] = {}
    ports: dict[str, int] = {}
    peers = ",".join(f"{LOOPBACK}:{free_port()}" for _ in range(count))
    for number in range(1, count + 1):
        name = f"web-{number}"
        # The lab binds the port and hands it over: no other program can take it in between.
        listening = bound_socket()
        ports[name] = listening.getsockname()[1]
        servers[name] = supervisor.start(
            name,
            [sys.executable, "-m", "coatcheck.lab.shop", name, str(listening.fileno())],
            environment={STORE_VARIABLE: architecture.store_url(Site(server=name, redis_url=redis_url, peers=peers))},
            listening=listening,
        )
    for name, port in ports.items():
        supervisor.wait_until(functools.partial(haproxy.answers, port), seconds=30, what=f"the start of {name}")
    return servers, ports


def _drive(
    supervisor: Supervisor,
    plan: Plan,
    port: int,
    history: Path,
    writer: Writer,
    victim: Process,
    display: Display,
) -> None:
    """Send the shoppers, kill the victim when it is time, and wait until the last shopper has been served."""
    generator = supervisor.start("shoppers", [sys.executable, "-m", "coatcheck.lab.shoppers"], talks=True, may_end=True)
    assert generator.popen.stdin is not None
    assert generator.popen.stdout is not None
    told = _Listener(generator.popen.stdout)
    _tell(generator, Job(port=port, history=str(history.resolve()), plan=plan))
    supervisor.wait_until(
        lambda: told.latest is not None or generator.popen.poll() is not None,
        seconds=30,
        what="the start of the shoppers",
    )
    start = time.monotonic() + _HEAD_START
    _tell(generator, Start(at=start))

    killed: str | None = None
    deadline = plan.seconds + _LAST_ANSWERS
    while generator.popen.poll() is None:
        supervisor.check()
        elapsed = time.monotonic() - start
        if killed is None and elapsed >= plan.kill_at:
            begun = time.monotonic() - start
            supervisor.kill(victim)
            done = time.monotonic() - start
            writer.write([Killed(server=victim.name, begun=round(begun, 6), done=round(done, 6))])
            killed = victim.name
        if elapsed > deadline:
            raise LabError(f"the shoppers were not done {_LAST_ANSWERS:g} s after the last arrival")
        display.shopping(max(0.0, elapsed), told.latest or Progress(), killed)
        until_kill = plan.kill_at - (time.monotonic() - start)
        supervisor.pause(min(0.1, until_kill) if killed is None and until_kill > 0 else 0.1)
    supervisor.check()
    if generator.popen.returncode != 0:
        raise ProcessFailed(generator.name, f"ended with exit code {generator.popen.returncode}", generator.log)


def _tell(generator: Process, message: Job | Start) -> None:
    assert generator.popen.stdin is not None
    try:
        generator.popen.stdin.write(line(message))
        generator.popen.stdin.flush()
    except BrokenPipeError:
        generator.popen.wait()
        raise ProcessFailed(generator.name, "ended before it began", generator.log) from None


class _Listener(threading.Thread):
    """Reads what the generator says, so that it never has to wait for a reader. Ends when the generator does."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.latest: Progress | None = None
        self.start()

    def run(self) -> None:
        try:
            for said in self._stream:
                self.latest = msgspec.json.decode(said, type=Progress)
        except (OSError, ValueError):
            pass  # the pipe was closed, or a line was cut off: the generator is gone
