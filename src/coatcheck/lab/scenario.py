"""What people do, as a TOML file: so that a team can describe its own users."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from coatcheck.lab.errors import UsageError

FaultName = Literal["kill-server", "rolling-restart", "kill-store"]

_MOST_RATE = 2000.0
_LARGEST = 1_000_000  # bytes of a session
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)?", re.IGNORECASE)
_MULTIPLES = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000, "tb": 1_000_000_000_000}


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of site.

    Attributes:
        title: in a few words.
        about: a sentence or two on who these people are.
        users: how many people use the site at once.
        think_time: seconds between two requests of one of them.
        session_size: such as `"2kB"`, besides cart and name.
        write_share: the share of requests that change the session, 0 to 1.
        crowd_share: the share of requests that come from the users whom one web server served at first, when they crowd;
            0.5 to 1.
        servers: web servers.
        faults: what is broken: `kill-server`, `rolling-restart`, `kill-store`.
    """

    title: str
    about: str = ""
    users: int
    think_time: float
    session_size: str
    write_share: float
    crowd_share: float = 0.8
    servers: int = 3
    faults: tuple[FaultName, ...] = ("kill-server", "rolling-restart", "kill-store")

    @property
    def rate(self) -> float:
        """Requests per second of all users together."""
        return self.users / self.think_time

    @property
    def size(self) -> int:
        """Bytes of a session."""
        return parse_size(self.session_size)


def shipped() -> list[str]:
    """The names of the scenarios that come with the lab."""
    folder = resources.files("coatcheck.lab") / "scenarios"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Scenario:
    """A scenario by name, if it is shipped, or by the path of a file.

    Raises:
        UsageError: there is none, or it cannot work; the message names the setting, its value and the next step.
    """
    if name in shipped():
        return parse((resources.files("coatcheck.lab") / "scenarios" / f"{name}.toml").read_text("utf-8"), name)
    try:
        return parse(Path(name).read_text("utf-8"), name)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not a text file"
        raise UsageError(
            "--scenario", name, f"cannot be read ({reason})", f"Name a file, or one of {', '.join(shipped())}"
        ) from None


def parse(text: str, name: str) -> Scenario:
    """A scenario from TOML. Raises `UsageError`; see `load`."""
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except tomllib.TOMLDecodeError as problem:
        raise UsageError("--scenario", name, f"not TOML: {problem}", "Mend that line") from None
    except msgspec.ValidationError as problem:
        known = ", ".join(Scenario.__struct_fields__)
        raise UsageError("--scenario", name, str(problem), f"The settings of a scenario are {known}") from None
    _check(scenario, name)
    return scenario


def parse_size(text: str) -> int:
    """Bytes from a text such as `4kB`. Raises `ValueError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return round(float(found[1]) * _MULTIPLES[(found[2] or "").lower()])


def _check(scenario: Scenario, name: str) -> None:
    def demand(setting: str, fine: bool, problem: str, next_step: str) -> None:
        if not fine:
            value = getattr(scenario, setting)
            raise UsageError("--scenario", name, f"{setting} = {value!r} {problem}", next_step)

    def between(setting: str, least: float, most: float) -> None:
        value = getattr(scenario, setting)
        demand(setting, least <= value <= most, "is out of range", f"Use {least:g} to {most:g}")

    between("users", 10, 1_000_000)
    between("think_time", 0.01, 86_400)
    between("write_share", 0, 1)
    between("crowd_share", 0.5, 1)
    between("servers", 2, 16)
    demand(
        "session_size",
        _is_size(scenario.session_size),
        "is no size of a session",
        'Use one such as "2kB", at most "1MB"',
    )
    demand(
        "users",
        scenario.rate <= _MOST_RATE,
        f"every {scenario.think_time:g} s are {scenario.rate:,.0f} requests per second, too many for one machine",
        f"Use at most {int(_MOST_RATE * scenario.think_time):,} users, or a longer think_time; "
        "`coatcheck lab plan` goes beyond one machine",
    )


def _is_size(text: str) -> bool:
    try:
        return parse_size(text) <= _LARGEST
    except ValueError:
        return False
