"""From the raw samples of one measurement to its figures. Pure: no file, no clock. Every figure of a report is made here.

A figure is left out where the samples cannot tell it. Names, units and meanings stand in `FIGURES`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from coatcheck.lab.samples import Burst, Entry, Fault, Finished, Logout, Race, Reading, Sample, began, of_kind

Unit = Literal["ms", "µs", "bytes", "share", "times", "count", "s", "per second"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure means.

    Attributes:
        title: in a few words.
        unit: `share` is from 0 to 1; `times` is a ratio.
    """

    title: str
    unit: Unit


FIGURES: Mapping[str, Figure] = {
    "store_p50": Figure("session work per request, median", "ms"),
    "store_p99": Figure("session work per request, 99th percentile", "ms"),
    "store_p999": Figure("session work per request, 99.9th percentile", "ms"),
    "whole_p50": Figure("whole request, median", "ms"),
    "whole_p99": Figure("whole request, 99th percentile", "ms"),
    "whole_p999": Figure("whole request, 99.9th percentile", "ms"),
    "web_cpu": Figure("processor time of the web servers per request", "µs"),
    "store_cpu": Figure("processor time of the store per request", "µs"),
    "work_cpu": Figure("processor time of session work, web servers and store together", "µs"),
    "peer_cpu": Figure("processor time of each other web server", "µs"),
    "balancer_cpu": Figure("processor time of the balancer per request", "µs"),
    "network": Figure("bytes to and from the store, or between web servers, per request", "bytes"),
    "idle_network": Figure("the same while nobody comes, per second", "bytes"),
    "idle_cpu": Figure("processor time of web servers and store while nobody comes, per second", "µs"),
    "memory": Figure("memory per stored session, over the whole cluster", "bytes"),
    "errors": Figure("requests that failed", "share"),
    "load": Figure("the busiest server's requests, as a multiple of the mean", "times"),
    "load_after": Figure("the same, after a server was added", "times"),
    "newcomer": Figure("requests that the added server took over", "share"),
    "lost_sessions": Figure("sessions lost", "share"),
    "gap": Figure("longest time in which no request was answered", "s"),
    "lost_updates": Figure("acknowledged changes that were gone afterwards", "share"),
    "revived": Figure("sessions that were alive after an acknowledged logout", "share"),
    "updates": Figure("changes made at the same time as others", "count"),
    "logouts": Figure("logouts while another request was under way", "count"),
    "samples": Figure("requests measured, all rounds", "count"),
    "rate": Figure("requests completed", "per second"),
    "lag": Figure("how late the generator was, 99th percentile", "ms"),
    "generator": Figure("share of one core that the generator used", "share"),
    "begun": Figure("requests that began a session, of those that the meters counted", "share"),
    "metered": Figure("time between two readings of the meters", "s"),
}

TAILS: Mapping[str, float] = {"store_p99": 0.99, "store_p999": 0.999, "whole_p99": 0.99, "whole_p999": 0.999}
"""Percentiles that need many samples, and which they are."""

BEYOND = 10
"""How many samples have to be beyond a percentile, so that it is not the accident of one of them."""

_FEWEST_LOOKS = 2  # after a fault, at a session, before it counts as lost


def figures(entries: Sequence[Entry]) -> dict[str, float]:
    """All figures of one measurement."""
    found: dict[str, float] = {}
    visits = [sample for sample in of_kind(entries, Sample) if sample.scheduled >= 0]
    faults = sorted(of_kind(entries, Fault), key=lambda fault: fault.begun)
    if visits:
        found |= _times(visits) | _loads(visits, faults)
        end = next(of_kind(entries, Finished))
        found |= {"rate": len(visits) / end.elapsed, "generator": end.cpu / end.elapsed, "samples": float(len(visits))}
    if faults:
        found |= _fates(list(of_kind(entries, Sample)), faults)
    races = list(of_kind(entries, Race))
    if visits and not faults and not races:  # otherwise the meters counted more than the samples
        begins = sum(sample.kind == "begin" for sample in of_kind(entries, Sample))
        found |= _costs(entries, len(visits) + begins)
        if "metered" in found:
            found["begun"] = begins / (len(visits) + begins)
    for burst in of_kind(entries, Burst):
        found |= _burst(entries, burst)
    found |= _memory(entries)
    found |= _races(races) | _logouts(list(of_kind(entries, Logout)))
    return {name: found[name] for name in FIGURES if name in found}


def durations(entries: Sequence[Entry]) -> dict[str, list[float]]:
    """Milliseconds of each request: `store` of its session work, if it was answered, and `whole` of all of it."""
    visits = [sample for sample in of_kind(entries, Sample) if sample.scheduled >= 0]
    return {
        "store": [visit.store_us / 1000 for visit in visits if visit.status == 200]
        + [wait / 1000 for burst in of_kind(entries, Burst) for wait in burst.waits],
        "whole": [(visit.completed - visit.scheduled) * 1000 for visit in visits],
    }


def tails(rounds: Sequence[Sequence[Entry]]) -> dict[str, float]:
    """The percentiles in `TAILS` over all rounds together, as far as there are enough samples."""
    each = [durations(entries) for entries in rounds]
    found = {}
    for name, share in TAILS.items():
        values = [value for one in each for value in one[name.partition("_")[0]]]
        if len(values) >= samples_needed(share):
            found[name] = percentile(values, share)
    return found


def samples_needed(share: float) -> int:
    """How many samples a percentile needs: 1,000 for the 99th (0.99), 10,000 for the 99.9th."""
    return round(BEYOND / (1 - share))


def percentile(values: Iterable[float], share: float) -> float:
    """By the nearest-rank method: a value that `share` of all did not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _times(visits: Sequence[Sample]) -> dict[str, float]:
    found = {f"{name}_p50": percentile(values, 0.5) for name, values in durations(visits).items()}
    found["errors"] = sum(visit.status != 200 for visit in visits) / len(visits)
    found["lag"] = percentile(((visit.sent - visit.scheduled) * 1000 for visit in visits), 0.99)
    return found


def _loads(visits: Sequence[Sample], faults: Sequence[Fault]) -> dict[str, float]:
    """How evenly the servers were loaded: before anything was changed, and after a server was added."""
    added = [fault for fault in faults if fault.what.startswith("add ")]
    begun = added[0].begun if added else math.inf
    before = Counter(visit.server for visit in visits if visit.server and visit.completed < begun)
    found = {}
    if before:
        found["load"] = max(before.values()) / (before.total() / len(before))
    if added:
        after = Counter(visit.server for visit in visits if visit.server and visit.sent > added[0].done)
        newcomer = added[0].what.removeprefix("add ")
        servers = set(before) | set(after) | {newcomer}
        if after:
            found["load_after"] = max(after.values()) / (after.total() / len(servers))
            found["newcomer"] = after[newcomer] / after.total()
    return found


def _fates(everything: Sequence[Sample], faults: Sequence[Fault]) -> dict[str, float]:
    """What faults did to sessions: known before the first, looked at after the last, and never known again."""
    begun, done = faults[0].begun, faults[-1].done
    known: dict[int, bool] = {}
    looks: dict[int, list[bool]] = {}
    for sample in everything:
        if sample.status != 200:
            continue
        if sample.completed < begun:
            known[sample.user] = known.get(sample.user, False) or sample.known
        elif sample.sent > done:
            looks.setdefault(sample.user, []).append(sample.known)
    decided = [user for user, was in known.items() if was and len(looks.get(user, ())) >= _FEWEST_LOOKS]
    found = {}
    if decided:
        found["lost_sessions"] = sum(not any(looks[user]) for user in decided) / len(decided)
    answers = sorted(sample.completed for sample in everything if sample.status == 200 and sample.scheduled >= 0)
    found["gap"] = max((later - sooner for sooner, later in pairwise(answers)), default=0.0)
    return found


def _costs(entries: Sequence[Entry], requests: int) -> dict[str, float]:
    """Processor time in µs and bytes on the network, per request, those included that begin a session."""
    readings = {reading.moment: reading for reading in of_kind(entries, Reading)}
    found: dict[str, float] = {}
    before, after = readings.get("before"), readings.get("after")
    if before and after:
        found["metered"] = after.at - before.at
        for name, spent in _spent(before, after).items():
            found[name] = spent / requests * 1e6
        moved = _moved(before, after)
        if moved is not None:
            found["network"] = moved / requests
    return found


def _moved(before: Reading, after: Reading) -> int | None:
    """Bytes on the network between two readings, where the kernel counts them."""
    if before.network is None or after.network is None:
        return None
    sent, received = (
        sum(after.network[server][way] - before.network[server][way] for server in before.network) for way in (0, 1)
    )
    # Between web servers, what one sends another receives: it is counted once.
    return sent + received if after.kept else sent


def _burst(entries: Sequence[Entry], burst: Burst) -> dict[str, float]:
    """What session work costs by itself, per piece of work; or what is sent while nobody comes."""
    if not burst.waits:
        costs = _costs(entries, 1)
        idle = {
            "idle_network": costs.get("network"),
            "idle_cpu": costs.get("web_cpu", 0.0) + costs.get("store_cpu", 0.0),
        }
        return {name: spent / costs["metered"] for name, spent in idle.items() if spent is not None}
    count = len(burst.waits)
    found = {"store_p50": percentile(burst.waits, 0.5) / 1000, "samples": float(count)} | _costs(entries, count)
    if "web_cpu" in found:
        found["work_cpu"] = found["web_cpu"] + found.get("store_cpu", 0.0)
    before, after = (
        next(each for each in of_kind(entries, Reading) if each.moment == way) for way in ("before", "after")
    )
    spent = sorted(after.cpu[server] - before.cpu[server] for server in after.memory)
    if len(spent) > 1:  # one of them does the work, the others are told of it
        found["peer_cpu"] = sum(spent[:-1]) / (len(spent) - 1) / count * 1e6
    return found


def _memory(entries: Sequence[Entry]) -> dict[str, float]:
    """Bytes per stored session: what the store took more when it had them, or web servers where there is no store.

    Where there is a store, a web server's memory grows and shrinks for reasons of its own.
    """
    readings = {reading.moment: reading for reading in of_kind(entries, Reading)}
    empty, filled = readings.get("empty"), readings.get("filled")
    stored = began(list(entries)).stored
    if empty and filled and stored:
        before, after = (empty.kept, filled.kept) if filled.kept else (empty.memory, filled.memory)
        more = sum(after.values()) - sum(before.values())
        return {"memory": more / stored}
    return {}


def _spent(before: Reading, after: Reading) -> dict[str, float]:
    """Seconds of processor time by whom; nothing about a process that was replaced meanwhile."""
    found: dict[str, float] = {}
    for name, until in after.cpu.items():
        spent = until - before.cpu.get(name, 0.0)
        if spent < 0:
            return {}
        who = "web_cpu" if name in after.memory else "balancer_cpu" if name == "haproxy" else "store_cpu"
        found[who] = found.get(who, 0.0) + spent
    return found


def _races(races: Sequence[Race]) -> dict[str, float]:
    """A change is lost if it was acknowledged, and a cart shown afterwards does not have it. Each look counts."""
    expected = lost = updates = 0
    for race in races:
        updates += len(race.acknowledged)
        for cart in race.seen:
            if cart is not None:
                expected += len(race.acknowledged)
                lost += sum(thing not in cart for thing in race.acknowledged)
    return {"lost_updates": lost / expected, "updates": float(updates)} if expected else {}


def _logouts(logouts: Sequence[Logout]) -> dict[str, float]:
    """A session is revived if its logout was acknowledged, and the old ticket opened it afterwards."""
    judged = [one for one in logouts if one.acknowledged and any(look is not None for look in one.alive)]
    revived = sum(any(look for look in one.alive) for one in judged)
    return {"revived": revived / len(judged), "logouts": float(len(judged))} if judged else {}
