"""Commits that a replica must have too before they count: `?durability=replica`. Pure.

Such a commit ends in `WAIT`, on the same connection, since that counts the replicas that have what *this connection* wrote
last. Hence a trap: a commit that is repeated on another connection finds itself done, writes nothing, and is told at once
that all replicas have all that it wrote. So a commit that may have been applied is not repeated here (see `verbs`).
"""

from __future__ import annotations

from typing import Any, TypeGuard

from coatcheck.stores.redis.commands import Command, Commands
from coatcheck.stores.redis.transport import ErrorReply, ExchangeFailed


class Unconfirmed(ExchangeFailed):
    """The primary applied a commit, but no replica has said that it has it too.

    Args:
        reply: to `WAIT`: a number, or why the primary would not wait.
    """

    def __init__(self, reply: Any) -> None:
        why = f" ({reply.message})" if type(reply) is ErrorReply else ""
        super().__init__(f"applied on the primary, but no replica has confirmed it{why}", sent=True, slow=True)


CONFIRMATION: Command = ("WAIT",)
"""What a commit that is to be confirmed ends in. Whatever sends it says for how long: see `wait_for_replica`."""

MAY_WAIT: Command = ("WAIT", 0, 0)
"""Waits for nothing. It is asked once on each new connection, so that no commit is applied that can never be confirmed."""


def is_forbidden(reply: Any) -> bool:
    """Whether the reply to `MAY_WAIT` says that the command must not be used, or is not there."""
    return type(reply) is ErrorReply and (reply.code == "NOPERM" or "unknown command" in reply.message)


def wait_for_replica(seconds: float) -> Command:
    """The command that gives, after so many seconds at the latest, how many replicas have what was written before."""
    return ("WAIT", 1, max(1, int(seconds * 1000)))


def awaits_replica(commands: Commands) -> TypeGuard[list[Command]]:
    """Whether this is a commit that is to be confirmed. None of these is packed as a whole."""
    return isinstance(commands, list) and commands[-1][0] == "WAIT"


def is_confirmed(reply: Any) -> bool:
    """Whether the reply to `wait_for_replica` says so. It may be an error, when the primary has just become a replica."""
    return type(reply) is int and reply >= 1


def decisive(commands: Commands) -> int:
    """The place of the command whose reply says what became of an exchange: the last script, if there is one.

    What follows a commit, `WAIT` or a look at what is there now, does not change what became of it.
    """
    names = [command[0] for command in commands]
    for place in range(len(names) - 1, -1, -1):
        if names[place] in ("EVALSHA", "EVAL"):
            return place
    return len(names) - (2 if names[-1] == "WAIT" else 1)
