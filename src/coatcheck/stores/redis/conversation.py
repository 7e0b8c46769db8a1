"""Which reply belongs to which request, on one connection. Pure: bytes in, bytes out, no socket.

Replies come in the order of the requests, so they are matched by that order alone, **whether or not anybody still waits**:
a request that was cancelled or ran out of time keeps its place in the line until its replies have been taken. A reply too
many, or bytes that are no reply, mean that the order is lost; the connection must then be dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import hiredis
from mypy_extensions import i64

from coatcheck.stores.redis.replies import NOTHING, PushNotification, Replies
from coatcheck.stores.redis.transport import LEAVING, Read
from coatcheck.stores.redis.waiting import Awaited, Waker

T = TypeVar("T")


class Leave(Exception):
    """This connection is not to be used any more: what came cannot be a reply to what was sent, or says so itself."""


class Request(Awaited[T]):
    """One place in the line, and what whoever waits for its answer awaits.

    Attributes:
        wanted: how many replies there will be.
        read: makes the answer of them.
        sent_at, deadline: on the waiter's clock.
        replies: those that have come.
        spared: whether it has been let off its deadline once.
    """

    __slots__ = ("deadline", "read", "replies", "sent_at", "spared", "wanted")

    def __init__(
        self, waker: Waker, wanted: int, read: Read[T], sent_at: float, deadline: float, replies: list[Any]
    ) -> None:
        super().__init__(waker)
        self.wanted = wanted
        self.read = read
        self.sent_at = sent_at
        self.deadline = deadline
        self.replies = replies
        self.spared = False


class Conversation:
    """One connection's requests and replies.

    Args:
        on_push: called with each push message; they come between replies and belong to no request. It raises `ValueError` if
            one makes no sense.
    """

    def __init__(self, on_push: Callable[[list[Any]], None] | None = None) -> None:
        self.line: list[Request[Any]] = []
        self._reader = Replies()
        self._on_push = on_push

    def hear(self, data: bytes) -> None:
        """Take what the server sent, and tell whoever waits what complete replies mean.

        Raises:
            Leave: drop the connection. Answers given before are right.
        """
        reader = self._reader
        reader.feed(data)
        line = self.line
        answered: i64 = 0
        try:
            while (reply := reader.gets()) is not NOTHING:
                if type(reply) is PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                if answered == len(line):
                    raise Leave("a reply that nobody asked for")
                request = line[answered]
                replies = request.replies
                replies.append(reply)
                if len(replies) < request.wanted:
                    continue
                if not request.done():
                    try:
                        request.set_result(request.read(replies))
                    except Exception as error:
                        request.set_exception(error)
                        if isinstance(error, LEAVING):
                            raise Leave(str(error)) from None
                answered += 1
        except (hiredis.ProtocolError, TypeError, ValueError) as error:
            # The latter two: of what cannot be a dictionary's key, and of news that make no sense.
            raise Leave(f"what came is no reply ({error})") from None
        finally:
            del line[:answered]
