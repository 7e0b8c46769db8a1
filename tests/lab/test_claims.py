"""The six claims: each can hold, be refuted, or stay undecided, and says so with its figures."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from coatcheck.lab.architectures import ARCHITECTURES, Architecture, Promise
from coatcheck.lab.checker import check
from coatcheck.lab.claims import Claim, Evidence, Measured, judge
from coatcheck.lab.verdicts import judge as judge_carts

from .worlds import PLAN, perfect

Measurements = dict[tuple[str, str, str], dict[str, float] | list[dict[str, float]]]

CROWDED = {"load": 2.6, "load_after": 3.4, "newcomer": 0.0}
SPREAD = {"load": 1.0, "load_after": 1.02, "newcomer": 0.25}

AS_CLAIMED: Measurements = {
    ("consistency", "redis", ""): {"lost_updates": 0.0, "revived": 0.0},
    ("crowding", "sticky", ""): CROWDED,
    ("crowding", "redis", ""): SPREAD,
    ("crowding", "all-to-all", ""): SPREAD,
    ("growth", "all-to-all", "n1"): {"memory": 2000.0, "network": 0.0},
    ("growth", "all-to-all", "n8"): {"memory": 16_000.0, "network": 5000.0},
    ("load", "database", "busy"): [{"store_p50": ms, "web_cpu": 1400.0, "store_cpu": 600.0} for ms in (1.3, 1.4, 1.5)],
    ("load", "redis", "busy"): [{"store_p50": ms, "web_cpu": 900.0, "store_cpu": 130.0} for ms in (0.2, 0.25, 0.3)],
    ("work", "database", "1-at-once"): [{"store_p50": ms} for ms in (0.6, 0.7, 0.9)],
    ("work", "database", "64-at-once"): [{"store_p50": ms, "work_cpu": ms * 20} for ms in (30.0, 31.0, 45.0)],
    ("work", "redis", "1-at-once"): [{"store_p50": ms} for ms in (0.1, 0.12, 0.2)],
    ("work", "redis", "64-at-once"): [{"store_p50": ms, "work_cpu": ms * 40} for ms in (1.5, 1.6, 4.0)],
    ("layout", "redis", "10kB"): {"network": 10_700.0},
    ("layout", "redis-value", "10kB"): {"network": 19_800.0},
    ("layout", "redis", "10kB-at-once"): {"lost_updates": 0.0},
    ("layout", "redis-value", "10kB-at-once"): {"lost_updates": 0.8, "revived": 1.0},
}


def shared(name: str) -> Architecture:
    """The architecture of this name, or one with the promises of `redis` where this branch of the lab has none yet."""
    none = ARCHITECTURES["redis"].promise.wrong_reads
    like_redis = replace(ARCHITECTURES["redis"], name=name, promise=Promise(wrong_reads=none, lost_sessions=none))
    return ARCHITECTURES.get(name, like_redis)


def claims(
    measurements: Measurements, *, carts: tuple[str, ...] = ("local", "sticky", "all-to-all", "database", "redis")
) -> list[Claim]:
    """The verdicts on these measurements, where the carts were as each architecture promises."""
    found = {}
    for name in carts:
        figures = check(perfect(name if name in ("local", "sticky") else "redis"))
        found[name] = (figures, judge_carts(shared(name), figures, PLAN.servers))
    measured = [
        Measured(
            experiment=experiment,
            architecture=architecture,
            case=case,
            files=[],
            rounds=figures if isinstance(figures, list) else [figures],
        )
        for (experiment, architecture, case), figures in measurements.items()
    ]
    return judge(Evidence(found, measured))


def answers(measurements: Measurements) -> list[str]:
    return [claim.answer for claim in claims(measurements)]


def but(**changes: object) -> Measurements:
    """`AS_CLAIMED`, changed: `crowding__redis={...}`, `load__redis__busy=[...]`."""
    found = dict(AS_CLAIMED)
    for key, figures in changes.items():
        experiment, architecture, case = (*key.split("__"), "")[:3]
        where = (experiment, architecture.replace("_", "-"), case.replace("_", "-"))
        if figures is None:
            del found[where]
        else:
            found[where] = figures  # type: ignore[assignment]
    return found


def test_all_six_hold_where_everything_is_as_claimed() -> None:
    assert answers(AS_CLAIMED) == ["holds"] * 6


def test_each_claim_says_with_figures_what_was_seen() -> None:
    words = " ".join(part.reason for claim in claims(AS_CLAIMED) for part in claim.parts)
    for figure in (
        "66.",
        "2.60 times the mean",
        "3.40 times after",
        "16,000 bytes",
        "1.40 ms [1.30 ms to 1.50 ms in 3 repeats] with the database",
        "80.0%",
    ):
        assert figure in words
    assert "0 of 481 reads before the kill, 0.0%; at most 0.6% with 95 % confidence" in words


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        (2, {"crowding__sticky": SPREAD}),
        (3, {"crowding__all_to_all": CROWDED}),
        (3, {"growth__all_to_all__n8": {"memory": 2100.0, "network": 5000.0}}),
        (4, {"load__database__busy": {"store_p50": 0.2}}),
        (4, {"work__database__64_at_once": {"store_p50": 1.7, "work_cpu": 600.0}}),
        (4, {"work__database__64_at_once": {"store_p50": 30.0, "work_cpu": 40.0}}),
        (5, {"load__database__busy": {"store_p50": 0.2}}),
        (5, {"consistency__redis": {"lost_updates": 0.001, "revived": 0.0}}),
        (5, {"consistency__redis": {"lost_updates": 0.0, "revived": 0.1}}),
        (5, {"crowding__redis": CROWDED}),
        (6, {"layout__redis__10kB": {"network": 25_000.0}}),
        (6, {"layout__redis__10kB_at_once": {"lost_updates": 0.01}}),
        (6, {"layout__redis_value__10kB_at_once": {"lost_updates": 0.0, "revived": 1.0}}),
    ],
)
def test_each_claim_can_be_refuted(claim: int, changes: dict[str, object]) -> None:
    assert answers(but(**changes))[claim - 1] == "does not hold"


def test_a_claim_about_an_architecture_that_was_not_measured_is_not_decided() -> None:
    only_redis = {key: value for key, value in AS_CLAIMED.items() if key[1].startswith("redis")}
    found = claims(only_redis, carts=("redis",))
    assert [claim.answer for claim in found] == ["not decided"] * 5 + ["holds"]
    assert found[2].parts[0].reason == "the architecture 'all-to-all' was not measured in this run"


def test_two_figures_within_chance_of_one_another_decide_nothing() -> None:
    assert answers(but(layout__redis__10kB={"network": 19_500.0}))[5] == "not decided"


OVERLAPPING = [{"store_p50": 30.0, "work_cpu": spent} for spent in (50.0, 80.0, 200.0)]


def test_repeats_that_overlap_decide_nothing_for_another_run_might_say_the_opposite() -> None:
    """The medians are 80 against 64 µs, and yet a run on another day may find the opposite."""
    claim = claims(but(work__database__64_at_once=OVERLAPPING))[3]
    assert claim.answer == "not decided"
    part = next(part for part in claim.parts if "processor time" in part.text)
    assert "80 µs [50 µs to 200 µs in 3 repeats] of web server and database" in part.reason, "each spread has an owner"
    assert part.reason.endswith("64 µs [60 µs to 160 µs in 3 repeats] with Redis; the repeats overlap")


def test_one_repeat_that_a_neighbour_spoilt_does_not_leave_a_claim_open() -> None:
    nine = [{"store_p50": 30.0, "work_cpu": spent} for spent in (600.0, 610.0, 620.0, 630.0, 640.0, 650.0, 660.0, 50.0)]
    assert answers(but(work__database__64_at_once=nine))[3] == "holds"


def test_carts_that_never_come_back_refute_the_first_claim() -> None:
    """A store per server, but all requests go to the others: gone, and never seen again."""
    figures = check(perfect("local"))
    assert figures.reappeared > 0
    gone = msgspec.structs.replace(figures, reappeared=0)
    verdicts = judge_carts(ARCHITECTURES["local"], figures, PLAN.servers)
    assert judge(Evidence({"local": (gone, verdicts)}, []))[0].answer == "does not hold"


def test_none_of_a_few_says_what_may_still_be_true() -> None:
    """By the rule of three: none of 20 may be one of seven."""
    figures = {"lost_updates": 0.0, "updates": 120.0, "revived": 0.0, "logouts": 20.0}
    reasons = [part.reason for part in claims(but(consistency__redis=figures))[4].parts]
    assert "none of 120 changes; at most 2.5% with 95 % confidence" in reasons
    assert "none of 20 logouts; at most 15.0% with 95 % confidence" in reasons


def whole(database: tuple[float, ...], redis: tuple[float, ...]) -> str:
    """What is said of the fourth claim when whole requests took so many milliseconds."""
    made = dict(AS_CLAIMED)
    for name, values in (("database", database), ("redis", redis)):
        rounds = AS_CLAIMED["load", name, "busy"]
        assert isinstance(rounds, list)
        made["load", name, "busy"] = [one | {"whole_p50": ms} for one, ms in zip(rounds, values, strict=True)]
    return claims(made)[3].note


def test_what_people_would_not_notice_is_said_beside_the_claim() -> None:
    overlapping = whole((1.9, 3.0, 3.8), (2.1, 2.4, 2.8))
    assert "3.00 ms [1.90 ms to 3.80 ms in 3 repeats] with the database" in overlapping
    assert "the repeats overlap. People would not notice" in overlapping
    assert "apart. People would not notice" in whole((4.0, 5.0, 6.0), (1.0, 2.0, 3.0))
    assert "would not notice" not in whole((140.0, 150.0, 160.0), (1.0, 2.0, 3.0))


def test_what_speaks_for_the_other_side_is_said_beside_a_claim() -> None:
    found = claims(
        but(growth__all_to_all__n2={"network": 480.0, "memory": 4000.0}, growth__redis__n2={"network": 1400.0},
            growth__redis__n8={"network": 1400.0}, layout__redis__10kB={"network": 10_700.0, "memory": 1500.0},
            layout__redis_value__10kB={"network": 19_800.0, "memory": 1300.0})
    )  # fmt: skip
    assert found[2].note.startswith(
        "With 2 servers it moves less than a store does. Per request 480 bytes with 2 servers"
    )
    assert "A session of 10 kB takes 1,500 bytes of memory as a hash, 1,300 as one value." in found[5].note
    dear = claims(
        but(growth__all_to_all__n8={"network": 5000.0, "memory": 16_000.0}, growth__redis__n8={"network": 1400.0})
    )
    assert "moves less" not in dear[2].note
