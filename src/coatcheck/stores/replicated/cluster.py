"""Who is there, who is in step with whom, and when a commit has reached everybody. Pure: what it sends goes to a `Postman`,
and what time it is, it is told.

Each server tells each other one a numbered line of messages. Everything said in it has been taken in up to a number that
comes back with whatever the other one says. A gap in the numbers, a new process or a long silence means that something was
missed: then the one who missed it goes through the other's sessions, bucket by bucket, and takes what differs. Until
that is done he is *out of step* with the other one, whose commits do not wait for him.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from coatcheck.stores.replicated.inquiries import Inquiries, Inquiry
from coatcheck.stores.replicated.messages import (
    PROTOCOL,
    Answer,
    Ask,
    Body,
    Compare,
    Differ,
    Fetch,
    Given,
    Head,
    ListBucket,
    Listed,
    Stage,
    Tell,
    decode_body,
    decode_head,
    encode,
)
from coatcheck.stores.replicated.replica import BUCKETS, Claim, News, Replica
from coatcheck.ticket import is_session_id

_log = logging.getLogger("coatcheck")

CHUNK = 256 * 1024
"""Bytes of sessions in one answer to somebody who catches up: all the memory that this takes."""

_AT_ONCE = 500  # sessions asked for at once
NEVER = float("-inf")
MOST_INQUIRIES = 256
"""Questions to all peers under way at once, on behalf of browsers that have seen more than is here."""


class Postman(Protocol):
    """What carries messages; see `Post`."""

    def send(self, address: str, head: bytes, body: bytes) -> bool:
        """Whether it could leave."""
        ...


class Batch:
    """News that left together, and whose acknowledgement is outstanding."""

    __slots__ = ("_left", "_when_done", "acknowledged", "waiting")

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self._left = False
        self.acknowledged = 0
        self._when_done: list[tuple[int | None, Callable[[], None]]] = []

    def when(self, acknowledged: int | None, act: Callable[[], None]) -> None:
        """Act when so many peers have it, or no further one will; `None` for all that it was sent to."""
        if self._is_enough(acknowledged):
            act()
        else:
            self._when_done.append((acknowledged, act))

    def settle(self, address: str, *, acknowledged: bool) -> None:
        """This peer has it, or has gone."""
        if address in self.waiting:
            self.waiting.remove(address)
            self.acknowledged += acknowledged
            self._act()

    def left(self) -> None:
        """It is known now who it was sent to."""
        self._left = True
        self._act()

    def _act(self) -> None:
        due = [each for each in self._when_done if self._is_enough(each[0])]
        self._when_done = [each for each in self._when_done if not self._is_enough(each[0])]
        for _, act in due:
            act()

    def _is_enough(self, acknowledged: int | None) -> bool:
        if not self._left:
            return False
        return not self.waiting or (acknowledged is not None and self.acknowledged >= acknowledged)


@dataclass(slots=True)
class _Walk:
    """A way through another one's sessions."""

    since: float
    buckets: deque[int] = field(default_factory=deque)
    bucket: int = -1
    wanted: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Peer:
    """Another server, as this one sees it.

    Attributes:
        address: as it stands in the list.
        number: of the last message to it.
        in_flight: bytes of messages to it that it has not heard of.
        follows: whether it is in step with us, so that commits wait for it.
        node: its name for the present start of its process; `""` if it was never heard.
        next: the number of its next message.
        heard_at: when it was heard last.
        stage, group, waits: what it said last; see `Head`.
        former: its name for the start before, and how often it was called by that again: two processes that share an address.
        synced: whether we are in step with it.
        outranks: whether we do not serve until we are.
        parted_ms: when we were in step with it last, by the sessions' clock; `None` if never, or still.
        parted_node: its name then.
    """

    address: str
    number: int = 0
    in_flight: int = 0
    follows: bool = False
    node: str = ""
    next: int = 0
    heard_at: float = NEVER
    former: str = ""
    returned: int = 0
    stage: Stage = Stage.STARTING
    group: int = 1
    waits: bool = False
    synced: bool = False
    outranks: bool = False
    parted_ms: int | None = None
    parted_node: str = ""
    sent: deque[tuple[int, int]] = field(default_factory=deque)
    batches: deque[tuple[int, Batch]] = field(default_factory=deque)
    walk: _Walk | None = None
    compared_at: float = NEVER
    said_at: float = NEVER
    owed: bool = False


@dataclass(slots=True)
class Counts:
    """What went wrong and was put right, since the start.

    Attributes:
        discarded: messages that could not be understood, or came from somebody who is not in the list of peers.
        gaps: times that something was found missing in what a peer said.
        repaired: sessions that a periodic comparison brought up to date.
        asked: times that a browser had seen more of its session than was here, so that the others were asked.
        stale: of these, how often it could not be had in time.
        rolled_back: of these, how often nobody had it any more.
        parted: times that a peer left the live set.
    """

    discarded: int = 0
    gaps: int = 0
    repaired: int = 0
    asked: int = 0
    stale: int = 0
    rolled_back: int = 0
    parted: int = 0


class Cluster:
    """This server among its peers.

    Args:
        replica: the sessions.
        post: what carries messages.
        me: this server's address.
        silence: seconds without a sign of life after which a peer counts as gone.
        compare: seconds between comparisons.
        remember_ms: how long deletions are remembered.
        quorum: see `Target`.
        settings: those in which all servers must be the same.
        max_queue: bytes under way to a peer at most.
        max_message: bytes of the largest message that peers take.
        clock_ms: the sessions' clock.
        now: seconds from anywhere, on a clock that does not step.
        soon: calls a function when this turn of the event loop is over.
        drop: called with a peer's address when what is under way to it should be dropped.
    """

    def __init__(
        self,
        replica: Replica,
        post: Postman,
        *,
        me: str,
        silence: float,
        compare: float,
        remember_ms: int,
        quorum: int,
        settings: dict[str, int | float | str],
        max_queue: int,
        max_message: int,
        clock_ms: Callable[[], int],
        now: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        drop: Callable[[str], None],
    ) -> None:
        self.replica = replica
        self.me = me
        self.peers: dict[str, Peer] = {}
        self.counts = Counts()
        self.ready = False
        self.when_ready: list[Callable[[], None]] = []
        self._post = post
        self._silence = silence
        self._compare = compare
        self._remember_ms = remember_ms
        self._quorum = quorum
        self._settings = settings
        self._max_queue = max_queue
        self._chunk = min(CHUNK, max_message // 2)
        self._clock_ms = clock_ms
        self._now = now
        self._soon = soon
        self._drop = drop
        self._numbers: dict[str, int] = {}
        self._news: list[News] = []
        self._claims: list[Claim] = []
        self._batch = Batch()
        self._inquiries = Inquiries()
        self._asked = False
        self._flush_is_due = False
        self._began = self._ticked_at = now()
        self._joining = True
        self._needs_quorum = True

    # --- what commits ask for ----------------------------------------------------------------------------------------

    @property
    def serves(self) -> bool:
        """Whether sessions may be shown: everything is here, and this process has not just slept through something."""
        return self.ready and self._now() - self._ticked_at <= self._silence

    @property
    def stage(self) -> Stage:
        """How far this process is."""
        if self.ready:
            return Stage.SERVING
        anybody = any(peer.node and peer.stage == Stage.SERVING for peer in self.peers.values())
        return Stage.JOINING if anybody else Stage.STARTING

    @property
    def following(self) -> int:
        """How many peers are in step with us."""
        return sum(peer.follows for peer in self.peers.values())

    @property
    def majority(self) -> int:
        """How many peers, without ourselves, it takes to make most of all there are."""
        return (len(self.peers) + 1) // 2

    @property
    def congested(self) -> bool:
        """Whether somebody does not keep up, so that commits should wait."""
        return any(peer.follows and peer.in_flight > self._max_queue // 2 for peer in self.peers.values())

    def tell(self, news: News | None, claim: Claim | None = None) -> Batch:
        """Let all peers know, at the end of this turn of the event loop. Without news, what is to be waited for
        is what was told last."""
        if news is not None:
            self._news.append(news)
        if claim is not None:
            self._claims.append(claim)
        self._asked = True
        self._flush_soon()
        return self._batch

    def inquire(self, session_id: str, is_enough: Callable[[], bool], act: Callable[[], None]) -> Inquiry | None:
        """Ask all peers for what they have of a session; see `Inquiry`. To be closed with `inquired`.

        `None` if too many such questions are under way: who makes up tokens must not keep everybody busy.
        """
        if len(self._inquiries) >= MOST_INQUIRIES:
            return None
        self.counts.asked += 1
        inquiry = self._inquiries.open(session_id, is_enough, act)
        now, mark = self._now(), self.replica.mark_of(session_id)
        inquiry.waiting = {peer.address for peer in self.peers.values() if now - peer.heard_at <= self._silence}
        inquiry.unanimous = len(inquiry.waiting) == len(self.peers)
        for address in sorted(inquiry.waiting):
            self._send(self.peers[address], Ask(inquiry.number, session_id, mark))
        inquiry.look()
        return inquiry

    def inquired(self, inquiry: Inquiry) -> None:
        """Nobody waits for the answers any more."""
        self._inquiries.close(inquiry)

    # --- who is there ------------------------------------------------------------------------------------------------

    def set_peers(self, addresses: set[str]) -> tuple[set[str], set[str]]:
        """Who the others are from now on. Returns who is new, and who is no longer."""
        new, old = addresses - self.peers.keys(), self.peers.keys() - addresses
        for address in old:
            gone = self.peers.pop(address)
            self._unfollow(gone)
            self._inquiries.lost(address)
            self._numbers[address] = gone.number  # if it comes back, it must not take what is new for old
        self.peers |= {address: Peer(address, number=self._numbers.pop(address, 0)) for address in sorted(new)}
        return new, set(old)

    def leave(self) -> None:
        """Be nobody's peer any more. Whoever waits for something goes on."""
        self.ready = False
        self.set_peers(set())
        self._wake_waiting()

    def connected(self, address: str) -> None:
        """A connection to this peer stands: say hello."""
        if address in self.peers:
            self._send(self.peers[address], None)

    def disconnected(self, address: str) -> None:
        """The connection to this peer broke: nobody waits for it until it has shown that it missed nothing."""
        if address in self.peers:
            self._forget_way(self.peers[address])

    # --- what others say ---------------------------------------------------------------------------------------------

    def receive(self, encoded_head: bytes, encoded_body: bytes) -> None:
        """Take in a message. One that cannot be understood is discarded and counted."""
        try:
            head = decode_head(encoded_head)
            body = decode_body(encoded_body)
            peer = self.peers[head.address]
            if head.protocol != PROTOCOL or head.node == self.replica.clock.node or not _is_sound(body):
                raise ValueError
        except (msgspec.DecodeError, ValueError, LookupError, RecursionError):
            self.counts.discarded += 1
            return
        self.replica.clock.see(head.clock)
        now = self._now()
        if head.node == peer.node and head.number < peer.next:
            # It was overtaken on the way, by another connection. News are news, in whatever order.
            if isinstance(body, Tell):
                self._learn(body.news)
            return
        peer.heard_at = now
        has_all_now = peer.stage == Stage.JOINING and head.stage == Stage.SERVING
        peer.stage, peer.group = head.stage, head.group
        missed = head.node != peer.node or head.number != peer.next or (peer.waits and not head.waits)
        peer.next, peer.waits = head.number + 1, head.waits
        if missed:
            self._lose_step(peer, head)
        heard_node, heard = head.heard
        self._note_heard(peer, heard if heard_node == self.replica.clock.node else -1, head.synced)
        self._act(peer, body, now)
        if (peer.walk is None and not peer.synced) or (has_all_now and not self.ready):
            self._begin_walk(peer, now)
        if not self.ready:
            self._judge_readiness(now)

    def _act(self, peer: Peer, body: Body, now: float) -> None:
        match body:
            case Tell(news, claims):
                self._learn(self._credible(peer, news))
                for claim in claims:
                    self.replica.learn_claim(claim)
                peer.owed = True
                self._flush_soon()
            case Compare(digests, settings):
                self._compare_settings(peer, settings)
                self._send(peer, Differ(self.replica.differing(digests)))
            case ListBucket(bucket):
                self._send(peer, Listed(bucket, self.replica.listing(bucket)))
            case Fetch(session_ids):
                self._send(peer, Given(*self.replica.news_of(session_ids, self._chunk)))
            case Ask(number, session_id, mark):
                same = self.replica.mark_of(session_id) == mark
                self._send(peer, Answer(number, [] if same else self.replica.news_of([session_id], self._chunk)[0]))
            case Answer(number, news):
                self._learn(self._credible(peer, news))
                self._inquiries.answered(number, peer.address)
            case Differ(buckets) if peer.walk is not None:
                peer.walk.buckets = deque(buckets)
                self._walk_on(peer, now)
            case Listed(bucket, listing) if peer.walk is not None and bucket == peer.walk.bucket:
                had_all = peer.stage == Stage.SERVING or peer.node == peer.parted_node  # and did not just start
                if had_all and peer.parted_ms is not None and self._apart_for_long(peer):
                    # Deleted there, and the deletion forgotten meanwhile? Better to lose it than to revive it.
                    for session_id in self.replica.old_and_unlisted(bucket, listing, peer.parted_ms):
                        self.tell(self.replica.delete(session_id)[1])
                peer.walk.wanted = self.replica.wanted(bucket, listing)
                self._walk_on(peer, now)
            case Given(news, count) if peer.walk is not None:
                changed = self._learn(self._credible(peer, news))
                if peer.synced:
                    self.counts.repaired += changed
                peer.walk.wanted = peer.walk.wanted[max(1, count) :]
                self._walk_on(peer, now)
            case _:
                pass

    def _learn(self, news: list[News]) -> int:
        changed = self.replica.learn(news)
        self._inquiries.heard_of(item.session_id for item in news)
        return changed

    def _credible(self, peer: Peer, news: list[News]) -> list[News]:
        """Without what may have been deleted here so long ago that nobody remembers."""
        parted = peer.parted_ms
        if parted is None or not self._apart_for_long(peer):
            return news
        return [item for item in news if item.session_id in self.replica or not self.replica.born_before(item, parted)]

    def _apart_for_long(self, peer: Peer) -> bool:
        return peer.parted_ms is not None and self._clock_ms() - peer.parted_ms > self._remember_ms

    # --- being in step -----------------------------------------------------------------------------------------------

    def _lose_step(self, peer: Peer, head: Head) -> None:
        if peer.node:
            self.counts.gaps += 1
        self._fall_out(peer)
        if peer.node != head.node:
            self._note_name(peer, head.node)
        serves = head.stage == Stage.SERVING
        rank = (serves, head.group, head.node)
        peer.outranks = serves and rank > (self.ready, self._group_without(peer), self.replica.clock.node)
        if peer.outranks and self.ready:
            self.ready = False
            _log.warning("%s: out of step with %s; not serving until it is made up for", self.me, peer.address)

    def _note_name(self, peer: Peer, node: str) -> None:
        if node == peer.former:
            peer.returned += 1
            if peer.returned == 10:  # more often than a few late messages of a process that has ended
                _log.error(
                    "%s: two processes say that they are %s, so that neither can get in step: give each a ?me= of its own",
                    self.me, peer.address,
                )  # fmt: skip
        if peer.node:
            peer.former = peer.node
        peer.node = node

    def _compare_settings(self, peer: Peer, settings: dict[str, int | float | str]) -> None:
        for name, theirs in settings.items():
            if theirs != self._settings.get(name):
                _log.warning(
                    "%s: %s has %s=%s, and this server %s: give all servers the same URL",
                    self.me, peer.address, name, theirs, self._settings.get(name),
                )  # fmt: skip

    def _fall_out(self, peer: Peer) -> None:
        if peer.synced:
            peer.parted_ms, peer.parted_node = self._clock_ms(), peer.node
        peer.synced, peer.walk = False, None

    def _begin_walk(self, peer: Peer, now: float) -> None:
        peer.walk = _Walk(now)
        peer.compared_at = now
        self._send(peer, Compare(self.replica.digests, {} if peer.synced else self._settings))

    def _walk_on(self, peer: Peer, now: float) -> None:
        walk = peer.walk
        assert walk is not None
        walk.since = now
        if walk.wanted:
            self._send(peer, Fetch(walk.wanted[:_AT_ONCE]))
        elif walk.buckets:
            walk.bucket = walk.buckets.popleft()
            self._send(peer, ListBucket(walk.bucket))
        else:
            peer.walk = None
            if not peer.synced:
                peer.synced, peer.outranks, peer.parted_ms = True, False, None
                self._send(peer, None)
            self._judge_readiness(now)

    def _note_heard(self, peer: Peer, heard: int, synced: bool) -> None:
        """What a peer has heard of what we told it."""
        while peer.sent and peer.sent[0][0] <= heard:
            peer.in_flight -= peer.sent.popleft()[1]
        if not synced or heard < 0:
            self._unfollow(peer)
            return
        if not peer.follows:
            peer.follows = True
            self._send(peer, None)  # it waits to be waited for
        while peer.batches and peer.batches[0][0] <= heard:
            peer.batches.popleft()[1].settle(peer.address, acknowledged=True)

    def _unfollow(self, peer: Peer) -> None:
        if peer.follows:
            peer.follows = False
            self.counts.parted += 1
        while peer.batches:
            peer.batches.popleft()[1].settle(peer.address, acknowledged=False)

    def _forget_way(self, peer: Peer) -> None:
        self._unfollow(peer)
        self._inquiries.lost(peer.address)
        peer.walk = None  # its question or the answer may be lost; whatever is heard next begins another
        peer.sent.clear()
        peer.in_flight = 0

    def _group_without(self, peer: Peer) -> int:
        return 1 + sum(other.synced for other in self.peers.values() if other is not peer)

    # --- saying something --------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._soon(self.flush)

    def flush(self) -> None:
        """Tell what there is to tell, and acknowledge what was heard."""
        self._flush_is_due = False
        self._tell_news()
        for peer in self.peers.values():
            if peer.owed:
                self._send(peer, None)

    def _tell_news(self) -> None:
        if not self._asked:
            return
        self._asked = False
        news, claims, batch = self._news, self._claims, self._batch
        self._news, self._claims, self._batch = [], [], Batch()
        for part in _in_parts(news, claims, self._chunk):
            for peer in self.peers.values():
                self._send_encoded(peer, part)
        batch.waiting = {peer.address for peer in self.peers.values() if peer.follows}
        for peer in self.peers.values():
            if peer.follows:
                peer.batches.append((peer.number, batch))
        batch.left()

    def _send(self, peer: Peer, body: Body) -> None:
        # News first: whoever learns that we heard of his commit must have heard of ours that came before.
        self._tell_news()
        self._send_encoded(peer, encode(body))

    def _send_encoded(self, peer: Peer, body: bytes) -> None:
        # What cannot be sent is counted all the same, so that the gap shows.
        peer.number += 1
        peer.owed = False
        now = peer.said_at = self._now()
        head = Head(
            PROTOCOL, self.me, self.replica.clock.node, peer.number, self.replica.clock.reading, self.stage,
            self._group_without(peer), (peer.node, peer.next - 1), peer.synced, peer.follows,
        )  # fmt: skip
        if not self._post.send(peer.address, encode(head), body):
            self._forget_way(peer)
            return
        if now - peer.heard_at <= self._silence:
            peer.sent.append((peer.number, len(body)))
            peer.in_flight += len(body)
            if peer.in_flight > self._max_queue:
                _log.warning("%s: %s does not keep up; it has to catch up", self.me, peer.address)
                self._forget_way(peer)
                self._drop(peer.address)

    # --- time passes -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """To be called several times within `silence`."""
        now = self._now()
        if now - self._ticked_at > self._silence:
            self._wake(now)
        self._ticked_at = now
        for peer in self.peers.values():
            if peer.node and now - peer.heard_at > self._silence:
                self._part(peer)
            elif peer.walk is not None and now - peer.walk.since > self._silence:
                self._begin_walk(peer, now)  # a question or its answer was lost
            elif peer.synced and peer.walk is None and now - peer.compared_at > self._compare:
                self._begin_walk(peer, now)
            in_step = peer.synced and peer.follows and peer.waits
            if now - peer.said_at > (self._silence / 8 if in_step else min(0.05, self._silence / 8)):
                self._send(peer, None)
        self.replica.sweep()
        self._judge_readiness(now)

    def _wake(self, now: float) -> None:
        """This process did not run for so long that the others went on without it."""
        self.ready, self._joining, self._needs_quorum, self._began = False, True, False, now
        for peer in self.peers.values():
            self._fall_out(peer)
            self._unfollow(peer)
            peer.heard_at, peer.waits = NEVER, False

    def _part(self, peer: Peer) -> None:
        _log.warning("%s: nothing heard of %s for %g s; going on without it", self.me, peer.address, self._silence)
        self._fall_out(peer)
        self._forget_way(peer)
        self._drop(peer.address)
        peer.node, peer.stage, peer.waits, peer.outranks = "", Stage.STARTING, False, False

    def _judge_readiness(self, now: float) -> None:
        if self.ready:
            return
        heard = [peer for peer in self.peers.values() if now - peer.heard_at <= self._silence]
        if self._joining:
            if len(heard) < len(self.peers) and now - self._began < self._silence:
                return  # others may be there; give them the time to be heard
            if self._needs_quorum and len(heard) < (self._quorum - 1 if self._quorum else self.majority):
                return
            if not all(peer.synced and peer.waits and peer.walk is None for peer in heard):
                return
            if max((peer.stage for peer in heard), default=Stage.STARTING) == Stage.JOINING:
                return  # they take over what somebody has whom this process does not hear
        elif any(peer.outranks and not peer.synced for peer in heard):
            return
        self.ready, self._joining = True, False
        for peer in heard:
            self._send(peer, None)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        waiting, self.when_ready = self.when_ready, []
        for act in waiting:
            act()


def _in_parts(news: list[News], claims: list[Claim], most_bytes: int) -> list[bytes]:
    """Encoded, in messages that are not too large, as far as sessions can be told one by one."""
    packed = encode(Tell(news, claims))
    if len(packed) <= most_bytes or len(news) < 2:
        return [packed]
    half = len(news) // 2
    return _in_parts(news[:half], claims, most_bytes) + _in_parts(news[half:], [], most_bytes)


def _is_sound(body: Body) -> bool:
    match body:
        case Compare(digests, _):
            return len(digests) == BUCKETS
        case ListBucket(bucket):
            return 0 <= bucket < BUCKETS
        case Tell(news) | Given(news) | Answer(_, news):
            return all(is_session_id(item.session_id) for item in news)
        case Ask(_, session_id):
            return is_session_id(session_id)
        case _:
            return True
