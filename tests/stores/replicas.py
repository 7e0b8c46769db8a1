"""Peers of an all-to-all store in this process: each with a store of its own, on a port of loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coatcheck.record import Record
from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.stores.replicated.address import Target
from tests.servers.processes import LOOPBACK, free_port

PATIENT = "silence=15&timeout=15"
"""For tests in which nobody dies: a process that the machine keeps waiting is not gone."""


def url_for(size: int, options: str = PATIENT) -> str:
    """A list of so many peers on free ports of loopback, of which each process, or store, takes the first free one."""
    return f"replicated://{','.join(f'{LOOPBACK}:{free_port()}' for _ in range(size))}?{options}"


async def open_peers(
    size: int, options: str = PATIENT, *, clock: Callable[[], int] | None = None
) -> list[ReplicatedStore]:
    """So many peers, in step with each other."""
    target = Target.parse(url_for(size, options))
    given: dict[str, Any] = {} if clock is None else {"clock": clock}
    peers = [ReplicatedStore(target, **given) for _ in range(size)]
    try:
        assert all(await asyncio.gather(*(peer.ready(timeout=15) for peer in peers)))
    except BaseException:
        await close_peers(peers)
        raise
    return peers


async def close_peers(peers: list[ReplicatedStore]) -> None:
    await asyncio.gather(*(peer.close() for peer in peers))


class Fleet(ReplicatedStore):
    """The first of several peers; closing it closes all."""

    others: list[ReplicatedStore]

    async def close(self) -> None:
        await super().close()
        await close_peers(self.others)


async def open_fleet(size: int, clock: Callable[[], int]) -> Fleet:
    """A fleet whose clocks are one, which tests can move."""
    target = Target.parse(url_for(size))
    first = Fleet(target, clock=clock)
    first.others = [ReplicatedStore(target, clock=clock) for _ in range(size - 1)]
    assert all(await asyncio.gather(*(peer.ready(timeout=15) for peer in [first, *first.others])))
    return first


async def in_agreement(peers: list[ReplicatedStore], seconds: float = 15) -> None:
    """Wait until all hold the same."""
    async with asyncio.timeout(seconds):
        while len({peer.digest for peer in peers}) > 1:
            await asyncio.sleep(0.02)


def common(record: Record | None) -> tuple[object, ...] | None:
    """What must be the same of a session on all peers: everything but times, of which each has its own."""
    if record is None:
        return None
    return (
        record.session_id, record.secret_hash, record.version, record.idle_ms, record.previous_hash, record.owner,
        record.operations, record.fields,
    )  # fmt: skip
