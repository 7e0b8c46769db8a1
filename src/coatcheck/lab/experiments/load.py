"""What does a request cost, and how long does it take, with few users and with many?"""

from __future__ import annotations

from coatcheck.lab.experiments.base import Experiment, Trial


def measure(trial: Trial) -> None:
    """Calm, busy, and busy with many sessions stored."""
    scale, bench = trial.scale, trial.bench
    bench.warm_up(8, trial.scenario.size)
    if scale.with_calm:
        trial.measure("load", "calm", rate=scale.calm_rate, seconds=scale.load_seconds)
    trial.measure("load", "busy", rate=scale.busy_rate, seconds=scale.load_seconds)
    if not scale.with_stored:
        return
    bench.fill(100 * len(bench.servers), trial.scenario.size)  # what the first ones cost once and for all
    empty = bench.reading("empty")
    bench.fill(scale.stored, trial.scenario.size)
    trial.measure(
        "load", "stored", rate=scale.busy_rate, seconds=scale.load_seconds,
        stored=scale.stored, readings=(empty, bench.reading("filled")),
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="load",
    question="What does a request cost, and how long does it take: with few users, with many, with many sessions stored?",
    method=(
        "People come at a fixed rate and do not wait for one another: calm, then busy, then busy while many other sessions "
        "are stored. Each web server measures how long each request waits for its store; the generator measures the whole "
        "request from the moment at which it was due. Processor time and memory are those that the operating system "
        "counts, bytes on the network are those that the kernel counts for each connection. Per request, both have in them "
        "what beginning a session takes (half of the requests are such with few users, one of seven with many) and what "
        "goes on while nobody comes: so with few users they are higher. All of it is done again in "
        "every round, the architectures in another order."
    ),
    measure=measure,
    shown=(
        "store_p50", "store_p99", "store_p999", "whole_p50", "whole_p99", "whole_p999",
        "web_cpu", "store_cpu", "balancer_cpu", "network", "memory", "errors",
    ),
    repeated=True,
)  # fmt: skip
