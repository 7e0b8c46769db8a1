"""What a store is asked to do to a record, and what it answers. What that means is `coatcheck.record.apply`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace


def discreet(kind: type, values: Mapping[str, Any]) -> str:
    """A `repr` with the names of fields, but no value and no hash of a secret: logs are read by many."""
    shown = []
    for name, value in values.items():
        if name in ("secret_hash", "previous_hash", "proof", "replaces"):
            value = value and "…"
        elif isinstance(value, Mapping):
            value = list(value)
        shown.append(f"{name}={value!r}")
    return f"{kind.__name__}({', '.join(shown)})"


def discreetly(self: Struct) -> str:
    return discreet(type(self), asdict(self))


class NewRecord(Struct, frozen=True, kw_only=True, gc=False):
    """A session to be created.

    Attributes:
        session_id: 16 base64url characters.
        secret_hash: of the ticket's secret, 44 characters of base64.
        fields: name to encoded value.
        idle_ms: the idle timeout.
        absolute_ms: the absolute timeout, or `None`.
        owner: whose session it is, or `None` for an anonymous one.
        operation: id of this commit, 8 characters. Creating again with the same one succeeds and changes nothing.
    """

    session_id: str
    secret_hash: str
    fields: Mapping[str, str]
    idle_ms: int
    absolute_ms: int | None
    owner: str | None
    operation: str

    __repr__ = discreetly


class Renewal(Struct, frozen=True, kw_only=True, gc=False):
    """A new secret for a session.

    Attributes:
        secret_hash: of the new secret.
        grace_ms: how long the secret that asked stays valid beside the new one; 0 ends every other secret at once.
        replaces: for a periodic renewal, the hash that must still be the present one; otherwise the renewal alone is
            left out, because a request beside this one renewed already and the browser gets that ticket. `None` for a
            renewal that the application asked for, which always takes place.
    """

    secret_hash: str
    grace_ms: int = 0
    replaces: str | None = None

    __repr__ = discreetly


class Changes(Struct, frozen=True, kw_only=True, gc=False):
    """All that one commit does to a record, applied atomically or not at all.

    In this order: `retain` clears, `deletes` and `sets` and `increments` follow; no field is in more than one of the
    three. Every commit also touches: the idle timeout starts anew.

    Attributes:
        proof: hash of the secret with which the session was read. The commit is refused if it opens the record no
            longer, so that a request which was under way at logout or login can add nothing afterwards.
        idle_ms: the idle timeout that counts from now.
        operation: id of this commit, 8 characters; `""` for a mere touch, which may be repeated at will.
        read_version: the version on which the commit is based; 0 if none.
        retry: whether this commit may have been sent before. If the record then cannot tell whether it was applied
            (more than `OPERATIONS_REMEMBERED` commits came since `read_version`), the outcome is unknown.
        unchanged: refuse with `Conflict` unless the version is still `read_version`.
        retain: `None` to keep all fields; else remove every field but those named here and the entries of maps named
            here, those included that this request has never seen.
        sets: name to encoded value.
        deletes: names; one that does not exist is no error.
        increments: name to addend, a 64-bit integer. A field that does not exist counts from 0.
        renewal: a new secret, or `None`.
        owner: whose session it is from now on, or `None` to keep the present owner. A session without a deadline names
            its owner in every commit, because an index of owners cannot tell otherwise how long it lives.
        absolute_ms: an absolute timeout that starts anew now, or `None` to keep the present deadline.
        seen: the freshness token that the browser showed, or `""`; see `Applied.seen`.
    """

    proof: str
    idle_ms: int
    operation: str = ""
    read_version: int = 0
    retry: bool = False
    unchanged: bool = False
    retain: tuple[str, ...] | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    deletes: tuple[str, ...] = ()
    increments: Mapping[str, int] = field(default_factory=dict)
    renewal: Renewal | None = None
    owner: str | None = None
    absolute_ms: int | None = None
    seen: str = ""

    __repr__ = discreetly

    def again(self) -> Changes:
        """The same commit, to be sent once more after an answer that did not come."""
        return replace(self, retry=True)


class Applied(Struct, frozen=True, gc=False):
    """The answer to a commit.

    Attributes:
        version: the record's version after it.
        touched_ms: the store's clock when it was applied.
        counters: the new values of the incremented fields. When a commit is repeated: their present values, without
            those that have become something else meanwhile.
        renewed: whether the renewal that it asked for took place.
        by_previous: whether it was made with the previous secret, in its grace: the browser has, or is about to get, a
            newer ticket than the one that it showed.
        seen: the freshness token that the browser is to hold from now on, from a store with that power; `""` for none.
            It stands for all that the browser has seen, this commit included, as far as others may not have it yet.
    """

    version: int
    touched_ms: int
    counters: Mapping[str, int] = field(default_factory=dict)
    renewed: bool = False
    by_previous: bool = False
    seen: str = ""
