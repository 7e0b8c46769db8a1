"""Two runs, side by side. Pure, but for printing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coatcheck.lab import summary
from coatcheck.lab.experiments import EXPERIMENTS
from coatcheck.lab.measures import FIGURES
from coatcheck.lab.results import Results

_TELLING = 0.25  # of the first run's median: less is the same, on a machine that has other work too


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    Attributes:
        verdicts: what was judged, and the answers of both; `-` where a run has none.
        figures: experiment, architecture and case; the figure; its value in both runs; only those that differ.
        compared: how many figures both runs have.
    """

    verdicts: list[tuple[str, str, str]]
    figures: list[tuple[str, str, str, str]]
    compared: int

    @property
    def same_verdicts(self) -> bool:
        """Whether both runs answer everything alike."""
        return all(one == other for _, one, other in self.verdicts)


def compare(first: Results, second: Results) -> Comparison:
    """What is alike in two runs, and what is not."""
    one, other = _verdicts(first), _verdicts(second)
    verdicts = [
        (what, one.get(what, summary.MISSING), other.get(what, summary.MISSING))
        for what in dict.fromkeys([*one, *other])
    ]
    rows = list(_figures(first, second))
    differing = [
        (
            where,
            name,
            summary.spoken(a, FIGURES[name].unit, spread=True),
            summary.spoken(b, FIGURES[name].unit, spread=True),
        )
        for where, name, a, b in rows
        if _differ(a, b)
    ]
    return Comparison(verdicts=verdicts, figures=differing, compared=len(rows))


def show(found: Comparison, console: Console) -> None:
    """Print it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("verdict", "first", "second", ""):
        table.add_column(heading)
    for what, one, other in found.verdicts:
        table.add_row(what, one, other, "" if one == other else Text("differs", style="bold red"))
    console.print(table)
    differ = f"{len(found.figures)} of {found.compared} figures differ by more than their spread and {_TELLING:.0%}"
    console.print(Text(differ + (":" if found.figures else ".")))
    if found.figures:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("where", "figure", "first", "second"):
            table.add_column(heading)
        for where, name, one, other in found.figures:
            table.add_row(where, FIGURES[name].title, one, other)
        console.print(table)


def _verdicts(results: Results) -> dict[str, str]:
    found: dict[str, str] = {}
    for claim in results.claims:
        found[f"{claim.number}. {claim.title}"] = claim.answer
        found |= {f"   {claim.number}. {part.text}": part.answer for part in claim.parts}
    for outcome in results.architectures:
        found |= {f"{outcome.architecture}: {verdict.claim}": verdict.answer for verdict in outcome.verdicts}
    return found


def _figures(first: Results, second: Results) -> Iterator[tuple[str, str, list[float], list[float]]]:
    others = {(each.experiment, each.architecture, each.case): each for each in second.experiments}
    for one in first.experiments:
        other = others.get((one.experiment, one.architecture, one.case))
        for name in EXPERIMENTS[one.experiment].shown:
            if other is not None and one.values(name) and other.values(name):
                where = " ".join(filter(None, (one.experiment, one.case, one.architecture)))
                yield where, name, one.values(name), other.values(name)


def _differ(one: list[float], other: list[float]) -> bool:
    if min(one) <= max(other) and min(other) <= max(one):
        return False
    middle = statistics.median(one)
    return abs(statistics.median(other) - middle) > _TELLING * abs(middle)
