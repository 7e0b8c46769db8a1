"""What the lab and its load generator say to each other, one JSON object per line.

The lab writes a `Job` to the generator's standard input. The generator answers with a first `Progress` when it is
ready, is told when to `Start`, and then reports its progress on its standard output, at last that it is `done`. Meanwhile it
may be told that it is `Enough`.
"""

from __future__ import annotations

import msgspec

from coatcheck.lab.plan import Plan

WARM_UP_RATE = 300.0
"""People per second who begin a session before a measurement."""

SETTLE = 0.2
"""Seconds between the last of them and the first arrival."""


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


class LoadJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator of the other experiments is to do.

    Attributes:
        port: where the shop is, on 127.0.0.1.
        file: the file of samples to append to.
        users: how many people, each with a session of their own.
        size: bytes of a session besides cart and name.
        seed: decides who comes when.
        rate: arrivals per second, in even distances; 0 for none.
        seconds: how long people keep coming.
        write_share: the share of requests that change the session, 0 to 1.
        crowd_share: the share of requests that are made by the crowd: those whom `crowd_server` served at first.
        crowd_server: see `crowd_share`; `""` for no crowd.
        races: how many people put things into their carts in several requests at once.
        at_once: how many requests.
        logouts: how many people log out while another request of theirs is under way.
        looks: how often a cart is looked at afterwards.
    """

    port: int
    file: str
    users: int
    size: int = 0
    seed: int = 1
    rate: float = 0.0
    seconds: float = 0.0
    write_share: float = 0.2
    crowd_share: float = 0.0
    crowd_server: str = ""
    races: int = 0
    at_once: int = 6
    logouts: int = 0
    looks: int = 6


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """When to begin: a reading of `time.monotonic()`, which all processes of a machine share."""

    at: float


class Enough(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody is to come any more who is due later than this: seconds after the start."""

    at: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the generator is. For the display only: figures come from the history.

    Attributes:
        completed: operations completed.
        reads: reads answered.
        wrong: those of them that showed a wrong cart, in the shoppers' own view.
        errors: operations that failed.
        done: whether the job is done, and all that it met is written down.
    """

    done: bool = False
    completed: int = 0
    reads: int = 0
    wrong: int = 0
    errors: int = 0


def line(message: msgspec.Struct) -> bytes:
    """A message as it travels."""
    return msgspec.json.encode(message) + b"\n"


def head_start(users: int) -> float:
    """Seconds from the word "go" to the first arrival, in which so many people begin their sessions."""
    return users / WARM_UP_RATE + SETTLE + 0.2
