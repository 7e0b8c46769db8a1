"""What no column can hold is refused by its name before anything is sent, and costs no connection."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck.errors import (
    BadFieldName,
    NotACounter,
    OutcomeUnknown,
    SessionGone,
    StoreUnavailable,
    TooLong,
    UnstorableValue,
)
from coatcheck.stores.interface import AsyncStore
from coatcheck.stores.sql import SQLStore, SyncSQLStore
from coatcheck.testing import a_commit, a_record
from coatcheck.testing.contract import _ThreadedWithIndex
from tests.servers.postgresql import PostgreSQL

LONE = "half a pair: \ud800"
FIELD = "the name of session field 'x{39}y…' has 2001 bytes, and this store has room for 2000. Use a shorter name"
OWNER = "the owner 'x{39}y…' has 2001 bytes, and this store has room for 2000. Use a shorter one"
LONG = "x" * 39 + "y" * 1962

REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sets": {LONG: "1"}}, TooLong, FIELD),
    ({"sets": {"é" * 1001: "1"}}, TooLong, "has 2002 bytes"),
    ({"sets": {"\\" * 1001: "1"}}, TooLong, "has 2002 bytes"),  # as it is written
    ({"deletes": (LONG,)}, TooLong, FIELD),
    ({"increments": {LONG: 1}}, TooLong, FIELD),
    ({"retain": (LONG,)}, TooLong, FIELD),
    ({"owner": LONG}, TooLong, OWNER),
    ({"sets": {LONE: "1"}}, BadFieldName, "cannot name a session field"),
    ({"deletes": (LONE,)}, BadFieldName, "cannot name a session field"),
    ({"increments": {LONE: 1}}, BadFieldName, "cannot name a session field"),
    ({"owner": LONE}, ValueError, "owner='half a pair: .*valid Unicode"),
    ({"sets": {"basket": LONE}}, UnstorableValue, "session field 'basket' cannot hold this str: it contains half a"),
    ({"sets": {"basket": "a\0b"}}, UnstorableValue, "session field 'basket' cannot hold this str: it contains NUL"),
    ({"increments": {"hits": 2**63}}, NotACounter, "session field 'hits' .*64 bits"),
    ({"increments": {"hits": -(2**63) - 1}}, NotACounter, "session field 'hits' .*64 bits"),
]  # fmt: skip


def opened(kind: str, url: str) -> AsyncStore:
    return SQLStore.from_url(url) if kind == "async" else _ThreadedWithIndex(SyncSQLStore.from_url(url))


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_it_is_refused_by_name_and_nothing_is_written(database_url: str, kind: str) -> None:
    store: Any = opened(kind, database_url)
    new = a_record(fields={"hits": "-5", "é" * 1000: "1", "a\0\\b": "2"}, owner="me\0")
    await store.create(new)
    for changes, error, words in REFUSED:
        with pytest.raises(error, match=words):
            await store.update(new.session_id, a_commit(new, **changes))
        fields, owner = changes.get("sets", {}), changes.get("owner")
        if fields or owner:
            refused = a_record(fields=fields, owner=owner)
            with pytest.raises(error, match=words):
                await store.create(refused)
            assert await store.read(refused.session_id) is None
    record = await store.read(new.session_id)
    assert (record.version, record.fields, record.owner) == (1, new.fields, new.owner)
    assert await store.sessions_of(LONE) == await store.sessions_of(LONG) == []
    await store.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_id_that_is_none_is_nobodys(database_url: str, kind: str) -> None:
    """MySQL compares texts by rules of language, pads them with spaces, and refuses to compare some at all."""
    store = opened(kind, database_url)
    new = a_record()
    await store.create(new)
    for session_id in (
        new.session_id + " ",
        new.session_id[:-1],
        "é" * 16,
        LONE,
        "a\0b",
        "",
        "A" * 5000,
        "' OR 1=1 --",
    ):
        assert await store.read(session_id) is None
        with pytest.raises(SessionGone):
            await store.update(session_id, a_commit(new, sets={"a": "1"}))
        assert not await store.delete(session_id)
        with pytest.raises(ValueError, match="use 16 base64url characters"):
            await store.create(a_record(session_id=session_id))
    record = await store.read(new.session_id)
    assert record is not None
    assert record.version == 1
    await store.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("character", ["\ud800", "\0"])
async def test_what_cannot_be_sent_was_not_sent(postgresql: PostgreSQL, kind: str, character: str) -> None:
    """Whatever it is: nothing of it is unknown, and it is not sent again."""
    store = opened(kind, f"{postgresql.url}&timeout=20")
    new = a_record()
    await store.create(new)
    with pytest.raises(StoreUnavailable, match=r"is unavailable: (\w+)Error: ") as refused:
        await store.update(new.session_id, a_commit(new, operation=character * 8))
    assert not isinstance(refused.value, OutcomeUnknown)
    await store.close()
