"""How many processor cores a store takes, by the constants and the formula of `coatcheck.lab.model`. Pure.

Every number of cores in a report comes from here, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import structs

from coatcheck.lab.model import CORE_USE, Constants, Question, plan
from coatcheck.lab.results import Results

SUM = (
    f"Cores = requests per second x µs / 1,000,000 / {CORE_USE:g}. {CORE_USE:g}, because a core is filled to {CORE_USE:.0%} "
    "at most: the rest is for peaks. Each by itself: requests come one by one, and each wakes up the store; the figure for a "
    "site that is not crowded, and the careful one. Kept busy: 64 come at once, and the store takes many commands in one "
    "go; the figure for a store with work all the time. Any real traffic is between the two. One Redis works on one core; "
    "more takes several of them (a Redis Cluster). The sums are those of coatcheck lab plan, which also does memory and "
    "network for your numbers."
)

_WAYS = ("kept busy", "each by itself")


class Capacity:
    """The stores of a run.

    Args:
        results: of a run; in a quick one too little is measured, and there is nothing.
    """

    def __init__(self, results: Results) -> None:
        scenario = results.scenario
        self._any = Question(
            users=1, requests=1, session=scenario.size, servers=results.settings.servers, write_share=scenario.write_share,
            shard_memory=1e9,
        )  # fmt: skip
        answers = plan(self._any, results)
        self.stores: Mapping[str, Constants] = {
            one.architecture: one.constants for one in answers if one.constants.shared and one.constants.store_cpu
        }

    def microseconds(self, store: str, write_share: float | None = None) -> tuple[float, float]:
        """Processor time of the store per request, kept busy and by itself; the scenario's share of writes unless given."""
        return tuple(each * CORE_USE * 1e6 for each in self.cores(store, 1, write_share))  # type: ignore[return-value]

    def cores(self, store: str, requests: float, write_share: float | None = None) -> tuple[float, float]:
        """Cores for so many requests per second, kept busy and by itself."""
        share = self._any.write_share if write_share is None else write_share
        return self.stores[store].store_cores(structs.replace(self._any, requests=requests, write_share=share))

    def carries(self, store: str) -> float:
        """Requests per second that one core carries when each comes by itself: the careful figure, rounded down."""
        return _down(1 / self.cores(store, 1)[1])

    def sum(self, store: str, requests: float, write_share: float | None = None) -> str:
        """The cores in words, kept busy and by itself, with the sum."""
        times = self.microseconds(store, write_share)
        busy, alone = (
            f"{amount(cores)} cores {way} ({requests:,.0f} x {amount(time)} µs / {CORE_USE:g})"
            for way, time, cores in zip(_WAYS, times, self.cores(store, requests, write_share), strict=True)
        )
        return f"{busy}, {alone}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """What each store takes: a heading, and rows. No rows if nothing was measured."""
        usual = self._any.write_share
        rows = []
        for title, share in (
            (f"requests, {usual:.0%} of them changes", usual),
            ("reads only", 0.0),
            ("changes only", 1.0),
        ):
            for at, way in enumerate(_WAYS):
                cells = []
                for store in self.stores:
                    time, cores = self.microseconds(store, share)[at], self.cores(store, 1, share)[at]
                    cells.append(f"{amount(time)} µs: a core carries {_down(1 / cores):,.0f} /s" if cores else "-")
                rows.append([f"{title}, {way}", *cells])
        return ["", *self.stores], rows if self.stores else []


def amount(value: float) -> str:
    """Cores or microseconds, as precisely as it makes sense."""
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}" if value >= 1 else f"{value:,.2g}"


def _down(requests: float) -> float:
    """Rounded down to two digits: nobody measures better than that."""
    step = 10.0 ** (math.floor(math.log10(requests)) - 1)
    return math.floor(requests / step) * step
