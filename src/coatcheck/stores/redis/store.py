"""The Redis and Valkey store: sends what `layout` says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

import redis.asyncio as client

from coatcheck.errors import ConfigurationError, CorruptRecord, OutcomeUnknown, StoreFull, StoreUnavailable
from coatcheck.record import Applied, Changes, NewRecord, Record
from coatcheck.stores.opening import without_password
from coatcheck.stores.redis.address import parse
from coatcheck.stores.redis.gate import RetryBudget
from coatcheck.stores.redis.layout import Layout, with_script_text
from coatcheck.stores.redis.pooled import PooledTransport
from coatcheck.stores.redis.transport import Command, ErrorReply, ExchangeFailed, Transport
from coatcheck.stores.redis.wire import Wires

T = TypeVar("T")
N = TypeVar("N", int, float)


class RedisStore:
    """Sessions in Redis (6 or later) or Valkey, outside the web servers: any server serves any user.

    One round trip per verb. Acknowledged means: in the memory of the server; what survives its crash is its persistence
    settings' business. A full server (`noeviction`) refuses writes with `StoreFull`; reading and deleting go on.

    A commit whose answer was lost is sent once more, under the same operation id, so that it is applied once. This is the
    only layer that repeats anything, and only when a connection broke on which the command had been sent: while
    the server is down nothing is repeated.

    Args:
        transport: what carries the commands.
        layout: key names.
    """

    def __init__(self, transport: Transport, layout: Layout) -> None:
        self._transport = transport
        self._layout = layout
        self._budget = RetryBudget()

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """A store by URL: `redis://user:password@host:6379/0`, `rediss://` for TLS, `unix:///path/to/socket?db=0`.

        `valkey://` and `valkeys://` mean the same. Options in the query:

        - `prefix`: what all keys begin with; default `coatcheck:`.
        - `timeout`: seconds for one exchange where the caller gives none, and for connecting; default 1.
        - `max_in_flight`: exchanges under way at most on the one connection of an event loop; default 4096. Further ones
          wait their turn.
        - `heartbeat`: seconds of silence after which the server is asked for a sign of life; default 10.
        - for TLS `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname`.

        Raises:
            ConfigurationError: an option that is unknown or cannot work.
        """
        address, options = parse(url)
        layout = Layout(without_password(url), options.pop("prefix", "coatcheck:"))
        timeout = _number("timeout", options.pop("timeout", "1"), float)
        most = _number("max_in_flight", options.pop("max_in_flight", "4096"), int)
        heartbeat = _number("heartbeat", options.pop("heartbeat", "10"), float)
        if options:
            known = "Known: prefix, timeout, max_in_flight, heartbeat, db, and ssl_… for TLS"
            raise ConfigurationError("store", without_password(url), f"unknown option {next(iter(options))!r}", known)
        return cls(Wires(address, timeout=timeout, most=most, heartbeat=heartbeat), layout)

    @classmethod
    def from_client(cls, redis: client.Redis, *, prefix: str = "coatcheck:", timeout: float = 1.0) -> RedisStore:
        """A store over the caller's own client, whose connections it shares and never closes.

        Switch the client's retries off (`retry=Retry(NoBackoff(), 0)`): they would repeat increments.
        """
        pool = redis.connection_pool
        return cls(PooledTransport(pool, owned=False, timeout=timeout), Layout("(the caller's own client)", prefix))

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        commands = [self._layout.create(new)]
        if new.owner is not None:
            # First the index: an entry without a session is repaired when read, a session without entry would be missed.
            commands.insert(0, self._layout.own(new.owner, new.session_id, new.absolute_ms or new.idle_ms))

        def answer(replies: list[Any]) -> Applied:
            return self._layout.created(new, self._outcome(new.session_id, replies))

        return await self._run(new.session_id, commands, answer, timeout, again=lambda: commands)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        def answer(replies: list[Any]) -> Record | None:
            return self._layout.record(session_id, self._good(session_id, replies))

        return await self._run(session_id, self._layout.read(session_id), answer, timeout)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        owner = changes.owner
        own = [] if owner is None else [self._layout.own(owner, session_id, changes.absolute_ms or changes.idle_ms)]
        commands = [*own, self._layout.update(session_id, changes)]

        def again() -> list[Command]:
            return [*own, self._layout.update(session_id, changes.again())]

        def answer(replies: list[Any]) -> Applied:
            return self._layout.updated(session_id, changes, self._outcome(session_id, replies))

        return await self._run(session_id, commands, answer, timeout, again=again)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        def answer(replies: list[Any]) -> tuple[bool, str | None]:
            self._good(session_id, replies[1:])  # the first may fail: what is no hash can be deleted too
            return self._layout.deleted(session_id, replies)

        existed, owner = await self._run(session_id, self._layout.delete(session_id), answer, timeout)
        if owner is not None:
            with suppress(StoreUnavailable):  # the session is gone, which is what counts; the index repairs itself
                await self._run("", [self._layout.left(owner, session_id)], lambda replies: None, timeout)
        return existed

    async def sessions_of(self, owner: str) -> list[Record]:
        def answer(replies: list[Any]) -> list[str]:
            return self._layout.listed(owner, self._good("", replies))

        session_ids = await self._run("", self._layout.owned(owner), answer, None)
        records, missing = [], []
        for first in range(0, len(session_ids), _BATCH):
            for session_id, record in await self._read_all(session_ids[first : first + _BATCH]):
                if record is not None and record.owner == owner:
                    records.append(record)
                else:
                    missing.append(session_id)
        if missing:
            with suppress(StoreUnavailable):
                await self._run(
                    "", [self._layout.disown(owner, missing)], lambda replies: self._good("", replies), None
                )
        return sorted(records, key=lambda record: record.touched_ms, reverse=True)

    async def close(self) -> None:
        await self._transport.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._layout.store}>"

    async def _read_all(self, session_ids: list[str]) -> list[tuple[str, Record | None]]:
        def answer(replies: list[Any]) -> list[tuple[str, Record | None]]:
            found = []
            for at, session_id in enumerate(session_ids):
                try:
                    record = self._layout.record(session_id, self._good(session_id, replies[2 * at : 2 * at + 2]))
                except CorruptRecord:
                    record = None
                found.append((session_id, record))
            return found

        return await self._run("", [part for each in session_ids for part in self._layout.read(each)], answer, None)

    async def _run(
        self,
        session_id: str,
        commands: list[Command],
        answer: Callable[[list[Any]], T],
        timeout: float | None,
        *,
        again: Callable[[], list[Command]] | None = None,
    ) -> T:
        """Send commands, and make an answer of their replies.

        Args:
            again: for a commit, which must take effect once, the commands with which to repeat it: they say that they are
                a repeat, and have the same operation id. `None` for commands that may be repeated as they are.
        """
        began = monotonic()
        try:
            result = await self._transport.exchange(commands, answer, timeout=timeout)
        except (ExchangeFailed, _ScriptUnknown) as trouble:
            left = None if timeout is None else max(0.0, timeout - (monotonic() - began))
            result = await self._run_again(session_id, commands, answer, left, again, trouble)
        self._budget.successes += 1
        return result

    async def _run_again(
        self,
        session_id: str,
        commands: list[Command],
        answer: Callable[[list[Any]], T],
        timeout: float | None,
        again: Callable[[], list[Command]] | None,
        trouble: ExchangeFailed | _ScriptUnknown,
    ) -> T:
        sent = isinstance(trouble, ExchangeFailed) and trouble.sent
        try:
            if isinstance(trouble, _ScriptUnknown):  # a restarted server has forgotten the scripts
                if trouble.committed and again is not None:
                    commands = again()
                commands = [with_script_text(command) for command in commands]
            elif not (trouble.worth_repeating and self._budget.spend()):
                raise trouble
            elif again is not None:
                commands = again()
            try:
                return await self._transport.exchange(commands, answer, timeout=timeout)
            except _ScriptUnknown:  # it was restarted in between
                commands = [with_script_text(command) for command in commands]
                return await self._transport.exchange(commands, answer, timeout=timeout)
        except ExchangeFailed as failed:
            if again is not None and (sent or failed.sent):
                raise OutcomeUnknown(self._layout.store, session_id, str(failed)) from failed
            raise StoreUnavailable(self._layout.store, str(failed)) from failed

    def _outcome(self, session_id: str, replies: list[Any]) -> Any:
        """The reply to a commit, which is the last. What becomes of the index before it must not pass for its fate."""
        unknown = [type(reply) is ErrorReply and reply.code == "NOSCRIPT" for reply in replies]
        if any(unknown):
            raise _ScriptUnknown(committed=not unknown[-1])
        return self._good(session_id, replies[-1:])[0]

    def _good(self, session_id: str, replies: list[Any]) -> list[Any]:
        """The replies, if none of them is an error."""
        for reply in replies:
            if type(reply) is ErrorReply:
                if reply.code == "NOSCRIPT":
                    raise _ScriptUnknown(committed=False)
                # Inside a script an older server puts its own words before the code.
                if "WRONGTYPE" in reply.message:
                    raise CorruptRecord(session_id, "its key holds another type")
                if "OOM " in reply.message:
                    raise StoreFull(self._layout.store, reply.message)
                raise StoreUnavailable(self._layout.store, reply.message)
        return replies


_BATCH = 100
"""How many sessions of an owner are read in one round trip."""


class _ScriptUnknown(Exception):
    """The server does not know a script by its SHA-1.

    Attributes:
        committed: whether it was another script than the commit's, which was therefore carried out.
    """

    def __init__(self, *, committed: bool) -> None:
        self.committed = committed


def _number(option: str, text: str, kind: type[N]) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = kind(0)
    if not 0 < number < 1_000_000:
        raise ConfigurationError(option, text, "not a positive number", f"Use one, for instance ?{option}=1")
    return number
