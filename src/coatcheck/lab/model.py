"""Beyond one machine: what each architecture would need for so many users. Pure: constants from a run, formulas, and checks.

The model is deliberately small, so that everybody can do its sums by hand. Its constants are measured in a run on this
machine; it is then held against other measured points of the same run, on which no constant was fitted. The largest error
found there, for memory, network and processor time each, is the band that is shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.claims import Evidence
from coatcheck.lab.results import Results
from coatcheck.lab.scenario import parse_size
from coatcheck.lab.summary import evidence

CORE_USE = 0.6  # of a core that may be planned with: the rest is for peaks
LEAST_BAND = 0.05  # nobody measures better than that here

FORMULAS = (
    "memory   = users x copies x held(session)                    copies: one per server all-to-all, otherwise 1",
    "           held: what a session of this size takes, on straight lines between the sizes that were measured",
    "network  = requests x (read + session + writes x change)     with a store beside the web servers, which are read whole",
    "         = requests x writes x (servers - 1) x change + servers x (servers - 1) x idle       all-to-all",
    "cores    = (requests x time + servers x idle) / 0.6          0.6: what may be planned with",
    "           time: that of a request in the measured traffic; where the share of writes differs from it, plus or minus",
    "           that of a change alone; all-to-all, plus writes x (servers - measured servers) x that of a message taken in",
    "           of the store two figures: while each comes by itself and wakes it up; and while it is kept busy and takes",
    "           many commands in one go: where the share of writes differs, in the ratio of reads and changes by themselves",
    "shards   = the larger of memory / memory per shard and the first figure of the store's cores",
)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be planned.

    Attributes:
        users: people with a session.
        requests: per second.
        session: bytes.
        servers: web servers.
        write_share: the share of requests that change the session, 0 to 1.
        shard_memory: bytes that one store may use.
        begin_share: the share of requests that begin a session, 0 to 1.
    """

    users: float
    requests: float
    session: float
    servers: int
    write_share: float
    shard_memory: float
    begin_share: float = 0.0


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """Of one architecture, from a run.

    Attributes:
        held: sizes of sessions, and the bytes of memory that one copy of each takes; two at least, in order.
        read, change, create: bytes on the network for reading, changing or beginning a session, besides its content; of
            all-to-all for each other server that is told.
        idle: bytes per second from each web server to each other one while nobody comes; not those of the comparison of all
            copies every ten seconds.
        idle_cpu: seconds of processor time per second and web server while nobody comes; of all-to-all also per other one.
        web_cpu, store_cpu: seconds of processor time per request, of which `write_share` changed something, with `servers`
            web servers; that which is spent while nobody comes is not in it.
        crowd_store_cpu: the store's seconds of processor time per request where 64 come at once.
        read_store_cpu: the same for reading alone.
        change_web_cpu, change_store_cpu: seconds of processor time for a change alone.
        peer_cpu: seconds of processor time that each other web server spends on a change.
        copies: whether every web server has a copy.
        shared: whether there is a store beside the web servers.
    """

    held: tuple[tuple[float, float], ...]
    read: float
    change: float
    create: float
    idle: float
    idle_cpu: float
    web_cpu: float
    store_cpu: float
    crowd_store_cpu: float
    read_store_cpu: float
    change_web_cpu: float
    change_store_cpu: float
    peer_cpu: float
    write_share: float
    servers: int
    copies: bool
    shared: bool

    def memory(self, question: Question) -> float:
        """Bytes over the whole cluster."""
        copies = question.servers if self.copies else 1
        return question.users * copies * max(0.0, _on_lines(self.held, question.session))

    def traffic(self, question: Question) -> float:
        """Bytes per second behind the web servers."""
        known, begun = 1 - question.begin_share, question.begin_share
        if self.copies:
            others = question.servers - 1
            told = known * question.write_share * self.change + begun * (self.create + question.session)
            return question.requests * others * told + question.servers * others * self.idle
        if not self.shared:
            return 0.0
        each = known * (self.read + question.session + question.write_share * self.change)
        return question.requests * (each + begun * (self.create + question.session))

    def web_time(self, question: Question) -> float:
        """Seconds of processor time per second, of all web servers."""
        more = (question.write_share - self.write_share) * self.change_web_cpu
        if self.copies:
            more += question.write_share * (question.servers - self.servers) * self.peer_cpu
        return question.requests * max(0.0, self.web_cpu + more) + self.idle_time(question.servers)

    def idle_time(self, servers: int) -> float:
        """The same while nobody comes."""
        return servers * (servers - 1 if self.copies else 1) * self.idle_cpu

    def store_time(self, question: Question) -> float:
        """The same, of the store, while each request comes by itself."""
        more = (question.write_share - self.write_share) * self.change_store_cpu
        return question.requests * max(0.0, self.store_cpu + more)

    def crowd_store_time(self, question: Question) -> float:
        """The same, while many come at once. Reads and changes then cost as much of one another as by themselves."""
        asked, measured = (
            self.read_store_cpu + share * self.change_store_cpu for share in (question.write_share, self.write_share)
        )
        return question.requests * self.crowd_store_cpu * asked / measured if measured else 0.0

    def store_cores(self, question: Question) -> tuple[float, float]:
        """Processor cores of the store, to be filled to `CORE_USE`: while it is kept busy, and while each comes by itself."""
        return self.crowd_store_time(question) / CORE_USE, self.store_time(question) / CORE_USE


Quantity = Literal["memory", "network", "processor"]
QUANTITIES: tuple[Quantity, ...] = ("memory", "network", "processor")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The model against a point that was measured, and on which it was not fitted.

    Attributes:
        quantity: `memory` or `network`, in bytes; `processor`, in seconds per request.
        where: which point.
    """

    quantity: Quantity
    where: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return abs(self.predicted - self.measured) / self.measured if self.measured else 0.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One architecture, planned.

    Attributes:
        architecture: by name.
        constants: what it was planned with.
        memory: bytes over the whole cluster; `per_server` those in each web server.
        network: bytes per second.
        web_cores: processor cores.
        store_cores: processor cores of the store while many come at once, and while each comes by itself.
        shards: stores beside the web servers; 0 for none.
        lost_with_a_server: sessions that the end of one web server takes with it.
        checks: the model against measured points.
        bands: the largest error found there by quantity, at least 0.05; nothing where there is no point to check against.
        driver: what costs most, in words.
    """

    architecture: str
    constants: Constants
    memory: float
    per_server: float
    network: float
    web_cores: float
    store_cores: tuple[float, float]
    shards: int
    lost_with_a_server: float
    checks: list[Check]
    bands: dict[Quantity, float]
    driver: str


def plan(question: Question, results: Results) -> list[Answer]:
    """All architectures of which the run has what the model needs."""
    found = evidence(results)
    answers = []
    for outcome in results.architectures:
        constants = _constants(found, outcome.architecture, results)
        if constants is not None:
            checks = list(_checks(found, outcome.architecture, constants, results))
            lost = question.users * (outcome.figures.sessions.share * results.settings.servers / question.servers)
            answers.append(_answer(question, outcome.architecture, constants, checks, lost))
    return answers


def parse_amount(text: str) -> float:
    """`50M` is 50,000,000; `200k` is 200,000. Raises `ValueError`."""
    multiples = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
    text = text.strip().replace(",", "").replace("_", "")
    value = float(text[:-1]) * multiples[text[-1]] if text[-1:] in multiples else float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(text)
    return value


def parse_bytes(text: str) -> float:
    """`4kB` is 4,000. Raises `ValueError`."""
    return float(parse_size(text))


def _constants(found: Evidence, name: str, results: Results) -> Constants | None:
    """Fitted on real traffic (`load`), on session work by itself (`work`), and on the smallest and the largest session."""
    architecture, servers, scenario = ARCHITECTURES[name], results.settings.servers, results.scenario
    copies, shared = architecture.copies, bool(architecture.needs)
    sizes = _sizes(found, name, results)

    def one(experiment: str, case: str, figure: str) -> float:
        values = found.values(experiment, name, case, figure)
        return statistics.median(values) if values else 0.0

    if len(sizes) < 2 or not (one("load", "busy", "web_cpu") and found.values("work", name, "change", "network")):
        return None
    told = servers - 1 if copies else 1
    idle_cpu = one("work", "idle", "idle_cpu") / 1e6
    idle_each = idle_cpu * one("load", "busy", "metered") * _requests_share(one)
    return Constants(
        held=tuple((size, taken / (servers if copies else 1)) for size, taken in _fitted(sizes)),
        read=one("work", "read", "network") - scenario.size if shared else 0.0,
        change=one("work", "change", "network") / told,
        create=one("work", "create", "network") / told - scenario.size if shared or copies else 0.0,
        idle=one("work", "idle", "idle_network") / (servers * told),
        idle_cpu=idle_cpu / (servers * told),
        web_cpu=max(0.0, one("load", "busy", "web_cpu") / 1e6 - idle_each),
        store_cpu=one("load", "busy", "store_cpu") / 1e6,
        crowd_store_cpu=one("work", "64-at-once", "store_cpu") / 1e6,
        read_store_cpu=one("work", "read", "store_cpu") / 1e6,
        change_web_cpu=one("work", "change", "web_cpu") / 1e6,
        change_store_cpu=one("work", "change", "store_cpu") / 1e6,
        peer_cpu=one("work", "change", "peer_cpu") / 1e6 if copies else 0.0,
        write_share=scenario.write_share,
        servers=servers,
        copies=copies,
        shared=shared,
    )


def _sizes(found: Evidence, name: str, results: Results) -> list[tuple[float, float]]:
    """Sizes of sessions, and the memory that one of each takes over the whole cluster."""
    points = {float(results.scenario.size): found.values("load", name, "stored", "memory")}
    points |= {parse_bytes(case): found.values("size", name, case, "memory") for case in found.cases("size", name)}
    return sorted((size, statistics.median(values)) for size, values in points.items() if values)


def _fitted(sizes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every other one, and the last: those between are to check with."""
    return [*sizes[:-1][::2], sizes[-1]]


def _on_lines(points: Sequence[tuple[float, float]], at: float) -> float:
    """On straight lines through `points`, the first and the last of which go on."""
    after = next((number for number, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    (left, low), (right, high) = points[max(0, after - 1) : max(0, after - 1) + 2]
    return low + (at - left) * (high - low) / (right - left)


def _requests_share(figure: Callable[[str, str, str], float]) -> float:
    """One request's share of all that the meters counted in busy traffic, those that began a session included."""
    samples = figure("load", "busy", "samples")
    return (1 - figure("load", "busy", "begun")) / samples if samples else 0.0


def _checks(found: Evidence, name: str, constants: Constants, results: Results) -> Iterator[Check]:
    """Other numbers of servers, other sizes of sessions, other traffic."""
    scenario = results.scenario

    def asked(servers: int, size: float, write_share: float, begin_share: float) -> Question:
        return Question(
            users=1, requests=1, session=size, servers=servers, write_share=write_share, shard_memory=1e9,
            begin_share=begin_share,
        )  # fmt: skip

    sizes = _sizes(found, name, results)
    for size, measured in sizes:
        if (size, measured) in _fitted(sizes):
            continue
        predicted = constants.memory(asked(results.settings.servers, size, 0.0, 0.0))
        yield Check(quantity="memory", where=f"sessions of {size / 1000:g} kB", predicted=predicted, measured=measured)
    size, servers = float(scenario.size), results.settings.servers
    points = [
        ("load", "calm", servers, size, scenario.write_share, "few users"),
        ("load", "busy", servers, size, scenario.write_share, "many users"),
    ]
    points += [
        ("growth", case, int(case[1:]), size, scenario.write_share, f"{case[1:]} web servers")
        for case in found.cases("growth", name)
        if not (constants.copies and case == "n1")  # with nobody to tell, it is a store per web server
    ]
    points += [
        ("layout", case, servers, parse_bytes(case), 1.0, f"sessions of {case}, each request a change")
        for case in found.cases("layout", name)
        if not case.endswith("-at-once")
    ]
    for experiment, case, servers, size, write_share, where in points:
        one = found.of(experiment, name, case)
        assert one is not None
        figures = {figure: statistics.median(one.values(figure)) for figure in _CHECKED if one.values(figure)}
        question = asked(servers, size, write_share, figures.get("begun", 0.0))
        if experiment == "growth" and figures.get("memory"):
            yield Check(
                quantity="memory", where=where, predicted=constants.memory(question), measured=figures["memory"]
            )
        # What goes on while nobody comes counts for as long as the meters ran.
        seconds_each = figures.get("metered", 0.0) * (1 - figures.get("begun", 0.0)) / figures.get("samples", 1.0)
        if figures.get("network") and constants.shared | constants.copies:
            idle = servers * (servers - 1) * constants.idle
            predicted = constants.traffic(question) - idle * (1 - seconds_each)
            yield Check(quantity="network", where=where, predicted=predicted, measured=figures["network"])
        if figures.get("web_cpu") and (experiment, case) != ("load", "busy"):
            predicted = constants.web_time(question) + constants.store_time(question)
            predicted -= constants.idle_time(servers) * (1 - seconds_each)
            yield Check(
                quantity="processor",
                where=where,
                predicted=predicted,
                measured=(figures["web_cpu"] + figures.get("store_cpu", 0.0)) / 1e6,
            )


_CHECKED = ("memory", "network", "web_cpu", "store_cpu", "begun", "metered", "samples")


def _answer(question: Question, name: str, constants: Constants, checks: Sequence[Check], lost: float) -> Answer:
    memory, network = constants.memory(question), constants.traffic(question)
    web = constants.web_time(question) / CORE_USE
    store, alone = constants.store_cores(question)
    shards = max(1, math.ceil(memory / question.shard_memory), math.ceil(store)) if constants.shared else 0
    errors: dict[Quantity, list[float]] = {
        quantity: [check.error for check in checks if check.quantity == quantity] for quantity in QUANTITIES
    }
    return Answer(
        architecture=name,
        constants=constants,
        memory=memory,
        per_server=0.0 if constants.shared else memory / question.servers,
        network=network,
        web_cores=web,
        store_cores=(store, alone),
        shards=shards,
        lost_with_a_server=lost,
        checks=list(checks),
        bands={quantity: max(LEAST_BAND, *found) for quantity, found in errors.items() if found},
        driver=_driver(constants, memory / question.shard_memory, store, network, question),
    )


def _driver(constants: Constants, by_memory: float, by_cores: float, network: float, question: Question) -> str:
    if constants.copies:
        return f"{question.servers} copies of every session, {network * 8 / 1e9:.2g} Gbit/s between the web servers"
    if not constants.shared:
        return "memory of the web servers, and what is lost with each"
    drivers: Mapping[str, float] = {"memory of the store": by_memory, "processor time of the store": by_cores}
    return max(drivers, key=lambda name: drivers[name])
