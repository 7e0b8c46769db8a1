"""`coatcheck lab` as people and programs use it, on real parts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from coatcheck.cli import main
from coatcheck.lab import history
from coatcheck.lab.history import Operation
from tests.servers.mariadb import mariadb_program

from .labs import SMALL, start_lab
from .worlds import PLAN, perfect

NEVER = "never-used"  # a runs folder that must not come into being


@pytest.mark.alone
def test_the_comparison_shows_what_each_architecture_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole thing: all architectures, real servers, one kill each, a table, and the same table again."""
    lab = start_lab(tmp_path / "runs", *SMALL)
    said, progress = lab.end(60)
    assert lab.popen.returncode == 0, said + progress
    for words in ("local", "sticky", "all-to-all", "redis", "database", "wrong carts", "lost", "errors", "p99"):
        assert words in said
    assert "does not hold" not in said
    assert "web-2 killed" in progress

    results = json.loads((lab.run / "results.json").read_bytes())
    assert results["schema"] == "coatcheck-lab-results/3"
    assert results["complete"]
    assert results["held"]
    local, sticky, all_to_all, redis, database = (outcome["figures"] for outcome in results["architectures"])
    assert local["before_kill"]["wrong"] / local["before_kill"]["count"] == pytest.approx(2 / 3, abs=0.12)
    assert sticky["before_kill"]["wrong"] == 0
    assert 0 < sticky["sessions"]["lost"] < sticky["sessions"]["at_risk"]
    for shared in (all_to_all, redis, database):
        assert shared["in_all"]["wrong"] == shared["sessions"]["lost"] == 0
        assert shared["sessions"]["survived"] > 20
    for figures in (local, sticky, all_to_all, redis, database):
        assert figures["operations"] == 680 == sum(figures["requests_by_server"].values()) + figures["errors"]
        assert figures["killed"] == "web-2"

    # The claim about sticky sessions, by another road than the checker's: whose balancer cookie changed?
    entries = [entry for entry in history.read(lab.run / "sticky" / "history.jsonl") if isinstance(entry, Operation)]
    pins = {(entry.shopper, entry.pinned) for entry in entries}
    moved = [shopper for shopper, count in Counter(shopper for shopper, _ in pins).items() if count > 1]
    assert sticky["sessions"]["lost"] <= len(moved)
    assert all(pin != "web-2" for shopper, pin in {(entry.shopper, entry.pinned) for entry in entries[-100:]})

    # Everything is kept.
    for part in ("haproxy.cfg", "history.jsonl", "logs/haproxy.log", "logs/web-1.log", "logs/web-2.log"):
        assert (lab.run / "redis" / part).exists(), part
    secret = subprocess.run(["grep", "-rlE", "[A-Za-z0-9_-]{48}", str(lab.run) + "/"], capture_output=True, check=False)
    assert secret.stdout == b"", "a whole ticket was written down"

    # The same figures from the history alone, table and JSON.
    assert main(["lab", "report", "--runs", str(tmp_path / "runs")]) == 0
    assert "sticky" in capsys.readouterr().out
    assert main(["lab", "report", str(lab.run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architectures"] == results["architectures"]


@pytest.mark.parametrize("store", ["sqlite", "mariadb"])
def test_the_database_may_be_another_one(tmp_path: Path, store: str) -> None:
    if store == "mariadb" and mariadb_program() is None:
        pytest.skip("there is no mariadbd on this machine")
    lab = start_lab(tmp_path / "runs", *SMALL, "--only", "database", "--store", store)
    said, progress = lab.end(60)
    assert lab.popen.returncode == 0, said + progress
    assert bool(lab.started("database")) == (store == "mariadb")
    [outcome] = json.loads((lab.run / "results.json").read_bytes())["architectures"]
    assert outcome["figures"]["sessions"]["lost"] == 0


def test_with_json_standard_output_is_json_and_nothing_else(tmp_path: Path) -> None:
    lab = start_lab(tmp_path / "runs", *SMALL, "--only", "local", "--servers", "2", "--json")
    said, progress = lab.end(40)
    results = json.loads(said)
    assert [outcome["architecture"] for outcome in results["architectures"]] == ["local"]
    assert results["settings"]["servers"] == 2
    assert results == json.loads((lab.run / "results.json").read_bytes())
    assert progress.startswith("local: starting")
    assert lab.popen.returncode == 0, said


def test_a_redis_that_runs_already_can_be_used(tmp_path: Path) -> None:
    """Somebody's own Redis, here one started for the purpose: nothing else is started, nothing in it is lost."""
    import redis

    from coatcheck.lab import programs, valkey
    from coatcheck.lab.processes import Supervisor
    from coatcheck.lab.stopping import StopRequests

    with StopRequests() as stop, Supervisor(tmp_path, tmp_path / "logs", stop) as supervisor:
        url = valkey.start(supervisor, programs.valkey(None), tmp_path)
        with redis.Redis.from_url(url) as client:
            client.set("mine", "untouched")
            lab = start_lab(tmp_path / "runs", *SMALL, "--only", "redis", "--redis-url", url)
            said, progress = lab.end(40)
            assert lab.popen.returncode == 0, said + progress
            assert not lab.started("valkey")
            assert client.get("mine") == b"untouched"
            sessions = [key for key in client.scan_iter("*") if key != b"mine"]
            assert len(sessions) >= 40
            assert all(0 < int(str(client.ttl(key))) <= 600 for key in sessions)


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--only", "galaxy"],
            "no such architecture. Choose from local, sticky, all-to-all, redis, database.",
        ),
        (["--servers", "1"], "--servers 1: out of range (one is killed, and another has to go on). Use 2 to 16."),
        (["--shoppers", "1000"], "Use --seconds 85, or --rate 2429, or --shoppers 82."),
        (["--redis-url", "http://127.0.0.1/"], "--redis-url http://127.0.0.1/: not the URL of a Redis."),
        (["--haproxy", "/nowhere/haproxy"], "--haproxy /nowhere/haproxy: not a program that can be run."),
        (["--servers", "many"], "many"),
        (["--sevrers", "3"], "--sevrers"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    runs = tmp_path / NEVER
    assert main(["lab", "--runs", str(runs), *options]) == 2
    said = capsys.readouterr()
    assert complaint in " ".join(said.err.split())
    assert said.out == ""
    assert not runs.exists()


def test_a_report_without_a_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "report", "--runs", str(tmp_path)]) == 2
    assert "coatcheck lab: " in (said := capsys.readouterr().err)
    assert "holds no finished run. Run `coatcheck lab`" in said


def test_a_folder_that_no_run_can_be_kept_in_is_an_option_that_cannot_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["lab", "--runs", str(file)]) == 2
    assert "no run can be kept there (Not a directory). Name a folder" in capsys.readouterr().err


def test_a_report_on_a_damaged_history_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from .test_verdicts import a_run

    a_run(tmp_path / "run", {"redis": perfect("redis")})
    file = tmp_path / "run" / "redis" / history.FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:400] + lines[402:]))
    assert main(["lab", "report", str(tmp_path / "run")]) == 3
    assert "2 operations are missing: 399, 400" in capsys.readouterr().err


def test_a_report_on_a_run_whose_claims_did_not_hold_says_so_in_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_verdicts import a_run
    from .worlds import change, is_, nth_read

    entries = perfect("redis")
    a_run(
        tmp_path / "run",
        {"redis": change(entries, is_(nth_read(entries, 1)), seen={}, owner=None, right=False)},
    )
    assert main(["lab", "report", str(tmp_path / "run")]) == 1
    assert "does not hold" in capsys.readouterr().out
    assert PLAN.servers == 3


# --- help, and what is not installed --------------------------------------------------------------------------------


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "--help"]) == 0
    said = capsys.readouterr().out
    for words in ("local ", "sticky ", "redis ", "--quick", "coatcheck lab report", "130", "--redis-url"):
        assert words in said


def run_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a Python in which `package` is not installed."""
    script = f"import sys; sys.modules[{package!r}] = None; from coatcheck.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_without_the_command_line_packages_the_command_says_what_to_install(package: str) -> None:
    ended = run_without(package, "lab")
    assert ended.returncode == 2
    assert ended.stderr.startswith("`coatcheck`")
    assert "pip install 'coatcheck[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("package", ["aiohttp", "starlette", "uvicorn", "redis"])
def test_without_its_own_packages_the_lab_says_what_to_install(package: str, tmp_path: Path) -> None:
    ended = run_without(package, "lab", "--runs", str(tmp_path / NEVER))
    assert ended.returncode == 2
    assert package in ended.stderr
    assert "pip install 'coatcheck[lab]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / NEVER).exists()


def test_a_command_that_cannot_be_loaded_is_still_listed() -> None:
    ended = run_without("coatcheck.lab.command", "--help")
    assert ended.returncode == 0
    assert "pip install 'coatcheck[lab]'" in ended.stdout
    ended = run_without("coatcheck.lab.command", "lab")
    assert ended.returncode == 2
    assert "pip install 'coatcheck[lab]'" in ended.stderr
