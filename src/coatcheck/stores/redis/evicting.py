"""Whether a server throws sessions away when its memory is short, and the warning if it does."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from coatcheck.stores.redis.commands import Command

_log = logging.getLogger("coatcheck")

QUESTIONS: list[Command] = [("INFO", "memory"), ("INFO", "stats")]
"""Asked once on each new connection. Where they are forbidden or unknown, nothing is known and nothing is said."""

_POLICY = re.compile(r"^maxmemory_policy:(\S+)", re.MULTILINE)
_COUNT = re.compile(r"^evicted_keys:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a server said of itself.

    Attributes:
        policy: its `maxmemory-policy`, which is not `noeviction`.
        evicted: how many keys it has thrown away since it was started.
    """

    policy: str
    evicted: int

    @classmethod
    def told(cls, answers: list[Any]) -> Eviction | None:
        """What the answers to `QUESTIONS` say; `None` if the server evicts nothing, or does not tell."""
        text = "\n".join(answer for answer in answers if isinstance(answer, str))
        policy, count = _POLICY.search(text), _COUNT.search(text)
        if policy is None or policy[1] == "noeviction":
            return None
        return cls(policy[1], int(count[1]) if count else 0)


class EvictionWarning:
    """Warns of one server: at its first connection, and at a later one if the count has doubled since.

    Args:
        server: what the log calls it.
    """

    def __init__(self, server: object) -> None:
        self._server = server
        self._due_at = 0

    def look(self, eviction: Eviction | None) -> None:
        if eviction is None or eviction.evicted < self._due_at:
            return
        self._due_at = max(1, 2 * eviction.evicted)
        _log.warning(
            "%s: maxmemory-policy is %s, and %d keys were evicted so far. When its memory is short, the server ends "
            "sessions of users who did nothing wrong. Set maxmemory-policy noeviction: a full server then refuses writes",
            self._server, eviction.policy, eviction.evicted,
        )  # fmt: skip
