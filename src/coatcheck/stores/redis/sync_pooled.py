"""A transport over the caller's own synchronous redis-py client."""

from __future__ import annotations

from time import monotonic
from typing import Any, TypeVar

import redis as client
import redis.exceptions as client_errors

from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.pooled import as_text, error_reply
from coatcheck.stores.redis.transport import LEAVING, ExchangeFailed, Read

T = TypeVar("T")


class SyncPooledTransport:
    """A transport over a connection pool of redis-py, one exchange per connection at a time. Never retries, never closes it.

    Args:
        pool: the connections; its own retries must be off, or a commit may be sent behind our back. How long it waits for
            a free connection, how long connecting takes, and how long an answer may stop midway is up to its settings.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, pool: client.ConnectionPool, *, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `SyncTransport.exchange`."""
        timeout = self._timeout if timeout is None else timeout
        deadline = monotonic() + timeout
        sent = False
        try:
            connection: Any = self._pool.get_connection()
            clean = False
            try:
                if deadline <= monotonic():
                    clean = True
                    raise ExchangeFailed("no time is left", sent=False, slow=True)
                if connection.can_read(0):  # what nobody has asked for would be taken for our answer
                    connection.disconnect()  # sending connects again
                packed = connection.pack_commands(commands)
                sent = True
                connection.send_packed_command(packed, check_health=False)
                replies = [_reply(connection, deadline) for _ in commands]
                clean = True
                return read(replies)
            except LEAVING:
                clean = False
                raise
            finally:
                try:
                    if not clean:  # replies may be under way on it
                        connection.disconnect()
                finally:
                    self._pool.release(connection)
        except (TimeoutError, client_errors.TimeoutError) as error:
            raise ExchangeFailed(f"no answer within {timeout:g} s", sent=sent, slow=True) from error
        except (client_errors.RedisError, OSError) as error:
            raise ExchangeFailed(str(error) or type(error).__name__, sent=sent) from error

    def close(self) -> None:
        """Nothing of it is ours."""


def _reply(connection: Any, deadline: float) -> Any:
    if not connection.can_read(max(0.0, deadline - monotonic())):
        raise TimeoutError
    try:
        # Not decoded, even if the client would: bytes that are no UTF-8 would be an error there.
        return as_text(connection.read_response(disable_decoding=True, disconnect_on_error=True))
    except client_errors.ResponseError as error:
        return error_reply(error)
