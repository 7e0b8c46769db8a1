"""Planning beyond one machine: sums that can be done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from coatcheck.lab.claims import Measured
from coatcheck.lab.errors import UsageError
from coatcheck.lab.model import LEAST_BAND, Check, Constants, Question, parse_amount, parse_bytes, plan
from coatcheck.lab.planning import question, show
from coatcheck.lab.results import Results

from .test_verdicts import a_run as a_kept_run
from .worlds import perfect

LARGE = Question(users=50e6, requests=200e3, session=4000, servers=40, write_share=0.2, shard_memory=16e9)


HELD = ((1000.0, 1500.0), (4000.0, 5000.0), (50_000.0, 51_000.0))


def constants(*, copies: bool = False, shared: bool = False) -> Constants:
    return Constants(
        held=HELD, read=300, change=400, create=100, idle=50, idle_cpu=1e-3, web_cpu=500e-6, store_cpu=100e-6,
        crowd_store_cpu=20e-6, read_store_cpu=30e-6, change_web_cpu=200e-6, change_store_cpu=50e-6, peer_cpu=30e-6,
        write_share=0.2, servers=3,
        copies=copies, shared=shared,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "amount"), [("50M", 50e6), ("200k", 200e3), ("1.5B", 1.5e9), ("7", 7), ("1,000", 1000), ("2_000", 2000)]
)
def test_amounts_are_written_as_people_write_them(text: str, amount: float) -> None:
    assert parse_amount(text) == amount


def test_a_store_beside_the_servers_has_one_copy_and_is_read_whole() -> None:
    assert constants(shared=True).memory(LARGE) == 50e6 * 5000
    assert constants(shared=True).traffic(LARGE) == pytest.approx(200e3 * (4000 + 300 + 0.2 * 400))


def test_all_to_all_has_a_copy_per_server_and_tells_every_other_of_every_change() -> None:
    assert constants(copies=True).memory(LARGE) == 40 * 50e6 * 5000
    assert constants(copies=True).traffic(LARGE) == pytest.approx(200e3 * 0.2 * 39 * 400 + 40 * 39 * 50)


def test_a_store_per_server_has_one_copy_and_no_traffic() -> None:
    assert constants().memory(LARGE) == 50e6 * 5000
    assert constants().traffic(LARGE) == 0


@pytest.mark.parametrize(
    ("size", "taken"), [(2000, 2666.67), (4000, 5000), (27_000, 28_000), (500, 916.67), (96_000, 97_000)]
)
def test_what_a_session_takes_lies_on_straight_lines_between_the_sizes_that_were_measured(
    size: float, taken: float
) -> None:
    assert constants().memory(replace(LARGE, users=1, session=size)) == pytest.approx(taken, abs=0.01)


def test_a_request_takes_what_it_took_and_more_where_more_of_them_change_something() -> None:
    assert constants().web_time(LARGE) == pytest.approx(200e3 * 500e-6 + 40 * 1e-3)
    assert constants(shared=True).store_time(replace(LARGE, write_share=0.5)) == pytest.approx(
        200e3 * (100e-6 + 0.3 * 50e-6)
    )


def test_a_store_to_which_many_come_at_once_takes_less_of_its_processor_for_each() -> None:
    assert constants(shared=True).crowd_store_time(LARGE) == pytest.approx(200e3 * 20e-6)


@pytest.mark.parametrize(("write_share", "ratio"), [(0.0, 30 / 40), (0.2, 1.0), (1.0, 80 / 40)])
def test_in_a_crowd_reads_and_changes_cost_as_much_of_one_another_as_by_themselves(
    write_share: float, ratio: float
) -> None:
    """A read by itself takes 30 µs of the store and a change 50 more; a fifth of changes, as measured, is 40 µs."""
    asked = replace(LARGE, write_share=write_share)
    assert constants(shared=True).crowd_store_time(asked) == pytest.approx(200e3 * 20e-6 * ratio)


def test_every_server_more_takes_in_every_change_all_to_all() -> None:
    told = 0.2 * (40 - 3) * 30e-6
    assert constants(copies=True).web_time(LARGE) == pytest.approx(200e3 * (500e-6 + told) + 40 * 39 * 1e-3)


# --- held against what was measured ----------------------------------------------------------------------------------


def a_run(folder: Path, *, memory_of_4kb: float = 4666.67, growth_network: float = 1400.0) -> Results:
    """A run of `redis` whose figures fit the model, but for those that are given."""
    found = a_kept_run(folder, {"redis": perfect("redis")})
    traffic = {"begun": 0.0, "metered": 3.0, "samples": 300.0}
    made = {
        ("load", "calm"): traffic | {"network": 1380.0, "web_cpu": 700.0, "store_cpu": 100.0},
        ("load", "busy"): traffic | {"network": 1380.0, "web_cpu": 700.0, "store_cpu": 100.0},
        ("load", "stored"): {"memory": 1500.0},
        ("size", "4kB"): {"memory": memory_of_4kb}, ("size", "10kB"): {"memory": 11_000.0},
        ("size", "50kB"): {"memory": 50_500.0},
        ("work", "read"): {"network": 1300.0, "store_cpu": 12.0},
        ("work", "change"): {"network": 400.0, "web_cpu": 80.0, "store_cpu": 40.0},
        ("work", "create"): {"network": 1200.0}, ("work", "64-at-once"): {"store_cpu": 10.0},
        ("work", "idle"): {"idle_cpu": 0.0},
        ("growth", "n8"): traffic | {"network": growth_network, "memory": 1500.0, "web_cpu": 1400.0, "store_cpu": 200.0},
    }  # fmt: skip
    measured = [
        Measured(experiment=experiment, architecture="redis", case=case, rounds=[figures], files=[])
        for (experiment, case), figures in made.items()
    ]
    return replace(found, experiments=measured)


def test_the_band_is_the_largest_error_at_points_that_were_not_fitted_for_each_quantity(tmp_path: Path) -> None:
    [answer] = plan(LARGE, a_run(tmp_path / "run"))
    assert {(check.quantity, check.where) for check in answer.checks} == {
        ("memory", "sessions of 4 kB"), ("memory", "8 web servers"), ("network", "few users"), ("network", "many users"),
        ("network", "8 web servers"), ("processor", "few users"), ("processor", "8 web servers"),
    }  # fmt: skip
    assert answer.bands == {"memory": LEAST_BAND, "network": LEAST_BAND, "processor": pytest.approx(0.5)}

    [answer] = plan(LARGE, a_run(tmp_path / "other", memory_of_4kb=9333.33, growth_network=2760.0))
    assert answer.bands == {quantity: pytest.approx(0.5, abs=0.01) for quantity in ("memory", "network", "processor")}


def test_the_plan_shows_formulas_constants_and_bands(tmp_path: Path) -> None:
    found = a_run(tmp_path / "run")
    console = Console(width=130)
    with console.capture() as capture:
        show(LARGE, plan(LARGE, found), found, console)
    said = " ".join(capture.get().split())
    for words in (
        "±50%", "held(session)", "3.3 to 33.3",
        "a session of 1.0 kB takes 1,500 B, 10.0 kB takes 11,000 B, 50.0 kB takes 50,500 B",
        "redis, processor, 8 web servers: predicted 800 µs, measured 1,600 µs, 50% off",
        "No more than 8 servers were measured",
    ):  # fmt: skip
        assert words in said


def test_an_error_is_a_share_of_what_was_measured() -> None:
    assert Check(quantity="memory", where="here", predicted=90, measured=100).error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"users": "many"}, "--users many: not an amount. Use one such as 200000, 200k or 50M"),
        ({"users": "-5"}, "--users -5: not an amount"),
        ({"users": ""}, "--users : not an amount"),
        ({"session": "4 bags"}, "--session 4 bags: not a size. Use one such as 500B, 4kB or 16GB"),
        ({"servers": 0}, "--servers 0: out of range. Use 1 to 100000"),
        ({"write_share": 20.0}, "--write-share 20.0: out of range"),
        ({"shard_memory": "0"}, "--shard-memory 0: too little"),
    ],
)
def test_a_mistake_names_the_option_and_the_next_step(changes: dict[str, object], complaint: str) -> None:
    asked: dict[str, object] = {
        "users": "50M", "requests": "200k", "session": "4kB", "servers": 40, "write_share": 0.2, "shard_memory": "16GB",
    }  # fmt: skip
    with pytest.raises(UsageError) as refused:
        question(**asked | changes)  # type: ignore[arg-type]
    assert complaint in str(refused.value)


def test_the_options_as_typed_become_the_question() -> None:
    assert question("50M", "200k", "4kB", 40, 0.2, "16GB") == LARGE
    assert parse_bytes("4kB") == 4000
