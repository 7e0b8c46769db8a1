"""Histories of imagined shops that do exactly what their architecture says. Tests plant faults in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import msgspec

from coatcheck.lab.checker import owner_of
from coatcheck.lab.history import SCHEMA, Ended, Entry, Killed, Operation, Started
from coatcheck.lab.plan import Cart, Plan, cart_of

PLAN = Plan(shoppers=60, rate=150.0, seconds=8.0, kill_at=4.0, servers=3, seed=1)
VICTIM = "web-2"
TAKES = 0.002  # seconds per request


def perfect(architecture: str, plan: Plan = PLAN) -> list[Entry]:
    """The history of a run in which everything went as it should: `local`, `sticky`, `redis` or `database`."""
    servers = [f"web-{number}" for number in range(1, plan.servers + 1)]
    sticky = architecture == "sticky"
    shared: dict[str, Cart] = {}
    stores = {server: shared if architecture in ("redis", "all-to-all", "database") else {} for server in servers}
    turn, turn_after = cycle(servers), cycle([server for server in servers if server != VICTIM])
    cookies: dict[int, str] = {}
    pinned: dict[int, str] = {}
    expected: dict[int, Cart] = {}
    generation: dict[int, int] = {}
    sessions = 0

    entries: list[Entry] = [
        Started(
            schema=SCHEMA,
            architecture=architecture,
            sticky=sticky,
            servers=tuple(servers),
            operations=plan.count,
            shoppers=plan.shoppers,
            rate=plan.rate,
            seconds=plan.seconds,
            kill_at=plan.kill_at,
            seed=plan.seed,
        )
    ]
    killed = False
    for number, arrival in enumerate(plan.arrivals()):
        shopper = arrival.shopper
        if arrival.scheduled >= plan.kill_at and not killed:
            killed = True
            entries.append(Killed(server=VICTIM, begun=plan.kill_at - 0.002, done=plan.kill_at - 0.001))
        server = next(turn_after) if killed else next(turn)
        if sticky:
            if killed and pinned.get(shopper) == VICTIM:
                del pinned[shopper]
            server = pinned.setdefault(shopper, server)
        store = stores[server]
        if arrival.kind == "fill":
            generation[shopper] = generation.get(shopper, 0) + 1
            expected[shopper] = cart_of(plan.seed, shopper, generation[shopper])
            if cookies.get(shopper) not in store:  # a ticket that nobody knows is not adopted
                sessions += 1
                cookies[shopper] = f"session-{sessions}"
            store[cookies[shopper]] = expected[shopper]
        seen = store.get(cookies[shopper], {}) if arrival.kind == "read" else None
        entries.append(
            Operation(
                id=number,
                shopper=shopper,
                kind=arrival.kind,
                generation=generation[shopper],
                scheduled=round(arrival.scheduled, 6),
                sent=round(arrival.scheduled, 6),
                completed=round(arrival.scheduled + TAKES, 6),
                outcome="ok",
                status=200,
                server=server,
                expected=(expected[shopper],),
                seen=seen,
                owner=owner_of(shopper) if seen != {} else None,
                right=None if seen is None else seen == expected[shopper],
                session=cookies[shopper],
                pinned=pinned.get(shopper),
            )
        )
    entries.append(Ended(operations=plan.count, elapsed=plan.seconds, cpu=1.0))
    return entries


def change(entries: Sequence[Entry], which: Callable[[Operation], bool], **fields: object) -> list[Entry]:
    """The same history with the fields of some operations changed."""
    return [
        msgspec.structs.replace(entry, **fields) if isinstance(entry, Operation) and which(entry) else entry
        for entry in entries
    ]


def operations(entries: Sequence[Entry]) -> list[Operation]:
    """The operations of a history."""
    return [entry for entry in entries if isinstance(entry, Operation)]


def nth_read(entries: Sequence[Entry], number: int, *, after: float = 0.0, shopper: int | None = None) -> Operation:
    """The read number `number` (from 0) that was due after `after` seconds."""
    reads = [
        operation
        for operation in operations(entries)
        if operation.kind == "read" and operation.scheduled >= after and shopper in (None, operation.shopper)
    ]
    return reads[number]


def is_(operation: Operation) -> Callable[[Operation], bool]:
    """A test for one operation."""
    return lambda other: other.id == operation.id
