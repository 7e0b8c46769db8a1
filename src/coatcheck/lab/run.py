"""A run: one architecture after the other, each built, driven, broken, judged and taken down again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from coatcheck.lab import claims, programs, results, valkey
from coatcheck.lab.architectures import ARCHITECTURES, BASELINE, Architecture, Service
from coatcheck.lab.bench import Action, Bench, Watcher, built, run_generator
from coatcheck.lab.errors import LabError
from coatcheck.lab.experiments import EXPERIMENTS, growth, layout
from coatcheck.lab.experiments.base import Trial
from coatcheck.lab.history import FILE as HISTORY
from coatcheck.lab.history import SCHEMA, Killed, Started, Writer
from coatcheck.lab.messages import Job, Progress
from coatcheck.lab.plan import Plan
from coatcheck.lab.settings import Settings
from coatcheck.lab.stopping import StopRequests

_HEAD_START = 0.3  # seconds from the word "go" to the first arrival


class Display(Protocol):
    """Who watches a run."""

    def begin(self, architecture: Architecture, plan: Plan) -> None:
        """An architecture is being built, and the experiment with the carts begins."""

    def shopping(self, elapsed: float, progress: Progress, killed: str | None) -> None:
        """Traffic is under way; called several times a second.

        Args:
            elapsed: seconds since the first arrival.
            progress: how far the shoppers are.
            killed: the web server killed, once it is.
        """

    def finish(self, outcome: results.Outcome) -> None:
        """The carts of an architecture have been judged."""

    def expect(self, steps: int) -> None:
        """The run begins; so many `step`s will come."""

    def step(self, name: str) -> None:
        """The next step begins: an architecture is built, and measured."""

    def measuring(self, what: str) -> Watcher:
        """Something is being measured; what is returned is told how it goes."""
        ...


def run(settings: Settings, display: Display, stop: StopRequests) -> results.Results:
    """Run all experiments with all architectures that `settings` asks for, and keep everything in a new folder.

    Raises:
        UsageError: a setting cannot work.
        MissingPart: a program or package is missing; the message says how to get it.
        LabError: the run failed. What was recorded until then is kept.
        Interrupted: somebody asked the lab to stop. The same holds.
    """
    settings.check()
    programs.check_packages(
        redis=any("valkey" in one.needs for one in settings.architectures), database=settings.database is not None
    )
    parts = {"haproxy": programs.haproxy(settings.haproxy)}
    if settings.starts_valkey:
        parts["valkey"] = programs.valkey(settings.valkey)
    elif settings.redis_url is not None:
        valkey.check_url(settings.redis_url)
    if settings.database == "postgresql":
        parts["postgresql"] = programs.postgresql(settings.postgresql)
    elif settings.database == "mariadb":
        parts["mariadb"] = programs.mariadb()
    machine = results.this_machine({name: programs.version(program) for name, program in parts.items()})
    folder = results.new_folder(settings.runs)
    return _Run(settings, display, stop, parts, folder, machine).all()


class _Run:
    def __init__(
        self,
        settings: Settings,
        display: Display,
        stop: StopRequests,
        parts: Mapping[str, Path],
        folder: Path,
        machine: results.Machine,
    ) -> None:
        self._settings = settings
        self._display = display
        self._stop = stop
        self._parts = parts
        self._folder = folder
        self._machine = machine
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._outcomes: list[results.Outcome] = []

    def all(self) -> results.Results:
        """Everything, in an order that gives no architecture the same neighbours each time."""
        settings, scale = self._settings, self._settings.scale
        architectures = settings.architectures
        self._keep(complete=False)
        try:
            self._display.expect(self._steps())
            for architecture in architectures:
                self._stop.check()
                self._first_round(architecture)
            for turn in range(2, scale.rounds + 1 if settings.experiments else 0):
                # Whoever came first comes last in the next round: a machine that gets warm, or busy, is fair to all.
                first = (turn - 1) % len(architectures)
                for architecture in (*architectures[first:], *architectures[:first]):
                    self._step(f"{architecture.name}, round {turn} of {scale.rounds}")
                    with self._built(architecture, architecture.name) as bench:
                        self._measure(bench, turn)
            if settings.experiments:
                self._grow()
                self._compare_layouts()
            found = self._keep(complete=True)
        except LabError as failure:
            finished = ", ".join(one.architecture for one in self._outcomes) or "none"
            failure.add_note(f"Finished before that: {finished}. What was recorded is kept in {self._folder}")
            raise
        results.point_latest_at(self._folder)
        return found

    def _first_round(self, architecture: Architecture) -> None:
        """The experiment with the carts; then, with the killed server back, the others."""
        settings = self._settings
        self._display.begin(architecture, settings.plan)
        with self._built(architecture, architecture.name, spare=settings.experiments) as bench:
            victim = self._carts(bench)
            self._outcomes.append(results.outcome(architecture, self._folder))
            self._keep(complete=False)
            self._display.finish(self._outcomes[-1])
            if settings.experiments:
                self._step(f"{architecture.name}, round 1 of {settings.scale.rounds}")
                bench.start(victim)
                self._measure(bench, 1)

    def _keep(self, *, complete: bool) -> results.Results:
        found = results.collect(
            self._folder, self._settings, self._machine, self._started, self._outcomes, complete=complete
        )
        results.write(found, self._folder)
        return found

    def _built(
        self, architecture: Architecture, *parts: str, servers: int | None = None, spare: bool = False
    ) -> AbstractContextManager[Bench]:
        settings = self._settings
        given: dict[Service, str] = {} if settings.redis_url is None else {"valkey": settings.redis_url}
        return built(
            architecture,
            servers=settings.servers if servers is None else servers,
            run=self._folder,
            folder=self._folder.joinpath(*parts),
            programs=self._parts,
            stop=self._stop,
            given_urls=given,
            spare=spare,
        )

    # --- the experiment with the carts -------------------------------------------------------------------------------

    def _carts(self, bench: Bench) -> str:
        """Send the shoppers, kill a server midway, and leave a history. Gives the server that was killed."""
        plan = self._settings.plan
        # The middle one: neither the first nor the last in the balancer's list.
        victim = bench.servers[(len(bench.servers) - 1) // 2]
        history = bench.folder / HISTORY
        writer = Writer(history)
        killed: list[str] = []

        def kill() -> None:
            with bench.noting(f"kill {victim}"):
                bench.kill(victim)
            fault = bench.faults[-1]
            writer.write([Killed(server=victim, begun=fault.begun, done=fault.done)])
            killed.append(victim)

        def watch(elapsed: float, progress: Progress) -> None:
            self._display.shopping(elapsed, progress, victim if killed else None)

        try:
            writer.write(
                [
                    Started(
                        schema=SCHEMA,
                        architecture=bench.architecture.name,
                        sticky=bench.architecture.balancing == "sticky",
                        servers=bench.servers,
                        operations=plan.count,
                        shoppers=plan.shoppers,
                        rate=plan.rate,
                        seconds=plan.seconds,
                        kill_at=plan.kill_at,
                        seed=plan.seed,
                    )
                ]
            )
            job = Job(port=bench.port, history=str(history.resolve()), plan=plan)
            run_generator(
                bench, "shoppers", "coatcheck.lab.shoppers", job, _HEAD_START, plan.seconds,
                [Action(plan.kill_at, kill)], watch,
            )  # fmt: skip
        finally:
            writer.close()
        return victim

    # --- the others --------------------------------------------------------------------------------------------------

    def _measure(self, bench: Bench, turn: int) -> None:
        """All experiments of one round with one architecture."""
        trial = self._trial(bench, turn)
        for experiment in EXPERIMENTS.values():
            if experiment.measure is None or (turn > 1 and not experiment.repeated):
                continue
            if self._wanted(experiment.name, bench.architecture):
                experiment.measure(trial)

    def _grow(self) -> None:
        for servers in self._settings.scale.growth:
            for architecture in self._growing():
                self._step(f"{architecture.name}, {servers} web server{'s' if servers > 1 else ''}")
                where = ("growth", f"{architecture.name}-{servers}")
                with self._built(architecture, *where, servers=servers) as bench:
                    growth.measure_size(self._trial(bench, 1))

    def _compare_layouts(self) -> None:
        for architecture in self._laid_out():
            self._step(f"{architecture.name}, the layout of a session")
            with self._built(architecture, "layout", architecture.name) as bench:
                layout.measure_layout(self._trial(bench, 1))

    def _wanted(self, experiment: str, architecture: Architecture) -> bool:
        """A quick run measures what the claims need, and nothing else."""
        return not self._settings.quick or architecture.name in claims.NEEDS.get(experiment, ())

    def _growing(self) -> list[Architecture]:
        """Growth says nothing where nothing is shared; and a database is one store, as Redis is."""
        return [
            one
            for one in self._settings.architectures
            if self._wanted("growth", one) and (one.copies or "valkey" in one.needs)
        ]

    def _laid_out(self) -> list[Architecture]:
        hashed = ARCHITECTURES["redis"]
        return [hashed, BASELINE] if hashed in self._settings.architectures else []

    def _steps(self) -> int:
        """How many there will be, those with the carts not counted."""
        if not self._settings.experiments:
            return 0
        scale = self._settings.scale
        rounds = scale.rounds * len(self._settings.architectures)
        return rounds + len(scale.growth) * len(self._growing()) + len(self._laid_out())

    def _step(self, name: str) -> None:
        self._stop.check()
        self._display.step(name)

    def _trial(self, bench: Bench, turn: int) -> Trial:
        settings = self._settings
        return Trial(
            bench=bench,
            scale=settings.scale,
            scenario=settings.described,
            round=turn,
            seed=settings.seed,
            say=self._display.measuring,
        )
