"""What does session work alone cost, one at a time and many at once?"""

from __future__ import annotations

from coatcheck.lab import samples
from coatcheck.lab.experiments.base import Experiment, Trial
from coatcheck.lab.samples import BurstKind, Finished

ALONE, CROWD = "1-at-once", "64-at-once"
ON_DISK = "change-on-disk"  # of a store that otherwise acknowledges what it has in memory
_PEOPLE = {ALONE: 1, CROWD: 64}
_FEW = 200  # pieces of work: enough for what they cost, where no percentile is looked for


def measure(trial: Trial) -> None:
    """The visits of one person, and those of many at once, in turns; then each piece of work by itself."""
    scale = trial.scale
    trial.bench.warm_up(max(_PEOPLE.values()), trial.scenario.size)
    for repeat in range(1, scale.bursts + 1):
        for case, people in _PEOPLE.items():
            _burst(trial, case, "visit", people, _FEW if case == ALONE else scale.work, repeat)
    if scale.pieces and trial.round == scale.rounds:  # in the first one, a server more is waiting to join
        for kind in ("read", "change", "create"):
            _burst(trial, kind, kind, 1, _FEW)
        for service in trial.bench.services.values():
            if service.on_disk is not None:
                with service.on_disk():
                    _burst(trial, ON_DISK, "change", 1, _FEW)
        # Three times, so that the median is without what all-to-all does every ten seconds only: to compare all copies.
        for repeat in range(1, 4):
            _burst(trial, "idle", "idle", 1, 0, repeat)


def _burst(trial: Trial, case: str, kind: BurstKind, people: int, count: int, repeat: int = 1) -> None:
    bench, scenario = trial.bench, trial.scenario
    trial.say(f"work, {case}")
    bench.prepare(people, scenario.size)
    before = bench.reading("before")
    burst = bench.work(kind, people, count, scenario.write_share)
    after = bench.reading("after")
    turn = (trial.round - 1) * trial.scale.bursts + repeat
    file, began = trial.file("work", turn, case), trial.began("work", turn, users=people)
    samples.append(file, [began, before, burst, after, Finished(count=1, elapsed=burst.seconds, cpu=0.0)])


EXPERIMENT = Experiment(
    name="work",
    question="What does session work cost by itself, and how much longer does it take when many come at once?",
    method=(
        "One web server does what requests do with their sessions, and nothing else: it reads a session, and changes it as "
        "often as the scenario says. First for one person, who waits for each answer before the next, then for 64 at once, "
        "in turns. Then reading, changing and beginning a session, each by itself, and a while in which nobody comes. The "
        "processor time is that of all web servers and the store, by the system's own count in nanoseconds."
    ),
    measure=measure,
    shown=(
        "store_p50",
        "store_p99",
        "store_p999",
        "work_cpu",
        "store_cpu",
        "peer_cpu",
        "network",
        "idle_network",
        "idle_cpu",
    ),
    repeated=True,
)
