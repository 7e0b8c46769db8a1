"""What every benchmark here needs: fair rounds, medians with their spread, a table, a JSON file and a chart.

A machine is never quiet, so no figure is compared with one from another time. All variants of a benchmark run in
turns, in short rounds, each in another order, and two variants are compared round by round: the median of the differences
and of the ratios, with the quartiles beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import coatcheck.session
from tests.servers.valkey import Valkey

RESULTS = Path(__file__).parent / "results"
V = TypeVar("V")
NAN = math.nan


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant in one round, in microseconds per operation. What a benchmark does not measure is NaN.

    Attributes:
        cpu: processor time of the process that is measured, user and system. What a server has to pay for.
        wall: time that passed, the store's own work and waiting included.
        store_cpu: processor time of the store's own process.
        p50, p99: how long an operation took, from its caller's point of view: the median, and what one in a hundred exceeded.
    """

    cpu: float
    wall: float
    store_cpu: float = NAN
    p50: float = NAN
    p99: float = NAN

    @property
    def both_cpu(self) -> float:
        """Processor time of both processes."""
        return self.cpu + self.store_cpu


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

    def of(self, variant: str, figure: str = "cpu") -> Spread:
        """One figure of a variant; `figure` names one of `Sample`'s."""
        return Spread.of([getattr(each[variant], figure) for each in self.rounds])

    def over(self, variant: str, base: str) -> Spread:
        """The processor time that `variant` costs more than `base`, within the same round."""
        return Spread.of([each[variant].cpu - each[base].cpu for each in self.rounds])

    def ratio(self, variant: str, reference: str, figure: str = "cpu") -> Spread:
        """A figure of `variant` as a multiple of that of `reference`, within the same round."""
        return Spread.of([getattr(each[variant], figure) / getattr(each[reference], figure) for each in self.rounds])

    def cost_ratio(self, variant: str, base: str, reference: str, reference_base: str) -> Spread:
        """The cost of `variant` over `base` as a multiple of that of `reference` over its own, within the same round.

        Where `reference` cost no more than its base in some round, that round says nothing and is left out.
        """
        ratios = []
        for each in self.rounds:
            reference_cost = each[reference].cpu - each[reference_base].cpu
            if reference_cost > 0:
                ratios.append((each[variant].cpu - each[base].cpu) / reference_cost)
        return Spread.of(ratios or [NAN])

    def as_json(self, variant: str) -> dict[str, Any]:
        """The median and the quartiles of each figure that was measured, and all rounds."""
        rounds = [asdict(each[variant]) for each in self.rounds]
        measured = [figure for figure, value in rounds[0].items() if not math.isnan(value)]
        return {
            **{f"{figure}_us": asdict(self.of(variant, figure)) for figure in measured},
            "rounds": [{f"{figure}_us": each[figure] for figure in measured} for each in rounds],
        }


Operation = Callable[[int], Awaitable[None]]
"""Does one operation, given its running number; raises if its result is wrong."""


async def measure(
    operation: Operation,
    *,
    operations: int,
    in_flight: int,
    time_each: bool = False,
    store_cpu: Callable[[], float] = lambda: NAN,
) -> Sample:
    """Do so many operations, so many at a time; and before that a tenth of them, until what was before has worn off.

    Args:
        operation: does one.
        operations: how many.
        in_flight: how many at a time.
        time_each: whether to time every single one, for `p50` and `p99`. That costs a little itself.
        store_cpu: gives the processor time that the store has used, in µs.
    """
    durations: list[float] = []
    await _do(operation, operations // 10, in_flight)
    run = _timed(operation, durations) if time_each else operation
    gc.collect()
    store_before = store_cpu()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    await _do(run, operations, in_flight)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    store = (store_cpu() - store_before) / operations
    p50, p99 = percentiles(durations)
    return Sample(cpu / operations / 1000, wall / operations / 1000, store, p50, p99)


async def _do(operation: Operation, operations: int, in_flight: int) -> None:
    numbers = iter(range(operations))

    async def work() -> None:
        for number in numbers:
            await operation(number)

    if in_flight == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(in_flight)))


def _timed(operation: Operation, durations: list[float]) -> Operation:
    async def timed(number: int) -> None:
        began = time.perf_counter_ns()
        await operation(number)
        durations.append((time.perf_counter_ns() - began) / 1000)

    return timed


def percentiles(durations: Sequence[float]) -> tuple[float, float]:
    """The median, and what one in a hundred exceeds."""
    if len(durations) < 2:
        return NAN, NAN
    cuts = statistics.quantiles(durations, n=100, method="inclusive")
    return cuts[49], cuts[98]


async def turns(
    variants: Mapping[str, V], take: Callable[[V], Awaitable[Sample]], *, number: int, label: str
) -> Samples:
    """Take a sample of all variants in turns, in an order that changes. A round before the first warms up."""
    names = list(variants)
    order = random.Random(1)
    samples = Samples()
    for turn in range(-1, number):
        show_progress(f"{label}: " + ("warming up" if turn < 0 else f"round {turn + 1} of {number}"))
        taken = {name: await take(variants[name]) for name in order.sample(names, len(names))}
        if turn >= 0:
            samples.rounds.append(taken)
    return samples


async def rounds(
    variants: Mapping[str, Operation], *, number: int, operations: int, in_flight: int, time_each: bool = False
) -> Samples:
    """`measure` all variants in `turns`."""
    take = partial(measure, operations=operations, in_flight=in_flight, time_each=time_each)
    return await turns(variants, take, number=number, label=f"{in_flight} in flight")


class Options(argparse.ArgumentParser):
    """What every benchmark can be told; each adds amounts of its own.

    Args:
        name: of the benchmark's module.
        doc: its docstring, which is the help's first part.
        rounds: how many there are; with `--quick` three. `None` for a benchmark that needs none.
    """

    def __init__(self, name: str, doc: str | None, *, rounds: int | None = 15) -> None:
        super().__init__(
            prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self._amounts: dict[str, tuple[Any, Any]] = {}
        self.add_argument("--quick", action="store_true", help="a look in seconds, too short to quote")
        if rounds is not None:
            self.amount("--rounds", rounds, 3, "rounds, in each of which every variant has a turn")
        self.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", metavar="FILE", help="results")
        self.add_argument("--chart", type=Path, default=RESULTS / f"{name}.png", metavar="FILE", help="picture")

    def amount(self, flag: str, normal: int, quick: int, what: str) -> None:
        """Add an option for a number that is smaller with `--quick`."""
        default = f"{normal}" if normal == quick else f"{normal}; {quick} with --quick"
        added = self.add_argument(flag, type=int, metavar="N", help=f"{what} (default {default})")
        self._amounts[added.dest] = (normal, quick)

    def amounts(self, flag: str, normal: list[int], quick: list[int], what: str) -> None:
        """Add an option for several such numbers, each given by the flag once more."""
        shown = [", ".join(map(str, numbers)) for numbers in (normal, quick)]
        default = shown[0] if normal == quick else f"{shown[0]}; {shown[1]} with --quick"
        added = self.add_argument(
            flag, type=int, action="append", metavar="N", help=f"{what}; may be repeated (default {default})"
        )
        self._amounts[added.dest] = (normal, quick)

    def loop(self) -> None:
        """Add the choice of the event loop."""
        self.add_argument(
            "--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (default asyncio)"
        )

    def redis_url(self) -> None:
        """Add the choice of the server; see `store`."""
        self.add_argument("--redis-url", help="use this Redis or Valkey instead of starting one; the keys stay there")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        options = self.parse_args(arguments)
        for name, (normal, quick) in self._amounts.items():
            if getattr(options, name) is None:
                setattr(options, name, quick if options.quick else normal)
        return options


def run(main: Coroutine[Any, Any, V], loop: str = "asyncio") -> V:
    """`asyncio.run` on the loop of this name; see `Options.loop`."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


@contextmanager
def store(url: str | None) -> Iterator[str]:
    """The URL of the server that was asked for, or of a Valkey of our own."""
    if url is not None:
        yield url
        return
    with Valkey() as server:
        yield server.url


def with_near_cache(url: str) -> str:
    """The same store with a near cache.

    A session is kept for longer than by default, because here all variants take turns: so a user comes back after seconds,
    where in front of a browser the next request follows at once.
    """
    return f"{url}?near_cache=10000&near_cache_age=60"


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


def show_target(
    what: str, measured: Spread, *, at_most: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """Say whether a target that was set beforehand is met, and give the same for the JSON file."""
    met = measured.median <= at_most if at_most is not None else measured.median >= (at_least or 0)
    wanted = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    middle = f" ({measured.low:.3g} to {measured.high:.3g})" if measured.low < measured.high else ""
    print(f"{'met   ' if met else 'MISSED'}  {what}: {measured.median:.3g}{middle}, wanted {wanted}")
    return {"what": what, "measured": asdict(measured), "at_most": at_most, "at_least": at_least, "met": met}


def is_compiled() -> bool:
    """Whether what a request passes through is machine code; see `hatch_build.py`."""
    return not str(coatcheck.session.__file__).endswith(".py")


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
        "coatcheck is compiled": is_compiled(),
    }


def in_short(figure: float) -> str:
    """Three digits at least, as one reads it."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")  # which has null for NaN


def write_chart(
    path: Path, title: str, unit: str, groups: Mapping[str, Mapping[str, Spread]], *, logarithmic: bool = False
) -> None:
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
                in_short(bars[name].median), (edge, at), xytext=(5, 0), textcoords="offset points", va="center"
            )
        if logarithmic:
            panel.set_xscale("log")
            panel.set_xlim(left=10)
        panel.set_title(group, fontsize=10)
        panel.set_xlabel(unit)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
