"""The seam between the store and whatever carries its commands. A transport sends, and keeps replies apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

Command: TypeAlias = tuple[str | int, ...]
T = TypeVar("T")


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
        worth_repeating: whether the connection broke under way. While the server cannot be reached, or is slow, sending
            more would only make it worse.
    """

    def __init__(self, problem: str, *, sent: bool, slow: bool = False) -> None:
        super().__init__(problem)
        self.sent = sent
        self.worth_repeating = sent and not slow


class Transport(Protocol):
    """Carries commands to the server and their replies back."""

    async def exchange(
        self, commands: list[Command], read: Callable[[list[Any]], T], *, timeout: float | None = None
    ) -> T:
        """Send the commands in one write, and give `read` the replies, in order, texts as `str`.

        Bytes that are not UTF-8 come as lone surrogates (PEP 383). An error reply stands in its place as a
        an `ErrorReply`. If `read` raises `ForeignReply`, the connection is dropped. Cancelling drops it too, so that no
        reply is ever left for somebody else.

        Args:
            commands: what to send.
            read: makes an answer of the replies.
            timeout: seconds, waiting and connecting included; `None` for the transport's own.

        Raises:
            ExchangeFailed: the connection could not be had, broke, or was too slow.
        """
        ...

    async def close(self) -> None:
        """Let go of connections that this transport opened itself."""
        ...
