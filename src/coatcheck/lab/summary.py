"""What a report says, whatever form it has: tables, advice and warnings, all made from the figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from coatcheck.lab.claims import Evidence, Measured
from coatcheck.lab.experiments.work import ON_DISK
from coatcheck.lab.measures import FIGURES, Unit
from coatcheck.lab.results import Outcome, Results

MISSING = "-"

NOTATION = (
    f"Figures are medians of all rounds. [a to b]: the lowest and the highest repeat of the figure before it. "
    f"{MISSING}: not measured, nothing to measure (no store, so no time of a store), or too few requests: a 99th percentile "
    "takes 1,000 of all rounds together, a 99.9th 10,000. †: the load generator was late itself, see How far to trust it."
)
"""What a reader has to know of every table."""

_OF_SLOWEST = ("whole_p99", "whole_p999")


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
        row("wrong carts, all servers up", [_with_unit(one.figures.before_kill.share, "share") for one in outcomes]),
        row("sessions lost when a server is killed", [lost(outcome) for outcome in outcomes]),
        figure("sessions lost in a rolling restart", "failure", "restart", "lost_sessions"),
        figure("sessions lost when the store is killed", "failure", "store", "lost_sessions"),
        figure("no answer at all while the store is away", "failure", "store", "gap"),
        figure("requests that failed in the seconds around that", "failure", "store", "errors"),
        figure("concurrent changes lost", "consistency", "", "lost_updates"),
        figure("alive after logout", "consistency", "", "revived"),
        figure("busiest server in a crowd, times the mean", "crowding", "", "load"),
        figure("the same, after a server was added", "crowding", "", "load_after"),
        figure("session work, median, many users", "load", "busy", "store_p50"),
        figure("session work, 99th percentile, many users", "load", "busy", "store_p99"),
        figure("whole request, median, many users", "load", "busy", "whole_p50"),
        figure("whole request, 99th percentile, many users", "load", "busy", "whole_p99"),
        figure("the same, with many sessions stored", "load", "stored", "whole_p99"),
        figure("memory per session, whole cluster", "load", "stored", "memory"),
        figure("network per request, behind the web servers", "load", "busy", "network"),
        figure("web servers' processor time per request", "load", "busy", "web_cpu"),
        figure("store's processor time per request", "load", "busy", "store_cpu"),
        figure("reading a session, by itself, median", "work", "read", "store_p50"),
        figure("changing a session, by itself, median", "work", "change", "store_p50"),
        figure("the same, acknowledged only when on the disk", "work", ON_DISK, "store_p50"),
        figure("session work, median, one at a time", "work", "1-at-once", "store_p50"),
        figure("session work, median, 64 at once", "work", "64-at-once", "store_p50"),
    ]
    return heading, [each for each in rows if set(each[1:]) != {MISSING}]


def case_table(case: str, theirs: Sequence[Measured], shown: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """One case of an experiment: the heading, with an architecture in each column, and the figures that there are."""
    measured = [one for one in theirs if one.case == case]
    rows = [
        [FIGURES[name].title, *(cell(one, name, spread=True) for one in measured)]
        for name in (*shown, "samples", "lag", "generator")
    ]
    return [case, *(one.architecture for one in measured)], [row for row in rows if set(row[1:]) != {MISSING}]


CARTS = (
    "carts",
    "Do shoppers find what they put in, and what does the kill of a server cost?",
    "Every shopper fills a cart in one request and reads it again and again; each article carries its shopper's mark. Midway "
    "one web server is killed with SIGKILL. A read is wrong if it shows anything but what was put in. A session is lost if "
    "it was there before, and never again.",
)
"""Name, question and method of the experiment that is not in `EXPERIMENTS`: it has a record and a checker of its own."""


def warnings(results: Results) -> list[str]:
    """Where the load generator itself was late or busy, a line for each case of an experiment."""
    found = {f"carts, {one.architecture}": one.warnings for one in results.architectures if one.warnings}
    late: dict[str, list[str]] = {}
    for one in results.experiments:
        case = f"{one.experiment}{f' ({one.case})' if one.case else ''}"
        late.setdefault(case, []).extend(f"{one.architecture} {warning}" for warning in one.warnings)
    return [f"{case}: {'; '.join(said)}" for case, said in (found | late).items() if said]


CARE = (
    "The load generator itself was late or busy here. It then sends a request later than it was due, and that wait is in the "
    "time of the whole request: in the slowest ones above all. Session work is measured in the web servers and has none of "
    "it."
)


def limits(results: Results) -> str:
    """What the machine's size means for the figures, and who came."""
    scale, scenario = results.scale, results.scenario
    rounds = f"{scale.rounds} rounds" if scale.rounds > 1 else "one round, so that no spread can be shown"
    rates = f"{scale.calm_rate:g} and {scale.busy_rate:g}" if scale.with_calm else f"{scale.busy_rate:g}"
    few = f"few users are {scale.calm_rate:g} requests per second, " if scale.with_calm else ""
    return (
        f"Everything ran on {results.machine.cores} processor cores at once: people, balancer, web servers and store. Times "
        f"are those of this machine under this load ({rates} requests per second); "
        f"compare architectures with one another, never with another machine. The timed experiments were done in {rounds}. "
        f"The scenario speaks of {scenario.users:,} users; here {few}many users are {scale.busy_rate:g}, sent by "
        f"{min(scenario.users, scale.users)} people who come more often. The carts have {results.settings.shoppers} shoppers "
        "of their own; only those count who are known to have had a session before the kill, and came back often enough "
        "after it."
    )


def cell(measured: Measured | None, figure: str, *, spread: bool = False) -> str:
    """A figure in a table, marked where the load generator may have made it."""
    if measured is None:
        return MISSING
    values = measured.values(figure)
    if figure == "samples" and len(values) > 1:
        return f"{sum(values):,.0f} in {len(values)} rounds"
    late = " †" if values and figure in _OF_SLOWEST and measured.warnings else ""
    return spoken(values, FIGURES[figure].unit, spread=spread) + late


def spoken(values: Sequence[float], unit: Unit, *, spread: bool = False) -> str:
    """The median of some figures with its unit, and between which they lie if asked for."""
    if not values:
        return MISSING
    text = _with_unit(statistics.median(values), unit)
    if spread and len(values) > 1 and max(values) > min(values):
        text += f" [{_with_unit(min(values), unit)} to {_with_unit(max(values), unit)}]"
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
