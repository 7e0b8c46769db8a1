"""A hash per session, or one serialised value?"""

from __future__ import annotations

from coatcheck.lab.experiments.base import Experiment, Trial


def measure_layout(trial: Trial) -> None:
    """Changes of sessions that are small, middling and large; and changes at the same time."""
    scale, bench = trial.scale, trial.bench
    bench.warm_up(8, trial.scenario.size)
    for size in scale.sizes:
        count = scale.laid_out * len(bench.servers)
        bench.fill(60 * len(bench.servers), size)  # what the first ones cost once and for all
        empty = bench.reading("empty")
        bench.fill(count, size)
        trial.measure(
            "layout", f"{size // 1000}kB", users=scale.races, size=size, write_share=1.0,
            rate=scale.growth_rate, seconds=scale.growth_seconds, stored=count, readings=(empty, bench.reading("filled")),
        )  # fmt: skip
    size = scale.sizes[-1]  # whether changes are lost is no matter of size
    trial.measure(
        "layout", f"{size // 1000}kB-at-once", users=scale.races, size=size, races=scale.races, logouts=scale.races
    )


EXPERIMENT = Experiment(
    name="layout",
    question="Is a hash per session better than one serialised value?",
    method=(
        "The same shop on the same Valkey, once with coatcheck's hash per session, once with a store that reads and writes "
        "one serialised value, as most libraries do. Every request changes one field of a session of 1, 10 or 50 kB. "
        "Bytes to and from the store per change, memory per session, lost changes and revived logouts."
    ),
    measure=None,
    shown=("network", "memory", "lost_updates", "revived", "store_p50", "web_cpu", "store_cpu"),
)
