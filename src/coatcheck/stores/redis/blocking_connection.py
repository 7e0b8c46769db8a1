"""One connection to a server, for threads: whoever uses it has it alone, and waits for the answer."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

import hiredis

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.blocking_socket import BlockingSocket
from coatcheck.stores.redis.commands import pack
from coatcheck.stores.redis.evicting import Eviction
from coatcheck.stores.redis.near import NearCache
from coatcheck.stores.redis.replies import NOTHING, Replies
from coatcheck.stores.redis.transport import LEAVING, ExchangeFailed, Read, Told, whole

T = TypeVar("T")


class BlockingConnection:
    """From its making to its closing; never used by two threads at a time.

    Args:
        address: the server.
        heartbeat: seconds of silence after which the system asks the other side for a sign of life.
        near: what keeps records that are read over it, and is told when they change.
        ask: whether it vouches for them, for whoever has another connection or none; see `transport.Source`.

    Attributes:
        served: whether it has answered anything after the greeting.
        used_at: when it last answered, on `time.monotonic`.
        eviction: what the server said of evicting sessions, if it does.
    """

    def __init__(
        self,
        address: Address,
        *,
        heartbeat: float,
        near: NearCache | None = None,
        ask: Callable[[BlockingConnection], bool] | None = None,
    ) -> None:
        self._address = address
        self._heartbeat = heartbeat
        self._near = near
        self._ask = ask
        self._reader = Replies()
        self._socket: BlockingSocket | None = None
        self._let_in = False
        self._closed = False
        self._settled = False  # whether all that was asked was answered, and nothing else came
        self.served = False
        self.used_at = 0.0
        self.eviction: Eviction | None = None

    def open(self, deadline: float) -> None:
        """Connect and introduce ourselves.

        Raises:
            ExchangeFailed: that could not be done, or not until `deadline`.
        """
        try:
            self._socket = BlockingSocket(self._address, deadline, keepalive=self._heartbeat)
            greeting = self._address.handshake()
            replies = self.exchange(pack(greeting), len(greeting), whole, deadline)
            problem = self._address.objection(replies)
            self.eviction = self._address.eviction(replies)
        except TimeoutError:
            raise ExchangeFailed("no connection in time", sent=False, slow=True) from None
        except ExchangeFailed as failed:
            refusal = self._address.refusal(failed.heard)  # a server that lets nobody in says so and hangs up
            raise ExchangeFailed(refusal or str(failed), sent=False, slow=failed.slow) from None
        except (OSError, ValueError, RuntimeError) as error:  # the latter: no thread can be had to look up the name
            raise ExchangeFailed(str(error), sent=False) from error
        if problem or not self._settled:
            raise ExchangeFailed(problem or "it says more than it is asked", sent=False)
        self.served = False
        self._let_in = True

    def exchange(self, packed: bytes, wanted: int, read: Read[T], deadline: float) -> T:
        """Send commands, wait for their replies, and give what `read` makes of them, or raise what it raises.

        Args:
            packed: the commands.
            wanted: how many replies there will be.
            read: makes the answer.
            deadline: until when to wait, on `time.monotonic`.

        Raises:
            ExchangeFailed: the connection broke, or there was no answer in time.
        """
        assert self._socket is not None, "not open"
        self._settled = False
        reader = self._reader
        replies: list[Any] = [] if self._near is None else Told(self, monotonic())
        try:
            self._socket.send(packed, deadline)
            while len(replies) < wanted:
                data = self._socket.receive(deadline)
                if not data:
                    raise ExchangeFailed("the server closed the connection", sent=True, heard=replies)
                reader.feed(data)
                while len(replies) < wanted and (reply := reader.gets()) is not NOTHING:
                    if type(reply) is not hiredis.PushNotification:
                        replies.append(reply)
                    elif self._near is not None:
                        self._near.announced(self, reply)
        except TimeoutError:
            raise ExchangeFailed("no answer in time", sent=True, slow=True) from None
        except OSError as error:
            raise ExchangeFailed(f"the connection broke ({error})", sent=True, heard=replies) from error
        except (hiredis.ProtocolError, TypeError, ValueError) as error:
            raise ExchangeFailed(f"what came is no reply ({error})", sent=True) from None
        try:
            answer = read(replies)
        except LEAVING:
            raise  # what else may come on this connection belongs to others too
        except Exception:
            self._answered()
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        """All that was asked was answered; whatever else came, nobody asked for."""
        self.used_at = monotonic()
        self.served = True
        self._settled = not self._reader.has_data() or self._only_news()

    def _only_news(self) -> bool:
        """Hear what the server announces. Whether all that has come is that, and no part of anything is left."""
        near = self._near
        if near is None:
            return False
        try:
            while (message := self._reader.gets()) is not NOTHING:
                if type(message) is not hiredis.PushNotification:
                    return False
                near.announced(self, message)
        except (hiredis.ProtocolError, TypeError, ValueError):
            return False
        return not self._reader.has_data()

    @property
    def at_rest(self) -> bool:
        """Whether the server has let us in, everything was answered, and not a byte is left over.

        Only then may it be used once more: after an exchange that ended in any other way (a time limit, a signal, an
        exception from outside) it has to be closed.
        """
        return self._let_in and self._settled

    @property
    def in_use(self) -> bool:
        """Whether somebody waits for an answer on it."""
        return not self._settled and not self._closed

    def usable(self) -> bool:
        """Whether it may be used once more, as far as can be told without asking the server. Hears what lies ready.

        Not if the other side has closed it; nor if something came that nobody asked for, and which would be taken for the
        next answer.
        """
        while self.at_rest:
            assert self._socket is not None, "not open"
            try:
                data = self._socket.take()
                if data is None:
                    return True
                self._settled = False
                self._reader.feed(data)
            except OSError:
                self._settled = False
            else:
                self._settled = bool(data) and self._only_news()
        return False

    def vouches(self) -> bool:
        """See `transport.Source`."""
        return self._ask is not None and self._ask(self)

    def close(self) -> None:
        """Close it, without a word to the other side. In a forked child that leaves the parent's end as it is."""
        self._settled = False
        self._closed = True
        if self._socket is not None:
            self._socket.close()
        if self._near is not None:
            self._near.lost(self)
