"""Replies out of bytes: what nearly all replies are is read here, everything else by hiredis.

hiredis builds each text through Python's general decoder, which takes most of the time of reading a session. Compiled, this
takes a third of that. In Python it would take three times as long, so there hiredis reads everything.
"""

from __future__ import annotations

from typing import Any, Final

import hiredis
from mypy_extensions import i64

from coatcheck.stores.redis.transport import ErrorReply

NOTHING: Final = object()
"""What a reader gives as long as the bytes do not suffice for a reply."""

PushNotification: Final = hiredis.PushNotification


class Replies:
    """A reader with the interface of hiredis's, and the same replies.

    It reads strings, integers, maps of strings, and arrays and push messages of all of them, one within the other once.
    From the first reply on that is something else, or incomplete, hiredis reads what has come, and what comes until there is
    nothing left of it.

    Args:
        quick: whether it reads anything itself.
    """

    __slots__ = ("_at", "_end", "_is_ascii", "_quick", "_rest", "_rest_has_data", "_text")

    def __init__(self, *, quick: bool = not __file__.endswith(".py")) -> None:
        self._quick = quick
        self._text = ""
        self._is_ascii = True
        self._at: i64 = 0
        self._end: i64 = 0
        self._rest = hiredis.Reader(
            encoding="utf-8", errors="surrogateescape", replyError=ErrorReply, notEnoughData=NOTHING
        )
        self._rest_has_data = False

    def feed(self, data: bytes) -> None:
        if not self._quick or self._rest_has_data or self._at < self._end:
            self._leave_the_rest()
            self._rest.feed(data)
            self._rest_has_data = True
            return
        self._text = data.decode("latin-1")  # one character for each byte
        self._is_ascii = data.isascii()
        self._at = 0
        self._end = len(data)

    def gets(self) -> Any:
        """The next reply, or `NOTHING`.

        Raises:
            hiredis.ProtocolError: what came is no reply.
            TypeError: it is a map with a key that cannot be one in Python.
        """
        if self._at < self._end:
            start = self._at
            reply = self._take(2)
            if reply is not NOTHING:
                return reply
            self._at = start
            self._leave_the_rest()
        if not self._rest_has_data:
            return NOTHING
        reply = self._rest.gets()
        if reply is not NOTHING:  # else something is left: it may be inside a reply, though it has no bytes any more
            self._rest_has_data = self._rest.has_data()
        return reply

    def has_data(self) -> bool:
        """Whether a part of a reply, or a whole one, has come that nobody has got yet."""
        return self._at < self._end or self._rest_has_data

    def _leave_the_rest(self) -> None:
        if self._at < self._end:
            self._rest.feed(self._text[self._at :].encode("latin-1"))
            self._rest_has_data = True
        self._text = ""
        self._at = self._end = 0

    # What follows moves `_at` to the end of what it reads, or anywhere if it cannot read that.

    def _take(self, depth: i64) -> Any:
        """The reply at `_at`, in which others may lie `depth` deep; `NOTHING` if this cannot read it."""
        kind: i64 = ord(self._text[self._at])
        self._at += 1
        if kind == _STRING:
            string = self._string()
            return NOTHING if string is None else string
        size = self._number()
        if size < 0:
            return NOTHING
        if kind == _MAP:
            return self._map(size)
        if kind == _INTEGER:
            return int(size)
        if depth > 0 and kind in (_ARRAY, _PUSH):
            replies: list[Any] = [] if kind == _ARRAY else PushNotification()
            while size > 0:
                if self._at >= self._end:
                    return NOTHING
                reply = self._take(depth - 1)
                if reply is NOTHING:
                    return NOTHING
                replies.append(reply)
                size -= 1
            return replies
        return NOTHING

    def _map(self, size: i64) -> Any:
        found: dict[str, str] = {}
        while size > 0:
            name = self._part()
            value = None if name is None else self._part()
            if name is None or value is None:
                return NOTHING
            found[name] = value
            size -= 1
        return found

    def _part(self) -> str | None:
        """The string at `_at`, in a map; `None` if it is anything else, or incomplete."""
        at = self._at
        if at >= self._end or ord(self._text[at]) != _STRING:
            return None
        self._at = at + 1
        return self._string()

    def _string(self) -> str | None:
        """The string whose length is at `_at`; `None` if it is none, or incomplete."""
        length = self._number()
        text, start = self._text, self._at
        last = start + length
        if length < 0 or last + 2 > self._end or ord(text[last]) != _CR or ord(text[last + 1]) != _LF:
            return None
        self._at = last + 2
        string = text[start:last]
        if self._is_ascii or string.isascii():
            return string
        return string.encode("latin-1").decode("utf-8", "surrogateescape")

    def _number(self) -> i64:
        """The digits of a line; -1 if there is anything else in it, or it is incomplete."""
        text, at, last = self._text, self._at, self._end - 1
        start = at
        number: i64 = 0
        letter: i64 = 0
        while at < last:
            letter = ord(text[at])
            if letter < _ZERO or letter > _NINE:
                break
            number = number * 10 + (letter - _ZERO)
            at += 1
        size = at - start
        if (
            letter != _CR
            or ord(text[at + 1]) != _LF
            or size == 0
            or size > 18
            or (size > 1 and ord(text[start]) == _ZERO)
        ):
            return -1
        self._at = at + 2
        return number


_STRING: Final = 36  # $
_MAP: Final = 37  # %
_ARRAY: Final = 42  # *
_INTEGER: Final = 58  # :
_PUSH: Final = 62  # >
_ZERO: Final = 48
_NINE: Final = 57
_CR: Final = 13
_LF: Final = 10
