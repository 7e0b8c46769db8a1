"""The plan: who comes when. And the settings that it is made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from coatcheck.lab.errors import UsageError
from coatcheck.lab.plan import Plan, cart_of, mark, reads_needed, visits_needed
from coatcheck.lab.settings import QUICK_RATE, QUICK_SECONDS, QUICK_SHOPPERS, Settings, chosen, enough_shoppers

from .worlds import PLAN


def test_the_same_seed_gives_the_same_traffic_and_another_seed_another() -> None:
    assert list(PLAN.arrivals()) == list(PLAN.arrivals())
    other = Plan(shoppers=60, rate=150.0, seconds=8.0, kill_at=4.0, servers=3, seed=2)
    assert list(PLAN.arrivals()) != list(other.arrivals())


def test_arrivals_are_spread_evenly_and_wait_for_nobody() -> None:
    times = [arrival.scheduled for arrival in PLAN.arrivals()]
    assert len(times) == PLAN.count == 1200
    assert all(later - earlier == pytest.approx(1 / 150) for earlier, later in pairwise(times))


def test_everybody_comes_equally_often_and_fills_the_cart_first() -> None:
    visits: dict[int, list[str]] = defaultdict(list)
    for arrival in PLAN.arrivals():
        visits[arrival.shopper].append(arrival.kind)
    assert len(visits) == PLAN.shoppers
    assert {len(kinds) for kinds in visits.values()} == {20}
    assert {kinds[0] for kinds in visits.values()} == {"fill"}


def test_nobody_is_in_step_with_a_balancer_that_takes_turns() -> None:
    """With a fixed order, each of 60 shoppers would always meet the same one of 3 servers."""
    met: dict[int, Counter[int]] = defaultdict(Counter)
    for number, arrival in enumerate(PLAN.arrivals()):
        met[arrival.shopper][number % 3] += 1
    assert all(len(servers) == 3 for servers in met.values())


def test_after_the_kill_everybody_looks_often_enough_before_filling_again() -> None:
    after: dict[int, list[str]] = defaultdict(list)
    for arrival in PLAN.arrivals():
        if arrival.scheduled >= PLAN.kill_at:
            after[arrival.shopper].append(arrival.kind)
    enough = reads_needed(PLAN.servers)
    assert all(kinds[:enough] == ["read"] * enough for kinds in after.values())
    assert any("fill" in kinds[enough:] for kinds in after.values())


@pytest.mark.parametrize("servers", [2, 3, 4, 8, 16])
def test_reads_after_the_kill_suffice_to_meet_every_server_left(servers: int) -> None:
    left, reads = servers - 1, reads_needed(servers)
    assert reads >= 8
    assert left * (1 - 1 / left) ** reads <= 0.0101


def test_a_cart_tells_whose_it_is_and_how_old() -> None:
    carts = {(shopper, generation): cart_of(1, shopper, generation) for shopper in range(30) for generation in range(5)}
    for (shopper, generation), cart in carts.items():
        assert cart
        assert all(article.endswith("-" + mark(shopper, generation)) for article in cart)
    assert len({tuple(sorted(cart.items())) for cart in carts.values()}) == len(carts)


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_defaults_and_the_quick_run_can_work() -> None:
    Settings().check()
    Settings(shoppers=QUICK_SHOPPERS, rate=QUICK_RATE, seconds=QUICK_SECONDS).check()


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        (Settings(servers=1), "--servers 1"),
        (Settings(servers=17), "--servers 17"),
        (Settings(shoppers=0), "--shoppers 0"),
        (Settings(rate=0), "--rate 0"),
        (Settings(rate=float("nan")), "--rate nan"),
        (Settings(seconds=-5), "--seconds -5"),
        (Settings(seconds=float("inf")), "--seconds inf"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_to_use_instead(settings: Settings, option: str) -> None:
    with pytest.raises(UsageError, match=rf"^{option}: out of range .*\. Use [\d,.]+ to [\d,.]+\.$"):
        settings.check()


def test_a_run_too_short_to_decide_anything_is_refused_and_each_remedy_works() -> None:
    short = Settings(shoppers=1000, seconds=30)
    with pytest.raises(UsageError) as refused:
        short.check()
    assert "--seconds 30: at --rate 200, each of 1000 shoppers comes 6.0 times" in str(refused.value)
    assert "Use --seconds 85, or --rate 567, or --shoppers 352." in str(refused.value)
    for change in ({"seconds": 85}, {"rate": 567}, {"shoppers": 352}):
        remedy = msgspec.structs.replace(short, **change)
        remedy.check()
        assert remedy.plan.count / remedy.shoppers >= visits_needed(remedy.servers, 0.5)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (Settings(shoppers=20, rate=150, seconds=1), "Use --seconds 3, or --rate 340."),
        (Settings(shoppers=300, rate=1, seconds=3600), "Use --rate 2, or --shoppers 211."),
        (Settings(shoppers=100_000, rate=20_000, seconds=1), "Use --seconds 85, or --shoppers 1176."),
        (Settings(shoppers=100_000, rate=1, seconds=1), "No one option mends that: use fewer shoppers, and more"),
    ],
)
def test_no_remedy_is_offered_that_was_given_or_is_out_of_range(settings: Settings, advice: str) -> None:
    with pytest.raises(UsageError) as refused:
        settings.check()
    assert advice in str(refused.value)


@pytest.mark.parametrize("servers", range(2, 17))
def test_any_number_of_servers_works_with_the_other_settings_left_alone(servers: int) -> None:
    """More servers take more visits per shopper to tell what is lost, so there are fewer shoppers."""
    shoppers = enough_shoppers(150, rate=200, seconds=30, servers=servers)
    Settings(servers=servers, shoppers=shoppers, seconds=30).check()
    assert shoppers == 150 if servers <= 4 else 25 < shoppers < 150


def test_architectures_are_chosen_one_by_one_or_with_commas() -> None:
    assert chosen([]) == ("local", "sticky", "all-to-all", "redis", "database")
    assert chosen(["redis", "local"]) == ("redis", "local")
    assert chosen(["redis, local", "redis"]) == ("redis", "local")


@pytest.mark.parametrize("name", ["galaxy", "", "local,,redis"])
def test_an_unknown_architecture_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(UsageError, match=r"no such architecture\. Choose from local, sticky, all-to-all, redis"):
        chosen([name])


def test_a_password_in_the_redis_url_is_not_kept(tmp_path: Path) -> None:
    from coatcheck.lab.results import collect, this_machine, to_json

    settings = Settings(redis_url="redis://ann:hunter2@127.0.0.1:6379/0")
    kept = to_json(collect(tmp_path, settings, this_machine({}), "2026-01-01", [], complete=False))
    assert b"hunter2" not in kept
    assert b"redis://***@127.0.0.1:6379/0" in kept
