"""Replies find their requests, however the bytes come and whoever has stopped waiting; or the connection is given up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.stores.redis.conversation import Conversation, Leave, Request
from coatcheck.stores.redis.transport import ErrorReply, whole
from coatcheck.stores.redis.waiting import Waker


def asked_for(wanted: int, *, given_up: bool = False) -> Request[list[Any]]:
    """One who waits for so many replies, or has ceased to. Nobody is woken here, so no event loop is needed."""
    request = Request(Waker(cast(Any, None)), wanted, whole, 0.0, 1.0, [])
    if given_up:
        request.cancel()
    return request


def resp(value: Any) -> bytes:
    """A reply as a RESP3 server sends it."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case ErrorReply():
            return b"-%b\r\n" % str(value).encode()
        case str():
            text = value.encode("utf-8", "surrogateescape")
            return b"$%d\r\n%b\r\n" % (len(text), text)
        case float():
            return b",%b\r\n" % repr(value).encode()
        case tuple():  # which stands for a set here
            return b"~%d\r\n" % len(value) + b"".join(map(resp, value))
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
        case dict():
            return b"%%%d\r\n" % len(value) + b"".join(resp(key) + resp(item) for key, item in value.items())
    raise TypeError(value)


def comparable(value: Any) -> Any:
    """Errors compare by what they say."""
    match value:
        case ErrorReply():
            return "error", str(value)
        case list() | tuple():
            return [comparable(item) for item in value]
        case dict():
            return {key: comparable(item) for key, item in value.items()}
    return value


texts = st.one_of(
    st.text(max_size=20), st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape"))
)
replies = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        texts,
        st.from_regex(r"[A-Z]{2,8} [a-z ]{0,20}", fullmatch=True).map(ErrorReply),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=8,
)
requests = st.lists(st.tuples(st.lists(replies, min_size=1, max_size=3), st.booleans()), max_size=8)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[first:last] for first, last in pairwise(places)]


@given(requests, st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_everybody_gets_their_own_replies_however_the_bytes_are_split(
    asked: list[tuple[list[Any], bool]], cuts: list[int], pushes: bool
) -> None:
    pushed: list[Any] = []
    conversation = Conversation(on_push=pushed.append)
    stream = b""
    for answers, gives_up in asked:
        conversation.line.append(asked_for(len(answers), given_up=gives_up))
        if pushes:
            stream += b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"
        stream += b"".join(map(resp, answers))

    line = conversation.line.copy()
    for piece in in_pieces(stream, cuts):
        conversation.hear(piece)

    assert not conversation.line
    for request, (answers, gives_up) in zip(line, asked, strict=True):
        assert request.cancelled() == gives_up
        if not gives_up:
            assert comparable(request.result()) == comparable(answers)
    assert len(pushed) == (len(asked) if pushes else 0)


@given(requests, replies, st.lists(st.integers(0, 10_000), max_size=12))
def test_a_reply_that_nobody_asked_for_ends_the_conversation(
    asked: list[tuple[list[Any], bool]], surplus: Any, cuts: list[int]
) -> None:
    conversation = Conversation()
    stream = b""
    for answers, _ in asked:
        conversation.line.append(asked_for(len(answers)))
        stream += b"".join(map(resp, answers))
    with pytest.raises(Leave):
        for piece in in_pieces(stream + resp(surplus), cuts):
            conversation.hear(piece)


@given(st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=12))
def test_bytes_of_any_kind_are_replies_or_end_the_conversation(noise: bytes, cuts: list[int]) -> None:
    conversation = Conversation()
    request = asked_for(1)
    conversation.line.append(request)
    try:
        for piece in in_pieces(noise, cuts):
            conversation.hear(piece)
    except Leave:
        return
    assert request.done() != bool(conversation.line)  # still waiting, or answered: nothing in between
