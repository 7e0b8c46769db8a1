"""Beyond one machine: what each architecture would need for so many users. Pure: constants from a run, formulas, and checks.

The model is deliberately small, so that everybody can do its sums by hand. Its constants are measured in a run on this
machine; it is then held against other measured points of the same run, on which no constant was fitted, and the largest
error found there is the band that is shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.claims import Evidence
from coatcheck.lab.results import Results
from coatcheck.lab.scenario import parse_size
from coatcheck.lab.summary import evidence

CORE_USE = 0.6  # of a core that may be planned with: the rest is for peaks
_LEAST_BAND = 0.1

FORMULAS = (
    "memory   = users x copies x (session + overhead)          copies: one per server all-to-all, otherwise 1",
    "network  = requests x (session + overhead)                with a store beside the web servers, which are read whole",
    "           requests x writes x (servers - 1) x message    all-to-all",
    "cores    = requests x processor time per request / 0.6    0.6: what may be planned with",
    "shards   = the larger of memory / memory per shard and cores of the store",
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
    """

    users: float
    requests: float
    session: float
    servers: int
    write_share: float
    shard_memory: float


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """Of one architecture, from a run.

    Attributes:
        overhead: bytes of memory that a copy of a session takes besides its content.
        network: bytes per request besides the session, or per message to one other server all-to-all.
        web_cpu, store_cpu: seconds of processor time per request.
        copies: whether every web server has a copy.
        shared: whether there is a store beside the web servers.
    """

    overhead: float
    network: float
    web_cpu: float
    store_cpu: float
    copies: bool
    shared: bool

    def memory(self, question: Question) -> float:
        """Bytes over the whole cluster."""
        return question.users * (question.servers if self.copies else 1) * (question.session + self.overhead)

    def traffic(self, question: Question) -> float:
        """Bytes per second behind the web servers."""
        if self.copies:
            return question.requests * question.write_share * (question.servers - 1) * self.network
        return question.requests * (question.session + self.network) if self.shared else 0.0


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The model against a point that was measured, and on which it was not fitted."""

    what: str
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
        web_cores, store_cores: processor cores.
        shards: stores beside the web servers; 0 for none.
        lost_with_a_server: sessions that the end of one web server takes with it.
        checks: the model against measured points.
        band: the largest error found there, at least 0.1; `None` where there is no point to check against.
        driver: what costs most, in words.
    """

    architecture: str
    constants: Constants
    memory: float
    per_server: float
    network: float
    web_cores: float
    store_cores: float
    shards: int
    lost_with_a_server: float
    checks: list[Check]
    band: float | None
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
    """Fitted on the experiment with load, and on nothing else."""
    architecture, servers = ARCHITECTURES[name], results.settings.servers
    memory, network, web, store = (
        found.values("load", name, case, figure)
        for case, figure in (("stored", "memory"), ("busy", "network"), ("busy", "web_cpu"), ("busy", "store_cpu"))
    )
    if not (memory and network and web):
        return None
    shared, copies = bool(architecture.needs), name == "all-to-all"
    scenario = results.scenario
    per_copy = statistics.median(memory) / (servers if copies else 1)
    bytes_each = statistics.median(network)
    if copies:
        bytes_each /= max(scenario.write_share, 1e-9) * (servers - 1)
    elif shared:
        bytes_each -= scenario.size
    return Constants(
        overhead=per_copy - scenario.size,
        network=bytes_each,
        web_cpu=statistics.median(web) / 1e6,
        store_cpu=statistics.median(store) / 1e6 if store else 0.0,
        copies=copies,
        shared=shared,
    )


def _checks(found: Evidence, name: str, constants: Constants, results: Results) -> Iterator[Check]:
    """Other numbers of servers, and other sizes of sessions."""
    scenario = results.scenario

    def asked(servers: int, size: float, write_share: float) -> Question:
        return Question(users=1, requests=1, session=size, servers=servers, write_share=write_share, shard_memory=1e9)

    for case in found.cases("growth", name):
        servers = int(case[1:])
        question = asked(servers, scenario.size, scenario.write_share)
        yield from _check(found, name, constants, question, "growth", case, f"{servers} servers")
    for case in found.cases("layout", name):
        if not case.endswith("-at-once"):
            question = asked(results.settings.servers, parse_bytes(case), 1.0)
            yield from _check(found, name, constants, question, "layout", case, f"sessions of {case}")


def _check(
    found: Evidence, name: str, constants: Constants, question: Question, experiment: str, case: str, where: str
) -> Iterator[Check]:
    for figure, predicted in (("memory", constants.memory(question)), ("network", constants.traffic(question))):
        measured = found.values(experiment, name, case, figure)
        if measured and statistics.median(measured) > 0:
            yield Check(what=f"{figure}, {where}", predicted=predicted, measured=statistics.median(measured))


def _answer(question: Question, name: str, constants: Constants, checks: Sequence[Check], lost: float) -> Answer:
    memory, network = constants.memory(question), constants.traffic(question)
    web, store = (question.requests * each / CORE_USE for each in (constants.web_cpu, constants.store_cpu))
    shards = max(1, math.ceil(memory / question.shard_memory), math.ceil(store)) if constants.shared else 0
    return Answer(
        architecture=name,
        constants=constants,
        memory=memory,
        per_server=0.0 if constants.shared else memory / question.servers,
        network=network,
        web_cores=web,
        store_cores=store,
        shards=shards,
        lost_with_a_server=lost,
        checks=list(checks),
        band=max([_LEAST_BAND, *(check.error for check in checks)]) if checks else None,
        driver=_driver(constants, memory / question.shard_memory, store, network, question),
    )


def _driver(constants: Constants, by_memory: float, by_cores: float, network: float, question: Question) -> str:
    if constants.copies:
        return f"{question.servers} copies of every session, {network * 8 / 1e9:.2g} Gbit/s between the web servers"
    if not constants.shared:
        return "memory of the web servers, and what is lost with each"
    drivers: Mapping[str, float] = {"memory of the store": by_memory, "processor time of the store": by_cores}
    return max(drivers, key=lambda name: drivers[name])
