"""Whatever handlers do to their sessions, the store ends up with what a plain dict would hold; others' changes included."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coatcheck.changes import Changes, NewRecord
from coatcheck.errors import NotACounter, SessionGone
from coatcheck.lifecycle import admit, plan, settle
from coatcheck.session import Session
from coatcheck.settings import Settings
from coatcheck.stores.memory import MemoryStore
from coatcheck.ticket import Ticket, new_operation_id
from tests.core.tools import CODEC, NOW, exactly

MINE = ("a", "b", "é", "cart", "cart[x]", "cart[y]", "cart[x][y]", "m[k]")
names = st.sampled_from(MINE)
values = st.one_of(
    st.integers(-5, 5),
    st.sampled_from((None, True, 1.0, "text", b"raw", (1, [2]), 2**63 - 1, -(2**63), 2**70)),
    st.builds(list),
    st.builds(dict),
    st.builds(set),
    st.lists(st.lists(st.integers(0, 2), max_size=2), max_size=2),
)
owners = st.sampled_from(("ann", "bob"))
keeps = st.one_of(st.booleans(), st.lists(st.sampled_from((*MINE, "m", "theirs", "hits")), max_size=3))
settings = Settings()


def is_entry_of(field: str, name: str) -> bool:
    return field.startswith(name + "[") and field.endswith("]") and "[" not in name


class Handlers(RuleBasedStateMachine):
    """One user, request after request, with other requests of the same user beside them.

    `stored` is what the store must hold, `shown` what the session must show, both as plain dicts. The handler's own
    fields are `MINE`; `theirs…` and `hits` are changed by other requests meanwhile, `hits` by this one too.
    """

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore(clock=lambda: NOW)
        self.ticket: Ticket | None = None
        self.stored: dict[str, Any] = {}
        self.owner: str | None = None
        self.others = 0
        self.request()

    def request(self) -> None:
        """A new request begins, with whatever ticket the browser holds."""
        self.session = Session(CODEC, self.ticket)
        if self.ticket is not None:
            assert admit(self.session, self.ticket, self.store.read(self.ticket.session_id)) == ""
        self.start_from(self.stored)

    def start_from(self, fields: dict[str, Any]) -> None:
        self.before = copy.deepcopy(fields)  # what this request was given
        self.shown = copy.deepcopy(fields)
        self.touched: set[str] = set()  # what it set or deleted
        self.added: dict[str, int] = {}
        self.spared: tuple[str, ...] | None = None  # what a clearing or a login left of the fields in the store
        self.login: str | None = None
        self.destroyed = False

    # --- what a handler does -----------------------------------------------------------------------------------------

    @rule(name=names, value=values)
    def set(self, name: str, value: Any) -> None:
        self.shown[name] = copy.deepcopy(value)
        self.session[name] = copy.deepcopy(value)  # the next rule may be given the very same list
        self.touched.add(name)
        self.added.pop(name, None)

    @rule(name=names | st.just("hits"))
    def delete(self, name: str) -> None:
        assert (name in self.session) == (name in self.shown)
        if self.shown.pop(name, self) is not self:
            del self.session[name]
            self.added.pop(name, None)
            # To the store a field is deleted that this request was given; what it made itself was never there.
            self.touched.discard(name)
            if name in self.before and (self.spared is None or self.is_spared(name, self.spared)):
                self.touched.add(name)

    @rule(name=names)
    def look(self, name: str) -> None:
        assert exactly(self.session.get(name, "nothing")) == exactly(self.shown.get(name, "nothing"))

    @rule()
    def look_at_all(self) -> None:
        assert {name: exactly(value) for name, value in self.session.items()} == {
            name: exactly(value) for name, value in self.shown.items()
        }
        assert len(self.session) == len(self.shown)
        for map_name in ("cart", "m"):
            entries = {name[len(map_name) + 1 : -1] for name in self.shown if is_entry_of(name, map_name)}
            assert set(self.session.map(map_name)) == entries

    @rule(name=names, item=st.integers(0, 2))
    def change_in_place(self, name: str, item: int) -> None:
        for value in (self.session.get(name), self.shown.get(name)):
            if isinstance(value, list):
                value[-1:] = [*value[-1:], item]
            elif isinstance(value, dict):
                value[str(item)] = [item]
            elif isinstance(value, set):
                value.symmetric_difference_update({item})
            elif isinstance(value, tuple):
                value[1].append(item)

    @rule(name=names)
    def append_to_a_list_made_on_the_fly(self, name: str) -> None:
        if name not in self.shown:
            self.session.setdefault(name, []).append(1)
            self.shown[name] = [1]
            self.touched.add(name)

    @rule(name=names | st.just("hits"), by=st.integers(-3, 3) | st.sampled_from((2**63 - 1, -(2**63))))
    def increment(self, name: str, by: int) -> None:
        present = self.shown.get(name, 0)
        added = self.added.get(name, 0) + by
        limits = range(-(2**63), 2**63)
        # What the store holds may be near the limit by now; that is the store's business and its contract's.
        if type(present) is int and present + by in limits and added in limits and abs(by) < 9:
            total = present + by
            key = name[len("cart[") : -1]
            given = self.session.map("cart").increment(key, by) if is_entry_of(name, "cart") else None
            assert (self.session.increment(name, by) if given is None else given) == total
            self.shown[name] = total
            if name in self.touched:
                pass
            elif self.session.is_new:
                self.touched.add(name)
            else:
                self.added[name] = added
        elif type(present) is not int or present + by not in limits:
            try:
                self.session.increment(name, by)
            except NotACounter as refused:
                assert refused.field == name  # noqa: PT017
            else:
                raise AssertionError("counted what is no counter")

    @rule()
    def clear(self) -> None:
        self.session.clear()
        self.shown, self.touched, self.added = {}, set(), {}
        if not self.session.is_new:
            self.spared = ()

    @rule(owner=owners, keep=keeps)
    def log_in(self, owner: str, keep: bool | list[str]) -> None:
        other = owner != (self.login or self.owner)
        self.session.renew(owner=owner, keep=keep)
        self.login = owner
        if other and keep is not True and not self.session.is_new:
            kept = () if keep is False else tuple(keep)
            self.spared = tuple(name for name in kept if self.spared is None or name in self.spared)
            self.added = {name: by for name, by in self.added.items() if self.is_spared(name, kept)}
            self.touched = {name for name in self.touched if name in self.shown or self.is_spared(name, self.spared)}
            for name in list(self.shown):
                if name not in self.touched and not self.is_spared(name, self.spared):
                    del self.shown[name]

    @rule()
    def renew(self) -> None:
        self.session.renew()

    @precondition(lambda self: not self.destroyed)
    @rule()
    def destroy(self) -> None:
        self.session.destroy()
        self.start_from({})
        self.destroyed = True

    # --- what happens around it --------------------------------------------------------------------------------------

    @precondition(lambda self: self.ticket is not None and not self.destroyed)
    @rule(name=st.sampled_from(("theirs", "theirs[x]", "hits")))
    def another_request_commits(self, name: str) -> None:
        """It ends before this one, which has never seen what it did."""
        assert self.ticket is not None
        self.others += 1
        changes = Changes(
            proof=self.ticket.secret_hash,
            idle_ms=settings.idle_ms,
            operation=new_operation_id(),
            increments={"hits": 1} if name == "hits" else {},
            sets={} if name == "hits" else {name: str(self.others)},
        )
        try:
            self.store.update(self.ticket.session_id, changes)
        except NotACounter:
            return
        self.stored[name] = self.stored.get(name, 0) + 1 if name == "hits" else self.others

    @rule(go_on=st.booleans())
    def commit(self, go_on: bool) -> None:
        """At the end of the request, or in the middle."""
        before = self.ticket
        todo = plan(self.session, settings)
        applied = None
        if todo.delete is not None:
            assert self.store.delete(todo.delete)
        if todo.create is not None:
            applied = self.store.create(todo.create)
        elif todo.update is not None:
            assert before is not None
            applied = self.store.update(before.session_id, todo.update)
        action = settle(self.session, todo, applied, settings)
        self.expect_committed()
        self.browser_takes(action)
        if before is not None and (self.ticket is None or self.ticket.secret_hash != before.secret_hash):
            self.is_dead(before)
        self.check_store()
        if go_on:
            after = {name: self.stored[name] for name in self.shown if name in self.stored}
            # What others added shows where this request added too, and at the next request otherwise.
            stale = {name for name in ("hits", "theirs", "theirs[x]") if name in self.shown and name not in self.added}
            after |= {name: self.shown[name] for name in stale}
            self.start_from_mixed(after)
        else:
            self.request()

    def start_from_mixed(self, shown: dict[str, Any]) -> None:
        login = self.login
        self.start_from(shown)
        self.owner = login or self.owner

    def expect_committed(self) -> None:
        """What a plain dict would hold after this request."""
        if self.destroyed:
            self.stored, self.owner = {}, None
        if self.spared is not None:
            self.stored = {name: value for name, value in self.stored.items() if self.is_spared(name, self.spared)}
        for name in {*self.shown, *self.before, *self.touched}:
            if name in self.added:
                self.stored[name] = self.stored.get(name, 0) + self.added[name]
            elif name in self.touched or (
                name in self.shown and name in self.before and exactly(self.shown[name]) != exactly(self.before[name])
            ):
                self.stored.pop(name, None)
                if name in self.shown:
                    self.stored[name] = copy.deepcopy(self.shown[name])

    def browser_takes(self, action: str | None) -> None:
        if action == "erase":
            self.ticket = None
        elif action == "write":
            self.ticket = self.session.ticket
        if self.session.is_new:
            assert not self.stored
            self.ticket, self.owner = None, None
        else:
            self.owner = self.login or self.owner

    def is_dead(self, ticket: Ticket) -> None:
        record = self.store.read(ticket.session_id)
        assert record is None or not record.accepts(ticket.secret_hash, NOW)
        try:
            self.store.update(ticket.session_id, Changes(proof=ticket.secret_hash, idle_ms=settings.idle_ms))
        except SessionGone:
            return
        raise AssertionError("an old ticket still opens the session")

    def check_store(self) -> None:
        if self.ticket is None:
            assert len(self.store) == 0
            return
        record = self.store.read(self.ticket.session_id)
        assert record is not None
        assert record.accepts(self.ticket.secret_hash, NOW)
        assert record.owner == self.owner
        found = {name: exactly(CODEC.decode("", name, text)) for name, text in record.fields.items()}
        assert found == {name: exactly(value) for name, value in self.stored.items()}

    @invariant()
    def names_are_shown_without_decoding_anything(self) -> None:
        if hasattr(self, "session"):
            shown = repr(self.session).partition(": ")[2].rstrip(">")
            assert sorted(shown.split(", ")) == (sorted(self.shown) or ["empty"])

    @staticmethod
    def is_spared(field: str, names: tuple[str, ...]) -> bool:
        return any(field == name or is_entry_of(field, name) for name in names)


TestHandlers = Handlers.TestCase


def test_what_a_request_does_not_commit_leaves_no_trace_in_the_store() -> None:
    """A store in this process hands out its own dict of fields; a session never changes it."""
    store = MemoryStore(clock=lambda: NOW)
    ticket = Ticket.new()
    store.create(
        NewRecord(
            session_id=ticket.session_id,
            secret_hash=ticket.secret_hash,
            fields={"a": "[]", "n": "1"},
            idle_ms=settings.idle_ms,
            absolute_ms=None,
            owner=None,
            operation=new_operation_id(),
        )
    )
    session = Session(CODEC, ticket)
    admit(session, ticket, store.read(ticket.session_id))
    session["a"].append(1)
    session["b"] = 2
    session.increment("n")
    del session["n"]
    session.renew(owner="ann")
    session.clear()
    plan(session, settings)
    session.destroy()
    record = store.read(ticket.session_id)
    assert record is not None
    assert record.fields == {"a": "[]", "n": "1"}
