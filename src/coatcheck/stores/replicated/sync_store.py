"""The all-to-all store for synchronous applications: the same store, on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from coatcheck.changes import Applied, Changes, NewRecord
from coatcheck.errors import StoreUnavailable
from coatcheck.record import Record
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.replicated.address import Target
from coatcheck.stores.replicated.store import ReplicatedStore

T = TypeVar("T")

_MARGIN = 1.0
"""Seconds after which the thread itself is given up; the store answers by its own deadline before that."""


class SyncReplicatedStore:
    """`ReplicatedStore` for threads: one background thread talks to the peers, whatever the number of threads that ask.

    Reading goes there only while the process is not ready. A process that was forked begins anew, as a peer of its own.

    Args:
        make: makes the store, on the background thread.
    """

    def __init__(self, make: Callable[[], ReplicatedStore]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._closed = False
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._store: ReplicatedStore | None = None

    @classmethod
    def from_url(cls, url: str) -> SyncReplicatedStore:
        """See `ReplicatedStore.from_url`."""
        target = Target.parse(url)
        return cls(lambda: ReplicatedStore(target))

    def start(self) -> None:
        """See `ReplicatedStore.start`."""
        self._run(lambda store: store.start(), None)

    def ready(self, *, timeout: float | None = None) -> bool:
        """See `ReplicatedStore.ready`."""
        return self._run(lambda store: store.ready(timeout=timeout), timeout)

    def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        return self._run(lambda store: store.create(new, timeout=timeout), timeout)

    def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        store = self._store
        if store is not None and self._pid == os.getpid() and store.is_ready:
            return store.read_here(session_id)
        return self._run(lambda store: store.read(session_id, timeout=timeout), timeout)

    def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        store = self._store
        if store is not None and self._pid == os.getpid() and store.is_ready and store.has(session_id, seen):
            return FreshRead(store.read_here(session_id))
        return self._run(lambda store: store.read_fresh(session_id, seen, timeout=timeout), timeout)

    def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        return self._run(lambda store: store.update(session_id, changes, timeout=timeout), timeout)

    def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        return self._run(lambda store: store.delete(session_id, timeout=timeout), timeout)

    def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        return self._run(lambda store: store.sessions_of(owner, timeout=timeout), timeout)

    def close(self) -> None:
        """See `ReplicatedStore.close`. Ends the thread, too, when all calls that it was asked for have been answered."""
        with self._lock:
            self._closed = True
            loop, thread, store = self._loop, self._thread, self._store
            self._loop = self._thread = self._store = None
        if loop is None or thread is None or store is None or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(_close(store), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    @property
    def is_ready(self) -> bool:
        """See `ReplicatedStore.is_ready`."""
        return self._store is not None and self._pid == os.getpid() and self._store.is_ready

    @property
    def digest(self) -> str:
        """See `ReplicatedStore.digest`."""
        return self._running()[0].digest

    @property
    def figures(self) -> dict[str, int]:
        """See `ReplicatedStore.figures`."""
        return self._running()[0].figures

    def _run(self, call: Callable[[ReplicatedStore], Coroutine[Any, Any, T]], timeout: float | None) -> T:
        store, loop = self._running()
        future: Future[T] = asyncio.run_coroutine_threadsafe(call(store), loop)
        try:
            return future.result(None if timeout is None else max(0.0, timeout) + _MARGIN)
        except TimeoutError:
            future.cancel()
            raise StoreUnavailable(repr(store), "its background thread does not answer") from None

    def _running(self) -> tuple[ReplicatedStore, asyncio.AbstractEventLoop]:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("replicated://", "it has been closed")
            if self._loop is None or self._store is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._store = self._make()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="coatcheck replicated", daemon=True
                )
                self._thread.start()
            return self._store, self._loop


async def _close(store: ReplicatedStore) -> None:
    await store.close()
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    if calls:  # their threads wait for an answer
        await asyncio.wait(calls)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
