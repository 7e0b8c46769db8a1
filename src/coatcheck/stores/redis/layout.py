"""How a session looks in Redis, and how to read what the server says about it. Pure: no socket, no waiting.

    > HGETALL coatcheck:session:4vGkq0cWm2n8Zx1B
    user   "Garimoo"
    hits   2
    @life  [2,1795395600123,0,124333,7200000,604800000]  …

Every key of one session is one hash, so that all of its operations are single-key and work on a cluster. The owner index
is a sorted set in its own slot; see `own.lua`.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from importlib.resources import files
from typing import Annotated, Any, Final, TypeAlias

from msgspec import DecodeError, Meta
from msgspec.json import Decoder
from mypy_extensions import i64

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import (
    Conflict,
    CorruptRecord,
    ForeignReply,
    NotACounter,
    OutcomeUnknown,
    SessionExists,
    SessionGone,
    StoreFull,
    StoreUnavailable,
)
from coatcheck.record import Record, counter, is_text
from coatcheck.stores.redis.commands import Command, Commands, Packed
from coatcheck.stores.redis.transport import ErrorReply, NotPrimary
from coatcheck.ticket import ID_CHARACTERS, is_session_id


class Script:
    """A Lua script, called by the SHA-1 of its text."""

    def __init__(self, name: str) -> None:
        self.text = files("coatcheck.stores.redis").joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self._start = f"\r\n$7\r\nEVALSHA\r\n$40\r\n{self.sha}\r\n$1\r\n1\r\n"

    def command(self, key: str, *arguments: str | int) -> Command:
        return ("EVALSHA", self.sha, 1, key, *arguments)

    def commands(self, key: str, arguments: list[str]) -> Commands:
        """The one command, packed already if that is a matter of joining texts."""
        text = f"*{len(arguments) + 4}{self._start}${len(key)}\r\n{key}\r\n"
        text += "".join([f"${len(argument)}\r\n{argument}\r\n" for argument in arguments])
        if not text.isascii():  # its lengths are counted in bytes
            return [self.command(key, *arguments)]
        return Packed(text.encode(), 1)

    def with_text(self, command: Command) -> Command:
        return ("EVAL", self.text, *command[2:])


CREATE: Final = Script("create.lua")
UPDATE: Final = Script("update.lua")
OWN: Final = Script("own.lua")
DISOWN: Final = Script("disown.lua")
_SCRIPTS: Final = {script.sha: script for script in (CREATE, UPDATE, OWN, DISOWN)}


def with_script_text(command: Command) -> Command:
    """The same command; a call of a script with the whole script in it, for a server that does not know it yet."""
    return _SCRIPTS[str(command[1])].with_text(command) if command[0] == "EVALSHA" else command


class ScriptUnknown(Exception):
    """The server does not know a script by its SHA-1.

    Attributes:
        committed: whether it was another script than the commit's, which was therefore carried out.
    """

    def __init__(self, *, committed: bool) -> None:
        self.committed = committed


class Layout:
    """Key names, commands and replies.

    Args:
        store: the store's address without its password, for messages.
        prefix: what all keys begin with.
    """

    def __init__(self, store: str, prefix: str = "coatcheck:") -> None:
        self.store = store
        self.prefix = prefix
        # The bytes of a read, but for the session's id, and how many they are with one of the usual length. To pack its
        # commands anew costs ten times as much.
        start = f"${len(self.session_key('').encode()) + ID_CHARACTERS}\r\n{self.session_key('')}"
        self._hgetall = f"*2\r\n$7\r\nHGETALL\r\n{start}"
        self._pttl = f"\r\n*2\r\n$4\r\nPTTL\r\n{start}"
        self._fields_bytes = len(f"{self._hgetall}\r\n".encode()) + ID_CHARACTERS
        self._read_bytes = self._fields_bytes + len(self._pttl.encode()) + ID_CHARACTERS

    def session_key(self, session_id: str) -> str:
        return f"{self.prefix}session:{session_id}"

    def owner_key(self, owner: str) -> str:
        return f"{self.prefix}owner:{owner}"

    # --- read --------------------------------------------------------------------------------------------------------

    def read(self, session_id: str) -> Commands:
        """The hash and what is left of its life: two commands in one round trip."""
        data = f"{self._hgetall}{session_id}{self._pttl}{session_id}\r\n".encode()
        if len(data) != self._read_bytes:
            key = self.session_key(session_id)
            return [("HGETALL", key), ("PTTL", key)]
        return Packed(data, 2)

    def record(self, session_id: str, replies: list[Any]) -> Record | None:
        """The record in the replies to `read`.

        What is left of the key's life tells the server's time, since the record says when it ends: no clock but the
        server's decides, and no further command is needed.
        """
        raw, left_ms = replies
        if type(raw) is not dict or type(left_ms) is not int:
            raw, left_ms = self.good(session_id, replies)
            if type(raw) is not list or type(left_ms) is not int or any(type(part) is not str for part in raw):
                raise ForeignReply(self.store, session_id, "a reply of another kind")
            raw = dict(zip(raw[::2], raw[1::2], strict=False))  # RESP2
        if not raw:
            return None
        take = raw.pop
        try:
            ticket, life = take("@ticket"), take("@life")
        except KeyError as missing:
            raise CorruptRecord(session_id, f"it has no {missing.args[0]}") from None
        stored_id, _, secret_hash = ticket.partition(" ")
        if stored_id != session_id:
            if not is_session_id(stored_id):
                raise CorruptRecord(session_id, "its @ticket names no session")
            raise ForeignReply(self.store, session_id, "a record with another id")
        try:
            version, created_ms, renewed, touched, idle_ms, deadline = _life(life)
        except DecodeError:
            raise CorruptRecord(session_id, "its @life is not six numbers") from None
        previous_hash, previous_until_ms = None, 0
        if "@previous" in raw:
            previous_hash, previous_until_ms = self._previous(session_id, take("@previous"))
        owner = take("@owner", None)
        if owner is not None and not owner.isascii() and not is_text(owner):
            raise CorruptRecord(session_id, "its owner is no text")
        operations = take("@operations", "")
        for name in raw:
            if not _is_ascii(name):
                raw = {name: text for name, text in raw.items() if is_text(name)}  # nobody could name the others
                break
        if left_ms in (0, -2):  # its last millisecond, or it went between the two commands
            return None
        expires = touched + idle_ms
        if deadline and deadline < expires:
            expires = deadline
        # -1: somebody made the key live for ever. No clock is at hand then, and nothing is due until it is written.
        read_at = expires - left_ms if left_ms > 0 else touched
        return Record(
            session_id, secret_hash, version, created_ms, created_ms + renewed, created_ms + touched, idle_ms,
            created_ms + read_at, created_ms + deadline if deadline else None, previous_hash, previous_until_ms,
            owner, operations, raw,
        )  # fmt: skip

    def fields(self, session_id: str) -> Commands:
        """The hash alone, right after a commit; see `just_touched`."""
        data = f"{self._hgetall}{session_id}\r\n".encode()
        return Packed(data, 1) if len(data) == self._fields_bytes else [("HGETALL", self.session_key(session_id))]

    def just_touched(self, session_id: str, reply: Any) -> Record | None:
        """The record in the reply to `fields`. It was touched a moment ago: that tells the server's time."""
        return self.record(session_id, [reply, _LIVES])

    def _previous(self, session_id: str, text: str) -> tuple[str, int]:
        previous_hash, _, until_ms = text.partition(" ")
        if not (until_ms.isascii() and until_ms.isdigit() and len(until_ms) <= 15):
            raise CorruptRecord(session_id, "its @previous names no time")
        return previous_hash, int(until_ms)

    # --- write -------------------------------------------------------------------------------------------------------

    def create(self, new: NewRecord) -> Command:
        order = f"{new.session_id} {new.operation} {new.secret_hash} {new.idle_ms} {new.absolute_ms or 0}"
        return CREATE.command(self.session_key(new.session_id), order, new.owner or "", *_pairs(new.fields))

    def created(self, new: NewRecord, replies: list[Any]) -> Applied:
        reply, words = self._outcome(new.session_id, new.operation, replies)
        if words[0] == "exists":
            raise SessionExists(new.session_id)
        return Applied(reply[1], reply[2])

    def update(self, session_id: str, changes: Changes) -> Commands:
        sets, deletes, increments, retain = changes.sets, changes.deletes, changes.increments, changes.retain
        renewal = "- 0 -"
        if changes.renewal is not None:
            it = changes.renewal
            renewal = f"{it.secret_hash} {it.grace_ms} {it.replaces or '-'}"
        order = (
            f"{session_id} {changes.operation or '-'} {changes.proof or '-'} {changes.read_version} "
            f"{'1' if changes.retry else '0'} {'1' if changes.unchanged else '0'} "
            f"{changes.idle_ms} {changes.absolute_ms or 0} {renewal} "
            f"{-1 if retain is None else len(retain)} {len(sets)} {len(deletes)} {len(increments)}"
        )
        arguments = [order, changes.owner or ""]
        if retain is not None:
            arguments += retain
        arguments += _pairs(sets)
        arguments += deletes
        for name, addend in increments.items():
            arguments += (name, str(addend))
        return UPDATE.commands(self.session_key(session_id), arguments)

    def updated(self, session_id: str, changes: Changes, replies: list[Any]) -> Applied:
        reply, words = self._outcome(session_id, changes.operation or "-", replies)
        word = words[0]
        if word == "ok":
            sums: dict[str, int] = {}
            if changes.increments:
                for name, text in zip(changes.increments, reply[3:], strict=True):
                    with suppress(NotACounter):  # only where this commit was repeated: see `coatcheck.record.apply`
                        sums[name] = counter(name, text)
            return Applied(reply[1], reply[2], sums, words[3] == "renewed", words[3] == "previous")
        if word == "gone":
            raise SessionGone(session_id)
        if word == "conflict":
            raise Conflict(session_id)
        if word == "overflow":
            raise NotACounter(reply[1], "the result would not fit into 64 bits")
        if word == "no-integer":
            raise NotACounter(reply[1], "it does not hold an integer")
        if word == "unknown":
            raise OutcomeUnknown(self.store, session_id, "too many commits came since")
        raise CorruptRecord(session_id, "a reserved field is missing or holds something else")

    # --- delete ------------------------------------------------------------------------------------------------------

    def delete(self, session_id: str) -> Commands:
        """Remove the key, and learn in the same round trip in whose index it stands."""
        key = self.session_key(session_id)
        return [("HGET", key, "@owner"), ("UNLINK", key)]

    def deleted(self, session_id: str, replies: list[Any]) -> tuple[bool, str | None]:
        owner, count = replies
        if type(count) is not int:
            raise ForeignReply(self.store, session_id, "a reply of another kind")
        return count > 0, owner if type(owner) is str and is_text(owner) else None

    # --- the index of owners -----------------------------------------------------------------------------------------

    def own(self, owner: str, session_id: str, life_ms: int) -> Command:
        return OWN.command(self.owner_key(owner), session_id, life_ms)

    def owned(self, owner: str) -> Commands:
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

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def _outcome(self, session_id: str, operation: str, replies: list[Any]) -> tuple[list[Any], list[str]]:
        """A commit's answer, if it is the answer to this very one, and its words: `word session-id operation …`.

        It is the last reply. What becomes of the index before it must not pass for its fate.
        """
        reply = replies[-1]
        if type(reply) is not list or len(replies) > 1:
            unknown = [type(each) is ErrorReply and each.code == "NOSCRIPT" for each in replies]
            if any(unknown):
                raise ScriptUnknown(committed=not unknown[-1])
            if type(reply) is ErrorReply and "script" in reply.message and not _BEFORE_WRITING.search(reply.message):
                raise OutcomeUnknown(self.store, session_id, reply.message)  # it may have stopped half-way
            self.good(session_id, [reply])
        if type(reply) is list and reply and type(reply[0]) is str:
            words = reply[0].split(" ")
            if words[1:3] == [session_id, operation]:
                return reply, words
        raise ForeignReply(self.store, session_id, "a reply to another commit")

    def good(self, session_id: str, replies: list[Any]) -> list[Any]:
        """The replies, if none of them is an error."""
        for reply in replies:
            if type(reply) is ErrorReply:
                if reply.code == "NOSCRIPT":
                    raise ScriptUnknown(committed=False)
                # Inside a script an older server puts its own words before the code.
                if "WRONGTYPE" in reply.message:
                    raise CorruptRecord(session_id, "its key holds another type")
                if "OOM " in reply.message:
                    raise StoreFull(self.store, reply.message)
                if reply.code in ("READONLY", "MASTERDOWN"):
                    raise NotPrimary(self.store, reply.message)
                raise StoreUnavailable(self.store, reply.message)
        return replies


_LIVES: Final = -1
"""What `PTTL` says of a key that has no end."""

_BEFORE_WRITING: Final = re.compile(
    r"\b(NOSCRIPT|WRONGTYPE|OOM|READONLY|MASTERDOWN|MISCONF|NOREPLICAS|LOADING|BUSY|CLUSTERDOWN)\b"
)
"""With these a script fails at its first step at the latest; an older server puts words of its own before them. With any
other, one that the server's access list causes for instance, part of a commit may have been carried out."""

# Few enough digits to be exact in Lua. `update.lua` accepts nothing else, or a session could be read that can never be
# changed.
_Number: TypeAlias = Annotated[int, Meta(ge=0, lt=10**15)]
_decode_life: Final = Decoder(tuple[_Number, _Number, _Number, _Number, _Number, _Number]).decode


def _life(text: str) -> tuple[int, int, int, int, int, int]:
    """The numbers in `@life`. Raises `DecodeError`."""
    return life_by_hand(text) if _COMPILED else life_by_json(text)


def life_by_json(text: str) -> tuple[int, int, int, int, int, int]:
    """Five times as quick in Python as by hand."""
    if text.encode("utf-8", "replace").translate(None, b"[0123456789,]"):  # JSON allows white space
        raise DecodeError
    return _decode_life(text)


def life_by_hand(text: str) -> tuple[int, int, int, int, int, int]:
    """Twice as quick as JSON, compiled."""
    found: list[int] = []
    end: i64 = len(text)
    if end < 2 or ord(text[0]) != _OPENING or ord(text[end - 1]) != _CLOSING:
        raise DecodeError
    number: i64 = 0
    first: i64 = 1
    at: i64 = 1
    while at < end:
        letter: i64 = ord(text[at])
        if _ZERO <= letter <= _NINE:
            number = number * 10 + letter - _ZERO
        else:
            digits = at - first
            starts_with_zero = digits > 1 and ord(text[first]) == _ZERO
            if digits == 0 or digits > 15 or starts_with_zero or letter != (_COMMA if at < end - 1 else _CLOSING):
                raise DecodeError
            found.append(int(number))
            number = 0
            first = at + 1
        at += 1
    if len(found) != 6:
        raise DecodeError
    version, created, renewed, touched, idle, deadline = found
    return version, created, renewed, touched, idle, deadline


_COMPILED: Final = not __file__.endswith(".py")
_OPENING: Final = 91  # [
_CLOSING: Final = 93  # ]
_COMMA: Final = 44
_ZERO: Final = 48
_NINE: Final = 57


_is_ascii: Final = str.isascii


def _pairs(items: Any) -> list[Any]:
    return [part for pair in items.items() for part in pair]
