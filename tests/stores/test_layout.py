"""What is sent is what was meant, however its bytes were made."""

from __future__ import annotations

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.record import Changes, Renewal
from coatcheck.stores.redis.conversation import pack
from coatcheck.stores.redis.layout import Layout
from coatcheck.stores.redis.transport import Command

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


@given(st.sampled_from(["coatcheck:", "läden:", ""]))
def test_so_is_a_read(prefix: str) -> None:
    commands = Layout("redis://localhost", prefix).read(ID)
    assert pack(commands) == by_hiredis(list(commands))
