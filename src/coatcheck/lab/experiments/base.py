"""What all experiments have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coatcheck.lab import samples
from coatcheck.lab.bench import Action, Bench, Watcher
from coatcheck.lab.messages import LoadJob, Progress
from coatcheck.lab.samples import Began, Reading
from coatcheck.lab.scale import Scale
from coatcheck.lab.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One experiment with one architecture that is running.

    Attributes:
        bench: the architecture.
        scale: how much is measured.
        scenario: what people do.
        round: counted from 1.
        seed: decides who comes when.
        say: tells people what is going on, and how far it is.
    """

    bench: Bench
    scale: Scale
    scenario: Scenario
    round: int
    seed: int
    say: Callable[[str], Watcher]

    def file(self, experiment: str, turn: int, case: str) -> Path:
        """The file of samples of one measurement, in the architecture's folder."""
        return self.bench.folder / f"{experiment}-{turn}{f'-{case}' if case else ''}.jsonl"

    def began(
        self,
        experiment: str,
        turn: int,
        *,
        rate: float = 0.0,
        seconds: float = 0.0,
        users: int = 0,
        size: int | None = None,
        stored: int = 0,
        write_share: float | None = None,
    ) -> Began:
        """The first line of such a file; see `Began`. Size and share of writes are the scenario's unless given."""
        return Began(
            experiment=experiment,
            architecture=self.bench.architecture.name,
            servers=self.bench.servers,
            round=turn,
            rate=rate,
            seconds=seconds,
            users=users,
            size=self.scenario.size if size is None else size,
            stored=stored,
            write_share=self.scenario.write_share if write_share is None else write_share,
        )

    def measure(
        self,
        experiment: str,
        case: str,
        *,
        rate: float = 0.0,
        seconds: float = 0.0,
        users: int | None = None,
        size: int | None = None,
        write_share: float | None = None,
        stored: int = 0,
        readings: tuple[Reading, ...] = (),
        crowd_share: float = 0.0,
        crowd_server: str = "",
        races: int = 0,
        logouts: int = 0,
        actions: tuple[Action, ...] = (),
    ) -> None:
        """Send people and write a file of samples.

        Args:
            experiment, case: name the file.
            stored: how many other sessions are there.
            readings: meters that were read before.
            actions: what is done to the architecture meanwhile.
            users, size, write_share: those of the scenario unless given; the others are those of `LoadJob`.
        """
        scenario = self.scenario
        file = self.file(experiment, self.round, case)
        job = LoadJob(
            port=self.bench.port,
            file=str(file.resolve()),
            users=min(scenario.users, self.scale.users) if users is None else users,
            size=scenario.size if size is None else size,
            # The same for every architecture.
            seed=self.seed + 1000 * self.round,
            rate=rate,
            seconds=seconds,
            write_share=scenario.write_share if write_share is None else write_share,
            crowd_share=crowd_share,
            crowd_server=crowd_server,
            races=races,
            logouts=logouts,
            looks=2 * len(self.bench.servers),
        )
        began = self.began(
            experiment, self.round, rate=rate, seconds=seconds, users=job.users, size=job.size, stored=stored,
            write_share=job.write_share,
        )  # fmt: skip
        samples.append(file, [began, *readings])
        watch = self.say(f"{experiment}{f', {case}' if case else ''}")
        watch(0.0, Progress())
        self.bench.drive(job, actions, watch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment.

    Attributes:
        name: as in file names and reports.
        question: what it answers.
        method: how, in a few sentences.
        measure: does it, with an architecture that is running; `None` for one that builds what it needs itself.
        repeated: whether it is done in every round; otherwise in the first alone.
        shown: the figures that answer the question, by their names in `coatcheck.lab.measures.FIGURES`.
    """

    name: str
    question: str
    method: str
    measure: Callable[[Trial], None] | None
    shown: tuple[str, ...]
    repeated: bool = False
