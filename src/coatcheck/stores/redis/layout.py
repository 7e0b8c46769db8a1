"""How a session looks in Redis, and how to read what the server says about it. Pure: no socket, no waiting.

    > HGETALL coatcheck:session:4vGkq0cWm2n8Zx1B
    user  "Garimoo"
    hits  2
    @version 2  …

Every key of one session is one hash, so that all of its operations are single-key and work on a cluster. The owner index
is a sorted set in its own slot; see `own.lua`.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from coatcheck.errors import (
    Conflict,
    CorruptRecord,
    ForeignReply,
    NotACounter,
    OutcomeUnknown,
    SessionExists,
    SessionGone,
)
from coatcheck.record import Applied, Changes, NewRecord, Record, counter
from coatcheck.stores.redis.transport import Command
from coatcheck.ticket import is_session_id


class Script:
    """A Lua script, called by the SHA-1 of its text."""

    def __init__(self, name: str) -> None:
        self.text = files("coatcheck.stores.redis").joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, key: str, *arguments: str | int) -> Command:
        return ("EVALSHA", self.sha, 1, key, *arguments)

    def with_text(self, command: Command) -> Command:
        return ("EVAL", self.text, *command[2:])


CREATE = Script("create.lua")
UPDATE = Script("update.lua")
OWN = Script("own.lua")
DISOWN = Script("disown.lua")
_SCRIPTS = {script.sha: script for script in (CREATE, UPDATE, OWN, DISOWN)}


def with_script_text(command: Command) -> Command:
    """The same command; a call of a script with the whole script in it, for a server that does not know it yet."""
    return _SCRIPTS[str(command[1])].with_text(command) if command[0] == "EVALSHA" else command


@dataclass(frozen=True, slots=True)
class Layout:
    """Key names, commands and replies.

    Attributes:
        store: the store's address without its password, for messages.
        prefix: what all keys begin with.
    """

    store: str
    prefix: str = "coatcheck:"

    def session_key(self, session_id: str) -> str:
        return f"{self.prefix}session:{session_id}"

    def owner_key(self, owner: str) -> str:
        return f"{self.prefix}owner:{owner}"

    # --- read --------------------------------------------------------------------------------------------------------

    def read(self, session_id: str) -> list[Command]:
        """The hash and what is left of its life: two commands in one round trip."""
        key = self.session_key(session_id)
        return [("HGETALL", key), ("PTTL", key)]

    def record(self, session_id: str, replies: list[Any]) -> Record | None:
        """The record in the replies to `read`.

        What is left of the key's life tells the server's time, since the record says when it ends: no clock but the
        server's decides, and no further command is needed.
        """
        raw, left_ms = replies
        if type(raw) is list:  # RESP2
            raw = dict(zip(raw[::2], raw[1::2], strict=False))
        if type(raw) is not dict or type(left_ms) is not int:
            raise ForeignReply(self.store, session_id, "a reply of another kind")
        if not raw:
            return None
        stored_id = raw.pop("@id", None)
        if stored_id != session_id:
            if stored_id is None:
                raise CorruptRecord(session_id, "it has no @id")
            if not is_session_id(stored_id):
                raise CorruptRecord(session_id, "its @id is none")
            raise ForeignReply(self.store, session_id, "a record with another id")
        take = raw.pop
        try:
            previous = take("@previous", None)
            previous_hash, _, previous_until = previous.partition(" ") if previous else (None, "", "0")
            deadline = take("@deadline", None)
            numbers = [
                raw.pop("@version"), raw.pop("@created"), raw.pop("@renewed"), raw.pop("@touched"), raw.pop("@idle"),
                "0" if deadline is None else deadline, previous_until,
            ]  # fmt: skip
            version, created_ms, renewed_ms, touched_ms, idle_ms, deadline_ms, previous_until_ms = map(int, numbers)
            record = Record(
                session_id=session_id,
                secret_hash=take("@secret"),
                version=version,
                created_ms=created_ms,
                renewed_ms=renewed_ms,
                touched_ms=touched_ms,
                idle_ms=idle_ms,
                deadline_ms=None if deadline is None else deadline_ms,
                previous_hash=previous_hash,
                previous_until_ms=previous_until_ms,
                owner=take("@owner", None),
                operations=tuple(take("@operations", "").split()),
                read_at_ms=0,
                fields=raw,
            )
        except KeyError as missing:
            raise CorruptRecord(session_id, f"it has no {missing.args[0]}") from None
        except ValueError:
            raise CorruptRecord(session_id, "a reserved field holds no number") from None
        # As strict as `update.lua`, or a session could be read that can never be changed: digits only, and at most 15.
        all_digits = "".join(numbers)
        if not (all_digits.isascii() and all_digits.isdigit()) or max(map(len, numbers)) > 15:
            raise CorruptRecord(session_id, "a reserved field holds a strange number")
        if record.owner is not None and not _is_text(record.owner):
            raise CorruptRecord(session_id, "its owner is no text")
        if not "".join(raw).isascii():
            record.fields = {name: text for name, text in raw.items() if _is_text(name)}  # nobody could name the others
        if left_ms in (0, -2):  # its last millisecond, or it went between the two commands
            return None
        # Somebody made the key live for ever: nobody's clock is at hand, so nothing is due until the next write.
        record.read_at_ms = record.expires_ms - left_ms if left_ms > 0 else record.touched_ms
        return record

    # --- write -------------------------------------------------------------------------------------------------------

    def create(self, new: NewRecord) -> Command:
        return CREATE.command(
            self.session_key(new.session_id), new.session_id, new.operation, new.secret_hash, new.idle_ms,
            _or_empty(new.absolute_ms), new.owner or "", *_pairs(new.fields),
        )  # fmt: skip

    def created(self, new: NewRecord, reply: Any) -> Applied:
        word, rest = self._checked(new.session_id, new.operation, reply)
        if word == "exists":
            raise SessionExists(new.session_id)
        return Applied(int(rest[0]), int(rest[1]))

    def update(self, session_id: str, changes: Changes) -> Command:
        renewal = changes.renewal
        retain = changes.retain
        return UPDATE.command(
            self.session_key(session_id), session_id, changes.operation, changes.proof, changes.read_version,
            "1" if changes.retry else "", "1" if changes.unchanged else "",
            changes.idle_ms, _or_empty(changes.absolute_ms), changes.owner or "",
            renewal.secret_hash if renewal else "", renewal.grace_ms if renewal else 0,
            (renewal.replaces or "") if renewal else "",
            -1 if retain is None else len(retain), len(changes.sets), len(changes.deletes), len(changes.increments),
            *(retain or ()), *_pairs(changes.sets), *changes.deletes, *_pairs(changes.increments),
        )  # fmt: skip

    def updated(self, session_id: str, changes: Changes, reply: Any) -> Applied:
        word, rest = self._checked(session_id, changes.operation, reply)
        if word == "ok":
            sums = {}
            for name, text in zip(changes.increments, rest[3:], strict=True):
                with suppress(NotACounter):  # only where this commit was repeated: see `coatcheck.record.apply`
                    sums[name] = counter(name, text)
            return Applied(int(rest[0]), int(rest[1]), sums, rest[2] == "renewed", rest[2] == "previous")
        if word == "gone":
            raise SessionGone(session_id)
        if word == "conflict":
            raise Conflict(session_id)
        if word == "not a counter":
            why = "the result would not fit into 64 bits" if rest[1] == "overflow" else "it does not hold an integer"
            raise NotACounter(rest[0], why)
        if word == "unknown":
            raise OutcomeUnknown(self.store, session_id, "too many commits came since")
        raise CorruptRecord(session_id, "a reserved field is missing or holds something else")

    # --- delete ------------------------------------------------------------------------------------------------------

    def delete(self, session_id: str) -> list[Command]:
        """Remove the key, and learn in the same round trip in whose index it stands."""
        key = self.session_key(session_id)
        return [("HGET", key, "@owner"), ("UNLINK", key)]

    def deleted(self, session_id: str, replies: list[Any]) -> tuple[bool, str | None]:
        owner, count = replies
        if type(count) is not int:
            raise ForeignReply(self.store, session_id, "a reply of another kind")
        return count > 0, owner if type(owner) is str and _is_text(owner) else None

    # --- the index of owners -----------------------------------------------------------------------------------------

    def own(self, owner: str, session_id: str, life_ms: int) -> Command:
        return OWN.command(self.owner_key(owner), session_id, life_ms)

    def owned(self, owner: str) -> list[Command]:
        """The owner's session ids, after an echo that shows that the list is the answer to this very question."""
        return [("ECHO", self.owner_key(owner)), ("ZRANGE", self.owner_key(owner), 0, -1)]

    def listed(self, owner: str, replies: list[Any]) -> list[str]:
        echo, session_ids = replies
        if echo != self.owner_key(owner) or type(session_ids) is not list:
            raise ForeignReply(self.store, "", "a reply of another kind")
        return [session_id for session_id in session_ids if is_session_id(session_id)]

    def disown(self, owner: str, session_ids: list[str]) -> Command:
        return DISOWN.command(self.owner_key(owner), *session_ids)

    def left(self, owner: str, session_id: str) -> Command:
        return ("ZREM", self.owner_key(owner), session_id)

    def _checked(self, session_id: str, operation: str, reply: Any) -> tuple[str, list[Any]]:
        """A script's answer, if it is the answer to this very call."""
        if type(reply) is not list or len(reply) < 3 or reply[1:3] != [session_id, operation]:
            raise ForeignReply(self.store, session_id, "a reply to another commit")
        return reply[0], reply[3:]


def _is_text(text: str) -> bool:
    """Whether it is UTF-8 in the store: what is not comes as lone surrogates, and can be written nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _or_empty(number: int | None) -> str | int:
    return "" if number is None else number


def _pairs(items: Any) -> list[Any]:
    return [part for pair in items.items() for part in pair]
