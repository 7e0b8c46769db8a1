"""The raw samples of an experiment: one JSON array per line, beginning with its kind. Every figure is made from these.

Times are seconds after the first arrival, by one clock for all processes; what happened before has a negative time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from coatcheck.lab.errors import HistoryFault


class Began(msgspec.Struct, frozen=True, array_like=True, tag="began"):
    """What was measured.

    Attributes:
        experiment, architecture: by name.
        servers: the web servers.
        round: counted from 1.
        rate: arrivals per second.
        seconds: how long people kept coming.
        users: how many people.
        size: bytes of a session besides cart and name.
        stored: other sessions that were in the store.
        write_share: share of requests that change the session, 0 to 1.
    """

    experiment: str
    architecture: str
    servers: tuple[str, ...]
    round: int
    rate: float
    seconds: float
    users: int
    size: int
    stored: int
    write_share: float


class Sample(msgspec.Struct, frozen=True, array_like=True, tag="sample"):
    """One request.

    Attributes:
        scheduled, sent, completed: when it was due, left, and was answered.
        user: who, counted from 0.
        kind: `begin` starts a session, `read` looks, `write` changes.
        status: HTTP status; 0 without an answer.
        server: who answered; `""` if nobody did.
        known: whether the answer knew the user. Nobody is known before the first `begin`.
        store_calls, store_us: how often the request asked its store, and the microseconds that it waited for it.
    """

    scheduled: float
    sent: float
    completed: float
    user: int
    kind: Literal["begin", "read", "write"]
    status: int
    server: str
    known: bool
    store_calls: int
    store_us: int


class Reading(msgspec.Struct, frozen=True, array_like=True, tag="reading"):
    """What the machine counted up to a moment.

    Attributes:
        moment: `empty` before any session, `filled` with all of them, `before` and `after` the traffic.
        at: when.
        cpu: seconds of processor time by process, children included.
        memory: bytes of memory by web server.
        kept: bytes that the store beside the web servers uses, by service.
        network: bytes sent and received on the side of the store, by web server; `None` where the kernel does not count.
    """

    moment: Literal["empty", "filled", "before", "after"]
    at: float
    cpu: dict[str, float]
    memory: dict[str, int]
    kept: dict[str, int]
    network: dict[str, tuple[int, int]] | None


class Fault(msgspec.Struct, frozen=True, array_like=True, tag="fault"):
    """Something was broken, or changed.

    Attributes:
        what: such as `kill valkey`.
        begun, done: just before, and when it was over.
    """

    what: str
    begun: float
    done: float


class Race(msgspec.Struct, frozen=True, array_like=True, tag="race"):
    """Several requests of one session at once.

    Attributes:
        user: who.
        acknowledged: what was put into the cart, each by a request of its own that was answered with 200.
        unanswered: what was put in by a request that was not.
        seen: afterwards, cart by cart as it was shown; `None` for a request without an answer.
    """

    user: int
    acknowledged: tuple[str, ...]
    unanswered: tuple[str, ...]
    seen: tuple[dict[str, int] | None, ...]


class Logout(msgspec.Struct, frozen=True, array_like=True, tag="logout"):
    """A logout while another request of the session was under way.

    Attributes:
        user: who.
        acknowledged: whether the logout was answered with 200 before the other request was done.
        late_status: status of the other request, 0 without an answer.
        alive: afterwards, request by request with the old ticket: whether it opened the session; `None` without an answer.
    """

    user: int
    acknowledged: bool
    late_status: int
    alive: tuple[bool | None, ...]


BurstKind = Literal["read", "change", "create", "visit", "idle"]


class Burst(msgspec.Struct, frozen=True, array_like=True, tag="burst"):
    """One web server's work with its store and nothing else: no request, no page.

    Attributes:
        kind: `read`, `change` or `create` for one of these each time; `visit` for a read, followed by a change as often
            as the scenario says; `idle` for nothing at all.
        at_once: how many at the same time.
        seconds: how long it took.
        waits: microseconds that each took, in the order in which they ended.
    """

    kind: BurstKind
    at_once: int
    seconds: float
    waits: tuple[int, ...]


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """The generator has written everything.

    Attributes:
        count: samples, races, logouts and bursts that it wrote.
        elapsed: seconds from the first arrival to the last answer.
        cpu: seconds of processor time that it used.
    """

    count: int
    elapsed: float
    cpu: float


Entry = Began | Sample | Reading | Fault | Race | Logout | Burst | Finished
EntryType = TypeVar("EntryType", Began, Sample, Reading, Fault, Race, Logout, Burst, Finished)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def append(path: Path, entries: Iterable[Entry]) -> None:
    """Append `entries` to a file of samples. Raises `OSError` if they do not fit on the disk."""
    with path.open("ab") as file:
        file.write(b"".join(_encode(entry) + b"\n" for entry in entries))


def read(path: Path) -> list[Entry]:
    """A file of samples that is whole.

    Raises:
        HistoryFault: it cannot be read, or is incomplete: no figure is made from it.
    """
    try:
        entries = [_decode(line) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError) as problem:
        raise HistoryFault(f"{path} cannot be read: {problem}") from None
    ends = [entry for entry in entries if isinstance(entry, Finished)]
    made = sum(isinstance(entry, (Sample, Race, Logout, Burst)) for entry in entries)
    if not entries or not isinstance(entries[0], Began) or not ends or sum(end.count for end in ends) != made:
        raise HistoryFault(f"{path} is incomplete or was changed: {made} samples, {sum(e.count for e in ends)} written")
    return entries


def began(entries: list[Entry]) -> Began:
    """What was measured."""
    first = entries[0]
    assert isinstance(first, Began)
    return first


def of_kind(entries: Iterable[Entry], kind: type[EntryType]) -> Iterator[EntryType]:
    """The entries of one kind."""
    return (entry for entry in entries if isinstance(entry, kind))
