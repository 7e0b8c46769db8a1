"""Planning beyond one machine: sums that can be done by hand."""

from __future__ import annotations

import pytest

from coatcheck.lab.errors import UsageError
from coatcheck.lab.model import Check, Constants, Question, parse_amount, parse_bytes
from coatcheck.lab.planning import question

LARGE = Question(users=50e6, requests=200e3, session=4000, servers=40, write_share=0.2, shard_memory=16e9)


def constants(*, copies: bool = False, shared: bool = False) -> Constants:
    return Constants(overhead=500, network=400, web_cpu=500e-6, store_cpu=100e-6, copies=copies, shared=shared)


@pytest.mark.parametrize(
    ("text", "amount"), [("50M", 50e6), ("200k", 200e3), ("1.5B", 1.5e9), ("7", 7), ("1,000", 1000), ("2_000", 2000)]
)
def test_amounts_are_written_as_people_write_them(text: str, amount: float) -> None:
    assert parse_amount(text) == amount


def test_a_store_beside_the_servers_has_one_copy_and_is_read_whole() -> None:
    assert constants(shared=True).memory(LARGE) == 50e6 * 4500
    assert constants(shared=True).traffic(LARGE) == 200e3 * 4400


def test_all_to_all_has_a_copy_per_server_and_tells_every_other_of_every_change() -> None:
    assert constants(copies=True).memory(LARGE) == 40 * 50e6 * 4500
    assert constants(copies=True).traffic(LARGE) == pytest.approx(200e3 * 0.2 * 39 * 400)


def test_a_store_per_server_has_one_copy_and_no_traffic() -> None:
    assert constants().memory(LARGE) == 50e6 * 4500
    assert constants().traffic(LARGE) == 0


def test_an_error_is_a_share_of_what_was_measured() -> None:
    assert Check(what="memory", predicted=90, measured=100).error == pytest.approx(0.1)


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
