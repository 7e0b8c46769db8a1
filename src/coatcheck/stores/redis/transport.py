"""The seam between the stores and whatever carries their commands. A transport sends, and keeps replies apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from coatcheck.errors import ForeignReply, StoreUnavailable
from coatcheck.stores.redis.commands import Commands

T = TypeVar("T")


class Source(Protocol):
    """A connection on which the server announces what has changed."""

    def vouches(self) -> bool:
        """Whether what was read over it, and is still kept, is true as far as anybody has heard.

        It hears, before it answers, what has arrived.
        """
        ...


class Told(list[Any]):
    """Replies that came over a connection on which changes are announced.

    Attributes:
        source: the connection.
        asked_at: when they were asked for, on `time.monotonic`. They are no older than that.
    """

    __slots__ = ("asked_at", "source")

    def __init__(self, source: Source, asked_at: float) -> None:
        self.source = source
        self.asked_at = asked_at


Read: TypeAlias = Callable[[list[Any]], T]
"""Makes an answer of the replies to some commands. It may raise; one of `LEAVING` ends the connection."""


def whole(replies: list[Any]) -> list[Any]:
    """Reads nothing into the replies."""
    return replies


class ErrorReply(Exception):
    """The server's refusal of one command: a reply, never raised. Its text begins with a code, such as `NOSCRIPT`."""

    @property
    def message(self) -> str:
        return str(self)

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class ExchangeFailed(Exception):
    """No complete set of replies came back.

    Attributes:
        sent: whether the server may have executed the commands.
        slow: whether it was time that ran out.
        heard: the replies that came before it failed.
        worth_repeating: whether the connection broke under way. While the server cannot be reached, or is slow, sending
            more would only make it worse.
    """

    def __init__(self, problem: str, *, sent: bool, slow: bool = False, heard: Sequence[Any] = ()) -> None:
        super().__init__(problem)
        self.sent = sent
        self.slow = slow
        self.heard = heard
        self.worth_repeating = sent and not slow


class NotPrimary(StoreUnavailable):
    """The server is a replica and refuses to write. On a new connection the same address may lead to the primary."""


LEAVING = (ForeignReply, NotPrimary)
"""After an answer that comes to this, a connection is not used any more."""


class Transport(Protocol):
    """Carries commands to the server and their replies back."""

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> Awaitable[T]:
        """Send the commands in one write, and give `read` the replies, in order, texts as `str`.

        Bytes that are not UTF-8 come as lone surrogates (PEP 383). An error reply stands in its place as an `ErrorReply`.
        If `read` raises one of `LEAVING`, the connection is dropped. Cancelling leaves no reply for somebody else.

        Args:
            commands: what to send.
            read: makes an answer of the replies. Called at most once, and not if nobody waits any more.
            timeout: seconds, waiting and connecting included; `None` for the transport's own.

        Raises:
            ExchangeFailed: the connection could not be had, broke, or was too slow.
        """
        ...

    async def close(self) -> None:
        """Let go of connections that this transport opened itself."""
        ...


class SyncTransport(Protocol):
    """The same for threads: `exchange` blocks. May be used from many threads at once."""

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `Transport.exchange`."""
        ...

    def close(self) -> None:
        """See `Transport.close`."""
        ...
