"""What goes to which node of a cluster, without one: the steps are answered by the test."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from redis.crc import key_slot

from coatcheck.errors import ConfigurationError
from coatcheck.stores.redis.address import Address, Target
from coatcheck.stores.redis.cluster import Cluster
from coatcheck.stores.redis.commands import Command
from coatcheck.stores.redis.confirming import wait_for_replica
from coatcheck.stores.redis.topology import Pause, Refresh, Route, Send, Step
from coatcheck.stores.redis.transport import ErrorReply, ExchangeFailed, whole

A, B, C = (Address(host=host) for host in "abc")
HALF = 8192
MAP = [[0, HALF - 1, ["a", 6379, "id-a"], ["c", 6379, "id-c"]], [HALF, 16383, ["b", 6379, "id-b"]]]


class Nodes:
    """Answers steps: the map to whoever asks for it, and to commands the next of what is prepared, or `OK` to each.

    Attributes:
        said: to which host what was sent, in order.
        answers: for the next sends: replies, or what goes wrong.
    """

    def __init__(self) -> None:
        self.topology = Cluster([A])
        self.map: list[Any] = MAP
        self.said: list[tuple[str, list[Command]]] = []
        self.answers: list[list[Any] | ExchangeFailed] = []
        self.refreshes = 0
        self.pauses = 0

    def exchange(self, *commands: Command) -> Any:
        return self.follow(self.topology.exchange(list(commands), whole))

    def follow(self, route: Route[Any]) -> Any:
        try:
            step = next(route)
            while True:
                try:
                    outcome = self.do(step)
                except Exception as problem:
                    step = route.throw(problem)
                else:
                    step = route.send(outcome)
        except StopIteration as end:
            return end.value

    def do(self, step: Step) -> Any:
        if isinstance(step, Refresh):
            self.refreshes += 1
            return self.follow(self.topology.refresh()) if step.wait else None
        if isinstance(step, Pause):
            self.pauses += 1
            return None
        assert isinstance(step, Send)
        if step.commands == [("CLUSTER", "SLOTS")]:
            return step.read([self.map])
        self.said.append((step.to.host, list(step.commands)))
        answer = self.answers.pop(0) if self.answers else ["OK"] * len(step.commands)
        if isinstance(answer, ExchangeFailed):
            raise answer
        return step.read(answer)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def key(below: bool, number: int = 0) -> str:
    """A key in the lower half of the slots, which A serves, or in the upper."""
    keys = (f"key-{n}" for n in range(100_000))
    return next(islice((one for one in keys if (key_slot(one.encode()) < HALF) is below), number, None))


LOW, HIGH = key(True), key(False)
COMMIT: Command = ("EVALSHA", "sha", 1, LOW, "hits", 1)


def test_a_key_goes_to_the_node_that_serves_it(nodes: Nodes) -> None:
    nodes.exchange(("HGETALL", LOW), ("PTTL", LOW))
    nodes.exchange(("EVALSHA", "sha", 1, HIGH, LOW))
    assert nodes.said == [("a", [("HGETALL", LOW), ("PTTL", LOW)]), ("b", [("EVALSHA", "sha", 1, HIGH, LOW)])]
    assert nodes.refreshes == 1


def test_an_index_is_written_before_its_session_even_on_one_node(nodes: Nodes) -> None:
    index: Command = ("EVALSHA", "own", 1, key(True, 1), "id")
    nodes.answers = [[ErrorReply(f"MOVED {key_slot(key(True, 1).encode())} b:6379")], ["index"], ["commit"]]
    assert nodes.exchange(index, COMMIT) == ["index", "commit"]
    assert nodes.said == [("a", [index]), ("b", [index]), ("a", [COMMIT])]


def test_many_sessions_are_read_with_one_round_trip_to_each_node(nodes: Nodes) -> None:
    keys = [key(number % 2 == 0, number) for number in range(20)]
    nodes.topology.exchange([("HGETALL", LOW)], whole)
    commands: list[Command] = [(name, one) for one in keys for name in ("HGETALL", "PTTL")]
    nodes.answers = [[f"a {n}" for n in range(20)], [f"b {n}" for n in range(20)]]
    replies = nodes.exchange(*commands)
    assert [host for host, _ in nodes.said] == ["a", "b"]
    assert replies == [f"{'ab'[n // 2 % 2]} {n // 4 * 2 + n % 2}" for n in range(40)]


def test_of_many_that_are_read_those_that_moved_are_read_again(nodes: Nodes) -> None:
    first, second = key(True, 0), key(True, 1)
    nodes.answers = [
        ["one", 1, ErrorReply(f"MOVED {key_slot(second.encode())} b:6379"), 2], ["two", 3],
    ]  # fmt: skip
    replies = nodes.exchange(("HGETALL", first), ("PTTL", first), ("HGETALL", second), ("PTTL", second))
    assert replies == ["one", 1, "two", 3]
    assert nodes.said[1:] == [("a", [("HGETALL", second), ("PTTL", second)])], "and the map knows better by then"


def test_what_has_moved_is_sent_to_where_it_went_and_so_is_what_follows(nodes: Nodes) -> None:
    nodes.exchange(("HGETALL", LOW))
    slot = key_slot(LOW.encode())
    nodes.map = [[0, slot, ["b", 6379, "id"]], [slot + 1, 16383, ["a", 6379, "id"]]]
    nodes.answers = [[ErrorReply(f"MOVED {slot} b:6379")]]
    assert nodes.exchange(COMMIT) == ["OK"]
    nodes.exchange(("HGETALL", LOW))
    assert [host for host, _ in nodes.said] == ["a", "a", "b", "b"]


def test_what_is_on_its_way_is_asked_for_and_nothing_else_changes(nodes: Nodes) -> None:
    slot = key_slot(LOW.encode())
    wait = wait_for_replica(0.1)
    nodes.answers = [[ErrorReply(f"ASK {slot} c:6379"), 1], ["OK", "done", 1]]
    assert nodes.exchange(COMMIT, wait) == ["done", 1]
    assert nodes.said == [("a", [COMMIT, wait]), ("c", [("ASKING",), COMMIT, wait])]
    nodes.answers = [["one", ErrorReply(f"ASK {slot} c:6379")], ["OK", "one", "OK", "two"]]
    assert nodes.exchange(("HGETALL", LOW), ("PTTL", LOW)) == ["one", "two"]
    assert nodes.said[-1] == ("c", [("ASKING",), ("HGETALL", LOW), ("ASKING",), ("PTTL", LOW)])
    nodes.exchange(COMMIT)
    assert nodes.said[-1] == ("a", [COMMIT])


@pytest.mark.parametrize("code", ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"])
def test_a_cluster_that_is_not_ready_is_asked_again_but_not_by_everybody(nodes: Nodes, code: str) -> None:
    nodes.answers = [[ErrorReply(f"{code} wait")]]
    assert nodes.exchange(COMMIT) == ["OK"]
    assert nodes.pauses == 1
    nodes.said.clear()
    nodes.answers = [[ErrorReply(f"{code} wait")] for _ in range(1000)]
    for _ in range(100):
        with pytest.raises(ExchangeFailed, match=code) as failed:
            nodes.exchange(COMMIT)
        assert not failed.value.sent
    assert len(nodes.said) <= 100 + 10, "no storm: R18"


def test_a_commit_that_may_have_been_applied_is_not_sent_again(nodes: Nodes) -> None:
    nodes.exchange(("HGETALL", LOW))
    nodes.map = [[0, 16383, ["c", 6379, "id"]]]
    nodes.answers = [ExchangeFailed("the connection broke", sent=True)]
    with pytest.raises(ExchangeFailed, match="broke"):
        nodes.exchange(COMMIT)
    assert [host for host, _ in nodes.said] == ["a", "a"]


def test_what_was_not_sent_goes_to_whoever_took_over(nodes: Nodes) -> None:
    nodes.exchange(("HGETALL", LOW))
    nodes.map = [[0, 16383, ["c", 6379, "id"]]]
    nodes.answers = [ExchangeFailed("refused", sent=False)]
    assert nodes.exchange(COMMIT) == ["OK"]
    assert nodes.said[-1][0] == "c"
    nodes.answers = [ExchangeFailed("refused", sent=False)]
    with pytest.raises(ExchangeFailed, match="refused"):
        nodes.exchange(COMMIT)


def test_nodes_that_send_us_round_in_circles_are_left(nodes: Nodes) -> None:
    slot = key_slot(LOW.encode())
    nodes.answers = [[ErrorReply(f"MOVED {slot} {'ab'[n % 2]}:6379")] for n in range(1000)]
    with pytest.raises(ExchangeFailed, match="MOVED") as failed:
        nodes.exchange(COMMIT)
    assert not failed.value.sent
    assert len(nodes.said) < 30


def test_a_node_that_does_not_know_its_own_name_is_where_it_was_reached(nodes: Nodes) -> None:
    nodes.map = [[0, 16383, ["", 7000, "id"]]]
    nodes.exchange(COMMIT)
    assert nodes.said == [("a", [COMMIT])]
    assert Address(host="a", port=7000) in nodes.topology.members()
    assert C not in nodes.topology.members()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis+cluster://h1,h2/3", "db"),
        ("redis+cluster://h1?db=1", "db"),
        ("redis+cluster://h1,,h2", "host"),
        ("redis+cluster://", "host"),
        ("redis+cluster://h1:port,h2", "port"),
        ("redis+cluster://[::1", "host"),
        ("redis+sentinel://h1,h2", "service"),
        ("redis+sentinel://h1/", "service"),
        ("redis+sentinel://h1/shop/0", "service"),
        ("redis+sentinel://h1/shop?db=none", "database"),
        ("redis+sentinel://h1/shop?sentinel_username=me", "sentinel_username"),
        ("redis+cluster://h1?sentinel_password=x", "sentinel_password"),
        ("redis+cluster://h1?durability=disk", "durability"),
        ("redis+cluster://h1?ssl_ca_certs=/nowhere", "ssl_ca_certs"),
        ("unix+cluster:///socket", "scheme"),
        ("redis+sentinel://h1:0/shop", "sentinel://h1:0/shop.*no such port.*1 to 65535"),
        ("redis+sentinel://h1,h2:99999/shop", "sentinel://h1,h2:99999/shop.*no such port"),
        ("redis+sentinel://h1,:26379/shop", "the host is missing"),
        ("redis+sentinel:///shop", "sentinel:///shop.*a host is missing"),
        ("redis+cluster://h1:0", "no such port"),
        ("redis+cluster://:6379", "the host is missing"),
        ("redis+sentinel://h1/shop?ssl_ca_certs=/ca", "ssl_ca_certs='/ca': it is for TLS"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_is_wrong(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Target.parse(url)


def test_no_password_is_shown() -> None:
    for url in ("redis+sentinel://u:s3cret@h1,h2/shop?sentinel_password=s3cret", "valkeys+cluster://:s3cret@h1,h2"):
        target = Target.parse(url)
        assert "s3cret" not in f"{target}"
        assert target.addresses[-1].password in ("s3cret", None)
