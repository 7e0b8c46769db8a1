"""A transport over the caller's own redis-py cluster client."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import redis.asyncio as client
import redis.exceptions as client_errors
from redis.client import NEVER_DECODE

from coatcheck.stores.redis.commands import Command, Commands
from coatcheck.stores.redis.pooled import as_text, error_reply
from coatcheck.stores.redis.transport import LEAVING, ExchangeFailed, Read

T = TypeVar("T")


class ClusteredTransport:
    """A transport over a cluster client of redis-py, which finds the right nodes by itself: one command after the other.

    Args:
        cluster: the client; its own retries must be off, or a commit may be sent behind our back. Never closed.
        timeout: seconds for one exchange, waiting for a connection and connecting included.
    """

    def __init__(self, cluster: client.RedisCluster, *, timeout: float) -> None:
        self._cluster = cluster
        self._timeout = timeout

    async def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `Transport.exchange`."""
        timeout = self._timeout if timeout is None else timeout
        sent = False
        replies: list[Any] = []
        try:
            async with asyncio.timeout(timeout):
                await self._cluster.initialize()
                for command in commands:
                    try:
                        sent = True
                        replies.append(await self._reply(command))
                    except _NOT_EXECUTED:
                        sent = bool(replies)
                        raise
        except (TimeoutError, client_errors.TimeoutError) as error:
            raise ExchangeFailed(f"no answer within {timeout:g} s", sent=sent, slow=True) from error
        except (client_errors.RedisError, client_errors.RedisClusterException, OSError) as error:
            raise ExchangeFailed(str(error) or type(error).__name__, sent=sent) from error
        try:
            return read(replies)
        except LEAVING:  # the client does not say which connection it was
            await asyncio.shield(self._drop_all())
            raise

    async def close(self) -> None:
        """See `Transport.close`."""

    async def _drop_all(self) -> None:
        drops = [node.disconnect() for node in self._cluster.get_nodes()]
        await asyncio.gather(*drops, return_exceptions=True)

    async def _reply(self, command: Command) -> Any:
        # Not decoded, even if the client would: bytes that are no UTF-8 would be an error there.
        options: dict[str, Any] = {NEVER_DECODE: True}
        if command[0] == "ECHO":  # it has no key, so the client must be told where to send it
            options["target_nodes"] = self._cluster.get_default_node()
        try:
            return as_text(await self._cluster.execute_command(*command, **options))
        except _NOT_EXECUTED:
            raise
        except client_errors.ResponseError as error:
            return error_reply(error)


_NOT_EXECUTED = (
    client_errors.ClusterError,  # it is down, or the nodes send us round in circles
    client_errors.RedisClusterException,  # no node can be reached, or none serves the slot
    client_errors.MaxConnectionsError,
)
