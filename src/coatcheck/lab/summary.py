"""What a report says, whatever form it has: tables, advice and warnings, all made from the figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from coatcheck.lab.claims import Evidence, Measured
from coatcheck.lab.measures import FIGURES, TAILS, Unit, samples_needed
from coatcheck.lab.results import Outcome, Results

MISSING = "-"


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
        row("sessions lost when a server is killed", [lost(outcome) for outcome in outcomes]),
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
        figure("session work, median, one at a time", "work", "1-at-once", "store_p50"),
        figure("session work, median, 64 at once", "work", "64-at-once", "store_p50"),
    ]
    return heading, [each for each in rows if set(each[1:]) != {MISSING}]


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
    rates = f"{scale.calm_rate:g} and {scale.busy_rate:g}" if scale.with_calm else f"{scale.busy_rate:g}"
    return (
        f"Everything ran on {results.machine.cores} processor cores at once: people, balancer, web servers and store. Times "
        f"are those of this machine under this load ({rates} requests per second); "
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
    digits = 3 if 0 < value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}"


def lost(outcome: Outcome) -> str:
    """The share of the sessions that the kill of one web server took."""
    return "0 %" if outcome.figures.sessions.lost == 0 else f"{outcome.figures.sessions.share * 100:.1f} %"
