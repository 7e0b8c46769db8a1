"""Verdicts: a claim is confirmed, refuted, or left open, and the report says so in words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from coatcheck.lab import report, results, verdicts
from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.checker import Figures, Sessions, check
from coatcheck.lab.history import FILE, Entry, Writer
from coatcheck.lab.settings import Settings
from coatcheck.lab.verdicts import judge

from .worlds import PLAN, change, is_, nth_read, perfect


def answers(name: str, figures: Figures) -> list[str]:
    return [verdict.answer for verdict in judge(ARCHITECTURES[name], figures, PLAN.servers)]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_claim_holds_where_everything_goes_as_it_should(name: str) -> None:
    assert set(answers(name, check(perfect(name)))) == {"holds"}


def test_claims_are_refuted_by_the_behaviour_of_another_architecture() -> None:
    assert "does not hold" in answers("redis", check(perfect("local")))
    assert "does not hold" in answers("redis", check(perfect("sticky")))
    assert "does not hold" in answers("sticky", check(perfect("local")))
    assert "does not hold" in answers("sticky", check(perfect("redis")))
    assert "does not hold" in answers("local", check(perfect("redis")))


def test_one_wrong_cart_refutes_a_claim_of_none() -> None:
    entries = perfect("redis")
    figures = check(change(entries, is_(nth_read(entries, 3)), seen={}, owner=None, right=False))
    assert answers("redis", figures) == ["does not hold", "does not hold", "holds", "holds"]


def test_one_lost_session_refutes_a_claim_of_none() -> None:
    figures = msgspec.structs.replace(
        check(perfect("redis")), sessions=Sessions(at_risk=50, lost=1, survived=49, undecided=0)
    )
    assert answers("redis", figures) == ["holds", "holds", "does not hold", "holds"]


def test_a_foreign_cart_is_refused_in_every_architecture() -> None:
    entries = perfect("local")
    read = nth_read(entries, 3)
    stranger = {f"hat-s{(read.shopper + 1) % PLAN.shoppers}-g1": 1}
    figures = check(change(entries, is_(read), seen=stranger, right=False))
    assert answers("local", figures)[-1] == "does not hold"


def test_nothing_is_decided_when_most_requests_fail() -> None:
    """A shop that is down shows no wrong cart either."""
    figures = msgspec.structs.replace(check(perfect("redis")), errors=600)
    assert answers("redis", figures) == ["not decided", "not decided", "not decided", "holds"]


def test_nothing_is_decided_from_a_handful_of_sessions() -> None:
    figures = msgspec.structs.replace(
        check(perfect("redis")), sessions=Sessions(at_risk=10, lost=0, survived=10, undecided=0)
    )
    assert answers("redis", figures)[2] == "not decided"
    figures = msgspec.structs.replace(
        check(perfect("redis")), sessions=Sessions(at_risk=60, lost=0, survived=40, undecided=20)
    )
    assert answers("redis", figures)[2] == "not decided"


def test_a_slow_generator_is_a_warning() -> None:
    figures = check(perfect("redis"))
    assert verdicts.warnings(figures) == []
    late = msgspec.structs.replace(figures, lag=msgspec.structs.replace(figures.lag, p99=400.0))
    assert "load generator was up to 400 ms late" in verdicts.warnings(late)[0]
    busy = msgspec.structs.replace(figures, generator_cpu=0.97)
    assert "97% of a processor core" in verdicts.warnings(busy)[0]


# --- what people see ------------------------------------------------------------------------------------------------


def a_run(folder: Path, histories: dict[str, list[Entry]], scenario: str = "shop") -> results.Results:
    """A run's folder with these histories, and what was made of them."""
    settings = Settings(
        only=tuple(histories),
        shoppers=PLAN.shoppers,
        rate=PLAN.rate,
        seconds=PLAN.seconds,
        runs=folder.parent,
        scenario=scenario,
    )
    outcomes = []
    for name, entries in histories.items():
        (folder / name).mkdir(parents=True)
        writer = Writer(folder / name / FILE)
        writer.write(entries)
        writer.close()
        outcomes.append(results.outcome(ARCHITECTURES[name], folder))
    found = results.collect(
        folder, settings, results.this_machine({}), "2026-01-01T00:00:00+00:00", outcomes, complete=True
    )
    results.write(found, folder)
    return found


def shown(found: results.Results, width: int = 120) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        report.show(found, console)
    return capture.get()


def test_the_report_says_in_words_what_was_seen(tmp_path: Path) -> None:
    found = a_run(tmp_path / "run", {name: perfect(name) for name in ARCHITECTURES})
    text = shown(found)
    assert "reads showed a wrong cart" in text
    assert "Until the kill, all of" in text
    assert "The kill of web-2 took none of" in text
    assert "no request failed" in text
    assert "does not hold" not in text
    assert str(tmp_path / "run") in text
    assert found.held


def test_the_table_fits_a_terminal_of_eighty_columns(tmp_path: Path) -> None:
    lines = shown(a_run(tmp_path / "run", {name: perfect(name) for name in ARCHITECTURES}), width=80).splitlines()
    for name in ARCHITECTURES:
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert row.count("/") == 2, "it is not broken into two lines"
    assert [line.split() for line in lines if "before kill" in line] == [
        ["before", "kill", "overall", "lost", "errors", "ms", "ms", "server,", "†", "killed"]
    ]


def test_the_report_says_when_a_claim_does_not_hold(tmp_path: Path) -> None:
    entries = perfect("redis")
    entries = change(entries, is_(nth_read(entries, 3)), seen={}, owner=None, right=False)
    found = a_run(tmp_path / "run", {"redis": entries})
    assert "does not hold: before the kill none of the reads show a wrong cart" in shown(found)
    assert not found.held


def test_a_kept_run_gives_the_same_results_again(tmp_path: Path) -> None:
    found = a_run(tmp_path / "run", {name: perfect(name) for name in ARCHITECTURES})
    assert results.recompute(tmp_path / "run") == found


def test_a_run_is_reported_on_without_the_file_of_its_scenario(tmp_path: Path) -> None:
    scenario = tmp_path / "mine.toml"
    scenario.write_text('title = "Mine"\nusers = 50\nthink_time = 1.0\nsession_size = "1kB"\nwrite_share = 0.5\n')
    a_run(tmp_path / "run", {"redis": perfect("redis")}, str(scenario))
    scenario.unlink()
    assert results.recompute(tmp_path / "run").scenario.title == "Mine"


def test_figures_in_a_kept_result_are_not_believed(tmp_path: Path) -> None:
    found = a_run(tmp_path / "run", {"local": perfect("local")})
    kept = tmp_path / "run" / results.FILE
    forged = kept.read_bytes().replace(b'"p50": 2.0', b'"p50": 0.1').replace(b'"wrong": ', b'"wrong": 1')
    assert forged != kept.read_bytes()
    kept.write_bytes(forged)
    assert results.recompute(tmp_path / "run").architectures == found.architectures


def test_a_run_that_was_stopped_at_once_is_reported_on_without_a_table(tmp_path: Path) -> None:
    found = results.collect(
        tmp_path, Settings(), results.this_machine({}), "2026-01-01T00:00:00+00:00", [], complete=False
    )
    assert "no architecture did, so there is no table" in shown(found)


def test_each_run_gets_a_folder_of_its_own_and_latest_points_to_the_last_that_came_to_its_end(tmp_path: Path) -> None:
    folders = [results.new_folder(tmp_path / "runs") for _ in range(3)]
    assert len(set(folders)) == 3
    assert not (tmp_path / "runs" / "latest").exists()
    for folder in folders:
        results.point_latest_at(folder)
    assert (tmp_path / "runs" / "latest").resolve() == folders[-1].resolve()
    assert (tmp_path / "runs" / "latest").readlink() == Path(folders[-1].name)


def test_a_folder_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    results.point_latest_at(results.new_folder(tmp_path))
    assert not (tmp_path / "latest").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
