"""What does a session of this size take?"""

from __future__ import annotations

from coatcheck.lab import samples
from coatcheck.lab.experiments.base import Experiment, Trial
from coatcheck.lab.samples import Finished


def measure(trial: Trial) -> None:
    """As many sessions of each size as make some megabytes, so that nothing else is seen beside them."""
    bench = trial.bench
    for size in trial.scale.held_sizes:
        case, count = f"{size // 1000}kB", min(2_000, max(300, trial.scale.held // size))
        trial.say(f"size, {case}")
        bench.fill(60 * len(bench.servers), size)  # what the first ones cost once and for all
        empty = bench.reading("empty")
        bench.fill(count, size)
        began = trial.began("size", trial.round, size=size, stored=count)
        filled = bench.reading("filled")
        samples.append(
            trial.file("size", trial.round, case), [began, empty, filled, Finished(count=0, elapsed=0.0, cpu=0.0)]
        )


EXPERIMENT = Experiment(
    name="size",
    question="How much memory does a session of this size take?",
    method=(
        "Sessions of 2, 4, 10 and 50 kB, some megabytes of each, at every web server. What web servers or store take more "
        "afterwards, divided by the number of sessions. What is in them does not compress."
    ),
    measure=measure,
    shown=("memory",),
)
