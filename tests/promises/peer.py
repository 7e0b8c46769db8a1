"""A peer of an all-to-all cluster in a process of its own: `python -m tests.promises.peer URL [SECONDS_AHEAD]`.

It is told what to do on its standard input, a line of JSON at a time, and answers with a line of JSON each.
"""

# ruff: noqa: E402 - the clock is set before anybody looks at it

from __future__ import annotations

import time

_ahead_ns = 0
_true_time_ns = time.time_ns


def _set_clock(seconds: float) -> None:
    """Let the system's clock be so far ahead, for all of this process."""
    global _ahead_ns
    _ahead_ns = round(seconds * 1e9)
    time.time_ns = lambda: _true_time_ns() + _ahead_ns
    time.time = lambda: (_true_time_ns() + _ahead_ns) / 1e9


if __name__ == "__main__":  # before anybody looks at it
    import sys

    _set_clock(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)

import asyncio
import gc
import json
import random
import resource
import sys
from contextlib import suppress
from typing import Any

from coatcheck.errors import OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.testing import a_commit, a_record

DEADLINE = 2.0


class Worker:
    """Commits to given sessions until it is stopped, and remembers what it was told.

    Args:
        deletes: sessions to end meanwhile.
        pace: seconds between two commits, on the average.
        hands: how many commits may be under way.
    """

    def __init__(
        self,
        name: str,
        store: ReplicatedStore,
        sessions: dict[str, str],
        deletes: list[str],
        pace: float,
        hands: int = 1,
    ) -> None:
        self._store = store
        self._sessions = [a_record(session_id=session_id, secret_hash=proof) for session_id, proof in sessions.items()]
        self._deletes = list(deletes)
        self._pace = pace * hands
        self._over = False
        self.history: list[tuple[str, str, str]] = []  # session, what, outcome
        self._tasks = [asyncio.create_task(self._work(f"{name}.{hand}")) for hand in range(hands)]

    async def stop(self) -> list[tuple[str, str, str]]:
        self._over = True
        await asyncio.gather(*self._tasks)
        return self.history

    async def _work(self, name: str) -> None:
        chance = random.Random(name)
        number = 0
        while not self._over:
            await asyncio.sleep(chance.uniform(0, 2 * self._pace))
            number += 1
            if self._deletes and number % 10 == 0:
                session_id = self._deletes.pop()
                self.history.append(
                    (session_id, "delete", await outcome_of(self._store.delete(session_id, timeout=DEADLINE)))
                )
                continue
            session = chance.choice(self._sessions)
            entry = f"cart[{name}-{number}]"
            commit = a_commit(session, increments={"hits": 1}, sets={entry: "1"}, idle_ms=session.idle_ms)
            outcome = await outcome_of(self._store.update(session.session_id, commit, timeout=DEADLINE))
            self.history.append((session.session_id, entry, outcome))


async def outcome_of(act: Any) -> str:
    try:
        await act
    except OutcomeUnknown:
        return "unknown"
    except SessionGone:
        return "gone"
    except StoreUnavailable as down:
        return "unknown" if "ended here" in str(down) else "down"
    return "acknowledged"


class Obey:
    """The commands, by name."""

    def __init__(self, url: str) -> None:
        self.store = ReplicatedStore.from_url(url)
        self._worker: Worker | None = None

    async def ready(self, timeout: float) -> bool:
        return await self.store.ready(timeout=timeout)

    async def look(self) -> dict[str, Any]:
        return {**self.store.figures, "digest": self.store.digest, "ready": self.store.is_ready}

    async def create(self, count: int, **but: Any) -> dict[str, str]:
        sessions = [a_record(**but) for _ in range(count)]
        for at in range(0, count, 500):
            await asyncio.gather(*(self.store.create(new, timeout=60) for new in sessions[at : at + 500]))
        return {new.session_id: new.secret_hash for new in sessions}

    async def update(self, session_id: str, proof: str, **but: Any) -> dict[str, Any]:
        session = a_record(session_id=session_id, secret_hash=proof)
        applied = await self.store.update(session_id, a_commit(session, **but), timeout=DEADLINE)
        return {"version": applied.version, "counters": dict(applied.counters)}

    async def visit(self, session_id: str, proof: str, seen: str, entry: str) -> str:
        """What a browser with this freshness token does; gives its next one."""
        session = a_record(session_id=session_id, secret_hash=proof)
        commit = a_commit(session, seen=seen, sets={entry: "1"}, idle_ms=session.idle_ms)
        return (await self.store.update(session_id, commit, timeout=DEADLINE)).seen

    async def read_fresh(self, session_id: str, seen: str) -> dict[str, Any]:
        began = time.monotonic()
        found = await self.store.read_fresh(session_id, seen, timeout=DEADLINE)
        fields = None if found.record is None else found.record.fields
        return {"fields": fields, "lag": found.lag, "seen": found.seen, "seconds": time.monotonic() - began}

    async def delete(self, session_id: str) -> bool:
        return await self.store.delete(session_id, timeout=DEADLINE)

    async def read(self, session_ids: list[str]) -> dict[str, dict[str, str] | None]:
        records = {session_id: await self.store.read(session_id, timeout=DEADLINE) for session_id in session_ids}
        return {session_id: None if record is None else record.fields for session_id, record in records.items()}

    async def work(self, name: str, sessions: dict[str, str], deletes: list[str], pace: float, hands: int = 1) -> None:
        self._worker = Worker(name, self.store, sessions, deletes, pace, hands)

    async def stop_work(self) -> list[tuple[str, str, str]]:
        assert self._worker is not None
        return await self._worker.stop()

    async def commit(self, sessions: dict[str, str], count: int, in_flight: int) -> list[float]:
        """Make so many commits, so many at a time; how many milliseconds each took."""
        records = [a_record(session_id=session_id, secret_hash=proof) for session_id, proof in sessions.items()]
        numbers = iter(range(count))
        took = []

        async def work() -> None:
            for number in numbers:
                new = records[number % len(records)]
                began = time.perf_counter()
                await self.store.update(new.session_id, a_commit(new, increments={"hits": 1}), timeout=60)
                took.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(work() for _ in range(in_flight)))
        return took

    async def overwrite(self, session_id: str, proof: str, count: int, size: int) -> int:
        """Set one field again and again to so many bytes; how many commits were refused or unknown meanwhile."""
        session = a_record(session_id=session_id, secret_hash=proof)
        failed = 0
        for number in range(count):
            commit = a_commit(session, sets={"text": json.dumps(chr(97 + number % 26) * size)})
            failed += await outcome_of(self.store.update(session_id, commit, timeout=DEADLINE)) != "acknowledged"
        return failed

    async def processor_time(self) -> int:
        """Nanoseconds that this process has worked, all of its threads together."""
        return time.process_time_ns()

    async def memory(self) -> int:
        """Bytes of this process in the machine's memory."""
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    async def set_clock(self, seconds: float) -> None:
        _set_clock(seconds)


async def main() -> None:
    obey = Obey(sys.argv[1])
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    with suppress(StoreUnavailable):  # it is tried again
        await obey.store.start()
    while line := await lines.readline():
        told = json.loads(line)
        try:
            answer: Any = {"answer": await getattr(obey, told.pop("do"))(**told)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await obey.store.close()


if __name__ == "__main__":
    asyncio.run(main())
