"""A transport over the caller's own redis-py client."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import redis.asyncio as client
import redis.exceptions as client_errors

from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.transport import LEAVING, ErrorReply, ExchangeFailed, Read

T = TypeVar("T")


class PooledTransport:
    """A transport over a connection pool of redis-py, one exchange per connection at a time. Never retries, never closes it.

    Args:
        pool: the connections; its own retries must be off, or a commit may be sent behind our back.
        timeout: seconds for one exchange, waiting for a connection and connecting included.
    """

    def __init__(self, pool: client.ConnectionPool, *, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `Transport.exchange`."""
        sent = False
        timeout = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                clean = False
                try:
                    packed = connection.pack_commands(commands)
                    sent = True
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await _reply(connection) for _ in commands]
                    clean = True
                    return read(replies)
                except LEAVING:
                    clean = False
                    raise
                finally:
                    await asyncio.shield(self._give_back(connection, clean))
        except (TimeoutError, client_errors.TimeoutError) as error:
            raise ExchangeFailed(f"no answer within {timeout:g} s", sent=sent, slow=True) from error
        except (client_errors.RedisError, OSError) as error:
            raise ExchangeFailed(str(error) or type(error).__name__, sent=sent) from error

    async def close(self) -> None:
        """Nothing of it is ours."""

    async def _give_back(self, connection: Any, clean: bool) -> None:
        """Return a connection to the pool; cut off, if replies may still be under way on it."""
        try:
            if not clean:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        # Not decoded, even if the client would: bytes that are no UTF-8 would be an error there.
        return as_text(await connection.read_response(disable_decoding=True, disconnect_on_error=True))
    except client_errors.ResponseError as error:
        return error_reply(error)


def error_reply(error: client_errors.ResponseError) -> ErrorReply:
    """The reply that redis-py made this error of: it takes the code off where it has a class for it."""
    code = _CODES.get(type(error), "")
    return ErrorReply(str(error) if str(error).startswith(code) else f"{code} {error}")


def as_text(reply: Any) -> Any:
    """The reply with its byte strings as texts, whichever way the connection was told to decode."""
    if type(reply) is bytes:
        return reply.decode("utf-8", "surrogateescape")
    if type(reply) is list:
        return [as_text(item) for item in reply]
    if type(reply) is dict:
        return {as_text(name): as_text(item) for name, item in reply.items()}
    return reply


_CODES: dict[type[Exception], str] = {
    client_errors.NoScriptError: "NOSCRIPT",
    client_errors.OutOfMemoryError: "OOM",
    client_errors.ReadOnlyError: "READONLY",
    client_errors.NoPermissionError: "NOPERM",
}
