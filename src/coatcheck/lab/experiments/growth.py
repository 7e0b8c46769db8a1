"""What does one more web server cost?"""

from __future__ import annotations

from coatcheck.lab.experiments.base import Experiment, Trial


def measure_size(trial: Trial) -> None:
    """The same traffic and the same sessions, with as many web servers as there are."""
    scale, bench = trial.scale, trial.bench
    bench.warm_up(8, trial.scenario.size)
    bench.fill(100 * len(bench.servers), trial.scenario.size)  # what the first ones cost once and for all
    empty = bench.reading("empty")
    bench.fill(scale.grown, trial.scenario.size)
    trial.measure(
        "growth", f"n{len(bench.servers)}", rate=scale.growth_rate, seconds=scale.growth_seconds,
        stored=scale.grown, readings=(empty, bench.reading("filled")),
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="growth",
    question="What happens to memory and network when there are more web servers?",
    method=(
        "The same traffic and the same number of sessions, with 1, 2, 4 and 8 web servers (fewer in a quick run): memory "
        "per session over the whole cluster, and bytes per request."
    ),
    measure=None,
    shown=("memory", "network", "store_p50", "web_cpu"),
)
