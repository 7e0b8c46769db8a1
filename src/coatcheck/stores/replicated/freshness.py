"""What a browser has seen of a session: the freshness token of the all-to-all store. Pure.

It says how many commits each server had made in a generation of the session, of those that others may not have yet: what
every peer has confirmed stands in no token. A server that lacks some of it asks the others; see `Cluster.inquire`.
"""

from __future__ import annotations

import re

from msgspec import Struct

from coatcheck.stores.replicated.merge import Stamp, State

MOST_SERVERS = 8
"""That a token names, the last ones first. It bounds its length, and what one that was made up can ask for."""

_PART = re.compile(r"([0-9a-f]{1,13})~([A-Za-z0-9_-]{1,8})", re.ASCII)


class Seen(Struct, frozen=True, gc=False):
    """A freshness token.

    Attributes:
        generation: of the session; see `State`.
        commits: by node, how many of its commits are included, the last one first; of each what is told of it once.
    """

    generation: Stamp
    commits: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Seen | None:
        """What a token says, or `None` if it is not of our form."""
        parts = [_PART.fullmatch(part) for part in text.split(".", MOST_SERVERS + 1)]
        found = [(int(part[1], 16), part[2]) for part in parts if part is not None]
        if len(found) < len(parts) or len(found) > MOST_SERVERS + 1:
            return None
        return cls(found[0], tuple((node, count) for count, node in found[1:]))

    def __str__(self) -> str:
        counts = [self.generation, *((count, node) for node, count in self.commits)]
        return ".".join(f"{count:x}~{node}" for count, node in counts)


def includes(state: State, seen: Seen) -> bool:
    """Whether a copy in this state has all that was seen. What a later login replaced is included."""
    if not state.complete or state.generation < seen.generation:
        return False
    if state.generation > seen.generation:
        return True
    return all(state.commits.get(node, 0) >= count for node, count in seen.commits)


def after_commit(seen: Seen | None, state: State, node: str, *, confirmed: bool) -> str:
    """The token after a commit.

    Args:
        seen: the token that the browser showed, if any. What of it is not here yet is still to be waited for elsewhere.
        state: the session after the commit.
        node: where it was made.
        confirmed: whether every peer has it, and so everything that `node` did before.
    """
    if seen is not None and seen.generation > state.generation:
        return str(seen)
    earlier = seen is not None and seen.generation == state.generation
    others = tuple(each for each in seen.commits if each[0] != node) if seen is not None and earlier else ()
    if confirmed:
        if not earlier or (not others and state.generation[1] == node):
            return ""
        return str(Seen(state.generation, others))
    count = state.commits.get(node, 0)
    mine = ((node, count),) if count else ()
    return str(Seen(state.generation, (mine + others)[:MOST_SERVERS]))


def what_is_left(seen: Seen, state: State) -> str:
    """The token without what is nowhere any more."""
    if seen.generation > state.generation:
        return ""
    here = ((node, min(count, state.commits.get(node, 0))) for node, count in seen.commits)
    return str(Seen(seen.generation, tuple(each for each in here if each[1])))
