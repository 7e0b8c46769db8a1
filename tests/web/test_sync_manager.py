"""The synchronous manager on its own: what it shares with the asynchronous one it need not be tested for again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from coatcheck import Session, SessionManager, Settings, SyncSessionManager
from coatcheck.changes import Applied
from coatcheck.errors import Conflict, OutcomeUnknown, SessionGone, StoreUnavailable
from coatcheck.events import Event
from coatcheck.manager import LEAST_TIME
from coatcheck.record import Record
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.sync_manager import at_once


def cookie_of(session: Any) -> str:
    assert session.set_cookie is not None
    return str(session.set_cookie).partition(";")[0]


def test_a_session_is_the_same_on_either_side() -> None:
    shared = MemoryStore()
    manager = SyncSessionManager(shared)
    session = manager.session_for("")
    session["user"] = "garimoo"
    session.map("cart").increment("tea")
    session.commit()
    there = SessionManager(AsyncMemoryStore(shared)).session_for([(b"cookie", cookie_of(session).encode())])
    asyncio.run(there.load())
    assert dict(there) == {"user": "garimoo", "cart[tea]": 1}
    assert isinstance(session, Session)


def test_it_tells_observers() -> None:
    events: list[Event] = []
    manager = SyncSessionManager(MemoryStore(), observers=[events.append])
    session = manager.session_for("")
    session.renew(owner="garimoo")
    session.commit()
    session.renew()
    session.commit()
    session.destroy()
    session.commit()
    manager.session_for("__Host-session=x")
    manager.session_for(f"__Host-session={'A' * 48}").get("user")
    assert [event.name for event in events] == ["created", "renewed", "destroyed", "ticket_refused", "ticket_refused"]


def test_the_sessions_of_a_user() -> None:
    manager = SyncSessionManager("memory://")
    sessions = [manager.session_for("") for _ in range(3)]
    for session in sessions:
        session.renew(owner="garimoo")
        session.commit()
    assert {record.session_id for record in manager.sessions_of("garimoo")} == {each.session_id for each in sessions}
    assert manager.end_sessions_of("garimoo", but=sessions[0].session_id) == 2
    with pytest.raises(SessionGone):
        sessions[1].reload()
    sessions[0].reload()


def test_finding_the_sessions_of_a_user_and_ending_each_have_a_deadline() -> None:
    granted: list[tuple[str, float | None]] = []

    class Noting(MemoryStore):
        def sessions_of(self, owner: str, *, timeout: float | None = None) -> list[Record]:
            granted.append(("find", timeout))
            return super().sessions_of(owner)

        def delete(self, session_id: str, *, timeout: float | None = None) -> bool:
            granted.append(("end", timeout))
            return super().delete(session_id)

    manager = SyncSessionManager(Noting(), Settings(store_timeout=0.2))
    for timeout, seconds, finding in ((None, 0.2, 2.0), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0)):
        for _ in range(2):
            session = manager.session_for("")
            session.renew(owner="garimoo")
            session.commit()
        granted.clear()
        assert len(manager.sessions_of("garimoo", timeout=timeout)) == 2
        assert manager.end_sessions_of("garimoo", timeout=timeout) == 2
        assert granted == [("find", seconds), ("find", finding), ("end", seconds), ("end", seconds)]


def test_a_store_without_an_index_of_owners_says_so() -> None:
    class Plain:
        def create(self, new: Any, *, timeout: float | None = None) -> Applied:
            raise NotImplementedError

        read = update = delete = create

        def close(self) -> None:
            pass

    with pytest.raises(NotImplementedError, match="Plain keeps no index of owners"):
        SyncSessionManager(Plain()).sessions_of("garimoo")  # type: ignore[arg-type]


def test_refusals_leave_the_changes_to_be_committed_again() -> None:
    class Failing(MemoryStore):
        problem: Exception | None = None

        def update(self, session_id: str, changes: Any, *, timeout: float | None = None) -> Applied:
            if self.problem is not None:
                raise self.problem
            return super().update(session_id, changes)

        def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
            if isinstance(self.problem, StoreUnavailable):
                raise self.problem
            return super().read(session_id)

    store = Failing()
    manager = SyncSessionManager(store)
    session = manager.session_for("")
    session["a"] = 1
    session.commit()
    for problem in (StoreUnavailable("test://", "down"), Conflict("A" * 16)):
        store.problem = problem
        session["b"] = 2
        with pytest.raises(type(problem)):
            session.commit()
        assert session["b"] == 2
    store.problem = None
    session.commit()
    again = manager.session_for(cookie_of(session))
    assert dict(again) == {"a": 1, "b": 2}
    store.problem = OutcomeUnknown("test://", "A" * 16, "no answer")
    with pytest.raises(OutcomeUnknown):
        manager.session_for(cookie_of(session)).get("a")


def test_a_look_that_fails_may_be_repeated() -> None:
    class Down(MemoryStore):
        down = True

        def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
            if self.down:
                raise StoreUnavailable("test://", "down")
            return super().read(session_id)

    store = Down()
    manager = SyncSessionManager(store)
    session = manager.session_for("")
    session["a"] = 1
    session.commit()
    again = manager.session_for(cookie_of(session))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            again.get("a")
    assert again.looked_at, "the response depends on the cookie all the same"
    store.down = False
    assert again["a"] == 1


def test_a_look_that_fails_uses_up_the_requests_time() -> None:
    """Or an error page that looks at the session again would cost its user the whole deadline once more."""

    class Slow(MemoryStore):
        granted: list[float | None] = []  # noqa: RUF012 - one store only

        def read(self, session_id: str, *, timeout: float | None = None) -> Record | None:
            self.granted.append(timeout)
            time.sleep(timeout or 0)
            raise StoreUnavailable("test://", "no answer in time")

    store = Slow()
    session = SyncSessionManager(store, Settings(store_timeout=0.2)).session_for(f"__Host-session={'A' * 48}")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            session.get("a")
    assert store.granted == [0.2, LEAST_TIME, LEAST_TIME]


def test_what_waits_is_found_out() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="was waited for"):
        at_once(waits())
