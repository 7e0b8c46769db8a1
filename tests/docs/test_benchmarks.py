"""The benchmarks still run, each in a form far too small to measure anything, and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _harness as harness
from benchmarks._applications import VARIANTS
from benchmarks.asgi import Users
from tests.servers.processes import ROOT
from tests.servers.valkey import Valkey

APPLICATIONS = list(VARIANTS)


def run(name: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The JSON that a benchmark wrote, and what it printed."""
    outputs = ["--json", str(folder / "out.json"), "--chart", str(folder / "out.png")]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options, *outputs],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((folder / "out.json").read_text("utf-8"))
    assert written["benchmark"] == name
    assert written["environment"]["packages"]["coatcheck"] != "missing"
    return written, done.stdout


def test_asgi(valkey: Valkey, tmp_path: Path) -> None:
    few = ["--rounds", "2", "--requests", "20", "--sessions", "8", "--in-flight", "4"]
    written, said = run("asgi", tmp_path, *few, "--redis-url", valkey.url)
    assert list(written["in_flight"]["4"]) == APPLICATIONS
    assert "the logging observer" in said


def test_http(valkey: Valkey, tmp_path: Path) -> None:
    few = ["--rounds", "2", "--requests", "40", "--sessions", "8", "--connections", "4"]
    written, _ = run("http", tmp_path, *few, "--redis-url", valkey.url)
    assert list(written["variants"]) == APPLICATIONS
    assert all(variant["p50_us"]["median"] > 0 for variant in written["variants"].values())


def test_transport(valkey: Valkey, tmp_path: Path) -> None:
    few = ["--rounds", "2", "--commands", "40", "--in-flight", "1", "--in-flight", "64"]
    written, said = run("transport", tmp_path, *few, "--redis-url", valkey.url)
    assert len(written["in_flight"]["64"]) == 6
    assert len(written["targets"]) == 3
    assert "over redis-py's, 64 in flight" in said


def test_threads(valkey: Valkey, tmp_path: Path) -> None:
    few = ["--rounds", "2", "--commands", "40", "--threads", "1", "--threads", "4"]
    written, _ = run("threads", tmp_path, *few, "--redis-url", valkey.url)
    assert list(written["threads"]["4"]) == ["coatcheck", "redis-py", "bare socket"]
    assert len(written["targets"]) == 2


def test_frameworks(valkey: Valkey, tmp_path: Path) -> None:
    few = ["--rounds", "2", "--requests", "20", "--sessions", "8"]
    written, said = run("frameworks", tmp_path, *few, "--redis-url", valkey.url)
    assert written["variants"]["coatcheck on Flask"]["cost_us"]["median"] > 0
    assert len(written["targets"]) == 2
    assert "coatcheck on Django, near cache: cost as a share of Django's cache sessions" in said


def test_layout(tmp_path: Path) -> None:
    written, _ = run("layout", tmp_path, "--sessions", "4", "--operations", "2")
    sent = {size: layouts["coatcheck"]["write_sent"] for size, layouts in written["fields"].items()}
    assert abs(sent["500"] - sent["5"]) < 10  # what is written does not depend on what else there is
    assert written["targets"][0]["met"]


def test_stored(tmp_path: Path) -> None:
    few = ["--rounds", "2", "--stored", "20", "--stored", "50", "--requests", "10", "--in-flight", "2"]
    written, _ = run("stored", tmp_path, *few)
    assert list(written["in_flight"]["2"]) == ["20", "50"]
    assert written["in_flight"]["2"]["50"]["store_cpu_us"]["median"] > 0


def test_sql(tmp_path: Path) -> None:
    few = ["--rounds", "2", "--operations", "20", "--sessions", "4", "--few", "20", "--many", "200"]
    written, said = run("sql", tmp_path, *few, "--turns", "1", "--seconds", "1")
    assert set(written["parts"]) == {"applications", "read", "fields", "stored", "sweep"}
    assert len(written["targets"]) == 10
    assert "Django's database sessions" in said


def test_losses(tmp_path: Path) -> None:
    written, _ = run("losses", tmp_path, "--rounds", "1", "--writers", "3", "--topology", "single")
    [nothing_kept] = written["faults"]["single, kill -9, no persistence"]
    [all_kept] = written["faults"]["single, kill -9, appendfsync always"]
    assert nothing_kept["lost"] == nothing_kept["acknowledged"] > 0, "a loss is seen"
    assert all_kept["lost"] == 0 < all_kept["acknowledged"]
    written, _ = run("losses", tmp_path, "--rounds", "1", "--writers", "3", "--topology", "cluster")
    assert len(written["faults"]) == 6
    assert all(run["acknowledged"] for [run] in written["faults"].values())


def test_replicated(tmp_path: Path) -> None:
    few = ["--rounds", "2", "--peers", "1", "--peers", "2", "--peers", "3", "--sessions", "300", "--commits", "60"]
    written, said = run("replicated", tmp_path, *few, "--reads", "100")
    assert list(written["peers"]) == ["1", "2", "3"]
    sent = {count: cost["traffic"] for count, cost in written["peers"].items()}
    assert sent["1"] == 0 < sent["2"] < sent["3"], "bytes are counted, and grow with the number of peers"
    assert len(written["targets"]) == 3
    assert "reading, as a multiple of the memory store's" in said


async def test_a_wrong_answer_and_a_lost_write_end_a_benchmark() -> None:
    async def forgetful(scope: Any, receive: Any, send: Any) -> None:
        body = b"user-0" if scope["path"] == "/work" else b"0"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    users = Users(forgetful, range(2))
    await users.work(0)
    with pytest.raises(AssertionError, match="1 writes, but the sessions counted 0"):
        await users.check_hits()
    with pytest.raises(AssertionError, match="was taken for"):
        await users.work(1)


def test_figures_are_compared_within_their_round() -> None:
    samples = harness.Samples()
    for slow in (1, 10):  # the machine, not the variants
        samples.rounds.append(
            {
                "base": harness.Sample(1 * slow, 5),
                "ours": harness.Sample(2 * slow, 6),
                "theirs": harness.Sample(5 * slow, 7),
            }
        )
    assert samples.ratio("theirs", "ours") == harness.Spread(2.5, 2.5, 2.5)
    assert samples.cost_ratio("ours", "base", "theirs", "base") == harness.Spread(0.25, 0.25, 0.25)
    assert samples.over("ours", "base").median == 5.5
    assert set(samples.as_json("ours")) == {"cpu_us", "wall_us", "rounds"}
