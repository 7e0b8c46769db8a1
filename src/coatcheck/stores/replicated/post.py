"""Carries messages between servers, over ZeroMQ: one socket that all others send to, and one towards each of them.

What it may lose is what was under way when a connection broke; the numbers of the messages tell. It never waits.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from coatcheck.stores.replicated.keys import ClusterKey

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_log = logging.getLogger("coatcheck")
_AT_ONCE = 200  # messages taken before others on the event loop get their turn
_DOMAIN = b"coatcheck"


class Post:
    """The sockets of one server, on the running event loop.

    Args:
        key: the cluster's; `None` for plain text.
        silence: seconds after which a connection that says nothing is given up.
        max_message: bytes of the largest message taken.
        received: called with head and body of each message.
        connected, disconnected: called with a peer's address.

    Attributes:
        bytes_sent, bytes_received: of messages, without what ZeroMQ, TCP and IP add.
        refused: connections that could not prove to belong to the cluster.
    """

    def __init__(
        self,
        *,
        key: ClusterKey | None,
        silence: float,
        max_message: int,
        received: Callable[[bytes, bytes], None],
        connected: Callable[[str], None],
        disconnected: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._key = key
        self._silence_ms = max(100, int(silence * 1000))
        self._max_message = max_message
        self._received = received
        self._connected = connected
        self._disconnected = disconnected
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._towards: dict[str, tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = {}
        self._inbox: zmq.Socket[bytes] | None = None
        self._others: list[zmq.Socket[bytes]] = []
        self._failures: dict[str, int] = {}
        # Whoever forgets to close it must not wait for ever when its memory is taken back, as ZeroMQ would for open sockets.
        self._open: set[zmq.Socket[bytes]] = set()
        weakref.finalize(self, _destroy, self._context, self._open).atexit = False
        self.bytes_sent = self.bytes_received = self.refused = 0
        if key is not None:
            self._doorman = self._context.socket(zmq.REP)
            self._open.add(self._doorman)
            self._doorman.bind("inproc://zeromq.zap.01")
            self._watch(self._doorman, self._answer_doorman)
            self._others.append(self._doorman)

    def listen(self, address: str) -> None:
        """Take messages at this address.

        Raises:
            zmq.ZMQError: somebody else listens there, or it is no address of this machine.
        """
        inbox = self._socket(zmq.PULL)
        inbox.set(zmq.MAXMSGSIZE, self._max_message)
        if self._key is not None:
            inbox.curve_server = True
            inbox.zap_domain = _DOMAIN
        monitor = self._monitor(inbox, _REFUSED)
        try:
            inbox.bind(f"tcp://{address}")
        except zmq.ZMQError:
            self._close(inbox, monitor)
            raise
        self._inbox = inbox
        self._others.append(monitor)
        self._watch(inbox, self._take)
        self._watch(monitor, lambda: self._count_refused(monitor))

    def connect(self, address: str) -> None:
        """Keep a connection to this peer from now on."""
        socket = self._socket(zmq.PUSH)
        socket.set(zmq.IMMEDIATE, 1)  # what finds no connection is not kept for later: it would come out of turn
        socket.set(zmq.SNDHWM, 0)  # what may be under way is limited by what was acknowledged, see `Cluster`
        if self._key is not None:
            socket.curve_serverkey = self._key.public
        monitor = self._monitor(socket, zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _REFUSED)
        self._towards[address] = (socket, monitor)
        self._watch(monitor, lambda: self._follow(address, monitor))
        socket.connect(f"tcp://{address}")

    def disconnect(self, address: str) -> None:
        """Drop the connection, and what has not left yet."""
        socket, monitor = self._towards.pop(address)
        self._loop.remove_reader(monitor.FD)
        self._close(socket, monitor)
        self._failures.pop(address, None)

    def send(self, address: str, head: bytes, body: bytes) -> bool:
        """Send a message. Returns whether there is a connection that it could leave by."""
        try:
            # One frame costs half of what two cost.
            frame = b"".join((len(head).to_bytes(2, "big"), head, body))
            self._towards[address][0].send(frame, zmq.NOBLOCK)
        except (zmq.Again, KeyError):  # nobody knows its address yet
            return False
        self.bytes_sent += len(frame)
        return True

    def close(self) -> None:
        """Close all sockets, without waiting for what has not left."""
        for address in list(self._towards):
            self.disconnect(address)
        for socket in self._others:
            self._loop.remove_reader(socket.FD)
        if self._inbox is not None:
            self._loop.remove_reader(self._inbox.FD)
            self._close(self._inbox)
            self._inbox = None
        self._close(*self._others)
        self._others = []
        self._context.term()

    def _close(self, *sockets: zmq.Socket[bytes]) -> None:
        for socket in sockets:
            if not socket.closed:
                if socket.type in (zmq.PUSH, zmq.PULL):
                    socket.disable_monitor()
                socket.close(0)
            self._open.discard(socket)

    def _monitor(self, socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        monitor = socket.get_monitor_socket(events)
        self._open.add(monitor)
        return monitor

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        self._open.add(socket)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.IPV6, 1)
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.set(zmq.RECONNECT_IVL_MAX, max(100, min(1000, self._silence_ms // 2)))
        socket.set(zmq.CONNECT_TIMEOUT, min(1000, self._silence_ms))
        socket.set(zmq.HEARTBEAT_IVL, self._silence_ms // 2)
        socket.set(zmq.HEARTBEAT_TIMEOUT, self._silence_ms)
        if self._key is not None:
            socket.curve_publickey = self._key.public
            socket.curve_secretkey = self._key.secret
        return socket

    def _watch(self, socket: zmq.Socket[bytes], act: Callable[[], None]) -> None:
        # ZeroMQ's descriptor tells of changes only, so whoever is told takes all that there is.
        self._loop.add_reader(socket.FD, act)
        self._loop.call_soon(act)

    def _take(self) -> None:
        inbox = self._inbox
        for _ in range(_AT_ONCE):
            if inbox is None or inbox.closed:
                return
            try:
                frame = inbox.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.bytes_received += len(frame)
            end = 2 + int.from_bytes(frame[:2], "big")
            self._received(frame[2:end], frame[end:])
        self._loop.call_soon(self._take)

    def _follow(self, address: str, monitor: zmq.Socket[bytes]) -> None:
        while not monitor.closed and monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            if event & _REFUSED:
                self._note_failure(address)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failures.pop(address, None)
                self._connected(address)
            elif event == zmq.EVENT_DISCONNECTED:
                self._disconnected(address)

    def _note_failure(self, address: str) -> None:
        failures = self._failures[address] = self._failures.get(address, 0) + 1
        if failures == 3:  # it did not just die in the middle of it
            _log.error(
                "%s and this server cannot prove to each other that they belong together: give both the same file as ?keys=, "
                "or neither of them one",
                address,
            )

    def _count_refused(self, monitor: zmq.Socket[bytes]) -> None:
        while not monitor.closed and monitor.poll(0):
            if recv_monitor_message(monitor)["event"] & _REFUSED:
                self.refused += 1

    def _answer_doorman(self) -> None:
        """ZeroMQ asks (by ZAP, its RFC 27) whether to let somebody in who has proven to own a key."""
        while not self._doorman.closed and self._doorman.poll(0):
            version, request, _domain, _address, _identity, mechanism, *credentials = self._doorman.recv_multipart()
            assert self._key is not None
            ours = z85.decode(self._key.public)
            welcome = mechanism == b"CURVE" and credentials == [ours]
            status = [b"200", b"OK"] if welcome else [b"400", b"not of this cluster"]
            self._doorman.send_multipart([version, request, *status, b"", b""])


def _destroy(context: zmq.Context[zmq.Socket[bytes]], sockets: set[zmq.Socket[bytes]]) -> None:
    for socket in sockets:
        socket.close(0)
    context.term()
