"""The stories of the store contract. Each is told once, against an asynchronous store; a synchronous one is wrapped."""

from __future__ import annotations

import asyncio
import inspect
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs

from coatcheck.changes import Applied, Changes, NewRecord, Renewal
from coatcheck.errors import (
    Conflict,
    CorruptRecord,
    NotACounter,
    OutcomeUnknown,
    SessionExists,
    SessionGone,
    StoreUnavailable,
)
from coatcheck.record import OPERATIONS_REMEMBERED, Record
from coatcheck.stores.interface import AsyncOwnerIndex, AsyncStore, SyncOwnerIndex, SyncStore
from coatcheck.testing.machine import StoreMachine
from coatcheck.ticket import Ticket, new_operation_id

Corruption: TypeAlias = Callable[[str], Awaitable[None]]

HOUR = 3_600_000
LARGEST = 2**63 - 1
SMALLEST = -(2**63)

ODD_NAMES = (
    " ", "a b", "é", "名前", "🧥", "'", '"', "\\", "\n", "\r\n", "\x00", "\x7f", "*", "?", "%a+", "^$", "{}", "../..",
    "version", "id", "__proto__", "[", "]", "[]", "cart[", "cart]", "cart[@x]", "x" * 1000,
)  # fmt: skip
NOT_COUNTERS = (
    '"2"', '""', "", "1.0", "1.5", "01", "-01", "+1", " 1", "1 ", "1\n", "1e3", "-", "-0", "0x1", "1_000", "true", "null",
    "[]", "{}", "nan", "inf", "\u0661", "9223372036854775808", "-9223372036854775809", "1" * 30, "0" * 30,
)  # fmt: skip


def a_record(**but: Any) -> NewRecord:
    """A new session with a fresh id, secret and operation, an idle timeout of an hour and no fields.

    Args:
        but: attributes of `NewRecord` to have otherwise.
    """
    ticket = Ticket.new()
    usual: dict[str, Any] = {
        "session_id": ticket.session_id,
        "secret_hash": ticket.secret_hash,
        "fields": {},
        "idle_ms": HOUR,
        "absolute_ms": None,
        "owner": None,
        "operation": new_operation_id(),
    }
    return NewRecord(**(usual | but))


def a_commit(of: NewRecord, **but: Any) -> Changes:
    """A commit that may change this session, with a fresh operation id.

    Args:
        of: the session, as it was created.
        but: attributes of `Changes` to have otherwise.
    """
    usual: dict[str, Any] = {
        "proof": of.secret_hash,
        "idle_ms": of.idle_ms,
        "operation": new_operation_id(),
        "read_version": 1,
    }
    return Changes(**(usual | but))


def a_touch(of: NewRecord, **but: Any) -> Changes:
    """A commit that does nothing but extend the idle timeout."""
    return a_commit(of, operation="", read_version=0, **but)


def a_secret() -> str:
    """The hash of a fresh secret."""
    return Ticket.new().secret_hash


def _story(tell: Callable[[Any, AsyncStore], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test out of a story about one open store."""

    def test(contract: StoreContract) -> None:
        asyncio.run(contract._tell(tell, attempts=(1,)))

    return _named_after(tell, test)


def _story_of_time(tell: Callable[[Any, AsyncStore], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test out of a story in which time passes. On a busy machine real time passes too fast; then it is told slower."""

    def test(contract: StoreContract) -> None:
        asyncio.run(contract._tell(tell, attempts=(1,) if contract._clock_can_be_moved else (1, 3, 9)))

    return _named_after(tell, test)


def _named_after(tell: Callable[..., Any], test: Callable[[Any], None]) -> Callable[[Any], None]:
    test.__name__, test.__qualname__, test.__doc__ = tell.__name__, tell.__qualname__, tell.__doc__
    return test


class StoreContract:
    """What every store must do, as stories. Subclass `AsyncStoreContract` or `SyncStoreContract` rather than this.

    A story asks for nothing but an open store, makes sessions with random ids and leaves them there, so a store may
    keep its data between stories.
    """

    moment_ms = 60
    """How long "a moment" is in stories about time. Make it longer for a store that takes longer than that to answer."""

    def advance(self, ms: int) -> None:
        """Let this much time pass by the store's clock.

        Override it if that clock can be moved, and no story waits. Otherwise they wait for short real timeouts.
        """
        raise NotImplementedError

    def corruptions(self, store: Any) -> Iterable[Corruption]:
        """Ways to put something that is no session record where a record with a given id would be.

        Override it if the store's data can be written without the store, as in a database. Each way is an
        asynchronous function of the session id.
        """
        return ()

    # --- a new session -----------------------------------------------------------------------------------------------

    @_story
    async def test_a_new_session_is_read_back_as_it_was_stored(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"', "hits": "2"}, idle_ms=HOUR, absolute_ms=24 * HOUR, owner="user-7")

        applied = await store.create(new)
        record = await present(store, new)

        assert (applied.version, dict(applied.counters), applied.renewed) == (1, {}, False)
        assert (record.session_id, record.secret_hash) == (new.session_id, new.secret_hash)
        assert record.fields == {"user": '"Garimoo"', "hits": "2"}
        assert (record.version, record.owner, record.operations) == (1, "user-7", new.operation)
        assert record.created_ms == record.renewed_ms == record.touched_ms == applied.touched_ms
        assert (record.idle_ms, record.deadline_ms) == (HOUR, record.created_ms + 24 * HOUR)
        assert record.created_ms <= record.read_at_ms < record.expires_ms
        assert record.accepts(new.secret_hash, record.read_at_ms)
        assert not record.accepts(a_secret(), record.read_at_ms)

    @_story
    async def test_a_session_may_have_no_fields_no_owner_and_no_end(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        record = await present(store, new)
        assert (record.fields, record.owner, record.deadline_ms, record.previous_hash) == ({}, None, None, None)

    @_story
    async def test_an_id_is_never_given_to_a_second_session(self, store: AsyncStore) -> None:
        first = a_record(fields={"user": '"first"'})
        second = a_record(session_id=first.session_id, fields={"user": '"second"'}, owner="somebody")
        await store.create(first)
        before = await present(store, first)

        with pytest.raises(SessionExists) as refused:
            await store.create(second)

        assert refused.value.session_id == first.session_id
        assert without_time(await present(store, first)) == without_time(before)

    @_story
    async def test_a_repeated_create_succeeds_and_changes_nothing(self, store: AsyncStore) -> None:
        new = a_record(fields={"cart": "[]"}, absolute_ms=24 * HOUR)
        first = await store.create(new)
        assert await store.create(new) == first

        await store.update(new.session_id, a_commit(new, sets={"cart": "[1]"}))
        before = await present(store, new)
        again = await store.create(new)

        assert again.version == 2
        assert without_time(await present(store, new)) == without_time(before)

    @_story
    async def test_of_many_that_create_one_id_at_once_one_succeeds(self, store: AsyncStore) -> None:
        rivals = [a_record(session_id=a_record().session_id)]
        rivals += [a_record(session_id=rivals[0].session_id, fields={"n": str(n)}) for n in range(9)]
        answers = await asyncio.gather(*map(store.create, rivals), return_exceptions=True)

        winners = [rival for rival, answer in zip(rivals, answers, strict=True) if isinstance(answer, Applied)]
        assert len(winners) == 1
        assert sum(isinstance(answer, SessionExists) for answer in answers) == len(rivals) - 1
        record = await present(store, winners[0])
        assert (record.secret_hash, record.fields) == (winners[0].secret_hash, dict(winners[0].fields))

    @_story
    async def test_a_create_that_is_sent_several_times_at_once_is_one(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"'})
        answers = await asyncio.gather(*(store.create(new) for _ in range(5)))
        assert {answer.version for answer in answers} == {1}
        assert (await present(store, new)).version == 1

    @_story
    async def test_names_and_values_come_back_exactly(self, store: AsyncStore) -> None:
        odd = {name: f'"{index} é名🧥 \\u0000 \\ud83e"' for index, name in enumerate(ODD_NAMES)}
        new = a_record(fields=odd)
        await store.create(new)
        assert (await present(store, new)).fields == odd

        changed = {name: '"' + "'; -- \\n" + str(index) + '"' for index, name in enumerate(ODD_NAMES)}
        await store.update(new.session_id, a_commit(new, sets=changed))
        assert (await present(store, new)).fields == changed

        await store.update(new.session_id, a_commit(new, deletes=ODD_NAMES))
        assert (await present(store, new)).fields == {}

        applied = await store.update(new.session_id, a_commit(new, increments=dict.fromkeys(ODD_NAMES, 3)))
        assert applied.counters == dict.fromkeys(ODD_NAMES, 3)
        assert (await present(store, new)).fields == dict.fromkeys(ODD_NAMES, "3")

    @_story
    async def test_a_session_may_have_a_thousand_fields(self, store: AsyncStore) -> None:
        fields = {f"item[{n}]": str(n) for n in range(1500)}
        new = a_record(fields=fields)
        await store.create(new)
        assert (await present(store, new)).fields == fields

        await store.update(new.session_id, a_commit(new, sets=dict.fromkeys(fields, '"x"')))
        applied = await store.update(new.session_id, a_commit(new, increments={f"n[{n}]": n for n in range(1500)}))
        assert applied.counters == {f"n[{n}]": n for n in range(1500)}
        await store.update(new.session_id, a_commit(new, deletes=tuple(fields)))
        assert (await present(store, new)).fields == {f"n[{n}]": str(n) for n in range(1500)}
        await store.update(new.session_id, a_commit(new, retain=tuple(f"n[{n}]" for n in range(1200))))
        assert len((await present(store, new)).fields) == 1200

    @_story
    async def test_a_value_may_have_a_megabyte(self, store: AsyncStore) -> None:
        large = '"' + "é" * 500_000 + '"'
        new = a_record(fields={"large": large})
        await store.create(new)
        assert (await present(store, new)).fields["large"] == large
        await store.update(new.session_id, a_commit(new, sets={"too": large}))
        assert (await present(store, new)).fields == {"large": large, "too": large}

    # --- reading -----------------------------------------------------------------------------------------------------

    @_story
    async def test_an_unknown_session_is_absent(self, store: AsyncStore) -> None:
        for session_id in (a_record().session_id, "A" * 16, "_" * 16, "-" * 16):
            assert await store.read(session_id) is None

    @_story
    async def test_an_id_that_no_ticket_carries_is_absent(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        for session_id in ("", new.session_id + " ", new.session_id[:-1], new.session_id + "\0", "é" * 16, "A" * 1000):
            assert await store.read(session_id) is None
            assert not await store.delete(session_id)
            with pytest.raises(SessionGone):
                await store.update(session_id, a_commit(new, sets={"a": "1"}))
        assert await store.read(new.session_id) is not None

    @_story
    async def test_ids_that_differ_by_case_only_are_different(self, store: AsyncStore) -> None:
        new = a_record(session_id="a" + a_record().session_id[1:])
        await store.create(new)
        assert await store.read("A" + new.session_id[1:]) is None
        assert await store.read(new.session_id.swapcase()) is None

    @_story
    async def test_reading_changes_nothing(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"'})
        await store.create(new)
        first = await present(store, new)
        self_times = [(await present(store, new)).read_at_ms for _ in range(5)]
        last = await present(store, new)
        assert without_time(last) == without_time(first)
        assert self_times == sorted(self_times)

    @_story_of_time
    async def test_reading_does_not_prolong_a_session(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=2 * self.moment)
        await store.create(new)
        await self._pass(1)
        record = await present(store, new)
        assert record.read_at_ms >= record.touched_ms + self.moment
        assert record.touched_ms == record.created_ms
        await self._pass(1.1)
        assert await store.read(new.session_id) is None

    @_story
    async def test_each_reader_gets_the_session_that_it_asked_for(self, store: AsyncStore) -> None:
        sessions = [a_record(fields={"me": str(n)}) for n in range(30)]
        await asyncio.gather(*map(store.create, sessions))
        asked = [random.choice(sessions) for _ in range(300)]  # noqa: S311
        records = await asyncio.gather(*(present(store, new) for new in asked))
        for new, record in zip(asked, records, strict=True):
            assert (record.session_id, record.fields) == (new.session_id, dict(new.fields))

    # --- a commit ----------------------------------------------------------------------------------------------------

    @_story
    async def test_a_commit_sets_deletes_and_increments_and_leaves_the_rest(self, store: AsyncStore) -> None:
        new = a_record(fields={"kept": '"k"', "changed": '"before"', "dropped": "1", "hits": "2"})
        created = await store.create(new)

        applied = await store.update(
            new.session_id,
            a_commit(
                new, sets={"changed": '"after"', "added": "[]"}, deletes=("dropped",), increments={"hits": 3, "new": -1}
            ),
        )
        record = await present(store, new)

        assert record.fields == {"kept": '"k"', "changed": '"after"', "added": "[]", "hits": "5", "new": "-1"}
        assert (applied.version, record.version) == (2, 2)
        assert applied.counters == {"hits": 5, "new": -1}
        assert applied.touched_ms == record.touched_ms >= created.touched_ms
        assert (record.created_ms, record.secret_hash) == (created.touched_ms, new.secret_hash)
        assert not applied.renewed

    @_story
    async def test_deleting_a_field_that_is_not_there_is_no_error(self, store: AsyncStore) -> None:
        new = a_record(fields={"kept": "1"})
        await store.create(new)
        applied = await store.update(new.session_id, a_commit(new, deletes=("missing", "cart[x]")))
        assert applied.version == 2
        assert (await present(store, new)).fields == {"kept": "1"}

    @_story
    async def test_a_session_whose_last_field_is_deleted_lives_on(self, store: AsyncStore) -> None:
        new = a_record(fields={"only": "1"})
        await store.create(new)
        await store.update(new.session_id, a_commit(new, deletes=("only",)))
        await store.update(new.session_id, a_commit(new, sets={"next": "2"}))
        assert (await present(store, new)).fields == {"next": "2"}

    @_story
    async def test_a_commit_to_a_session_that_never_was_creates_nothing(self, store: AsyncStore) -> None:
        new = a_record()
        for commit in _every_kind_of_commit(new):
            with pytest.raises(SessionGone) as refused:
                await store.update(new.session_id, commit)
            assert refused.value.session_id == new.session_id
            assert await store.read(new.session_id) is None

    @_story
    async def test_logout_is_final(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"'}, owner="user " + new_operation_id())
        await store.create(new)
        applied = a_commit(new, sets={"a": "1"})
        await store.update(new.session_id, applied)
        assert await store.delete(new.session_id)
        for commit in (*_every_kind_of_commit(new), applied, applied.again()):
            with pytest.raises(SessionGone):
                await store.update(new.session_id, commit)
            assert await store.read(new.session_id) is None
        if isinstance(store, AsyncOwnerIndex):
            assert await store.sessions_of(str(new.owner)) == []

    @_story
    async def test_a_logout_wins_against_the_commits_beside_it(self, store: AsyncStore) -> None:
        for _ in range(10):
            new = a_record()
            await store.create(new)
            commits = [store.update(new.session_id, a_commit(new, sets={"n": str(n)})) for n in range(6)]
            answers = await asyncio.gather(
                *commits[:3], store.delete(new.session_id), *commits[3:], return_exceptions=True
            )
            assert answers[3] is True
            assert all(isinstance(answer, (Applied, SessionGone)) for answer in answers[:3] + answers[4:])
            assert await store.read(new.session_id) is None

    @_story
    async def test_a_wrong_secret_changes_nothing(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"'}, owner="user-7")
        await store.create(new)
        before = await present(store, new)
        wrong = ("", "0" * 64, new.secret_hash[:-1], new.secret_hash.upper() + "0", a_secret())
        for commit in _every_kind_of_commit(new):
            for proof in wrong:
                with pytest.raises(SessionGone):
                    await store.update(new.session_id, structs.replace(commit, proof=proof))
        assert without_time(await present(store, new)) == without_time(before)

    @_story
    async def test_a_touch_is_no_change(self, store: AsyncStore) -> None:
        new = a_record(fields={"user": '"Garimoo"'}, owner="user-7", absolute_ms=24 * HOUR)
        await store.create(new)
        before = await present(store, new)
        applied = await store.update(new.session_id, a_touch(new))
        after = await present(store, new)
        assert (applied.version, applied.renewed, dict(applied.counters)) == (1, False, {})
        assert after.touched_ms == applied.touched_ms >= before.touched_ms
        assert without_time(after) == without_time(before)

    @_story
    async def test_a_commit_may_change_the_idle_timeout(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=HOUR)
        await store.create(new)
        applied = await store.update(new.session_id, a_touch(new, idle_ms=2 * HOUR))
        record = await present(store, new)
        assert (record.idle_ms, record.expires_ms) == (2 * HOUR, applied.touched_ms + 2 * HOUR)

    # --- counters ----------------------------------------------------------------------------------------------------

    @_story
    async def test_counters_reach_to_both_ends_of_64_bits(self, store: AsyncStore) -> None:
        ends = {"most": str(LARGEST - 1), "least": str(SMALLEST + 1), "far": str(SMALLEST)}
        new = a_record(fields=ends)
        await store.create(new)
        applied = await store.update(
            new.session_id, a_commit(new, increments={"most": 1, "least": -1, "far": LARGEST, "new": SMALLEST})
        )
        assert applied.counters == {"most": LARGEST, "least": SMALLEST, "far": -1, "new": SMALLEST}
        assert (await present(store, new)).fields == {name: str(value) for name, value in applied.counters.items()}

    @_story
    async def test_a_counter_that_would_leave_64_bits_leaves_everything_as_it_was(self, store: AsyncStore) -> None:
        fields = {"hits": "7", "most": str(LARGEST), "least": str(SMALLEST)}
        ends = [("most", 1), ("most", LARGEST), ("least", -1), ("least", SMALLEST)]
        # An addend that does not fit is refused too, even where the sum would.
        ends += [("least", LARGEST + 1), ("most", SMALLEST - 1), ("least", 10**30), ("absent", -(10**30))]
        for name, addend in ends:
            await self._is_refused_whole(store, fields, name, addend)

    @_story
    async def test_what_is_no_counter_is_not_incremented_and_leaves_everything_as_it_was(
        self, store: AsyncStore
    ) -> None:
        for text in NOT_COUNTERS:
            await self._is_refused_whole(store, {"hits": "7", "odd": text}, "odd", 1)
            await self._is_refused_whole(store, {"hits": "7", "odd": text}, "odd", 0)

    async def _is_refused_whole(self, store: AsyncStore, fields: dict[str, str], name: str, addend: int) -> None:
        new = a_record(fields=fields | {"kept": "1", "dropped": "2"}, owner="before")
        await store.create(new)
        before = await present(store, new)
        for increments in ({"hits": 1, "new": 2, name: addend}, {name: addend, "hits": 1, "new": 2}):
            commit = a_commit(
                new,
                sets={"kept": "3", "added": "4"},
                deletes=("dropped",),
                increments=increments,
                renewal=Renewal(secret_hash=a_secret()),
                owner="after",
                idle_ms=2 * HOUR,
                absolute_ms=3 * HOUR,
            )
            with pytest.raises(NotACounter) as refused:
                await store.update(new.session_id, commit)
            assert refused.value.field == name
            after = await present(store, new)
            assert without_time(after) == without_time(before), f"{name} holds {fields[name]!r}"
            assert after.touched_ms == before.touched_ms

    @_story
    async def test_increments_at_once_are_exact(self, store: AsyncStore) -> None:
        new = a_record(fields={"hits": "5"})
        await store.create(new)
        applied = await asyncio.gather(
            *(store.update(new.session_id, a_commit(new, increments={"hits": 1, "twice": 2})) for _ in range(50))
        )
        assert sorted(answer.counters["hits"] for answer in applied) == list(range(6, 56))
        assert sorted(answer.version for answer in applied) == list(range(2, 52))
        record = await present(store, new)
        assert (record.fields, record.version) == ({"hits": "55", "twice": "100"}, 51)

    # --- side by side ------------------------------------------------------------------------------------------------

    @_story
    async def test_changes_of_different_fields_at_once_all_survive(self, store: AsyncStore) -> None:
        new = a_record(fields={f"drop[{n}]": "0" for n in range(20)})
        await store.create(new)
        await asyncio.gather(
            *(store.update(new.session_id, a_commit(new, sets={f"cart[{n}]": str(n)})) for n in range(20)),
            *(store.update(new.session_id, a_commit(new, deletes=(f"drop[{n}]",))) for n in range(20)),
        )
        record = await present(store, new)
        assert (record.fields, record.version) == ({f"cart[{n}]": str(n) for n in range(20)}, 41)

    @_story
    async def test_commits_at_once_never_interleave(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        names = [f"part[{n}]" for n in range(20)]
        writers = {
            str(n): store.update(new.session_id, a_commit(new, sets=dict.fromkeys(names, str(n)))) for n in range(20)
        }
        reading = asyncio.gather(*(present(store, new) for _ in range(20)))
        answers = dict(zip(writers, await asyncio.gather(*writers.values()), strict=True))
        for record in [*await reading, await present(store, new)]:
            assert len(set(record.fields.values())) <= 1, "half of one commit and half of another"
        last = max(answers, key=lambda n: answers[n].version)
        assert (await present(store, new)).fields == dict.fromkeys(names, last)

    @_story
    async def test_of_many_that_require_the_session_unchanged_one_succeeds(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        commits = [a_commit(new, read_version=1, unchanged=True, sets={"winner": str(n)}) for n in range(10)]
        answers = await asyncio.gather(
            *(store.update(new.session_id, commit) for commit in commits), return_exceptions=True
        )
        winners = [str(n) for n, answer in enumerate(answers) if isinstance(answer, Applied)]
        assert len(winners) == 1
        assert sum(isinstance(answer, Conflict) for answer in answers) == 9
        record = await present(store, new)
        assert (record.fields["winner"], record.version) == (winners[0], 2)

    @_story
    async def test_a_conflict_changes_nothing(self, store: AsyncStore) -> None:
        new = a_record(fields={"n": "1"}, owner="user-7")
        await store.create(new)
        await store.update(new.session_id, a_commit(new, sets={"n": "2"}))
        before = await present(store, new)
        for version in (0, 1, 3):
            for commit in _every_kind_of_commit(new):
                with pytest.raises(Conflict) as refused:
                    await store.update(new.session_id, structs.replace(commit, unchanged=True, read_version=version))
                assert refused.value.session_id == new.session_id
        assert without_time(await present(store, new)) == without_time(before)

        await store.update(new.session_id, a_touch(new))  # is no change, so no conflict follows
        applied = await store.update(new.session_id, a_commit(new, unchanged=True, read_version=2, sets={"n": "3"}))
        assert applied.version == 3

    # --- clearing ----------------------------------------------------------------------------------------------------

    @_story
    async def test_clearing_removes_what_the_request_never_saw(self, store: AsyncStore) -> None:
        new = a_record(fields={"a": "1", "cart[x]": "2"})
        await store.create(new)
        await store.update(new.session_id, a_commit(new, sets={"unseen": "3", "cart[unseen]": "4"}))
        await store.update(new.session_id, a_commit(new, retain=()))
        assert (await present(store, new)).fields == {}

    @_story
    async def test_clearing_spares_named_fields_and_the_entries_of_named_maps(self, store: AsyncStore) -> None:
        spared = {"cart": "1", "cart[x]": "2", "cart[]": "3", "cart[a[b]]": "4", "cart[\n]": "5", "lang": "6", "é": "7"}
        gone = (
            "cart2",
            "cart2[x]",
            "art[x]",
            "cart[x",
            "cartx]",
            "[cart]",
            "Cart",
            "lan",
            "langs",
            "xlang",
            "e",
            "other",
        )
        new = a_record(fields=spared | dict.fromkeys(gone, "0"))
        await store.create(new)
        await store.update(new.session_id, a_commit(new, retain=("cart", "lang", "é", "never there")))
        assert (await present(store, new)).fields == spared

    @_story
    async def test_names_to_spare_are_no_patterns(self, store: AsyncStore) -> None:
        patterns = ("*", "?", ".", ".*", "%a+", "^", "$", "[", "a-z", "%", "_", "{}")
        new = a_record(fields={"x": "1", "user": "2", "x[y]": "3"} | dict.fromkeys(patterns, "4"))
        await store.create(new)
        await store.update(new.session_id, a_commit(new, retain=patterns))
        assert (await present(store, new)).fields == dict.fromkeys(patterns, "4")

    @_story
    async def test_clearing_comes_before_everything_else_in_a_commit(self, store: AsyncStore) -> None:
        new = a_record(fields={"old": "1", "hits": "7", "kept": "8", "word": '"x"', "lang": '"de"'})
        await store.create(new)
        applied = await store.update(
            new.session_id,
            a_commit(
                new,
                retain=("kept", "lang"),
                sets={"old": "2"},
                deletes=("lang",),
                increments={"hits": 1, "kept": 1, "word": 5},
            ),
        )
        assert applied.counters == {"hits": 1, "kept": 9, "word": 5}
        assert (await present(store, new)).fields == {"old": "2", "hits": "1", "kept": "9", "word": "5"}

    # --- a new secret ------------------------------------------------------------------------------------------------

    @_story
    async def test_after_a_renewal_the_old_secret_opens_nothing(self, store: AsyncStore) -> None:
        new = a_record(fields={"n": "1"})
        created = await store.create(new)
        await self._pass(0.1)
        fresh = a_secret()
        applied = await store.update(new.session_id, a_commit(new, renewal=Renewal(secret_hash=fresh)))
        record = await present(store, new)

        assert applied.renewed
        assert (record.secret_hash, record.renewed_ms) == (fresh, applied.touched_ms)
        assert (record.created_ms, record.touched_ms) == (created.touched_ms, applied.touched_ms)
        assert record.renewed_ms > record.created_ms
        assert record.accepts(fresh, record.read_at_ms)
        assert not record.accepts(new.secret_hash, record.read_at_ms)
        for commit in _every_kind_of_commit(new):
            with pytest.raises(SessionGone):
                await store.update(new.session_id, commit)
        await store.update(new.session_id, a_commit(new, proof=fresh, sets={"n": "2"}))
        assert (await present(store, new)).fields == {"n": "2"}

    @_story_of_time
    async def test_in_its_grace_the_previous_secret_still_opens(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        fresh = a_secret()
        renewal = Renewal(secret_hash=fresh, grace_ms=2 * self.moment)
        renewed = await store.update(new.session_id, a_commit(new, renewal=renewal))
        await self._pass(1)
        record = await present(store, new)
        assert record.accepts(fresh, record.read_at_ms)
        assert record.accepts(new.secret_hash, record.read_at_ms)
        assert not record.accepts(new.secret_hash, renewed.touched_ms + 2 * self.moment)
        await store.update(new.session_id, a_commit(new, sets={"in": '"grace"'}))

        await self._pass(1.1)
        record = await present(store, new)
        assert not record.accepts(new.secret_hash, record.read_at_ms)
        with pytest.raises(SessionGone):
            await store.update(new.session_id, a_commit(new, sets={"after": '"grace"'}))
        await store.update(new.session_id, a_commit(new, proof=fresh, sets={"fresh": '"works"'}))
        assert (await present(store, new)).fields == {"in": '"grace"', "fresh": '"works"'}

    @_story
    async def test_a_renewal_without_grace_ends_every_other_secret(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        second, third = a_secret(), a_secret()
        await store.update(new.session_id, a_commit(new, renewal=Renewal(secret_hash=second, grace_ms=HOUR)))
        # The one that asks is still in its grace; a login asked with it ends it and the one after it.
        await store.update(new.session_id, a_commit(new, renewal=Renewal(secret_hash=third)))
        for dead in (new.secret_hash, second):
            assert not (await present(store, new)).accepts(dead, (await present(store, new)).read_at_ms)
            with pytest.raises(SessionGone):
                await store.update(new.session_id, a_commit(new, proof=dead, sets={"n": "1"}))
        assert (await store.update(new.session_id, a_commit(new, proof=third))).version == 4

    @_story
    async def test_of_periodic_renewals_at_once_one_takes_place(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        renewals = [Renewal(secret_hash=a_secret(), grace_ms=HOUR, replaces=new.secret_hash) for _ in range(8)]
        answers = await asyncio.gather(
            *(store.update(new.session_id, a_touch(new, renewal=renewal)) for renewal in renewals)
        )
        took_place = [renewal for renewal, answer in zip(renewals, answers, strict=True) if answer.renewed]
        record = await present(store, new)
        assert [renewal.secret_hash for renewal in took_place] == [record.secret_hash]
        assert record.accepts(new.secret_hash, record.read_at_ms)
        assert record.version == 1

    @_story
    async def test_a_periodic_renewal_that_comes_second_is_left_out_and_the_rest_applied(
        self, store: AsyncStore
    ) -> None:
        new = a_record()
        await store.create(new)
        first, second = (Renewal(secret_hash=a_secret(), grace_ms=HOUR, replaces=new.secret_hash) for _ in "12")
        assert (await store.update(new.session_id, a_touch(new, renewal=first))).renewed
        applied = await store.update(new.session_id, a_commit(new, sets={"n": "1"}, renewal=second))
        record = await present(store, new)
        assert not applied.renewed
        assert (record.secret_hash, record.fields) == (first.secret_hash, {"n": "1"})
        assert not record.accepts(second.secret_hash, record.read_at_ms)

    @_story
    async def test_a_login_gives_an_owner_and_a_new_end(self, store: AsyncStore) -> None:
        new = a_record(absolute_ms=HOUR)
        await store.create(new)
        applied = await store.update(new.session_id, a_commit(new, owner="user-7", absolute_ms=24 * HOUR))
        await store.update(new.session_id, a_commit(new, sets={"n": "1"}))
        record = await present(store, new)
        assert (record.owner, record.deadline_ms) == ("user-7", applied.touched_ms + 24 * HOUR)

    # --- the same commit again ---------------------------------------------------------------------------------------

    @_story
    async def test_a_commit_that_is_repeated_is_applied_once(self, store: AsyncStore) -> None:
        new = a_record(fields={"cart": "1"})
        await store.create(new)
        fresh = a_secret()
        commit = a_commit(new, sets={"cart": "2"}, increments={"hits": 1}, renewal=Renewal(secret_hash=fresh))
        first = await store.update(new.session_id, commit)
        before = await present(store, new)
        for _ in range(3):  # its own secret is dead by now, and yet it is known
            assert await store.update(new.session_id, commit.again()) == first
        assert await store.update(new.session_id, commit) == first
        after = await present(store, new)
        assert without_time(after) == without_time(before)
        assert after.touched_ms == before.touched_ms

    @_story
    async def test_a_repeated_touch_that_renewed_the_secret_says_so_again(self, store: AsyncStore) -> None:
        """Or an answer that was lost on the way would leave the browser with the previous ticket."""
        new = a_record()
        await store.create(new)
        renewal = Renewal(secret_hash=a_secret(), grace_ms=HOUR, replaces=new.secret_hash)
        touch = a_touch(new, renewal=renewal)
        assert (await store.update(new.session_id, touch)).renewed
        assert (await store.update(new.session_id, touch.again())).renewed
        record = await present(store, new)
        assert (record.secret_hash, record.previous_hash) == (renewal.secret_hash, new.secret_hash)
        assert record.version == 1

    @_story
    async def test_a_commit_is_known_while_it_is_among_the_last_eight(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        commit = a_commit(new, sets={"cart": "mine"}, increments={"hits": 1})
        await store.update(new.session_id, commit)
        for n in range(OPERATIONS_REMEMBERED - 1):
            other = a_commit(new, sets={"cart": str(n)}, increments={"hits": 1})
            await store.update(new.session_id, other)
            again = await store.update(new.session_id, commit.again())
            assert (again.version, again.counters, again.renewed) == (n + 3, {"hits": n + 2}, False)
            assert (await present(store, new)).fields == {"cart": str(n), "hits": str(n + 2)}

    @_story
    async def test_a_repeated_commit_whose_counter_is_none_any_more_was_applied_all_the_same(
        self, store: AsyncStore
    ) -> None:
        new = a_record()
        await store.create(new)
        commit = a_commit(new, increments={"hits": 1, "other": 2, "lost": 3})
        await store.update(new.session_id, commit)
        await store.update(new.session_id, a_commit(new, sets={"hits": '"a word"'}, deletes=("lost",)))
        again = await store.update(new.session_id, commit.again())
        assert again.version == 3
        assert again.counters == {"other": 2, "lost": 0}
        assert (await present(store, new)).fields == {"hits": '"a word"', "other": "2"}

    @_story
    async def test_the_outcome_of_a_commit_is_unknown_when_it_would_be_forgotten(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        for n in range(OPERATIONS_REMEMBERED + 1):
            await store.update(new.session_id, a_commit(new, sets={"n": str(n)}))
        before = await present(store, new)
        lost = a_commit(new, read_version=1, retry=True, increments={"hits": 1})
        with pytest.raises(OutcomeUnknown) as unknown:
            await store.update(new.session_id, lost)
        assert unknown.value.session_id == new.session_id
        assert without_time(await present(store, new)) == without_time(before)

    @_story
    async def test_a_commit_that_cannot_have_been_forgotten_is_applied_when_it_comes_again(
        self, store: AsyncStore
    ) -> None:
        new = a_record()
        await store.create(new)
        for n in range(OPERATIONS_REMEMBERED):
            await store.update(new.session_id, a_commit(new, sets={"n": str(n)}))
            await store.update(new.session_id, a_touch(new))  # touches need no remembering
        lost = a_commit(new, read_version=1, retry=True, increments={"hits": 1})
        assert (await store.update(new.session_id, lost)).counters == {"hits": 1}
        assert (await store.update(new.session_id, lost)).counters == {"hits": 1}

    @_story
    async def test_a_commit_that_was_never_sent_before_is_applied_however_old_its_version(
        self, store: AsyncStore
    ) -> None:
        new = a_record()
        await store.create(new)
        for n in range(2 * OPERATIONS_REMEMBERED):
            await store.update(new.session_id, a_commit(new, read_version=1, sets={"n": str(n)}))
        assert (await present(store, new)).version == 2 * OPERATIONS_REMEMBERED + 1
        assert len((await present(store, new)).operations) == 8 * OPERATIONS_REMEMBERED

    @_story
    async def test_a_commit_that_is_sent_several_times_at_once_is_applied_once(self, store: AsyncStore) -> None:
        new = a_record()
        await store.create(new)
        commit = a_commit(new, increments={"hits": 1})
        answers = await asyncio.gather(*(store.update(new.session_id, commit.again()) for _ in range(8)))
        assert {(answer.version, answer.counters["hits"]) for answer in answers} == {(2, 1)}
        assert (await present(store, new)).fields == {"hits": "1"}

    # --- deleting ----------------------------------------------------------------------------------------------------

    @_story
    async def test_deleting_says_whether_there_was_a_session_and_spares_the_others(self, store: AsyncStore) -> None:
        one, other = a_record(fields={"n": "1"}), a_record(fields={"n": "2"})
        await store.create(one)
        await store.create(other)
        assert await store.delete(one.session_id) is True
        assert await store.delete(one.session_id) is False
        assert await store.delete(a_record().session_id) is False
        assert await store.read(one.session_id) is None
        assert (await present(store, other)).fields == {"n": "2"}

    # --- the time that a request may take ----------------------------------------------------------------------------

    @_story
    async def test_a_caller_may_say_how_long_it_can_wait(self, store: AsyncStore) -> None:
        for timeout in (30.0, None):
            new = a_record(fields={"n": "1"}, owner="user " + new_operation_id())
            assert (await store.create(new, timeout=timeout)).version == 1
            record = await store.read(new.session_id, timeout=timeout)
            assert record is not None
            assert record.fields == {"n": "1"}
            assert (await store.update(new.session_id, a_touch(new), timeout=timeout)).version == 1
            if isinstance(store, AsyncOwnerIndex):
                [found] = await store.sessions_of(str(new.owner), timeout=timeout)
                assert found.session_id == new.session_id
            assert await store.delete(new.session_id, timeout=timeout)

    @_story
    async def test_who_has_no_time_left_gets_an_answer_or_an_error_at_once(self, store: AsyncStore) -> None:
        new = a_record(fields={"a": "0", "b": "0"}, owner="user " + new_operation_id())
        await store.create(new)
        loop = asyncio.get_running_loop()
        for timeout in (0.0, 1e-9, -1.0):
            calls: list[Callable[..., Coroutine[Any, Any, object]]] = [
                partial(store.read, new.session_id),
                partial(store.update, new.session_id, a_commit(new, sets={"a": "1", "b": "1"})),
                partial(store.create, a_record()),
                partial(store.delete, a_record().session_id),
            ]
            if isinstance(store, AsyncOwnerIndex):
                calls.append(partial(store.sessions_of, str(new.owner)))
            for call in calls:
                start = loop.time()
                with suppress(StoreUnavailable):
                    await call(timeout=timeout)
                assert loop.time() - start < 1
                record = await present(store, new)
                assert record.fields["a"] == record.fields["b"]

    # --- the end -----------------------------------------------------------------------------------------------------

    @_story_of_time
    async def test_the_end_of_a_session_is_the_first_moment_after_it(self, store: AsyncStore) -> None:
        idle = a_record(idle_ms=2 * self.moment, owner="user " + new_operation_id())
        absolute = a_record(absolute_ms=2 * self.moment)
        renewed = a_record()
        for new in (idle, absolute, renewed):
            await store.create(new)
        renewal = Renewal(secret_hash=a_secret(), grace_ms=2 * self.moment)
        await store.update(renewed.session_id, a_commit(renewed, renewal=renewal))
        if self._clock_can_be_moved:  # real time cannot be met to the millisecond
            self.advance(2 * self.moment - 1)
            for new in (idle, absolute, renewed):
                await present(store, new)
            assert (await present(store, renewed)).accepts(
                renewed.secret_hash, (await present(store, renewed)).read_at_ms
            )
            self.advance(1)
        else:
            await self._pass(2.1)
        record = await present(store, renewed)
        assert not record.accepts(renewed.secret_hash, record.read_at_ms)
        with pytest.raises(SessionGone):
            await store.update(renewed.session_id, a_commit(renewed))
        for new in (idle, absolute):
            await self._is_over(store, new)

    @_story_of_time
    async def test_a_session_ends_when_it_has_been_idle_for_too_long(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=2 * self.moment, fields={"user": '"Garimoo"'}, owner="user " + new_operation_id())
        await store.create(new)
        applied = a_commit(new, sets={"n": "1"})
        await store.update(new.session_id, applied)
        await self._pass(2.1)
        await self._is_over(store, new)
        with pytest.raises(SessionGone):
            await store.update(new.session_id, applied.again())

    @_story_of_time
    async def test_a_session_lives_on_while_it_is_touched(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=2 * self.moment)
        await store.create(new)
        touched = [(await present(store, new)).touched_ms]
        for change in (a_touch(new), a_commit(new, sets={"n": "1"}), a_touch(new)):
            await self._pass(1)
            await store.update(new.session_id, change)
            touched.append((await present(store, new)).touched_ms)
        await self._pass(1)
        await present(store, new)
        assert touched == sorted(set(touched))
        await self._pass(1.1)
        await self._is_over(store, new)

    @_story_of_time
    async def test_no_activity_carries_a_session_past_its_absolute_end(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=2 * self.moment, absolute_ms=3 * self.moment)
        created = await store.create(new)
        await self._pass(1)
        await store.update(new.session_id, a_touch(new))
        await self._pass(1)
        await store.update(new.session_id, a_commit(new, idle_ms=HOUR, sets={"n": "1"}))
        assert (await present(store, new)).expires_ms == created.touched_ms + 3 * self.moment
        await self._pass(1.1)
        await self._is_over(store, new)

    @_story_of_time
    async def test_a_new_absolute_end_counts_from_the_commit(self, store: AsyncStore) -> None:
        new = a_record(idle_ms=HOUR, absolute_ms=2 * self.moment)
        await store.create(new)
        await self._pass(1)
        await store.update(new.session_id, a_commit(new, absolute_ms=2 * self.moment))
        await self._pass(1)
        await present(store, new)
        await self._pass(1.1)
        await self._is_over(store, new)

    @_story_of_time
    async def test_an_ended_session_leaves_nothing_to_a_new_one(self, store: AsyncStore) -> None:
        owner = "user " + new_operation_id()
        old = a_record(idle_ms=self.moment, absolute_ms=self.moment, owner=owner, fields={"old": "1", "both": "1"})
        await store.create(old)
        await store.update(old.session_id, a_commit(old, renewal=Renewal(secret_hash=a_secret(), grace_ms=HOUR)))
        await self._pass(1.1)
        new = a_record(session_id=old.session_id, fields={"both": "2"})
        assert (await store.create(new)).version == 1
        record = await present(store, new)
        assert (record.fields, record.owner, record.deadline_ms) == ({"both": "2"}, None, None)
        assert (record.secret_hash, record.version, record.operations) == (new.secret_hash, 1, new.operation)
        assert not record.accepts(old.secret_hash, record.read_at_ms)
        if isinstance(store, AsyncOwnerIndex):
            assert await store.sessions_of(owner) == []

    async def _is_over(self, store: AsyncStore, new: NewRecord) -> None:
        assert await store.read(new.session_id) is None
        for commit in _every_kind_of_commit(new):
            with pytest.raises(SessionGone):
                await store.update(new.session_id, commit)
        assert await store.read(new.session_id) is None
        if isinstance(store, AsyncOwnerIndex) and new.owner is not None:
            assert await store.sessions_of(new.owner) == []

    # --- whose sessions ----------------------------------------------------------------------------------------------

    @_story
    async def test_all_sessions_of_an_owner_are_found_the_latest_used_first(self, store: AsyncStore) -> None:
        index = _owner_index(store)
        owner, other = ("user 'é*{}[a]' " + new_operation_id() for _ in "12")
        mine = [a_record(owner=owner, fields={"n": str(n)}) for n in range(4)]
        for new in [*mine, a_record(owner=other), a_record(), a_record(owner=owner + "0")]:
            await store.create(new)
        await self._pass(0.1)
        await store.update(mine[1].session_id, a_touch(mine[1], owner=owner))
        await self._pass(0.1)
        await store.update(mine[2].session_id, a_commit(mine[2], owner=owner, sets={"n": "9"}))

        found = await index.sessions_of(owner)

        assert [record.session_id for record in found[:2]] == [mine[2].session_id, mine[1].session_id]
        assert {record.session_id for record in found} == {new.session_id for new in mine}
        touched = [record.touched_ms for record in found]
        assert touched == sorted(touched, reverse=True)
        for record in found:
            read = await store.read(record.session_id)
            assert read is not None
            assert without_time(record) == without_time(read)
            assert record.touched_ms == read.touched_ms <= record.read_at_ms <= read.read_at_ms
        assert await index.sessions_of("nobody " + new_operation_id()) == []

    @_story
    async def test_a_session_is_listed_under_its_present_owner_only(self, store: AsyncStore) -> None:
        index = _owner_index(store)
        before, after = ("user " + new_operation_id() for _ in "12")
        new, anonymous = a_record(owner=before), a_record()
        await store.create(new)
        await store.create(anonymous)
        await store.update(new.session_id, a_commit(new, owner=after))
        await store.update(anonymous.session_id, a_commit(anonymous, owner=after))
        assert await index.sessions_of(before) == []
        assert {each.session_id for each in await index.sessions_of(after)} == {new.session_id, anonymous.session_id}
        await store.delete(new.session_id)
        assert [each.session_id for each in await index.sessions_of(after)] == [anonymous.session_id]
        await store.delete(anonymous.session_id)
        assert await index.sessions_of(after) == []

    @_story
    async def test_many_sessions_of_one_owner_are_all_found(self, store: AsyncStore) -> None:
        index = _owner_index(store)
        owner = "user " + new_operation_id()
        sessions = [a_record(owner=owner) for _ in range(250)]
        await asyncio.gather(*map(store.create, sessions))
        await asyncio.gather(*(store.delete(new.session_id) for new in sessions[:50]))
        found = {record.session_id for record in await index.sessions_of(owner)}
        assert found == {new.session_id for new in sessions[50:]}

    @_story_of_time
    async def test_ended_sessions_are_not_listed_and_do_not_take_others_along(self, store: AsyncStore) -> None:
        index = _owner_index(store)
        owner = "user " + new_operation_id()
        short = a_record(owner=owner, idle_ms=self.moment)
        long = a_record(owner=owner, idle_ms=HOUR)
        await store.create(long)
        await store.create(short)
        await self._pass(1.1)
        for _ in range(2):
            assert [record.session_id for record in await index.sessions_of(owner)] == [long.session_id]

    # --- damage ------------------------------------------------------------------------------------------------------

    @_story
    async def test_what_is_no_record_is_called_corrupt_can_be_deleted_and_harms_no_other(
        self, store: AsyncStore
    ) -> None:
        bystander = a_record(fields={"n": "1"})
        await store.create(bystander)
        ways = list(self.corruptions(self._opened))
        if not ways:
            pytest.skip("this store names no way to damage a record: override `corruptions`")
        for corrupt in ways:
            victim = a_record()
            await corrupt(victim.session_id)
            with pytest.raises(CorruptRecord) as read:
                await store.read(victim.session_id)
            assert read.value.session_id == victim.session_id
            with pytest.raises((CorruptRecord, SessionGone)):
                await store.update(victim.session_id, a_commit(victim, sets={"n": "2"}))
            with pytest.raises(CorruptRecord):
                await store.read(victim.session_id)
            assert (await present(store, bystander)).fields == {"n": "1"}
            assert await store.delete(victim.session_id)
            assert await store.read(victim.session_id) is None

    # --- any history -------------------------------------------------------------------------------------------------

    def test_any_history_goes_as_the_model_says(self) -> None:
        """Random histories of several sessions, held against a plain model; see `StoreMachine`.

        How many and how long is up to hypothesis's settings profile.
        """
        contract = self

        class Machine(StoreMachine):
            def __init__(self) -> None:
                super().__init__(contract._open, contract._let_pass)

        patient = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
        run_state_machine_as_test(Machine, settings=settings(deadline=None, suppress_health_check=patient))

    # --- inside ------------------------------------------------------------------------------------------------------

    _opened: Any = None
    moment = moment_ms

    async def _open(self) -> AsyncStore:
        raise NotImplementedError

    @property
    def _clock_can_be_moved(self) -> bool:
        return type(self).advance is not StoreContract.advance

    async def _let_pass(self, ms: int) -> None:
        if self._clock_can_be_moved:
            self.advance(ms)
        else:
            await asyncio.sleep(ms / 1000)

    async def _pass(self, moments: float) -> None:
        await self._let_pass(round(moments * self.moment))

    async def _tell(
        self, tell: Callable[[Any, AsyncStore], Coroutine[Any, Any, None]], attempts: tuple[int, ...]
    ) -> None:
        for slower in attempts:
            self.moment = self.moment_ms * slower
            store = await self._open()
            try:
                await tell(self, store)
                return
            except (AssertionError, SessionGone, pytest.fail.Exception):
                if slower == attempts[-1]:
                    raise
            finally:
                await store.close()


class AsyncStoreContract(StoreContract):
    """The contract for an `AsyncStore`.

        class TestMyStore(AsyncStoreContract):
            def open_store(self):
                self.now = 1_800_000_000_000
                return MyStore(clock=lambda: self.now)

            def advance(self, ms):  # only if the store's clock can be moved
                self.now += ms

    Fixtures of pytest reach it the usual way: an `autouse` fixture that sets an attribute for `open_store` to use.
    """

    def open_store(self) -> AsyncStore | Awaitable[AsyncStore]:
        """A store, ready for use. May be a coroutine. Called in a running event loop, for each story; it is closed there."""
        raise NotImplementedError("override open_store")

    async def _open(self) -> AsyncStore:
        opened = self.open_store()
        store = await opened if inspect.isawaitable(opened) else opened
        self._opened = store
        return store

    # --- cancelling --------------------------------------------------------------------------------------------------

    @_story
    async def test_a_call_that_is_cancelled_at_any_step_leaves_the_store_usable(self, store: AsyncStore) -> None:
        new = a_record(fields={"a": "0", "b": "0"})
        await store.create(new)
        calls: list[Callable[[int], Coroutine[Any, Any, object]]] = [
            lambda n: store.update(new.session_id, a_commit(new, sets={"a": str(n), "b": str(n)})),
            lambda n: store.read(new.session_id),
            lambda n: store.create(a_record(fields={"n": str(n)})),
            lambda n: store.delete(a_record().session_id),
        ]
        before = (await present(store, new)).version
        for call in calls:
            for steps in range(60):
                task = asyncio.ensure_future(call(steps))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                record = await present(store, new)
                assert record.fields["a"] == record.fields["b"], "half of a commit"
                assert record.version >= before
                before = record.version
                if not task.cancelled():
                    break  # it ends within so few steps

    @_story
    async def test_cancelling_never_gives_an_answer_to_somebody_else(self, store: AsyncStore) -> None:
        chance = random.Random(7)  # noqa: S311
        sessions = [a_record(fields={"me": str(n)}) for n in range(20)]
        await asyncio.gather(*map(store.create, sessions))

        async def look(new: NewRecord) -> None:
            record = await store.read(new.session_id)
            assert record is not None
            assert (record.session_id, record.fields["me"]) == (new.session_id, new.fields["me"])

        async def count(new: NewRecord) -> None:
            applied = await store.update(new.session_id, a_commit(new, increments={"hits": 1, "me": 0}))
            assert applied.counters["me"] == int(new.fields["me"])

        for _ in range(15):
            tasks = [asyncio.ensure_future(chance.choice((look, count))(chance.choice(sessions))) for _ in range(40)]
            for task in chance.sample(tasks, 20):
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 1000)
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                    raise outcome
        for new in sessions:
            record = await present(store, new)
            assert (record.session_id, record.fields["me"]) == (new.session_id, new.fields["me"])
            assert int(record.fields.get("hits", "0")) == record.version - 1

    def test_a_closed_store_leaves_no_task_behind(self) -> None:
        """Whatever a store started, it ends when it is closed."""

        async def use_and_close() -> None:
            store = await self._open()
            new = a_record()
            await store.create(new)
            calls = [asyncio.ensure_future(store.read(new.session_id)) for _ in range(20)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await store.close()
            for _ in range(5):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(use_and_close())


class SyncStoreContract(StoreContract):
    """The contract for a `SyncStore`. Each call is made on another thread, and calls at once on several.

        class TestMyStore(SyncStoreContract):
            def open_store(self):
                return MyStore("https://store.example/")

    `advance` and `corruptions` are as for `AsyncStoreContract`.
    """

    def open_store(self) -> SyncStore:
        """A store, ready for use; called for each story, and closed after it."""
        raise NotImplementedError("override open_store")

    async def _tell(
        self, tell: Callable[[Any, AsyncStore], Coroutine[Any, Any, None]], attempts: tuple[int, ...]
    ) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # threads take turns as often as they can, or a missing lock would hardly show
        try:
            await super()._tell(tell, attempts)
        finally:
            sys.setswitchinterval(usual)

    async def _open(self) -> AsyncStore:
        store = self._opened = self.open_store()
        return _ThreadedWithIndex(store) if isinstance(store, SyncOwnerIndex) else _Threaded(store)


class _Threaded:
    """A synchronous store as an asynchronous one."""

    def __init__(self, store: SyncStore) -> None:
        self._store = store

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return await asyncio.to_thread(self._store.create, new, timeout=timeout)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        return await asyncio.to_thread(self._store.read, session_id, timeout=timeout)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return await asyncio.to_thread(self._store.update, session_id, changes, timeout=timeout)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return await asyncio.to_thread(self._store.delete, session_id, timeout=timeout)

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)


class _ThreadedWithIndex(_Threaded):
    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return await asyncio.to_thread(cast(SyncOwnerIndex, self._store).sessions_of, owner, timeout=timeout)


async def present(store: AsyncStore, new: NewRecord) -> Record:
    """The live record of this session, which must be there."""
    record = await store.read(new.session_id)
    assert record is not None, "the session is not there"
    assert record.session_id == new.session_id
    return record


def without_time(record: Record) -> dict[str, object]:
    """All that must stay the same between two looks at a session that nobody changed."""
    told = record.as_dict()
    del told["read_at_ms"], told["touched_ms"]
    return told


def _every_kind_of_commit(new: NewRecord) -> list[Changes]:
    return [
        a_touch(new),
        a_touch(new, renewal=Renewal(secret_hash=a_secret(), grace_ms=HOUR, replaces=new.secret_hash)),
        a_commit(new, sets={"n": "1"}),
        a_commit(new, deletes=("n",)),
        a_commit(new, increments={"hits": 1}),
        a_commit(new, retain=()),
        a_commit(new, renewal=Renewal(secret_hash=a_secret())),
        a_commit(new, owner="user-8", absolute_ms=HOUR),
        a_commit(new, sets={"n": "1"}, retry=True),
    ]


def _owner_index(store: AsyncStore) -> AsyncOwnerIndex:
    if not isinstance(store, AsyncOwnerIndex):
        pytest.skip("this store keeps no index of owners, which is optional")
    return store
