"""What a store keeps of a session, and what can be done to it.

All times are whole milliseconds of **the store's own clock** since 1970, because web servers' clocks disagree. A record that
has been read carries the moment of reading on that same clock, so nothing above the stores ever asks what time it is.

The operations on a `Record` in this module are the meaning of the store contract. A store either calls them (memory) or
does the same in its server's language (Lua, SQL); the contract suite holds both against an independent model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

from mypy_extensions import mypyc_attr

from coatcheck.changes import Applied, Changes, NewRecord, discreet
from coatcheck.codec import COUNTER_RANGE
from coatcheck.errors import Conflict, NotACounter, SessionGone
from coatcheck.ticket import same_hash

OPERATIONS_REMEMBERED: Final = 8
"""How many commits a record remembers by id, so that a repeated one changes nothing."""

_NAMES: Final = (
    "session_id", "secret_hash", "version", "created_ms", "renewed_ms", "touched_ms", "idle_ms", "read_at_ms",
    "deadline_ms", "previous_hash", "previous_until_ms", "owner", "operations", "fields",
)  # fmt: skip


@mypyc_attr(acyclic=True)
class Record:
    """A session as the store has it.

    Attributes:
        session_id: names the record. A store checks that it is the one asked for before it hands the record out.
        secret_hash: of the present ticket's secret, 44 characters of base64.
        version: 1 at creation, one more with every commit that changed something. A mere touch is no change.
        created_ms: when the record was created.
        renewed_ms: when the present secret was issued.
        touched_ms: when the session was last touched or written.
        idle_ms: the idle timeout that counts from `touched_ms`.
        deadline_ms: the absolute end, or `None`.
        previous_hash: the secret before the last renewal, valid until `previous_until_ms`; or `None`.
        previous_until_ms: see `previous_hash`.
        owner: whose session it is, or `None`.
        operations: ids of the last commits, 8 characters each, one after the other, oldest first; at most
            `OPERATIONS_REMEMBERED`.
        fields: name to encoded value.
        read_at_ms: the store's clock when this record was read.
    """

    __slots__ = _NAMES

    def __init__(
        self,
        session_id: str,
        secret_hash: str,
        version: int,
        created_ms: int,
        renewed_ms: int,
        touched_ms: int,
        idle_ms: int,
        read_at_ms: int,
        deadline_ms: int | None = None,
        previous_hash: str | None = None,
        previous_until_ms: int = 0,
        owner: str | None = None,
        operations: str = "",
        fields: dict[str, str] | None = None,
    ) -> None:
        self.session_id = session_id
        self.secret_hash = secret_hash
        self.version = version
        self.created_ms = created_ms
        self.renewed_ms = renewed_ms
        self.touched_ms = touched_ms
        self.idle_ms = idle_ms
        self.read_at_ms = read_at_ms
        self.deadline_ms = deadline_ms
        self.previous_hash = previous_hash
        self.previous_until_ms = previous_until_ms
        self.owner = owner
        self.operations = operations
        self.fields: dict[str, str] = {} if fields is None else fields

    def at(self, now_ms: int) -> Record:
        """The same as it is at this time on the store's clock. A copy, but for the dictionary of fields."""
        return Record(
            self.session_id, self.secret_hash, self.version, self.created_ms, self.renewed_ms, self.touched_ms,
            self.idle_ms, now_ms, self.deadline_ms, self.previous_hash, self.previous_until_ms,
            self.owner, self.operations, self.fields,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """All attributes by their names."""
        return {name: getattr(self, name) for name in _NAMES}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.as_dict() == other.as_dict()

    def __repr__(self) -> str:
        return discreet(type(self), self.as_dict())

    @property
    def expires_ms(self) -> int:
        """When the session ends unless it is touched."""
        idle_end = self.touched_ms + self.idle_ms
        return idle_end if self.deadline_ms is None else min(idle_end, self.deadline_ms)

    def accepts(self, proof: str, now_ms: int) -> bool:
        """Whether the secret with this hash opens the record: the present one, or the previous one in its grace."""
        if same_hash(proof, self.secret_hash):
            return True
        previous = self.previous_hash
        return previous is not None and now_ms < self.previous_until_ms and same_hash(proof, previous)


Outcome: TypeAlias = Applied | Literal["unknown"]


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def remembers(operations: str, operation: str) -> bool:
    """Whether this operation is among these, as in `Record.operations`."""
    return operation in [operations[at - 8 : at] for at in range(len(operations), 7, -8)]


def created(new: NewRecord, now_ms: int) -> Record:
    """The record that `new` becomes at `now_ms`."""
    return Record(
        session_id=new.session_id,
        secret_hash=new.secret_hash,
        version=1,
        created_ms=now_ms,
        renewed_ms=now_ms,
        touched_ms=now_ms,
        idle_ms=new.idle_ms,
        deadline_ms=None if new.absolute_ms is None else now_ms + new.absolute_ms,
        owner=new.owner,
        operations=new.operation,
        fields=dict(new.fields),
        read_at_ms=now_ms,
    )


def apply(record: Record | None, changes: Changes, session_id: str, now_ms: int) -> tuple[Record, Outcome]:
    """The record after a commit, and the answer. The record given is left as it is.

    Returns:
        the new record, and `Applied` or `"unknown"` (see `Changes.retry`).

    Raises:
        SessionGone: there is no record, or the secret opens it no longer.
        Conflict: the version is not the one asked for.
        NotACounter: an increment met something else, or it or its sum would leave 64 bits.
    """
    if record is None or record.expires_ms <= now_ms:
        raise SessionGone(session_id)
    if changes.operation and remembers(record.operations, changes.operation):
        # Before the proof is looked at: this very commit may have renewed it.
        counters = {}
        for name in changes.increments:
            with suppress(NotACounter):  # a later commit may have put something else there; this one was applied
                counters[name] = counter(name, record.fields.get(name, "0"))
        renewed = changes.renewal is not None and record.secret_hash == changes.renewal.secret_hash
        return record, Applied(record.version, record.touched_ms, counters, renewed)
    if changes.retry and changes.operation and record.version - changes.read_version > OPERATIONS_REMEMBERED:
        return record, "unknown"
    if not record.accepts(changes.proof, now_ms):
        raise SessionGone(session_id)
    if changes.unchanged and record.version != changes.read_version:
        raise Conflict(session_id)

    fields = record.fields.copy() if changes.retain is None else retained(record.fields, changes.retain)
    fields.update(changes.sets)
    for name in changes.deletes:
        fields.pop(name, None)
    counters = {}
    for name, addend in changes.increments.items():
        counters[name] = counter(name, fields.get(name, "0")) + addend
        if addend not in COUNTER_RANGE or counters[name] not in COUNTER_RANGE:
            raise NotACounter(name, "the result would not fit into 64 bits")
        fields[name] = str(counters[name])

    after = record.at(now_ms)
    after.fields = fields
    after.touched_ms = max(now_ms, record.touched_ms)
    after.idle_ms = changes.idle_ms
    if changes.operation:
        after.version += 1
        after.operations = (record.operations + changes.operation)[-8 * OPERATIONS_REMEMBERED :]
    if changes.owner is not None:
        after.owner = changes.owner
    if changes.absolute_ms is not None:
        after.deadline_ms = now_ms + changes.absolute_ms
    renewal = changes.renewal
    # It may have taken place already, when a mere touch that renews is repeated.
    renewed = renewal is not None and (
        renewal.replaces in (None, record.secret_hash) or renewal.secret_hash == record.secret_hash
    )
    if renewal is not None and renewed:
        after.secret_hash = renewal.secret_hash
        after.renewed_ms = now_ms
        after.previous_hash = changes.proof if renewal.grace_ms else None
        after.previous_until_ms = now_ms + renewal.grace_ms if renewal.grace_ms else 0
    by_previous = not renewed and not same_hash(changes.proof, record.secret_hash)
    return after, Applied(after.version, after.touched_ms, counters, renewed, by_previous)


def retained(fields: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Those of `fields` that are named, or are entries of a map that is named."""
    exact = frozenset(names)
    return {name: text for name, text in fields.items() if name in exact or map_of(name) in exact}


def entry_field(map_name: str, key: str) -> str:
    """The field that holds the entry `key` of a map: `cart[sku-42]`."""
    return f"{map_name}[{key}]"


def map_of(field_name: str) -> str | None:
    """The map of which this field is an entry, or `None`."""
    name, bracket, _ = field_name.partition("[")
    return name if bracket and field_name.endswith("]") else None


def counter(name: str, text: str) -> int:
    """The integer in a stored text. As strict as HINCRBY: no sign but minus, no white space, no leading zero."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and (digits == "0" or not digits.startswith("0")) and text != "-0":
        value = int(text) if len(digits) <= 19 else COUNTER_RANGE.stop
        if value in COUNTER_RANGE:
            return value
    raise NotACounter(name)
