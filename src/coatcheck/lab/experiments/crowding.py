"""Can a crowd on one server be spread over the others?"""

from __future__ import annotations

from coatcheck.lab.bench import Action
from coatcheck.lab.experiments.base import Experiment, Trial


def measure(trial: Trial) -> None:
    """A crowd comes; midway a server is added."""
    bench, seconds = trial.bench, trial.scale.crowd_seconds

    def add() -> None:
        with bench.noting(f"add {bench.spare}"):
            bench.orders.set_state(bench.spare, "ready")
            bench.supervisor.wait_until(
                lambda: bench.orders.is_up(bench.spare), seconds=10, what=f"the arrival of {bench.spare}"
            )

    trial.measure(
        "crowding",
        "",
        rate=trial.scale.busy_rate,
        seconds=seconds,
        crowd_share=trial.scenario.crowd_share,
        crowd_server=bench.servers[0],
        actions=(Action(seconds / 2, add),),
    )
    bench.orders.set_state(bench.spare, "maint")


EXPERIMENT = Experiment(
    name="crowding",
    question="A crowd of very active users has met on one server. Can the others take some of the load, or a new one?",
    method=(
        "Everybody begins a session. Then those whom one web server served at first become very active, and make most of "
        "the requests: four of five, unless the scenario says otherwise. Midway a web server is added. How many times the "
        "mean does the busiest server have to do, before and after? 1 is even."
    ),
    measure=measure,
    shown=("load", "load_after", "newcomer", "whole_p50", "errors"),
)
