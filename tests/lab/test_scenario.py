"""Scenarios as files: what a team says of its own users."""

from __future__ import annotations

from pathlib import Path

import pytest

from coatcheck.cli import main
from coatcheck.lab.errors import UsageError
from coatcheck.lab.scenario import load, parse, parse_size, shipped
from coatcheck.lab.settings import Settings

MINE = """
title = "Mine"
users = 300
think_time = 3.0
session_size = "2kB"
write_share = 0.5
"""


def test_a_few_are_shipped_and_each_can_be_run() -> None:
    assert shipped() == ["api-tokens", "flash-sale", "long-forms", "shop"]
    for name in shipped():
        Settings(scenario=name).check()
        assert load(name).about


def test_a_file_of_ones_own_decides_what_people_do(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE + 'servers = 5\nfaults = ["kill-server"]\n')
    scenario = load(str(file))
    assert (scenario.rate, scenario.size, scenario.servers) == (100, 2000, 5)
    scale = Settings(scenario=str(file)).scale
    assert (scale.busy_rate, scale.calm_rate, scale.failure) == (100, 20, False)


@pytest.mark.parametrize(("text", "size"), [("200B", 200), ("2kB", 2000), ("1.5 MB", 1_500_000), ("7", 7)])
def test_a_size_is_written_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("users = 3", "users = 3 is out of range. Use 10 to 1e+06."),
        (
            "users = 90000",
            "90000 every 3 s are 30,000 requests per second, too many for one machine. Use at most 6,000",
        ),
        ("write_share = 20", "write_share = 20.0 is out of range. Use 0 to 1."),
        ('session_size = "large"', "session_size = 'large' is no size of a session. Use one such as"),
        (
            'users = "many"',
            "Expected `int`, got `str` - at `$.users`. The settings of a scenario are title, about, users",
        ),
        ("wait = 3", "Object contains unknown field `wait`. The settings of a scenario are"),
        ('faults = ["flood"]', "Invalid enum value 'flood' - at `$.faults[0]`"),
        ("think_time =", "not TOML: Invalid value (at line"),
    ],
)
def test_a_mistake_is_named_with_the_setting_its_value_and_the_next_step(change: str, complaint: str) -> None:
    name = change.partition(" ")[0]
    text = "\n".join(line for line in MINE.splitlines() if not line.startswith(f"{name} ")) + f"\n{change}\n"
    with pytest.raises(UsageError) as refused:
        parse(text, "mine.toml")
    assert str(refused.value).startswith("--scenario mine.toml: ")
    assert complaint in str(refused.value)


def test_a_setting_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="missing required field `users`"):
        parse('title = "Nobody"', "nobody.toml")


def test_a_file_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "--scenario", "galaxy.toml", "--runs", str(tmp_path / "never")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "--scenario galaxy.toml: cannot be read (No such file or directory). Name a file, or one of api-tokens" in said
    )
    assert not (tmp_path / "never").exists()
