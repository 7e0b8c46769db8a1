"""Links that can be cut: real connections, held back and let go."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coatcheck.lab.live.links import ANYBODY, Links, owner
from coatcheck.lab.processes import LOOPBACK

_CALL = (
    "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(flush=True);"
    " sys.stdin.readline(); s.sendall(b'late'); s.settimeout(20); print(s.recv(9).decode(), flush=True)"
)


@contextmanager
def an_echo(port: int = 0) -> Iterator[int]:
    """A server that says what it is told; gives its port."""
    with socket.create_server((LOOPBACK, port)) as listening:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(caller,), daemon=True).start()

        def answer(caller: socket.socket) -> None:
            with caller:
                while heard := caller.recv(1000):
                    caller.sendall(heard)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def said(connection: socket.socket, word: bytes, patience: float = 20) -> bytes | None:
    """What comes back for `word`; `None` for nothing within so many seconds."""
    connection.sendall(word)
    return heard(connection, patience)


def heard(connection: socket.socket, patience: float = 20) -> bytes | None:
    connection.settimeout(patience)
    try:
        return connection.recv(1000)
    except TimeoutError:
        return None


def test_a_link_that_is_cut_swallows_and_closes_nothing_and_what_was_said_arrives_late() -> None:
    with an_echo() as port, Links() as links:
        way = links.through("web-1", "store", port)
        assert links.through("web-1", "store", port) == way
        with (
            socket.create_connection((LOOPBACK, way)) as mine,
            socket.create_connection((LOOPBACK, links.through("web-2", "store", port))) as theirs,
        ):
            assert said(mine, b"hello") == b"hello"
            links.cut("store", "web-1")
            assert said(mine, b"anybody?", patience=0.3) is None
            assert said(theirs, b"here") == b"here", "another link is not touched"
            with socket.create_connection((LOOPBACK, way)) as new:
                assert said(new, b"me neither", patience=0.3) is None
                links.mend("web-1", "store")
                assert heard(mine) == b"anybody?"
                assert heard(new) == b"me neither"
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, way)) != 0, "no port stays open"


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell whose a connection is")
def test_of_those_who_share_a_way_only_the_one_is_cut_off_whose_link_it_is() -> None:
    with an_echo() as port, Links() as links:
        way = links.through(ANYBODY, "web-3", port)
        callers = {
            name: subprocess.Popen(
                [sys.executable, "-c", _CALL, str(way)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for name in ("web-1", "web-2")
        }
        links.processes = lambda: {name: caller.pid for name, caller in callers.items()}
        try:
            for caller in callers.values():
                assert caller.stdout is not None
                caller.stdout.readline()
            links.cut("web-3", "web-1")
            for caller in callers.values():
                assert caller.stdin is not None
                caller.stdin.write("\n")
                caller.stdin.flush()
            assert callers["web-2"].stdout is not None
            assert callers["web-2"].stdout.readline() == "late\n"
            with pytest.raises(subprocess.TimeoutExpired):
                callers["web-1"].wait(0.3)
            links.mend("web-3", "web-1")
            assert callers["web-1"].communicate(timeout=20)[0] == "late\n"
        finally:
            for caller in callers.values():
                caller.kill()
                caller.communicate()


def test_a_connection_of_nobody_known_is_nobodys() -> None:
    assert owner(1, {"web-1": 1}) == ANYBODY


def test_a_server_that_has_ended_refuses_and_can_be_called_again_at_the_same_port() -> None:
    with Links() as links:
        with an_echo() as port:
            way = links.through("balancer", "web-1", port)
            with socket.create_connection((LOOPBACK, way)) as mine:
                assert said(mine, b"hello") == b"hello"
                links.gone("web-1")
                assert heard(mine) == b""
        with socket.socket() as probe:
            assert probe.connect_ex((LOOPBACK, way)) != 0
        links.back("web-1")
        with an_echo(port), socket.create_connection((LOOPBACK, way)) as mine:
            assert said(mine, b"again") == b"again"
