"""All-to-all under faults, on real processes: R8 to R11, R16 and R19. A checker looks at all that anybody was told."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from time import monotonic
from typing import NamedTuple, TypeAlias

import httpx
import pytest

from coatcheck.lab.haproxy import Orders
from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.testing import a_commit, a_record
from tests.servers.browser import COOKIE
from tests.servers.clock import fair_time
from tests.servers.haproxy import Balancer
from tests.servers.hosts import Hosts, hosts_are_required
from tests.servers.peers import PeerProcess, agreement
from tests.servers.processes import LOOPBACK, eventually, free_port
from tests.servers.web import WebServer
from tests.stores.replicas import PATIENT, close_peers, in_agreement, open_peers, url_for

History: TypeAlias = list[tuple[str, str, str]]
Starter: TypeAlias = Callable[..., object]
SILENCE = 1.0
HOUR = 3600.0
HEALED_WITHIN = 10.0
"""Seconds after which peers that are in touch again must hold the same, on a busy machine."""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    missing = Hosts.missing()
    if missing:
        assert not hosts_are_required(), missing
        pytest.skip(missing)
    with Hosts(4) as hosts:
        yield hosts


class Fleet:
    """Peers that end with the test."""

    def __init__(self) -> None:
        self.all: list[PeerProcess] = []

    async def start(self, url: str, *, before: Sequence[str] = (), ahead: float = 0.0) -> PeerProcess:
        self.all.append(await PeerProcess.start(url, before=before, ahead=ahead))
        return self.all[-1]

    async def start_all(self, url: str, count: int, hosts: Hosts | None = None, ahead: Sequence[float] = ()) -> None:
        for number in range(count):
            before = () if hosts is None else hosts.command(number)
            await self.start(url, before=before, ahead=ahead[number] if ahead else 0.0)
        assert all(await asyncio.gather(*(peer("ready", timeout=30) for peer in self.all)))


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    for peer in fleet.all:
        await peer.stop()


async def check(
    peers: Sequence[PeerProcess], sessions: dict[str, str], history: History, *, exact: bool
) -> Counter[str]:
    """Hold what all peers have in the end against all that was answered.

    Args:
        exact: whether what was answered as unknown must be there as well: its server lives.
    """
    count = Counter(outcome for _, _, outcome in history)
    ended = {session_id: outcome for session_id, what, outcome in history if what == "delete"}
    for peer in peers:
        held = await peer("read", session_ids=list(sessions))
        for session_id in sessions:
            fields = held[session_id]
            if ended.get(session_id) in ("acknowledged", "unknown"):
                assert fields is None, f"session {session_id} rose from the dead"
                continue
            assert fields is not None, f"session {session_id} is lost"
            entries = {name for name in fields if name.startswith("cart[")}
            told = [(what, outcome) for one, what, outcome in history if one == session_id and what != "delete"]
            acknowledged = {what for what, outcome in told if outcome == "acknowledged"}
            unknown = {what for what, outcome in told if outcome == "unknown"}
            assert acknowledged <= entries, f"{len(acknowledged - entries)} acknowledged commits are lost"
            assert entries <= acknowledged | unknown, "what was refused was applied"
            assert not exact or unknown <= entries, "an unknown commit of a server that lives is lost"
            assert int(fields.get("hits", "0")) == len(entries), "a counter is not exact"
    return count


# --- R9, R8, R16: partitions --------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A fault of the network, and how many others each host hears meanwhile."""

    cut: Callable[[Hosts], None]
    heal: Callable[[Hosts], None]
    live: tuple[int, ...]


def alone(host: int, *live: int) -> Cut:
    return Cut(lambda hosts: hosts.cut(host), lambda hosts: hosts.heal(host), live)


def between(one: int, other: int, *live: int) -> Cut:
    return Cut(lambda hosts: hosts.cut_between(one, other), lambda hosts: hosts.heal_between(one, other), live)


CUTS = {
    "two hosts": (alone(0, 0, 0), alone(1, 0, 0)),
    "three hosts": (alone(0, 0, 1, 1), alone(1, 1, 0, 1)),
    "three hosts, of which one hears both others": (between(0, 1, 1, 1, 2), between(2, 0, 1, 2, 1)),
}


@pytest.mark.parametrize("kind", CUTS)
async def test_r9_hosts_cut_off_under_load_heal_without_loss_and_without_a_revived_session(
    hosts: Hosts, fleet: Fleet, kind: str
) -> None:
    count = len(CUTS[kind][0].live)
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(count))
    url = f"replicated://{addresses}?plaintext=yes&silence={SILENCE}&compare=1"
    await fleet.start_all(url, count, hosts, ahead=(0, HOUR, -HOUR))
    peers = fleet.all
    sessions: dict[str, str] = await peers[0]("create", count=40, idle_ms=600_000)
    doomed = list(sessions)[:20]
    history: History = []
    for turn, fault in enumerate(CUTS[kind]):
        for number, peer in enumerate(peers):
            deletes = doomed[turn * count + number :: 2 * count]
            await peer("work", name=f"p{number}-{turn}", sessions=sessions, deletes=deletes, pace=0.01)
        await asyncio.sleep(1)
        fault.cut(hosts)
        await until(peers, lambda looks, fault=fault: [look["live"] for look in looks] == list(fault.live))
        for peer, step in zip(peers, (-HOUR, 0, HOUR), strict=False):  # clocks decide nothing
            await peer("set_clock", seconds=step * turn)
        await asyncio.sleep(1)  # all sides go on, each by itself
        fault.heal(hosts)
        healed = monotonic()
        await until(peers, lambda looks: all(look["live"] == count - 1 and look["ready"] for look in looks))
        joined = monotonic() - healed
        history += [tuple(entry) for peer in peers for entry in await peer("stop_work")]
        await agreement(peers, HEALED_WITHIN)
        counted = await check(peers, sessions, history, exact=True)
        print(f"{dict(counted)}, in step {joined:.2f} s and equal {monotonic() - healed:.2f} s after the healing")
        assert counted["acknowledged"] > 100


async def test_r9_who_is_not_heard_by_one_of_the_others_hears_of_its_changes_from_the_third(
    hosts: Hosts, fleet: Fleet
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(3))
    url = f"replicated://{addresses}?plaintext=yes&silence={SILENCE}&compare=1"
    await fleet.start_all(url, 3, hosts)
    hosts.cut_between(0, 1)
    await until(fleet.all, lambda looks: [look["live"] for look in looks] == [1, 1, 2])
    here, there = fleet.all[:2]
    [(session_id, proof)] = (await here("create", count=1, idle_ms=600_000)).items()
    await here("update", session_id=session_id, proof=proof, increments={"hits": 1})
    await until([there], lambda looks: looks[0]["sessions"] == 1)
    await agreement(fleet.all)
    assert (await there("read", session_ids=[session_id]))[session_id] == {"hits": "1"}
    assert await there("delete", session_id=session_id)
    await until([here], lambda looks: looks[0]["sessions"] == 0)


async def until(peers: Sequence[PeerProcess], condition: Callable[..., bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition([await peer("look") for peer in peers]):
            await asyncio.sleep(0.05)


async def test_r8_what_was_logged_out_on_one_side_of_a_cut_stays_so_whatever_the_other_side_did(
    hosts: Hosts, fleet: Fleet
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(2))
    await fleet.start_all(f"replicated://{addresses}?plaintext=yes&silence={SILENCE}", 2, hosts)
    here, there = fleet.all
    sessions: dict[str, str] = await here("create", count=10, idle_ms=600_000)
    hosts.cut(1)
    await until([here, there], lambda looks: all(look["live"] == 0 for look in looks))
    for session_id, proof in sessions.items():
        assert await here("delete", session_id=session_id)
        await there("update", session_id=session_id, proof=proof, increments={"hits": 1})
        assert (await there("read", session_ids=[session_id]))[session_id] == {"hits": "1"}, "it cannot know yet"
    hosts.heal(1)
    await agreement([here, there], 30)
    for peer in (here, there):
        assert set((await peer("read", session_ids=list(sessions))).values()) == {None}


async def test_r8_a_logout_that_was_forgotten_meanwhile_is_not_undone_by_who_was_away_for_longer(
    hosts: Hosts, fleet: Fleet
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(2))
    await fleet.start_all(f"replicated://{addresses}?plaintext=yes&silence={SILENCE}&remember=0.5", 2, hosts)
    here, there = fleet.all
    old: dict[str, str] = await here("create", count=20, idle_ms=600_000)
    ended = list(old)[:12]
    hosts.cut(1)
    await until([here, there], lambda looks: all(look["live"] == 0 for look in looks))
    for number, session_id in enumerate(ended):  # on both sides: whichever yields to the other must not matter
        await (here, there)[number % 2]("delete", session_id=session_id)
    young_here: dict[str, str] = await here("create", count=3, idle_ms=600_000)
    young_there: dict[str, str] = await there("create", count=3, idle_ms=600_000)
    await asyncio.sleep(2)  # much longer than logouts are remembered
    hosts.heal(1)
    await until([here, there], lambda looks: all(look["live"] == 1 and look["ready"] for look in looks))
    await agreement([here, there], 30)
    for peer in (here, there):
        held = await peer("read", session_ids=[*old, *young_here, *young_there])
        assert {session_id for session_id, fields in held.items() if fields is not None} == {
            *old.keys() - ended, *young_here, *young_there
        }  # fmt: skip


# --- R5: processes that die ---------------------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_while_one_server_lives(fleet: Fleet) -> None:
    url = url_for(3, f"silence={SILENCE}")
    await fleet.start_all(url, 3)
    survivor, second, third = fleet.all
    sessions: dict[str, str] = await survivor("create", count=20, idle_ms=600_000)
    for number, peer in enumerate(fleet.all):
        await peer("work", name=f"p{number}", sessions=sessions, deletes=[], pace=0.005)
    history: History = []
    # What they were told must outlive them: they are stopped, asked, and killed while the others go on.
    for victim in (second, third):
        await asyncio.sleep(1)
        history += map(tuple, await victim("stop_work"))
        await victim.kill()
    await asyncio.sleep(1)
    history += map(tuple, await survivor("stop_work"))
    count = await check([survivor], sessions, history, exact=False)
    assert count["acknowledged"] > 100
    back = await fleet.start(url)
    assert await back("ready", timeout=30)
    await agreement([survivor, back])
    await check([back], sessions, history, exact=False)


async def test_a_peer_that_hangs_costs_the_others_a_bounded_amount_of_memory_and_catches_up_before_it_serves_again(
    fleet: Fleet,
) -> None:
    queue = 2_000_000
    # With `none` nobody waits for the one that hangs but for what is under way to it.
    url = url_for(3, f"silence=2&ack=none&max_queue={queue}")
    await fleet.start_all(url, 3)
    writer, _, hanging = fleet.all
    [(session_id, proof)] = (await writer("create", count=1, idle_ms=600_000)).items()
    task = {"session_id": session_id, "proof": proof, "size": 20_000}
    await writer("overwrite", count=300, **task)  # buffers have their size now
    await agreement(fleet.all)
    before = await writer("memory")
    hanging.process.send_signal(signal.SIGSTOP)
    try:
        failed = await writer("overwrite", count=3000, **task)  # 60 MB
        grown = await writer("memory") - before
        assert grown < queue + 8_000_000, f"the writer grew by {grown:,} bytes"
        await until([writer], lambda looks: looks[0]["live"] == 1)
    finally:
        hanging.process.send_signal(signal.SIGCONT)
    assert failed <= 2, "commits wait for it until it counts as gone, and no longer"
    await agreement(fleet.all)
    print(f"the writer grew by {grown:,} bytes, {failed} commits failed")


async def test_a_commit_waits_for_a_peer_that_hangs_until_it_counts_as_gone_and_that_one_shows_nothing_old_when_it_wakes(
    fleet: Fleet,
) -> None:
    await fleet.start_all(url_for(2, f"silence={SILENCE}"), 2)
    awake, asleep = fleet.all
    [(session_id, proof)] = (await awake("create", count=1, idle_ms=600_000)).items()
    asleep.process.send_signal(signal.SIGSTOP)
    try:
        began = fair_time()
        await awake("update", session_id=session_id, proof=proof, increments={"hits": 1})
        assert SILENCE / 2 < fair_time() - began < SILENCE + 0.5
        assert (await awake("look"))["live"] == 0
        await awake(
            "update", session_id=session_id, proof=proof, increments={"hits": 1}
        )  # nothing of this is on its way
        asked = asyncio.create_task(asleep("read", session_ids=[session_id]))
        await asyncio.sleep(0.2)  # so that this is the first that it hears when it wakes
    finally:
        asleep.process.send_signal(signal.SIGCONT)
    assert (await asked)[session_id] == {"hits": "2"}


# --- R10: joining -------------------------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_r10_a_joiner_takes_over_100_000_sessions_while_the_others_serve(fleet: Fleet) -> None:
    url = url_for(3, "silence=5&max_sessions=200000")
    await fleet.start(url)
    await fleet.start(url)
    donor, other = fleet.all
    assert all(await asyncio.gather(donor("ready", timeout=30), other("ready", timeout=30)))
    many: dict[str, str] = await donor("create", count=100_000, idle_ms=3_600_000, fields={"user": '"ann"'})
    sessions = dict(list(many.items())[:50])
    for number, peer in enumerate((donor, other)):
        await peer("work", name=f"p{number}", sessions=sessions, deletes=[], pace=0.006, hands=8)
    working = monotonic()
    await asyncio.sleep(1)
    before = await donor("memory") + await other("memory")
    began = monotonic()
    joiner = await fleet.start(url)
    assert await joiner("ready", timeout=100)
    took = monotonic() - began
    assert (await joiner("look"))["sessions"] == 100_000, "ready before it had all"
    grown = await donor("memory") + await other("memory") - before
    assert grown < 30_000_000, f"the donors grew by {grown:,} bytes, of 30 MB that they sent"
    history: History = [tuple(entry) for peer in (donor, other) for entry in await peer("stop_work")]
    rate = len(history) / (monotonic() - working)
    assert rate >= 200, "requests a second"
    await agreement(fleet.all)
    count = await check(fleet.all, sessions, history, exact=True)
    assert count.keys() == {"acknowledged"}, "a request went wrong"
    print(f"100,000 sessions in {took:.1f} s, beside {rate:.0f} commits a second; the donors grew by {grown:,} bytes")


async def test_r10_who_does_not_hear_the_only_one_that_has_everything_waits_for_those_that_take_it_over(
    hosts: Hosts, fleet: Fleet
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(3))
    url = f"replicated://{addresses}?plaintext=yes&silence=0.5&compare=3600"
    await fleet.start_all(url, 3, hosts)
    donor, *others = fleet.all
    await donor("create", count=30_000, idle_ms=600_000, fields={"text": '"' + "x" * 300 + '"'})
    for other in others:
        await other.kill()
    hosts.cut_between(0, 2)
    between, behind = [await fleet.start(url, before=hosts.command(number)) for number in (1, 2)]
    ready = [asyncio.create_task(peer("ready", timeout=60)) for peer in (between, behind)]
    assert await ready[1]
    assert (await behind("look"))["sessions"] == 30_000, "ready before it had all"
    assert await ready[0]


async def test_r10_who_loses_pieces_of_the_state_is_not_ready_until_he_has_them_and_the_donor_holds_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers = await open_peers(2, "silence=1&timeout=10")
    try:
        text = '"' + "x" * 2000 + '"'
        sessions = [a_record(fields={"n": str(number), "text": text}) for number in range(600)]
        await asyncio.gather(*map(peers[0].create, sessions))
        await peers[1].close()
        post = peers[0]._post
        assert post is not None
        chance = random.Random(4)
        send, largest, lost = post.send, 0, 0

        def send_or_lose(address: str, head: bytes, body: bytes) -> bool:
            nonlocal largest, lost
            largest = max(largest, len(head) + len(body))
            if len(body) > 1000 and chance.random() < 0.03:
                lost += 1
                return True
            return send(address, head, body)

        monkeypatch.setattr(post, "send", send_or_lose)
        peers[1] = joiner = ReplicatedStore(peers[0]._target)
        while not await joiner.ready(timeout=0.01):
            await asyncio.sleep(0.01)
        assert joiner.digest == peers[0].digest
        assert lost > 0
        assert largest < 400_000, "1.3 MB of sessions never lie in one message"
    finally:
        await close_peers(peers)


async def test_peers_at_the_addresses_of_a_name_come_and_go_with_it(hosts: Hosts, fleet: Fleet) -> None:
    hosts.call("shop-peers", 0, 1)
    url = f"replicated+dns://shop-peers:7946?plaintext=yes&silence={SILENCE}&reread=0.1"
    await fleet.start_all(url, 2, hosts)
    first, second = fleet.all
    sessions: dict[str, str] = await first("create", count=10, idle_ms=600_000)
    third = await fleet.start(url, before=hosts.command(2))
    assert not await third("ready", timeout=1), "nobody knows its address yet"
    hosts.call("shop-peers", 0, 1, 2)
    assert await third("ready", timeout=30)
    await until(fleet.all, lambda looks: [look["live"] for look in looks] == [2, 2, 2])
    assert None not in (await third("read", session_ids=list(sessions))).values()
    hosts.call("shop-peers", 0, 2)
    await until([first, third], lambda looks: [look["live"] for look in looks] == [1, 1])
    hosts.call("shop-peers")  # a mishap: the last answer counts
    await asyncio.sleep(0.5)
    await until([first, third], lambda looks: all((look["live"], look["ready"]) == (1, True) for look in looks))
    hosts.call("shop-peers", 0, 1, 2)
    await until(fleet.all, lambda looks: all((look["live"], look["ready"]) == (2, True) for look in looks))
    assert await second("delete", session_id=next(iter(sessions)))
    await agreement(fleet.all)


async def test_peers_with_stable_names_are_found_wherever_they_start_again(hosts: Hosts, fleet: Fleet) -> None:
    """As on Kubernetes, where a pod that was moved has another address, and one that is not there has none."""
    names = ",".join(f"shop-{number}.shop:7946" for number in range(3))
    url = f"replicated://{names}?plaintext=yes&silence={SILENCE}&reread=0.1"
    first = await fleet.start(url, before=hosts.command(0))
    assert not await first("ready", timeout=0.5), "not even its own name is known yet"
    hosts.call("shop-0.shop", 0)
    assert not await first("ready", timeout=2.5), "it is one of three, and begins with nothing"
    hosts.call("shop-1.shop", 1)
    second = await fleet.start(url, before=hosts.command(1))
    assert await first("ready", timeout=30)
    sessions: dict[str, str] = await first("create", count=10, idle_ms=600_000)
    hosts.call("shop-2.shop", 2)
    third = await fleet.start(url, before=hosts.command(2))
    await until(fleet.all, lambda looks: all((look["live"], look["ready"]) == (2, True) for look in looks))
    await second.kill()
    hosts.call("shop-1.shop")  # while it is away nobody is told where it is
    await until([first, third], lambda looks: [look["live"] for look in looks] == [1, 1])
    hosts.call("shop-1.shop", 3)
    moved = await fleet.start(url, before=hosts.command(3))
    await until([first, third, moved], lambda looks: all((look["live"], look["ready"]) == (2, True) for look in looks))
    assert None not in (await moved("read", session_ids=list(sessions))).values()


# --- R11: clocks --------------------------------------------------------------------------------------------------------


async def test_r11_clocks_apart_by_an_hour_and_stepping_decide_nothing(fleet: Fleet) -> None:
    await fleet.start_all(url_for(3, PATIENT), 3, ahead=(0, HOUR, -HOUR))
    peers = fleet.all
    [(session_id, proof)] = (await peers[1]("create", count=1, idle_ms=600_000)).items()
    for number in range(30):
        if number % 10 == 5:
            for peer, ahead in zip(peers, (-HOUR, 0, HOUR), strict=True):
                await peer("set_clock", seconds=ahead * (number % 4))
        writer = peers[number % 3]
        await writer("update", session_id=session_id, proof=proof, sets={"last": str(number)}, increments={"hits": 1})
        for peer in peers:
            fields = (await peer("read", session_ids=[session_id]))[session_id]
            assert fields == {"last": str(number), "hits": str(number + 1)}


async def test_r11_sessions_end_on_all_servers_when_their_time_is_over_and_not_before(fleet: Fleet) -> None:
    idle = 3.0
    await fleet.start_all(url_for(3, PATIENT), 3, ahead=(0, HOUR, -HOUR))
    peers = fleet.all
    touched = monotonic()
    sessions: dict[str, str] = await peers[2]("create", count=1, idle_ms=int(idle * 1000))
    session_id = next(iter(sessions))
    for peer, ahead in zip(peers, (HOUR, -HOUR, 0), strict=True):
        await peer("set_clock", seconds=ahead)
    while monotonic() - touched < idle:
        for peer in peers:
            fields = (await peer("read", session_ids=[session_id]))[session_id]
            # Times are whole milliseconds, on each of the servers.
            assert fields is not None or monotonic() - touched >= idle - 0.01, "ended early"
    await asyncio.sleep(0.5)
    for peer in peers:
        async with asyncio.timeout(10):
            while (await peer("read", session_ids=[session_id]))[session_id] is not None:
                await asyncio.sleep(0.05)


# --- R19: deploys -------------------------------------------------------------------------------------------------------


USERS = 1_000


class Crowd:
    """Users who go on shopping through the balancer. What each of them was told is counted."""

    def __init__(self, balancer: Balancer) -> None:
        limits = httpx.Limits(max_connections=24)
        self._client = httpx.AsyncClient(base_url=balancer.url, timeout=30, limits=limits)
        self.tickets: list[str] = []
        self.counted = [0] * USERS
        self.wrong: Counter[str] = Counter()
        self._over = False

    async def log_in(self) -> None:
        async def one(number: int) -> str:
            answer = await self._client.post(f"/login?user=user-{number}")
            assert answer.status_code == 200, answer.text
            return answer.cookies[COOKIE]

        for at in range(0, USERS, 20):
            self.tickets += await asyncio.gather(*map(one, range(at, at + 20)))

    async def shop_until_told(self) -> None:
        turns = itertools.cycle(range(USERS))  # so that no user is in two places at once
        await asyncio.gather(*(self._shop(turns) for _ in range(20)))

    async def _shop(self, turns: Iterator[int]) -> None:
        while not self._over:
            number = next(turns)
            answer = await self.ask("POST", "/count", number)
            if answer != "counted":
                self.wrong[answer] += 1
            else:
                self.counted[number] += 1

    def stop(self) -> None:
        self._over = True

    async def ask(self, method: str, path: str, number: int) -> str:
        try:
            answer = await self._client.request(method, path, headers={"cookie": f"{COOKIE}={self.tickets[number]}"})
        except httpx.HTTPError as error:
            return repr(error)
        self._client.cookies.clear()
        return answer.text if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

    async def close(self) -> None:
        await self._client.aclose()


async def deploy(server: WebServer, name: str, orders: Orders) -> None:
    """Restart one server."""
    orders.set_state(name, "drain")  # whoever is in the middle of something is let finish
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.end)
    await eventually(lambda: orders.status(name) == "DOWN", "the balancer to see that it is gone")
    orders.set_state(name, "ready")
    server.launch()
    # From here on it is /ready alone that lets users in.
    await eventually(lambda: orders.is_up(name), "the server to be ready again", 60)


async def test_r19_a_rolling_restart_of_all_web_servers_behind_haproxy_loses_nobody_of_1_000_users() -> None:
    ports = ",".join(f"{LOOPBACK}:{free_port()}" for _ in range(3))
    environment = {"SHOP_STORE": f"replicated://{ports}?{PATIENT}", "SHOP_PATIENCE": "15"}
    servers = [WebServer("tests.web.shop:from_environment", environment) for _ in range(3)]
    with Balancer([server.port for server in servers]) as balancer:
        crowd = Crowd(balancer)
        orders = balancer.orders
        try:
            for server in servers:
                server.launch()
            await eventually(lambda: all(orders.is_up(f"web{n}") for n in range(3)), "the servers to be ready", 60)
            await crowd.log_in()
            shopping = asyncio.create_task(crowd.shop_until_told())
            for number, server in enumerate(servers):
                await asyncio.sleep(1)
                await deploy(server, f"web{number}", balancer.orders)
            await eventually(lambda: sum(crowd.counted) > 3 * USERS, "all users to have come three times", 120)
            crowd.stop()
            await shopping
            assert not crowd.wrong, f"requests failed: {crowd.wrong.most_common(3)}"
            assert min(crowd.counted) > 0
            for at in range(0, USERS, 20):
                several = range(at, at + 20)
                pages = await asyncio.gather(*(crowd.ask("GET", "/page", number) for number in several))
                for number, page in zip(several, pages, strict=True):
                    assert json.loads(page) == {"user": f"user-{number}", "count": crowd.counted[number]}
            for server in servers:
                assert "Traceback" not in server.log
            print(f"{sum(crowd.counted)} requests of {USERS} users during three restarts, all of them answered")
        finally:
            await crowd.close()
            for server in servers:
                server.stop()


# --- what repairs ------------------------------------------------------------------------------------------------------


async def test_what_was_missed_without_anybody_noticing_is_found_by_comparing() -> None:
    peers = await open_peers(2, f"{PATIENT}&compare=0.2")
    try:
        new = a_record()
        await peers[0].create(new)
        peers[1]._replica._entries.pop(new.session_id)  # as if by a mistake of ours
        peers[1]._replica._mark(new.session_id, 0)
        await in_agreement(peers)
        assert await peers[1].read(new.session_id) is not None
        assert (await peers[1].update(new.session_id, a_commit(new, increments={"n": 1}))).version == 2
        assert peers[1].figures["repaired"] == 1
    finally:
        await close_peers(peers)


# --- freshness ------------------------------------------------------------------------------------------------------------


async def test_a_browser_finds_its_cart_past_a_cut_cable_and_waits_no_longer_than_it_may(
    hosts: Hosts, fleet: Fleet
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(3))
    url = f"replicated://{addresses}?plaintext=yes&silence=4&catch_up=1&ack=none"
    await fleet.start_all(url, 3, hosts)
    writer, reader, between = fleet.all
    await until(fleet.all, lambda looks: all(look["live"] == 2 for look in looks))
    [(session_id, proof)] = (await writer("create", count=1, idle_ms=600_000)).items()
    await agreement(fleet.all)

    hosts.cut_between(0, 1)
    seen = await writer("visit", session_id=session_id, proof=proof, seen="", entry="cart[tea]")
    assert "cart[tea]" not in (await reader("read", session_ids=[session_id]))[session_id]
    found = await reader("read_fresh", session_id=session_id, seen=seen)
    assert (found["lag"], "cart[tea]" in found["fields"]) == ("", True), "the third one has it"
    assert found["seconds"] < 1
    hosts.heal_between(0, 1)
    await until(fleet.all, lambda looks: all(look["live"] == 2 and look["ready"] for look in looks))
    await agreement(fleet.all)

    hosts.cut(1)
    seen = await writer("visit", session_id=session_id, proof=proof, seen=seen, entry="cart[cups]")
    found = await reader("read_fresh", session_id=session_id, seen=seen)
    assert (found["lag"], found["seen"], list(found["fields"])) == ("late", None, ["cart[tea]"])
    assert found["seconds"] < 1 + 0.5
    await until([reader], lambda looks: looks[0]["live"] == 0)
    await asyncio.sleep(4.5)  # now it knows that nobody is there
    found = await reader("read_fresh", session_id=session_id, seen=seen)
    assert (found["lag"], found["seen"], list(found["fields"])) == ("late", None, ["cart[tea]"])
    assert found["seconds"] < 0.5
    assert (await reader("look"))["rolled_back"] == 0, "what is cut off is not lost"

    hosts.heal(1)
    async with asyncio.timeout(30):
        while (found := await reader("read_fresh", session_id=session_id, seen=seen))["lag"]:
            await asyncio.sleep(0.1)
    assert set(found["fields"]) == {"cart[tea]", "cart[cups]"}
    assert (await between("look"))["stale"] == 0
