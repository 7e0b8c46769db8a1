"""The blocking wire: a few connections for many threads, and what becomes of those who wait when it is slow, gone or full."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from coatcheck.errors import ForeignReply
from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.blocking_wire import BlockingWire
from coatcheck.stores.redis.transport import ExchangeFailed, whole
from tests.servers.clock import fair_time
from tests.servers.haproxy import TLS
from tests.servers.processes import wait_until
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey

GREETING = b"%0\r\n" + 5 * b"+OK\r\n"


def echo(wire: BlockingWire, word: str, *, timeout: float | None = None) -> str:
    [reply] = wire.exchange([("ECHO", word)], whole, timeout=timeout)
    return str(reply)


@contextmanager
def wire_to(port: int, *, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[BlockingWire]:
    usual: dict[str, Any] = {"timeout": 1.0}
    wire = BlockingWire(Address(host="127.0.0.1", port=port, tls=tls), **(usual | options))
    try:
        yield wire
    finally:
        wire.close()


@pytest.fixture
def wire(own_valkey: Valkey) -> Iterator[BlockingWire]:
    with wire_to(own_valkey.port) as wire:
        yield wire


def clients(server: Valkey) -> set[bytes]:
    """The addresses of our connections that the server sees."""
    lines = server("CLIENT", "LIST").splitlines()
    return {line.split(b" addr=")[1].split(b" ")[0] for line in lines if b"name=coatcheck" in line}


def when_up(wire: BlockingWire) -> None:
    """Wait until the server is found to be up again."""

    def up() -> bool:
        try:
            return echo(wire, "after") == "after"
        except ExchangeFailed:
            return False

    wait_until(up, "the wire to find back to its server")


@contextmanager
def stand_in(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does as it likes with each connection. Gives its port."""

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # the client may hang up first
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


# --- whose answer it is --------------------------------------------------------------------------------------------------


def test_a_thousand_requests_of_sixteen_threads_each_get_their_own_answer(
    wire: BlockingWire, own_valkey: Valkey
) -> None:
    words = [f"word-{number}" for number in range(1000)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda word: echo(wire, word), words)) == words
    assert 1 <= len(clients(own_valkey)) <= 16


def test_one_thread_needs_one_connection(wire: BlockingWire, own_valkey: Valkey) -> None:
    for number in range(100):
        assert echo(wire, str(number)) == str(number)
    assert len(clients(own_valkey)) == 1


def test_large_commands_and_large_answers_go_through(own_valkey: Valkey) -> None:
    word = "x" * 20_000_000
    with wire_to(own_valkey.port, timeout=10.0) as wire:
        assert echo(wire, word) == word
    with TLS(own_valkey.port) as tls:
        trusted = ssl.create_default_context(cafile=str(tls.authority))
        with wire_to(tls.port, tls=trusted, timeout=10.0) as wire:
            assert echo(wire, word) == word


def test_an_answer_for_somebody_else_drops_the_connection(wire: BlockingWire, own_valkey: Valkey) -> None:
    def not_mine(_: list[Any]) -> None:
        raise ForeignReply("here", "id", "a test")

    assert echo(wire, "before") == "before"
    before = clients(own_valkey)
    with pytest.raises(ForeignReply):
        wire.exchange([("ECHO", "x")], not_mine)
    assert echo(wire, "after") == "after"
    assert not before & clients(own_valkey)


def test_what_reading_raises_is_raised_and_the_connection_kept(wire: BlockingWire, own_valkey: Valkey) -> None:
    def refuse(_: list[Any]) -> None:
        raise KeyError("mine")

    assert echo(wire, "before") == "before"
    before = clients(own_valkey)
    with pytest.raises(KeyError, match="mine"):
        wire.exchange([("ECHO", "x")], refuse)
    assert echo(wire, "after") == "after"
    assert clients(own_valkey) == before


@pytest.mark.parametrize("surplus", [b"+OK\r\n", b"+O", b"$3\r\nyou\r\n", b"\x00"], ids=["OK", "half", "word", "noise"])
@pytest.mark.parametrize("late", [False, True], ids=["with the answer", "later"])
def test_what_comes_after_the_answer_is_never_taken_for_the_next(surplus: bytes, late: bool) -> None:
    connections = 0

    def serve(connection: socket.socket) -> None:
        nonlocal connections
        connections += 1
        connection.recv(1000)
        connection.sendall(GREETING)
        connection.recv(1000)
        connection.sendall(b"+right\r\n" + (b"" if late else surplus))
        if late:
            time.sleep(0.02)
            connection.sendall(surplus)
        connection.recv(1000)

    with stand_in(serve) as port, wire_to(port) as wire:
        for number in range(1, 4):
            assert wire.exchange([("GET", "x")], whole) == ["right"]
            assert connections == number
            time.sleep(0.05 if late else 0)


# --- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_frozen_server_costs_the_time_limit_and_then_nothing_until_it_is_back(
    wire: BlockingWire, own_valkey: Valkey
) -> None:
    assert echo(wire, "before") == "before"
    with ThreadPoolExecutor(16) as threads:
        own_valkey.freeze()  # so that they are under way at the same time, each on a connection of its own
        waiting = [threads.submit(echo, wire, "before", timeout=10) for _ in range(16)]
        time.sleep(0.2)
        own_valkey.thaw()
        assert [each.result() for each in waiting] == ["before"] * 16
    assert len(clients(own_valkey)) == 16

    def attempt(_: object) -> tuple[float, bool]:
        began = fair_time()
        with pytest.raises(ExchangeFailed) as failed:
            echo(wire, "lost", timeout=0.3)
        assert not failed.value.worth_repeating
        return fair_time() - began, failed.value.sent

    own_valkey.freeze()
    try:
        with ThreadPoolExecutor(16) as threads:
            first = list(threads.map(attempt, range(16)))
            assert all(seconds < 0.8 and sent for seconds, sent in first)
            # From now on one at a time waits for the server, and all others are told at once.
            end = monotonic() + 1.5
            later: list[tuple[float, bool]] = []
            while monotonic() < end:
                later += threads.map(attempt, range(16))
        at_once = sum(seconds < 0.1 and not sent for seconds, sent in later)
        assert len(later) - at_once <= 6
        assert at_once > 50
        assert max(seconds for seconds, _ in later) < 0.8
    finally:
        own_valkey.thaw()
    when_up(wire)
    assert len(clients(own_valkey)) == 1


def test_a_request_with_little_time_does_not_decide_that_the_server_is_down(own_valkey: Valkey) -> None:
    with wire_to(own_valkey.port, timeout=4.0) as wire:
        assert echo(wire, "before") == "before"
        own_valkey.freeze()
        with pytest.raises(ExchangeFailed) as failed:
            echo(wire, "lost", timeout=0.02)
        assert failed.value.slow
        own_valkey.thaw()
        assert echo(wire, "after") == "after"


def test_no_time_left_is_no_request(wire: BlockingWire, own_valkey: Valkey) -> None:
    for timeout in (0.0, -1.0):
        with pytest.raises(ExchangeFailed) as failed:
            echo(wire, "never", timeout=timeout)
        assert (failed.value.sent, failed.value.slow) == (False, True)
    assert not clients(own_valkey)


@pytest.mark.alone
def test_an_answer_that_comes_in_pieces_has_one_time_limit() -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(GREETING)
        connection.recv(1000)
        connection.sendall(b"$100\r\n")
        for _ in range(50):
            time.sleep(0.02)
            try:
                connection.sendall(b"x")
            except OSError:
                return

    with stand_in(drip) as port, wire_to(port) as wire:
        began, fairly = monotonic(), fair_time()
        with pytest.raises(ExchangeFailed, match="no answer in time"):
            wire.exchange([("GET", "x")], whole, timeout=0.2)
        assert monotonic() - began >= 0.2
        assert fair_time() - fairly < 0.5


@pytest.mark.alone
@pytest.mark.parametrize("stage", ["greeting", "tls", "name"])
def test_connecting_has_the_same_time_limit(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    look_up = socket.getaddrinfo

    def slow_look_up(host: str, *rest: Any, **options: Any) -> Any:
        if host == "nowhere.test":
            if options.get("flags"):
                raise socket.gaierror
            time.sleep(1.0)
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow_look_up)
    with stand_in(_ignore) as port:
        tls = ssl.create_default_context() if stage == "tls" else None
        host = "nowhere.test" if stage == "name" else "127.0.0.1"
        wire = BlockingWire(Address(host=host, port=port, tls=tls), timeout=1.0)
        began, fairly = monotonic(), fair_time()
        with pytest.raises(ExchangeFailed) as failed:
            echo(wire, "lost", timeout=0.2)
        assert monotonic() - began >= 0.2
        assert fair_time() - fairly < 0.5
        assert (failed.value.sent, failed.value.slow) == (False, True)
        wire.close()
    wait_until(lambda: not any("looks up" in thread.name for thread in threading.enumerate()), "the look-up's end")


def _ignore(connection: socket.socket) -> None:
    connection.settimeout(0.5)
    with suppress(OSError):
        while connection.recv(1000):
            pass


# --- down ----------------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_found_again(wire: BlockingWire, own_valkey: Valkey) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: echo(wire, "before"), range(100))) == ["before"] * 100
        own_valkey.kill()
        for _ in range(3):
            with pytest.raises(ExchangeFailed) as down:
                echo(wire, "lost")
            assert not down.value.sent, "none of the connections that it left is used"
        own_valkey.restart()
        when_up(wire)
        assert list(threads.map(lambda _: echo(wire, "after"), range(100))) == ["after"] * 100


def test_a_connection_that_breaks_under_way_says_nothing_about_the_others() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(GREETING)
        connection.recv(1000)
        connection.sendall(b"+one\r\n")
        connection.recv(1000)

    with stand_in(serve) as port, wire_to(port) as wire:
        for _ in range(5):
            assert wire.exchange([("GET", "x")], whole) == ["one"]
            with pytest.raises(ExchangeFailed) as broke:
                wire.exchange([("GET", "x")], whole)
            assert broke.value.worth_repeating


@pytest.mark.parametrize("greets", [False, True], ids=["hangs up", "greets and hangs up"])
def test_while_the_server_is_down_it_is_left_in_peace(greets: bool) -> None:
    attempts = 0

    def serve(connection: socket.socket) -> None:
        nonlocal attempts
        attempts += 1
        if greets:
            connection.recv(1000)
            connection.sendall(GREETING)
            connection.recv(1000)

    with stand_in(serve) as port, wire_to(port, timeout=0.2) as wire:
        end = monotonic() + 1.0

        def keep_asking(_: int) -> int:
            failures = 0
            while monotonic() < end:
                with pytest.raises(ExchangeFailed):
                    echo(wire, "lost")
                failures += 1
                time.sleep(0.001)
            return failures

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(keep_asking, range(8))) > 500
    assert 2 <= attempts <= 12  # pauses of 50 ms, doubling up to a second


@pytest.mark.alone
def test_a_crowd_at_the_start_waits_for_the_first_of_them(own_valkey: Valkey) -> None:
    """And is told together if the server is down: nobody asks it again."""
    own_valkey.freeze()
    began = fair_time()
    with wire_to(own_valkey.port) as wire, ThreadPoolExecutor(64) as threads:
        asked = [threads.submit(echo, wire, str(number), timeout=0.4) for number in range(64)]
        for each in asked:
            with pytest.raises(ExchangeFailed) as failed:
                each.result()
            assert not failed.value.sent
        assert fair_time() - began < 1.0
        own_valkey.thaw()
        when_up(wire)
        words = [str(number) for number in range(64)]
        assert list(threads.map(lambda word: echo(wire, word), words)) == words


# --- a connection that was not used for long -----------------------------------------------------------------------------


def test_a_connection_that_the_server_closed_is_not_used(wire: BlockingWire, own_valkey: Valkey) -> None:
    for _ in range(3):
        assert echo(wire, "word") == "word"
        own_valkey("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: not clients(own_valkey), "the end of the connection")


@pytest.mark.alone
def test_a_connection_that_died_in_silence_is_found_out_before_it_is_used(own_valkey: Valkey) -> None:
    """A router between the two has forgotten it, say: nothing that is sent on it arrives, and nobody says so."""
    sign_of_life = b""

    def serve(connection: socket.socket) -> None:
        nonlocal sign_of_life
        connection.recv(1000)
        connection.sendall(GREETING)
        connection.recv(1000)
        connection.sendall(b"+right\r\n")
        sign_of_life = connection.recv(1000)
        _ignore(connection)

    with stand_in(serve) as port, wire_to(port, heartbeat=0.1) as wire:
        assert wire.exchange([("GET", "x")], whole) == ["right"]
        time.sleep(0.15)
        began = fair_time()
        assert wire.exchange([("GET", "x")], whole, timeout=0.8) == ["right"]
        assert fair_time() - began < 0.8
        assert b"PING" in sign_of_life
        assert b"GET" not in sign_of_life


def test_a_quiet_connection_that_lives_is_used_on(own_valkey: Valkey) -> None:
    with wire_to(own_valkey.port, heartbeat=0.05) as wire:
        assert echo(wire, "before") == "before"
        before = clients(own_valkey)
        time.sleep(0.1)
        assert echo(wire, "after") == "after"
        assert clients(own_valkey) == before


# --- turns ---------------------------------------------------------------------------------------------------------------


def test_turns_are_given_in_the_order_of_asking(own_valkey: Valkey) -> None:
    with wire_to(own_valkey.port, most=1, timeout=5.0) as wire, ThreadPoolExecutor(10) as threads:
        assert echo(wire, "before") == "before"
        own_valkey.freeze()
        served: list[int] = []

        def ask(number: int) -> None:
            wire.exchange([("ECHO", number)], lambda replies: served.append(int(replies[0])))

        asked = []
        for number in range(10):
            asked.append(threads.submit(ask, number))
            waiting = max(0, number)
            wait_until(lambda waiting=waiting: len(wire._turns) == waiting, "the next in the line")  # type: ignore[misc]
        own_valkey.thaw()
        for each in asked:
            each.result()
        assert served == list(range(10))
        assert len(clients(own_valkey)) == 1


@pytest.mark.alone
def test_closing_ends_whoever_waits_and_leaves_nothing_behind(own_valkey: Valkey) -> None:
    with wire_to(own_valkey.port, most=1) as wire, ThreadPoolExecutor(8) as threads:
        assert echo(wire, "before") == "before"
        own_valkey.freeze()
        waiting = [threads.submit(echo, wire, "lost", timeout=2.0) for _ in range(8)]
        wait_until(lambda: len(wire._turns) == 7, "the others to wait")
        began = fair_time()
        wire.close()
        failures = sum("closed" in str(each.exception()) for each in waiting[1:])
        assert failures >= 6  # whoever came first had not to wait
        assert fair_time() - began < 1.0
        own_valkey.thaw()
    assert not wire._idle
    assert not wire._loans
    wait_until(lambda: not clients(own_valkey), "the connection to be closed")
    with pytest.raises(ExchangeFailed, match="closed"):
        echo(wire, "late")


# --- fork ----------------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_a_child(act: Callable[[], object]) -> None:
    """Do something in a forked process; it fails if it raises."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("way", ["tcp", "tls", "unix socket"])
def test_a_forked_process_has_connections_of_its_own(own_valkey: Valkey, way: str) -> None:
    with TLS(own_valkey.port) as tls:
        address = {
            "tcp": Address(host="127.0.0.1", port=own_valkey.port),
            "tls": Address(host="127.0.0.1", port=tls.port, tls=ssl.create_default_context(cafile=str(tls.authority))),
            "unix socket": Address(path=str(own_valkey.socket)),
        }[way]
        wire = BlockingWire(address, timeout=2.0)
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda _: echo(wire, "parent"), range(100))) == ["parent"] * 100
        mine = ids(own_valkey)
        open_before = open_sockets()

        def child() -> None:
            assert open_sockets() < open_before, "the parent's are closed here"
            for number in range(20):
                assert echo(wire, str(number)) == str(number)
            theirs = ids(own_valkey) - mine
            assert len(theirs) == 1
            assert ids(own_valkey) > mine, "the parent's live on"

        in_a_child(child)
        in_a_child(wire.close)
        in_a_child(lambda: None)
        assert ids(own_valkey) >= mine
        with ThreadPoolExecutor(4) as threads:
            words = [str(number) for number in range(100)]
            assert list(threads.map(lambda word: echo(wire, word), words)) == words
        assert mine & ids(own_valkey)
        wire.close()


def ids(server: Valkey) -> set[bytes]:
    """Which of our connections the server has, by its own numbers."""
    lines = server("CLIENT", "LIST").splitlines()
    return {line.split()[0] for line in lines if b"name=coatcheck" in line}


def open_sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def test_a_fork_in_the_midst_of_other_threads_requests_disturbs_neither(own_valkey: Valkey) -> None:
    """Locks are held and answers are under way at the moment of the fork."""
    with wire_to(own_valkey.port, most=3, timeout=5.0) as wire:
        over = threading.Event()

        def keep_asking(number: int) -> int:
            asked = 0
            while not over.is_set():
                assert echo(wire, f"{number}-{asked}") == f"{number}-{asked}"
                asked += 1
            return asked

        def child() -> None:
            signal.alarm(20)
            for number in range(5):
                assert echo(wire, f"child-{number}") == f"child-{number}"

        with ThreadPoolExecutor(6) as threads:
            asking = [threads.submit(keep_asking, number) for number in range(6)]
            try:
                for _ in range(15):
                    in_a_child(child)
            finally:
                over.set()
            assert all(each.result() > 0 for each in asking)


async def test_a_proxy_that_delays_is_waited_for(own_valkey: Valkey) -> None:
    async with Proxy(own_valkey.port, latency=0.02) as proxy:
        with wire_to(proxy.port, most=4) as wire:
            words = [str(number) for number in range(40)]
            assert await asyncio.gather(*(asyncio.to_thread(echo, wire, word) for word in words)) == words
            assert proxy.connections <= 4
