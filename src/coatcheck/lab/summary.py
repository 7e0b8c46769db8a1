"""What a report says, whatever form it has: tables, advice and warnings, all made from the figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coatcheck.lab.claims import Evidence, Measured
from coatcheck.lab.measures import FIGURES, TAILS, Unit, samples_needed
from coatcheck.lab.results import Outcome, Results

MISSING = "-"


@dataclass(frozen=True, slots=True)
class Advice:
    """One case, and which architecture fits it.

    Attributes:
        case: whose site it is.
        choice: the architecture's name.
        why: with figures of this run.
    """

    case: str
    choice: str
    why: str


def evidence(results: Results) -> Evidence:
    """What was measured, by name."""
    carts = {one.architecture: (one.figures, one.verdicts) for one in results.architectures}
    return Evidence(carts, results.experiments)


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Features and costs: the heading, with an architecture in each column, and the rows."""
    found = evidence(results)
    outcomes = results.architectures
    heading = ["", *(outcome.architecture for outcome in outcomes)]

    def row(title: str, cells: Sequence[str]) -> list[str]:
        return [title, *cells]

    def figure(title: str, experiment: str, case: str, name: str) -> list[str]:
        return row(
            title,
            [cell(found.of(experiment, outcome.architecture, case), name) for outcome in outcomes],
        )

    rows = [
        row("wrong carts, all servers up", [f"{outcome.figures.before_kill.share:.1%}" for outcome in outcomes]),
        row("sessions lost when a server is killed", [_lost(outcome) for outcome in outcomes]),
        figure("sessions lost in a rolling restart", "failure", "restart", "lost_sessions"),
        figure("sessions lost when the store is killed", "failure", "store", "lost_sessions"),
        figure("no answer at all while the store is away", "failure", "store", "gap"),
        figure("concurrent changes lost", "consistency", "", "lost_updates"),
        figure("alive after logout", "consistency", "", "revived"),
        figure("busiest server in a crowd, times the mean", "crowding", "", "load"),
        figure("the same, after a server was added", "crowding", "", "load_after"),
        figure("session work, median, busy", "load", "busy", "store_p50"),
        figure("session work, 99th percentile, busy", "load", "busy", "store_p99"),
        figure("whole request, median, busy", "load", "busy", "whole_p50"),
        figure("whole request, 99th percentile, busy", "load", "busy", "whole_p99"),
        figure("the same, with many sessions stored", "load", "stored", "whole_p99"),
        figure("memory per session, whole cluster", "load", "stored", "memory"),
        figure("network per request, behind the web servers", "load", "busy", "network"),
        figure("web servers' processor time per request", "load", "busy", "web_cpu"),
        figure("store's processor time per request", "load", "busy", "store_cpu"),
    ]
    return heading, [each for each in rows if set(each[1:]) != {MISSING}]


def advice(results: Results) -> list[Advice]:
    """Which architecture fits which case, with this run's figures for it. Only of those that were measured."""
    return list(_advice(results))


def _advice(results: Results) -> Iterator[Advice]:
    by_name = {outcome.architecture: outcome for outcome in results.architectures}
    found = evidence(results)
    if one := by_name.get("local"):
        yield Advice(
            "One web server, development, tests",
            "local",
            "Nothing to run and nothing to wait for. With a second server "
            f"{one.figures.before_kill.share:.0%} of the carts were wrong here, so it ends with the first.",
        )
    if one := by_name.get("sticky"):
        yield Advice(
            "A few servers, and sessions that nobody misses",
            "sticky",
            f"Carts are right while all servers live. Each server that goes takes its users along: {_lost(one)} of the "
            "sessions with one kill, and all of them with a deploy that restarts every server.",
        )
    if one := by_name.get("all-to-all"):
        sizes = sorted(int(case[1:]) for case in found.cases("growth", "all-to-all"))
        grown = [found.values("growth", "all-to-all", f"n{size}", "memory") for size in sizes]
        paid = (
            f": {spoken(grown[0], 'bytes')} per session with {sizes[0]} servers, "
            f"{spoken(grown[-1], 'bytes')} with {sizes[-1]}"
            if len(sizes) > 1
            else ""
        )
        yield Advice(
            "Two or three servers, and nothing beside them may run",
            "all-to-all",
            f"{_lost(one)} sessions lost to a kill, and no store to look after. Every server keeps every session{paid}.",
        )
    if one := by_name.get("database"):
        times = [found.values("load", name, "busy", "store_p50") for name in ("database", "redis")]
        slower = (
            f" It takes {statistics.median(times[0]) / statistics.median(times[1]):.1f} times as long as Redis"
            if all(times)
            else ""
        )
        yield Advice(
            "A database is there already, traffic is modest, and sessions must outlive everything",
            "database",
            f"Right, durable, and nothing new to run.{slower}: every page waits for it."
            if slower
            else "Right and durable.",
        )
    if one := by_name.get("redis"):
        work = spoken(found.values("load", "redis", "busy", "store_p50"), "ms")
        load = spoken(found.values("crowding", "redis", "", "load"), "times")
        yield Advice(
            "Several servers, deploys during the day, carts that matter, crowds",
            "redis",
            f"Any server serves anybody: {one.figures.in_all.wrong} wrong carts, {_lost(one)} sessions lost to a kill, the "
            f"busiest server at {load} the mean in a crowd, {work} of session work per request. The store itself needs "
            "looking after: a replica, and enough memory.",
        )


def warnings(results: Results) -> list[str]:
    """Everything that should be kept in mind when reading the times, once each."""
    found = [f"{one.architecture}: {warning}" for one in results.architectures for warning in one.warnings]
    for one in results.experiments:
        name = f"{one.experiment}{f' ({one.case})' if one.case else ''}, {one.architecture}"
        found += [f"{name}: {warning}" for warning in one.warnings]
    return found


def limits(results: Results) -> str:
    """What the machine's size means for the figures."""
    scale = results.scale
    rounds = f"{scale.rounds} rounds" if scale.rounds > 1 else "one round, so that no spread can be shown"
    return (
        f"Everything ran on {results.machine.cores} processor cores at once: people, balancer, web servers and store. Times "
        f"are those of this machine under this load ({scale.calm_rate:g} and {scale.busy_rate:g} requests per second); "
        f"compare architectures with one another, never with another machine. The timed experiments were done in {rounds}."
    )


def cell(measured: Measured | None, figure: str, *, spread: bool = False) -> str:
    """A figure in a table; for a percentile that cannot be had, how many requests it would take."""
    if measured is None:
        return MISSING
    values = measured.values(figure)
    if not values and figure in TAILS and measured.values("samples"):
        return f"takes {samples_needed(TAILS[figure]):,} requests"
    return spoken(values, FIGURES[figure].unit, spread=spread)


def spoken(values: Sequence[float], unit: Unit, *, spread: bool = False) -> str:
    """The median of some figures with its unit, and between which they lie if asked for."""
    if not values:
        return MISSING
    text = _with_unit(statistics.median(values), unit)
    if spread and len(values) > 1 and max(values) > min(values):
        text += f" ({_with_unit(min(values), unit)} to {_with_unit(max(values), unit)})"
    return text


def _with_unit(value: float, unit: Unit) -> str:
    if unit == "share":
        return "0 %" if value == 0 else f"{value * 100:.1f} %"
    if unit == "bytes":
        return f"{value:,.0f} B" if value < 10_000 else f"{value / 1000:,.1f} kB"
    if unit == "times":
        return f"{value:.2f} times"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "µs":
        return f"{value:,.0f} µs"
    if unit == "per second":
        return f"{value:,.0f} /s"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}"


def _lost(outcome: Outcome) -> str:
    return "0 %" if outcome.figures.sessions.lost == 0 else f"{outcome.figures.sessions.share * 100:.1f} %"
