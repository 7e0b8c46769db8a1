"""The transport to one server for threads: a few connections, each lent to one thread at a time.

An exception from outside (a signal's handler, a time limit, `KeyboardInterrupt`) may strike between any two steps of a
thread. So a connection belongs to one owner at a time, a loan or the idle ones, and what strikes in between makes it
garbage; and giving back may be done twice, and is when the first time may have been struck.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TypeVar

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.blocking_connection import BlockingConnection
from coatcheck.stores.redis.commands import Commands, pack
from coatcheck.stores.redis.evicting import EvictionWarning
from coatcheck.stores.redis.forking import tell_when_forked
from coatcheck.stores.redis.gate import Gate, being_tried
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.transport import ExchangeFailed, Read, whole

T = TypeVar("T")


class BlockingWire:
    """A `SyncTransport` to one server. A forked process has connections of its own.

    Connections are made when they are needed, and the one used last is used first. At the beginning one request makes
    the first connection, and the others wait for what becomes of it. Once the server is known to be down requests fail at
    once, but for one at a time that looks, after a pause (see `Gate`), whether it is back.

    Args:
        address: the server.
        timeout: seconds for one exchange, waiting and connecting included, where the caller gives none. A server that
            says nothing to anybody for a quarter of that is taken to be down.
        most: connections at most; further requests wait their turn, first come first served.
        heartbeat: seconds after which a connection that was not used is asked for a sign of life before it is.
        near: what keeps records that are read over the connections, if they are told of changes.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        most: int = 32,
        heartbeat: float = 10.0,
        near: NearCache | None = None,
    ) -> None:
        self.address = address
        self._near = near if address.announces else None
        self._timeout = timeout
        self._patience = timeout / 4
        self._most = most
        self._heartbeat = heartbeat
        self._warning = EvictionWarning(address)
        self._closed = ""  # why, once it is
        self._begin()
        tell_when_forked(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[BlockingConnection, None] = {}  # the one used last is the last
        self._loans: set[_Loan] = set()  # whoever may have a connection now
        self._turns: dict[_Loan, None] = {}  # whoever waits for that, in order
        self._gate = Gate()
        self._up = False  # whether the server answered when it was asked last
        self._down = False  # whether it did not; neither is known at first
        self._outages = 0  # how often that was found out
        self._heard_at = self._silent_since = float("-inf")

    def exchange(self, commands: Commands, read: Read[T], *, timeout: float | None = None) -> T:
        """See `SyncTransport.exchange`."""
        deadline = monotonic() + (self._timeout if timeout is None else timeout)
        packed = pack(commands)
        loan = _Loan()
        try:
            try:
                _there_is_time(deadline)
                self._enter(loan, deadline)
                connection = self._connection(loan, deadline)
                asked_at = _there_is_time(deadline)
                fresh = not connection.served
                try:
                    return connection.exchange(packed, len(commands), read, deadline)
                except ExchangeFailed as failed:
                    if failed.slow or fresh:  # else it may be this connection alone: another will tell
                        self._failed(loan, failed, asked_at)
                    raise
                finally:
                    if connection.at_rest:
                        self._answered(connection)
            finally:
                self._give_back(loan)
        finally:
            if not loan.over:
                self._give_back(loan)

    def close(self, why: str = "the store was closed") -> None:
        """Close the connections; those in use as soon as they are not. It cannot be used any more."""
        with self._lock:
            self._closed = why
            self._turn_away(why)
        self._close_idle()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    # --- whose turn it is --------------------------------------------------------------------------------------------

    def _enter(self, loan: _Loan, deadline: float) -> None:
        """Wait until a connection may be had."""
        with self._lock:
            if self._closed:
                raise ExchangeFailed(self._closed, sent=False)
            loan.outages = self._outages
            if self._down and (closed_for := self._gate.closed_for(monotonic())):
                problem = f"it is down, and is tried again in {closed_for:.2f} s ({self._gate.why})"
                raise ExchangeFailed(problem, sent=False)
            if not self._turns and len(self._loans) < self._room:
                self._loans.add(loan)
                return
            if self._down:
                raise ExchangeFailed(being_tried(self._gate.why), sent=False)
            loan.turn = threading.Lock()
            loan.turn.acquire()
            self._turns[loan] = None
        if not loan.turn.acquire(timeout=max(0.0, deadline - monotonic())):
            problem = f"{self._most} requests are under way" if self._up else "no connection in time"
            raise ExchangeFailed(problem, sent=False, slow=True)
        if loan.problem:
            raise ExchangeFailed(loan.problem, sent=False)

    def _give_back(self, loan: _Loan) -> None:
        """Make room for the next, whatever this one has got: a connection, a place, or no more than a turn."""
        connection = loan.connection
        at_rest = connection is not None and connection.at_rest
        if connection is not None and not at_rest:
            connection.close()
        with self._lock:
            loan.connection = None  # before somebody else can have it
            if connection is not None and at_rest and not self._closed:
                self._idle[connection] = None
                connection = None
            self._loans.discard(loan)
            if self._turns:
                self._turns.pop(loan, None)
                self._admit()
            unheard = self._unheard() if self._near is not None else None
            loan.over = True
        if unheard is not None:
            unheard.close()
        if connection is not None:
            connection.close()

    @property
    def _room(self) -> int:
        return self._most if self._up else 1

    def _admit(self) -> None:
        """Let as many wait no longer as there is room for."""
        while self._turns and len(self._loans) < self._room:
            loan = next(iter(self._turns))
            loan.wake()
            self._loans.add(loan)
            del self._turns[loan]

    def _turn_away(self, problem: str) -> None:
        while self._turns:
            loan = next(iter(self._turns))
            loan.problem = problem
            loan.wake()
            del self._turns[loan]

    # --- connections -------------------------------------------------------------------------------------------------

    def _connection(self, loan: _Loan, deadline: float) -> BlockingConnection:
        """The connection used last, if it can still be used, or a new one."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = loan.connection = self._idle.popitem()[0]
            if connection.usable() and self._alive(connection, deadline):
                return connection
            connection.close()
        connection = loan.connection = BlockingConnection(
            self.address, heartbeat=self._heartbeat, near=self._near, ask=self._vouches
        )
        asked_at = monotonic()
        try:
            connection.open(deadline)
        except ExchangeFailed as failed:
            self._failed(loan, failed, asked_at)
            raise
        self._warning.look(connection.eviction)
        return connection

    def _alive(self, connection: BlockingConnection, deadline: float) -> bool:
        """Whether a connection was used of late, or shows a sign of life."""
        now = monotonic()
        if now - connection.used_at < self._heartbeat:
            return True
        try:
            connection.exchange(_PING, 1, whole, now + (deadline - now) / 2)  # so that there is time for another
        except ExchangeFailed as failed:
            if failed.slow:
                self._silent_for(monotonic(), now)
            self._close_idle()  # they are even older
        return connection.at_rest

    def _vouches(self, connection: BlockingConnection) -> bool:
        """Whether what was read over this connection is true as far as anybody has heard; see `near.Source`.

        An idle one is listened to. Whoever is using one hears what comes, and closes it if anything is wrong.
        """
        if connection in self._idle:
            with self._lock:
                if connection in self._idle:
                    if connection.usable():
                        return True
                    connection.close()
                    del self._idle[connection]
        return connection.in_use

    def _unheard(self) -> BlockingConnection | None:
        """Take out one that nobody uses any more, if there is one: what is announced there would pile up unread."""
        assert self._near is not None
        oldest = next(iter(self._idle), None)
        if oldest is None or monotonic() - oldest.used_at < max(self._heartbeat, self._near.max_age):
            return None
        del self._idle[oldest]
        return oldest

    def _close_idle(self) -> None:
        while True:
            with self._lock:
                if not self._idle:
                    return
                connection = self._idle.popitem()[0]
            connection.close()

    # --- whether the server is down ----------------------------------------------------------------------------------

    def _answered(self, connection: BlockingConnection) -> None:
        self._heard_at = connection.used_at
        if not self._up:
            with self._lock:
                self._up, self._down = True, False
                self._gate.worked()
                self._admit()

    def _failed(self, loan: _Loan, failed: ExchangeFailed, asked_at: float) -> None:
        """The server did not answer, or not in time: if that means that it is down, keep others from it."""
        with self._lock:
            now = monotonic()
            if failed.slow and self._silent_for(now, asked_at) < self._patience:
                return  # it has answered others, or this request had little time
            if loan.outages < self._outages:  # it is no news
                return
            self._outages += 1
            self._up, self._down = False, True
            self._gate.failed(now, str(failed))
            self._turn_away(str(failed))
        if failed.slow:
            self._close_idle()  # they may be as dead as this one

    def _silent_for(self, now: float, asked_at: float) -> float:
        """For how long the server has said nothing to anybody, now that a request of `asked_at` was not answered."""
        if self._silent_since <= self._heard_at:
            self._silent_since = max(asked_at, self._heard_at)
        return now - self._silent_since

    # --- fork --------------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        """See `forking`. Of the parent's connections only the ends that this process has are closed."""
        if self._near is not None:
            self._near.forked()  # which may not have been told yet: another thread of the parent may have been at work in it
        theirs = [*self._idle, *(loan.connection for loan in self._loans if loan.connection is not None)]
        self._begin()
        for connection in theirs:
            connection.close()


class _Loan:
    """One request's claim to a connection.

    Attributes:
        turn: locked while it waits; `None` if it never had to.
        connection: the one that it has.
        problem: why it need not wait any more.
        outages: how often the server had been down when it came.
        over: whether everything has been given back.
    """

    __slots__ = ("connection", "outages", "over", "problem", "turn")

    def __init__(self) -> None:
        self.turn: threading.Lock | None = None
        self.connection: BlockingConnection | None = None
        self.problem = ""
        self.outages = 0
        self.over = False

    def wake(self) -> None:
        if self.turn is not None and self.turn.locked():
            self.turn.release()


def _there_is_time(deadline: float) -> float:
    now = monotonic()
    if deadline <= now:
        raise ExchangeFailed("no time is left", sent=False, slow=True)
    return now


_PING = pack([("PING",)])
