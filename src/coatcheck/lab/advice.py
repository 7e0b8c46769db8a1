"""Which architecture fits which case, and why: from what was measured, and what the stores promise. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coatcheck.lab.claims import Evidence
from coatcheck.lab.model import CORE_USE
from coatcheck.lab.results import Outcome, Results
from coatcheck.lab.summary import evidence, lost, spoken

_REQUESTS = 200_000  # per second, of the case with an API
_SERVERS = 40  # of the case with a bank


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the decision: the first that fits decides.

    Attributes:
        condition: what has to be so.
        choice: the architecture's name.
    """

    condition: str
    choice: str


@dataclass(frozen=True, slots=True)
class Advice:
    """One case, and which architecture fits it.

    Attributes:
        case: whose site it is.
        choice: the architecture's name.
        why: with figures of this run.
        price: what it costs, or what is given up.
    """

    case: str
    choice: str
    why: str
    price: str


TERMS: Mapping[str, str] = {
    "session": "what a site remembers of a visitor between two requests: the login, the cart. The browser holds a "
    "ticket only.",
    "request": "one page, or one call, that a browser or a program asks a web server for.",
    "balancer": "the machine in front of the web servers that decides which of them gets a request.",
    "store": "the program in which all web servers keep their sessions: Redis (or Valkey, its free twin), or a database.",
    "session work": "the part of a request that is spent on its session: reading it, and writing what has changed.",
    "median, 99th percentile": "half of the requests were faster than the median; one of a hundred was slower than the "
    "99th "
    "percentile.",
    "ms, µs": "a thousandth and a millionth of a second. People notice about 100 ms.",
    "processor time": "for how long a processor core was busy. At 1,000 µs per request, one core can do 1,000 requests "
    "a second.",
    "kill, rolling restart": "a kill ends a server at once, as a power cut does. In a rolling restart, as for a new "
    "version, one "
    "server after the other is stopped and started.",
}
"""Words that a reader may not know."""


def steps(results: Results) -> list[Step]:
    """How to decide, in this order. Only with architectures that were measured."""
    there = {one.architecture for one in results.architectures}
    most = _database_limit(evidence(results))
    modest = f", and all visitors together make fewer than about {most:,.0f} requests a second" if most else ""
    found = (
        Step("There is one web server, and nobody minds if a restart empties all carts", "local"),
        Step(f"A database is there already{modest} for each processor core that it can spare" if most else
             "A database is there already, and traffic is modest", "database"),
        Step("Nothing may run beside the web servers, and there are two to four of them", "all-to-all"),
        Step("The application cannot share sessions, and it is no harm to lose them with a server", "sticky"),
        Step("In all other cases: many servers, much traffic, crowds, deploys during the day", "redis"),
    )  # fmt: skip
    return [step for step in found if step.choice in there]


def cases(results: Results) -> list[Advice]:
    """Cases, with this run's figures for each. Only of architectures that were measured."""
    by_name = {one.architecture: one for one in results.architectures}
    return [one for one in _cases(by_name, evidence(results), results) if one.choice in by_name]


def _cases(by_name: Mapping[str, Outcome], found: Evidence, results: Results) -> Iterator[Advice]:
    servers = results.settings.servers

    def figure(experiment: str, name: str, case: str, what: str) -> float:
        values = found.values(experiment, name, case, what)
        return statistics.median(values) if values else 0.0

    def restart(name: str) -> str:
        share = found.values("failure", name, "restart", "lost_sessions")
        return f", and {spoken(share, 'share')} in a rolling restart" if share else ""

    if one := by_name.get("local"):
        yield Advice(
            "One web server; development and tests",
            "local",
            "Nothing to run and nothing to wait for.",
            f"It ends with the first server: with {servers} of them {one.figures.before_kill.share:.0%} of the carts "
            "were wrong "
            "here. A restart empties all carts.",
        )
    if one := by_name.get("database"):
        work = spoken(found.values("load", "database", "busy", "store_p50"), "ms")
        busy = figure("load", "database", "busy", "store_cpu")
        core = f" 200 people who click every 5 s keep it busy for {40 * busy / 1e4:.0f} % of one core." if busy else ""
        yield Advice(
            "A small shop or an intranet: a few servers, some hundred users, and a PostgreSQL that is there anyway",
            "database",
            f"Nothing new to run or to learn, and backups are there. {one.figures.in_all.wrong} wrong carts, {lost(one)} "
            "of the "
            f"sessions lost with a web server, and what was acknowledged survives a power cut.{core}",
            f"Every page waits for it: {work} here. It grows with the crowd: see claim 4.",
        )
    if one := by_name.get("all-to-all"):
        yield Advice(
            "Two to four servers with no store beside them and nobody to look after one: a small shop without a "
            "database, an "
            "appliance, a cluster at a customer's",
            "all-to-all",
            f"Every server has every session: {lost(one)} of the sessions lost with one server{restart('all-to-all')}. "
            "Nothing else to run, and reading costs next to nothing.",
            f"{_growth(found)} Each change waits until all servers have it. If all of them stop at once, everything is "
            "gone. "
            "Where servers are cut off from one another, each part goes on for itself: a logout is known to the other "
            "part only "
            "when they meet again.",
        )
    if one := by_name.get("redis"):
        revived = spoken(found.values("consistency", "redis", "", "revived"), "share")
        copies = figure("growth", "all-to-all", "n8", "memory") or figure("growth", "all-to-all", "n4", "memory") * 2
        one_copy = found.values("load", "redis", "stored", "memory") or found.values("layout", "redis", "1kB", "memory")
        much = (
            f" All-to-all would keep {_SERVERS} copies: about {copies * _SERVERS / 8 / 1000:,.0f} kB instead of "
            f"{spoken(one_copy, 'bytes')} for each session."
            if copies and one_copy
            else ""
        )
        yield Advice(
            f"A bank: {_SERVERS} servers, and a logout must be final",
            "redis",
            f"One copy that all servers ask: {revived} of the sessions that were logged out came back, also where "
            "another request "
            f"was under way.{much}",
            "The store has to be looked after: a second one that takes over. So that not even a crash undoes a logout, "
            "let it "
            "write each change to the disk (appendfsync always) and confirm it on the second one (durability=replica); "
            "every "
            "change then takes longer. A database is as right: choose it where it is there and has the processor time.",
        )
        spent = [figure("work", name, "64-at-once", "store_cpu") for name in ("redis", "database")]
        sums = (
            f"{_REQUESTS:,} requests a second are {_cores(spent[0])} processor cores of Redis; of a database they would be "
            f"{_cores(spent[1])}."
            if all(spent)
            else "It takes the least processor time of all stores."
        )
        yield Advice(
            f"An API: {_REQUESTS:,} requests a second that show a token",
            "redis",
            f"{sums} Any server serves anybody, so servers can be added and taken away at any time.",
            "More than one Redis (a cluster): each does its work on one core. The command coatcheck lab plan does the sums "
            "for your numbers, with the network as well.",
        )
        load = spoken(found.values("crowding", "redis", "", "load"), "times")
        yield Advice(
            "A large shop, a flash sale: crowds, deploys during the day, carts that matter",
            "redis",
            f"{one.figures.in_all.wrong} wrong carts, {lost(one)} of the sessions lost with a web "
            f"server{restart('redis')}. "
            "In a crowd the "
            f"busiest server had {load} the mean load, and a new one helped at once.",
            f"{spoken(found.values('load', 'redis', 'busy', 'store_p50'), 'ms')} of each request, and a store to look "
            "after, "
            "with enough memory.",
        )
    if one := by_name.get("sticky"):
        yield Advice(
            "An old application that keeps sessions in its own memory, and loses nothing that matters",
            "sticky",
            "No change to the application. Carts are right as long as all servers live.",
            f"Each server that goes takes its users' sessions along: {lost(one)} of all with one kill{restart('sticky')}. "
            "A crowd on one server stays there.",
        )


def _growth(found: Evidence) -> str:
    sizes = sorted(int(case[1:]) for case in found.cases("growth", "all-to-all"))
    if len(sizes) < 2:
        return "Memory and traffic grow with each server."
    few, many = (
        spoken(found.values("growth", "all-to-all", f"n{size}", "memory"), "bytes") for size in (sizes[0], sizes[-1])
    )
    return f"Memory and traffic grow with each server: {few} for each session with {sizes[0]}, {many} with {sizes[-1]}."


def _database_limit(found: Evidence) -> float:
    """Requests per second that one core of the database does, with room for peaks; 0 if that was not measured."""
    values = found.values("load", "database", "busy", "store_cpu") + found.values(
        "work", "database", "64-at-once", "store_cpu"
    )
    if not values:
        return 0.0
    limit = CORE_USE * 1e6 / max(values)
    return limit // 100 * 100 if limit >= 100 else limit


def _cores(microseconds: float) -> str:
    return f"{_REQUESTS * microseconds / 1e6 / CORE_USE:,.0f}"
