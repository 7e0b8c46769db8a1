"""What a store must do, once more and as plainly as possible: the model that `StoreMachine` holds stores against.

It was written from the docstrings of `coatcheck.stores.interface` and `coatcheck.record`, and must not call what these
modules compute with: a mistake there must show here as a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from coatcheck.changes import Changes, NewRecord

Outcome: TypeAlias = Literal["applied", "repeated", "gone", "conflict", "not a counter", "unknown"]

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_REMEMBERED = 8


@dataclass(frozen=True)
class Expected:
    """What a store must know of one session. `deleted` is for ever."""

    session_id: str
    secret: str
    created: int
    renewed: int
    touched: int
    idle: int
    deadline: int | None
    owner: str | None
    operations: tuple[str, ...]
    fields: dict[str, str]
    version: int = 1
    previous: str | None = None
    previous_until: int = 0
    deleted: bool = False
    secrets: tuple[str, ...] = ()  # all that there ever were

    @staticmethod
    def from_new(new: NewRecord, now: int) -> Expected:
        return Expected(
            session_id=new.session_id,
            secret=new.secret_hash,
            created=now,
            renewed=now,
            touched=now,
            idle=new.idle_ms,
            deadline=None if new.absolute_ms is None else now + new.absolute_ms,
            owner=new.owner,
            operations=(new.operation,),
            fields=dict(new.fields),
            secrets=(new.secret_hash,),
        )

    @property
    def ends(self) -> int:
        idle_end = self.touched + self.idle
        return idle_end if self.deadline is None or self.deadline > idle_end else self.deadline

    def alive(self, now: int) -> bool:
        return not self.deleted and now < self.ends

    def opens(self, secret: str, now: int) -> bool:
        if secret == self.secret:
            return True
        return secret == self.previous and now < self.previous_until

    def counters(self, names: Iterable[str]) -> dict[str, int]:
        """The present values of those of these fields that hold an integer; one that does not exist counts as 0."""
        found = {}
        for name in names:
            number = integer(self.fields.get(name, "0"))
            if number is not None:
                found[name] = number
        return found

    def commit(self, changes: Changes, now: int) -> tuple[Outcome, Expected]:
        """What must come of a commit at this time."""
        if not self.alive(now):
            return "gone", self
        if changes.operation and changes.operation in self.operations:
            return "repeated", self
        if changes.retry and changes.operation and self.version > changes.read_version + _REMEMBERED:
            return "unknown", self
        if not self.opens(changes.proof, now):
            return "gone", self
        if changes.unchanged and self.version != changes.read_version:
            return "conflict", self

        fields = self.fields.copy()
        if changes.retain is not None:
            for name in self.fields:
                if not any(_covers(kept, name) for kept in changes.retain):
                    del fields[name]
        for name in changes.deletes:
            fields.pop(name, None)
        fields.update(changes.sets)
        for name, addend in changes.increments.items():
            number = integer(fields.get(name, "0"))
            if number is None or not all(-(2**63) <= each < 2**63 for each in (addend, number + addend)):
                return "not a counter", self
            fields[name] = str(number + addend)

        after = replace(self, fields=fields, touched=max(self.touched, now), idle=changes.idle_ms)
        if changes.operation:
            operations = [*self.operations, changes.operation]
            after = replace(after, version=self.version + 1, operations=tuple(operations[-_REMEMBERED:]))
        if changes.owner is not None:
            after = replace(after, owner=changes.owner)
        if changes.absolute_ms is not None:
            after = replace(after, deadline=now + changes.absolute_ms)
        renewal = changes.renewal
        if renewal is not None and (renewal.replaces in (None, self.secret) or renewal.secret_hash == self.secret):
            after = replace(
                after,
                secret=renewal.secret_hash,
                secrets=(*self.secrets, renewal.secret_hash),
                renewed=now,
                previous=changes.proof if renewal.grace_ms > 0 else None,
                previous_until=now + renewal.grace_ms,
            )
        return "applied", after


def integer(text: str) -> int | None:
    """The 64-bit integer that `text` spells as `str(int)` would, or `None`."""
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _covers(kept: str, field_name: str) -> bool:
    """Whether keeping `kept` keeps this field: the field itself, or an entry of the map of that name."""
    if field_name == kept:
        return True
    return "[" not in kept and field_name.startswith(kept + "[") and field_name.endswith("]")
