"""Tests side by side, and those that have to be alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers.processes import ROOT

TESTS = """
import os, time
import pytest

def noted(name):
    began = time.monotonic()
    time.sleep(0.1)
    line = f"{name} {began} {time.monotonic()} {os.getpid()}\\n"
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line)

@pytest.mark.parametrize("number", range(12))
def test_of_many(number):
    noted("many")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_alone(number):
    noted("alone")

@pytest.mark.parametrize("number", range(12))
def test_of_many_more(number):
    noted("many")
"""


def run(folder: Path, *options: str) -> list[tuple[str, float, float, str]]:
    """What ran from when to when, and in which process."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.servers.turns", "-p", "no:cacheprovider", *options],
        env={"PYTHONPATH": str(ROOT), "NOTES": str(notes)},
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = map(str.split, notes.read_text().splitlines())
    return sorted((name, float(began), float(over), process) for name, began, over, process in lines)


def at_once(one: tuple[str, float, float, str], other: tuple[str, float, float, str]) -> bool:
    return one is not other and one[1] < other[2] and other[1] < one[2]


def test_while_one_is_alone_no_other_runs(tmp_path: Path) -> None:
    ran = run(tmp_path, "-n", "2", "--dist", "worksteal")
    assert len(ran) == 26
    assert len({process for *_, process in ran}) == 2
    alone = [each for each in ran if each[0] == "alone"]
    assert len(alone) == 2
    assert not [(one, other) for one in alone for other in ran if at_once(one, other)]
    assert [(one, other) for one in ran for other in ran if at_once(one, other)], "others run side by side"


def test_some_tests_that_were_asked_for_run_in_one_process(tmp_path: Path) -> None:
    ran = run(tmp_path, "-n", "auto", "--dist", "worksteal", "-k", "alone")
    assert len(ran) == 2
    assert len({process for *_, process in ran}) == 1
    ran = run(tmp_path, "-n", "auto", "--dist", "worksteal", "test_it.py")
    assert len({process for *_, process in ran}) == 1
