"""The all-to-all store: every web server holds every session."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import zmq
from msgspec.structs import replace

from coatcheck.changes import Applied, Changes, NewRecord, Renewal
from coatcheck.errors import CoatcheckError, ConfigurationError, Conflict, OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.record import Record, apply
from coatcheck.stores.interface import FreshRead
from coatcheck.stores.replicated.address import Target, has_ip
from coatcheck.stores.replicated.cluster import Batch, Cluster
from coatcheck.stores.replicated.freshness import Seen, after_commit, what_is_left
from coatcheck.stores.replicated.post import Post
from coatcheck.stores.replicated.replica import News, Replica

T = TypeVar("T")

_log = logging.getLogger("coatcheck")
_CLOCK_START = time.time_ns() - time.monotonic_ns()


def _now_ms() -> int:
    """Wall-clock time that never steps. Only for show: nothing compares it with another server's."""
    return (_CLOCK_START + time.monotonic_ns()) // 1_000_000


class ReplicatedStore:
    """Sessions on every web server. Each change goes to all of them before it is answered; any server serves any user.

    Reading asks nobody, unless the browser has seen more on another server than is here. A commit waits until every live peer
    has it (`ack=all`), most peers (`ack=majority`) or for nobody (`ack=none`); logins and logouts wait for every live peer
    in any case. A peer that says nothing for `silence` seconds, or whose connection breaks, is not waited for until it
    has caught up.

    The first call starts it: the process becomes one of the peers, and takes over what the others hold. Until it has
    that it serves nothing: calls wait, as long as they may.

    Args:
        target: who the peers are, and all limits.
        clock: milliseconds since 1970, on a clock that does not step; for tests.
    """

    def __init__(self, target: Target, *, clock: Callable[[], int] = _now_ms) -> None:
        self._target = target
        self._clock = clock
        self._starting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._list_is_known = True
        self._addresses: dict[str, str] = {}
        self._post: Post | None = None
        self._cluster: Cluster | None = None
        node = urlsafe_b64encode(os.urandom(6)).decode()
        self._replica = Replica(
            store=target.shown,
            node=node,
            clock=clock,
            max_sessions=target.max_sessions,
            max_bytes=target.max_bytes,
            max_message=target.max_message,
            remember_ms=round(target.remember * 1000),
        )

    @classmethod
    def from_url(cls, url: str) -> ReplicatedStore:
        """A store by URL; see `coatcheck.stores.replicated.address.Target` for its forms and options.

        Raises:
            ConfigurationError: an option that is unknown or cannot work.
        """
        return cls(Target.parse(url))

    # --- joining -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become one of the peers, without waiting for them.

        Raises:
            ConfigurationError: no peer's address is this machine's, or all of them are taken.
            StoreUnavailable: the peers' names cannot be looked up at present, or this process is not among them yet.
        """
        if self._closed:
            raise StoreUnavailable(self._target.shown, "it has been closed")
        if self._cluster is not None:
            if self._loop.is_closed():
                raise StoreUnavailable(
                    self._target.shown,
                    "its event loop has ended before it was closed. Close it where it was used, and open another one",
                )
            return
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_future()
            try:
                await self._start()
            except BaseException as error:
                waiting, self._starting = self._starting, None
                waiting.set_result(None)
                if isinstance(error, OSError):
                    raise StoreUnavailable(self._target.shown, f"its peers cannot be looked up: {error}") from None
                raise
            self._starting.set_result(None)
        else:
            await asyncio.wait([self._starting])
            await self.start()

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether all sessions are here, so that this process can serve. Starts the store, and waits for that.

        Args:
            timeout: seconds to wait at most; `None` for as long as it takes.
        """
        try:
            await self._serving(None if timeout is None else monotonic() + timeout)
        except StoreUnavailable:
            return False
        return True

    async def _start(self) -> None:
        target = self._target
        loop = self._loop = asyncio.get_running_loop()

        def received(head: bytes, body: bytes) -> None:
            if self._cluster is not None:
                self._cluster.receive(head, body)

        def connected(address: str) -> None:
            if self._cluster is not None:
                self._cluster.connected(address)

        def disconnected(address: str) -> None:
            if self._cluster is not None:
                self._cluster.disconnected(address)

        peers = self._addresses = await loop.run_in_executor(None, target.addresses)
        if self._closed:
            raise StoreUnavailable(target.shown, "it has been closed")
        post = Post(
            key=target.keys, silence=target.silence, max_message=target.max_message,
            received=received, connected=connected, disconnected=disconnected,
        )  # fmt: skip
        try:
            me = self._listen(post, peers)
        except BaseException:
            post.close()
            raise
        self._post = post
        self._cluster = Cluster(
            self._replica, post, me=me, silence=target.silence, compare=target.compare,
            remember_ms=round(target.remember * 1000), quorum=target.quorum, settings=target.shared,
            max_queue=target.max_queue, max_message=target.max_message, clock_ms=self._clock,
            now=loop.time, soon=loop.call_soon, drop=self._reconnect,
        )  # fmt: skip
        self._meet(set(peers.values()))
        self._reread_at = loop.time() + target.reread
        self._tick()

    def _listen(self, post: Post, peers: dict[str, str]) -> str:
        """Become the first peer whose address can be listened on."""
        target = self._target
        if target.listen is not None:
            me = target.me or target.listen
            mine = peers.get(me, me)
            try:
                post.listen(target.listen)
            except zmq.ZMQError as error:
                raise ConfigurationError(
                    "listen", target.listen, f"nothing can listen there ({error})", "Use a free address of this machine"
                ) from None
            if mine not in filter(has_ip, peers.values()):
                raise self._is_no_peer([f"{me} is not among them, or its name cannot be looked up"])
            return mine
        problems = []
        for name, address in peers.items():
            if target.me in (None, name):
                try:
                    post.listen(address)
                except zmq.ZMQError as error:
                    problems.append(f"{name}: {error}")
                else:
                    return address
        raise self._is_no_peer(problems)

    def _is_no_peer(self, problems: list[str]) -> CoatcheckError:
        target = self._target
        if target.source != "list" or not all(map(has_ip, self._addresses.values())):  # that may change any moment
            return StoreUnavailable(
                target.shown, f"this process is none of the peers that are known at present ({'; '.join(problems)})"
            )
        return ConfigurationError(
            "store", target.shown, f"this process can be none of the peers ({'; '.join(problems) or 'none is listed'})",
            "List an address of this machine with a free port for each process, as in 'host:7946-7949' for four; "
            "or give ?me= and ?listen= where the others reach it under another address",
        )  # fmt: skip

    def _meet(self, addresses: set[str]) -> None:
        cluster, post = self._cluster, self._post
        assert cluster is not None
        assert post is not None
        new, old = cluster.set_peers(addresses - {cluster.me})
        self._replica.servers = len(addresses | {cluster.me})
        for address in filter(has_ip, old):
            post.disconnect(address)
        for address in filter(has_ip, new):
            post.connect(address)

    def _reconnect(self, address: str) -> None:
        if self._post is not None:
            self._post.disconnect(address)
            self._post.connect(address)

    def _tick(self) -> None:
        cluster = self._cluster
        if cluster is None:
            return
        loop = asyncio.get_running_loop()
        cluster.tick()
        self._timer = loop.call_later(min(0.1, self._target.silence / 10) if cluster.ready else 0.02, self._tick)
        if self._target.moves and loop.time() >= self._reread_at:
            self._reread_at = float("inf")  # one look at a time, however slow DNS is
            loop.run_in_executor(None, self._target.addresses, self._addresses).add_done_callback(self._reread)

    def _reread(self, read: asyncio.Future[dict[str, str]]) -> None:
        if read.cancelled() or self._cluster is None:
            return
        self._reread_at = asyncio.get_running_loop().time() + self._target.reread
        error = read.exception()
        known, self._list_is_known = self._list_is_known, error is None
        if error is None:
            self._addresses = read.result()
            self._meet(set(self._addresses.values()))
        elif known:
            _log.warning(
                "%s: the list of peers cannot be read; going on with the last one: %s", self._target.shown, error
            )

    # --- the verbs ---------------------------------------------------------------------------------------------------

    async def create(self, new: NewRecord, *, timeout: float | None = None) -> Applied:
        applied, confirmed = await self._commit(new.session_id, lambda: self._replica.create(new), timeout)
        return applied if confirmed else self._handing_out(new.session_id, applied, "", confirmed=False)

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        cluster = self._cluster
        if cluster is None or not cluster.serves:
            await self._serving(self._deadline(timeout))
        return self._replica.read(session_id)

    async def read_fresh(self, session_id: str, seen: str, *, timeout: float | None = None) -> FreshRead:
        deadline = self._deadline(timeout)
        cluster = await self._serving(deadline)
        wanted = Seen.parse(seen)
        if wanted is None:
            return FreshRead(self._replica.read(session_id), seen="")
        if self._replica.includes(session_id, wanted):
            return FreshRead(self._replica.read(session_id))
        by_all = await self._inquire(cluster, session_id, wanted, min(deadline, monotonic() + self._target.catch_up))
        await self._serving(deadline)
        included, record = self._replica.includes(session_id, wanted), self._replica.read(session_id)
        if included or record is None:
            return FreshRead(record)
        if not by_all:
            cluster.counts.stale += 1
            return FreshRead(record, "late")
        cluster.counts.rolled_back += 1
        self._replica.give_up(session_id)
        state = self._replica.state_of(session_id)
        return FreshRead(record, "rolled back", "" if state is None else what_is_left(wanted, state))

    def read_here(self, session_id: str) -> Record | None:
        """What this process holds, without asking whether it is ready. May be called on any thread."""
        return self._replica.read(session_id)

    def has(self, session_id: str, seen: str) -> bool:
        """Whether this process holds all that a freshness token stands for. May be called on any thread."""
        wanted = Seen.parse(seen)
        return wanted is not None and self._replica.includes(session_id, wanted)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        if changes.unchanged:
            return await self._update_unchanged(session_id, changes, timeout)
        renews = changes.renewal is not None
        applied, confirmed = await self._commit(
            session_id, lambda: self._replica.update(session_id, changes), timeout, everyone=renews
        )
        return self._judge(session_id, changes, applied, confirmed)

    async def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
        deadline = self._deadline(timeout)
        cluster = await self._serving(deadline)
        existed, news = self._replica.delete(session_id)
        # It is waited for even if there was nothing: somebody may have ended it just now.
        if not await self._told(cluster.tell(news), None, deadline):
            raise StoreUnavailable(
                self._target.shown, f"session {session_id} was ended here, but not every server has confirmed it yet"
            )
        return existed

    async def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
        await self._serving(self._deadline(timeout))
        return self._replica.sessions_of(owner)

    async def close(self) -> None:
        """Leave the peers, as soon as they have what was told last: `silence` seconds later at most. What is held here is
        held by them. A commit that they have not confirmed by then is answered as unknown."""
        self._closed = True
        try:
            if self._cluster is not None:
                await self._told(self._cluster.tell(None), None, monotonic() + self._target.silence)
        finally:
            self._leave()

    def _leave(self) -> None:
        cluster, self._cluster = self._cluster, None
        if self._timer is not None:
            self._timer.cancel()
        if cluster is not None:
            cluster.leave()
        if self._post is not None:
            self._post.close()
            self._post = None

    @property
    def is_ready(self) -> bool:
        """Whether this process serves at present."""
        return self._cluster is not None and self._cluster.serves

    @property
    def digest(self) -> str:
        """What this process holds, in short: equal on all servers when all have heard of everything."""
        return self._replica.digest

    @property
    def figures(self) -> dict[str, int]:
        """Numbers for metrics: `sessions` and `bytes` held here, `live` peers, `bytes_sent` and `bytes_received` since the
        start, connections `refused`, and those of `coatcheck.stores.replicated.cluster.Counts`."""
        figures = {"sessions": len(self._replica), "bytes": self._replica.bytes, "live": 0}
        if self._cluster is not None and self._post is not None:
            counts, post = self._cluster.counts, self._post
            figures |= {
                "live": self._cluster.following,
                "bytes_sent": post.bytes_sent,
                "bytes_received": post.bytes_received,
                "refused": post.refused,
                "discarded": counts.discarded,
                "gaps": counts.gaps,
                "repaired": counts.repaired,
                "parted": counts.parted,
                "asked": counts.asked,
                "stale": counts.stale,
                "rolled_back": counts.rolled_back,
            }
        return figures

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target.shown}, {len(self._replica)} sessions>"

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _commit(
        self,
        session_id: str,
        do: Callable[[], tuple[T, News | None]],
        timeout: float | None,
        *,
        everyone: bool = False,
    ) -> tuple[T, bool]:
        """Make a change here, and have it confirmed. Returns the answer, and whether every peer has confirmed it."""
        deadline = self._deadline(timeout)
        cluster = await self._serving(deadline)
        enough = self._enough(cluster, everyone)
        while cluster.congested:  # whoever makes news faster than others take them in has to wait for them
            if monotonic() >= deadline:
                raise StoreUnavailable(self._target.shown, "a peer does not keep up with the changes")
            await asyncio.sleep(0.005)
        while True:
            answer, news = do()
            generation = self._replica.generation_of(session_id)
            batch = cluster.tell(news)
            if not await self._told(batch, enough, deadline) or batch.acknowledged < (enough or 0):
                raise OutcomeUnknown(
                    self._target.shown,
                    session_id,
                    "it is applied here, but not enough servers have confirmed it in time",
                )
            if self._replica.generation_of(session_id) == generation:
                return answer, batch.acknowledged >= len(cluster.peers)
            # Its user logged in or out on another server meanwhile, so that nothing came of this commit. What that means
            # for it is decided by what the session is now.

    async def _update_unchanged(self, session_id: str, changes: Changes, timeout: float | None) -> Applied:
        """A commit under `require_unchanged`: nobody else may make one of the same session at the same time."""
        deadline = self._deadline(timeout)
        cluster = await self._serving(deadline)
        present = self._replica.read(session_id)
        if present is None:
            raise SessionGone(session_id)
        apply(present, changes, session_id, present.read_at_ms)  # what is refused anyway needs no claim
        claim = self._replica.claim(session_id, max(1, round((deadline - monotonic()) * 1000)))
        if claim is None:
            raise Conflict(session_id)
        try:
            if not await self._told(cluster.tell(None, claim), None, deadline):
                raise StoreUnavailable(
                    self._target.shown, "not every server has confirmed in time that it may be changed"
                )
            if not self._replica.holds(claim):
                raise Conflict(session_id)
            left = max(0.0, deadline - monotonic())
            applied, confirmed = await self._commit(
                session_id, lambda: self._replica.update(session_id, changes), left, everyone=True
            )
        finally:
            over = replace(claim, for_ms=0)
            self._replica.learn_claim(over)
            cluster.tell(None, over)
        return self._judge(session_id, changes, applied, confirmed)

    def _judge(self, session_id: str, changes: Changes, applied: Applied, confirmed: bool) -> Applied:
        """The answer to a commit, as it is for the browser."""
        if changes.renewal is not None and applied.renewed:
            applied = self._judge_renewal(session_id, changes.renewal, applied)
        if not changes.operation:  # a mere touch is nothing that could be missed
            return replace(applied, seen=changes.seen) if changes.seen else applied
        if confirmed and not changes.seen:
            return applied
        return self._handing_out(session_id, applied, changes.seen, confirmed=confirmed)

    def _handing_out(self, session_id: str, applied: Applied, seen: str, *, confirmed: bool) -> Applied:
        """With the freshness token that the browser is to hold: others may not have heard of this yet."""
        state = self._replica.state_of(session_id)
        if state is None:
            return applied
        shown = Seen.parse(seen) if seen else None
        token = after_commit(shown, state, self._replica.clock.node, confirmed=confirmed)
        return replace(applied, seen=token)

    def _judge_renewal(self, session_id: str, renewal: Renewal, applied: Applied) -> Applied:
        """Of two periodic renewals on two servers at once one takes place: the browser must not get the other's ticket."""
        present = self._replica.read(session_id)
        if present is None or present.secret_hash == renewal.secret_hash:
            return applied
        return replace(applied, renewed=False, by_previous=True)

    def _enough(self, cluster: Cluster, everyone: bool) -> int | None:
        """How many peers must confirm a commit; `None` for all live ones.

        Raises:
            StoreUnavailable: there are not so many.
        """
        ack = self._target.ack
        if ack == "majority" and cluster.following < cluster.majority:
            raise StoreUnavailable(
                self._target.shown, "most of its peers are out of reach, so that nothing can be changed"
            )
        if everyone or ack == "all":
            return None
        return cluster.majority if ack == "majority" else 0

    async def _inquire(self, cluster: Cluster, session_id: str, wanted: Seen, until: float) -> bool:
        """Ask the others for what was seen of a session, and wait for it. Returns whether all of them have answered."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        is_here = partial(self._replica.includes, session_id, wanted)
        inquiry = cluster.inquire(session_id, is_here, lambda: _finish(done))
        if inquiry is None:
            return False
        try:
            await asyncio.wait([done], timeout=max(0.0, until - monotonic()))
        finally:
            cluster.inquired(inquiry)
        return inquiry.answered_by_all

    async def _told(self, batch: Batch, enough: int | None, deadline: float) -> bool:
        """Wait until that many peers have it. Returns whether that came about in time."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.when(enough, lambda: _finish(done))
        await asyncio.wait([done], timeout=max(0.0, deadline - monotonic()))
        return done.done() and self._cluster is not None  # who leaves waits for nobody, and has told nobody

    def _deadline(self, timeout: float | None) -> float:
        return monotonic() + (self._target.timeout if timeout is None else timeout)

    async def _serving(self, deadline: float | None) -> Cluster:
        """The cluster, as soon as this process serves."""
        await self.start()
        loop = asyncio.get_running_loop()
        while True:
            cluster = self._cluster
            if cluster is None:
                raise StoreUnavailable(self._target.shown, "it has been closed")
            if cluster.serves:
                return cluster
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise StoreUnavailable(
                    self._target.shown, "this server is not ready: it has not caught up with its peers yet"
                )
            became_ready: asyncio.Future[None] = loop.create_future()
            if cluster.ready:  # but has slept, and has to notice
                loop.call_later(0.05, _finish, became_ready)
            else:
                cluster.when_ready.append(partial(_finish, became_ready))
            await asyncio.wait([became_ready], timeout=left)


def _finish(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
