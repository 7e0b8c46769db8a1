"""What a web server of the lab measures about itself: its work with the store, and its traffic behind the shop.

Only the lab's web servers carry this. It costs the same in every architecture.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.record import Record
from coatcheck.stores.interface import AsyncStore

HEADER = "x-store"
"""In every answer: how often the request asked its store, and for how many microseconds it waited, as in `2 431`."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Visit:
    """One request, and what it did with its store.

    Attributes:
        calls: how often it asked.
        seconds: for how long it waited in all.
        record: the session as this request read it.
    """

    __slots__ = ("calls", "record", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.record: Record | None = None


this_visit: ContextVar[Visit] = ContextVar("this_visit")


class Meter:
    """ASGI middleware around everything else: says in a header what the request's work with the store was."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        visit = Visit()
        this_visit.set(visit)

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = f"{visit.calls} {visit.seconds * 1e6:.0f}".encode()
                message = {**message, "headers": [*message.get("headers", ()), (HEADER.encode(), told)]}
            await send(message)

        await self._app(scope, receive, say)


class MeteredStore:
    """A store that adds the time of every call to the request that made it.

    Args:
        store: the store that does the work.
    """

    def __init__(self, store: AsyncStore) -> None:
        self._store = store

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        async with _timed():
            return await self._store.create(new, timeout=timeout)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        async with _timed():
            return await self._store.read(session_id, timeout=timeout)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        async with _timed():
            return await self._store.update(session_id, changes, timeout=timeout)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        async with _timed():
            return await self._store.delete(session_id, timeout=timeout)

    async def close(self) -> None:
        await self._store.close()


@asynccontextmanager
async def _timed() -> AsyncIterator[None]:
    visit = this_visit.get(None) or Visit()
    began = time.perf_counter()
    try:
        yield
    finally:
        visit.calls += 1
        visit.seconds += time.perf_counter() - began


class Traffic(msgspec.Struct, frozen=True):
    """Bytes over the TCP connections that a process has, those of its clients left out.

    Attributes:
        sent, received: since each connection began. A connection that was closed is forgotten.
    """

    sent: int
    received: int


_TCP_INFO = 11  # Linux; the two counters stand in struct tcp_info since Linux 4.1
_ACKED_AND_RECEIVED = struct.Struct("QQ")
_OFFSET = 120


def traffic(shop_port: int) -> Traffic | None:
    """This process's traffic, from the kernel's own counters; `None` where the kernel has none.

    Args:
        shop_port: the port at which this process serves: those connections are the shoppers', and not counted.
    """
    if not Path("/proc/self/fd").is_dir():
        return None
    sent = received = 0
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError, struct.error):
            if not str(link.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as copy:
                if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.getsockname()[1] == shop_port:
                    continue
                told = copy.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
                acked, got = _ACKED_AND_RECEIVED.unpack_from(told, _OFFSET)
                sent, received = sent + acked, received + got
    return Traffic(sent, received)
