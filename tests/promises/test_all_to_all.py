"""All-to-all under faults, on real processes: R8 to R11, R16 and R19. A checker looks at all that anybody was told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from time import monotonic
from typing import TypeAlias

import pytest

from coatcheck.stores.replicated import ReplicatedStore
from coatcheck.testing import a_commit, a_record
from tests.servers.browser import Browser
from tests.servers.hosts import Hosts, hosts_are_required
from tests.servers.peers import PeerProcess, agreement
from tests.servers.processes import LOOPBACK, free_port
from tests.servers.web import WebServer
from tests.stores.replicas import PATIENT, close_peers, in_agreement, open_peers, url_for

History: TypeAlias = list[tuple[str, str, str]]
Starter: TypeAlias = Callable[..., object]
SILENCE = 1.0
HEALED_WITHIN = 10.0
"""Seconds after which peers that are in touch again must hold the same, on a busy machine."""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    missing = Hosts.missing()
    if missing:
        assert not hosts_are_required(), missing
        pytest.skip(missing)
    with Hosts(3) as hosts:
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


@pytest.mark.parametrize("hosts_count", [2, 3])
async def test_r9_hosts_cut_off_under_load_heal_without_loss_and_without_a_revived_session(
    hosts: Hosts, fleet: Fleet, hosts_count: int
) -> None:
    addresses = ",".join(f"{hosts.address(number)}:7946" for number in range(hosts_count))
    await fleet.start_all(f"replicated://{addresses}?plaintext=yes&silence={SILENCE}", hosts_count, hosts)
    peers = fleet.all
    sessions: dict[str, str] = await peers[0]("create", count=40, idle_ms=600_000)
    doomed = list(sessions)[:20]
    for number, peer in enumerate(peers):
        deletes = doomed[number::hosts_count]
        await peer("work", name=f"p{number}", sessions=sessions, deletes=deletes, pace=0.01)
    for lonely in (0, 1):
        await asyncio.sleep(1)
        hosts.cut(lonely)
        await until(peers, lambda looks, lonely=lonely: looks[lonely]["live"] == 0)
        await asyncio.sleep(1)  # both sides go on, each by itself
        hosts.heal(lonely)
        await until(peers, lambda looks: all(look["live"] == hosts_count - 1 and look["ready"] for look in looks))
    histories = [await peer("stop_work") for peer in peers]
    healed = monotonic()
    await agreement(peers, HEALED_WITHIN)
    history = [tuple(entry) for history in histories for entry in history]
    count = await check(peers, sessions, history, exact=True)
    assert count["acknowledged"] > 100
    parted = [(await peer("look"))["parted"] for peer in peers]
    print(f"{dict(count)}, parted {parted}, equal {monotonic() - healed:.2f} s after the end")


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


# --- R10: joining -------------------------------------------------------------------------------------------------------


async def test_r10_a_joiner_takes_over_100_000_sessions_while_the_others_serve(fleet: Fleet) -> None:
    url = url_for(3, "silence=5&max_sessions=200000")
    await fleet.start(url)
    await fleet.start(url)
    donor, other = fleet.all
    assert all(await asyncio.gather(donor("ready", timeout=30), other("ready", timeout=30)))
    many: dict[str, str] = await donor("create", count=100_000, idle_ms=3_600_000, fields={"user": '"ann"'})
    sessions = dict(list(many.items())[:50])
    # 200 requests a second, on both
    await donor("work", name="p0", sessions=sessions, deletes=[], pace=0.01)
    await other("work", name="p1", sessions=sessions, deletes=[], pace=0.01)
    began = monotonic()
    joiner = await fleet.start(url)
    assert await joiner("ready", timeout=100)
    took = monotonic() - began
    assert (await joiner("look"))["sessions"] == 100_000, "ready before it had all"
    history: History = [tuple(entry) for peer in (donor, other) for entry in await peer("stop_work")]
    await agreement(fleet.all)
    count = await check(fleet.all, sessions, history, exact=True)
    assert count.keys() == {"acknowledged"}, "a request went wrong"
    print(f"100,000 sessions in {took:.1f} s, beside {count['acknowledged']} commits")


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

        def send_or_lose(address: str, parts: Sequence[bytes]) -> bool:
            nonlocal largest, lost
            largest = max(largest, sum(map(len, parts)))
            if len(parts[1]) > 1000 and chance.random() < 0.03:
                lost += 1
                return True
            return send(address, parts)

        monkeypatch.setattr(post, "send", send_or_lose)
        peers[1] = joiner = ReplicatedStore(peers[0]._target)
        while not await joiner.ready(timeout=0.01):
            await asyncio.sleep(0.01)
        assert joiner.digest == peers[0].digest
        assert lost > 0
        assert largest < 400_000, "1.3 MB of sessions never lie in one message"
    finally:
        await close_peers(peers)


# --- R11: clocks --------------------------------------------------------------------------------------------------------


async def test_r11_clocks_apart_by_an_hour_and_stepping_decide_nothing(fleet: Fleet) -> None:
    hour = 3600.0
    await fleet.start_all(url_for(3, PATIENT), 3, ahead=(0, hour, -hour))
    peers = fleet.all
    [(session_id, proof)] = (await peers[1]("create", count=1, idle_ms=600_000)).items()
    for number in range(30):
        if number % 10 == 5:
            for peer, ahead in zip(peers, (-hour, 0, hour), strict=True):
                await peer("set_clock", seconds=ahead * (number % 4))
        writer = peers[number % 3]
        await writer("update", session_id=session_id, proof=proof, sets={"last": str(number)}, increments={"hits": 1})
        for peer in peers:
            fields = (await peer("read", session_ids=[session_id]))[session_id]
            assert fields == {"last": str(number), "hits": str(number + 1)}


async def test_r11_sessions_end_on_all_servers_when_their_time_is_over_and_not_before(fleet: Fleet) -> None:
    idle = 3.0
    hour = 3600.0
    await fleet.start_all(url_for(3, PATIENT), 3, ahead=(0, hour, -hour))
    peers = fleet.all
    touched = monotonic()
    sessions: dict[str, str] = await peers[2]("create", count=1, idle_ms=int(idle * 1000))
    session_id = next(iter(sessions))
    for peer, ahead in zip(peers, (hour, -hour, 0), strict=True):
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


async def test_r19_a_rolling_restart_of_all_web_servers_loses_nobody() -> None:
    ports = ",".join(f"{LOOPBACK}:{free_port()}" for _ in range(3))
    environment = {"SHOP_STORE": f"replicated://{ports}?{PATIENT}", "SHOP_PATIENCE": "15"}
    servers = [WebServer("tests.web.shop:from_environment", environment) for _ in range(3)]
    visitors = [Browser(servers[0].url) for _ in range(40)]
    try:
        for server in servers:
            server.start()
        for number, visitor in enumerate(visitors):
            assert (await visitor.post(f"/login?user=user-{number}")).status_code == 200
        counted = 0
        for server in servers:
            others = [other for other in servers if other is not server]
            server.end()  # the balancer has been told, and sends nobody there
            await count_on(others, visitors)
            server.start()
            await count_on(servers, visitors)
            counted += 2
        for server in servers:
            for number, visitor in enumerate(visitors):
                async with Browser(server.url, ticket=visitor.ticket) as again:
                    page = (await again.get("/page")).json()
                    assert page == {"user": f"user-{number}", "count": counted}
            assert "Traceback" not in server.log
    finally:
        for visitor in visitors:
            await visitor.__aexit__(None, None, None)
        for server in servers:
            server.stop()


async def count_on(servers: Sequence[WebServer], visitors: Sequence[Browser]) -> None:
    """Each visitor makes a request to one of the servers."""
    for at in range(0, len(visitors), 20):
        several = visitors[at : at + 20]
        cookies = [{"cookie": f"{visitor.cookie}={visitor.ticket}"} for visitor in several]
        answers = await asyncio.gather(
            *(
                visitor._client.post(f"{servers[n % len(servers)].url}/count", headers=headers)
                for n, (visitor, headers) in enumerate(zip(several, cookies, strict=True))
            )
        )
        assert {answer.status_code for answer in answers} == {200}


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
