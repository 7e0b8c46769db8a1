"""Everything that happened in a run of one architecture, one JSON object per line, in `history.jsonl`.

The first line says what was run, the last that it ended. In between come the operations of the shoppers, in the order
in which they were completed, and the kill. Times are seconds after the start of the run, by one clock for all
processes. Two processes append to the file (the generator its operations, the lab the rest), whole lines at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from coatcheck.lab.errors import HistoryFault
from coatcheck.lab.plan import Cart, Kind

SCHEMA = 1
FILE = "history.jsonl"


class Started(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="started", tag_field="type"):
    """What was run.

    Attributes:
        schema: version of this format.
        architecture: such as `sticky`.
        sticky: whether the balancer brings a shopper back to the same server.
        servers: the names of the web servers.
        operations: how many operations were planned.
        shoppers, rate, seconds, kill_at, seed: see `coatcheck.lab.plan.Plan`.
    """

    schema: int
    architecture: str
    sticky: bool
    servers: tuple[str, ...]
    operations: int
    shoppers: int
    rate: float
    seconds: float
    kill_at: float
    seed: int


class Operation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="operation", tag_field="type"
):
    """One request of one shopper.

    Attributes:
        id: counted from 0 in the order of arrival.
        shopper: who, counted from 0.
        kind: `fill` replaced the whole cart, `read` looked at it.
        generation: how often this shopper has tried to fill the cart, this time included.
        scheduled: when the shopper was due. Latency counts from here.
        sent: when the request left. Later than scheduled if the shopper's previous request was not back yet.
        completed: when the answer had been read, or the failure was known.
        outcome: `ok`, or `error` if there was no answer or it was not a 200.
        status: HTTP status, if there was an answer.
        error: what went wrong, in a few words, for `error` only.
        server: the web server that answered, by its own word.
        expected: the carts that a read may show. The first is the one last acknowledged; others are carts whose
            `fill` had no answer, so that nobody knows.
        seen: the cart in the answer; `None` for a fill or an error.
        owner: whose session it was, by the server's word; `None` if it had none.
        right: the shopper's own verdict on a read; `None` for a fill or an error.
        session: id of the session that the shopper's cookie named afterwards. It opens nothing.
        pinned: the balancer's cookie afterwards.
    """

    id: int
    shopper: int
    kind: Kind
    generation: int
    scheduled: float
    sent: float
    completed: float
    outcome: Literal["ok", "error"]
    status: int | None = None
    error: str | None = None
    server: str | None = None
    expected: tuple[Cart, ...] = ()
    seen: Cart | None = None
    owner: str | None = None
    right: bool | None = None
    session: str | None = None
    pinned: str | None = None


class Killed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="killed", tag_field="type"):
    """A web server was killed (SIGKILL).

    Attributes:
        server: which one.
        begun: just before the signal was sent.
        done: when the process was known to be gone.
    """

    server: str
    begun: float
    done: float


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ended", tag_field="type"):
    """The generator has written everything.

    Attributes:
        operations: how many operations it wrote.
        elapsed: seconds from the start until the last operation was completed.
        cpu: seconds of processor time that the generator used. Close to `elapsed` means it was the bottleneck.
    """

    operations: int
    elapsed: float
    cpu: float


Entry = Started | Operation | Killed | Ended

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


class Writer:
    """Appends entries to a history. Give each process its own; close it when done."""

    def __init__(self, path: Path) -> None:
        # O_APPEND: each write goes to the end as one piece, so two processes never cut each other's lines.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, entries: Iterable[Entry]) -> None:
        """Append `entries`. Raises `OSError` if they do not fit on the disk."""
        text = b"".join(_encoder.encode(entry) + b"\n" for entry in entries)
        if text and os.write(self._file, text) != len(text):
            raise OSError("the disk took only part of the history; make room and run again")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read(path: Path) -> list[Entry]:
    """All entries of a history, in the order written.

    Raises:
        HistoryFault: the file is missing, or a line is not an entry; the message names the line.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as problem:
        raise HistoryFault(f"{path} cannot be read: {problem.strerror}. Was this architecture run at all?") from None
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            raise HistoryFault(f"{path}, line {number}: cut off. The run did not end as it should; run it again")
        try:
            entries.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise HistoryFault(f"{path}, line {number}: not an entry of a history: {problem}") from None
    return entries
