"""Which reply belongs to which request, on one connection. Pure: bytes in, bytes out, no socket.

Replies come in the order of the requests, so they are matched by that order alone, **whether or not anybody still waits**:
a request that was cancelled or ran out of time keeps its place in the line until its replies have been taken. A reply too
many, or bytes that are no reply, mean that the order is lost; the connection must then be dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import hiredis
from msgspec import Struct

from coatcheck.stores.redis.transport import Command, ErrorReply


class OrderLost(Exception):
    """What came cannot be a reply to what was sent. Nothing on this connection can be trusted any more."""


class Waiter(Protocol):
    """Whoever waits for replies. An `asyncio.Future` is one."""

    def done(self) -> bool:
        """Whether it has stopped waiting."""
        ...

    def set_result(self, replies: list[Any], /) -> None:
        """Here are the replies."""
        ...


class Request(Struct):
    """One place in the line.

    Attributes:
        waiter: who gets the replies.
        wanted: how many there will be.
        sent_at, deadline: on the waiter's clock.
        replies: those that have come.
        spared: whether it has been let off its deadline once.
    """

    waiter: Waiter
    wanted: int
    sent_at: float
    deadline: float
    replies: list[Any] = []
    spared: bool = False


class Conversation:
    """One connection's requests and replies.

    Args:
        on_push: called with each push message; they come between replies and belong to no request.
    """

    def __init__(self, on_push: Callable[[list[Any]], None] | None = None) -> None:
        self.line: deque[Request] = deque()
        self._reader = hiredis.Reader(
            encoding="utf-8", errors="surrogateescape", replyError=ErrorReply, notEnoughData=_NOTHING
        )
        self._on_push = on_push

    def hear(self, data: bytes) -> None:
        """Take what the server sent, and hand complete replies to whoever waits for them.

        Raises:
            OrderLost: drop the connection. Replies handed out before are right.
        """
        self._reader.feed(data)
        line = self.line
        next_reply = self._reader.gets
        try:
            while (reply := next_reply()) is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                if not line:
                    raise OrderLost("a reply that nobody asked for")
                request = line[0]
                request.replies.append(reply)
                if len(request.replies) == request.wanted:
                    line.popleft()
                    if not request.waiter.done():
                        request.waiter.set_result(request.replies)
        except hiredis.ProtocolError as error:
            raise OrderLost(f"what came is no reply ({error})") from None


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as the server reads them."""
    return b"".join(map(_pack, commands))


_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]
_NOTHING = object()
