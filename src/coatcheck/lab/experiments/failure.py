"""What is lost when servers are restarted in turn, and when the store is killed?"""

from __future__ import annotations

from collections.abc import Callable

from coatcheck.lab.bench import Action
from coatcheck.lab.experiments.base import Experiment, Trial

_DRAIN = 0.3  # seconds between taking a server out of turn and stopping it
_DOWN = 1.0  # seconds for which the store stays down
_BEFORE, _AFTER = 1.0, 2.0  # seconds of traffic before and after
_PATIENCE = 60.0  # seconds that restarts may take: people keep coming until two seconds after the last


def measure(trial: Trial) -> None:
    """A rolling restart, as every deploy makes it; then the end of the store, where there is one."""
    if not trial.scale.failure:
        return
    bench, rate = trial.bench, trial.scale.calm_rate * 2

    def restart_all() -> None:
        with bench.noting("restart all web servers in turn"):
            for server in bench.servers:
                bench.orders.set_state(server, "drain")
                bench.supervisor.pause(_DRAIN)
                bench.orders.set_state(server, "maint")
                bench.stop(server)
                bench.orders.set_state(server, "ready")
                bench.start(server)
        bench.enough(_AFTER)

    if "rolling-restart" in trial.scenario.faults:
        trial.measure(
            "failure", "restart", users=60, rate=rate, seconds=_PATIENCE,
            actions=(Action(_BEFORE, restart_all),),
        )  # fmt: skip

    if "kill-store" not in trial.scenario.faults:
        return
    for kind, service in bench.services.items():
        again = service.again
        if service.process is None or again is None:
            continue  # it is somebody else's

        def kill(kind: str = kind, again: Callable[[], object] = again) -> None:
            with bench.noting(f"kill {kind}"):
                bench.supervisor.kill(bench.supervisor.named(kind))
                bench.supervisor.pause(_DOWN)
                again()
            bench.enough(_AFTER)

        trial.measure(
            "failure", "store", users=60, rate=rate, seconds=_PATIENCE,
            actions=(Action(_BEFORE, kill),),
        )  # fmt: skip


EXPERIMENT = Experiment(
    name="failure",
    question="What is lost when all web servers are restarted one after the other, and when the store is killed?",
    method=(
        "Under traffic each web server in turn is taken out of the balancer's turns, stopped, started anew and put back, as "
        "a deploy does it. Then the store is killed with SIGKILL and started again a second later, with what it had "
        "written to disk. A session is lost if it was known before, and never again afterwards. The kill of a web server "
        "is part of the experiment with the carts."
    ),
    measure=measure,
    shown=("lost_sessions", "errors", "gap"),
)
