"""Which architecture fits which case, and why: from what was measured, and what the stores promise. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coatcheck.lab.capacity import Capacity, amount
from coatcheck.lab.claims import NOTICED, Evidence
from coatcheck.lab.experiments.work import ON_DISK
from coatcheck.lab.measures import Unit
from coatcheck.lab.model import CORE_USE
from coatcheck.lab.results import Outcome, Results
from coatcheck.lab.summary import evidence, lost, spoken
from coatcheck.lab.verdicts import at_most

_OF_AN_API = 200_000  # requests per second
_OF_A_SALE = 20_000
_OF_A_SMALL_SHOP = 40  # 200 people, one request each every 5 s
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
    "session": "what a site remembers of a visitor between two requests: the login, the cart. The browser holds a ticket "
    "(also called a token) only, which names the session.",
    "request": "one page, or one call, that a browser or a program asks a web server for. Each reads the session whole.",
    "change": "a request that also writes to the session. Acknowledged: the visitor was told that it is done.",
    "visit": "in session work by itself: a read, and now and then a change, as often as the scenario says.",
    "balancer": "the program in front of the web servers that decides which of them gets a request. All of these ways need "
    "one as soon as there are two servers, and it has to be doubled like everything that must not fail; that is not "
    "compared.",
    "store": "the program in which all web servers keep their sessions: Redis (or Valkey, its free twin), or a database.",
    "one value, hash": "a session as one text, or as a set of named fields in Redis that can be written one by one.",
    "session work": "the part of a request that is spent on its session: reading it, and writing what has changed.",
    "median, 99th percentile (p99)": "half of the requests were faster than the median; one of a hundred was slower than the "
    "99th percentile.",
    "ms, µs, B, kB": "a thousandth and a millionth of a second; bytes, and a thousand of them. People notice about 100 ms.",
    "processor time": "for how long a processor core was busy. At 1,000 µs per request, one core can do 1,000 requests "
    "a second.",
    "kill, power cut": "a kill (SIGKILL) ends one program at once; the machine goes on, and still writes to its disk what "
    "the program gave it. A power cut ends the machine, and what had not reached the disk is gone. Only kills were done "
    "here.",
    "rolling restart": "as for a new version: one server after the other is taken out of turn, stopped and started.",
    "calm, busy, stored": "few users, many users, and many users while thousands of other sessions are stored.",
    "n1, n2, ...": "with so many web servers. 1-at-once, 64-at-once: so many people at the same moment.",
}
"""Words that a reader may not know."""


def steps(results: Results) -> list[Step]:
    """How to decide, in this order. Only with architectures that were measured."""
    there = {one.architecture for one in results.architectures}
    capacity = Capacity(results)
    modest = "and traffic is modest"
    if "database" in capacity.stores:
        modest = (
            f"and all visitors together make fewer than {capacity.carries('database'):,.0f} requests a second for each "
            "processor core that it can spare"
        )
    store = results.settings.store
    found = (
        Step("The application keeps its sessions in its own memory, and cannot be changed to share them", "sticky"),
        Step("There is one web server and no second one is planned, and nobody minds if each restart or deploy empties all "
             "carts", "local"),
        Step(f"A database is there already ({_measured(store)}), {modest}", "database"),
        Step("Nothing may run beside the web servers, there are two to four of them, and it is no harm if all sessions are "
             "gone when all of them stop at once", "all-to-all"),
        Step("In all other cases: a second server soon, deploys during the day, many servers, much traffic, crowds", "redis"),
    )  # fmt: skip
    return [step for step in found if step.choice in there]


def below_notice(results: Results) -> str:
    """Whether milliseconds should decide; nothing where that was not measured, or people would notice them."""
    found = evidence(results)
    medians = [
        statistics.median(values)
        for one in results.architectures
        if (values := found.values("load", one.architecture, "busy", "whole_p50"))
    ]
    if not medians or max(medians) >= NOTICED / 2:
        return ""
    return (
        f"The slowest of them answered in {spoken([max(medians)], 'ms')} (median, many users), and people notice about "
        f"{NOTICED:g} ms. So choose by what you may lose and what you can run, not by milliseconds, as long as no part runs "
        "out of processor time: the sums below say when."
    )


def cases(results: Results) -> list[Advice]:
    """Cases, with this run's figures for each. Only of architectures that were measured."""
    by_name = {one.architecture: one for one in results.architectures}
    return [one for one in _cases(by_name, evidence(results), results) if one.choice in by_name]


def _cases(by_name: Mapping[str, Outcome], found: Evidence, results: Results) -> Iterator[Advice]:
    servers = results.settings.servers
    capacity = Capacity(results)

    def figure(experiment: str, name: str, case: str, what: str) -> float:
        values = found.values(experiment, name, case, what)
        return statistics.median(values) if values else 0.0

    def said(experiment: str, name: str, case: str, what: str, unit: Unit, words: str) -> str:
        """`words` with the figure in its place; nothing if that was not measured."""
        values = found.values(experiment, name, case, what)
        return words.format(spoken(values, unit)) if values else ""

    def restart(name: str) -> str:
        return said("failure", name, "restart", "lost_sessions", "share", ", and {} in a rolling restart")

    def waits(name: str) -> str:
        """What a request and a change wait for."""
        return (
            said("load", name, "busy", "store_p50", "ms", "{} of session work in each request (median)")
            + said("work", name, "change", "store_p50", "ms", "; a change by itself takes {}")
            + "."
        )

    def away(name: str) -> str:
        """What the end of the store costs while it is started again."""
        gone = said(
            "failure", name, "store", "gap", "s", " When it was killed and started again, nobody was answered for {}"
        )
        return (
            gone
            + (
                said("failure", name, "store", "errors", "share", "; {} of the requests of these seconds failed")
                if gone
                else ""
            )
            + ("." if gone else "")
        )

    if one := by_name.get("local"):
        yield Advice(
            "One web server that stays alone; development and tests",
            "local",
            "Nothing to run and nothing to wait for.",
            f"It ends with the second server: with {servers} of them {one.figures.before_kill.share:.0%} of the carts "
            "were wrong here. A restart empties all carts.",
        )
    if by_name.get("redis"):
        yield Advice(
            "A start-up: one server today, a second one next month, ten deploys a day",
            "redis",
            f"0 % of the sessions lost with a web server{restart('redis')}; a second server needs no change."
            if figure("failure", "redis", "restart", "lost_sessions") == 0
            else f"A second server needs no change{restart('redis')}.",
            "A store to look after. If a database is there anyway, that is as good, see the order above.",
        )
    if one := by_name.get("database"):
        sums = ""
        if "database" in capacity.stores:
            time = capacity.microseconds("database")[1]
            sums = (
                f" 200 people who click every 5 s are {_OF_A_SMALL_SHOP} requests a second: {_OF_A_SMALL_SHOP} x {time:,.0f} "
                f"µs / {CORE_USE:g} = {amount(capacity.cores('database', _OF_A_SMALL_SHOP)[1])} of a core."
            )
        yield Advice(
            "A small shop, an intranet, an examination site: a few servers, and a database that is there anyway",
            "database",
            f"Nothing new to run or to learn, and backups are there. {one.figures.in_all.wrong} wrong carts, {lost(one)} "
            "of the sessions lost with a web server. What was acknowledged is on its disk, and survives a power "
            f"cut.{sums} Of databases {_measured(results.settings.store)}.",
            f"{waits('database')} The wait grows with the crowd: see claim 4.{away('database')}",
        )
    if one := by_name.get("all-to-all"):
        yield Advice(
            "Two to four servers with no store beside them and nobody to look after one: a ship, an appliance, a small shop "
            "without a database",
            "all-to-all",
            f"Every server has every session: {lost(one)} of the sessions lost with one server{restart('all-to-all')}. "
            "Nothing else to run, and reading costs next to nothing.",
            f"{_growth(found)} Each change waits until all servers that are there have it"
            f"{said('work', 'all-to-all', 'change', 'store_p50', 'ms', ', {} here')}. A server that is switched off is "
            "noticed at once, one whose cable is pulled after 2 s, and until then changes wait. If all of them stop at "
            "once, everything is gone. Where servers are cut off from one another, each part goes on for itself: a logout "
            "is known to the other part only when they meet again.",
        )
    if one := by_name.get("redis"):
        copies = figure("growth", "all-to-all", "n8", "memory") or figure("growth", "all-to-all", "n4", "memory") * 2
        one_copy = found.values("load", "redis", "stored", "memory") or found.values("layout", "redis", "1kB", "memory")
        much = (
            f" All-to-all would keep {_SERVERS} copies: about {copies * _SERVERS / 8 / 1000:,.0f} kB instead of "
            f"{spoken(one_copy, 'bytes')} for each session."
            if copies and one_copy
            else ""
        )
        logouts = sum(found.values("consistency", "redis", "", "logouts"))
        revived = figure("consistency", "redis", "", "revived") * logouts
        tried = f"{revived:,.0f} of {logouts:,.0f} came back here" if logouts else ""
        tried += f" ({at_most(logouts)})" if logouts and not revived else ""
        yield Advice(
            f"A bank, a hospital: {_SERVERS} servers, and a logout must be final",
            "redis",
            f"One copy that all servers ask: what is deleted there is gone for all. Logouts beside another request: {tried}."
            f"{much}",
            f"The store must be set up not to lose anything. {durability(results)} A database is as right: choose it where "
            "it is there and has the processor time.",
        )
        sums = f"{_OF_AN_API:,} requests a second, reads only. " + " ".join(
            f"{words}: {capacity.sum(name, _OF_AN_API, 0.0)}."
            for name, words in (("redis", "Redis"), ("database", "A database"))
            if name in capacity.stores
        )
        yield Advice(
            f"An API: {_OF_AN_API:,} requests a second that show a token",
            "redis",
            f"{sums} Any server serves anybody, so servers can be added and taken away at any time.",
            "More than one Redis (a Redis Cluster): each does its work on one core.",
        )
        load = spoken(found.values("crowding", "redis", "", "load"), "times")
        sale = f" For {_OF_A_SALE:,} requests a second: {capacity.sum('redis', _OF_A_SALE)}." if capacity.stores else ""
        yield Advice(
            "A large shop, a flash sale: crowds, deploys during the day, carts that matter",
            "redis",
            f"{one.figures.in_all.wrong} wrong carts, {lost(one)} of the sessions lost with a web "
            f"server{restart('redis')}. In a crowd the busiest server had {load} the mean load, and a new one helped at once."
            f"{sale}",
            f"{waits('redis')} A store to look after, with enough memory.{away('redis')}",
        )
    if one := by_name.get("sticky"):
        yield Advice(
            "An old application that keeps sessions in its own memory and cannot be changed",
            "sticky",
            "No change to the application. Carts are right as long as all servers live.",
            f"Each server that goes takes its users' sessions along: {lost(one)} of all with one kill{restart('sticky')}. "
            "A crowd on one server stays there. If that is too much to lose, the application has to learn to share.",
        )


def durability(results: Results) -> str:
    """What it costs that nothing acknowledged is lost, as measured."""
    found = evidence(results)
    usual, on_disk = (found.values("work", "redis", case, "store_p50") for case in ("change", ON_DISK))
    database = found.values("work", "database", "change", "store_p50")
    words = "The Redis of this run was given, and set up as its owner has it."
    if results.settings.redis_url is None:
        words = (
            "Redis ran here with appendfsync everysec: it writes to its disk once a second, so a power cut may take that "
            "second."
        )
    if usual and on_disk:
        words += (
            f" With appendfsync always a change takes {spoken(on_disk, 'ms')} instead of {spoken(usual, 'ms')}, on this "
            "machine's disk."
        )
    else:
        words += " appendfsync always makes each change wait for the disk; that was not measured in this run."
    if database:
        words += f" The database always waits for its disk: {spoken(database, 'ms')}."
    return (
        f"{words} durability=replica, a setting of coatcheck's, makes a change wait until a second Redis has it too; while "
        "none is there, changes are refused and reading goes on. The takeover by a second store was not measured here; "
        "coatcheck's docs/stores.md has figures of takeovers."
    )


def _measured(store: str) -> str:
    """Which database this run is about."""
    name, other = {"postgresql": ("PostgreSQL", "MariaDB or MySQL")}.get(store, (store, "PostgreSQL"))
    return f"only {name} was measured; {other} is as safe, but how long it takes is not known here"


def _growth(found: Evidence) -> str:
    sizes = sorted(int(case[1:]) for case in found.cases("growth", "all-to-all"))
    if len(sizes) < 2:
        return "Memory and traffic grow with each server."
    few, many = (
        spoken(found.values("growth", "all-to-all", f"n{size}", "memory"), "bytes") for size in (sizes[0], sizes[-1])
    )
    return f"Memory and traffic grow with each server: {few} for each session with {sizes[0]}, {many} with {sizes[-1]}."
