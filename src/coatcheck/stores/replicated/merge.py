"""What a session is where every server has a copy, and how two copies become one. Pure: no socket, no clock.

A session's `State` is a CRDT: `join` is commutative, associative and idempotent, so copies that saw the same changes are
equal, in whatever order, how often and in whatever pieces they saw them. A change travels as a small `State` that holds
only what changed, and is joined like any other.

- **Order** comes from stamps: a logical clock, and the node's name where two are equal. See `LogicalClock`.
- **A field** is the last text that was set, by stamp, and what each node has added to it since: increments add up.
- **A generation** begins when a session is created and at each login. The later one replaces the earlier one whole: what
  was written with the old secret, on a server that had not heard of the login, does not get into the new one.
- **Deletion** is no state: see `Replica`, which remembers deleted ids, and lets nothing revive them.
- **Times** are the local clock's, so copies differ in them by as much as their clocks do; what travels is how long ago or
  how far ahead a time is (`shifted`). Of two copies of one event the earlier time is kept, for the way only adds to it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from sys import intern
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.codec import COUNTER_RANGE
from coatcheck.record import OPERATIONS_REMEMBERED, Record, retained

Stamp: TypeAlias = tuple[int, str]
"""When something happened, by logical clock, and on which node."""

BEFORE_ALL: Stamp = (0, "")


class Cell(Struct, frozen=True, array_like=True, gc=False):
    """One field.

    Attributes:
        stamp: when `text` was set.
        text: the encoded value; `None` if the field was deleted, or never set.
        adds: what was added since: by node, how many times and how much in all.
    """

    stamp: Stamp
    text: str | None
    adds: dict[str, tuple[int, int]] | None = None

    @property
    def value(self) -> str | None:
        """The field's value, or `None` for no field."""
        if not self.adds:
            return self.text
        total = int(self.text or "0") + sum(amount for _, amount in self.adds.values())
        # Several servers together may leave the range that each of them kept to.
        return str(min(max(total, COUNTER_RANGE.start), COUNTER_RANGE.stop - 1))

    def added(self, node: str, addend: int) -> Cell:
        """After one more increment on this node."""
        adds = dict(self.adds or {})
        times, amount = adds.get(node, (0, 0))
        adds[node] = (times + 1, amount + addend)
        return Cell(self.stamp, self.text, adds)


class Secret(Struct, frozen=True, array_like=True, gc=False):
    """The ticket's secret; see `Record`. `until` means something only with a `previous`."""

    stamp: Stamp
    at: int
    hash: str
    previous: str | None = None
    until: int = 0


class Touch(Struct, frozen=True, array_like=True, gc=False):
    """The last touch, and the idle timeout that counts from it."""

    stamp: Stamp
    at: int
    idle_ms: int


class Deadline(Struct, frozen=True, array_like=True, gc=False):
    """The absolute end."""

    stamp: Stamp
    at: int


class Owner(Struct, frozen=True, array_like=True, gc=False):
    """Whose session it is."""

    stamp: Stamp
    name: str


class Origin(Struct, frozen=True, array_like=True, gc=False):
    """What a generation began with: the session's version, and when the session was created."""

    version: int
    created: int


class State(Struct, frozen=True, array_like=True, gc=False):
    """A session, or what of it changed.

    Attributes:
        generation: when the session was created or its user last logged in.
        origin: what this generation began with; `None` in a change. Whoever has it has the whole session.
        secret, touch, deadline, owner: the last one by stamp; `None` where there is none, or nothing changed.
        commits: how many commits each node has made in this generation.
        operations: ids of the last commits and their stamps, oldest first.
        cells: the fields.
    """

    generation: Stamp
    origin: Origin | None = None
    secret: Secret | None = None
    touch: Touch | None = None
    deadline: Deadline | None = None
    owner: Owner | None = None
    commits: dict[str, int] = {}
    operations: tuple[tuple[Stamp, str], ...] = ()
    cells: dict[str, Cell] = {}

    def __post_init__(self) -> None:
        if self.touch is None or (self.origin is not None and self.secret is None):
            raise ValueError("a state without a touch, or a session without a secret")

    @property
    def complete(self) -> bool:
        """Whether this is a whole session, and not just changes of one whose beginning is still on its way."""
        return self.origin is not None


R = TypeVar("R", Secret, Touch, Deadline)


def join(one: State, other: State) -> State:
    """Both in one. Commutative, associative, idempotent."""
    if one.generation != other.generation:
        return max(one, other, key=lambda state: state.generation)
    owners = [owner for owner in (one.owner, other.owner) if owner is not None]
    return State(
        generation=one.generation,
        origin=_first_known(one.origin, other.origin),
        secret=_later(one.secret, other.secret),
        touch=_later(one.touch, other.touch),
        deadline=_later(one.deadline, other.deadline),
        owner=max(owners, key=lambda owner: owner.stamp, default=None),
        commits=_most(one.commits, other.commits),
        operations=_latest(one.operations, other.operations),
        cells=_joined_cells(one.cells, other.cells),
    )


def _first_known(one: Origin | None, other: Origin | None) -> Origin | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda origin: origin.created)


def _later(one: R | None, other: R | None) -> R | None:
    if one is None or other is None:
        return one or other
    if one.stamp != other.stamp:
        return one if one.stamp > other.stamp else other
    return one if one.at <= other.at else other


def _most(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    if not other:
        return one
    return one | {node: max(count, one.get(node, 0)) for node, count in other.items()}


def _latest(one: tuple[tuple[Stamp, str], ...], other: tuple[tuple[Stamp, str], ...]) -> tuple[tuple[Stamp, str], ...]:
    if not other or one == other:
        return one
    if one and len(other) == 1 and other[0] > one[-1]:  # one commit after all others, as most are
        return (*one, *other)[-OPERATIONS_REMEMBERED:]
    return tuple(sorted({*one, *other})[-OPERATIONS_REMEMBERED:])


def _joined_cells(one: dict[str, Cell], other: dict[str, Cell]) -> dict[str, Cell]:
    if not other:
        return one
    cells = one.copy()
    for name, cell in other.items():
        mine = cells.get(name)
        cells[name] = cell if mine is None else _joined_cell(mine, cell)
    return cells


def _joined_cell(one: Cell, other: Cell) -> Cell:
    if one.stamp != other.stamp:
        return one if one.stamp > other.stamp else other
    if not other.adds or one.adds == other.adds:
        return one
    if not one.adds:
        return other
    nodes = one.adds.keys() | other.adds.keys()
    return Cell(
        one.stamp, one.text, {node: max(one.adds.get(node, (0, 0)), other.adds.get(node, (0, 0))) for node in nodes}
    )


# --- what a commit does -------------------------------------------------------------------------------------------------


def born(new: NewRecord, stamp: Stamp, now_ms: int) -> State:
    """The state of a session that is created."""
    return State(
        generation=stamp,
        origin=Origin(1, now_ms),
        secret=Secret(stamp, now_ms, new.secret_hash),
        touch=Touch(stamp, now_ms, new.idle_ms),
        deadline=None if new.absolute_ms is None else Deadline(stamp, now_ms + new.absolute_ms),
        owner=None if new.owner is None else Owner(stamp, new.owner),
        operations=((stamp, new.operation),),
        cells={name: Cell(stamp, text) for name, text in new.fields.items()},
    )


def change(state: State, before: Record, after: Record, changes: Changes, applied: Applied, stamp: Stamp) -> State:
    """What a commit changes in a state, as a state to be joined with it.

    Args:
        state: as it was.
        before, after, applied: the same session before and after the commit, and the answer, by `record.apply`.
        changes: the commit.
        stamp: when and where it is made.
    """
    node = stamp[1]
    delta = State(
        generation=state.generation,
        touch=Touch(stamp, after.touched_ms, after.idle_ms),
        deadline=None if changes.absolute_ms is None else Deadline(stamp, after.deadline_ms or 0),
        owner=None if changes.owner in (None, before.owner) else Owner(stamp, changes.owner or ""),
        commits={node: state.commits.get(node, 0) + 1} if changes.operation else {},
        operations=((stamp, changes.operation),) if changes.operation else (),
        cells=_changed_cells(state.cells, before, changes, stamp),
    )
    if changes.renewal is None or not applied.renewed:
        return delta
    secret = Secret(stamp, after.renewed_ms, after.secret_hash, after.previous_hash, after.previous_until_ms)
    delta = replace(delta, secret=secret)
    return delta if changes.renewal.grace_ms else _next_generation(join(state, delta), after, stamp)


def _changed_cells(cells: dict[str, Cell], before: Record, changes: Changes, stamp: Stamp) -> dict[str, Cell]:
    gone = Cell(stamp, None)
    changed: dict[str, Cell] = {}
    if changes.retain is not None:
        kept = retained(before.fields, changes.retain)
        changed = {name: gone for name in before.fields if name not in kept}
    changed |= {name: gone for name in changes.deletes if name in before.fields}
    changed |= {name: Cell(stamp, text) for name, text in changes.sets.items()}
    for name, addend in changes.increments.items():
        base = changed.get(name) or cells.get(name) or Cell(BEFORE_ALL, None)
        changed[name] = base.added(stamp[1], addend)
    return changed


def _next_generation(state: State, after: Record, stamp: Stamp) -> State:
    """The session as it goes on after a login, whole, without what was deleted before and who added what to a counter."""
    assert state.origin is not None
    return replace(
        state,
        generation=stamp,
        origin=Origin(after.version, state.origin.created),
        commits={},
        cells={name: Cell(cell.stamp, text) for name, cell in state.cells.items() if (text := cell.value) is not None},
    )


# --- what others get to see ---------------------------------------------------------------------------------------------


def record_of(session_id: str, state: State) -> Record:
    """The session as the store contract has it. The state must be complete."""
    origin, secret, touch = state.origin, state.secret, state.touch
    assert origin is not None
    assert secret is not None
    assert touch is not None
    fields = {name: text for name, cell in state.cells.items() if (text := cell.value) is not None}
    return Record(
        session_id=session_id,
        secret_hash=secret.hash,
        version=origin.version + sum(state.commits.values()),
        created_ms=origin.created,
        renewed_ms=secret.at,
        touched_ms=touch.at,
        idle_ms=touch.idle_ms,
        read_at_ms=touch.at,
        deadline_ms=None if state.deadline is None else state.deadline.at,
        previous_hash=secret.previous,
        previous_until_ms=secret.until,
        owner=None if state.owner is None else state.owner.name,
        operations="".join(operation for _, operation in state.operations),
        fields=fields,
    )


def shifted(state: State, by_ms: int) -> State:
    """With all times moved. By minus the present time they become durations, which is how they travel."""
    origin, secret, touch, deadline = state.origin, state.secret, state.touch, state.deadline
    return replace(
        state,
        origin=origin and replace(origin, created=origin.created + by_ms),
        secret=secret and replace(secret, at=secret.at + by_ms, until=secret.until + by_ms if secret.previous else 0),
        touch=touch and replace(touch, at=touch.at + by_ms),
        deadline=deadline and replace(deadline, at=deadline.at + by_ms),
    )


def condensed(state: State) -> State:
    """The same, with one object for what is equal in it. A state that was decoded has a copy of a stamp in every part,
    and of a field's name in every session: twice the memory."""
    known: dict[Stamp, Stamp] = {}

    def one(stamp: Stamp) -> Stamp:
        found = known.get(stamp)
        if found is None:
            found = known[stamp] = (stamp[0], intern(stamp[1]))
        return found

    secret, touch, deadline, owner = state.secret, state.touch, state.deadline, state.owner
    return State(
        one(state.generation),
        state.origin,
        secret and Secret(one(secret.stamp), secret.at, secret.hash, secret.previous, secret.until),
        touch and Touch(one(touch.stamp), touch.at, touch.idle_ms),
        deadline and Deadline(one(deadline.stamp), deadline.at),
        owner and Owner(one(owner.stamp), owner.name),
        state.commits,
        tuple((one(stamp), operation) for stamp, operation in state.operations),
        {intern(name): Cell(one(cell.stamp), cell.text, cell.adds) for name, cell in state.cells.items()},
    )


_encode = msgspec.msgpack.Encoder(order="sorted").encode


def fingerprint(session_id: str, state: State | None) -> tuple[int, int]:
    """What two copies have in common if they are equal, and different otherwise; and the size of a copy in bytes.

    64 bits over everything but times, of which each server has its own. `None` stands for a session that was deleted.
    """
    timeless: object = None
    if state is not None:
        registers = (state.secret, state.touch, state.deadline, state.owner)
        stamps = [register and register.stamp for register in registers]
        timeless = (state.generation, state.complete, stamps, state.commits, state.operations, state.cells)
    packed = _encode((session_id, timeless))
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "big"), len(packed)


class LogicalClock:
    """Stamps that grow with everything that was seen, and with time.

    After anything that this node has seen comes a later stamp, so causes precede effects. It also grows by one per
    millisecond that passes, so servers that are cut off from each other go on side by side, and the later change wins
    between them too. Only durations count: the clocks' settings are never compared.

    Args:
        node: this node's name, another one for each start of a process.
        clock: milliseconds from anywhere.
    """

    def __init__(self, node: str, clock: Callable[[], int]) -> None:
        self.node = node
        self._clock = clock
        self._zero = clock()
        self._last = 0

    def stamp(self) -> Stamp:
        """A stamp that is later than any before, and than any seen."""
        self._last = max(self._last + 1, self._clock() - self._zero)
        return self._last, self.node

    @property
    def reading(self) -> int:
        """What others are told, so that they are not behind."""
        return max(self._last, self._clock() - self._zero)

    def see(self, reading: int) -> None:
        """Somebody else is as far as this."""
        ahead = reading - (self._clock() - self._zero)
        if ahead > 0:
            self._zero -= ahead
        self._last = max(self._last, reading)
