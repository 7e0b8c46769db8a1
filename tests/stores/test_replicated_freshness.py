"""What a freshness token of the all-to-all store says, and that a copy which includes it lacks nothing. Pure."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from coatcheck.stores.replicated.freshness import MOST_SERVERS, Seen, after_commit, includes, what_is_left
from coatcheck.stores.replicated.merge import Secret, State, Touch
from coatcheck.stores.replicated.replica import News
from coatcheck.testing import a_commit, a_record
from coatcheck.ticket import LONGEST_SEEN, Ticket
from tests.stores.test_replicated_merge import Clock, a_replica, state_of

_nodes = st.from_regex(r"[A-Za-z0-9_-]{8}", fullmatch=True)
_counts = st.integers(1, 2**32 - 1)
_generations = st.tuples(st.integers(0, 2**52 - 1), _nodes)
_tokens = st.builds(
    Seen, _generations, st.lists(st.tuples(_nodes, _counts), max_size=MOST_SERVERS).map(tuple)
)  # fmt: skip


@given(_tokens)
def test_a_token_fits_into_its_cookie_and_says_what_it_said(token: Seen) -> None:
    ticket = Ticket.new()
    ticket.seen = str(token)
    assert len(ticket.seen) <= LONGEST_SEEN
    ticket.show(ticket.seen_cookie_value)
    assert Seen.parse(ticket.seen) == token


@given(st.text(max_size=LONGEST_SEEN) | st.from_regex(r"[0-9a-f~.A-Z-]{1,200}", fullmatch=True))
def test_anything_else_is_no_token(text: str) -> None:
    found = Seen.parse(text)
    assert found is None or Seen.parse(str(found)) == found
    for broken in (f"{text}.", f".{text}", f"{text} ", f"{text}~", f"{text}\n"):
        assert Seen.parse(broken) is None or not found


def test_what_no_server_hands_out_is_no_token() -> None:
    good = "1a~AAAAAAAA"
    assert Seen.parse(good) == Seen((26, "AAAAAAAA"))
    many = ".".join([good] * (MOST_SERVERS + 1))
    assert Seen.parse(many) is not None
    for text in ("", ".", "~", "1a", "1A~AAAAAAAA", "-1~AAAAAAAA", "1a~", "1a~AAAAAAAAA", "f" * 14 + "~A", f"{many}.{good}",
                 "\u0661~AAAAAAAA", good + "..", good + "\x00"):  # fmt: skip
        assert Seen.parse(text) is None, text


def a_state(generation: tuple[int, str], commits: dict[str, int]) -> State:
    clock = Clock()
    replica = a_replica("any", clock)
    new = a_record()
    replica.create(new)
    state = state_of(replica, new.session_id)
    assert isinstance(state.secret, Secret)
    assert isinstance(state.touch, Touch)
    return State(generation, state.origin, state.secret, state.touch, commits=commits)


@given(_tokens, st.dictionaries(_nodes, _counts, max_size=20), _generations, _nodes, st.booleans())
def test_the_server_that_committed_includes_its_own_token_as_far_as_it_included_the_one_before(
    shown: Seen, commits: dict[str, int], generation: tuple[int, str], node: str, confirmed: bool
) -> None:
    state = a_state(generation, commits)
    text = after_commit(shown, state, node, confirmed=confirmed)
    assert len(text) <= LONGEST_SEEN
    if text:
        token = Seen.parse(text)
        assert token is not None
        assert includes(state, token) or not includes(state, shown)
        if shown.generation == state.generation:
            kept = dict(shown.commits)
            kept.pop(node, None)
            assert set(list(kept)[: MOST_SERVERS - 1]) <= {name for name, _ in token.commits}, (
                "or what was seen is forgotten"
            )
    left = what_is_left(shown, state)
    reissued = Seen.parse(left)
    assert left == "" or (reissued is not None and includes(state, reissued)), "or it is asked for for ever"


# --- the one property that counts ----------------------------------------------------------------------------------------

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 2), st.integers(0, 1)),  # on which server, by which browser
        st.tuples(st.just("commit to all"), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("hear"), st.integers(0, 30), st.integers(0, 2)),  # which of the news under way, and who
        st.tuples(st.just("lose"), st.integers(0, 30), st.integers(0, 2)),
        st.tuples(st.just("copy"), st.integers(0, 2), st.integers(0, 2)),  # from whom to whom, all of it
        st.tuples(st.just("move"), st.integers(0, 1), st.integers(0, 1)),  # one browser's cookies go to the other
    ),
    max_size=40,
)


class Cluster:
    """Three servers, and two browsers that share a session. News get lost, overtake each other, and arrive late."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.servers = [a_replica(f"node-{n}", self.clock) for n in range(3)]
        self.new = a_record()
        _, birth = self.servers[0].create(self.new)
        self.under_way: list[tuple[int, int, int, News]] = []  # from, its number, to
        self.heard: dict[tuple[int, int], list[int]] = {(a, b): [] for a in range(3) for b in range(3)}
        self.told = [0, 0, 0]
        born = after_commit(None, state_of(self.servers[0], self.new.session_id), "node-0", confirmed=False)
        self.seen = [born, born]
        self.written: list[set[str]] = [set(), set()]
        self.tell(0, birth)

    def tell(self, who: int, news: News | None) -> None:
        assert news is not None
        self.told[who] += 1
        self.under_way += [(who, self.told[who], other, news) for other in range(3) if other != who]

    def do(self, step: tuple[str, int, int]) -> None:
        what, one, two = step
        if what in ("commit", "commit to all"):
            self.commit(one, two, waits=what != "commit")
        elif what in ("hear", "lose"):
            mine = [each for each in self.under_way if each[2] == two]
            if mine:
                item = mine[one % len(mine)]
                self.under_way.remove(item)
                if what == "hear":
                    self.servers[two].learn([item[3]])
                    self.heard[item[0], two].append(item[1])
        elif what == "copy" and one != two:
            self.servers[two].learn(self.servers[one].news_of([self.new.session_id], 1 << 30)[0])
        elif what == "move":
            self.seen[two] = self.seen[one]
            self.written[two] = self.written[one].copy()

    def commit(self, who: int, browser: int, *, waits: bool) -> None:
        server, session_id = self.servers[who], self.new.session_id
        state = server.state_of(session_id)
        if state is None or not state.complete:
            return
        entry = f"cart[{sum(map(len, self.written))}-{who}-{self.told}]"
        _, news = server.update(session_id, a_commit(self.new, sets={entry: "1"}))
        self.tell(who, news)
        for item in [each for each in self.under_way if waits and each[0] == who]:
            self.under_way.remove(item)
            self.servers[item[2]].learn([item[3]])
            self.heard[who, item[2]].append(item[1])
        state = server.state_of(session_id)
        assert state is not None
        confirmed = all(
            sorted(self.heard[who, other]) == list(range(1, self.told[who] + 1)) for other in range(3) if other != who
        )
        self.seen[browser] = after_commit(Seen.parse(self.seen[browser]), state, server.clock.node, confirmed=confirmed)
        self.written[browser].add(entry)

    def check(self) -> None:
        session_id = self.new.session_id
        for server in self.servers:
            for text, written in zip(self.seen, self.written, strict=True):
                token = Seen.parse(text)
                if written and (
                    token is None or server.includes(session_id, token)
                ):  # none: everybody has confirmed it
                    record = server.read(session_id)
                    assert record is not None
                    assert written <= record.fields.keys(), "it is said to be here, and is not"


@given(_steps)
@example(
    [("hear", 0, 1), ("commit", 0, 0), ("commit", 0, 0), ("hear", 1, 1), ("copy", 1, 2)]
)  # a copy with a gap goes on
@settings(max_examples=400, deadline=None)
def test_a_server_that_includes_a_token_has_all_that_its_browser_wrote(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.do(step)
        cluster.check()
    for item in cluster.under_way:  # what was only late arrives; nothing of it may be taken for missing then
        cluster.servers[item[2]].learn([item[3]])
    cluster.check()


@given(_steps)
@settings(max_examples=200, deadline=None)
def test_when_everything_has_arrived_in_whatever_order_the_others_can_tell_whoever_still_wonders(
    steps: list[Any],
) -> None:
    cluster = Cluster()
    for step in steps:
        if step[0] != "lose":
            cluster.do(step)
    for item in cluster.under_way:
        cluster.servers[item[2]].learn([item[3]])
    session_id = cluster.new.session_id
    for server in cluster.servers:
        for text in cluster.seen:
            token = Seen.parse(text)
            if token is not None and not server.includes(session_id, token):
                for other in cluster.servers:
                    server.learn(other.news_of([session_id], 1 << 30)[0])
                assert server.includes(session_id, token)
    cluster.check()
