"""Several peers of the all-to-all store, each with a store of its own: what one does, the others show."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import zmq
import zmq.asyncio

from coatcheck.changes import Applied, Renewal
from coatcheck.cli import main
from coatcheck.errors import (
    ConfigurationError,
    Conflict,
    OutcomeUnknown,
    SessionGone,
    StoreFull,
    StoreUnavailable,
)
from coatcheck.stores.opening import open_store, open_sync_store
from coatcheck.stores.replicated import ReplicatedStore, SyncReplicatedStore
from coatcheck.stores.replicated.address import Target
from coatcheck.stores.replicated.keys import ClusterKey
from coatcheck.stores.replicated.messages import PROTOCOL, Head, Stage, Tell, encode
from coatcheck.stores.replicated.replica import News
from coatcheck.testing import a_commit, a_record
from tests.servers.processes import LOOPBACK, free_port
from tests.stores.replicas import PATIENT, close_peers, common, in_agreement, open_peers, url_for

Opener: TypeAlias = Callable[..., Awaitable[list[ReplicatedStore]]]
HOUR = 3_600_000


@pytest.fixture
async def peers() -> AsyncIterator[list[ReplicatedStore]]:
    opened = await open_peers(3)
    yield opened
    await close_peers(opened)


@pytest.fixture
async def opened() -> AsyncIterator[list[ReplicatedStore]]:
    """Stores put here are closed when the test is over."""
    stores: list[ReplicatedStore] = []
    yield stores
    await close_peers(stores)


# --- what one answers, all have ----------------------------------------------------------------------------------------


async def test_what_was_answered_is_on_every_server_at_that_moment(peers: list[ReplicatedStore]) -> None:
    new = a_record(fields={"user": '"ann"'}, owner="ann", absolute_ms=HOUR)
    await peers[0].create(new)
    for number in range(60):
        writer = peers[number % 3]
        await writer.update(new.session_id, a_commit(new, increments={"hits": 1}, sets={f"cart[{number}]": "1"}))
        records = [await peer.read(new.session_id) for peer in peers]
        assert records[0] is not None
        assert records[0].fields["hits"] == str(number + 1)
        assert common(records[0]) == common(records[1]) == common(records[2])
    assert [record.session_id for record in await peers[2].sessions_of("ann")] == [new.session_id]
    assert await peers[1].delete(new.session_id)
    assert [await peer.read(new.session_id) for peer in peers] == [None] * 3
    assert not await peers[2].delete(new.session_id)
    assert len({peer.digest for peer in peers}) == 1


async def test_increments_and_entries_from_all_servers_at_once_are_exact(peers: list[ReplicatedStore]) -> None:
    new = a_record(fields={"hits": "5"})
    await peers[0].create(new)
    commits = [
        peers[number % 3].update(
            new.session_id, a_commit(new, increments={"hits": 1, "cart[tea]": 2}, sets={f"cart[{number}]": "1"})
        )
        for number in range(90)
    ]
    await asyncio.gather(*commits)
    for peer in peers:
        record = await peer.read(new.session_id)
        assert record is not None
        assert (record.fields["hits"], record.fields["cart[tea]"], record.version) == ("95", "180", 91)
        assert sum(name.startswith("cart[") for name in record.fields) == 91


async def test_of_many_that_require_the_session_unchanged_on_all_servers_one_succeeds(
    peers: list[ReplicatedStore],
) -> None:
    new = a_record()
    await peers[0].create(new)
    for version in range(1, 15):
        commits = [a_commit(new, unchanged=True, read_version=version, sets={"won": str(n)}) for n in range(6)]
        answers = await asyncio.gather(
            *(peers[n % 3].update(new.session_id, commit) for n, commit in enumerate(commits)), return_exceptions=True
        )
        winners = [n for n, answer in enumerate(answers) if isinstance(answer, Applied)]
        assert len(winners) <= 1, answers
        assert sum(isinstance(answer, Conflict) for answer in answers) == 6 - len(winners), answers
        if not winners:  # they stood in each other's way; nobody's change was made
            await peers[0].update(new.session_id, a_commit(new, sets={"won": "0"}))
            winners = [0]
        records = [await peer.read(new.session_id) for peer in peers]
        assert {record and record.fields["won"] for record in records} == {str(winners[0])}
        assert {record and record.version for record in records} == {version + 1}


async def test_a_logout_beside_changes_on_other_servers_is_final_and_whoever_was_acknowledged_came_before(
    peers: list[ReplicatedStore],
) -> None:
    chance = random.Random(5)
    for _ in range(60):
        new = a_record()
        await peers[0].create(new)

        async def later(steps: int, act: Awaitable[object]) -> object:
            for _ in range(steps):
                await asyncio.sleep(0)
            return await act

        hits = [a_commit(new, increments={"hits": 1}) for _ in range(2)]
        acts = [later(chance.randrange(12), peers[n + 1].update(new.session_id, hits[n])) for n in range(2)]
        acts.append(later(chance.randrange(12), peers[0].delete(new.session_id)))
        answers = await asyncio.gather(*acts, return_exceptions=True)
        assert answers[2] is True
        assert all(isinstance(answer, (Applied, SessionGone)) for answer in answers[:2]), answers
        assert [await peer.read(new.session_id) for peer in peers] == [None] * 3


async def test_a_login_beside_changes_on_other_servers_ends_the_old_secret_and_loses_nothing_acknowledged(
    peers: list[ReplicatedStore],
) -> None:
    chance = random.Random(6)
    for number in range(60):
        new = a_record(fields={"cart[tea]": "1"})
        await peers[0].create(new)
        login = a_commit(
            new, retain=("cart",), renewal=Renewal(secret_hash=f"{number:044}"), owner="ann", read_version=1
        )

        async def later(steps: int, act: Awaitable[Applied]) -> Applied:
            for _ in range(steps):
                await asyncio.sleep(0)
            return await act

        adding = [a_commit(new, increments={"cart[tea]": 1}, sets={"planted": "1"}) for _ in range(2)]
        acts = [later(chance.randrange(12), peers[n + 1].update(new.session_id, adding[n])) for n in range(2)]
        acts.append(later(chance.randrange(12), peers[0].update(new.session_id, login)))
        *answers, renewed = await asyncio.gather(*acts, return_exceptions=True)
        assert isinstance(renewed, Applied)
        assert renewed.renewed
        added = sum(isinstance(answer, Applied) for answer in answers)
        assert added == 2 - sum(isinstance(answer, SessionGone) for answer in answers), answers
        for peer in peers:
            record = await peer.read(new.session_id)
            assert record is not None
            assert (record.fields, record.secret_hash) == ({"cart[tea]": str(1 + added)}, f"{number:044}")


async def test_of_periodic_renewals_on_all_servers_at_once_one_takes_place(peers: list[ReplicatedStore]) -> None:
    for turn in range(20):
        new = a_record()
        await peers[0].create(new)
        renewals = [Renewal(secret_hash=f"{turn}-{n:040}", grace_ms=HOUR, replaces=new.secret_hash) for n in range(3)]
        answers = await asyncio.gather(
            *(
                peer.update(new.session_id, a_commit(new, renewal=each))
                for peer, each in zip(peers, renewals, strict=True)
            )
        )
        took = [each.secret_hash for each, answer in zip(renewals, answers, strict=True) if answer.renewed]
        records = [await peer.read(new.session_id) for peer in peers]
        assert took == [records[0] and records[0].secret_hash]
        assert len({record and record.secret_hash for record in records}) == 1


# --- joining -----------------------------------------------------------------------------------------------------------


async def test_who_joins_has_everything_before_it_serves(opened: list[ReplicatedStore]) -> None:
    sessions = [a_record(fields={"n": str(number), "text": '"' + "x" * 300 + '"'}) for number in range(3000)]
    fleet = await open_peers(2)
    opened += fleet
    for new in sessions:
        await fleet[0].create(new)
    await fleet[1].delete(sessions[0].session_id)
    await fleet[1].close()
    joiner = ReplicatedStore(fleet[0]._target)
    opened.append(joiner)
    assert await joiner.ready(timeout=30)
    assert joiner.digest == fleet[0].digest
    assert await joiner.read(sessions[0].session_id) is None
    for new in sessions[1:]:
        record = await joiner.read(new.session_id)
        assert record is not None
        assert record.fields == new.fields


async def test_who_starts_and_finds_too_few_of_the_others_does_not_serve(opened: list[ReplicatedStore]) -> None:
    lonely = ReplicatedStore.from_url(url_for(3, "silence=0.2&timeout=0.3"))
    opened.append(lonely)
    assert not await lonely.ready(timeout=0.8)
    with pytest.raises(StoreUnavailable, match="not ready"):
        await lonely.read("A" * 16)
    with pytest.raises(StoreUnavailable, match="not ready"):
        await lonely.create(a_record())
    assert not lonely.is_ready


async def test_a_call_that_comes_too_early_waits_until_the_store_is_ready(opened: list[ReplicatedStore]) -> None:
    target = ReplicatedStore.from_url(url_for(2))._target
    opened += [ReplicatedStore(target), ReplicatedStore(target)]
    new = a_record()
    created, absent, _ = await asyncio.gather(opened[0].create(new), opened[1].read("A" * 16), opened[1].ready())
    assert (created.version, absent) == (1, None)
    assert await opened[1].read(new.session_id) is not None


async def test_peers_that_are_added_to_the_file_join_and_peers_taken_out_are_let_go(
    opened: list[ReplicatedStore], tmp_path: Path
) -> None:
    ports = [free_port() for _ in range(3)]
    file = tmp_path / "peers"

    def list_peers(*ports: int) -> None:
        file.write_text("# who is there\n" + "".join(f"{LOOPBACK}:{port}\n" for port in ports))

    def another() -> ReplicatedStore:
        opened.append(ReplicatedStore.from_url(f"replicated+file://{file}?reread=0.05&{PATIENT}"))
        return opened[-1]

    list_peers(*ports[:2])
    first, second = another(), another()
    await first.start()  # it is the first of the list, then
    assert all(await asyncio.gather(first.ready(timeout=15), second.ready(timeout=15)))
    new = a_record()
    await first.create(new)
    list_peers(*ports)
    third = another()
    assert await third.ready(timeout=15)
    assert await third.read(new.session_id) is not None
    async with asyncio.timeout(15):
        while first.figures["live"] != 2:
            await asyncio.sleep(0.02)
    list_peers(ports[0], ports[2])
    async with asyncio.timeout(15):
        while (first.figures["live"], third.figures["live"]) != (1, 1):
            await asyncio.sleep(0.02)
    list_peers()  # a file that is just being written
    await asyncio.sleep(0.2)
    assert first.figures["live"] == 1
    list_peers(*ports)  # who comes back is heard again
    async with asyncio.timeout(15):
        while (first.figures["live"], second.figures["live"]) != (2, 2):
            await asyncio.sleep(0.02)
    list_peers(ports[0], ports[2])
    async with asyncio.timeout(15):
        while first.figures["live"] != 1:
            await asyncio.sleep(0.02)
    file.unlink()  # a mishap: the last list that could be read counts
    await asyncio.sleep(0.2)
    assert first.figures["live"] == 1


# --- acknowledgement ---------------------------------------------------------------------------------------------------


async def test_a_peer_that_dies_is_not_waited_for_and_one_that_comes_back_has_all(
    opened: list[ReplicatedStore],
) -> None:
    opened += await open_peers(3, "silence=1&timeout=10")
    new = a_record()
    await opened[0].create(new)
    await opened[1].close()
    for _ in range(20):
        await opened[0].update(new.session_id, a_commit(new, increments={"hits": 1}), timeout=10)
    assert opened[0].figures["live"] == 1
    back = ReplicatedStore(opened[0]._target)
    opened.append(back)
    assert await back.ready(timeout=15)
    record = await back.read(new.session_id)
    assert record is not None
    assert record.fields["hits"] == "20"
    await in_agreement([opened[0], opened[2], back])


async def test_news_that_were_lost_on_the_way_are_noticed_and_made_up_for(
    opened: list[ReplicatedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened += await open_peers(2, "silence=4&timeout=15&compare=3600")
    new = a_record()
    await opened[0].create(new)
    post = opened[0]._post
    assert post is not None
    with monkeypatch.context() as patch:
        patch.setattr(post, "send", lambda address, head, body: True)
        opened[0]._cluster.tell(opened[0]._replica.update(new.session_id, a_commit(new, sets={"n": "1"}))[1])  # type: ignore[union-attr]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await in_agreement(opened)
    record = await opened[1].read(new.session_id)
    assert record is not None
    assert record.fields == {"n": "1"}
    assert opened[1].figures["gaps"] > 0


@pytest.mark.parametrize(("ack", "changes"), [("all", True), ("none", True), ("majority", False)])
async def test_what_the_last_one_of_three_may_do(opened: list[ReplicatedStore], ack: str, changes: bool) -> None:
    opened += await open_peers(3, f"silence=0.5&timeout=10&ack={ack}")
    new = a_record()
    await opened[0].create(new)
    await in_agreement(opened)  # with ack=none the others may not have heard of it yet
    await opened[1].update(new.session_id, a_commit(new, sets={"n": "1"}))
    await in_agreement(opened)
    await asyncio.gather(opened[1].close(), opened[2].close())
    async with asyncio.timeout(15):
        while opened[0].figures["live"]:
            await asyncio.sleep(0.02)
    update = opened[0].update(new.session_id, a_commit(new, sets={"n": "2"}))
    if changes:
        await update
    else:
        with pytest.raises(StoreUnavailable, match="most of its peers") as refused:
            await update
        assert not isinstance(refused.value, OutcomeUnknown)
    record = await opened[0].read(new.session_id)
    assert record is not None
    assert record.fields == {"n": "2" if changes else "1"}


# --- who may take part -------------------------------------------------------------------------------------------------


async def test_servers_with_the_clusters_key_talk_and_others_are_refused_and_counted(
    opened: list[ReplicatedStore], tmp_path: Path
) -> None:
    assert main(["replicated", "keys", str(tmp_path / "cluster.key")]) == 0
    assert main(["replicated", "keys", str(tmp_path / "other.key")]) == 0
    assert main(["replicated", "keys", str(tmp_path / "other.key")]) == 1, "a key is never overwritten"
    assert (tmp_path / "cluster.key").stat().st_mode & 0o077 == 0
    opened += await open_peers(2, f"{PATIENT}&keys={tmp_path}/cluster.key")
    new = a_record(fields={"n": "1"})
    await opened[0].create(new)
    assert await opened[1].read(new.session_id) is not None

    ours = ClusterKey.read(tmp_path / "cluster.key")
    address = opened[0]._cluster.me  # type: ignore[union-attr]
    context = zmq.asyncio.Context()
    strangers = []
    for key in (None, ClusterKey.read(tmp_path / "other.key")):
        stranger = context.socket(zmq.PUSH)
        stranger.set(zmq.LINGER, 0)
        if key is not None:
            stranger.curve_publickey, stranger.curve_secretkey, stranger.curve_serverkey = (
                key.public,
                key.secret,
                ours.public,
            )
        stranger.connect(f"tcp://{address}")
        strangers.append(stranger)
        before = opened[0].figures["refused"]
        async with asyncio.timeout(15):
            while opened[0].figures["refused"] == before:
                await asyncio.sleep(0.02)
    for stranger in strangers:
        stranger.close(0)
    context.term()
    assert opened[0].figures["discarded"] == 0, "nothing that they said got this far"
    assert ours.secret.decode() not in repr(ours) + repr(opened[0]._target)


async def test_what_cannot_be_understood_is_discarded_and_counted(peers: list[ReplicatedStore]) -> None:
    new = a_record(fields={"n": "1"})
    await peers[0].create(new)
    before = peers[0].digest
    cluster = peers[1]._cluster
    assert cluster is not None
    context = zmq.asyncio.Context()
    stranger = context.socket(zmq.PUSH)
    stranger.connect(f"tcp://{cluster.me}")
    chance = random.Random(3)
    good = cluster.peers[peers[0]._cluster.me]  # type: ignore[union-attr]
    sent = 0
    nonsense = [b"", b"\0", b"\0\0", b"\xff\xff", b"\0\1\xc0\xc0", b"\0\1\x9a"]
    head = encode(Head(PROTOCOL, "10.0.0.1:1", "", 0, 0, Stage.SERVING, 1, ("", 0), False, False))
    nested = b"\x94" + encode("tell") + b"\x90\x90" + b"\x91" * 100_000  # more than the interpreter follows
    nonsense.append(len(head).to_bytes(2, "big") + head + nested)
    for frame in nonsense + [os.urandom(chance.randrange(80)) for _ in range(200)]:
        await stranger.send(frame)
        sent += 1
    async with asyncio.timeout(15):
        while peers[1].figures["discarded"] < sent:
            await asyncio.sleep(0.02)
    stranger.close(0)
    context.term()
    assert good.synced
    nobody = Tell([News("", None, 1000)])  # what a peer of another make might say
    peers[0]._cluster._send(peers[0]._cluster.peers[cluster.me], nobody)  # type: ignore[union-attr]
    async with asyncio.timeout(15):
        while peers[1].figures["discarded"] == sent:
            await asyncio.sleep(0.02)
    assert peers[1].digest == before
    assert common(await peers[1].read(new.session_id)) == common(await peers[0].read(new.session_id))


async def until_logged(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    async with asyncio.timeout(15):
        while not all(word in caplog.text for word in words):
            await asyncio.sleep(0.02)


async def test_servers_with_different_keys_say_why_they_do_not_get_together(
    opened: list[ReplicatedStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = url_for(2)
    for name in ("one", "other"):
        ClusterKey.new().write(tmp_path / name)
        opened.append(ReplicatedStore.from_url(f"{url}&keys={tmp_path / name}"))
        await opened[-1].start()
    await until_logged(caplog, *(f"{peer._cluster.me} and this server cannot prove" for peer in opened))  # type: ignore[union-attr]
    assert not await opened[0].ready(timeout=0)


async def test_servers_with_different_settings_are_told_which(
    opened: list[ReplicatedStore], caplog: pytest.LogCaptureFixture
) -> None:
    url = url_for(2)
    opened += [ReplicatedStore.from_url(f"{url}{more}") for more in ("", "&max_message=20000&ack=none")]
    assert all(await asyncio.gather(*(peer.ready(timeout=15) for peer in opened)))
    await until_logged(caplog, "has max_message=20000, and this server 16777216", "has ack=none, and this server all")
    assert "max_sessions" not in caplog.text


async def test_two_processes_with_one_name_are_told_of_and_harm_nobody_else(
    opened: list[ReplicatedStore], caplog: pytest.LogCaptureFixture
) -> None:
    opened += await open_peers(3, "silence=2&timeout=10")
    shared = opened[2]._cluster.me  # type: ignore[union-attr]
    url = f"{opened[0]._target.shown}?silence=2&timeout=10&me={shared}&listen={LOOPBACK}:{free_port()}"
    opened.append(ReplicatedStore.from_url(url))
    await opened[3].start()
    await until_logged(caplog, f"two processes say that they are {shared}")
    assert not opened[3].is_ready
    new = a_record()
    await opened[0].create(new)
    await opened[1].update(new.session_id, a_commit(new, increments={"n": 1}))
    assert common(await opened[0].read(new.session_id)) == common(await opened[1].read(new.session_id))
    await opened.pop().close()
    await in_agreement(opened)


# --- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_full_server_refuses_what_grows_and_still_reads_and_logs_out(opened: list[ReplicatedStore]) -> None:
    opened += await open_peers(2, f"{PATIENT}&max_sessions=3&max_bytes=9500&max_message=24000")
    sessions = [a_record() for _ in range(3)]
    for new in sessions:
        await opened[0].create(new)
    for peer in opened:
        with pytest.raises(StoreFull, match="max_sessions=3"):
            await peer.create(a_record())
    with pytest.raises(
        StoreFull, match=r"max_message=24000: a session of 2 servers may have 8000 bytes.*would have 15\d{3}"
    ):
        await opened[0].update(sessions[0].session_id, a_commit(sessions[0], sets={"x": "1" * 15_000}))
    await opened[0].update(sessions[0].session_id, a_commit(sessions[0], sets={"x": "1" * 5_000}))
    with pytest.raises(StoreFull, match="max_bytes=9500"):
        await opened[1].update(sessions[1].session_id, a_commit(sessions[1], sets={"x": "1"}))
    await opened[1].update(sessions[1].session_id, a_commit(sessions[1], operation=""))
    record = await opened[1].read(sessions[0].session_id)
    assert record is not None
    assert record.fields == {"x": "1" * 5_000}
    assert await opened[1].delete(sessions[0].session_id)
    await opened[0].create(a_record())
    await in_agreement(opened)


async def test_a_message_that_is_too_large_is_not_taken_and_nothing_else_is_missed(
    opened: list[ReplicatedStore],
) -> None:
    opened += await open_peers(2, f"{PATIENT}&max_message=100000")
    context = zmq.asyncio.Context()
    stranger = context.socket(zmq.PUSH)
    monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    stranger.connect(f"tcp://{opened[1]._cluster.me}")  # type: ignore[union-attr]
    await stranger.send(b"x" * 1_000_000)
    shown_the_door = await monitor.poll(15_000)
    stranger.disable_monitor()
    for socket in (monitor, stranger):
        socket.close(0)
    context.term()
    assert shown_the_door
    assert opened[1].figures["bytes_received"] < 100_000
    new = a_record(fields={"n": "1"})
    await opened[0].create(new)
    assert common(await opened[1].read(new.session_id)) == common(await opened[0].read(new.session_id))


async def test_many_sessions_at_once_travel_in_messages_that_are_taken(opened: list[ReplicatedStore]) -> None:
    target = Target.parse(url_for(2, f"{PATIENT}&quorum=1&max_message=20000"))
    opened += [ReplicatedStore(target), ReplicatedStore(target)]
    assert all(await asyncio.gather(*(peer.ready(timeout=30) for peer in opened)))
    for number in range(200):  # in one part of all that is compared, and together larger than a message
        await opened[0].create(a_record(session_id=f"AA{number:014}"))
    await asyncio.gather(*(opened[0].create(a_record()) for _ in range(200)))
    assert opened[1].figures["gaps"] == 0
    await opened[1].close()
    late = ReplicatedStore(target)
    opened.append(late)
    assert await late.ready(timeout=15)
    assert late.digest == opened[0].digest


async def test_who_takes_nothing_in_makes_commits_wait_and_is_then_gone_without_it(
    opened: list[ReplicatedStore],
) -> None:
    opened += await open_peers(2, f"{PATIENT}&max_queue=40000&ack=none")
    new = a_record()
    await opened[0].create(new)
    await in_agreement(opened)
    frozen = opened[1]._post
    assert frozen is not None
    received = frozen._received
    frozen._received = lambda head, body: None  # it takes messages from the network, and forgets them
    refused = 0
    for number in range(60):
        commit = a_commit(new, sets={f"x{number % 9}": '"' + "x" * 1000 + '"'})
        try:
            await opened[0].update(new.session_id, commit, timeout=0.02)
        except StoreUnavailable as busy:
            refused += "does not keep up" in str(busy)
    assert refused > 10
    peer = next(iter(opened[0]._cluster.peers.values()))  # type: ignore[union-attr]
    assert peer.in_flight < 40_000
    frozen._received = received  # it takes notice again, so that nobody has to wait for it in order to leave


async def test_what_several_servers_added_to_one_session_while_they_were_apart_still_fits_into_a_message(
    opened: list[ReplicatedStore],
) -> None:
    """Or nobody could take the session over any more, and no server start."""
    opened += await open_peers(3, f"{PATIENT}&max_message=40000&compare=0.2")
    new = a_record()
    await opened[0].create(new)
    for number, peer in enumerate(opened):  # nobody hears of it yet

        def fill(peer: ReplicatedStore = peer, number: int = number) -> None:
            for more in range(1000):
                peer._replica.update(new.session_id, a_commit(new, sets={f"n{number}-{more}": "1" * 1_000}))

        with pytest.raises(StoreFull, match="max_message=40000"):
            fill()
    await in_agreement(opened)
    await opened[2].close()
    opened[2] = ReplicatedStore(opened[0]._target)
    assert await opened[2].ready(timeout=15)
    record = await opened[2].read(new.session_id)
    assert record is not None
    assert {name.partition("-")[0] for name in record.fields} == {"n0", "n1", "n2"}
    assert 24 <= len(record.fields) <= 30


# --- set up wrongly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("replicated://", "not a list of host:port"),
        ("replicated://host", "a peer is host:port"),
        ("replicated://10.0.0.1:7946,10.0.0.1:7946?plaintext=yes", "listed twice"),
        ("replicated://10.0.0.1:7946-7949,10.0.0.1:7948?plaintext=yes", "listed twice"),
        ("replicated://10.0.0.1:7949-7946", "a peer is host:port"),
        ("replicated://10.0.0.1:0", "a peer is host:port"),
        ("replicated://10.0.0.1:70000", "a peer is host:port"),
        ("replicated://10.0.0.1:7946,127.0.0.1:7946", "coatcheck replicated keys"),
        ("replicated://shop.example:7946", "plaintext=yes"),
        ("replicated://127.0.0.1:7946?keys=/nowhere/cluster.key", "cannot be read"),
        ("replicated://127.0.0.1:7946?ack=some", "ack='some'"),
        ("replicated://127.0.0.1:7946?preset=moon", "preset='moon'"),
        ("replicated://127.0.0.1:7946?silence=-1", "silence='-1'"),
        ("replicated://127.0.0.1:7946?silence=nan", "silence='nan'"),
        ("replicated://127.0.0.1:7946-7947?quorum=3", "only 2 peers are listed"),
        ("replicated://127.0.0.1:7946?max_sessions=0", "max_sessions='0'"),
        ("replicated://127.0.0.1:7946?max_bytes=1e6", "max_bytes='1e6'"),
        ("replicated://127.0.0.1:7946?speed=high", "unknown option 'speed'"),
        ("replicated://user:hunter2@127.0.0.1:7946", "not a list of host:port"),
        ("replicated+dns://a:1,b:1", "one name"),
        ("replicated+file://relative/path", "path is missing"),
        ("replicated+file://", "path is missing"),
    ],
)
def test_a_url_that_cannot_work_is_refused_in_words(url: str, says: str) -> None:
    for opener in (open_store, open_sync_store):
        with pytest.raises(ConfigurationError) as refused:
            opener(url)
        assert says in str(refused.value)
        assert "hunter2" not in str(refused.value)


def test_a_preset_changes_defaults_and_nothing_that_is_said() -> None:
    usual = Target.parse("replicated://127.0.0.1:7946")
    assert Target.parse("replicated://127.0.0.1:7946?preset=lan") == usual
    far = Target.parse("replicated://127.0.0.1:7946?preset=wan&remember=60")
    assert (far.silence, far.timeout, far.remember, far.ack) == (10, 15, 60, "all")
    near = Target.parse("replicated://127.0.0.1:7946?preset=local")
    assert near.silence < usual.silence < far.silence
    assert near.max_sessions == usual.max_sessions == far.max_sessions


def test_it_opens_by_url() -> None:
    assert isinstance(open_store("replicated://127.0.0.1:7946"), ReplicatedStore)
    assert isinstance(open_sync_store("replicated://127.0.0.1:7946-7949,localhost:7950"), SyncReplicatedStore)
    assert isinstance(open_store("replicated+dns://peers.example:7946?plaintext=yes"), ReplicatedStore)


async def test_whoever_is_none_of_the_peers_is_told_at_the_start(opened: list[ReplicatedStore]) -> None:
    for url, says in [
        (f"replicated://192.0.2.1:{free_port()}?plaintext=yes", "none of the peers"),
        ("replicated://127.0.0.1:7946,localhost:7946", "are the same peer"),
        (f"replicated://127.0.0.1:{free_port()}?me=127.0.0.1:{free_port()}", "none of the peers"),
        (f"replicated://127.0.0.1:{free_port()}?listen=192.0.2.1:{free_port()}", "listen='192.0.2.1"),
        (f"replicated://127.0.0.1:{free_port()}?listen=127.0.0.1:{free_port()}", "is not among them"),
    ]:
        store = ReplicatedStore.from_url(url)
        opened.append(store)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=says):
                await store.start()


async def test_all_ports_taken_is_told_too(opened: list[ReplicatedStore]) -> None:
    opened += await open_peers(2)
    third = ReplicatedStore(opened[0]._target)
    opened.append(third)
    with pytest.raises(ConfigurationError, match="free port for each process"):
        await third.start()


async def test_a_closed_store_says_so() -> None:
    store = ReplicatedStore.from_url(url_for(1))
    assert await store.ready(timeout=5)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("A" * 16)


@pytest.mark.parametrize("ack", ["all", "majority", "none"])
async def test_what_was_acknowledged_before_or_while_its_server_was_closed_is_held_by_the_others(ack: str) -> None:
    leaving, staying = await open_peers(2, f"{PATIENT}&ack={ack}")
    new = a_record()
    await leaving.create(new)
    commits = [
        asyncio.create_task(leaving.update(new.session_id, a_commit(new, increments={"hits": 1}), timeout=5))
        for _ in range(20)
    ]
    await asyncio.sleep(0)
    await leaving.close()
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    acknowledged = sum(isinstance(outcome, Applied) for outcome in outcomes)
    record = await staying.read(new.session_id)
    await staying.close()
    assert acknowledged == 20, outcomes
    assert record is not None
    assert record.fields["hits"] == "20"


async def test_who_leaves_a_peer_that_hangs_says_that_the_commit_is_unknown() -> None:
    leaving, hanging = await open_peers(2, "silence=0.5&timeout=5")
    new = a_record()
    await leaving.create(new)
    hanging._post._loop.remove_reader(hanging._post._inbox.FD)  # type: ignore[union-attr]
    hanging._timer.cancel()  # type: ignore[union-attr]
    commit = asyncio.create_task(leaving.update(new.session_id, a_commit(new, increments={"hits": 1}), timeout=5))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):  # its server is in a hurry
        await asyncio.wait_for(leaving.close(), 0.05)
    await asyncio.gather(commit, return_exceptions=True)
    await close_peers([leaving, hanging])
    with pytest.raises(OutcomeUnknown):
        commit.result()


async def test_whoever_waits_for_a_store_that_is_closed_is_told() -> None:
    store = ReplicatedStore.from_url(url_for(2))
    ready, call = asyncio.create_task(store.ready()), asyncio.create_task(store.sessions_of("ann"))
    await asyncio.sleep(0.1)
    await store.close()
    async with asyncio.timeout(15):
        assert not await ready
        with pytest.raises(StoreUnavailable, match="closed"):
            await call


async def test_a_list_of_sessions_waits_for_the_others_no_longer_than_its_caller() -> None:
    store, threaded = ReplicatedStore.from_url(url_for(2)), SyncReplicatedStore.from_url(url_for(2))
    async with asyncio.timeout(4):  # by themselves they would wait for 5 s
        with pytest.raises(StoreUnavailable):
            await store.sessions_of("ann", timeout=0.1)
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(threaded.sessions_of, "ann", timeout=0.1)
    await store.close()
    await asyncio.to_thread(threaded.close)


def test_a_thread_that_waits_for_a_store_that_is_closed_is_told() -> None:
    store = SyncReplicatedStore.from_url(url_for(2))
    answers: list[bool] = []
    waits = threading.Thread(target=lambda: answers.append(store.ready()), daemon=True)
    waits.start()
    time.sleep(0.2)
    store.close()
    waits.join(15)
    assert answers == [False]


def test_a_store_whose_event_loop_ended_before_it_was_closed_says_so_and_holds_nobody_up() -> None:
    program = f"""
import asyncio, gc
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.replicated import ReplicatedStore
store = ReplicatedStore.from_url({url_for(1)!r})
assert asyncio.run(store.ready(timeout=15))
try:
    asyncio.run(store.delete("A" * 16))
except StoreUnavailable as told:
    print(told)
del store
gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert "its event loop has ended" in done.stdout, done.stderr


def test_a_forked_or_closed_store_of_threads_begins_anew_or_says_so() -> None:
    store = SyncReplicatedStore.from_url(url_for(2) + "&quorum=1&silence=0.2")
    assert store.ready(timeout=15)
    new = a_record()
    store.create(new)
    child = os.fork()
    if child == 0:  # a peer of its own, which finds the parent
        try:
            alright = store.ready(timeout=10) and store.read(new.session_id) is not None
            store.close()
        except BaseException:
            alright = False
        os._exit(0 if alright else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read(new.session_id) is not None
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.create(a_record())
