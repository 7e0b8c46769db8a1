"""Which reply belongs to which request, on one connection. Pure: bytes in, bytes out, no socket.

Replies come in the order of the requests, so they are matched by that order alone, **whether or not anybody still waits**:
a request that was cancelled or ran out of time keeps its place in the line until its replies have been taken. A reply too
many, or bytes that are no reply, mean that the order is lost; the connection must then be dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import hiredis

from coatcheck.stores.redis.replies import NOTHING, PushNotification, Replies
from coatcheck.stores.redis.transport import LEAVING, Command, Packed, Read


class Leave(Exception):
    """This connection is not to be used any more: what came cannot be a reply to what was sent, or says so itself."""


class Waiter(Protocol):
    """Whoever waits for replies. `waiting.Awaited` is one."""

    def done(self) -> bool:
        """Whether it has stopped waiting."""
        ...

    def set_result(self, answer: Any, /) -> None:
        """Here is the answer."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """The replies make no answer, but this."""
        ...


class Request:
    """One place in the line.

    Attributes:
        waiter: who gets the answer.
        wanted: how many replies there will be.
        read: makes the answer of them.
        sent_at, deadline: on the waiter's clock.
        replies: those that have come.
        spared: whether it has been let off its deadline once.
    """

    __slots__ = ("deadline", "read", "replies", "sent_at", "spared", "waiter", "wanted")

    def __init__(
        self, waiter: Waiter, wanted: int, read: Read[Any], sent_at: float, deadline: float, replies: list[Any]
    ) -> None:
        self.waiter = waiter
        self.wanted = wanted
        self.read = read
        self.sent_at = sent_at
        self.deadline = deadline
        self.replies = replies
        self.spared = False


class Conversation:
    """One connection's requests and replies.

    Args:
        on_push: called with each push message; they come between replies and belong to no request.
    """

    def __init__(self, on_push: Callable[[list[Any]], None] | None = None) -> None:
        self.line: deque[Request] = deque()
        self._reader = Replies()
        self._on_push = on_push

    @property
    def at_rest(self) -> bool:
        """Whether every request has been answered, and nothing that came is left over."""
        return not self.line and not self._reader.has_data()

    def hear(self, data: bytes) -> None:
        """Take what the server sent, and tell whoever waits what complete replies mean.

        Raises:
            Leave: drop the connection. Answers given before are right.
        """
        reader = self._reader
        reader.feed(data)
        line = self.line
        try:
            while (reply := reader.gets()) is not NOTHING:
                if type(reply) is PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                if not line:
                    raise Leave("a reply that nobody asked for")
                request = line[0]
                replies = request.replies
                replies.append(reply)
                if len(replies) < request.wanted:
                    continue
                line.popleft()
                waiter = request.waiter
                if not waiter.done():
                    try:
                        waiter.set_result(request.read(replies))
                    except Exception as error:
                        waiter.set_exception(error)
                        if isinstance(error, LEAVING):
                            raise Leave(str(error)) from None
        except hiredis.ProtocolError as error:
            raise Leave(f"what came is no reply ({error})") from None


def pack(commands: list[Command]) -> bytes:
    """The commands as the server reads them."""
    if type(commands) is Packed:
        return commands.data
    return _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))


_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]
