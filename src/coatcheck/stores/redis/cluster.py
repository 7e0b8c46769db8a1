"""A cluster: which of its nodes serves which key. Pure; see `topology`."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Command, Commands
from coatcheck.stores.redis.confirming import decisive
from coatcheck.stores.redis.gate import RetryBudget
from coatcheck.stores.redis.topology import Drop, Pause, Refresh, Refused, Route, Send
from coatcheck.stores.redis.transport import LEAVING, ErrorReply, ExchangeFailed, Read, whole

T = TypeVar("T")


class Cluster:
    """The slots of a cluster and the primaries that serve them.

    Commands on one key go out together and are repeated together: a commit is one command, and all else may be repeated.
    What concerns several keys goes key by key, one after the other, so that an index is written before its session;
    but what only reads goes node by node.

    Args:
        seeds: some nodes, to begin with. All that is said of one but host and port holds for all.
    """

    fresh_for = inf  # a node that does not serve a slot any more says so

    def __init__(self, seeds: Collection[Address]) -> None:
        self._seeds = tuple(seeds)
        self._known: tuple[Address, ...] = self._seeds  # whom to ask, the first one first
        self._slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._budget = RetryBudget()

    def exchange(self, commands: Commands, read: Read[T]) -> Route[T]:
        """See `Topology.exchange`."""
        parts = list(_parts(commands))
        if len(parts) == 1:
            return (yield from self._carry(parts[0][0], commands, read))
        commands = list(commands)
        replies: list[Any] = [None] * len(commands)
        answered: set[Address] = set()
        if all(command[0] in _READS for command in commands):
            parts = yield from self._read_by_node(parts, commands, replies, answered)
        for slot, first, end in parts:
            replies[first:end] = yield from self._carry(slot, commands[first:end], whole, answered)
        try:
            return read(replies)
        except LEAVING as foreign:
            yield Drop(frozenset(answered), str(foreign))
            raise

    def refresh(self) -> Route[None]:
        """See `Topology.refresh`. Any node can tell."""
        troubles = []
        for node in self._known:
            try:
                [ranges] = yield Send(node, [("CLUSTER", "SLOTS")], whole, brief=True)
                if type(ranges) is not list:
                    raise ExchangeFailed(str(ranges), sent=False)
                slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
                primaries: dict[Address, None] = {}
                replicas: dict[Address, None] = {}
                for first, last, primary, *others in ranges:
                    serving = self._address(primary[0], primary[1], node)
                    primaries[serving] = None
                    replicas.update((self._address(other[0], other[1], node), None) for other in others)
                    slots[first : last + 1] = [serving] * (last + 1 - first)
            except (ExchangeFailed, ValueError, IndexError, TypeError) as failed:  # the latter for a strange answer
                troubles.append(f"{node}: {failed}")
                continue
            self._slots = slots
            # The one that was asked comes last the next time: it may be the one that is behind the times.
            primaries.pop(node, None)
            self._known = tuple(dict.fromkeys((*primaries, node, *replicas, *self._seeds)))
            return
        raise ExchangeFailed(f"no node of the cluster answers ({'; '.join(troubles)})", sent=False)

    def members(self) -> Collection[Address]:
        """See `Topology.members`."""
        return self._known

    def _carry(self, slot: int, commands: Commands, read: Read[T], answered: set[Address] | None = None) -> Route[T]:
        """Have commands on keys of one slot carried out, by whichever node it takes, which is added to `answered`."""

        def unless_refused(replies: list[Any]) -> T:
            _check(commands, replies)
            return read(replies)

        def unless_refused_when_asked(replies: list[Any]) -> T:
            return unless_refused([reply for reply, wanted in zip(replies, is_own, strict=True) if wanted])

        asked: Address | None = None  # a node that serves what has moved there already, of a slot that is on its way
        failure = ExchangeFailed("the nodes send us round in circles", sent=False)
        for _ in range(_REDIRECTIONS):
            node = asked or self._slots[slot]
            if node is None:
                yield Refresh()
                node = self._slots[slot]
            if node is None:
                raise ExchangeFailed(f"no node serves slot {slot}", sent=False)
            try:
                answer: T
                if asked is None:
                    answer = yield Send(node, commands, unless_refused)
                else:
                    asking, is_own = _asking(commands)
                    answer = yield Send(node, asking, unless_refused_when_asked)
            except Refused as refused:
                asked, failure = None, ExchangeFailed(refused.message, sent=False)
                if refused.code == "MOVED":
                    self._slots[slot] = self._redirected(refused, node)
                    yield Refresh(wait=False)  # where one slot has moved, others may have
                elif refused.code == "ASK":
                    asked = self._redirected(refused, node)
                elif self._budget.spend():
                    yield Pause(random.uniform(0.5, 1.0) * _PAUSE)  # noqa: S311
                    yield Refresh()
                else:
                    raise failure from None
            except ExchangeFailed as failed:
                if failed.sent or failed.slow:
                    yield Refresh(wait=False)  # for those who come next
                    raise
                yield Refresh()
                if asked is None and self._slots[slot] == node:
                    raise
                asked = None
            else:
                self._budget.successes += 1
                if answered is not None:
                    answered.add(node)
                return answer
        raise failure

    def _read_by_node(
        self,
        parts: list[tuple[int, int, int]],
        commands: list[Command],
        replies: list[Any],
        answered: set[Address],
    ) -> Route[list[tuple[int, int, int]]]:
        """Read much with one round trip to each node. Gives the parts that are still to be read."""
        if any(self._slots[slot] is None for slot, _, _ in parts):
            yield Refresh()
        by_node: dict[Address, list[tuple[int, int, int]]] = {}
        left: list[tuple[int, int, int]] = []
        for part in parts:
            node = self._slots[part[0]]
            (left if node is None else by_node.setdefault(node, [])).append(part)
        for node, here in by_node.items():
            batch = [command for _, first, end in here for command in commands[first:end]]
            try:
                answers = iter((yield Send(node, batch, whole)))
            except ExchangeFailed as failed:
                if failed.sent or failed.slow:
                    yield Refresh(wait=False)
                    raise
                left += here
                continue
            answered.add(node)
            for part in here:
                _, first, end = part
                replies[first:end] = [next(answers) for _ in range(first, end)]
                try:
                    _check(commands[first:end], replies[first:end])
                except Refused:
                    left.append(part)
        return left

    def _redirected(self, refused: Refused, by: Address) -> Address:
        """Whither a refusal such as `MOVED 3999 10.0.0.7:6379` points."""
        try:
            host, _, port = refused.message.split()[2].rpartition(":")
            return self._address(host, int(port), by)
        except (IndexError, ValueError):
            raise ExchangeFailed(f"{by} names no node ({refused.message})", sent=False) from None

    def _address(self, host: str | None, port: int, by: Address) -> Address:
        """A node of which another tells; one without a host is where the other was reached, and `?` is unknown to it."""
        return replace(self._seeds[0], host=by.host if host in (None, "", "?") else host.strip("[]"), port=port)


def _parts(commands: Commands) -> Iterator[tuple[int, int, int]]:
    """Slot, first and end of each run of commands with the same key. What has no key belongs to those before it."""
    key: str | int | None = None
    first = 0
    for at, command in enumerate(commands):
        name = str(command[0])
        own = key if name == "WAIT" else command[3] if name.startswith("EVAL") else command[1]
        if own != key and key is not None:
            yield key_slot(str(key).encode()), first, at
            first = at
        key = own
    yield key_slot(str(key).encode()), first, len(commands)


def _asking(commands: Commands) -> tuple[list[Command], list[bool]]:
    """The commands for a node that is about to take over the slot, and which of them are not the asking itself."""
    asking: list[Command] = []
    is_own: list[bool] = []
    for command in commands:
        if command[0] != "WAIT":
            asking.append(("ASKING",))
            is_own.append(False)
        asking.append(command)
        is_own.append(True)
    return asking, is_own


def _check(commands: Commands, replies: list[Any]) -> None:
    """Raise `Refused` if the node refused any of the commands that matter: then all are sent again."""
    if ErrorReply in map(type, replies):
        for reply in replies[: decisive(commands) + 1]:
            if type(reply) is ErrorReply and reply.code in _REFUSALS:
                raise Refused(reply)


_READS = frozenset(("HGETALL", "PTTL", "HGET", "ECHO", "ZRANGE"))

_REFUSALS = frozenset(("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"))
"""What a node says that did not execute a command, because another serves its key, or none at the moment."""

_REDIRECTIONS = 16
"""How often one exchange follows, at most. A slot can be on its way from node to node to node, but not for ever."""

_PAUSE = 0.05
"""Seconds after which a cluster that was not ready is asked again."""
