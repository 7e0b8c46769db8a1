"""The seam between the store and whatever carries its commands. A transport sends, and keeps replies apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import redis.asyncio as client
import redis.exceptions as client_errors

from coatcheck.errors import ForeignReply
from coatcheck.stores.redis.layout import Command

T = TypeVar("T")


class ErrorReply:
    """The server's refusal of one command.

    Attributes:
        message: all of it, its code first: `NOSCRIPT No matching script`.
    """

    def __init__(self, error: Exception) -> None:
        # redis-py takes the code off for the errors that it has a class for.
        code = _CODES.get(type(error), "")
        self.message = f"{code} {error}" if code and not str(error).startswith(code) else str(error)


_CODES: dict[type[Exception], str] = {
    client_errors.NoScriptError: "NOSCRIPT",
    client_errors.OutOfMemoryError: "OOM",
    client_errors.ReadOnlyError: "READONLY",
    client_errors.NoPermissionError: "NOPERM",
}


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

    async def exchange(self, commands: list[Command], read: Callable[[list[Any]], T]) -> T:
        """Send the commands in one write, and give `read` the replies, in order, texts as `str`.

        Bytes that are not UTF-8 come as lone surrogates (PEP 383). An error reply stands in its place as a
        an `ErrorReply`. If `read` raises `ForeignReply`, the connection is dropped. Cancelling drops it too, so that no
        reply is ever left for somebody else.

        Raises:
            ExchangeFailed: the connection could not be had, broke, or was too slow.
        """
        ...

    async def close(self) -> None:
        """Let go of connections that this transport opened itself."""
        ...


class PooledTransport:
    """A transport over a connection pool of redis-py, one exchange per connection at a time. Never retries.

    Args:
        pool: the connections; its own retries must be off, or a commit may be sent behind our back.
        owned: whether `close` closes the pool.
        timeout: seconds for one exchange, waiting for a connection and connecting included.
    """

    def __init__(self, pool: client.ConnectionPool, *, owned: bool, timeout: float) -> None:
        self._pool = pool
        self._owned = owned
        self._timeout = timeout

    async def exchange(self, commands: list[Command], read: Callable[[list[Any]], T]) -> T:
        sent = False
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                clean = False
                try:
                    packed = connection.pack_commands(commands)
                    sent = True
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await _reply(connection) for _ in commands]
                    clean = True
                    return read(replies)
                except ForeignReply:
                    clean = False
                    raise
                finally:
                    await asyncio.shield(self._give_back(connection, clean))
        except (TimeoutError, client_errors.TimeoutError) as error:
            raise ExchangeFailed(f"no answer within {self._timeout:g} s", sent=sent, slow=True) from error
        except (client_errors.RedisError, OSError) as error:
            raise ExchangeFailed(str(error) or type(error).__name__, sent=sent) from error

    async def close(self) -> None:
        if self._owned:
            await self._pool.disconnect()

    async def _give_back(self, connection: Any, clean: bool) -> None:
        """Return a connection to the pool; cut off, if replies may still be under way on it."""
        try:
            if not clean:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        return _as_text(await connection.read_response(disconnect_on_error=True))
    except client_errors.ResponseError as error:
        return ErrorReply(error)


def _as_text(reply: Any) -> Any:
    """The reply with its byte strings as texts, whichever way the connection was told to decode."""
    if type(reply) is bytes:
        return reply.decode("utf-8", "surrogateescape")
    if type(reply) is list:
        return [_as_text(item) for item in reply]
    if type(reply) is dict:
        return {_as_text(name): _as_text(item) for name, item in reply.items()}
    return reply
