"""What reads most replies gives what hiredis gives, whatever comes, and however it is split."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.stores.redis.replies import NOTHING, Replies
from coatcheck.stores.redis.transport import ErrorReply
from tests.stores.test_conversation import in_pieces, replies, resp

cuts = st.lists(st.integers(0, 10_000), max_size=12)


def read(reader: Any, pieces: list[bytes]) -> list[Any]:
    """All that a reader gives, with its types, and what it refuses."""
    read: list[Any] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (reply := reader.gets()) is not NOTHING:
                read.append((type(reply), repr(reply)))
        except (hiredis.ProtocolError, TypeError) as error:
            return [*read, (type(error), str(error))]
    return read


def hiredis_reader() -> hiredis.Reader:
    return hiredis.Reader(encoding="utf-8", errors="surrogateescape", replyError=ErrorReply, notEnoughData=NOTHING)


def push(values: list[Any]) -> bytes:
    return b">" + resp(values)[1:]


@given(st.lists(st.one_of(replies.map(resp), st.lists(replies, max_size=3).map(push)), max_size=12), cuts)
def test_replies_are_those_of_hiredis_however_the_bytes_are_split(sent: list[bytes], cuts: list[int]) -> None:
    pieces = in_pieces(b"".join(sent), cuts)
    assert read(Replies(quick=True), pieces) == read(hiredis_reader(), pieces)


@pytest.mark.parametrize("quick", [True, False])
@given(sent=st.lists(replies.map(resp), max_size=6), cuts=cuts)
@example(sent=[resp([[]])], cuts=[4])
def test_a_reader_knows_whether_it_is_inside_a_reply(quick: bool, sent: list[bytes], cuts: list[int]) -> None:
    reader = Replies(quick=quick)
    ends, come = {0, *accumulate(map(len, sent))}, 0
    for piece in in_pieces(b"".join(sent), cuts):
        read(reader, [piece])
        come += len(piece)
        assert reader.has_data() == (come not in ends)


_SCRAPS = b"\r\n $ % * > : 0 1 -1 $1\r\na\r\n %1\r\n *2\r\n $-1\r\n \xff".split(b" ")


@given(st.lists(st.one_of(st.sampled_from(_SCRAPS), st.binary(max_size=3)), max_size=14).map(b"".join), cuts)
@example(b":05\r\n", [])
@example(b":-0\r\n", [])
@example(b":\r\n", [])
@example(b":1234567890123456789\r\n:12345678901234567890\r\n", [])
@example(b"$01\r\na\r\n", [])
@example(b"$3\r\nab\r\n\r\n", [])
@example(b"$1\r\nab\r\n", [])
@example(b"$1\r\na\n\n:1\r\n", [])
@example(b"%1\r\n:1\r\n:2\r\n", [])
@example(b"%1\r\n$1\r\na\r\n%1\r\n$1\r\nb\r\n:1\r\n", [])
@example(b"%1\r\n*0\r\n:2\r\n", [])
@example(b"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", [])
@example(b"*-1\r\n%-1\r\n", [])
@example(b"+OK\r\n:1\r\n-ERR no\r\n:2\r\n", [4, 9, 20])
@example("$4\r\nGöß\r\n$2\r\nab\r\n".encode(), [])
def test_what_is_no_reply_is_refused_as_by_hiredis(data: bytes, cuts: list[int]) -> None:
    pieces = in_pieces(data, cuts)
    assert read(Replies(quick=True), pieces) == read(hiredis_reader(), pieces)
