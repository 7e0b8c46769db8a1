"""What each verb of the store sends, and what is done when an answer does not come. Pure: nothing here waits.

A verb is one `Exchange`, or several one after the other: `Steps`, a generator that yields each exchange and is sent its
answer, or thrown what went wrong. The stores, sync and async, carry them out and do nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, Generic, TypeAlias, TypeVar

from msgspec.structs import replace

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.clock import monotonic
from coatcheck.errors import CorruptRecord, OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.record import Record, is_text
from coatcheck.stores.redis.commands import Commands, together
from coatcheck.stores.redis.confirming import CONFIRMATION, Unconfirmed, awaits_replica, is_confirmed
from coatcheck.stores.redis.gate import RetryBudget
from coatcheck.stores.redis.layout import Layout, ScriptUnknown, with_script_text
from coatcheck.stores.redis.near import GONE, NearCache, freshness_token
from coatcheck.stores.redis.transport import ExchangeFailed, Read, Told
from coatcheck.ticket import is_session_id

T = TypeVar("T")


class Exchange(Generic[T]):
    """Commands that go out together.

    Attributes:
        session_id: whom they concern, for messages; `""` if nobody in particular.
        commands: what to send.
        read: makes the answer of the replies.
        again: for a commit, which must take effect once, the commands with which to repeat it: they say that they are a
            repeat, and have the same operation id. `None` for commands that may be repeated as they are.
    """

    __slots__ = ("again", "commands", "read", "session_id")

    def __init__(
        self,
        session_id: str,
        commands: Commands,
        read: Read[T],
        again: Callable[[], Commands] | None = None,
    ) -> None:
        self.session_id = session_id
        self.commands = commands
        self.read = read
        self.again = again


Steps: TypeAlias = Generator[Exchange[Any], Any, T]


class Verbs:
    """The store contract in terms of exchanges.

    Args:
        layout: key names, commands and replies.
        confirmed: whether a commit counts only when a replica has it too.
        near: what keeps records that were read, if anything does.

    Attributes:
        budget: what may be repeated.
    """

    def __init__(self, layout: Layout, *, confirmed: bool = False, near: NearCache | None = None) -> None:
        self.layout = layout
        self.near = near
        self.budget = RetryBudget()
        self._confirmation = [CONFIRMATION] if confirmed else []

    def create(self, new: NewRecord) -> Exchange[Applied]:
        commands = [self.layout.create(new)]
        if new.owner is not None:
            # First the index: an entry without a session is repaired when read, a session without entry would be missed.
            commands.insert(0, self.layout.own(new.owner, new.session_id, new.absolute_ms or new.idle_ms))

        def read(replies: list[Any]) -> Applied:
            applied = self.layout.created(new, replies)
            return applied if self.near is None else replace(applied, seen=freshness_token(applied))

        return self._confirmed(Exchange(new.session_id, commands, read, lambda: commands))

    def read(self, session_id: str) -> Exchange[Record | None]:
        return Exchange(session_id, self.layout.read(session_id), _Reading(self, session_id).read)

    def update(self, session_id: str, changes: Changes) -> Exchange[Applied]:
        if not is_session_id(session_id):  # the script would not know where it ends
            raise SessionGone(session_id)
        updating = _Updating(self.layout, session_id, changes)
        exchange = Exchange(session_id, updating.commands(), updating.read, updating.again)
        return self._confirmed(exchange if self.near is None else self._kept_near(exchange, changes, self.near))

    def delete(self, session_id: str) -> Steps[bool]:
        def read(replies: list[Any]) -> tuple[bool, str | None]:
            self.layout.good(session_id, replies[1:])  # the first may fail: what is no hash can be deleted too
            return self.layout.deleted(session_id, replies)

        if self.near is not None:
            self.near.drop(session_id)
        removal = self._confirmed(Exchange(session_id, self.layout.delete(session_id), read))
        existed: bool
        try:
            existed, owner = yield removal
        except (ExchangeFailed, ScriptUnknown) as trouble:
            _, owner = yield from self.rescue(removal, trouble)
            existed = True  # as far as anybody knows: the first try may have removed it
        else:
            self.budget.successes += 1
        if self.near is not None:
            self.near.changed(session_id, GONE, monotonic())
        if owner is not None:
            with suppress(StoreUnavailable):  # the session is gone, which is what counts; the index repairs itself
                yield from self.surely(Exchange("", [self.layout.left(owner, session_id)], _nothing))
        return existed

    def sessions_of(self, owner: str) -> Steps[list[Record]]:
        def read(replies: list[Any]) -> list[str]:
            return self.layout.listed(owner, self.layout.good("", replies))

        if not is_text(owner):
            return []
        session_ids = yield from self.surely(Exchange("", self.layout.owned(owner), read))
        records, missing = [], []
        for first in range(0, len(session_ids), _BATCH):
            batch = session_ids[first : first + _BATCH]
            found = yield from self.surely(self._read_all(batch))
            for session_id, record in zip(batch, found, strict=True):
                if record is not None and record.owner == owner:
                    records.append(record)
                else:
                    missing.append(session_id)
        if missing:
            with suppress(StoreUnavailable, CorruptRecord):  # the list is complete, and the next one repairs the index
                repair = Exchange(
                    "", [self.layout.disown(owner, missing)], lambda replies: self.layout.good("", replies)
                )
                yield from self.surely(repair)
        return sorted(records, key=lambda record: record.touched_ms, reverse=True)

    def rescue(self, exchange: Exchange[T], trouble: ExchangeFailed | ScriptUnknown) -> Steps[T]:
        """What is left to be done after an exchange failed: repeat it, if that is allowed, or say why not.

        This is the only layer that repeats what may have been carried out, and only when a connection broke on which it
        had been sent, or when the server did not know a script: while the server is down nothing is repeated. What
        surely was not carried out is the topology's to send to the right server.

        Raises:
            StoreUnavailable, OutcomeUnknown: it could not be carried out, or nobody knows whether it was.
        """
        session_id, again = exchange.session_id, exchange.again
        commands = exchange.commands
        sent = isinstance(trouble, ExchangeFailed) and trouble.sent
        try:
            if isinstance(trouble, ScriptUnknown):  # a restarted server has forgotten the scripts
                if trouble.committed and again is not None:
                    commands = again()
                commands = [with_script_text(command) for command in commands]
            elif not (trouble.worth_repeating and not awaits_replica(commands) and self.budget.spend()):
                raise trouble  # why one that awaits a replica is not repeated is told in `confirming`
            elif again is not None:
                commands = again()
            try:
                answer: T = yield Exchange(session_id, commands, exchange.read)
            except ScriptUnknown:  # it was restarted in between
                commands = [with_script_text(command) for command in commands]
                answer = yield Exchange(session_id, commands, exchange.read)
        except ExchangeFailed as failed:
            store = self.layout.store
            if (again is not None or awaits_replica(commands)) and (sent or failed.sent):
                raise OutcomeUnknown(store, session_id, str(failed)) from failed
            raise StoreUnavailable(store, str(failed)) from failed
        self.budget.successes += 1
        return answer

    def _kept_near(self, exchange: Exchange[Applied], changes: Changes, near: NearCache) -> Exchange[Applied]:
        """The same commit, after which the session is read again in the same round trip, and kept.

        What the server answers to that is as true as any answer, whoever else has changed the session meanwhile. Nothing is
        read on a connection for commits that wait for a replica: changes would be announced there, where nobody listens.
        """
        session_id, commands = exchange.session_id, exchange.commands
        near.drop(session_id)  # what is there will soon be wrong, and nobody may live to hear of it

        def read(replies: list[Any]) -> Applied:
            applied = exchange.read(replies[: len(commands)])
            near.changed(session_id, applied.version, monotonic())
            if len(replies) > len(commands) and type(replies) is Told:
                record = None
                with suppress(CorruptRecord, StoreUnavailable):  # that is for whoever reads it next
                    record = self.layout.just_touched(session_id, replies[-1])
                if record is not None:
                    near.keep(record, replies)
            # A mere touch is nothing to be seen.
            return replace(applied, seen=freshness_token(applied) if changes.operation else changes.seen)

        if self._confirmation:
            return Exchange(session_id, commands, read, exchange.again)
        return Exchange(session_id, together(commands, self.layout.fields(session_id)), read, exchange.again)

    def _confirmed(self, exchange: Exchange[T]) -> Exchange[T]:
        """The same commit, confirmed by a replica if that is wanted."""
        if not self._confirmation:
            return exchange

        def read(replies: list[Any]) -> T:
            confirmed = is_confirmed(replies[-1])
            try:
                answer = exchange.read(replies[:-1])
            except ScriptUnknown as unknown:
                if unknown.committed and not confirmed:  # what is repeated would write nothing more to be confirmed
                    raise Unconfirmed(replies[-1]) from None
                raise
            if not confirmed:
                raise Unconfirmed(replies[-1])
            return answer

        commands, again = exchange.commands, exchange.again
        return Exchange(
            exchange.session_id,
            [*commands, *self._confirmation],
            read,
            None if again is None else lambda: [*again(), *self._confirmation],
        )

    def surely(self, exchange: Exchange[T]) -> Steps[T]:
        """One exchange, and `rescue` if it fails."""
        try:
            answer: T = yield exchange
        except (ExchangeFailed, ScriptUnknown) as trouble:
            return (yield from self.rescue(exchange, trouble))
        self.budget.successes += 1
        return answer

    def _read_all(self, session_ids: list[str]) -> Exchange[list[Record | None]]:
        def read(replies: list[Any]) -> list[Record | None]:
            found: list[Record | None] = []
            for at, session_id in enumerate(session_ids):
                try:
                    found.append(self.layout.record(session_id, replies[2 * at : 2 * at + 2]))
                except CorruptRecord:
                    found.append(None)
            return found

        return Exchange("", [part for each in session_ids for part in self.layout.read(each)], read)


class _Reading:
    """Makes the record of the replies to a read."""

    __slots__ = ("_session_id", "_verbs")

    def __init__(self, verbs: Verbs, session_id: str) -> None:
        self._verbs = verbs
        self._session_id = session_id

    def read(self, replies: list[Any]) -> Record | None:
        record = self._verbs.layout.record(self._session_id, replies)
        if record is not None and self._verbs.near is not None:
            self._verbs.near.keep(record, replies)
        return record


class _Updating:
    """The commands of a commit, and what their replies mean."""

    __slots__ = ("_changes", "_layout", "_session_id")

    def __init__(self, layout: Layout, session_id: str, changes: Changes) -> None:
        self._layout = layout
        self._session_id = session_id
        self._changes = changes

    def commands(self) -> Commands:
        changes = self._changes
        update = self._layout.update(self._session_id, changes)
        if changes.owner is None:
            return update
        return [
            self._layout.own(changes.owner, self._session_id, changes.absolute_ms or changes.idle_ms),
            *update,
        ]

    def again(self) -> Commands:
        return _Updating(self._layout, self._session_id, self._changes.again()).commands()

    def read(self, replies: list[Any]) -> Applied:
        return self._layout.updated(self._session_id, self._changes, replies)


def _nothing(_: list[Any]) -> None:
    """Reads no answer at all."""


_BATCH: Final = 100
"""How many sessions of an owner are read in one round trip."""
