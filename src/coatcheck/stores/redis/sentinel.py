"""Whichever server the sentinels call the primary. Pure; see `topology`.

A primary that was replaced may be up again, under its old address, as a replica: it would answer with what it had when it
was cut off. So it is not enough to ask the sentinels. Each connection to a server begins with the question for its role
(`Address.kind`), and one that is a replica, or becomes one, is left.

Nor is it enough to ask when something went wrong. In a planned failover the old primary goes on taking writes until it is
told to stop, which is seconds after another has been promoted, and all those writes are lost. So the sentinels are asked
every half second; all of them, since one knows it first. Each answer has the epoch of the sentinel's configuration, so
that an old answer never overrules a newer one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Command, Commands
from coatcheck.stores.redis.confirming import decisive
from coatcheck.stores.redis.gate import RetryBudget
from coatcheck.stores.redis.topology import Refresh, Refused, Route, Send
from coatcheck.stores.redis.transport import ErrorReply, ExchangeFailed, Read, whole

T = TypeVar("T")


class Sentinel:
    """A primary with its replicas, watched by sentinels.

    Args:
        sentinels: some of them; one that answers is enough.
        service: what they call the primary and its replicas.
        server: how to be let in by those; host and port are the sentinels' to tell.
    """

    fresh_for = 0.5

    def __init__(self, sentinels: Collection[Address], service: str, server: Address) -> None:
        self._sentinels = tuple(sentinels)
        self._service = service
        self._server = server
        self._primary: Address | None = None
        self._epoch = -1
        self._budget = RetryBudget()

    def exchange(self, commands: Commands, read: Read[T]) -> Route[T]:
        """See `Topology.exchange`."""

        def unless_refused(replies: list[Any]) -> T:
            if ErrorReply in map(type, replies):  # else nobody need look at the commands, which may be packed
                last = replies[decisive(commands)]
                if type(last) is ErrorReply and (last.code in _REFUSALS or " -READONLY " in last.message):
                    raise Refused(last)  # Redis 6 puts words of its own before the code, inside a script
            return read(replies)

        failure, refused_by = ExchangeFailed("the sentinels name no primary", sent=False), None
        for _ in range(_ATTEMPTS):
            if self._primary is None:
                yield Refresh(anew=True)
            primary = self._primary
            if primary is None or (primary == refused_by and not self._budget.spend()):
                raise failure
            try:
                answer: T = yield Send(primary, commands, unless_refused)
            except Refused as refused:
                failure, refused_by = ExchangeFailed(refused.message, sent=False), primary
                self._forget(primary)
            except ExchangeFailed as failed:
                failure = failed
                if not failed.slow:
                    self._forget(primary)
                if failed.sent or failed.slow:
                    yield Refresh(wait=False)  # for those who come next
                    raise
            else:
                self._budget.successes += 1
                return answer
        raise failure

    def refresh(self) -> Route[None]:
        """See `Topology.refresh`. A server is the primary if a sentinel and the server itself say so."""
        failed: dict[Address, str] = {}
        ask: list[Command] = [("SENTINEL", part, self._service) for part in ("GET-MASTER-ADDR-BY-NAME", "MASTER")]
        urgent = self._primary is None
        for sentinel in self._sentinels:
            try:
                host, port, epoch = yield Send(sentinel, ask, self._named, brief=True)
                primary = replace(self._server, host=host, port=port)
                if epoch < self._epoch:
                    raise ExchangeFailed("it is behind the others", sent=False)
            except ExchangeFailed as failure:
                failed[sentinel] = str(failure)
                continue
            if primary not in failed:
                try:
                    if primary != self._primary:  # the connection will not stand if it is none
                        yield Send(primary, [("PING",)], whole, brief=True)
                except ExchangeFailed as failure:
                    failed[primary] = str(failure)
                else:
                    self._epoch, self._primary = epoch, primary
                    if urgent:
                        break
        self._sentinels = tuple(sorted(self._sentinels, key=failed.__contains__))  # those that are no help come last
        if self._primary is None or self._sentinels[0] in failed:  # a primary that nobody vouches for is no news
            told = "; ".join(f"{address}: {problem}" for address, problem in failed.items())
            raise ExchangeFailed(f"no primary of {self._service!r} can be found ({told})", sent=False)

    def _named(self, replies: list[Any]) -> tuple[str, int, int]:
        """Host and port of what a sentinel calls the primary, and the epoch of its configuration."""
        named, told = replies
        if type(named) is not list or type(told) not in (dict, list):
            problem = named.message if type(named) is ErrorReply else f"it knows no service {self._service!r}"
            raise ExchangeFailed(problem, sent=False)
        try:
            facts = told if type(told) is dict else dict(zip(told[::2], told[1::2], strict=True))
            return named[0], int(named[1]), int(facts["config-epoch"])
        except (KeyError, ValueError, IndexError, TypeError) as strange:
            raise ExchangeFailed(f"its answer cannot be understood ({strange!r})", sent=False) from None

    def members(self) -> Collection[Address]:
        """See `Topology.members`."""
        primary = self._primary
        return self._sentinels if primary is None else (*self._sentinels, primary)

    def _forget(self, primary: Address) -> None:
        """It was not to be reached, or is none; unless another has been found meanwhile."""
        if self._primary == primary:
            self._primary = None


_REFUSALS = frozenset(("READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED"))
"""What a server says that is no primary, or not yet. It has executed nothing then."""

_ATTEMPTS = 3
"""How often one exchange looks for a primary, at most."""
