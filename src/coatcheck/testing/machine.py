"""Random histories of sessions, held against a plain model of what a store must do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule
from msgspec import structs

from coatcheck.changes import Applied, Changes, NewRecord, Renewal
from coatcheck.errors import CoatcheckError, Conflict, NotACounter, OutcomeUnknown, SessionExists, SessionGone
from coatcheck.record import Record
from coatcheck.stores.interface import AsyncOwnerIndex, AsyncStore
from coatcheck.testing.model import Expected, Outcome
from coatcheck.ticket import Ticket, new_operation_id

_REFUSALS: dict[type[CoatcheckError], Outcome] = {
    SessionGone: "gone",
    Conflict: "conflict",
    NotACounter: "not a counter",
    OutcomeUnknown: "unknown",
}
SHORT, LONG = 60, 3_600_000
Asked: TypeAlias = tuple[str, Changes]
Key: TypeAlias = Literal["present", "previous", "some old one", "a stranger's"]

_names = st.one_of(
    st.sampled_from(("user", "hits", "cart", "cart[a]", "cart[b]", "carts[a]", "cart[a", "lang")),
    st.sampled_from((" ", "é", "名前", "🧥", "'", "\n", "\x00", "%a+", "*", "[", "[]", "]", "version", "id")),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).filter(lambda name: not name.startswith("@")),
)
_integers = st.one_of(st.integers(-3, 3), st.sampled_from((2**63 - 1, 2**63 - 2, -(2**63), -(2**63) + 1, 2**53 + 1)))
_values = st.one_of(
    _integers.map(str),
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(("1.0", "01", "+1", " 1", "1e3", "-0", "true", "null", "[1]", "", "9223372036854775808")),
)
_actions = st.dictionaries(
    _names,
    st.one_of(
        st.tuples(st.just("set"), _values),
        st.tuples(st.just("increment"), _integers),
        st.tuples(st.just("delete"), st.none()),
    ),
    max_size=4,
)
_retain = st.one_of(st.none(), st.none(), st.none(), st.lists(_names, max_size=3, unique=True).map(tuple))
_lifetimes = st.sampled_from((LONG, LONG, LONG, LONG, SHORT, 2 * SHORT))
_no_or_lifetime = st.one_of(st.none(), st.none(), _lifetimes)
_people = st.sampled_from((None, None, "ann", "bob é*"))
_renewals = st.sampled_from((None, None, "asked for", "asked for, with grace", "periodic", "periodic, outdated"))
_keys: st.SearchStrategy[Key] = st.sampled_from(
    ("present", "present", "present", "present", "previous", "some old one", "a stranger's")
)


class StoreMachine(RuleBasedStateMachine):
    """Creates, reads, changes and ends sessions at random, and compares every answer with a model.

    The contract suites run it. To run it by itself, subclass it so that it needs no arguments, and hand the class to
    `hypothesis.stateful.run_state_machine_as_test`.

    The store's clock may move on between two calls. Each call is made between two moments that the store has told, and
    where its outcome depends on which moment in between it was, either is right.

    Args:
        open_store: opens a store. Called in the loop that the machine runs.
        pass_time: lets some milliseconds pass by the store's clock.
    """

    def __init__(
        self,
        open_store: Callable[[], Coroutine[Any, Any, AsyncStore]],
        pass_time: Callable[[int], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__()
        self._open_store = open_store
        self._pass_time = pass_time
        self._loop = asyncio.Runner()
        self._model: dict[str, Expected] = {}
        self._run = new_operation_id()  # makes owners' names this run's own
        self._now = 0  # the latest time that the store has told

    sessions = Bundle("sessions")
    asked: Bundle[Asked] = Bundle("asked")
    created: Bundle[NewRecord] = Bundle("created")

    @initialize()
    def open(self) -> None:
        self._loop.run(self._open())

    async def _open(self) -> None:
        self._store = await self._open_store()
        # A session that nothing else touches: reading it tells the store's time.
        self._watch = _new_record({}, 100 * LONG, None, None)
        self._now = (await self._store.create(self._watch)).touched_ms

    def teardown(self) -> None:
        try:
            if hasattr(self, "_store"):
                self._loop.run(self._store.close())
        finally:
            self._loop.close()

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(
        target=created,
        fields=st.dictionaries(_names, _values, max_size=4),
        idle=_lifetimes,
        absolute=_no_or_lifetime,
        person=_people,
    )
    def begin(self, fields: dict[str, str], idle: int, absolute: int | None, person: str | None) -> NewRecord:
        new = _new_record(fields, idle, absolute, self._owner(person))
        self._loop.run(self._create(new))
        return new

    @rule(new=created)
    def begin_again_with_the_same_operation(self, new: NewRecord) -> None:
        if not self._model[new.session_id].deleted:
            self._loop.run(self._create(new))

    @rule(new=created, fields=st.dictionaries(_names, _values, max_size=2))
    def begin_with_an_id_that_is_taken(self, new: NewRecord, fields: dict[str, str]) -> None:
        if not self._model[new.session_id].deleted:
            self._loop.run(self._create(_new_record(fields, LONG, None, self._owner("ann"), session_id=new.session_id)))

    @rule(new=created)
    def look(self, new: NewRecord) -> None:
        self._loop.run(self._look(new.session_id))

    @rule(
        target=asked,
        new=created,
        key=_keys,
        actions=_actions,
        retain=_retain,
        idle=_lifetimes,
        absolute=_no_or_lifetime,
        person=_people,
        renewal=_renewals,
        behind=st.sampled_from((0, 0, 0, 1, 8, 9, 20)),
        unchanged=st.sampled_from((False, False, True)),
        retry=st.sampled_from((False, False, True)),
    )
    def commit(
        self,
        new: NewRecord,
        key: Key,
        actions: dict[str, tuple[str, Any]],
        retain: tuple[str, ...] | None,
        idle: int,
        absolute: int | None,
        person: str | None,
        renewal: str | None,
        behind: int,
        unchanged: bool,
        retry: bool,
    ) -> Asked:
        expected = self._model[new.session_id]
        changes = Changes(
            proof=self._secret(expected, key),
            idle_ms=idle,
            operation=new_operation_id(),
            read_version=max(0, expected.version - behind),
            retry=retry,
            unchanged=unchanged,
            retain=retain,
            sets={name: value for name, (kind, value) in actions.items() if kind == "set"},
            deletes=tuple(name for name, (kind, _) in actions.items() if kind == "delete"),
            increments={name: value for name, (kind, value) in actions.items() if kind == "increment"},
            renewal=self._renewal(expected, renewal),
            owner=self._owner_to_name(expected, person),
            absolute_ms=absolute,
        )
        self._loop.run(self._update(new.session_id, changes))
        return new.session_id, changes

    @rule(new=created, names=st.lists(_names, min_size=1, max_size=3, unique=True), addend=st.integers(-2, 2))
    def count(self, new: NewRecord, names: list[str], addend: int) -> None:
        """What most commits are like: the present secret, and nothing in the way. Makes versions grow."""
        expected = self._model[new.session_id]
        for _ in range(4):
            changes = Changes(
                proof=self._model[new.session_id].secret,
                idle_ms=expected.idle,
                operation=new_operation_id(),
                read_version=expected.version,
                increments=dict.fromkeys(names, addend),
                owner=self._owner_to_name(expected, None),
            )
            self._loop.run(self._update(new.session_id, changes))

    @rule(one=asked)
    def ask_again(self, one: Asked) -> None:
        session_id, changes = one
        self._loop.run(self._update(session_id, changes.again()))

    @rule(target=asked, new=created, key=_keys, idle=_lifetimes, renewal=_renewals)
    def touch(self, new: NewRecord, key: Key, idle: int, renewal: str | None) -> Asked:
        expected = self._model[new.session_id]
        changes = Changes(
            proof=self._secret(expected, key),
            idle_ms=idle,
            renewal=self._renewal(expected, renewal),
            owner=self._owner_to_name(expected, None),
        )
        self._loop.run(self._update(new.session_id, changes))
        return new.session_id, changes

    @rule(new=created, parts=st.lists(st.dictionaries(_names, _values, max_size=2), min_size=2, max_size=6))
    def commit_at_once(self, new: NewRecord, parts: list[dict[str, str]]) -> None:
        """Commits side by side must come out as if they had come one after the other, in the order of their versions."""
        self._loop.run(self._rush(new.session_id, parts))

    @precondition(lambda self: len(self._model) > 1)
    @rule(new=created)
    def end(self, new: NewRecord) -> None:
        self._loop.run(self._delete(new.session_id))

    # No rule's precondition may ask what time it is, because hypothesis repeats what it did.
    @precondition(lambda self: len(self._model) > 1)
    @rule(late=st.sampled_from((-1, 0, 1, None)))
    def wait(self, late: int | None) -> None:
        """Until about the moment when a session, or the grace of a secret, ends; or just a little."""
        end = self._next_end()
        ms = 1 if late is None or end is None else end + late - self._now
        self._loop.run(self._pass_time(max(0, ms)))

    def _next_end(self) -> int | None:
        """When the next session or grace ends, if that is soon."""
        alive = [expected for expected in self._model.values() if expected.alive(self._now)]
        ends = [expected.ends for expected in alive] + [expected.previous_until for expected in alive]
        return min((end for end in ends if self._now < end <= self._now + 2 * SHORT), default=None)

    @precondition(lambda self: len(self._model) > 1)
    @rule(person=st.sampled_from(("ann", "bob é*")))
    def list_sessions(self, person: str) -> None:
        self._loop.run(self._list(person))

    # --- how it is judged --------------------------------------------------------------------------------------------

    async def _create(self, new: NewRecord) -> None:
        expected = self._model.get(new.session_id)
        early = self._now
        answer: Applied | SessionExists
        try:
            answer = await self._store.create(new)
        except SessionExists as refused:
            answer = refused
        record, late = await self._read(new.session_id)
        free = {expected is None or not expected.alive(now) for now in (early, late)}
        known = expected is not None and new.operation in expected.operations
        if isinstance(answer, SessionExists):
            assert answer.session_id == new.session_id
            assert False in free, "refused an id that is free"
            assert not known, "did not know its own create again"
        elif expected is not None and known and _bare(answer) == Applied(expected.version, expected.touched):
            assert False in free, "knew a session that has ended"
        else:
            assert True in free, "a repeated create changed something" if known else "gave out an id that is taken"
            assert early <= answer.touched_ms <= late
            assert _bare(answer) == Applied(1, answer.touched_ms)
            self._model[new.session_id] = Expected.from_new(new, answer.touched_ms)
        self._judge_record(new.session_id, record, late)

    async def _look(self, session_id: str) -> None:
        self._judge_record(session_id, *await self._read(session_id))

    async def _read(self, session_id: str) -> tuple[Record | None, int]:
        """What the store says of a session, and a time at which this was so."""
        record = await self._store.read(session_id)
        if record is None:
            await self._time()
        else:
            assert record.read_at_ms >= self._now, "the store's clock went back"
            self._now = record.read_at_ms
        return record, self._now

    async def _time(self) -> int:
        """The store's time, by way of a session that is there for nothing else."""
        record, now = await self._read(self._watch.session_id)
        assert record is not None
        return now

    def _judge_record(self, session_id: str, record: Record | None, now: int) -> None:
        expected = self._model[session_id]
        if record is None:
            assert not expected.alive(now), "lost"
            self._model[session_id] = replace(expected, deleted=True)  # and absent it must stay
            return
        assert expected.alive(now), "came back" if expected.deleted else "outlived its end"
        assert now < record.expires_ms
        got = (record.session_id, record.version, record.owner, record.operations)
        assert got == (session_id, expected.version, expected.owner, "".join(expected.operations))
        times = (record.created_ms, record.renewed_ms, record.touched_ms, record.idle_ms, record.deadline_ms)
        assert times == (expected.created, expected.renewed, expected.touched, expected.idle, expected.deadline)
        assert record.fields == expected.fields
        assert record.secret_hash == expected.secret
        for secret in (*expected.secrets, _secret()):
            assert record.accepts(secret, now) == expected.opens(secret, now)

    async def _update(self, session_id: str, changes: Changes) -> None:
        early = self._now
        answer = await self._ask(session_id, changes)
        record, late = await self._read(session_id)
        self._judge_commit(session_id, changes, answer, early, late)
        self._judge_record(session_id, record, late)

    async def _ask(self, session_id: str, changes: Changes) -> Applied | CoatcheckError:
        try:
            return await self._store.update(session_id, changes)
        except tuple(_REFUSALS) as refusal:
            return refusal

    def _judge_commit(
        self, session_id: str, changes: Changes, answer: Applied | CoatcheckError, early: int, late: int
    ) -> None:
        expected = self._model[session_id]
        possible = {expected.commit(changes, now)[0] for now in (early, late)}
        if isinstance(answer, CoatcheckError):
            assert _REFUSALS[type(answer)] in possible
            if isinstance(answer, NotACounter):
                assert answer.field in changes.increments
            else:
                assert getattr(answer, "session_id", None) == session_id
            return
        assert possible & {"applied", "repeated"}, f"applied, where the model says {possible}"
        after = expected
        if "repeated" not in possible:
            assert early <= answer.touched_ms <= late
            outcome, after = expected.commit(changes, answer.touched_ms)
            assert outcome == "applied"
        renewed = changes.renewal is not None and changes.renewal.secret_hash == after.secret
        assert (answer.version, answer.touched_ms, answer.renewed) == (after.version, after.touched, renewed)
        assert dict(answer.counters) == after.counters(changes.increments)
        self._model[session_id] = after

    async def _rush(self, session_id: str, parts: list[dict[str, str]]) -> None:
        expected = self._model[session_id]
        commits = [
            Changes(
                proof=expected.secret,
                idle_ms=expected.idle,
                operation=new_operation_id(),
                read_version=expected.version,
                sets=part,
                increments={} if "rush" in part else {"rush": 1},
                owner=self._owner_to_name(expected, None),
            )
            for part in parts
        ]
        early = self._now
        answers = await asyncio.gather(*(self._ask(session_id, commit) for commit in commits))
        record, late = await self._read(session_id)
        applied = [each for each in zip(commits, answers, strict=True) if isinstance(each[1], Applied)]
        for commit, answer in sorted(applied, key=lambda each: cast(Applied, each[1]).version):
            self._judge_commit(session_id, commit, answer, early, late)
        for answer in answers:
            if isinstance(answer, NotACounter):
                # Some text in "rush" was no counter; whether it was there before or after others is not to be told.
                texts = {expected.fields.get("rush", "0"), *(part.get("rush", "0") for part in parts)}
                assert not texts <= {"0", "1", "2", "3"}
            elif isinstance(answer, CoatcheckError):
                assert isinstance(answer, SessionGone)
                assert not expected.alive(late)
        self._judge_record(session_id, record, late)

    async def _delete(self, session_id: str) -> None:
        expected = self._model[session_id]
        early = self._now
        existed = await self._store.delete(session_id)
        record, late = await self._read(session_id)
        assert existed in (expected.alive(early), expected.alive(late))
        self._model[session_id] = replace(expected, deleted=True)
        self._judge_record(session_id, record, late)

    async def _list(self, person: str) -> None:
        if not isinstance(self._store, AsyncOwnerIndex):
            return
        owner = self._owner(person)
        early = self._now
        found = await self._store.sessions_of(str(owner))
        late = await self._time()
        touched = [record.touched_ms for record in found]
        assert touched == sorted(touched, reverse=True)
        records = {record.session_id: record for record in found}
        assert len(records) == len(found)
        for session_id, expected in self._model.items():
            if session_id in records:
                assert expected.owner == owner
                record = records.pop(session_id)
                assert early <= record.read_at_ms <= late
                self._judge_record(session_id, record, record.read_at_ms)
            else:
                assert expected.owner != owner or not expected.alive(late), "not listed"
        assert not records, "somebody else's session"

    # --- what is asked for -------------------------------------------------------------------------------------------

    def _owner(self, person: str | None) -> str | None:
        return None if person is None else f"{person} {self._run}"

    def _owner_to_name(self, expected: Expected, person: str | None) -> str | None:
        """The owner for a commit: a session without a deadline names its owner in every one (see `Changes.owner`)."""
        return self._owner(person) or (expected.owner if expected.deadline is None else None)

    @staticmethod
    def _secret(expected: Expected, key: Key) -> str:
        if key == "present":
            return expected.secret
        if key == "previous":
            return expected.previous or expected.secrets[0]
        if key == "some old one":
            return expected.secrets[0]
        return _secret()

    @staticmethod
    def _renewal(expected: Expected, kind: str | None) -> Renewal | None:
        if kind is None:
            return None
        grace_ms = 0 if kind == "asked for" else SHORT
        replaces = {"periodic": expected.secret, "periodic, outdated": expected.secrets[0]}.get(kind)
        return Renewal(secret_hash=_secret(), grace_ms=grace_ms, replaces=replaces)


def _new_record(
    fields: dict[str, str], idle_ms: int, absolute_ms: int | None, owner: str | None, *, session_id: str | None = None
) -> NewRecord:
    return NewRecord(
        session_id=session_id or Ticket.new().session_id,
        secret_hash=_secret(),
        fields=fields,
        idle_ms=idle_ms,
        absolute_ms=absolute_ms,
        owner=owner,
        operation=new_operation_id(),
    )


def _secret() -> str:
    return Ticket.new().secret_hash


def _bare(answer: Applied) -> Applied:
    """Without the freshness token, which is the store's own business."""
    return structs.replace(answer, seen="")
