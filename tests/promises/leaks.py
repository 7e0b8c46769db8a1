"""What is left when a storm is over (R2)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import suppress
from typing import Any

from coatcheck.stores.redis import RedisStore
from coatcheck.stores.redis.fleet import Fleet
from coatcheck.stores.redis.waiting import Awaited
from coatcheck.stores.redis.wire import Wire
from tests.servers.processes import eventually
from tests.servers.valkey import Valkey


def unfinished() -> Counter[str]:
    """All that is under way in this event loop, whosever it is: tasks by their name in the code, futures, requests."""
    gc.collect()
    things: list[Any] = gc.get_objects()
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    # Compiled ones have no qualified name.
    found = Counter(getattr(each, "__qualname__", type(each).__name__) for each in coroutines)
    found["(a future)"] = sum(type(thing) is asyncio.Future and not thing.done() for thing in things)
    found["(a request)"] = sum(issubclass(type(thing), Awaited) and not thing.done() for thing in things)
    return found


async def nothing_more_is_under_way_than(before: Counter[str]) -> None:
    """Not even what nobody waits for any more: that may take a moment to end, but ends."""
    with suppress(AssertionError):
        await eventually(lambda: unfinished() == before, "")
    now = unfinished()
    assert now == before, f"more: {now - before}, less: {before - now}"


def wires_of(store: RedisStore) -> list[Wire]:
    """The store's own connections in this event loop."""
    transport: Any = store._transport
    here = transport._wires[asyncio.get_running_loop()]
    if isinstance(here, Fleet):
        return [*here._wires.values(), *(lane._wire for lane in here._lanes.values())]
    return [here]


def waiting_in(store: RedisStore) -> list[object]:
    """Who still has a place in a line of the store's own connections, or waits for one."""
    lines: list[Any] = [wire._connection.line for wire in wires_of(store) if wire._connection is not None]
    return [place for line in (*lines, *(wire._turns for wire in wires_of(store))) for place in line]


async def every_slot_is_free(pool: Any) -> None:
    """Of a pool of redis-py, which then has all its connections."""
    assert not pool._in_use_connections
    async with asyncio.timeout(10):
        lent = [await pool.get_connection() for _ in range(pool.max_connections)]
    for connection in lent:
        await pool.release(connection)
    assert len(set(lent)) == pool.max_connections


def connections_to(server: Valkey, name: str) -> int:
    """How many of those who call themselves so it has."""
    clients: bytes = server("CLIENT", "LIST")
    return clients.count(f" name={name} ".encode())
