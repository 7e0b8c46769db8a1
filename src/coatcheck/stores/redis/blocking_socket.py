"""A socket for threads on which everything ends at a deadline: looking up the name, connecting, TLS, sending, receiving.

The socket itself never blocks. What blocks is a look at it (`poll`), for as long as there is time left.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.resolver import Found, resolver

T = TypeVar("T")


class BlockingSocket:
    """A connected socket; used by one thread at a time. Deadlines are on `time.monotonic`.

    Args:
        address: the server. Connects to it, and makes sure of its certificate where it has one.
        deadline: until when.
        keepalive: seconds of silence after which the system asks the other side for a sign of life (TCP keepalive).

    Raises:
        TimeoutError: not in time.
        OSError, ValueError: not possible. `ssl.SSLError` and `UnicodeError` are among them.
    """

    def __init__(self, address: Address, deadline: float, *, keepalive: float) -> None:
        self._socket = _connected(address, deadline, keepalive)
        self._poll = select.poll()
        self._awaited = 0  # the event that it looks for
        self._tls = address.tls is not None
        try:
            self._socket.setblocking(False)
            if address.tls is not None:
                secured = self._socket = address.tls.wrap_socket(
                    self._socket, server_hostname=address.host, do_handshake_on_connect=False
                )
                self._patiently(secured.do_handshake, select.POLLIN, deadline)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it.

        Raises:
            TimeoutError: not in time; a part of it may have gone out.
            OSError: the connection is broken.
        """
        try:
            sent = self._socket.send(data)
            if sent == len(data):
                return  # almost always
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        rest = memoryview(data)[sent:]
        while rest:
            rest = rest[self._patiently(partial(self._socket.send, rest), select.POLLOUT, deadline) :]

    def receive(self, deadline: float) -> bytes:
        """Wait for what comes next; no bytes at all if the other side has closed the connection.

        What lies ready is taken even after the deadline: it was this thread that came late then.

        Raises:
            TimeoutError: nothing came in time.
            OSError: the connection is broken.
        """
        if not self._tls:  # under TLS something may lie ready that `poll` does not know of
            self._wait(select.POLLIN, deadline)
            try:
                return self._socket.recv(_PIECE)
            except BlockingIOError:  # it has been looked at in vain
                pass
        return self._patiently(partial(self._socket.recv, _PIECE), select.POLLIN, deadline)

    def take(self) -> bytes | None:
        """What lies ready, without waiting: `None` if nothing does, no bytes at all if the other side has closed it.

        Raises:
            OSError: the connection is broken.
        """
        if self._awaited == select.POLLIN and not self._tls and not self._poll.poll(0):
            return None
        try:
            return self._socket.recv(_PIECE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    def close(self) -> None:
        """Close our end, without a word to the other side. In a forked child that leaves the parent's end as it is."""
        with suppress(OSError):
            self._socket.close()

    def _patiently(self, act: Callable[[], T], event: int, deadline: float) -> T:
        """Do something, as soon as it would not block."""
        while True:
            try:
                return act()
            except BlockingIOError:
                self._wait(event, deadline)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)

    def _wait(self, event: int, deadline: float) -> None:
        if event != self._awaited:
            self._poll.register(self._socket, event)  # or, if it is registered, change the event
            self._awaited = event
        left = deadline - monotonic()
        if not self._poll.poll(left * 1000 if left > 0 else 0):  # which rounds up
            raise TimeoutError


def _connected(address: Address, deadline: float, keepalive: float) -> socket.socket:
    if address.path is not None:
        return _dial(socket.AF_UNIX, address.path, deadline - monotonic())
    found = resolver.look_up(address.host, address.port).result(max(0.0, deadline - monotonic()))
    connected = _dial_any(found, deadline)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", keepalive), ("TCP_KEEPINTVL", keepalive / 4), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not every system has all of them
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), min(32_767, math.ceil(value)))
    return connected


def _dial_any(found: Found, deadline: float) -> socket.socket:
    """The first of some addresses that answers; none takes the others' share of the time."""
    family, *_, where = found[0]
    try:
        return _dial(family, where, (deadline - monotonic()) / len(found))
    except OSError:
        if len(found) == 1:
            raise
    return _dial_any(found[1:], deadline)


def _dial(family: int, where: Any, seconds: float) -> socket.socket:
    if seconds <= 0:
        raise TimeoutError
    dialing = socket.socket(family, socket.SOCK_STREAM)
    try:
        dialing.settimeout(seconds)
        dialing.connect(where)
    except BaseException:
        dialing.close()
        raise
    return dialing


_PIECE = 65_536
"""How many bytes are received at most at a time."""
