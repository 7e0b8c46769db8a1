"""From a history to figures. Pure: no file, no clock, no process. Every figure in a report comes from here.

**Wrong cart.** A read that was answered and shows something other than what this shopper last put into the cart. The
checker works out what belongs in the cart from the shopper's own fills; it does not believe the verdict that the
shopper wrote down, but compares it with its own. A fill without an answer may or may not have happened: until a read
shows its cart, or another fill is acknowledged, both the old and the new cart are right. Wrong carts are told apart:

- `empty`: nothing in it;
- `stale`: an earlier cart of the same shopper;
- `foreign`: something of another shopper's, or a session that says it is another shopper's;
- `other`: anything else.

**Before the kill** counts the reads whose answer was complete when the signal was sent.

**At risk** is a session whose cart was filled and acknowledged before the kill, and read right at least once after
that and before the kill. So it was there.

**Lost to the kill** is a session at risk that was never read right again before its shopper's next fill, although it
was read (and answered) at least `READS_TO_DECIDE` times after the kill, and, unless the balancer pins shoppers, by
every web server that was left. If one of these reads was right the session **survived**. With too few reads it is
**undecided**. Only requests sent after the killed process was gone count as reads after the kill.

**Errors** are operations without an answer or with a status other than 200. They are not reads: neither right nor wrong.

**Latency** counts from the planned arrival to the end of the answer, errors included; `service` counts from the moment
the request left. **Lag** is how late the generator itself was: from the moment at which a request could have left (it
was due, and the shopper's previous answer was there) until it did.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from coatcheck.lab.errors import HistoryFault
from coatcheck.lab.history import SCHEMA, Ended, Entry, Killed, Operation, Started
from coatcheck.lab.measures import samples_needed
from coatcheck.lab.plan import Cart, mark

READS_TO_DECIDE = 5
_CLOCK_GRAIN = 2e-6  # times are rounded to microseconds

Wrongness = Literal["empty", "stale", "foreign", "other"]


class Reads(msgspec.Struct, frozen=True, kw_only=True):
    """Reads that were answered, and what was wrong with them.

    Attributes:
        count: how many.
        wrong: how many showed a wrong cart.
        kinds: the wrong ones by kind: `empty`, `stale`, `foreign`, `other`.
    """

    count: int
    wrong: int
    kinds: dict[Wrongness, int]

    @property
    def share(self) -> float:
        """The share of wrong reads, 0 to 1; 0 without reads."""
        return self.wrong / self.count if self.count else 0.0


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """What the kill did to sessions. `at_risk` is the sum of the other three."""

    at_risk: int
    lost: int
    survived: int
    undecided: int

    @property
    def share(self) -> float:
        """Lost sessions as a share of those whose fate is known, 0 to 1; 0 without any."""
        known = self.lost + self.survived
        return self.lost / known if known else 0.0


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, by the nearest-rank method: `p99` is a time that 99 of 100 operations did not exceed.

    `p999` is `None` where there are too few operations for it.
    """

    p50: float
    p90: float
    p99: float
    p999: float | None
    max: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All that one run of one architecture showed.

    Attributes:
        operations, reads, fills: how many operations of either kind, errors included.
        before_kill, in_all: reads answered before the kill, and in the whole run.
        sessions: what the kill did to them.
        reappeared: reads before the kill that were right again after a wrong one, with no fill in between.
        errors, error_kinds: operations that failed, and why.
        latency: from planned arrival to answer.
        latency_before_kill, latency_after_kill: the same, of arrivals planned before and after the kill.
        service: from sending to answer.
        requests_by_server: answers per web server, by the servers' own word.
        killed: the web server killed.
        killed_at: seconds after the start.
        rate: operations per second that were really completed.
        lag: how late the generator itself was.
        generator_cpu: share of one processor core that the generator used, 0 to 1.
    """

    operations: int
    reads: int
    fills: int
    before_kill: Reads
    in_all: Reads
    sessions: Sessions
    reappeared: int
    errors: int
    error_kinds: dict[str, int]
    latency: Latency
    latency_before_kill: Latency
    latency_after_kill: Latency
    service: Latency
    requests_by_server: dict[str, int]
    killed: str
    killed_at: float
    rate: float
    lag: Latency
    generator_cpu: float

    @property
    def error_share(self) -> float:
        """Errors as a share of operations, 0 to 1."""
        return self.errors / self.operations if self.operations else 0.0


def check(entries: Sequence[Entry]) -> Figures:
    """Judge a history.

    Raises:
        HistoryFault: the history is incomplete or contradicts itself. All faults found are listed, at most ten.
    """
    started, killed, ended, operations = _parts(entries)
    faults = list(_faults(started, killed, ended, operations))
    by_shopper: dict[int, list[Operation]] = {}
    for operation in sorted(operations, key=lambda operation: operation.id):
        by_shopper.setdefault(operation.shopper, []).append(operation)
    judged = {shopper: _judge(shopper, theirs, faults) for shopper, theirs in sorted(by_shopper.items())}
    if faults:
        shown = "".join(f"\n    {fault}" for fault in faults[:10])
        more = f"\n    and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise HistoryFault(
            f"the history of {started.architecture!r} cannot be judged, it is incomplete or was changed:{shown}{more}"
        )

    wrong: dict[int, Wrongness] = {number: kind for theirs in judged.values() for number, kind in theirs.items()}
    answered = [operation for operation in operations if operation.kind == "read" and operation.outcome == "ok"]
    failed = [operation for operation in operations if operation.outcome == "error"]
    servers = Counter(operation.server for operation in operations if operation.server is not None)
    return Figures(
        operations=len(operations),
        reads=sum(operation.kind == "read" for operation in operations),
        fills=sum(operation.kind == "fill" for operation in operations),
        before_kill=_reads((op for op in answered if op.completed <= killed.begun), wrong),
        in_all=_reads(answered, wrong),
        sessions=_sessions(started, killed, by_shopper, wrong),
        reappeared=sum(_reappeared(theirs, wrong, killed.begun) for theirs in by_shopper.values()),
        errors=len(failed),
        error_kinds=dict(Counter(operation.error or "unknown" for operation in failed).most_common()),
        latency=_latency(op.completed - op.scheduled for op in operations),
        latency_before_kill=_latency(op.completed - op.scheduled for op in operations if op.scheduled < killed.begun),
        latency_after_kill=_latency(op.completed - op.scheduled for op in operations if op.scheduled >= killed.begun),
        service=_latency(op.completed - op.sent for op in operations),
        requests_by_server={name: servers.get(name, 0) for name in started.servers},
        killed=killed.server,
        killed_at=killed.begun,
        rate=len(operations) / ended.elapsed if ended.elapsed else 0.0,
        lag=_latency(_lags(by_shopper)),
        generator_cpu=ended.cpu / ended.elapsed if ended.elapsed else 0.0,
    )


# --- is the history whole? -------------------------------------------------------------------------------------------


def _parts(entries: Sequence[Entry]) -> tuple[Started, Killed, Ended, list[Operation]]:
    """The history taken apart. Raises `HistoryFault` if a part is missing or there twice."""

    def the_only(kind: type[Started] | type[Killed] | type[Ended], missing: str) -> Entry:
        found = [entry for entry in entries if isinstance(entry, kind)]
        if len(found) != 1:
            raise HistoryFault(missing if not found else f"the history has {len(found)} entries of {kind.__name__!r}")
        return found[0]

    started = the_only(Started, "the history has no beginning: it does not say what was run")
    if not isinstance(started, Started) or entries[0] is not started:
        raise HistoryFault("the history does not begin with what was run; lines are missing or out of order")
    if started.schema != SCHEMA:
        raise HistoryFault(
            f"the history has format {started.schema}, this coatcheck reads format {SCHEMA}. "
            "Use the version of coatcheck that wrote it"
        )
    ended = the_only(Ended, "the history has no end: the run was stopped, or part of the file is missing")
    killed = the_only(Killed, "the history has no kill: the run ended before it")
    assert isinstance(ended, Ended)
    assert isinstance(killed, Killed)
    return started, killed, ended, [entry for entry in entries if isinstance(entry, Operation)]


def _faults(started: Started, killed: Killed, ended: Ended, operations: Sequence[Operation]) -> Iterable[str]:
    """What makes a history impossible, whatever the servers did."""
    if killed.server not in started.servers:
        yield f"the killed server {killed.server!r} is none of {', '.join(started.servers)}"
    if killed.done < killed.begun:
        yield "the kill ended before it began"
    if not len(operations) == ended.operations == started.operations:
        yield (
            f"{started.operations} operations were planned, the generator wrote {ended.operations}, "
            f"{len(operations)} are here"
        )
    times_seen = Counter(operation.id for operation in operations)
    for number, times in times_seen.items():
        if times > 1:
            yield f"operation {number} is there {times} times"
    missing = [number for number in range(started.operations) if number not in times_seen]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        yield f"{len(missing)} operations are missing: {shown}"
    for operation in operations:
        what = f"operation {operation.id}"
        if not 0 <= operation.id < started.operations:
            yield f"{what} was never planned"
        if not 0 <= operation.shopper < started.shoppers:
            yield f"{what} is of shopper {operation.shopper}, who does not exist"
        if not operation.scheduled - _CLOCK_GRAIN <= operation.sent <= operation.completed:
            yield f"{what} was not scheduled, sent and completed in this order"
        if abs(operation.scheduled - operation.id / started.rate) > _CLOCK_GRAIN:
            yield f"{what} was due at {operation.id / started.rate:.6f} s, not at {operation.scheduled:.6f} s"
        if operation.server is not None and operation.server not in started.servers:
            yield f"{what} was answered by {operation.server!r}, which is no server of this run"
        if operation.server == killed.server and operation.sent >= killed.done:
            yield f"{what} was answered by {operation.server!r} after it was killed"
        if operation.outcome == "ok":
            if operation.error is not None or operation.status != 200 or operation.server is None:
                yield f"{what} is said to have gone well, but has an error, no server or status {operation.status}"
            if (operation.kind == "read") != (operation.seen is not None):
                yield f"{what}: a read that went well shows a cart, and nothing else does"
        elif operation.error is None or operation.status == 200 or operation.seen is not None:
            yield f"{what} is said to have failed, but has an answer or no error"


# --- what belongs in the cart? ---------------------------------------------------------------------------------------


def _judge(shopper: int, operations: Sequence[Operation], faults: list[str]) -> dict[int, Wrongness]:
    """One shopper's wrong reads, by operation id. Adds to `faults` where the shopper's notes contradict the history."""
    wrong: dict[int, Wrongness] = {}
    possible: tuple[Cart, ...] = ()  # what a read may show; empty before the first acknowledged fill
    earlier: list[Cart] = []
    generation = 0
    back = -math.inf
    for operation in operations:
        what = f"operation {operation.id} (shopper {shopper})"
        if operation.sent < back - _CLOCK_GRAIN:
            faults.append(f"{what} was sent before the shopper's previous request was back")
        back = operation.completed
        if operation.kind == "fill":
            generation += 1
            if operation.generation != generation:
                faults.append(f"{what} is fill {operation.generation}, but it is number {generation}")
            if len(operation.expected) != 1:
                faults.append(f"{what} does not say which cart was filled in")
                continue
            if operation.outcome == "ok":
                earlier += possible
                possible = operation.expected
            elif possible:
                possible += operation.expected
            continue
        if operation.generation != generation or operation.expected != possible:
            faults.append(f"{what} expected another cart than the shopper's fills say")
        if operation.seen is None:
            continue
        kind = _wrongness(shopper, operation, possible, earlier)
        if operation.right is not (kind is None):
            faults.append(
                f"{what}: the shopper found it {'right' if operation.right else 'wrong'}, the checker does not"
            )
        if kind is not None:
            wrong[operation.id] = kind
        elif possible and operation.seen != possible[0]:
            # A fill without an answer has happened after all. From now on only its cart is right.
            earlier += [cart for cart in possible if cart != operation.seen]
            possible = (operation.seen,)
    return wrong


def _wrongness(
    shopper: int, operation: Operation, possible: Sequence[Cart], earlier: Sequence[Cart]
) -> Wrongness | None:
    """What is wrong with a read; `None` if it is right."""
    seen = operation.seen or {}
    own = mark(shopper, 0).removesuffix("0")
    if operation.owner not in (None, owner_of(shopper)):
        return "foreign"
    if any(not article.partition("-")[2].startswith(own) for article in seen):
        return "foreign"
    if seen in possible:
        return None
    if not seen:
        return "empty"
    return "stale" if seen in earlier else "other"


def owner_of(shopper: int) -> str:
    """The name that a shopper gives at the shop."""
    return f"shopper-{shopper}"


# --- figures ---------------------------------------------------------------------------------------------------------


def _reads(operations: Iterable[Operation], wrong: dict[int, Wrongness]) -> Reads:
    count = 0
    kinds: Counter[Wrongness] = Counter()
    for operation in operations:
        count += 1
        if operation.id in wrong:
            kinds[wrong[operation.id]] += 1
    return Reads(count=count, wrong=kinds.total(), kinds=dict(kinds.most_common()))


def _sessions(
    started: Started, killed: Killed, by_shopper: dict[int, list[Operation]], wrong: dict[int, Wrongness]
) -> Sessions:
    """The fate of each shopper's session; the module's docstring has the definition."""
    left = {server for server in started.servers if server != killed.server}
    fates: Counter[str] = Counter()
    for operations in by_shopper.values():
        before = [operation for operation in operations if operation.sent < killed.begun]
        fills = [operation for operation in before if operation.kind == "fill"]
        if not fills or fills[-1].outcome != "ok" or fills[-1].completed > killed.begun:
            continue
        was_there = any(
            operation.kind == "read"
            and operation.outcome == "ok"
            and operation.id > fills[-1].id
            and operation.id not in wrong
            and operation.completed <= killed.begun
            for operation in before
        )
        if not was_there:
            continue
        after: list[Operation] = []
        for operation in operations:
            if operation.sent < killed.begun:
                continue
            if operation.kind == "fill":
                break
            if operation.outcome == "ok" and operation.sent >= killed.done:
                after.append(operation)
        if any(operation.id not in wrong for operation in after):
            fates["survived"] += 1
        elif len(after) >= READS_TO_DECIDE and (started.sticky or {op.server for op in after} >= left):
            fates["lost"] += 1
        else:
            fates["undecided"] += 1
    return Sessions(at_risk=fates.total(), lost=fates["lost"], survived=fates["survived"], undecided=fates["undecided"])


def _reappeared(operations: Sequence[Operation], wrong: dict[int, Wrongness], until: float) -> int:
    """How often one shopper's cart was there again after it had been gone."""
    times, gone = 0, False
    for operation in operations:
        if operation.completed > until or operation.outcome != "ok":
            continue
        if operation.kind == "fill":
            gone = False
        elif operation.id in wrong:
            gone = True
        else:
            times, gone = times + gone, False
    return times


def _lags(by_shopper: dict[int, list[Operation]]) -> Iterable[float]:
    for operations in by_shopper.values():
        back = -math.inf
        for operation in operations:
            yield max(0.0, operation.sent - max(operation.scheduled, back))
            back = operation.completed


def _latency(seconds: Iterable[float]) -> Latency:
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 3) if ordered else 0.0

    p999 = rank(0.999) if len(ordered) >= samples_needed(0.999) else None
    return Latency(p50=rank(0.5), p90=rank(0.9), p99=rank(0.99), p999=p999, max=rank(1))
