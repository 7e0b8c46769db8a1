"""Which of several servers carries out an exchange. Pure: nothing here waits.

A topology knows its servers. `exchange` and `refresh` are generators: each step that they yield is to be carried out by a
driver (`fleet` for event loops, `blocking_fleet` for threads), which sends back what came of it, or throws what went wrong.
So a thread and an event loop share all that is decided.

What a server refused, or what was never sent, has not been executed: a topology may send that again, to the right server,
within the time that its caller has. What was perhaps executed is never its business, but that of `verbs`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Commands
from coatcheck.stores.redis.transport import ErrorReply, Read

T = TypeVar("T")


class Send(Struct, Generic[T], frozen=True):
    """Step: send these commands to that server in one write. Is answered with what `read` makes of the replies.

    Attributes:
        to: the server.
        commands, read: as for `Transport.exchange`.
        brief: whether to wait for a part of the usual time only, because others can be asked the same.
    """

    to: Address
    commands: Commands
    read: Read[T]
    brief: bool = False


class Pause(Struct, frozen=True):
    """Step: wait for so many seconds, if there is as much time left."""

    seconds: float


class Refresh(Struct, frozen=True):
    """Step: have `refresh` run, once for all that want it at the same moment.

    Attributes:
        wait: whether to go on when it is done, and be thrown why it failed; or at once.
        anew: whether what was found out a moment ago will not do, because it has just proved wrong.
    """

    wait: bool = True
    anew: bool = False


class Drop(Struct, frozen=True):
    """Step: drop the connections to these servers, because one of them gave an answer that belongs to somebody else.

    Where one server gives the whole answer its connection sees to that itself; see `Read`.
    """

    servers: frozenset[Address]
    why: str


Step: TypeAlias = Send[Any] | Pause | Refresh | Drop
Route: TypeAlias = Generator[Step, Any, T]


class Refused(Exception):
    """The server did not execute the commands, because it is not the right one or not ready. Never leaves a topology."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.code = reply.code
        self.message = reply.message


class Topology(Protocol):
    """Several servers. May be used from several threads: what it knows is replaced, not changed, as far as it matters.

    Attributes:
        fresh_for: seconds after which a driver has `refresh` run, while there is traffic, though nothing went wrong.
    """

    @property
    def fresh_for(self) -> float: ...

    def exchange(self, commands: Commands, read: Read[T]) -> Route[T]:
        """Have the right servers carry out the commands. Raises what a `Transport` raises."""
        ...

    def refresh(self) -> Route[None]:
        """Find out anew which servers are the right ones. Yields no `Refresh`."""
        ...

    def members(self) -> Collection[Address]:
        """All servers that may be talked to; connections to others can be closed."""
        ...


BRIEF = 1 / 4
"""The part of the usual time for a question that others can be asked too."""

_FRESH = 0.1
"""Seconds for which it is not asked again which servers are the right ones."""


def is_news(age: float, *, failed: bool, anew: bool) -> bool:
    """Whether what a refresh came to, `age` seconds ago, is still good for whoever wants one now.

    Args:
        age: in seconds.
        failed: whether it found nothing out.
        anew: see `Refresh`.
    """
    return age < _FRESH and (failed or not anew)
