"""One connection to a server, shared by all requests of an event loop.

What the requests of one tick of the loop send goes out in one write, or one for every 32 of them, and their replies come back
in one read, so a busy process pays for a system call once per tick and not once per command. A request that is cancelled, or
runs out of time, leaves its place in the line standing (see `conversation`), so that its replies never reach another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

from coatcheck.clock import monotonic
from coatcheck.stores.redis.commands import pack
from coatcheck.stores.redis.conversation import Conversation, Leave, Request
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.transport import ExchangeFailed, Read, Told, whole
from coatcheck.stores.redis.waiting import Awaited, Waker

T = TypeVar("T")


class Connection(asyncio.Protocol):
    """From its making to its loss; a new one is made after that.

    Args:
        loop: the event loop it belongs to.
        timeout: seconds after which a server that says nothing at all, though asked, is taken for dead.
        heartbeat: seconds of silence after which the server is asked for a sign of life.
        on_room: called when replies came, so that others may send.
        on_lost: called once, when the connection is lost or dropped, and with whether the server was silent.
        near: what keeps records that are read over it, and is told when they change.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        heartbeat: float,
        on_room: Callable[[], None],
        on_lost: Callable[[Connection, bool], None],
        near: NearCache | None = None,
    ) -> None:
        self._loop = loop
        self._waker = Waker(loop)
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._often = min(timeout / 16, 1 / 16)  # seconds between looks at the clock while anybody waits
        self._tick_due = 0.0
        self._on_room = on_room
        self._on_lost = on_lost
        self._near = near
        self._conversation = Conversation(None if near is None else partial(near.announced, self))
        self.line = self._conversation.line
        self._socket: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._unsent = 0  # requests at the end of the line whose bytes are still in `_out`
        self._flush_due = False
        self._paused = False
        self._heard_at = monotonic()
        self._ticking = False
        self._timer: asyncio.TimerHandle | None = None
        self.served = False  # whether it has answered anything after the greeting
        self.lost = ""  # why, once it is

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, wanted: int, read: Read[T], now: float, deadline: float) -> Awaited[T]:
        """Send commands, which have `wanted` replies, with whatever else is sent in this tick.

        It gets what `read` makes of the replies, or `ExchangeFailed`: at `deadline` (on `time.monotonic`; some
        milliseconds later at most) or when the connection is lost.
        """
        replies: list[Any] = [] if self._near is None else Told(self, now)
        request = Request(self._waker, wanted, read, now, deadline, replies)
        self.line.append(request)
        self._out.append(packed)
        self._unsent += 1
        if len(self._out) >= _BATCH:  # the server begins with these while we make more
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if not self._ticking or deadline < self._tick_due:
            self._tick(min(self._often, deadline - now), often=True)
        return request

    def _flush(self) -> None:
        self._flush_due = False
        if self._out and self._socket is not None and not self._paused and not self.lost:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._unsent = 0
            self._socket.write(data)

    def drop(self, why: str, *, silent: bool = False) -> None:
        """Break the connection off: whoever waits is told, and nothing that still comes is heard.

        Args:
            why: in words.
            silent: whether it is dropped because the server says nothing, so that asking again at once is no use.
        """
        if self.lost:
            return
        self.lost = why
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.abort()
        unsent_from = len(self.line) - self._unsent
        for place, request in enumerate(self.line):
            _fail(request, ExchangeFailed(why, sent=place < unsent_from, slow=silent, heard=request.replies))
        self.line.clear()
        if self._near is not None:
            self._near.lost(self)
        self._on_lost(self, silent)

    def vouches(self) -> bool:
        """See `transport.Source`. Another loop cannot tell whether this one's still runs."""
        return not self.lost and self._loop is asyncio.get_running_loop()

    # --- what the event loop says ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        if self.lost:  # it was dropped before it stood
            self._socket.abort()
        self._flush()  # the greeting, before the server says anything: what it says then is the answer

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        self._heard_at = monotonic()
        # Whoever's answer came goes on at once, and what they send goes out: a tick of the loop for each would be two more.
        self._waker.hold()
        try:
            self._conversation.hear(data)
        except Leave as leave:
            self.drop(str(leave))
        except BaseException:  # Ctrl-C, for instance: a reply may have been taken that nobody got
            self.drop("reading its replies was interrupted")
            raise
        else:
            self._on_room()
        finally:
            self._flush_due = True
            try:
                self._waker.wake_all()
            except (SystemExit, KeyboardInterrupt) as error:  # uvloop would take it for a fault of the connection
                self._loop.call_soon(_end, error)
            finally:
                self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"the connection broke ({exc})" if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    # --- time --------------------------------------------------------------------------------------------------------

    def _tick(self, seconds: float, *, often: bool) -> None:
        """Look at the clock again in so many seconds: often while there is traffic, else when a heartbeat is due.

        One timer for all requests: a timer for each would cost more than the request.
        """
        self._ticking = often
        if self._timer is not None:
            self._timer.cancel()
        self._tick_due = monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        now = monotonic()
        # If this comes late, the event loop was busy with something else: what was to be sent may just have gone out, and
        # answers may lie unread. Each request is spared once: it was we who did not listen, not the server that was slow.
        overslept = now - self._tick_due > self._often
        if self.line:
            soonest = now + self._often
            for request in self.line:
                if request.deadline > now:
                    soonest = min(soonest, request.deadline)
                elif overslept and not request.spared:
                    request.spared = True
                else:
                    _fail(request, ExchangeFailed("no answer in time", sent=True, slow=True))
            first = self.line[0]
            # It may have answered others, or begun an answer, and stopped.
            silence = now - max(self._heard_at, first.sent_at)
            waited = now - first.sent_at
            if overslept or (silence < self._timeout and waited < _PATIENCE * self._timeout):
                # Those that end within a few milliseconds are seen to together.
                self._tick(max(soonest - now, self._often / 16), often=True)
            elif silence >= self._timeout:
                self.drop(f"no sign of life for {silence:.2g} s", silent=True)
            else:
                self.drop(f"no whole answer for {waited:.2g} s", silent=True)
            return
        silence = now - self._heard_at
        if silence < 2 * self._often:
            self._tick(self._often, often=True)
        elif silence < self._heartbeat:
            self._tick(self._heartbeat - silence, often=False)
        else:
            self.send(pack([("PING",)]), 1, whole, now, now + self._timeout)  # that it comes will do
            self._tick(self._often, often=True)


_BATCH: Final = 32
"""Commands that go out before the tick is over."""

_PATIENCE: Final = 4
"""Times the time limit that an answer may take on its way, byte by byte. It keeps all others waiting."""


def _end(error: BaseException) -> None:
    """Whoever was woken ends the process."""
    raise error


def _fail(request: Request[Any], error: ExchangeFailed) -> None:
    if not request.done():
        request.set_exception(error)
