"""What is sent is what was meant, however its bytes were made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import DecodeError

from coatcheck.changes import Changes, Renewal
from coatcheck.errors import ForeignReply
from coatcheck.stores.redis.commands import Command, pack, together
from coatcheck.stores.redis.layout import UPDATE, Layout, life_by_hand, life_by_json

ID = "4vGkq0cWm2n8Zx1B"
HASH = "h" * 44

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
renewals = st.builds(
    Renewal, secret_hash=st.just(HASH), grace_ms=st.integers(0, 10**6), replaces=st.none() | st.just("r" * 44)
)
commits = st.builds(
    Changes,
    proof=st.just(HASH),
    idle_ms=st.integers(1, 10**12),
    operation=st.just("op345678"),
    read_version=st.integers(0, 10**6),
    retry=st.booleans(),
    unchanged=st.booleans(),
    retain=st.none() | st.lists(names, max_size=3).map(tuple),
    sets=st.dictionaries(names, texts, max_size=4),
    deletes=st.lists(names, max_size=3).map(tuple),
    increments=st.dictionaries(names, st.integers(-(2**63), 2**63 - 1), max_size=3),
    renewal=st.none() | renewals,
    owner=st.none() | names,
)


def by_hiredis(commands: list[Command]) -> bytes:
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]


@given(commits, st.sampled_from(["coatcheck:", "läden:", ""]))
def test_a_commit_is_packed_as_its_commands_are(changes: Changes, prefix: str) -> None:
    commands = Layout("redis://localhost", prefix).update(ID, changes)
    assert pack(commands) == by_hiredis(list(commands))


@given(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_whoever_looks_at_packed_commands_finds_what_was_packed(key: str, arguments: list[str]) -> None:
    [command] = UPDATE.commands(key, arguments)
    assert [str(part) for part in command] == [str(part) for part in UPDATE.command(key, *arguments)]


@given(
    st.sampled_from(["coatcheck:", "läden:", ""]),
    st.sampled_from([ID, "short", "ein langer Name", "so lang wie üblich"]),
)
def test_so_is_a_read(prefix: str, session_id: str) -> None:
    layout = Layout("redis://localhost", prefix)
    key = layout.session_key(session_id)
    for commands, names in ((layout.read(session_id), ("HGETALL", "PTTL")), (layout.fields(session_id), ("HGETALL",))):
        assert list(commands) == [(name, key) for name in names]
        assert pack(commands) == by_hiredis([(name, key) for name in names])


@given(commits, st.sampled_from(["coatcheck:", "läden:", ""]))
def test_so_is_a_commit_with_a_read_after_it(changes: Changes, prefix: str) -> None:
    layout = Layout("redis://localhost", prefix)
    update, fields = layout.update(ID, changes), layout.fields(ID)
    commands = together(update, fields)
    assert list(commands) == [*update, *fields]
    assert pack(commands) == by_hiredis(list(commands))


numbers = st.one_of(
    st.integers(0, 10**16).map(str), st.sampled_from(["", "0", "00", "01", "-1", "1.0", "1e3", " 1", "٣", "[1]"])
)
lives = st.lists(numbers, min_size=5, max_size=7).map(",".join)


@given(
    st.one_of(
        lives.map(lambda life: f"[{life}]"), lives, st.lists(st.sampled_from("[],019 \udc80"), max_size=20).map("".join)
    )
)
@example("[2,1795395600123,0,124333,7200000,604800000]")
@example("[2,1795395600123,0,124333,7200000,604800000],")
@example("[0,0,0,0,0,999999999999999]")
@example("[0,0,0,0,0,1000000000000000]")
@example("[1,1,1,1,1,1]]")
@example("[1,1,1,1,1,1,]")
@example(f"[1,1,1,1,1,{2**64 + 1}]")
def test_a_life_is_the_same_by_hand_and_by_json(text: str) -> None:
    assert what_becomes_of(life_by_hand, text) == what_becomes_of(life_by_json, text)


def what_becomes_of(read: Callable[[str], tuple[int, ...]], text: str) -> tuple[int, ...] | None:
    try:
        return read(text)
    except DecodeError:
        return None


@pytest.mark.parametrize("other", [["a", {}], [{}, "a"], [["a"], "b"], [1, 2], [None, "a"]])
def test_a_list_of_what_no_hash_holds_is_somebody_elses(other: list[Any]) -> None:
    with pytest.raises(ForeignReply):
        Layout("here").record("4vGkq0cWm2n8Zx1B", [other, 1000])
