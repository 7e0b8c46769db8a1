"""Merging copies of a session: the laws, and that nothing is lost. Pure: no socket, no waiting."""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from coatcheck.changes import Changes, Renewal
from coatcheck.errors import CoatcheckError, SessionExists, SessionGone, StoreFull
from coatcheck.record import Record, apply, created
from coatcheck.stores.replicated.merge import LogicalClock, State, condensed, fingerprint, join, record_of, shifted
from coatcheck.stores.replicated.replica import News, Replica
from coatcheck.testing import a_commit, a_record

HOUR = 3_600_000
NAMES = ("hits", "user", "cart[a]", "cart[b]", "x")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


def a_replica(node: str, clock: Clock, **but: Any) -> Replica:
    usual: dict[str, Any] = {"max_sessions": 1000, "max_bytes": 1 << 30, "max_message": 1 << 21, "remember_ms": HOUR}
    return Replica(store="replicated://test", node=node, clock=clock, **(usual | but))


def state_of(replica: Replica, session_id: str) -> State:
    [news], _ = replica.news_of([session_id], 1 << 30)
    assert news.state is not None
    return news.state


# --- the laws ---------------------------------------------------------------------------------------------------------

_actions = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        st.tuples(st.just("set"), st.integers(-9, 9).map(str)),
        st.tuples(st.just("increment"), st.integers(-3, 3)),
        st.tuples(st.just("delete"), st.none()),
    ),
    max_size=3,
)
_steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # who
        _actions,
        st.sampled_from((None, None, None, (), ("cart",))),  # what is retained
        st.sampled_from((None, None, None, "login", "periodic")),
        st.sampled_from((None, None, "ann", "bob")),
        st.booleans(),  # whether he has heard what the others did before
        st.integers(0, 5),  # milliseconds that pass
    ),
    min_size=1,
    max_size=12,
)


class Three:
    """Three copies of one session, of which each does some of the steps, and hears of the others' now and then."""

    def __init__(self, steps: list[Any]) -> None:
        self.clock = Clock()
        self.replicas = [a_replica(f"node-{n}", self.clock) for n in range(3)]
        self.new = a_record(fields={"hits": "5"}, absolute_ms=HOUR)
        _, birth = self.replicas[0].create(self.new)
        assert birth is not None
        self._told: list[tuple[int, News]] = [(self.clock.now, birth)]
        for replica in self.replicas[1:]:
            replica.learn([birth])
        for who, actions, retain, renewal, owner, hears, passes in steps:
            self.clock.now += passes
            replica = self.replicas[who]
            if hears:
                replica.clock.see(max(other.clock.reading for other in self.replicas))
                replica.learn(self.news)
            present = replica.read(self.new.session_id)
            assert present is not None
            changes = a_commit(
                self.new,
                proof=present.secret_hash,
                retain=retain,
                sets={name: value for name, (kind, value) in actions.items() if kind == "set"},
                deletes=tuple(name for name, (kind, _) in actions.items() if kind == "delete"),
                increments={name: value for name, (kind, value) in actions.items() if kind == "increment"},
                renewal=self._renewal(renewal),
                owner=owner,
            )  # fmt: skip
            told, _ = apply(present, changes, self.new.session_id, self.clock.now)
            _, news = replica.update(self.new.session_id, changes)
            assert news is not None
            self._told.append((self.clock.now, news))
            self.check_alike(replica, told)

    def _renewal(self, kind: str | None) -> Renewal | None:
        grace_ms = HOUR if kind == "periodic" else 0
        return None if kind is None else Renewal(secret_hash=f"{len(self._told):044}", grace_ms=grace_ms)

    @property
    def news(self) -> list[News]:
        """All that was told, as if it had been on its way for no time."""
        told = [(news.session_id, news.state, at - self.clock.now) for at, news in self._told]
        return [News(session_id, state and shifted(state, age)) for session_id, state, age in told]

    def check_alike(self, replica: Replica, told: Record) -> None:
        """What a copy shows after a commit is what the store contract says, and so is what it is made of."""
        shown = replica.read(self.new.session_id)
        made = record_of(self.new.session_id, shifted(state_of(replica, self.new.session_id), self.clock.now))
        assert shown is not None
        for record in (shown, made):
            record.read_at_ms = told.read_at_ms
            assert record == told

    @property
    def states(self) -> list[State]:
        whole = [state_of(replica, self.new.session_id) for replica in self.replicas]
        return [*whole, *(news.state for news in self.news if news.state is not None)]


@given(_steps)
def test_merging_is_commutative_associative_and_idempotent(steps: list[Any]) -> None:
    states = Three(steps).states[:7]
    for one in states:
        assert join(one, one) == one
        for other in states:
            assert join(one, other) == join(other, one)
            assert join(join(one, other), other) == join(one, other)
            for third in states:
                assert join(join(one, other), third) == join(one, join(other, third))


@given(_steps)
def test_a_state_from_elsewhere_is_kept_with_one_object_for_what_is_equal_in_it(steps: list[Any]) -> None:
    for state in Three(steps).states:
        kept = condensed(msgpack.decode(msgpack.encode(state), type=State))
        assert kept == state
        stamps = [cell.stamp for cell in kept.cells.values()] + [stamp for stamp, _ in kept.operations]
        assert len({id(stamp) for stamp in stamps}) == len(set(stamps))


@given(_steps, st.randoms(use_true_random=False))
def test_copies_that_saw_the_same_are_equal_in_whatever_order_and_however_often(steps: list[Any], chance: Any) -> None:
    three = Three(steps)
    for replica in three.replicas:
        news = [each for each in three.news for _ in range(chance.choice((1, 1, 2)))]
        chance.shuffle(news)
        for each in news:
            replica.learn([each])
    states = [state_of(replica, three.new.session_id) for replica in three.replicas]
    assert all(state == states[0] for state in states)
    assert states[0] == reduce(join, three.states)
    assert len({replica.digest for replica in three.replicas}) == 1
    record = three.replicas[0].read(three.new.session_id)
    assert record is not None
    for replica in three.replicas[1:]:
        assert replica.read(three.new.session_id) == record


@given(_steps)
def test_what_travels_comes_back_the_same(steps: list[Any]) -> None:
    for state in Three(steps).states:
        assert msgpack.decode(msgpack.encode(state), type=State) == state
        assert shifted(shifted(state, 12_345), -12_345) == state
        assert fingerprint("id", shifted(state, 7)) == fingerprint("id", state), "times are each server's own"


# --- nothing is lost --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(NAMES), st.integers(-5, 5)), max_size=20))
def test_increments_on_different_servers_add_up(increments: list[tuple[int, str, int]]) -> None:
    three = Three([(0, {}, None, None, None, False, 0)])
    news = []
    for who, name, addend in increments:
        _, told = three.replicas[who].update(three.new.session_id, a_commit(three.new, increments={name: addend}))
        assert told is not None
        news.append(told)
    for replica in three.replicas:
        replica.learn([*three.news, *news, *news])
        record = replica.read(three.new.session_id)
        assert record is not None
        for name in NAMES:
            total = sum(addend for _, counted, addend in increments if counted == name)
            assert int(record.fields.get(name, "0")) == total + (5 if name == "hits" else 0)
        assert record.version == 2 + len(increments)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_different_fields_and_entries_set_on_different_servers_all_survive(who_sets: list[int]) -> None:
    three = Three([(0, {}, None, None, None, False, 0)])
    news = []
    for number, who in enumerate(who_sets):
        commit = a_commit(three.new, sets={f"cart[{number}]": str(number)})
        told = three.replicas[who].update(three.new.session_id, commit)[1]
        assert told is not None
        news.append(told)
    for replica in three.replicas:
        replica.learn(news)
        record = replica.read(three.new.session_id)
        assert record is not None
        assert record.fields == {"hits": "5"} | {f"cart[{number}]": str(number) for number in range(len(who_sets))}


def test_of_two_that_set_one_field_the_later_wins_even_between_servers_that_do_not_hear_each_other() -> None:
    three = Three([(0, {}, None, None, None, False, 0)])
    one, other, _ = three.replicas
    for _ in range(50):  # a busy server's clock must not run ahead of a quiet one's
        one.clock.stamp()
    three.clock.now += 100
    early = one.update(three.new.session_id, a_commit(three.new, sets={"x": '"early"'}))[1]
    three.clock.now += 100
    late = other.update(three.new.session_id, a_commit(three.new, sets={"x": '"late"'}))[1]
    assert early is not None
    assert late is not None
    for order in permutations((early, late)):
        reader = a_replica("reader", three.clock)
        reader.learn([*three.news, *order])
        record = reader.read(three.new.session_id)
        assert record is not None
        assert record.fields["x"] == '"late"'


def test_a_login_ends_what_was_written_with_the_old_secret_elsewhere() -> None:
    three = Three([(0, {}, None, None, None, False, 0)])
    here, there, _ = three.replicas
    login = a_commit(three.new, retain=("hits",), renewal=Renewal(secret_hash="new" * 10), owner="ann")
    logged_in = here.update(three.new.session_id, login)[1]
    planted = there.update(
        three.new.session_id, a_commit(three.new, sets={"user": '"mallory"'}, increments={"hits": 1})
    )[1]
    assert logged_in is not None
    assert planted is not None
    for replica, news in ((here, planted), (there, logged_in)):
        replica.learn([news])
        record = replica.read(three.new.session_id)
        assert record is not None
        assert (record.fields, record.owner, record.secret_hash) == ({"hits": "5"}, "ann", "new" * 10)
        assert not record.accepts(three.new.secret_hash, record.read_at_ms)
    try:
        there.update(three.new.session_id, a_commit(three.new))
    except SessionGone:
        return
    raise AssertionError("the old secret still writes")


# --- deletion wins, and is remembered ---------------------------------------------------------------------------------


def test_nothing_revives_a_deleted_session_while_its_deletion_is_remembered() -> None:
    three = Three([(0, {"x": ("set", "1")}, None, None, None, False, 0)])
    here, there, _ = three.replicas
    gone = here.delete(three.new.session_id)[1]
    late = there.update(three.new.session_id, a_commit(three.new, increments={"hits": 1}))[1]
    assert gone is not None
    assert late is not None
    whole = News(three.new.session_id, state_of(there, three.new.session_id))
    for order in permutations((gone, late, whole)):
        reader = a_replica("reader", three.clock)
        reader.learn([*three.news, *order])
        assert reader.read(three.new.session_id) is None
        three.clock.now += 1
        reader.learn([whole])
        assert reader.read(three.new.session_id) is None
        assert len(reader) == 0
    try:
        here.create(three.new)
    except SessionExists:
        return
    raise AssertionError("an id was used again")


def test_logouts_that_are_remembered_take_room_that_somebody_waits_for() -> None:
    """Or whoever logs in and out all the time would fill the server's memory with them."""
    clock = Clock()
    replica = a_replica("node", clock, max_bytes=100_000)
    made = 0

    def log_in_and_out() -> None:
        nonlocal made
        new = a_record()
        replica.create(new)
        assert replica.delete(new.session_id)[0], "logging out always works"
        made += 1

    with pytest.raises(StoreFull, match="max_bytes=100000"):
        while made < 1000:
            log_in_and_out()
    assert 100 < made < 300
    clock.now += HOUR
    replica.sweep()
    replica.create(a_record())


def test_a_deletion_is_forgotten_after_its_time_and_takes_no_room_then() -> None:
    clock = Clock()
    replica = a_replica("node", clock)
    empty = replica.digest
    new = a_record()
    replica.create(new)
    replica.delete(new.session_id)
    assert replica.digest != empty
    clock.now += HOUR
    replica.sweep()
    assert replica.digest == empty
    assert not replica._deleted
    assert not replica._ends


def test_memory_does_not_grow_with_sessions_that_come_and_go() -> None:
    clock = Clock()
    replica = a_replica("node", clock)
    for number in range(3000):
        new = a_record(idle_ms=1000, owner=f"user-{number}")
        replica.create(new)
        replica.update(new.session_id, a_commit(new, sets={"n": "1"}))
        clock.now += 10
        replica.sweep()
    assert len(replica) <= 101
    assert len(replica._ends) < 500
    clock.now += 1000
    replica.sweep()
    assert (len(replica), replica.bytes, replica._owners, replica._ends) == (0, 0, {}, [])


def test_a_counter_does_not_grow_with_every_process_that_ever_added_to_it_once_its_user_logs_in() -> None:
    clock = Clock()
    new = a_record()
    replica = a_replica("node-0", clock)
    replica.create(new)
    for number in range(1, 30):  # as after so many deploys
        another = a_replica(f"node-{number}", clock)
        another.learn(replica.news_of([new.session_id], 1 << 30)[0])
        another.update(new.session_id, a_commit(new, increments={"hits": 1}))
        replica = another
    state = state_of(replica, new.session_id)
    assert len(state.cells["hits"].adds or ()) == len(state.commits) == 29
    login = a_commit(new, renewal=Renewal(secret_hash="x" * 44), retain=("hits",))
    replica.update(new.session_id, login)
    state = state_of(replica, new.session_id)
    assert (state.cells["hits"].adds, state.cells["hits"].text, state.commits) == (None, "29", {})


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_times_travel_as_durations_so_clocks_an_hour_apart_do_not_matter() -> None:
    here, there = Clock(), Clock()
    there.now += 3 * HOUR
    one, other = a_replica("one", here), a_replica("other", there)
    new = a_record(idle_ms=10_000, absolute_ms=60_000)
    news = one.create(new)[1]
    assert news is not None
    here.now += 100
    there.now += 100
    other.learn([news])
    record = other.read(new.session_id)
    assert record is not None
    assert record.expires_ms == there.now + 10_000
    assert record.deadline_ms == there.now + 60_000
    there.now += 9_999
    assert other.read(new.session_id) is not None
    there.now += 1
    assert other.read(new.session_id) is None


def test_repeating_news_prolongs_nothing() -> None:
    clock = Clock()
    one, other = a_replica("one", clock), a_replica("other", clock)
    new = a_record(idle_ms=10_000)
    news = one.create(new)[1]
    assert news is not None
    for _ in range(12):
        other.learn([news])  # which says each time: touched just now
        clock.now += 1000
    assert other.read(new.session_id) is None


def test_a_logical_clock_is_ahead_of_all_that_it_has_seen_and_never_goes_back() -> None:
    wall = Clock()
    clock = LogicalClock("node", wall)
    before = clock.stamp()
    clock.see(1_000_000)
    after = clock.stamp()
    assert before < (1_000_000, "zzz") < after
    wall.now -= HOUR
    assert clock.stamp() > after
    assert clock.reading >= clock.stamp()[0] - 1


def test_a_created_session_is_what_the_contract_says() -> None:
    clock = Clock()
    replica = a_replica("node", clock)
    new = a_record(fields={"a": "1"}, owner="ann", absolute_ms=HOUR)
    replica.create(new)
    assert replica.read(new.session_id) == created(new, clock.now)


def test_a_refused_commit_leaves_a_copy_as_it_was() -> None:
    three = Three([(0, {"user": ("set", "1")}, None, None, None, False, 0)])
    replica = three.replicas[0]
    before = replica.digest
    refused = [
        a_commit(three.new, proof="x" * 44),
        a_commit(three.new, unchanged=True, read_version=1),
        Changes(proof=three.new.secret_hash, idle_ms=1, operation="12345678", increments={"hits": 2**63 - 1}),
    ]
    for changes in refused:
        try:
            replica.update(three.new.session_id, changes)
        except CoatcheckError:
            assert replica.digest == before
        else:
            raise AssertionError(f"{changes} was not refused")
