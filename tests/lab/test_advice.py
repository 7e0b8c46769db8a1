"""Which one to choose: the order of the rules, and sums that agree everywhere and can be done by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from coatcheck.lab import advice
from coatcheck.lab.capacity import Capacity
from coatcheck.lab.claims import Measured
from coatcheck.lab.markdown import markdown
from coatcheck.lab.model import Question, plan
from coatcheck.lab.results import Results

from .test_verdicts import a_run as a_kept_run
from .worlds import perfect

STORES = {"redis": (16.0, 60.0, 10.0, 120.0), "database": (90.0, 900.0, 216.0, 480.0)}  # read, change, crowd, busy


@pytest.fixture
def found(tmp_path: Path) -> Results:
    """A run of all architectures, with what the sums need of the stores."""
    kept = a_kept_run(
        tmp_path / "run", {name: perfect(name) for name in ("local", "sticky", "all-to-all", "redis", "database")}
    )
    measured = [
        Measured(experiment=experiment, architecture=name, case=case, rounds=[figures], files=[])
        for name, (read, change, crowd, busy) in STORES.items()
        for experiment, case, figures in (
            ("load", "busy", {"whole_p50": 3.0, "web_cpu": 700.0, "store_cpu": busy, "begun": 0.0, "samples": 340.0}),
            ("load", "stored", {"memory": 1500.0}),
            ("load", "calm", {"web_cpu": 700.0, "store_cpu": busy}),
            ("size", "50kB", {"memory": 50_500.0}),
            ("work", "read", {"network": 1300.0, "store_cpu": read}),
            ("work", "change", {"network": 400.0, "web_cpu": 80.0, "store_cpu": change, "store_p50": change / 100}),
            ("work", "create", {"network": 1200.0}),
            ("work", "64-at-once", {"store_cpu": crowd}),
        )
    ]
    measured.append(
        Measured(experiment="work", architecture="redis", case="change-on-disk", rounds=[{"store_p50": 1.5}], files=[])
    )
    return replace(kept, experiments=measured)


def test_what_the_application_can_do_is_asked_first_and_what_is_there_before_what_would_have_to_come(
    found: Results,
) -> None:
    steps = advice.steps(found)
    assert [step.choice for step in steps] == ["sticky", "local", "database", "all-to-all", "redis"]
    assert "no second one is planned" in steps[1].condition, "a site that is about to grow is not for `local`"
    assert "a second server soon, deploys during the day" in steps[4].condition
    assert "only PostgreSQL was measured; MariaDB" in steps[2].condition


def test_the_start_up_and_the_old_application_have_a_case_of_their_own(found: Results) -> None:
    choices = {one.case: one.choice for one in advice.cases(found)}
    assert next(choice for case, choice in choices.items() if "start-up" in case) == "redis"
    assert next(choice for case, choice in choices.items() if "cannot be changed" in case) == "sticky"


def test_all_sums_of_cores_are_those_of_the_plan(found: Results) -> None:
    capacity = Capacity(found)
    for share in (0.0, 0.2, 1.0):
        asked = Question(users=1, requests=200e3, session=1000, servers=3, write_share=share, shard_memory=16e9)
        for answer in plan(asked, found):
            assert capacity.cores(answer.architecture, 200e3, share) == pytest.approx(answer.store_cores)
    assert capacity.microseconds("database") == pytest.approx((216.0, 480.0))
    assert capacity.cores("database", 200e3) == pytest.approx((200e3 * 216e-6 / 0.6, 200e3 * 480e-6 / 0.6))


def test_the_sums_that_are_shown_can_be_done_by_hand(found: Results) -> None:
    text = markdown(found)
    shown = re.findall(r"([\d.,]+) cores [a-z ]+ \(([\d,]+) x ([\d.]+) µs / 0\.6\)", text)
    assert len(shown) >= 6
    for cores, requests, time in shown:
        done = float(requests.replace(",", "")) * float(time) / 1e6 / 0.6
        assert float(cores.replace(",", "")) == pytest.approx(done, rel=0.05)


def test_the_rule_and_the_table_name_the_same_limit_for_a_database(found: Results) -> None:
    assert "fewer than 1,200 requests a second" in advice.steps(found)[2].condition, "0.6 / 480 µs is 1,250"
    _, rows = Capacity(found).table()
    assert rows[1] == [
        "requests, 20% of them changes, each by itself", "120 µs: a core carries 5,000 /s",
        "480 µs: a core carries 1,200 /s",
    ]  # fmt: skip
    assert rows[2][2] == "72 µs: a core carries 8,300 /s", "reads only, in a crowd: 216 x 90 / 270"


def test_what_it_costs_to_lose_nothing_is_named_with_the_setting_that_was_measured(found: Results) -> None:
    said = advice.durability(found)
    assert "appendfsync everysec" in said
    assert "With appendfsync always a change takes 1.50 ms instead of 0.60 ms" in said
    without = replace(found, experiments=[one for one in found.experiments if one.case != "change-on-disk"])
    assert "was not measured in this run" in advice.durability(without)
    theirs = replace(found, settings=replace(found.settings, redis_url="redis://127.0.0.1:6379/0"))
    assert "everysec" not in advice.durability(theirs), "nobody knows how somebody else's is set up"


def test_milliseconds_do_not_decide_unless_people_would_notice_them(found: Results) -> None:
    assert "The slowest of them answered in 3.00 ms" in advice.below_notice(found)
    slow = [replace(one, rounds=[one.rounds[0] | {"whole_p50": 80.0}]) for one in found.experiments]
    assert advice.below_notice(replace(found, experiments=slow)) == ""
