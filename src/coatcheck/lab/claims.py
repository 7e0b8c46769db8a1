"""The six claims, and what a run says about each. Pure: from outcomes and figures to words.

A claim is made of parts, each of which can be refuted. It holds if all parts hold; it does not hold if one does not; it is
not decided if an architecture it speaks of was not measured, or a figure is within chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from coatcheck.lab.checker import Figures
from coatcheck.lab.verdicts import Answer, Verdict, at_most

NEEDS: Mapping[str, tuple[str, ...]] = {
    "consistency": ("redis",),
    "crowding": ("sticky", "all-to-all", "redis"),
    "load": ("database", "redis"),
    "work": ("database", "redis"),
    "size": (),
    "growth": ("all-to-all",),
}
"""Which architectures an experiment has to be done with so that all claims can be judged."""

EVEN = 1.35  # times the mean that the busiest server may do, and the load still counts as spread
CROWDED = 1.6  # times the mean from which on it counts as crowded
NOTICED = 100.0  # ms that a person notices
_MARGIN = 0.1  # two medians that are nearer than this say nothing


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one experiment with one architecture, round by round.

    Attributes:
        experiment, architecture: by name.
        case: such as `busy`; `""` where there is only one.
        rounds: figures by name, see `coatcheck.lab.measures.FIGURES`, one dict per round.
        tails: the 99th and 99.9th percentiles over all rounds together, where there are enough samples for them.
        files: the files of samples that they come from, from the run's folder.
        warnings: why the times should not be trusted, if so.
    """

    experiment: str
    architecture: str
    case: str
    rounds: list[dict[str, float]]
    files: list[str]
    tails: dict[str, float] = {}
    warnings: list[str] = []

    def values(self, figure: str) -> list[float]:
        """A figure in each round that has it; a percentile in `tails` once."""
        if figure in self.tails:
            return [self.tails[figure]]
        return [each[figure] for each in self.rounds if figure in each]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a claim says, and what was measured."""

    text: str
    answer: Answer
    reason: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim and its verdict.

    Attributes:
        number: from 1 to 6.
        title: a few words.
        text: what is claimed.
        answer: `holds`, `does not hold`, or `not decided`.
        parts: what it is made of.
        note: what else has to be known to read it rightly; empty if nothing.
    """

    number: int
    title: str
    text: str
    answer: Answer
    parts: list[Part]
    note: str = ""


class Evidence:
    """What was measured.

    Args:
        carts: figures and verdicts of the experiment with the carts, by architecture.
        measured: everything else.
    """

    def __init__(self, carts: Mapping[str, tuple[Figures, Sequence[Verdict]]], measured: Sequence[Measured]) -> None:
        self.carts = carts
        self._measured = {(one.experiment, one.architecture, one.case): one for one in measured}

    def of(self, experiment: str, architecture: str, case: str) -> Measured | None:
        """All figures of a case; `None` if it was not measured."""
        return self._measured.get((experiment, architecture, case))

    def values(self, experiment: str, architecture: str, case: str, figure: str) -> list[float]:
        """A figure in each round; nothing if it was not measured."""
        one = self.of(experiment, architecture, case)
        return [] if one is None else one.values(figure)

    def cases(self, experiment: str, architecture: str) -> list[str]:
        """The cases that were measured."""
        return [case for name, which, case in self._measured if (name, which) == (experiment, architecture)]


def judge(evidence: Evidence) -> list[Claim]:
    """All six."""
    return [
        _claim(number, title, text, list(parts(evidence)), " ".join(note(evidence)))
        for number, (title, text, parts, note) in enumerate(_CLAIMS, start=1)
    ]


def _claim(number: int, title: str, text: str, parts: list[Part], note: str) -> Claim:
    answers = {part.answer for part in parts}
    answer: Answer = (
        "does not hold" if "does not hold" in answers else "not decided" if "not decided" in answers else "holds"
    )
    return Claim(number=number, title=title, text=text, answer=answer, parts=parts, note=note)


# --- the claims ------------------------------------------------------------------------------------------------------


def _vanishing_carts(evidence: Evidence) -> Iterator[Part]:
    yield from _carts(evidence, "local", 0, "a read is right only if the server whose turn it is has the cart")
    text = "carts that are gone come back without anybody's doing"
    if (figures := _figures_of(evidence, "local")) is None:
        yield _missing(text, "local")
    else:
        seen = figures.reappeared
        yield _part(text, seen > 0, f"{seen:,} carts were there again after they had been gone")


def _stickiness(evidence: Evidence) -> Iterator[Part]:
    yield from _carts(evidence, "sticky", 0, "shoppers who are pinned to a server find their carts")
    yield _crowding(evidence, "sticky", spread=False)
    yield from _carts(evidence, "sticky", 1, "a server takes the sessions of its users with it")


def _copies(evidence: Evidence) -> Iterator[Part]:
    name = "all-to-all"
    yield from _carts(evidence, name, 0, "any server knows every cart")
    yield from _carts(evidence, name, -2, "the kill of a server takes no session with it")
    yield _crowding(evidence, name, spread=True)
    yield _growth(
        evidence, name, "memory", "memory per session grows with the number of servers", "bytes for each session"
    )
    yield _growth(evidence, name, "network", "traffic between servers grows with their number", "bytes per request")


def _database(evidence: Evidence) -> Iterator[Part]:
    yield from _carts(evidence, "database", 0, "any server knows every cart")
    yield from _carts(evidence, "database", -2, "the kill of a server takes no session with it")
    yield _slower(evidence, "its session work takes longer than that of Redis or Valkey")
    text = "it falls further behind the more come at once (session work by itself)"
    alone, crowd = (_both(evidence, "work", case, "store_p50") for case in ("1-at-once", "64-at-once"))
    if missing := _not_there(alone) or _not_there(crowd):
        yield _missing(text, missing)
    else:
        yield _compared(
            text, _behind(crowd), _behind(alone),
            "{} more than Redis when 64 come at once, {} when one does", "{:.2f} ms",
        )  # fmt: skip
    text = "as users grow it is the first to have no processor time left: its session work takes more of it"
    spent = _both(evidence, "work", "64-at-once", "work_cpu")
    if missing := _not_there(spent):
        yield _missing(text, missing)
    else:
        yield _compared(
            text, spent["database"], spent["redis"],
            "{} of web server and database per visit when 64 come at once, {} with Redis", "{:,.0f} µs",
        )  # fmt: skip


def _shared_store(evidence: Evidence) -> Iterator[Part]:
    yield from _carts(evidence, "redis", 0, "any server knows every cart")
    yield from _carts(evidence, "redis", -2, "the kill of a web server takes no session with it")
    yield _none(evidence, "consistency", "redis", "", "lost_updates", "there is one consistent copy: no change is lost")
    yield _none(evidence, "consistency", "redis", "", "revived", "a logout is final on every server")
    yield _crowding(evidence, "redis", spread=True)
    yield _slower(evidence, "its session work takes a fraction of a database's time")


def _layout(evidence: Evidence) -> Iterator[Part]:
    cases = [case for case in evidence.cases("layout", "redis") if not case.endswith("-at-once")]
    if not cases:
        yield _missing("a change of one field costs fewer bytes, and loses nothing", "redis")
        return
    for case in cases:
        hashed, value = (evidence.values("layout", name, case, "network") for name in ("redis", "redis-value"))
        size = case.replace("kB", " kB")
        text = f"one changed field of {size} costs fewer bytes"
        if hashed and value:
            yield _compared(text, value, hashed, "{} per change as one value, {} as a hash", "{:,.0f} bytes")
        else:
            yield _undecided(text, "the kernel does not count bytes here")
    case = f"{cases[-1]}-at-once"
    yield _none(evidence, "layout", "redis", case, "lost_updates", "a hash loses no change that was made beside others")
    for figure, text in (
        ("lost_updates", "one serialised value loses changes that were made beside others"),
        ("revived", "one serialised value brings back sessions that were logged out"),
    ):
        values = evidence.values("layout", "redis-value", case, figure)
        count, things = _count(evidence, "layout", "redis-value", case, figure)
        reason = f"{max(values, default=0.0):.1%} of {count:,.0f} {things}"
        yield _part(text, max(values) > 0, reason) if values else _missing(text, "redis-value")


# --- what has to be known to read them rightly -------------------------------------------------------------------------


def _nothing(_evidence: Evidence) -> Iterator[str]:
    yield from ()


def _few_servers(evidence: Evidence) -> Iterator[str]:
    sizes = sorted(int(case[1:]) for case in evidence.cases("growth", "all-to-all"))
    sent = {size: evidence.values("growth", "all-to-all", f"n{size}", "network") for size in sizes if size > 1}
    told = {size: evidence.values("growth", "redis", f"n{size}", "network") for size in sent}
    if not sent or not all(sent.values()) or not all(told.values()):
        return
    of_store = statistics.median(each for values in told.values() for each in values)
    shown = ", ".join(f"{statistics.median(values):,.0f} bytes with {size} servers" for size, values in sent.items())
    less = [size for size, values in sent.items() if statistics.median(values) < of_store]
    few = f"With {max(less)} servers it moves less than a store does. " if less else ""
    yield (
        f"{few}Per request {shown}; with Redis {of_store:,.0f} whatever their number, since it hands each session over "
        "whole."
    )


def _what_people_notice(evidence: Evidence) -> Iterator[str]:
    whole = _both(evidence, "load", "busy", "whole_p50")
    if not _not_there(whole):
        high, low = whole["database"], whole["redis"]
        apart = "apart" if min(high) > max(low) else "the repeats overlap"
        unnoticed = statistics.median(high) - statistics.median(low) < NOTICED / 2
        yield (
            f"This is about session work, the time for which a request waits for its store. The whole request took "
            f"{_with_spread(high, '{:.2f} ms')} with the database and {_with_spread(low, '{:.2f} ms')} with Redis (median, "
            f"many users): {apart}."
        )
        if unnoticed:
            yield (
                f"People would not notice the difference, for they notice about {NOTICED:g} ms; what they would notice is a "
                "database without processor time left."
            )
    calm, busy = (evidence.values("load", "database", case, "store_p50") for case in ("calm", "busy"))
    if calm and busy:
        yield (
            f"From few to many users of the whole shop the database's session work went from {statistics.median(calm):.2f} "
            f"to {statistics.median(busy):.2f} ms: what a crowd does is shown by 64 at once, not by this light traffic."
        )
    spent = _both(evidence, "work", "1-at-once", "work_cpu")
    if not _not_there(spent):
        took = {name: statistics.median(values) for name, values in spent.items()}
        yield (
            f"When one comes at a time the processor time is {took['database']:,.0f} µs with the database and "
            f"{took['redis']:,.0f} µs with Redis: the crowd makes the difference larger, since Redis takes many commands in "
            "one go."
        )


def _price_of_a_hash(evidence: Evidence) -> Iterator[str]:
    cases = [case for case in evidence.cases("layout", "redis") if not case.endswith("-at-once")]
    for figure, words in (("memory", "bytes of memory"), ("store_cpu", "µs of the store's processor time per change")):
        values = [
            [evidence.values("layout", name, case, figure) for name in ("redis", "redis-value")] for case in cases[:1]
        ]
        if values and all(values[0]):
            hashed, value = (statistics.median(each) for each in values[0])
            size = cases[0].replace("kB", " kB")
            yield f"A session of {size} takes {hashed:,.0f} {words} as a hash, {value:,.0f} as one value."
    if cases:
        yield "Either way a request reads the whole session first; what a hash saves is to write all of it back."


Parts = Callable[[Evidence], Iterator[Part]]
Note = Callable[[Evidence], Iterator[str]]

_CLAIMS: tuple[tuple[str, str, Parts, Note], ...] = (
    (
        "A store per web server loses carts",
        "With a store per web server, and users who are not sent back to the same one, a cart vanishes and reappears as "
        "requests move between servers.",
        _vanishing_carts,
        _nothing,
    ),
    (
        "Sticky sessions repair that, at a price",
        "Sticky sessions repair that, but a crowd on one server cannot be spread over the others, and a server's users lose "
        "their sessions with it.",
        _stickiness,
        _nothing,
    ),
    (
        "All-to-all repairs both, and pays",
        "A full copy on every server repairs both, and pays: N copies of every session, and traffic that grows with N.",
        _copies,
        _few_servers,
    ),
    (
        "A database is right, and slower",
        "A database as session store is right, but each response waits longer for its session, the more so the more users "
        "come at once.",
        _database,
        _what_people_notice,
    ),
    (
        "Redis or Valkey: any server, one copy, fast",
        "Redis or Valkey as session store lets any server serve any user, with one consistent copy, at a fraction of the "
        "time for which a request waits for a database.",
        _shared_store,
        _nothing,
    ),
    (
        "A hash per session fits the data",
        "A hash per session lets one field be changed alone, where a single serialised value must be rewritten whole and "
        "loses concurrent updates.",
        _layout,
        _price_of_a_hash,
    ),
)


# --- parts -----------------------------------------------------------------------------------------------------------


def _part(text: str, fine: bool, reason: str) -> Part:
    return Part(text=text, answer="holds" if fine else "does not hold", reason=reason)


def _undecided(text: str, reason: str) -> Part:
    return Part(text=text, answer="not decided", reason=reason)


def _missing(text: str, architecture: str) -> Part:
    return _undecided(text, f"the architecture {architecture!r} was not measured in this run")


def _figures_of(evidence: Evidence, architecture: str) -> Figures | None:
    found = evidence.carts.get(architecture)
    return None if found is None else found[0]


def _carts(evidence: Evidence, architecture: str, which: int, text: str) -> Iterator[Part]:
    """A verdict of the experiment with the carts: 0 wrong carts, -2 lost sessions, see `verdicts.judge`."""
    found = evidence.carts.get(architecture)
    if found is None:
        yield _missing(text, architecture)
        return
    verdict = found[1][which if which <= 0 else -2]
    yield Part(text=text, answer=verdict.answer, reason=f"{verdict.claim}: {verdict.reason}")


def _crowding(evidence: Evidence, architecture: str, *, spread: bool) -> Part:
    text = (
        "a crowd is spread over all servers, and over a new one"
        if spread
        else "a crowd that met on one server stays there, and a new server does not help"
    )
    before, after, newcomer = (
        evidence.values("crowding", architecture, "", figure) for figure in ("load", "load_after", "newcomer")
    )
    if not (before and after and newcomer):
        return _missing(text, architecture)
    loads = (statistics.median(before), statistics.median(after))
    took = statistics.median(newcomer)
    reason = (
        f"the busiest server had {loads[0]:.2f} times the mean, {loads[1]:.2f} times after a server was added, "
        f"which took over {took:.0%}"
    )
    if spread:
        return _part(text, max(loads) < EVEN and took > 0.1, reason)
    return _part(text, min(loads) > CROWDED, reason)


def _growth(evidence: Evidence, architecture: str, figure: str, text: str, unit: str) -> Part:
    sizes = sorted(int(case[1:]) for case in evidence.cases("growth", architecture))
    if len(sizes) < 2:
        return _missing(text, architecture)
    few, many = (evidence.values("growth", architecture, f"n{size}", figure) for size in (sizes[0], sizes[-1]))
    if not few or not many:
        return _undecided(text, "the kernel does not count this here")
    words = f"{{}} with {sizes[-1]} servers, {{}} with {sizes[0]}"
    return _compared(text, many, few, words, f"{{:,.0f}} {unit}", factor=1.5)


def _slower(evidence: Evidence, text: str) -> Part:
    """Whether the database is slower than Redis: by a fifth at least, or nobody would notice."""
    both = _both(evidence, "load", "busy", "store_p50")
    if missing := _not_there(both):
        return _missing(text, missing)
    words = "{} with the database, {} with Redis (median, many users)"
    return _compared(text, both["database"], both["redis"], words, "{:.2f} ms", factor=1.2)


def _both(evidence: Evidence, experiment: str, case: str, figure: str) -> dict[str, list[float]]:
    """A figure of the two architectures with a store beside the web servers."""
    return {name: evidence.values(experiment, name, case, figure) for name in ("database", "redis")}


def _not_there(both: Mapping[str, list[float]]) -> str:
    """Which of the two was not measured; `""` if both were."""
    return next((name for name, values in both.items() if not values), "")


def _behind(both: Mapping[str, list[float]]) -> list[float]:
    """How far the database is behind Redis, repeat by repeat."""
    return [one - other for one, other in zip(both["database"], both["redis"], strict=False)]


def _none(evidence: Evidence, experiment: str, architecture: str, case: str, figure: str, text: str) -> Part:
    values = evidence.values(experiment, architecture, case, figure)
    if not values:
        return _missing(text, architecture)
    share = "none" if max(values) == 0 else f"{max(values):.1%}"
    count, things = _count(evidence, experiment, architecture, case, figure)
    chance = f"; {at_most(count)}" if count and max(values) == 0 else ""
    return _part(text, max(values) == 0, f"{share} of {count:,.0f} {things}{chance}")


def _count(evidence: Evidence, experiment: str, architecture: str, case: str, figure: str) -> tuple[float, str]:
    """Of how many changes or logouts a share is."""
    things = "logouts" if figure == "revived" else "changes"
    counted = "logouts" if figure == "revived" else "updates"
    return sum(evidence.values(experiment, architecture, case, counted)), things


def _compared(text: str, more: list[float], less: list[float], words: str, form: str, *, factor: float = 1.0) -> Part:
    """Whether one figure is larger than `factor` times another.

    By their medians, if these are a tenth apart and the middle halves of the repeats do not overlap. Otherwise another
    run might say the opposite, and nothing is decided. `words` has a place for each, `form` says how both are written.
    """
    high, low = statistics.median(more), statistics.median(less)
    reason = words.format(_with_spread(more, form), _with_spread(less, form))
    bounds = [factor * each for each in less]
    bound = factor * low
    if abs(high - bound) <= _MARGIN * abs(bound):
        return _undecided(text, f"{reason}; too close to tell")
    (least, most), (least_bound, most_bound) = _middle_half(more), _middle_half(bounds)
    if least <= most_bound and least_bound <= most:
        return _undecided(text, f"{reason}; the repeats overlap")
    return _part(text, high > bound, reason)


def _middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Between which figures half of them lie: a neighbour on the machine may spoil one repeat, and should not decide."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def _with_spread(values: Sequence[float], form: str) -> str:
    """The median, and between which figures the repeats lay, all with their unit."""
    shown = form.format(statistics.median(values))
    if len(values) < 2:
        return shown
    return f"{shown} [{form.format(min(values))} to {form.format(max(values))} in {len(values)} repeats]"
