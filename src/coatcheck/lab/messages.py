"""What the lab and its load generator say to each other, one JSON object per line.

The lab writes a `Job` to the generator's standard input. The generator answers with a first `Progress` when it is
ready, is told when to `Start`, and then reports its progress several times a second on its standard output.
"""

from __future__ import annotations

import msgspec

from coatcheck.lab.plan import Plan


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator is to do.

    Attributes:
        port: where the shop is, on 127.0.0.1.
        history: the file to append operations to.
        plan: the traffic.
    """

    port: int
    history: str
    plan: Plan


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """When to begin: a reading of `time.monotonic()`, which all processes of a machine share."""

    at: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the generator is. For the display only: figures come from the history.

    Attributes:
        completed: operations completed.
        reads: reads answered.
        wrong: those of them that showed a wrong cart, in the shoppers' own view.
        errors: operations that failed.
    """

    completed: int = 0
    reads: int = 0
    wrong: int = 0
    errors: int = 0


def line(message: msgspec.Struct) -> bytes:
    """A message as it travels."""
    return msgspec.json.encode(message) + b"\n"
