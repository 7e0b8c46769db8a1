"""Whether the figures bear out what is claimed of an architecture. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from coatcheck.lab.architectures import Architecture
from coatcheck.lab.checker import Figures

LEAST_READS = 100
LEAST_SESSIONS = 20
MOST_ERRORS = 0.02
MOST_UNDECIDED = 0.1
MOST_LAG = 50.0  # ms at p99; more, and latencies say more about the generator than about the servers
MOST_GENERATOR_CPU = 0.85
LATE = 10.0  # ms at p99; more, and the slowest requests of an experiment are slow because they were sent late

Answer = Literal["holds", "does not hold", "not decided"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One claim and what the run says about it.

    Attributes:
        claim: what is claimed, in words.
        answer: `holds`, `does not hold`, or `not decided`.
        reason: the figures, in words.
        expected, observed: shares from 0 to 1.
        tolerance: how far the two may be apart. 0 where the claim is "none".
    """

    claim: str
    answer: Answer
    reason: str
    expected: float
    observed: float
    tolerance: float


def judge(architecture: Architecture, figures: Figures, servers: int) -> list[Verdict]:
    """The claims about `architecture`, held against a run with `servers` web servers."""
    return list(_judge(architecture, figures, servers))


def warnings(figures: Figures) -> list[str]:
    """Why the latencies of a run should not be trusted; nothing if they can be."""
    found = []
    if figures.lag.p99 > MOST_LAG:
        found.append(
            f"the load generator was up to {figures.lag.p99:.0f} ms late (p99), so latencies are its own as well. "
            "Use a lower --rate, or a quieter machine"
        )
    if figures.generator_cpu > MOST_GENERATOR_CPU:
        found.append(
            f"the load generator used {figures.generator_cpu:.0%} of a processor core and may have been the bottleneck. "
            "Use a lower --rate"
        )
    return found


def generator_warnings(rounds: Sequence[Mapping[str, float]]) -> list[str]:
    """What the generator did to the times of an experiment, as the end of a sentence; nothing if nothing."""
    lag = max((each.get("lag", 0.0) for each in rounds), default=0.0)
    busy = max((each.get("generator", 0.0) for each in rounds), default=0.0)
    found = []
    if lag > LATE:
        found.append(f"up to {lag:.0f} ms late (p99)")
    if busy > MOST_GENERATOR_CPU:
        found.append(f"{busy:.0%} of a processor core used, and perhaps the bottleneck")
    return found


def _judge(architecture: Architecture, figures: Figures, servers: int) -> Iterator[Verdict]:
    promise = architecture.promise
    before, in_all, sessions = figures.before_kill, figures.in_all, figures.sessions
    known = sessions.lost + sessions.survived

    trouble = ""
    if figures.error_share > MOST_ERRORS:
        trouble = f"{figures.errors} of {figures.operations} requests failed, too many to judge the rest"

    share = promise.wrong_reads(servers)
    yield _verdict(
        f"before the kill {_in_words(share)} of the reads show a wrong cart",
        share, before.wrong, before.count, LEAST_READS, "reads before the kill", trouble,
    )  # fmt: skip

    if promise.wrong_reads_in_all is not None:
        share = promise.wrong_reads_in_all(servers)
        yield _verdict(
            f"over the whole run {_in_words(share)} of the reads show a wrong cart",
            share, in_all.wrong, in_all.count, LEAST_READS, "reads", trouble,
        )  # fmt: skip

    if not trouble and sessions.undecided > MOST_UNDECIDED * sessions.at_risk:
        trouble = f"the fate of {sessions.undecided} of {sessions.at_risk} sessions is unknown, too few reads followed"
    share = promise.lost_sessions(servers)
    yield _verdict(
        f"the kill of one web server takes {_in_words(share)} of the sessions with it",
        share, sessions.lost, known, LEAST_SESSIONS, "sessions", trouble,
    )  # fmt: skip

    foreign = in_all.kinds.get("foreign", 0)
    yield _verdict("nobody ever sees another shopper's cart", 0.0, foreign, in_all.count, LEAST_READS, "reads", "")


def _verdict(claim: str, expected: float, hits: int, count: int, least: int, things: str, trouble: str) -> Verdict:
    """Hold `hits` of `count` against an expected share.

    A claim of "none" is refuted by a single hit, and by nothing else. Any other share may differ by what chance
    explains (four standard deviations) and two points more, for the balancer does not throw dice.
    """
    observed = hits / count if count else 0.0
    tolerance = 4 * math.sqrt(expected * (1 - expected) / count) + 0.02 if expected and count else 0.0
    figures = f"{hits:,} of {count:,} {things}, {observed:.1%}"
    if expected == 0 and count and not hits:
        figures += f"; {at_most(count)}"
    answer: Answer
    if expected == 0 and hits:
        answer, reason = "does not hold", figures
    elif trouble:
        answer, reason = "not decided", trouble
    elif count < least:
        answer, reason = "not decided", f"only {count:,} {things}, at least {least} are needed"
    elif abs(observed - expected) <= tolerance:
        answer, reason = "holds", figures
    else:
        answer, reason = "does not hold", f"{figures}; {expected:.1%} ± {tolerance:.1%} was expected"
    return Verdict(claim=claim, answer=answer, reason=reason, expected=expected, observed=observed, tolerance=tolerance)


def at_most(count: float) -> str:
    """What may still be true when something was seen in none of `count` cases, by the rule of three."""
    return f"at most {min(1.0, 3 / count):.1%} with 95 % confidence"


def _in_words(share: float) -> str:
    return "none" if share == 0 else f"about {share:.0%}"
