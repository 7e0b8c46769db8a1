"""The checker: what it makes of a clean history, and which planted faults it catches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coatcheck.lab import history
from coatcheck.lab.checker import READS_TO_DECIDE, check, owner_of
from coatcheck.lab.errors import HistoryFault
from coatcheck.lab.history import Ended, Entry, Killed, Operation, Started
from coatcheck.lab.plan import cart_of

from .worlds import PLAN, TAKES, VICTIM, change, is_, nth_read, operations, perfect

AFTER_KILL = PLAN.kill_at


# --- clean histories ------------------------------------------------------------------------------------------------


def test_one_store_for_all_shows_no_wrong_cart_and_loses_nothing() -> None:
    figures = check(perfect("redis"))
    assert figures.in_all.wrong == figures.before_kill.wrong == 0
    assert figures.in_all.kinds == {}
    assert figures.errors == 0
    assert (figures.sessions.lost, figures.sessions.undecided) == (0, 0)
    assert figures.sessions.survived > 0.8 * PLAN.shoppers


def test_a_store_per_server_shows_the_wrong_cart_on_all_servers_but_one() -> None:
    figures = check(perfect("local"))
    assert figures.before_kill.share == pytest.approx(2 / 3, abs=0.06)
    assert figures.sessions.share == pytest.approx(1 / 3, abs=0.15)
    assert set(figures.in_all.kinds) == {"empty"}


def test_sticky_sessions_lose_exactly_those_of_the_killed_server() -> None:
    entries = perfect("sticky")
    on_victim = {
        operation.shopper
        for operation in operations(entries)
        if operation.pinned == VICTIM and operation.kind == "read" and operation.scheduled < AFTER_KILL
    }
    figures = check(entries)
    assert figures.before_kill.wrong == 0
    assert 0 < figures.sessions.lost <= len(on_victim)
    assert figures.sessions.lost == sum(_was_at_risk(entries, shopper) for shopper in on_victim)


def test_every_operation_is_counted_once() -> None:
    entries = perfect("redis")
    figures = check(entries)
    assert figures.operations == PLAN.count == figures.reads + figures.fills
    assert figures.in_all.count == figures.reads
    assert sum(figures.requests_by_server.values()) == PLAN.count
    assert list(figures.requests_by_server) == ["web-1", "web-2", "web-3"]
    assert figures.rate == PLAN.rate
    assert figures.latency.p50 == figures.latency.max == pytest.approx(TAKES * 1000)
    assert figures.lag.max == 0
    assert figures.generator_cpu == 1.0 / PLAN.seconds


# --- a cart read wrong ----------------------------------------------------------------------------------------------


def test_one_wrong_cart_among_a_thousand_is_caught() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 100)
    missing_one = dict(list(read.expected[0].items())[1:]) | {f"cane-s{read.shopper}-g{read.generation}": 99}
    figures = check(change(entries, is_(read), seen=missing_one, right=False))
    assert figures.in_all.wrong == figures.before_kill.wrong == 1
    assert figures.in_all.kinds == {"other": 1}


def test_an_empty_cart_is_caught() -> None:
    entries = perfect("redis")
    figures = check(change(entries, is_(nth_read(entries, 3)), seen={}, owner=None, right=False))
    assert figures.in_all.kinds == {"empty": 1}


def test_a_stale_cart_is_caught() -> None:
    entries = perfect("redis")
    read = next(op for op in operations(entries) if op.kind == "read" and op.generation == 2)
    earlier = cart_of(PLAN.seed, read.shopper, 1)
    figures = check(change(entries, is_(read), seen=earlier, right=False))
    assert figures.in_all.kinds == {"stale": 1}


def test_somebody_elses_cart_is_caught() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 50)
    neighbour = (read.shopper + 1) % PLAN.shoppers
    figures = check(change(entries, is_(read), seen=cart_of(PLAN.seed, neighbour, 1), right=False))
    assert figures.in_all.kinds == {"foreign": 1}


def test_somebody_elses_session_is_caught_even_if_the_cart_is_right() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 50)
    figures = check(change(entries, is_(read), owner=owner_of((read.shopper + 1) % PLAN.shoppers), right=False))
    assert figures.in_all.kinds == {"foreign": 1}


def test_shopper_1_is_not_mistaken_for_shopper_10() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 0, shopper=1)
    figures = check(change(entries, is_(read), seen=cart_of(PLAN.seed, 10, 1), right=False))
    assert figures.in_all.kinds == {"foreign": 1}


def test_a_wrong_cart_after_the_kill_is_not_counted_before_it() -> None:
    entries = perfect("redis")
    figures = check(change(entries, is_(nth_read(entries, 5, after=AFTER_KILL)), seen={}, owner=None, right=False))
    assert (figures.before_kill.wrong, figures.in_all.wrong) == (0, 1)


def test_a_read_under_way_during_the_kill_is_neither_before_nor_after() -> None:
    entries = perfect("redis")
    last = [op for op in operations(entries) if op.kind == "read" and op.scheduled < AFTER_KILL - 0.01][-1]
    before = check(entries).before_kill.count
    figures = check(change(entries, is_(last), completed=AFTER_KILL + 0.01))
    assert figures.before_kill.count == before - 1


# --- fills without an answer ----------------------------------------------------------------------------------------


def test_after_a_fill_without_answer_either_cart_is_right_until_one_was_seen() -> None:
    entries = perfect("redis")
    fill = next(op for op in operations(entries) if op.kind == "fill" and op.generation == 2)
    reads = [op for op in operations(entries) if op.shopper == fill.shopper and op.generation == 2 and op.seen]
    assert len(reads) >= 3
    old, new = cart_of(PLAN.seed, fill.shopper, 1), fill.expected[0]
    entries = change(entries, is_(fill), outcome="error", status=None, error="timeout", server=None, owner=None)
    entries = change(entries, is_(reads[0]), expected=(old, new), seen=old)
    entries = change(entries, is_(reads[1]), expected=(old, new), seen=new)
    figures = check(entries)
    assert figures.in_all.wrong == 0
    assert figures.error_kinds == {"timeout": 1}

    # The new cart has been seen: to see the old one again is going back in time.
    figures = check(change(entries, is_(reads[2]), seen=old, right=False))
    assert figures.in_all.kinds == {"stale": 1}


# --- a lost session -------------------------------------------------------------------------------------------------


def _was_at_risk(entries: list[Entry], shopper: int) -> bool:
    """By another road than the checker's: the last thing before the kill was a right read."""
    before = [op for op in operations(entries) if op.shopper == shopper and op.scheduled < AFTER_KILL]
    return before[-1].kind == "read"


def _empty_after_kill(entries: list[Entry], shopper: int) -> list[Entry]:
    """From the kill until the shopper's next fill, every read shows an empty cart."""
    theirs = [op for op in operations(entries) if op.shopper == shopper and op.scheduled >= AFTER_KILL]
    until = next((op.id for op in theirs if op.kind == "fill"), PLAN.count)
    ids = {op.id for op in theirs if op.id < until}
    return change(entries, lambda op: op.id in ids, seen={}, owner=None, right=False)


def _someone_at_risk(entries: list[Entry]) -> int:
    return next(shopper for shopper in range(PLAN.shoppers) if _was_at_risk(entries, shopper))


def test_one_lost_session_is_caught() -> None:
    entries = perfect("redis")
    figures = check(_empty_after_kill(entries, _someone_at_risk(entries)))
    assert figures.sessions.lost == 1
    assert figures.sessions.at_risk == check(entries).sessions.at_risk


def test_a_session_read_right_once_after_the_kill_is_not_lost() -> None:
    entries = perfect("redis")
    shopper = _someone_at_risk(entries)
    spoiled = _empty_after_kill(entries, shopper)
    read = nth_read(entries, 4, after=AFTER_KILL, shopper=shopper)
    figures = check(change(spoiled, is_(read), seen=read.seen, owner=read.owner, right=True))
    assert figures.sessions.lost == 0


def test_an_answer_to_a_request_sent_during_the_kill_decides_nothing() -> None:
    """The server may have given it with its last breath."""
    entries = perfect("redis")
    shopper = _someone_at_risk(entries)
    spoiled = _empty_after_kill(entries, shopper)
    first = nth_read(entries, 0, after=AFTER_KILL, shopper=shopper)
    spoiled = change(spoiled, is_(first), seen=first.seen, owner=first.owner, right=True)
    assert check(spoiled).sessions.lost == 0
    longer = [
        msgspec.structs.replace(entry, done=first.sent + 0.001) if isinstance(entry, Killed) else entry
        for entry in spoiled
    ]
    assert check(longer).sessions.lost == 1


def test_a_session_that_was_gone_before_the_kill_is_not_lost_to_it() -> None:
    entries = perfect("redis")
    shopper = _someone_at_risk(entries)
    entries = _empty_after_kill(entries, shopper)
    generation = nth_read(entries, 0, after=AFTER_KILL, shopper=shopper).generation
    entries = change(
        entries,
        lambda op: op.shopper == shopper and op.generation == generation and op.kind == "read",
        seen={}, owner=None, right=False,
    )  # fmt: skip
    assert check(entries).sessions.lost == 0


def test_a_session_with_too_few_reads_after_the_kill_is_undecided() -> None:
    entries = perfect("redis")
    shopper = _someone_at_risk(entries)
    spoiled = _empty_after_kill(entries, shopper)
    late = nth_read(entries, READS_TO_DECIDE - 1, after=AFTER_KILL, shopper=shopper).id
    failed = change(
        spoiled,
        lambda op: op.shopper == shopper and op.kind == "read" and op.id >= late and not op.right,
        outcome="error", status=503, error="http 503", server=None, seen=None, right=None,
    )  # fmt: skip
    sessions = check(failed).sessions
    assert (sessions.lost, sessions.undecided) == (0, 1)


def test_a_session_not_sought_on_every_server_left_is_undecided_unless_shoppers_are_pinned() -> None:
    entries = perfect("redis")
    shopper = _someone_at_risk(entries)
    spoiled = _empty_after_kill(entries, shopper)
    one_sided = change(spoiled, lambda op: op.shopper == shopper and op.scheduled >= AFTER_KILL, server="web-1")
    sessions = check(one_sided).sessions
    assert (sessions.lost, sessions.undecided) == (0, 1)

    assert isinstance(one_sided[0], Started)
    one_sided[0] = msgspec.structs.replace(one_sided[0], sticky=True)
    assert check(one_sided).sessions.lost == 1


# --- errors and latency ---------------------------------------------------------------------------------------------


def test_a_failed_request_is_an_error_and_not_a_wrong_cart() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 7)
    figures = check(
        change(entries, is_(read), outcome="error", status=502, error="http 502", server=None, seen=None, right=None)
    )
    assert figures.errors == 1
    assert figures.error_kinds == {"http 502": 1}
    assert figures.in_all.wrong == 0
    assert figures.in_all.count == figures.reads - 1


def test_an_invented_error_is_caught() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="said to have failed, but has an answer"):
        check(change(entries, is_(nth_read(entries, 7)), outcome="error"))


def test_a_hidden_error_is_caught() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="said to have gone well"):
        check(change(entries, is_(nth_read(entries, 7)), status=500))


def test_waiting_for_a_turn_counts_as_latency_and_not_as_lag() -> None:
    """A shopper who is due while the previous request hangs waits, and that is the servers' fault."""
    entries = perfect("redis")
    visits = [[op for op in operations(entries) if op.shopper == shopper] for shopper in range(PLAN.shoppers)]
    first, second = next((all_[3], all_[4]) for all_ in visits if all_[5].scheduled > all_[4].scheduled + 0.41)
    hangs_until = second.scheduled + 0.4
    entries = change(entries, is_(first), completed=hangs_until)
    entries = change(entries, is_(second), sent=hangs_until, completed=hangs_until + TAKES)
    figures = check(entries)
    assert figures.latency.max == pytest.approx((hangs_until - first.scheduled) * 1000, abs=0.01)
    assert figures.lag.max == pytest.approx(0, abs=0.01)
    assert figures.latency.p999 is None, "1,200 requests say nothing about the 999th of a thousand"

    alone = check(change(entries, is_(first), completed=first.sent + TAKES))
    assert alone.latency.max == pytest.approx((0.4 + TAKES) * 1000, abs=0.01)
    assert alone.service.max == pytest.approx(TAKES * 1000, abs=0.01)


def test_a_generator_that_came_late_is_found_out() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 9)
    figures = check(change(entries, is_(read), sent=read.scheduled + 0.3, completed=read.scheduled + 0.302))
    assert figures.lag.max == pytest.approx(300, abs=0.1)
    assert figures.latency.max == pytest.approx(302, abs=0.1)


def test_percentiles_are_times_that_were_measured() -> None:
    entries = [
        msgspec.structs.replace(entry, completed=entry.sent + (entry.id + 1) / 1e6)
        if isinstance(entry, Operation)
        else entry
        for entry in perfect("redis")
    ]
    latency = check(entries).latency
    assert (latency.p50, latency.p90, latency.p99, latency.max) == (0.6, 1.08, 1.188, 1.2)


# --- histories that cannot be true ----------------------------------------------------------------------------------


def test_a_history_without_its_end_is_refused() -> None:
    with pytest.raises(HistoryFault, match="no end"):
        check(perfect("redis")[:-1])


def test_a_history_without_the_kill_is_refused() -> None:
    with pytest.raises(HistoryFault, match="no kill"):
        check([entry for entry in perfect("redis") if not isinstance(entry, Killed)])


def test_a_history_without_its_beginning_is_refused() -> None:
    with pytest.raises(HistoryFault, match="no beginning"):
        check(perfect("redis")[1:])


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(HistoryFault, match="no beginning"):
        check([])


def test_a_history_with_an_operation_taken_out_is_refused() -> None:
    entries = perfect("local")
    wrong = next(op for op in operations(entries) if op.right is False)
    with pytest.raises(HistoryFault, match=f"1 operations are missing: {wrong.id}"):
        check([entry for entry in entries if entry != wrong])


def test_a_history_with_its_tail_cut_and_a_new_end_is_refused() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="1200 operations were planned, the generator wrote 1190, 1190 are here"):
        check([*entries[:-11], Ended(operations=PLAN.count - 10, elapsed=PLAN.seconds, cpu=1.0)])


def test_a_history_with_an_operation_twice_is_refused() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="operation 0 is there 2 times"):
        check([*entries, entries[1]])


def test_a_wrong_read_made_to_look_right_is_caught() -> None:
    entries = perfect("local")
    wrong = next(op for op in operations(entries) if op.right is False)
    with pytest.raises(HistoryFault, match="found it right, the checker does not"):
        check(change(entries, is_(wrong), right=True))


def test_a_wrong_read_whose_expectation_was_changed_is_caught() -> None:
    entries = perfect("local")
    wrong = next(op for op in operations(entries) if op.right is False)
    with pytest.raises(HistoryFault, match="expected another cart than the shopper's fills say"):
        check(change(entries, is_(wrong), expected=({},), right=True))


def test_an_answer_from_the_dead_is_caught() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="after it was killed"):
        check(change(entries, is_(nth_read(entries, 9, after=AFTER_KILL)), server=VICTIM))


def test_an_answer_from_an_unknown_server_is_caught() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="no server of this run"):
        check(change(entries, is_(nth_read(entries, 9)), server="web-9"))


def test_two_requests_of_one_shopper_at_once_are_caught() -> None:
    entries = perfect("redis")
    second = nth_read(entries, 1, shopper=5)
    with pytest.raises(HistoryFault, match="before the shopper's previous request was back"):
        check(change(entries, is_(nth_read(entries, 0, shopper=5)), completed=second.sent + 0.1))


def test_times_out_of_order_are_caught() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 1)
    with pytest.raises(HistoryFault, match="in this order"):
        check(change(entries, is_(read), completed=read.sent - 0.001))


def test_an_arrival_moved_to_make_it_look_faster_is_caught() -> None:
    entries = perfect("redis")
    read = nth_read(entries, 1)
    with pytest.raises(HistoryFault, match="was due at"):
        check(change(entries, is_(read), scheduled=read.scheduled + 0.001, sent=read.sent + 0.001))


def test_only_the_first_faults_are_listed() -> None:
    entries = perfect("redis")
    with pytest.raises(HistoryFault, match="and 1190 more"):
        check(change(entries, lambda op: True, server="web-9"))


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_history_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    entries = perfect("local")
    writer = history.Writer(tmp_path / history.FILE)
    writer.write(entries[:10])
    writer.write(entries[10:])
    writer.close()
    assert history.read(tmp_path / history.FILE) == entries


def test_a_history_cut_off_in_the_middle_of_a_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / history.FILE
    writer = history.Writer(file)
    writer.write(perfect("redis"))
    writer.close()
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(HistoryFault, match="line 1203: cut off"):
        history.read(file)


@pytest.mark.parametrize("line", [b"{}\n", b"not json\n", b'{"type":"operation","id":"7"}\n', b"\xff\n"])
def test_a_line_that_is_no_entry_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / history.FILE).write_bytes(line)
    with pytest.raises(HistoryFault, match="line 1: not an entry"):
        history.read(tmp_path / history.FILE)


def test_a_history_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryFault, match="cannot be read"):
        history.read(tmp_path / history.FILE)
