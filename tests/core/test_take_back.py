"""What an opponent found: sessions that were read again, loaded twice at once, or refused while they were in use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coatcheck.changes import Applied, Changes
from coatcheck.errors import BadFieldName, Conflict, SessionGone, StoreUnavailable
from coatcheck.manager import AsyncSession, SessionManager
from coatcheck.record import Record
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore


class SlowStore(AsyncMemoryStore):
    """A store that takes its time, so that others come in between, and that can be told to refuse."""

    refusing = False

    async def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
        await asyncio.sleep(0.01)
        return await super().read(session_id, timeout=timeout)

    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        await asyncio.sleep(0.02)
        if self.refusing:
            raise StoreUnavailable("here", "for a test")
        return await super().update(session_id, changes, timeout=timeout)


@pytest.fixture
def store() -> SlowStore:
    return SlowStore(MemoryStore())


@pytest.fixture
def manager(store: SlowStore) -> SessionManager:
    return SessionManager(store, observers=[])


async def stored(manager: SessionManager, **fields: Any) -> AsyncSession:
    session = manager.session_for([])
    session.update(fields)
    await session.commit()
    return session


def again(manager: SessionManager, session: AsyncSession) -> AsyncSession:
    assert session.ticket is not None
    return manager.session_for([(b"cookie", b"__Host-session=" + session.ticket.cookie_value.encode())])


async def loaded(manager: SessionManager, session: AsyncSession) -> AsyncSession:
    another = again(manager, session)
    await another.load()
    return another


async def test_a_login_after_a_conflict_drops_what_was_planted_all_the_same(manager: SessionManager) -> None:
    begun = await stored(manager, planted="evil")
    one, other = await loaded(manager, begun), await loaded(manager, begun)
    other["other"] = 1
    await other.commit()
    one.require_unchanged()
    one.renew(owner="bob")
    one["user"] = "bob"
    with pytest.raises(Conflict):
        await one.commit()
    await one.reload()
    assert one.owner is None
    one.renew(owner="bob")
    one["user"] = "bob"
    await one.commit()
    assert dict(await loaded(manager, one)) == {"user": "bob"}


async def test_reading_anew_drops_a_login_too(manager: SessionManager, store: SlowStore) -> None:
    begun = await stored(manager, planted="evil")
    one = await loaded(manager, begun)
    one.renew(owner="bob")
    await one.reload()
    await one.commit()
    assert (await loaded(manager, one)).owner is None
    one.renew(owner="bob")
    assert one.session_id is not None
    await store.delete(one.session_id)
    with pytest.raises(SessionGone):
        await one.reload()
    await one.commit()
    assert one.is_new, "nobody was logged in by a session that is gone"


async def test_two_tasks_that_load_at_once_lose_nothing(manager: SessionManager) -> None:
    begun = await stored(manager, n=1)
    session = again(manager, begun)

    async def put(name: str) -> None:
        await session.load()
        session[name] = 1

    await asyncio.gather(put("a"), put("b"))
    await session.commit()
    assert dict(await loaded(manager, begun)) == {"n": 1, "a": 1, "b": 1}

    session = again(manager, begun)

    async def log_out() -> None:
        await session.load()
        session.destroy()

    await asyncio.gather(log_out(), session.load())
    await session.commit()
    assert (await loaded(manager, begun)).is_new


async def test_what_is_changed_in_place_during_a_commit_that_is_refused_is_stored_by_the_next(
    manager: SessionManager, store: SlowStore
) -> None:
    begun = await stored(manager, items=[1])
    session = await loaded(manager, begun)
    session["x"] = 2
    store.refusing = True
    commit = asyncio.ensure_future(session.commit())
    await asyncio.sleep(0.005)
    session["items"].append(2)
    with pytest.raises(StoreUnavailable):
        await commit
    store.refusing = False
    await session.commit()
    assert dict(await loaded(manager, begun)) == {"items": [1, 2], "x": 2}


async def test_what_is_cleared_during_a_commit_that_is_refused_stays_cleared(
    manager: SessionManager, store: SlowStore
) -> None:
    begun = await stored(manager, c="text", planted="evil")
    session = await loaded(manager, begun)
    session["x"] = 2
    store.refusing = True
    commit = asyncio.ensure_future(session.commit())
    await asyncio.sleep(0.005)
    session.clear()
    session.increment("c")
    with pytest.raises(StoreUnavailable):
        await commit
    assert dict(session) == {"c": 1}
    store.refusing = False
    await session.commit()
    assert dict(await loaded(manager, begun)) == {"c": 1}


async def test_what_was_read_anew_is_not_overwritten_by_a_commit_that_was_refused_meanwhile(
    manager: SessionManager, store: SlowStore
) -> None:
    begun = await stored(manager, n=1)
    session = await loaded(manager, begun)
    session["n"] = 2
    store.refusing = True
    commit = asyncio.ensure_future(session.commit())
    await asyncio.sleep(0.005)
    await session.reload()
    with pytest.raises(StoreUnavailable):
        await commit
    assert dict(session) == {"n": 1}
    assert not session.delta()


@pytest.mark.parametrize("name", ["\ud800", 7, None])
def test_an_owner_and_what_is_kept_are_texts_that_can_be_stored(name: Any) -> None:
    session = SessionManager("memory://").session_for([])
    session["a"] = 1
    with pytest.raises(BadFieldName):
        session.renew(owner="bob", keep=[name])
    if name is not None:
        with pytest.raises(ValueError, match="non-empty string"):
            session.renew(owner=name)
