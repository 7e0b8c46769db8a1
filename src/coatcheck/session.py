"""The session that a handler works with: a mapping that knows what was read, set, deleted and incremented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from mypy_extensions import mypyc_attr

from coatcheck.changes import Applied
from coatcheck.codec import COUNTER_RANGE, Codec
from coatcheck.errors import BadFieldName, NotACounter, NotLoaded, TooLate, UnreadableField
from coatcheck.maps import FieldMap
from coatcheck.record import Record, is_text, retained
from coatcheck.tags import IMMUTABLE
from coatcheck.ticket import Ticket

_IMMUTABLE: Final = IMMUTABLE  # compiled code looks for no name that is Final


@mypyc_attr(acyclic=True)
class Delta:
    """What a handler did to a session's fields. No field is in more than one of sets, deletes and increments."""

    __slots__ = ("deletes", "increments", "retain", "sets")

    def __init__(
        self, retain: tuple[str, ...] | None, sets: dict[str, str], deletes: tuple[str, ...], increments: dict[str, int]
    ) -> None:
        self.retain = retain
        self.sets = sets
        self.deletes = deletes
        self.increments = increments

    def __bool__(self) -> bool:
        return bool(self.sets or self.deletes or self.increments or self.retain is not None)


NO_DELTA: Final = Delta(None, {}, (), {})


class _Pending:
    """Changes that no store has yet: values set with their encodings, those of them that may be changed in place after that,
    names deleted, addends, and what a clearing spares."""

    __slots__ = ("added", "deleted", "mutable", "retain", "texts", "written")

    def __init__(self) -> None:
        self.written: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self.mutable: set[str] = set()
        self.deleted: set[str] = set()
        self.added: dict[str, int] = {}
        self.retain: tuple[str, ...] | None = None

    def then(self, later: _Pending) -> _Pending:
        """Both, one after the other."""
        both = _Pending()
        if later.retain is None:
            both.written = {name: it for name, it in self.written.items() if name not in later.deleted} | later.written
            both.texts = {name: it for name, it in self.texts.items() if name not in later.deleted} | later.texts
            both.mutable = self.mutable | later.mutable
            both.deleted = (self.deleted - later.written.keys()) | later.deleted
            settled = both.written.keys() | both.deleted
            both.added = {name: by for name, by in self.added.items() if name not in settled}
            both.retain = self.retain
        else:  # everything was cleared in between
            both.written, both.texts, both.deleted = later.written, later.texts, later.deleted
            both.mutable = later.mutable
            both.retain = later.retain if self.retain is None else tuple(set(later.retain) & set(self.retain))
        for name, by in later.added.items():
            if name in both.written:
                both.written[name] += by
                both.texts[name] = str(both.written[name])
            elif name in both.deleted:  # it counted from 0, and no field may be both deleted and added to
                both.deleted.discard(name)
                both.written[name] = by
                both.texts[name] = str(by)
            else:
                both.added[name] = both.added.get(name, 0) + by
        return both

    def drop(self, name: str) -> None:
        self.written.pop(name, None)
        self.texts.pop(name, None)
        self.added.pop(name, None)


class Before:
    """What a session was before `Session.advance`; only `Session.take_back` looks into it."""

    __slots__ = ("ended", "fields", "owner", "pending", "record", "renew", "seen", "ticket", "unchanged")

    def __init__(self, session: Session) -> None:
        self.ticket = session.ticket
        self.record = session._record
        self.fields = session._fields
        self.seen = session._seen
        self.pending = session._pending
        self.renew = session._renew
        self.unchanged = session._unchanged
        self.owner = session._owner
        self.ended = session._ended


@mypyc_attr(allow_interpreted_subclasses=True)
class Session(MutableMapping[str, Any]):
    """One user's session, as a mapping of field names to values.

    Fields are decoded when they are first looked at. Changes are tracked per field, values changed in place included,
    and reach the store when the request ends, so two requests that change different fields never undo one another.

    A field's name is any non-empty string that does not begin with `@`. Values are what `coatcheck.codec` can carry.
    """

    # What a handler passes is annotated as Any where we say ourselves what is wrong with it: compiled code would refuse it
    # by its annotation, in words of its own.

    __slots__ = (
        "_codec",
        "_ended",
        "_fields",
        "_first_look",
        "_owner",
        "_pending",
        "_record",
        "_renew",
        "_sealed",
        "_seen",
        "_unchanged",
        "_undeliverable",
        "_unreadable",
        "_watched",
        "looked_at",
        "ticket",
    )

    def __init__(self, codec: Codec, ticket: Ticket | None = None) -> None:
        self._codec = codec
        self.ticket = ticket  # the one that the browser shows, or will
        self._record: Record | None = None
        # A session whose browser shows a ticket is loaded from the store first; until then it has no fields to show.
        self._fields: dict[str, str] | None = {} if ticket is None else None
        self._seen: dict[str, Any] = {}  # stored fields, decoded
        self._watched: dict[str, Any] | None = None  # those of them that may be changed in place
        self._pending: _Pending | None = None
        self._unreadable: dict[str, UnreadableField] | None = None
        self.looked_at = (
            False  # whether the handler looked at it in any way, so that the response depends on the cookie
        )
        self._first_look: Callable[[], None] | None = None  # called at a first look, which it may refuse
        self._renew = False
        self._owner: str | None = None
        self._unchanged = False
        self._ended: str | None = None  # id of the session that destroy() ended, until the store has deleted it
        self._sealed: TooLate | None = None  # why nothing can be changed any more
        self._undeliverable: TooLate | None = None  # why no new ticket can reach the browser any more

    # --- the mapping -------------------------------------------------------------------------------------------------

    def __getitem__(self, name: Any) -> Any:
        """The field's value. `KeyError` if there is none; `UnreadableField`, a `KeyError`, if it cannot be decoded."""
        fields = self._fields
        if fields is None or not self.looked_at:
            fields = self._look()
        pending = self._pending
        if pending is not None:
            if name in pending.written:
                return pending.written[name]
            if name in pending.deleted:
                raise KeyError(name)
            if name in pending.added:
                return self._decoded(fields, name, absent=0) + pending.added[name]
        return self._decoded(fields, name)

    def get(self, name: Any, default: Any = None) -> Any:
        """The field's value; `default` if there is none, or none that can be decoded."""
        try:
            return self[name]
        except KeyError:
            return default

    def __setitem__(self, name: Any, value: Any) -> None:
        """Set a field. Raises `UnstorableValue` at once for a value that would not come back unchanged."""
        pending = self._change_of(name)
        pending.texts[name] = self._codec.encode(self._session_id_to_be(), name, value)
        pending.written[name] = value
        if type(value) not in _IMMUTABLE:
            pending.mutable.add(name)
        pending.added.pop(name, None)
        pending.deleted.discard(name)

    def __delitem__(self, name: Any) -> None:
        fields = self._look()
        if not self._has(fields, name):
            raise KeyError(name)
        pending = self._change_of(name)
        pending.drop(name)
        if name in fields:
            pending.deleted.add(name)

    def __iter__(self) -> Iterator[str]:
        """The names of the fields that can be read: those of the store first, then those of this request."""
        fields = self._look()
        return iter([name for name in self._names(fields) if self._readable(fields, name)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        fields = self._look()
        return isinstance(name, str) and self._has(fields, name) and self._readable(fields, name)

    def clear(self) -> None:
        """Remove all fields, entries of maps and fields that this request has not seen included."""
        self._change()
        self._pending = _Pending()
        self._keep_only(())

    # --- what a mapping lacks ----------------------------------------------------------------------------------------

    def increment(self, name: Any, by: Any = 1) -> int:
        """Add `by` (may be negative) to an integer field, exactly, however many requests do so at once.

        A field that does not exist counts from 0.

        Returns:
            the sum as this request sees it. Others may add at the same time; `session[name]` is exact once the
            request has committed.

        Raises:
            NotACounter: the field holds something else, or the sum would leave 64 bits.
        """
        if type(by) is not int:
            raise TypeError(f"session field {name!r} is incremented by an int, not by {type(by).__qualname__}")
        pending = self._change_of(name)
        heals = False
        try:
            value = self[name] if self._has(self._look(), name) else 0
        except UnreadableField:  # it counts as absent, so it counts from 0, and is healed
            value, heals = 0, True
        if type(value) is not int:
            raise NotACounter(name, f"it holds a {type(value).__qualname__}")
        total = value + by
        added = pending.added.get(name, 0) + by
        if total not in COUNTER_RANGE or added not in COUNTER_RANGE:
            raise NotACounter(name, "the result would not fit into 64 bits")
        if heals or name in pending.written or name in pending.deleted or self._record is None:
            self[name] = total
        else:
            pending.added[name] = added
        return total

    def map(self, name: Any) -> FieldMap:
        """A map whose entries are fields of their own, so that two requests that change two entries both count.

        The entry `sku-42` of the map `cart` is the field `cart[sku-42]`. An ordinary dict in a field is one value:
        of two requests that change it at once the later wins.
        """
        if not isinstance(name, str) or not name or "[" in name or name.startswith("@"):
            raise ValueError(f"map name {name!r}: use a non-empty name without '[' that does not begin with '@'")
        return FieldMap(self, name)

    def renew(self, *, owner: Any = None, keep: Any = ()) -> None:
        """Give the browser a new ticket and end the old one at once, on every server. The session id stays.

        Call it wherever somebody's rights change. At login pass `owner`: the fields that were stored for somebody
        else (usually nobody) are dropped, so that nothing planted before the login survives it, and the absolute
        timeout starts anew. Fields that this request sets stay.

        Args:
            owner: whose session this is from now on, for instance a user id.
            keep: fields and maps to carry over to a new owner, or `True` for all.
        """
        pending = self._change()
        if self._undeliverable is not None:
            raise self._undeliverable.anew()
        if owner is not None:
            if not isinstance(owner, str) or not owner or not is_text(owner):
                raise ValueError(f"owner={owner!r}: use a non-empty string, such as the user's id")
            if owner != self.owner and keep is not True:
                names = () if keep is False else (keep,) if isinstance(keep, str) else tuple(keep)
                for name in names:
                    if not isinstance(name, str) or not is_text(name):
                        raise BadFieldName(name)
                pending.added = {name: by for name, by in pending.added.items() if retained({name: ""}, names)}
                self._keep_only(names)
            self._owner = owner
        self._renew = True

    def destroy(self) -> None:
        """End the session: delete its record and take the ticket back. Final, whatever other requests still do.

        What is set afterwards begins a new session with a new id.
        """
        self._change()
        if self._record is not None:
            self._ended = self._record.session_id
        self.ticket = self._record = self._pending = self._owner = None
        self._fields, self._seen, self._watched = {}, {}, None
        self._renew = self._unchanged = False

    def require_unchanged(self) -> None:
        """Commit only if no other request has changed the session since this one read it; else raise `Conflict`."""
        self._look()
        self._unchanged = True

    @property
    def session_id(self) -> str | None:
        """The session's id, which may be logged; `None` until the session has been stored."""
        return None if self._record is None else self._record.session_id

    @property
    def is_new(self) -> bool:
        """Whether the store has no record of this session yet."""
        self._look()
        return self._record is None

    @property
    def owner(self) -> str | None:
        """Whose session it is, as given to `renew(owner=…)`; `None` for an anonymous one."""
        self._look()
        return self._owner or (None if self._record is None else self._record.owner)

    @property
    def created_at(self) -> datetime | None:
        """When the session was created, by the store's clock; `None` until it has been stored."""
        self._look()
        return None if self._record is None else datetime.fromtimestamp(self._record.created_ms / 1000, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When the session ends unless it is used, by the store's clock; `None` until it has been stored."""
        self._look()
        return None if self._record is None else datetime.fromtimestamp(self._record.expires_ms / 1000, UTC)

    def __repr__(self) -> str:
        """The id and the names of the fields. Never a value: they are somebody's."""
        if self._fields is None:
            return f"<{type(self).__name__} not loaded>"
        return f"<{type(self).__name__} {self.session_id or 'new'}: {', '.join(self._names(self._fields)) or 'empty'}>"

    # --- for the lifecycle and the manager ---------------------------------------------------------------------------

    def delta(self) -> Delta:
        """What this request changed, compared with what it was given. Raises `UnstorableValue` for a value in the way."""
        if self._pending is None and self._watched is None:
            return NO_DELTA
        pending = self._pending or _Pending()
        sets = pending.texts.copy()
        for name in pending.mutable & pending.written.keys():
            sets[name] = self._codec.encode(self._session_id_to_be(), name, pending.written[name])
        if self._watched is not None:
            for name, value in self._watched.items():
                if name not in sets and name not in pending.deleted:
                    text = self._codec.encode(self._session_id_to_be(), name, value)
                    if text != self.stored_fields[name] and text != self._as_we_write_it(name):
                        sets[name] = text
        return Delta(pending.retain, sets, tuple(pending.deleted), pending.added.copy())

    @property
    def stored_fields(self) -> dict[str, str]:
        """The encoded fields as the store has them, without those that a new owner or `clear()` dropped."""
        return self._fields or {}

    def admit(self, record: Record | None) -> None:
        """Take the record that the ticket opens; `None` if it opens none. A ticket that opens nothing is never adopted."""
        if self._fields is not None:  # it is read again: what was changed and not committed is dropped
            self._pending = self._watched = self._owner = None
            self._renew = self._unchanged = False
            self._seen = {}
        self._record = record
        if record is None:
            self._fields = {}
            self.ticket = None
        else:
            self._fields = record.fields

    def advance(self, delta: Delta) -> Before:
        """Count `delta` as done, while the store is still at work on it: what is changed from now on comes on top.

        Returns:
            what `take_back` needs.
        """
        before = Before(self)
        fields = self.stored_fields | delta.sets
        seen, pending = self._seen, self._pending
        if pending is not None:
            seen = seen | pending.written
            for name in delta.deletes:
                fields.pop(name, None)
            for name in delta.increments:
                fields[name] = str(self[name])
            if delta.deletes or delta.increments or pending.retain is not None:
                seen = {name: it for name, it in seen.items() if name in fields and name not in delta.increments}
        self._see(fields, seen)
        self._pending = self._owner = self._ended = None
        self._renew = self._unchanged = False
        return before

    def take_back(self, before: Before) -> None:
        """The store refused: all is to be done as if it had never been tried, and what has been done since on top."""
        self._ended = before.ended or self._ended
        if self.ticket is not before.ticket or self._record is not before.record:
            return  # destroyed or read anew meanwhile: there is nothing left to go back to
        later, fields = self._pending, before.fields or {}
        # What has been decoded since is in the handler's hands, and may have been changed in place.
        written = before.pending.written if before.pending is not None else {}
        seen = {name: it for name, it in self._seen.items() if name in fields and name not in written} | before.seen
        self._pending = before.pending if later is None or before.pending is None else before.pending.then(later)
        self._pending = self._pending or later
        self._renew = before.renew or self._renew
        self._unchanged = before.unchanged
        self._owner = self._owner or before.owner
        if later is not None and later.retain is not None:
            fields = retained(fields, later.retain)
            seen = {name: it for name, it in seen.items() if name in fields}
        self._see(fields, seen)

    def settle(self, record: Record, applied: Applied) -> None:
        """Take note that the store has `record`, after `advance`; counters are exact from here on."""
        fields = self.stored_fields
        for name, total in applied.counters.items():
            if name in fields:
                fields[name] = str(total)
                self._seen.pop(name, None)
        record.fields = fields
        self._record = record

    def end_also(self, session_id: str) -> None:
        """A record that has come into being for a session which was destroyed meanwhile: the next commit deletes it."""
        self._ended = session_id

    def close(self, change: TooLate | None, ticket: TooLate | None) -> None:
        """From now on every change raises `change`; whatever needs a new ticket (a new session or a renewal), `ticket`."""
        self._sealed = change
        self._undeliverable = ticket

    def unseal(self) -> None:
        """From now on changes are allowed again."""
        self._sealed = None

    @property
    def ended(self) -> bool:
        """Whether the handler destroyed the session, and the store has not been told yet."""
        return self._ended is not None

    @property
    def renewing(self) -> bool:
        """Whether the handler asked for a new ticket, and the store has not been told yet."""
        return self._renew

    @property
    def at_rest(self) -> bool:
        """Whether the store has been told of everything: nothing was changed, nor can have been in place."""
        return self._pending is None and self._watched is None and not self._renew and self._ended is None

    @property
    def sealed(self) -> bool:
        """Whether changes are refused."""
        return self._sealed is not None

    def guard_first_look(self, check: Callable[[], None]) -> None:
        """From now on a first look calls `check`, which may raise."""
        self._first_look = check

    @property
    def loaded(self) -> bool:
        """Whether the stored session, if there is one, has been read."""
        return self._fields is not None

    @property
    def unreadable_fields(self) -> bool:
        """Whether fields that could not be decoded wait to be reported."""
        return self._unreadable is not None

    def take_unreadable(self) -> list[UnreadableField]:
        """The fields that could not be decoded since this was last asked."""
        errors, self._unreadable = self._unreadable, None
        return [] if errors is None else list(errors.values())

    # --- inside ------------------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, str]:
        """Note that the handler looks at the session, and give its stored fields."""
        if not self.looked_at:
            if self._first_look is not None:
                self._first_look()
            self.looked_at = True
        if self._fields is None:
            raise NotLoaded
        return self._fields

    def _change(self) -> _Pending:
        """Where to note a change; refused if none can be made any more."""
        self._look()
        if self._sealed is not None:
            raise self._sealed.anew()
        if self._undeliverable is not None and self._record is None:
            raise self._undeliverable.anew()
        if self._pending is None:
            self._pending = _Pending()
        return self._pending

    def _change_of(self, name: Any) -> _Pending:
        """Where to note a change of this field; refused also if `name` cannot name one."""
        pending = self._change()
        if not isinstance(name, str) or not name or name[0] == "@":
            raise BadFieldName(name)
        if not name.isascii() and not is_text(name):
            raise BadFieldName(name)
        return pending

    def _names(self, fields: dict[str, str]) -> dict[str, None]:
        """The names of all fields as they are after this request's changes, in order."""
        pending = self._pending or _Pending()
        names = dict.fromkeys(name for name in fields if name not in pending.deleted and name[:1] != "@")
        names.update(dict.fromkeys(pending.written))
        names.update(dict.fromkeys(pending.added))
        return names

    def _has(self, fields: dict[str, str], name: Any) -> bool:
        pending = self._pending
        if pending is not None:
            if name in pending.written or name in pending.added:
                return True
            if name in pending.deleted:
                return False
        return name in fields and name[:1] != "@"

    def _readable(self, fields: dict[str, str], name: str) -> bool:
        pending = self._pending
        if pending is not None and (name in pending.written or name in pending.added):
            return True
        try:
            self._decoded(fields, name)
        except UnreadableField:
            return False
        return True

    def _decoded(self, fields: dict[str, str], name: Any, absent: int | None = None) -> Any:
        """The value of a stored field, decoded once; `absent`, or `KeyError` without it, if there is no such field."""
        seen = self._seen
        if name in seen:
            return seen[name]
        text = fields.get(name)
        if text is None or name[:1] == "@":
            if absent is None:
                raise KeyError(name)
            return absent
        session_id = self._session_id_to_be()
        try:
            value = seen[name] = self._codec.decode(session_id, name, text)
        except ValueError as problem:
            error = UnreadableField(name, session_id, str(problem))
            self._unreadable = {**(self._unreadable or {}), name: error}
            raise error from None
        if type(value) not in _IMMUTABLE:
            if self._watched is None:
                self._watched = {}
            self._watched[name] = value
        return value

    def _as_we_write_it(self, name: str) -> str:
        """A stored text in our own spelling: another language may space or order it differently."""
        session_id = self._session_id_to_be()
        value = self._codec.decode(session_id, name, self.stored_fields[name])
        return self._codec.encode(session_id, name, value)

    def _see(self, fields: dict[str, str], seen: dict[str, Any]) -> None:
        """From now on these are the stored fields, and those of them that are decoded."""
        self._fields, self._seen = fields, seen
        self._watched = {name: it for name, it in seen.items() if type(it) not in _IMMUTABLE} or None

    def _session_id_to_be(self) -> str:
        """The id that the record has or will have. The ticket of a new session is made when it is first needed."""
        if self.ticket is None:
            self.ticket = Ticket.new()
        return self.ticket.session_id

    def _keep_only(self, names: tuple[str, ...]) -> None:
        """Drop every stored field but the named ones, here and, when committed, in the store."""
        pending = self._pending
        if self._record is None or pending is None:
            return
        if pending.retain is not None:
            names = tuple(name for name in names if name in pending.retain)
        pending.retain = names
        fields = retained(self._fields or {}, names)
        self._see(fields, {name: value for name, value in self._seen.items() if name in fields})
        pending.deleted &= fields.keys()
