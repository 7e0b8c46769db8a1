"""What every benchmark here needs: fair rounds, medians with their spread, a table, a JSON file and a chart.

A machine is never quiet, so no figure is compared with one from another time. All variants of a benchmark run in
turns, in short rounds whose order rotates, and two variants are compared round by round: the median of the differences
and of the ratios, with the quartiles beside them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant in one round, in microseconds per operation.

    Attributes:
        cpu: processor time of this process, user and system. What a server has to pay for.
        wall: time that passed, the store's own work and waiting included.
    """

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and between which the middle half of them lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(slots=True)
class Samples:
    """All samples of a benchmark under one load: round by round, by variant."""

    rounds: list[dict[str, Sample]] = field(default_factory=list)

    def cpu(self, variant: str) -> Spread:
        return Spread.of([each[variant].cpu for each in self.rounds])

    def wall(self, variant: str) -> Spread:
        return Spread.of([each[variant].wall for each in self.rounds])

    def cpu_over(self, variant: str, base: str) -> Spread:
        """What `variant` costs more than `base`, within the same round."""
        return Spread.of([each[variant].cpu - each[base].cpu for each in self.rounds])

    def wall_over(self, variant: str, base: str) -> Spread:
        """See `cpu_over`."""
        return Spread.of([each[variant].wall - each[base].wall for each in self.rounds])

    def cost_ratio(self, variant: str, reference: str, base: str) -> Spread:
        """The cost of `variant` over `base`, as a multiple of that of `reference`, within the same round.

        Where `reference` cost no more than `base` in some round, that round says nothing and is left out.
        """
        ratios = []
        for each in self.rounds:
            reference_cost = each[reference].cpu - each[base].cpu
            if reference_cost > 0:
                ratios.append((each[variant].cpu - each[base].cpu) / reference_cost)
        return Spread.of(ratios or [float("nan")])


Operation = Callable[[int], Awaitable[None]]
"""Does one operation, given its running number; raises if its result is wrong."""


async def measure(operation: Operation, *, operations: int, in_flight: int) -> Sample:
    """Do so many operations, so many at a time."""
    numbers = iter(range(operations))

    async def work() -> None:
        for number in numbers:
            await operation(number)

    gc.collect()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    if in_flight == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(in_flight)))
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return Sample(cpu / operations / 1000, wall / operations / 1000)


async def rounds(
    variants: Mapping[str, Operation], *, number: int, operations: int, in_flight: int, progress: Callable[[str], None]
) -> Samples:
    """Measure all variants in turns. Each round begins with another one; a round before the first warms up."""
    names = list(variants)
    samples = Samples()
    for turn in range(-1, number):
        progress(f"{in_flight} in flight: " + ("warming up" if turn < 0 else f"round {turn + 1} of {number}"))
        first = turn % len(names)
        taken = {
            name: await measure(variants[name], operations=operations, in_flight=in_flight)
            for name in names[first:] + names[:first]
        }
        if turn >= 0:
            samples.rounds.append(taken)
    return samples


def show_progress(line: str) -> None:
    """On a terminal, replace the last line; elsewhere say nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right; coloured on a terminal, plain text elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for at, column in enumerate(columns):
            table.add_column(column, justify="right" if at else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on: nothing that names the machine or its user."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": versions,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_chart(path: Path, title: str, unit: str, groups: Mapping[str, Mapping[str, Spread]]) -> None:
    """Horizontal bars: a panel per group, a bar per variant, the middle half of the rounds as a whisker."""
    os.environ.setdefault("MPLCONFIGDIR", str(Path(sys.prefix) / "matplotlib"))  # not the home directory
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    most = max(len(bars) for bars in groups.values())
    figure, panels = plt.subplots(
        1, len(groups), figsize=(5.5 * len(groups), 1.2 + 0.5 * most), sharey=True, layout="constrained", squeeze=False
    )
    for panel, (group, bars) in zip(panels[0], groups.items(), strict=True):
        names = list(bars)[::-1]
        medians = [bars[name].median for name in names]
        whiskers = [
            [max(0.0, bars[name].median - bars[name].low) for name in names],
            [max(0.0, bars[name].high - bars[name].median) for name in names],
        ]
        colours = ["#2f7d6b" if name.startswith("coatcheck") else "#9aa5ad" for name in names]
        panel.barh(names, medians, xerr=whiskers, color=colours, error_kw={"ecolor": "#444", "capsize": 3})
        for at, name in enumerate(names):
            edge = max(bars[name].high, 0)
            panel.annotate(
                f"{bars[name].median:.0f}", (edge, at), xytext=(5, 0), textcoords="offset points", va="center"
            )
        panel.set_title(group, fontsize=10)
        panel.set_xlabel(unit)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
