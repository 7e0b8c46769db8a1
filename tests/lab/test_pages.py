"""A quick run with one architecture, and what is made of it: the reports, in a real browser too, and comparisons."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from coatcheck.cli import main
from coatcheck.lab import results, samples
from coatcheck.lab.charts import Row, bars, distributions, lines
from coatcheck.lab.samples import Sample
from tests.servers.chromium import a_page

from .labs import start_lab


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run."""
    lab = start_lab(tmp_path_factory.mktemp("reports") / "runs", "--quick", "--only", "redis")
    said, progress = lab.end(120)
    assert lab.popen.returncode == 0, said + progress
    assert "holds: 6. A hash per session fits the data" in said
    assert lab.processes() == set()
    return lab.run


def test_a_quick_run_puts_every_claim_to_the_test_as_far_as_it_goes(run: Path) -> None:
    found = json.loads((run / "results.json").read_bytes())
    answers = [claim["answer"] for claim in found["claims"]]
    assert answers == ["not decided"] * 5 + ["holds"], "those about other architectures cannot be decided"
    measured = {(one["experiment"], one["architecture"], one["case"]) for one in found["experiments"]}
    assert ("load", "redis", "busy") in measured
    assert ("layout", "redis-value", "10kB-at-once") in measured
    busy = next(one for one in found["experiments"] if (one["experiment"], one["case"]) == ("load", "busy"))
    assert {"store_p50", "whole_p50", "web_cpu", "store_cpu", "network"} <= busy["rounds"][0].keys()
    assert busy["tails"] == {}, "240 requests say nothing about the 999th of a thousand"
    assert "session work per request, 99.9th percentile" not in (run / "report.html").read_text("utf-8")
    visits = [entry for entry in samples.read(run / busy["files"][0]) if isinstance(entry, Sample)]
    assert busy["rounds"][0]["samples"] == sum(visit.scheduled >= 0 for visit in visits), "raw samples are kept"


def test_one_generator_does_all_jobs_with_an_architecture(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "processes.jsonl").read_bytes().splitlines()]
    started = Counter(line["name"] for line in lines if line["event"] == "started")
    assert started["driver"] == 3 == started["haproxy"], "redis, and the two layouts"
    ended = Counter(line["name"] for line in lines if line["event"] == "ended")
    assert started == ended


def test_every_figure_is_made_anew_from_the_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = (run / "results.json").read_bytes()
    (run / "results.json").write_bytes(re.sub(rb'"store_p50": [0-9.]+', b'"store_p50": 0.0', kept))
    assert main(["lab", "report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiments"] == json.loads(kept)["experiments"]


@pytest.mark.parametrize(
    ("word", "other", "complaint"),
    [
        (b'"load"', b'"lode"', "is about 'lode' with 'redis', which nobody knows here"),
        (b'"redis"', b'"ready"', "is about 'load' with 'ready', which nobody knows here"),
        (b'"began"', b'"begun"', "cannot be read"),
    ],
)
def test_samples_that_nobody_knows_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: bytes, other: bytes, complaint: str
) -> None:
    copy = shutil.copytree(run, tmp_path / "a run")
    file = copy / "redis" / "load-1-busy.jsonl"
    file.write_bytes(file.read_bytes().replace(word, other, 1))
    assert main(["lab", "report", str(copy)]) == 3
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_a_report_without_some_of_the_samples_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "a run")
    for file in (copy / "layout" / "redis").glob("layout-*"):
        file.unlink()
    assert main(["lab", "report", str(copy)]) == 3
    assert "layout-1-10kB.jsonl is missing, and 1 more" in " ".join(capsys.readouterr().err.split())


def test_a_run_may_lie_below_a_folder_with_a_space_in_its_name(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "a run")
    assert main(["lab", "report", str(copy)]) == 0
    assert f"    coatcheck lab report '{copy}'\n" in (copy / "report.md").read_text("utf-8")


def test_a_run_compared_with_itself_is_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "compare", str(run), str(run)]) == 0
    said = capsys.readouterr().out
    assert "6. A hash per session fits the data" in said
    assert "differs" not in said
    assert "0 of " in said
    assert main(["lab", "compare", str(run), str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"] == []
    assert ["6. A hash per session fits the data", "holds", "holds"] in told["verdicts"]


def test_runs_that_differ_are_told_apart(run: Path) -> None:
    import msgspec

    from coatcheck.lab.comparing import compare

    found = results.recompute(run)
    slower = [
        msgspec.structs.replace(one, rounds=[each | {"store_p50": each.get("store_p50", 0) * 3} for each in one.rounds])
        for one in found.experiments
    ]
    refuted = [msgspec.structs.replace(found.claims[-1], answer="does not hold")]
    other = msgspec.structs.replace(found, experiments=slower, claims=[*found.claims[:-1], *refuted])
    comparison = compare(found, other)
    assert not comparison.same_verdicts
    assert ("load busy redis", "store_p50") in [(where, name) for where, name, *_ in comparison.figures]


def test_a_plan_needs_a_full_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--users",
        "50M",
        "--requests-per-second",
        "200k",
        "--session",
        "4kB",
        "--servers",
        "40",
        "--run",
        str(run),
    ]
    assert main(["lab", "plan", *options]) == 2
    assert "Make one with `coatcheck lab`, without --quick" in " ".join(capsys.readouterr().err.split())


def test_the_report_in_markdown_says_what_the_page_says(run: Path) -> None:
    text = (run / "report.md").read_text("utf-8")
    assert "6. **A hash per session fits the data: holds.**" in text
    assert "| sessions lost when a server is killed | 0 % |" in text
    assert "coatcheck lab --quick --only redis --scenario shop --servers 3" in text
    assert "5. In all other cases" not in text
    assert "| An API: 200,000 requests a second that show a token | `redis` |" in text
    assert "- **session work**: " in text
    page = html.unescape((run / "report.html").read_text("utf-8"))
    for heading in re.findall(r"^## (.+)$", text, re.MULTILINE):
        assert f">{heading}</h2>" in page
    for experiment in re.findall(r"^### (.+)$", text, re.MULTILINE):
        assert f"<summary>{experiment}: " in page
    assert "### carts" in text
    assert text.index("## Words") < text.index("## How each one works") < text.index("## The six claims, part by part")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_opens_offline_in_any_colours_and_on_a_telephone(
    run: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    with a_page(scheme=scheme, width=width) as (page, complaints):
        page.goto((run / "report.html").as_uri())
        assert page.locator("[aria-labelledby=verdicts] .badge").all_inner_texts() == ["not decided"] * 5 + ["holds"]
        assert page.get_by_role("img", name="redis: All web servers share one Redis").is_visible()
        page.get_by_text("layout: Is a hash per session better").click()
        assert page.locator("details[open] th", has_text="acknowledged changes that were gone").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing hangs over the edge"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"
        assert dark is (scheme == "dark")
        assert complaints == []


def test_a_chart_says_its_figures_to_screen_readers_and_escapes_names() -> None:
    chart = bars("Wrong <carts>", [Row("local", 0.66, 0.6, 0.7, "66 %", "local")], mark=0.5, mark_label="even")
    assert 'role="img" aria-label="Wrong &lt;carts&gt;"' in chart
    assert "66 %" in chart


def test_charts_of_nothing_and_of_one_point_are_drawn_too() -> None:
    assert "<svg" in bars("none", [])
    assert "<circle" in lines("one", {"redis": [(1.0, 0.0)]}, x_label="servers", y_label="bytes")
    assert "<path" in distributions("one", {"redis": [0.3]}, unit="ms")


def test_a_chart_explains_its_whiskers_and_only_if_it_has_some() -> None:
    assert "lowest to the highest repeat" in bars("Times", [Row("redis", 2, 1, 3, "2 ms", "redis")])
    assert "lowest to the highest repeat" not in bars("Times", [Row("redis", 2, 2, 2, "2 ms", "redis")])


def test_names_beside_lines_have_their_colour_and_servers_stand_at_their_number() -> None:
    chart = lines("Memory", {"redis": [(n, 5.0) for n in (1, 2, 4, 8)]}, x_label="servers", y_label="bytes")
    assert 'class="named s-redis">redis<' in chart
    xs = [float(x) for x in re.findall(r'<circle cx="([0-9.]+)"', chart)]
    assert xs[3] - xs[2] == pytest.approx(4 * (xs[1] - xs[0]), abs=0.2), "what grows evenly is a straight line"
    assert 'class="named s-redis">redis<' in distributions("Times", {"redis": [1.0] * 100}, unit="ms")
    assert "0.1 %" not in distributions("Times", {"redis": [1.0] * 1000}, unit="ms"), (
        "ten requests are one of a hundred"
    )
