"""What a run is asked to do, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from coatcheck.lab.architectures import ARCHITECTURES, Architecture
from coatcheck.lab.errors import UsageError
from coatcheck.lab.plan import Plan, visits_needed
from coatcheck.lab.scale import QUICK, STANDARD, Scale
from coatcheck.lab.scenario import Scenario, load

Store = Literal["postgresql", "mariadb", "sqlite"]

KILL_SHARE = 0.5  # of the run's seconds: the kill comes midway

DEFAULT_SCENARIO = "shop"
DEFAULT_SHOPPERS, DEFAULT_RATE, DEFAULT_SECONDS, DEFAULT_SERVERS = 80, 200.0, 7.0, 3
QUICK_SHOPPERS, QUICK_RATE, QUICK_SECONDS = 40, 170.0, 4.0

_MOST_BUSY = 250.0  # arrivals per second in a timed experiment; more, and two cores measure themselves
_LEAST_SHOPPERS = 20
_MOST_SERVERS, _MOST_SHOPPERS, _MOST_RATE, _MOST_SECONDS = 16, 100_000, 20_000.0, 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the lab.

    Attributes:
        only: the architectures to run, in this order.
        shoppers: people with a cart of their own.
        rate: arrivals per second, all shoppers together.
        seconds: how long people keep coming, for each architecture.
        servers: web servers.
        seed: decides who comes when and buys what.
        runs: the folder that runs are kept in.
        redis_url: a Redis or Valkey to use instead of starting one.
        store: which database, for the architecture `database`.
        haproxy, valkey, postgresql: programs to use instead of those found.
        scenario: what people do: the name of a shipped scenario, or the path of a file.
        quick: whether the timed experiments are short.
        experiments: whether there are any besides that with the carts.
        load_seconds: how long people keep coming in each measurement of load; `None` for what the scale says.
    """

    only: tuple[str, ...] = tuple(ARCHITECTURES)
    shoppers: int = DEFAULT_SHOPPERS
    rate: float = DEFAULT_RATE
    seconds: float = DEFAULT_SECONDS
    servers: int = DEFAULT_SERVERS
    seed: int = 1
    runs: Path = Path("runs")
    redis_url: str | None = None
    haproxy: Path | None = None
    valkey: Path | None = None
    store: Store = "postgresql"
    postgresql: Path | None = None
    scenario: str = DEFAULT_SCENARIO
    quick: bool = False
    experiments: bool = True
    load_seconds: float | None = None

    @property
    def described(self) -> Scenario:
        """The scenario. Raises `UsageError` if there is none of this name, or it cannot work."""
        return load(self.scenario)

    @property
    def scale(self) -> Scale:
        """How much is measured in the timed experiments: the busy rate is the scenario's, within what one machine can do."""
        scale, rate = QUICK if self.quick else STANDARD, min(self.described.rate, _MOST_BUSY)
        faults = bool({"rolling-restart", "kill-store"} & set(self.described.faults))
        if self.load_seconds is not None:
            scale = replace(scale, load_seconds=self.load_seconds)
        return replace(scale, busy_rate=rate, calm_rate=rate / 5, failure=scale.failure and faults)

    @property
    def architectures(self) -> list[Architecture]:
        """The architectures to run."""
        return [ARCHITECTURES[name] for name in self.only]

    @property
    def starts_valkey(self) -> bool:
        """Whether the run needs a Valkey of its own."""
        return self.redis_url is None and any("valkey" in one.needs for one in self.architectures)

    @property
    def database(self) -> Store | None:
        """The database that the run needs, if it needs one."""
        return self.store if any("database" in one.needs for one in self.architectures) else None

    @property
    def plan(self) -> Plan:
        """The traffic, the same for every architecture."""
        return Plan(
            shoppers=self.shoppers,
            rate=self.rate,
            seconds=self.seconds,
            kill_at=round(self.seconds * KILL_SHARE, 3),
            servers=self.servers,
            seed=self.seed,
        )

    def check(self) -> None:
        """Raise `UsageError`, which names the option and the next step, for settings that cannot work."""
        _in_range("--servers", self.servers, 2, _MOST_SERVERS, "one is killed, and another has to go on")
        _in_range("--shoppers", self.shoppers, _LEAST_SHOPPERS, _MOST_SHOPPERS, "fewer say little about shares")
        _in_range("--rate", self.rate, 1, _MOST_RATE, "arrivals per second")
        _in_range("--seconds", self.seconds, 1, _MOST_SECONDS, "per architecture")
        if self.load_seconds is not None:
            _in_range("--load-seconds", self.load_seconds, 1, _MOST_SECONDS, "per measurement of load")
        _ = self.described
        needed = visits_needed(self.servers, KILL_SHARE)
        if self.plan.count < needed * self.shoppers:
            raise UsageError(
                "--seconds",
                f"{self.seconds:g}",
                f"at --rate {self.rate:g}, each of {self.shoppers} shoppers comes {self.plan.count / self.shoppers:.1f} "
                f"times, and with {self.servers} servers it takes {needed} visits to tell which sessions the kill took",
                self._ways_out(needed),
            )

    def _ways_out(self, needed: int) -> str:
        """Which single option, and with which value, makes `needed` visits per shopper out of too few."""
        seconds = math.ceil(needed * self.shoppers / self.rate)
        rate = math.ceil(needed * self.shoppers / self.seconds)
        shoppers = self.plan.count // needed
        ways = [f"--seconds {seconds}"] if seconds <= _MOST_SECONDS else []
        ways += [f"--rate {rate}"] if rate <= _MOST_RATE else []
        ways += [f"--shoppers {shoppers}"] if shoppers >= _LEAST_SHOPPERS else []
        if not ways:
            return "No one option mends that: use fewer shoppers, and more seconds or a higher rate"
        return f"Use {', or '.join(ways)}"


def enough_shoppers(most: int, *, rate: float, seconds: float, servers: int) -> int:
    """As many shoppers as come often enough to judge their sessions, but no more than `most`.

    With more servers, it takes more visits to have looked for a session on all of them. What `Settings.check` refuses
    is refused there, with an explanation: this only picks a default.
    """
    if not (0 < rate <= _MOST_RATE and 0 < seconds <= _MOST_SECONDS and 2 <= servers <= _MOST_SERVERS):
        return most
    return max(_LEAST_SHOPPERS, min(most, int(rate * seconds) // visits_needed(servers, KILL_SHARE)))


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """The architectures named in `--only`, each option one name or several with commas; all if none is given."""
    names = [name.strip() for part in only for name in part.split(",")]
    if not names:
        return tuple(ARCHITECTURES)
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError("--only", name or "''", "no such architecture", f"Choose from {', '.join(ARCHITECTURES)}")
    return tuple(dict.fromkeys(names))


def _in_range(option: str, value: float, least: float, most: float, why: str) -> None:
    if not least <= value <= most:  # false for nan too
        raise UsageError(option, f"{value:g}", f"out of range ({why})", f"Use {least:g} to {most:g}")
