"""The way for commits that wait for a replica, beside the one for all others, who must not wait behind them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar, cast

from coatcheck.stores.redis.commands import Command
from coatcheck.stores.redis.confirming import wait_for_replica
from coatcheck.stores.redis.transport import LEAVING, ExchangeFailed, Read
from coatcheck.stores.redis.wire import Wire

T = TypeVar("T")


class Lane:
    """A transport for exchanges that end in `WAIT`, to one server, on a connection of its own.

    A connection that waits does nothing else meanwhile. So what comes during one wait goes out together after it, with one
    `WAIT` behind it all: however many commits there are, each waits for two rounds at most.

    Args:
        wire: the connection.
        timeout: seconds for one exchange where the caller gives none.
    """

    def __init__(self, wire: Wire, *, timeout: float) -> None:
        self._wire = wire
        self._timeout = timeout
        self._next: dict[_Commit, None] = {}  # those that go out together, after those under way
        self._going: asyncio.Task[None] | None = None

    async def exchange(self, commands: list[Command], read: Read[T], *, timeout: float | None = None) -> T:
        """See `Transport.exchange`."""
        deadline = monotonic() + (self._timeout if timeout is None else timeout)
        if trouble := self._wire.trouble:  # those who have gone out may wait for it, but nobody behind them
            raise ExchangeFailed(trouble, sent=False)
        loop = asyncio.get_running_loop()
        commit = _Commit(commands[:-1], read, deadline, loop.create_future())
        self._next[commit] = None
        if self._going is None:
            self._going = loop.create_task(self._go(), name="coatcheck waits for a replica")
        try:
            async with asyncio.timeout_at(loop.time() + deadline - monotonic()):
                return cast(T, await commit.answer)
        except TimeoutError:
            sent = commit not in self._next
            raise ExchangeFailed(
                "no replica confirmed it in time" if sent else "no time is left", sent=sent, slow=True
            ) from None
        finally:
            self._next.pop(commit, None)

    async def close(self, why: str = "the store was closed") -> None:
        """Break off the connection; whoever waits is told."""
        await self._wire.close(why)
        if self._going is not None:
            await asyncio.wait([self._going])

    async def _go(self) -> None:
        try:
            while self._next:
                await self._send()
        finally:
            self._going = None

    async def _send(self) -> None:
        commits, self._next = list(self._next), {}
        commands = [command for commit in commits for command in commit.commands]
        left = min(max(commit.deadline for commit in commits) - monotonic(), self._timeout)

        def read(replies: list[Any], commits: list[_Commit] = commits) -> None:
            leave: Exception | None = None
            end = 0
            for commit in commits:
                start, end = end, end + len(commit.commands)
                try:
                    _tell(commit, commit.read([*replies[start:end], replies[-1]]))
                except LEAVING as error:
                    leave = error
                    _tell(commit, error)
                except Exception as error:
                    _tell(commit, error)
            if leave is not None:  # this connection is not to be used any more
                raise leave

        try:
            # Half the time, so that there is some left to tell what it found: servers end it up to 0.1 s late.
            await self._wire.exchange([*commands, wait_for_replica(left / 2)], read, timeout=left)
        except ExchangeFailed as failed:
            for commit in commits:
                _tell(commit, ExchangeFailed(str(failed), sent=failed.sent, slow=failed.slow))
        except LEAVING:
            pass  # those whom it concerns have been told


@dataclass(eq=False, slots=True)
class _Commit:
    commands: list[Command]
    read: Read[Any]
    deadline: float
    answer: asyncio.Future[Any]


def _tell(commit: _Commit, outcome: Any) -> None:
    if commit.answer.done():
        return
    if isinstance(outcome, Exception):
        commit.answer.set_exception(outcome)
        commit.answer.exception()  # its caller may have been cancelled in this very moment: nobody need be told of that
    else:
        commit.answer.set_result(outcome)
