"""The wire: one connection for everybody, and what becomes of those who wait when it is slow, gone or full."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from coatcheck.errors import ForeignReply
from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.commands import Command
from coatcheck.stores.redis.transport import ExchangeFailed
from coatcheck.stores.redis.wire import Wire
from coatcheck.stores.redis.wires import Wires
from tests.servers.clock import fair_time
from tests.servers.processes import eventually
from tests.servers.proxy import Proxy
from tests.servers.resp import arguments, take_messages
from tests.servers.valkey import Valkey


def whole(replies: list[Any]) -> list[Any]:
    return replies


async def echo(wire: Wire | Wires, word: str, *, timeout: float | None = None) -> str:
    [reply] = await wire.exchange([("ECHO", word)], whole, timeout=timeout)
    return str(reply)


@pytest.fixture
async def wire(own_valkey: Valkey) -> AsyncIterator[Wire]:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=1.0)
    yield wire
    await wire.close()


def clients(server: Valkey) -> int:
    """Connections of ours that the server sees."""
    return sum(b"name=coatcheck" in line for line in server("CLIENT", "LIST").splitlines())


async def test_a_thousand_requests_share_one_connection_and_each_gets_its_own_answer(
    wire: Wire, own_valkey: Valkey
) -> None:
    words = [f"word-{number}" for number in range(1000)]
    assert await asyncio.gather(*(echo(wire, word) for word in words)) == words
    assert clients(own_valkey) == 1


async def test_whoever_is_cancelled_keeps_their_place_in_the_line(wire: Wire) -> None:
    assert await echo(wire, "before") == "before"
    tasks = [asyncio.ensure_future(echo(wire, f"word-{number}")) for number in range(300)]
    await asyncio.sleep(0)  # now all have sent, and none has been answered
    for task in tasks[::3]:
        task.cancel()
    for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
        assert outcome == f"word-{number}" or isinstance(outcome, asyncio.CancelledError)
    assert await echo(wire, "after") == "after"


@pytest.mark.alone
async def test_a_frozen_server_costs_the_time_limit_and_then_nothing_until_it_is_back(
    wire: Wire, own_valkey: Valkey
) -> None:
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    try:
        began = fair_time()
        with pytest.raises(ExchangeFailed) as slow:
            await echo(wire, "lost", timeout=0.2)
        assert fair_time() - began < 0.8
        assert slow.value.sent
        assert not slow.value.worth_repeating

        async def known_to_be_down() -> bool:
            began = fair_time()
            try:
                await echo(wire, "lost", timeout=0.2)
            except ExchangeFailed as failed:
                return not failed.sent and fair_time() - began < 0.05
            return False

        for _ in range(100):
            if await known_to_be_down():
                break
        else:
            pytest.fail("every request goes on waiting for a server that does not answer")
    finally:
        own_valkey.thaw()
    for _ in range(100):  # the process recovers by itself
        try:
            assert await echo(wire, "after") == "after"
            return
        except ExchangeFailed:
            await asyncio.sleep(0.05)
    pytest.fail("the wire did not find back to its server")


async def test_a_killed_server_is_told_from_a_slow_one_and_found_again(wire: Wire, own_valkey: Valkey) -> None:
    assert await echo(wire, "before") == "before"
    own_valkey.kill()
    await eventually(lambda: wire._connection is None, "the loss to be noticed")
    with pytest.raises(ExchangeFailed) as down:
        await echo(wire, "lost")
    assert not down.value.sent
    own_valkey.restart()
    for _ in range(100):
        try:
            assert await echo(wire, "after") == "after"
            return
        except ExchangeFailed:
            await asyncio.sleep(0.05)
    pytest.fail("the wire did not find back to its server")


async def test_while_the_server_is_down_it_is_left_in_peace() -> None:
    attempts = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        wire = Wire(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), timeout=0.2)
        failures = 0
        began = monotonic()
        while monotonic() - began < 1.0:
            with pytest.raises(ExchangeFailed):
                await echo(wire, "lost")
            failures += 1
            await asyncio.sleep(0.001)
        assert failures > 100
        assert 2 <= attempts <= 12  # pauses of 50 ms, doubling up to a second
        await wire.close()


async def test_a_full_line_makes_others_wait_their_turn_and_not_for_ever(own_valkey: Valkey) -> None:
    async with Proxy(own_valkey.port, latency=0.01) as proxy:
        wire = Wire(Address(host="127.0.0.1", port=proxy.port), timeout=2.0, most=4)
        words = [f"word-{number}" for number in range(60)]
        assert await asyncio.gather(*(echo(wire, word) for word in words)) == words

        own_valkey.freeze()
        try:
            waiting = [asyncio.ensure_future(echo(wire, word, timeout=0.3)) for word in words]
            outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2)
        finally:
            own_valkey.thaw()
        assert all(isinstance(outcome, ExchangeFailed) for outcome in outcomes)
        assert sum(isinstance(outcome, ExchangeFailed) and outcome.sent for outcome in outcomes) <= 4
        await wire.close()


async def test_a_turn_that_comes_to_somebody_who_has_gone_is_passed_on(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=2.0, most=1)
    for _ in range(50):
        tasks = [asyncio.ensure_future(echo(wire, str(number), timeout=1.0)) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            asyncio.get_running_loop().call_soon(task.cancel)
        kept = await asyncio.gather(*tasks[::2])
        assert kept == [str(number) for number in range(0, 20, 2)]
        await asyncio.gather(*tasks[1::2], return_exceptions=True)
    await wire.close()


async def test_a_wrong_password_is_reported_and_not_shown(own_valkey: Valkey) -> None:
    own_valkey("CONFIG", "SET", "requirepass", "right")
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port, password="wr0ng-s3cret"), timeout=1.0)
    with pytest.raises(ExchangeFailed, match="does not let us in") as refused:
        await echo(wire, "lost")
    assert "wr0ng-s3cret" not in f"{refused.value} {wire.address!r}"
    await wire.close()


async def test_an_answer_for_somebody_else_drops_the_connection(wire: Wire, own_valkey: Valkey) -> None:
    def not_mine(_: list[Any]) -> None:
        raise ForeignReply("here", "id", "a test")

    assert await echo(wire, "before") == "before"
    commands: list[Command] = [("ECHO", "x")]
    with pytest.raises(ForeignReply):
        await wire.exchange(commands, not_mine)
    await eventually(lambda: clients(own_valkey) == 0, "the connection to be dropped")
    assert await echo(wire, "after") == "after"


def test_whoever_is_interrupted_while_reading_replies_leaves_nobody_waiting(own_valkey: Valkey) -> None:
    """Ctrl-C for the second time, say, when all tasks are cancelled before the process ends."""

    async def connect() -> Wire:
        wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=5.0)
        assert await echo(wire, "before") == "before"
        return wire

    def interrupt(_: list[Any]) -> None:
        raise KeyboardInterrupt

    async def interrupted(wire: Wire) -> None:
        await wire.exchange([("ECHO", "x")], interrupt)

    async def end(tasks: list[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        for task in tasks:
            task.cancel()
        return (await asyncio.wait(tasks, timeout=1))[0]

    loop = asyncio.new_event_loop()
    wire = loop.run_until_complete(connect())
    tasks = [loop.create_task(each) for each in (echo(wire, "1"), interrupted(wire), echo(wire, "2"))]
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.wait(tasks))
    assert loop.run_until_complete(end(tasks)) == set(tasks)
    assert loop.run_until_complete(echo(wire, "after")) == "after"
    loop.run_until_complete(wire.close())
    loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_handler_that_ends_the_process_ends_it_on_every_loop(own_valkey: Valkey, kind: str) -> None:
    """And takes nobody's answer or connection along."""

    async def connect() -> Wire:
        wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=5.0)
        assert await echo(wire, "before") == "before"
        return wire

    async def leave(wire: Wire) -> None:
        raise SystemExit(await echo(wire, "7"))

    loop = pytest.importorskip(kind).new_event_loop()
    wire = loop.run_until_complete(connect())
    tasks = [loop.create_task(each) for each in (echo(wire, "a"), leave(wire), echo(wire, "b"))]
    try:
        with pytest.raises(SystemExit, match="7"):
            loop.run_until_complete(asyncio.sleep(1))
        loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        assert [tasks[0].result(), tasks[2].result()] == ["a", "b"]
        assert not wire._connection.lost
    finally:
        loop.run_until_complete(wire.close())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


async def test_a_quiet_connection_is_asked_for_a_sign_of_life(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=0.2, heartbeat=0.1)
    assert await echo(wire, "before") == "before"
    assert clients(own_valkey) == 1
    own_valkey.freeze()
    await asyncio.sleep(0.7)
    own_valkey.thaw()
    # Nobody asked for anything, and yet the dead connection was noticed and given up.
    await eventually(lambda: clients(own_valkey) == 0, "the dead connection to be given up")
    await wire.close()


def test_each_event_loop_has_a_connection_of_its_own(own_valkey: Valkey) -> None:
    wires = Wires(Address(host="127.0.0.1", port=own_valkey.port), timeout=1.0)

    async def say(word: str) -> tuple[str, int]:
        said = await echo(wires, word), clients(own_valkey)
        await wires.close()
        return said

    assert asyncio.run(say("one")) == ("one", 1)
    assert asyncio.run(say("two")) == ("two", 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_a_connection_of_its_own(own_valkey: Valkey) -> None:
    wires = Wires(Address(host="127.0.0.1", port=own_valkey.port), timeout=1.0)

    async def main() -> None:
        assert await echo(wires, "parent") == "parent"
        child = os.fork()
        if child == 0:
            # The child runs a loop of its own on the same store, while the parent's connection stays the parent's.
            status = 1
            try:
                asyncio.events._set_running_loop(None)
                status = 0 if asyncio.new_event_loop().run_until_complete(echo(wires, "child")) == "child" else 2
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await asyncio.gather(*(echo(wires, str(number)) for number in range(50))) == [str(n) for n in range(50)]
        await wires.close()

    asyncio.run(main())


async def test_closing_ends_whoever_waits_and_leaves_nothing_behind(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=1.0)
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    try:
        waiting = asyncio.ensure_future(echo(wire, "lost"))
        await asyncio.sleep(0.01)
        await wire.close()
        with pytest.raises(ExchangeFailed):
            await waiting
    finally:
        own_valkey.thaw()
    await eventually(lambda: clients(own_valkey) == 0, "the connection to be closed")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_event_loop_that_was_busy_does_not_make_the_server_slow(wire: Wire) -> None:
    assert await echo(wire, "before") == "before"
    for pause in (0.3, 1.3):  # longer than the time limit; longer than silence is taken for death
        waiting = [asyncio.ensure_future(echo(wire, f"word-{number}", timeout=0.2)) for number in range(20)]
        await asyncio.sleep(0)
        time.sleep(pause)  # a handler that hashes a password
        assert await asyncio.gather(*waiting) == [f"word-{number}" for number in range(20)]


async def test_a_crowd_at_the_start_is_served(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=8.0, most=64)
    words = [f"word-{number}" for number in range(8000)]
    assert await asyncio.gather(*(echo(wire, word) for word in words)) == words
    assert clients(own_valkey) == 1
    await wire.close()


async def test_who_waits_while_the_wire_is_closed_is_told_and_connects_no_more(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=2.0, most=1)
    waiting = [asyncio.ensure_future(echo(wire, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await wire.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, ExchangeFailed) for outcome in outcomes)
    with pytest.raises(ExchangeFailed, match="closed"):
        await echo(wire, "late")
    await eventually(lambda: clients(own_valkey) == 0, "the connection to be closed")


async def test_a_server_that_greets_and_hangs_up_is_left_in_peace_too() -> None:
    greetings = 0

    async def greet_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greetings
        await reader.read(1000)
        writer.write(b"%0\r\n" + 5 * b"+OK\r\n")
        greetings += 1
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(greet_and_hang_up, "127.0.0.1", 0)
    async with server:
        wire = Wire(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), timeout=0.2)
        began = monotonic()
        while monotonic() - began < 1.0:
            with pytest.raises(ExchangeFailed):
                await echo(wire, "lost")
            await asyncio.sleep(0.001)
        assert 2 <= greetings <= 12
        await wire.close()


async def test_no_words_of_the_server_that_may_quote_the_password() -> None:
    words = b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'wr0ng-s3cret'\r\n"

    async def quote(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(words * 6)
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(quote, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        wire = Wire(Address(host="127.0.0.1", port=port, password="wr0ng-s3cret"), timeout=0.5)
        with pytest.raises(ExchangeFailed, match="Redis 6") as refused:
            await echo(wire, "lost")
        assert "wr0ng-s3cret" not in str(refused.value)
        await wire.close()


@pytest.mark.alone
async def test_a_longer_time_limit_of_a_request_does_not_make_a_server_that_says_nothing_dearer(
    own_valkey: Valkey,
) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=0.2)
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    try:
        for problem in ("no sign of life", "no connection within 0.2 s|no answer in time|no sign of life"):
            began = fair_time()
            with pytest.raises(ExchangeFailed, match=problem) as failed:
                await echo(wire, "lost", timeout=5)
            assert failed.value.slow or "no connection" in problem
            assert fair_time() - began < 1
            await asyncio.sleep(0.1)  # until it is tried again
    finally:
        own_valkey.thaw()
    await wire.close()


@pytest.mark.parametrize("heartbeat", [0.05, 10.0])
@pytest.mark.parametrize("usual", [0.2, 200.0])
async def test_a_request_has_its_own_time_limit_whatever_the_usual_one(
    own_valkey: Valkey, usual: float, heartbeat: float
) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=usual, heartbeat=heartbeat)
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    try:
        waiting = []
        for _ in range(60):  # steady traffic must not put off the looks at the clock
            waiting.append(asyncio.ensure_future(echo(wire, "lost", timeout=0.2)))
            await asyncio.sleep(0.01)
        assert any(task.done() for task in waiting)
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2)
        assert all(isinstance(outcome, ExchangeFailed) for outcome in outcomes)
    finally:
        own_valkey.thaw()
    await wire.close()


@pytest.mark.alone
async def test_a_request_ends_when_its_time_is_over_and_not_at_some_look_at_the_clock(
    wire: Wire, own_valkey: Valkey
) -> None:
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    late = []
    try:
        for limit in (0.26, 0.13, 0.07, 0.01, 0.26):
            began, fairly = monotonic(), fair_time()
            with pytest.raises(ExchangeFailed, match="no answer in time"):
                await echo(wire, "lost", timeout=limit)
            late.append(fair_time() - fairly - limit)
            assert monotonic() - began >= limit
    finally:
        own_valkey.thaw()
    assert sorted(late)[2] < 0.035, late  # the median: others may have kept the processor from one of them


# --- a server, or a way to it, that stops in the middle ------------------------------------------------------------------


@asynccontextmanager
async def falls_silent(after: bytes) -> AsyncIterator[tuple[Wire, list[int]]]:
    """A server that greets, answers the first that is asked with `after`, and is never heard again on that connection.

    On any further connection it echoes what it is asked. Gives a wire to it, and the number of its connections.
    """
    connections = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        first = connections[0] == 1
        await reader.read(1000)
        writer.write(b"%0\r\n" + 5 * b"+OK\r\n")
        if first:
            await asyncio.sleep(0.05)  # until all have asked
            writer.write(after)
            await over.wait()
        else:
            while data := await reader.read(1000):
                for message in take_messages(bytearray(data)):
                    writer.write(b"+%b\r\n" % arguments(message)[-1])
        writer.close()
        ended.release()

    over, ended = asyncio.Event(), asyncio.Semaphore(0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        wire = Wire(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), timeout=0.3)
        yield wire, connections
        await wire.close()
        over.set()
        for _ in range(connections[0]):
            await ended.acquire()


async def test_a_server_that_never_ends_its_answer_is_left() -> None:
    """Each byte is a sign of life, but nobody behind that answer would ever get one."""
    connections = 0
    ended = asyncio.Semaphore(0)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1000)
        writer.write(b"%0\r\n" + 5 * b"+OK\r\n")
        with suppress(ConnectionError):
            if connections == 1:
                writer.write(b"$100000\r\n")
                while not writer.is_closing():
                    writer.write(b".")
                    await writer.drain()
                    await asyncio.sleep(0.02)
            while data := await reader.read(1000):
                for message in take_messages(bytearray(data)):
                    writer.write(b"+%b\r\n" % arguments(message)[-1])
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        wire = Wire(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), timeout=0.2)

        async def served() -> bool:
            with suppress(ExchangeFailed):
                return await echo(wire, "word") == "word"
            return False

        for _ in range(100):
            if await served():
                break
            await asyncio.sleep(0.05)
        assert connections == 2
        await wire.close()
        for _ in range(connections):
            await ended.acquire()


@pytest.mark.parametrize("after", [b"$5\r\nhal", b"+one\r\n"], ids=["within a reply", "after the first of two"])
async def test_a_connection_that_dies_in_the_middle_is_given_up_for_a_new_one(after: bytes) -> None:
    async with falls_silent(after) as (wire, connections):
        await asyncio.gather(*(echo(wire, word, timeout=0.2) for word in ("one", "two")), return_exceptions=True)

        async def served() -> bool:
            with suppress(ExchangeFailed):
                return await echo(wire, "three", timeout=0.2) == "three"
            return False

        async with asyncio.timeout(10):
            while not await served():
                await asyncio.sleep(0.02)
        assert connections == [2]


async def test_a_server_that_hangs_up_during_the_handshake_of_tls_is_down_and_says_so() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls=ssl.create_default_context())
        wire = Wire(address, timeout=5.0)
        with pytest.raises(ExchangeFailed) as failed:
            await echo(wire, "lost")
        assert "ConnectionResetError" in str(failed.value) or "SSL" in str(failed.value) or "EOF" in str(failed.value)
        assert (failed.value.sent, failed.value.slow) == (False, False)
        await wire.close()


async def test_while_somebody_looks_whether_a_server_that_hangs_is_back_nobody_waits_with_him(
    wire: Wire, own_valkey: Valkey
) -> None:
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    try:

        async def ask() -> ExchangeFailed:
            with pytest.raises(ExchangeFailed) as failed:
                await echo(wire, "lost", timeout=0.2)
            return failed.value

        async with asyncio.timeout(20):
            while (await ask()).sent or wire._connecting is None:  # until one looks
                await asyncio.sleep(0.005)
        assert "being tried again" in str(await ask())
    finally:
        own_valkey.thaw()


def test_loops_that_end_while_requests_wait_leave_no_socket(own_valkey: Valkey) -> None:
    wires = Wires(Address(host="127.0.0.1", port=own_valkey.port), timeout=5.0)

    async def job() -> None:
        with pytest.raises(ExchangeFailed):
            await wires.exchange([("BLPOP", "nothing", "60")], whole, timeout=0.05)

    def sockets() -> int:
        gc.collect()
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a loop that ends leaves its transports to the collector
        asyncio.run(job())
        before = sockets()
        for _ in range(10):
            asyncio.run(job())
        assert sockets() <= before + 1

        async def end() -> None:
            await echo(wires, "after")
            await wires.close()

        asyncio.run(end())
        gc.collect()


@pytest.mark.alone
@pytest.mark.parametrize("stage", ["greeting", "tls"])
async def test_connecting_has_the_same_time_limit(stage: str) -> None:
    """A server that takes connections and says nothing. `test_resolver` has the same for names."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        tls = ssl.create_default_context() if stage == "tls" else None
        wire = Wire(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls=tls), timeout=5.0)
        began, fairly = monotonic(), fair_time()
        with pytest.raises(ExchangeFailed, match="no connection in time") as failed:
            await echo(wire, "lost", timeout=0.2)
        assert monotonic() - began >= 0.2
        assert fair_time() - fairly < 0.5
        assert (failed.value.sent, failed.value.slow) == (False, True)
        await wire.close()


async def test_what_the_socket_does_not_take_is_kept_and_known_not_to_be_sent(own_valkey: Valkey) -> None:
    wire = Wire(Address(host="127.0.0.1", port=own_valkey.port), timeout=20)
    assert await echo(wire, "before") == "before"
    own_valkey.freeze()
    waves = []
    for _ in range(60):
        waves.append([asyncio.ensure_future(echo(wire, "x" * 100_000)) for _ in range(10)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    connection = wire._connection
    assert connection is not None
    assert connection._socket is not None
    assert connection._socket.get_write_buffer_size() <= 11 * 100_000, (
        "no more than what was under way when it was full"
    )
    own_valkey.thaw()
    for wave in waves:
        assert await asyncio.gather(*wave) == 10 * ["x" * 100_000]
    own_valkey.freeze()
    waves = []
    for _ in range(60):
        waves.append([asyncio.ensure_future(echo(wire, "x" * 100_000)) for _ in range(10)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    own_valkey.kill()
    outcomes: list[Any] = await asyncio.gather(*(task for wave in waves for task in wave), return_exceptions=True)
    assert all(isinstance(outcome, ExchangeFailed) for outcome in outcomes)
    assert [outcome.sent for outcome in outcomes[:10]] == 10 * [True]
    assert [outcome.sent for outcome in outcomes[-10:]] == 10 * [False]
    await wire.close()


async def test_the_server_is_told_whose_connection_it_is(wire: Wire, own_valkey: Valkey) -> None:
    assert await echo(wire, "before") == "before"
    [line] = [line for line in own_valkey("CLIENT", "LIST").splitlines() if b"cmd=echo" in line]
    assert b" name=coatcheck " in line
    assert b" resp=3 " in line
    assert b" lib-name=coatcheck lib-ver=" in line
