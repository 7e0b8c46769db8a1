"""From samples to figures; and faults, planted in real shops, that have to be found."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest
from msgspec import structs

from coatcheck.changes import Applied, Changes
from coatcheck.errors import SessionGone
from coatcheck.lab import run as running
from coatcheck.lab import samples, summary, verdicts
from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.claims import Evidence, Measured, judge
from coatcheck.lab.display import PlainDisplay
from coatcheck.lab.driver import Driver
from coatcheck.lab.errors import HistoryFault
from coatcheck.lab.measures import durations, figures, percentile, tails
from coatcheck.lab.messages import Enough, LoadJob, head_start, line
from coatcheck.lab.samples import Burst, Fault, Finished, Logout, Race, Sample
from coatcheck.lab.settings import Settings
from coatcheck.lab.stopping import StopRequests
from coatcheck.stores.memory import AsyncMemoryStore

from .shops import SERVERS, drive, measurement, reading, shop, visit

# --- times ----------------------------------------------------------------------------------------------------------


def test_a_percentile_is_a_time_that_so_many_did_not_exceed() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.5, 0.99, 0.999, 1)] == [50, 99, 100, 100]
    assert percentile([], 0.5) == 0


def test_a_stall_is_seen_by_everyone_who_would_have_come() -> None:
    """The server stands still for a second; arrivals do not wait, and each of them waits."""
    visits = [visit(at / 100, took=max(0.002, 2.0 - at / 100) if 100 <= at < 200 else 0.002) for at in range(1000)]
    assert figures(measurement(visits))["whole_p50"] == pytest.approx(2)
    assert tails([measurement(visits)])["whole_p99"] > 800, (
        "a generator that waits for answers would have seen one slow request"
    )


def test_session_work_is_what_the_web_server_measured_and_failures_are_none() -> None:
    visits = [visit(at / 10, store_us=200) for at in range(90)] + [visit(9.5, status=503, store_us=9_000_000)] * 10
    entries = measurement(visits)
    assert max(durations(entries)["store"]) == pytest.approx(0.2)
    assert figures(entries)["errors"] == pytest.approx(0.1)


def test_a_percentile_is_left_out_where_a_handful_of_requests_would_make_it() -> None:
    """Ten have to be beyond it: 1,000 requests for the 99th, 10,000 for the 99.9th, over all rounds together."""
    rounds = [measurement([visit(at / 100) for at in range(333)]) for _ in range(3)]
    assert tails(rounds) == {}
    one_more = measurement([visit(10.0)])
    assert set(tails([*rounds, one_more])) == {"store_p99", "whole_p99"}
    assert "store_p999" in tails([*rounds, one_more] * 10)
    assert not {"store_p99", "store_p999"} & figures(rounds[0]).keys()


def test_a_percentile_of_too_few_requests_is_not_shown_and_the_notation_says_how_many_it_takes() -> None:
    few = Measured(
        experiment="load", architecture="redis", case="busy", files=[], rounds=[figures(measurement([visit()]))]
    )
    assert summary.cell(few, "whole_p50") == "2.00 ms"
    assert (
        summary.cell(few, "whole_p999")
        == summary.cell(few, "memory")
        == summary.cell(None, "memory")
        == summary.MISSING
    )
    assert "a 99th percentile takes 1,000 of all rounds together, a 99.9th 10,000" in summary.NOTATION
    assert summary.case_table("busy", [few], ["whole_p50", "whole_p999"])[1][0] == ["whole request, median", "2.00 ms"]
    assert "99.9th" not in str(summary.case_table("busy", [few], ["whole_p50", "whole_p999"]))


def test_the_slowest_requests_are_marked_where_the_generator_was_late_and_nothing_else_is() -> None:
    rounds = [{"whole_p50": 2.0, "samples": 600.0, "lag": lag} for lag in (1.0, 40.0)]
    late = Measured(
        experiment="load", architecture="redis", case="busy", files=[], rounds=rounds, tails={"whole_p99": 40.0},
        warnings=verdicts.generator_warnings(rounds),
    )  # fmt: skip
    assert late.warnings == ["up to 40 ms late (p99)"]
    assert summary.cell(late, "whole_p99") == "40.0 ms †"
    assert summary.cell(late, "whole_p50") == "2.00 ms"
    assert summary.cell(late, "lag", spread=True) == "20.5 ms [1.00 ms to 40.0 ms]"
    assert summary.cell(late, "samples") == "1,200 in 2 rounds", "a percentile is one of all rounds"
    assert verdicts.generator_warnings([{"lag": 9.0}]) == []


def test_people_who_begin_their_sessions_beforehand_are_not_measured() -> None:
    assert figures(measurement([visit(-1.0, took=5.0), visit(1.0)]))["samples"] == 1


# --- load, faults ----------------------------------------------------------------------------------------------------


def test_a_crowd_on_one_server_is_counted_against_the_mean_of_all() -> None:
    before = [visit(at / 100, server="web-1" if at % 5 else SERVERS[at % 3]) for at in range(500)]
    after = [visit(6 + at / 100, server="web-1" if at % 5 else SERVERS[at % 3]) for at in range(300)]
    found = figures(measurement([*before, *after], Fault("add web-4", 5.2, 5.8)))
    assert found["load"] == pytest.approx(2.6, abs=0.05)
    assert found["load_after"] == pytest.approx(3.47, abs=0.05), "the new server counts, and has nothing to do"
    assert found["newcomer"] == 0


def test_a_new_server_that_takes_its_turn_is_seen() -> None:
    turns = [visit(at / 100, server=f"web-{at % (3 if at < 300 else 4) + 1}") for at in range(700)]
    found = figures(measurement(turns, Fault("add web-4", 2.995, 2.999)))
    assert found["load"] == found["load_after"] == 1
    assert found["newcomer"] == 0.25


def test_a_session_is_lost_if_it_was_known_before_a_fault_and_never_again() -> None:
    visits = [visit(at / 10, user=at % 10) for at in range(50)]
    visits += [visit(8 + at / 100, user=at % 10, known=at % 10 >= 3) for at in range(40)]
    found = figures(measurement(visits, Fault("restart", 5.1, 7.9)))
    assert found["lost_sessions"] == pytest.approx(0.3)
    assert found["gap"] == pytest.approx(8 - 4.9)


def test_a_user_who_was_found_once_more_or_hardly_came_again_has_not_lost_anything() -> None:
    known_later = [visit(1, user=1), visit(8, user=1, known=False), visit(9, user=1)]
    came_once = [visit(1, user=2), visit(8, user=2, known=False)]
    assert figures(measurement(known_later + came_once, Fault("kill", 5, 6)))["lost_sessions"] == 0


# --- meters ----------------------------------------------------------------------------------------------------------


def test_costs_are_what_the_meters_counted_more_divided_by_requests() -> None:
    visits = [visit(at / 10) for at in range(100)]
    before = reading("before", cpu=1.0, kept=0, network=(1000, 2000))
    after = reading("after", cpu=1.01, kept=0, network=(11_000, 22_000))
    found = figures(measurement(visits, before, after))
    assert found["web_cpu"] == pytest.approx(300)  # µs: three servers, 10 ms each, 100 requests
    assert found["store_cpu"] == found["balancer_cpu"] == pytest.approx(100)
    assert found["network"] == pytest.approx(3 * 30_000 / 100)


def test_between_web_servers_a_byte_is_counted_once_and_not_at_both_ends() -> None:
    meters = reading("before"), reading("after", network=(10_000, 10_000))
    assert figures(measurement([visit()], *meters))["network"] == 30_000


def test_meters_that_counted_more_than_the_samples_say_nothing() -> None:
    meters = reading("before", kept=0), reading("after", cpu=1.0, kept=0)
    with_races = figures(measurement([visit()], *meters, Race(0, ("a",), (), ({"a": 1},))))
    assert "web_cpu" not in with_races
    assert "web_cpu" not in figures(measurement([visit()], *meters, Fault("kill", 1, 2)))


def test_memory_is_what_web_servers_and_store_took_more() -> None:
    """Of those, the store alone where there is one: web servers then grow and shrink for reasons of their own."""
    found = figures(measurement([], reading("empty"), reading("filled", memory=1000), stored=10))
    assert found["memory"] == 300
    found = figures(measurement([], reading("empty", kept=100), reading("filled", memory=1000, kept=7100), stored=10))
    assert found["memory"] == 700


def test_session_work_by_itself_is_divided_by_pieces_of_work_and_not_by_requests() -> None:
    before, after = reading("before", kept=0), reading("after", kept=0, cpu=0.01, network=(400, 600))
    after.cpu["web-1"] = 0.05  # this one did the work, the others were told
    found = figures(
        [*measurement([])[:-1], before, Burst("visit", 64, 0.2, (100, 300, 200, 400)), after, Finished(1, 0.2, 0)]
    )
    assert found["store_p50"] == pytest.approx(0.2)
    assert found["work_cpu"] == pytest.approx((0.05 + 0.01 + 0.01 + 0.01) / 4 * 1e6)
    assert found["peer_cpu"] == pytest.approx(0.01 / 4 * 1e6)
    assert found["network"] == pytest.approx(3 * 1000 / 4)


def test_what_goes_on_while_nobody_comes_is_counted_per_second() -> None:
    before, after = reading("before"), structs.replace(reading("after", cpu=0.02, network=(500, 500)), at=2.0)
    found = figures([*measurement([])[:-1], before, Burst("idle", 1, 2.0, ()), after, Finished(1, 2.0, 0)])
    assert found == {"idle_network": 750, "idle_cpu": pytest.approx(30_000)}


# --- races -----------------------------------------------------------------------------------------------------------


def test_each_look_at_a_cart_counts_and_what_had_no_answer_does_not() -> None:
    races = [
        Race(0, ("a", "b"), ("c",), ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1})),
        Race(1, ("a", "b"), (), ({"a": 1}, None)),
    ]
    found = figures(measurement([], *races)[:-1])
    assert found["lost_updates"] == pytest.approx(1 / 6)
    assert found["updates"] == 4


def test_a_logout_that_was_not_acknowledged_in_time_is_not_judged() -> None:
    logouts = [
        Logout(0, True, 409, (False, False)),
        Logout(1, True, 200, (False, True)),
        Logout(2, False, 200, (True,)),
    ]
    found = figures(measurement([], *logouts)[:-1])
    assert found["revived"] == 0.5
    assert found["logouts"] == 2


# --- files of samples ------------------------------------------------------------------------------------------------


def test_samples_of_which_a_line_is_missing_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "load-1.jsonl"
    samples.append(file, measurement([visit(at) for at in range(5)]))
    assert len(samples.read(file)) == 7
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(HistoryFault, match="incomplete or was changed: 4 samples, 5 written"):
        samples.read(file)
    file.write_bytes(b'["sample", 1]\n')
    with pytest.raises(HistoryFault, match="cannot be read"):
        samples.read(file)


# --- planted faults --------------------------------------------------------------------------------------------------


class OneInAThousand(AsyncMemoryStore):
    """A store that says yes to every write, and drops one in a thousand."""

    def __init__(self) -> None:
        super().__init__()
        self._writes = 0

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        self._writes += 1
        if self._writes % 1000 == 0:
            record = await self.read(session_id)
            if record is None:
                raise SessionGone(session_id)
            return Applied(record.version + 1, record.touched_ms, dict.fromkeys(changes.increments, 1))
        return await super().update(session_id, changes, timeout=timeout)


@pytest.mark.parametrize(("store", "answer"), [(OneInAThousand, "does not hold"), (AsyncMemoryStore, "holds")])
def test_a_store_that_drops_one_write_in_a_thousand_is_found_out(
    tmp_path: Path, store: type[AsyncMemoryStore], answer: str
) -> None:
    with shop(store()) as port:
        found = figures(
            drive(LoadJob(port=port, file=str(tmp_path / "races"), users=70, races=70, at_once=15, looks=2))
        )
    assert found["updates"] == 1050
    assert (found["lost_updates"] > 0) is (answer == "does not hold")
    measured = Measured(experiment="consistency", architecture="redis", case="", rounds=[found], files=[])
    claim = judge(Evidence({}, [measured]))[4]
    assert next(part for part in claim.parts if "no change is lost" in part.text).answer == answer


def test_a_balancer_that_ignores_stickiness_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real parts: HAProxy takes turns, where the architecture says that it pins people."""
    from rich.console import Console

    forgetful = dataclasses.replace(ARCHITECTURES["sticky"], balancing="round-robin")
    monkeypatch.setitem(ARCHITECTURES, "sticky", forgetful)
    settings = Settings(only=("sticky",), shoppers=40, rate=170, seconds=4, runs=tmp_path / "runs", experiments=False)
    with StopRequests() as stop:
        found = running.run(settings, PlainDisplay(Console(quiet=True)), stop)
    first = found.architectures[0].verdicts[0]
    assert (first.claim, first.answer) == ("before the kill none of the reads show a wrong cart", "does not hold")
    assert not found.held


class Slow(Driver):
    """A load generator that needs 20 ms for each request."""

    async def _visit(self, browser: object, scheduled: float, write: bool | None) -> None:
        if write is not None:
            time.sleep(0.02)
        await super()._visit(browser, scheduled, write)  # type: ignore[arg-type]


def test_a_generator_that_is_too_slow_is_found_out(tmp_path: Path) -> None:
    with shop(AsyncMemoryStore()) as port:
        job = LoadJob(port=port, file=str(tmp_path / "slow"), users=5, rate=100, seconds=1.5)
        found = figures(drive(job, Slow))
    assert "late (p99)" in verdicts.generator_warnings([found])[0]
    assert found["rate"] < 80, "it did not do what was asked of it"


def test_nobody_comes_any_more_when_it_is_enough(tmp_path: Path) -> None:
    """A fault lasts as long as it lasts: the generator is told when it is over, and not for how long to send people."""
    ours, theirs = os.pipe()
    with shop(AsyncMemoryStore()) as port, os.fdopen(ours, "rb") as orders, os.fdopen(theirs, "wb") as lab:
        job = LoadJob(port=port, file=str(tmp_path / "enough"), users=5, rate=50, seconds=600)
        threading.Timer(head_start(5) + 0.3, lambda: os.write(lab.fileno(), line(Enough(at=1.0)))).start()
        entries = drive(job, orders=orders)
    due = [sample.scheduled for sample in entries if isinstance(sample, Sample)]
    assert max(due) == pytest.approx(1.0, abs=0.021)


def test_the_generator_keeps_its_own_time_in_a_shop_that_answers(tmp_path: Path) -> None:
    with shop(AsyncMemoryStore()) as port:
        entries = drive(LoadJob(port=port, file=str(tmp_path / "fine"), users=10, rate=50, seconds=1, write_share=0.5))
    visits = [entry for entry in entries if isinstance(entry, Sample)]
    assert len(visits) == 10 + 50
    assert [sample.kind for sample in visits[:10]] == ["begin"] * 10
    assert all(sample.status == 200 and sample.known and sample.store_calls for sample in visits)
    assert 10 < sum(sample.kind == "write" for sample in visits) < 40
    assert figures(entries)["errors"] == 0
