"""Faults that an opponent found on the way between the handler, the response and the store."""

from __future__ import annotations

import asyncio
from typing import Any

from coatcheck.asgi import Message, Receive, Scope, Send, SessionMiddleware
from coatcheck.changes import Applied, Changes
from coatcheck.manager import SessionManager
from coatcheck.settings import Settings
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.testing import a_commit, a_record
from tests.servers.fixtures import URLOpener
from tests.servers.valkey import Valkey

HTTP = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}


async def nothing() -> Message:
    return {"type": "http.request"}


async def test_r6_as_many_increments_in_one_commit_as_anybody_may_make(open_store: URLOpener, valkey_url: str) -> None:
    """Lua's stack is small; an answer that does not fit on it must not pass for a refusal of what was done."""
    manager = SessionManager(open_store(valkey_url), Settings(store_timeout=20), observers=[])
    session = manager.session_for([])
    session["x"] = 1
    await session.commit()
    for number in range(9000):
        session.map("counts").increment(str(number))
    await session.commit()
    await session.reload()
    assert set(session.map("counts").values()) == {1}
    session.destroy()
    await session.commit()


async def test_r6_operations_that_somebody_damaged_cost_no_later_one_its_memory(
    open_store: URLOpener, valkey: Valkey, valkey_url: str, prefix: str
) -> None:
    store = open_store(valkey_url)
    new = a_record(fields={"hits": "1"})
    await store.create(new)
    valkey("HSET", f"{prefix}session:{new.session_id}", "@operations", "abc")
    commit = a_commit(new, increments={"hits": 1})
    await store.update(new.session_id, commit)
    assert (await store.update(new.session_id, commit.again())).counters == {"hits": 2}


async def test_a_handshake_that_is_refused_after_connect_was_taken_does_not_hang() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await scope["session"].load()

    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = SessionMiddleware(app, store="redis://127.0.0.1:1", load="explicit", observers=[])
    cookie = (b"cookie", b"__Host-session=" + b"A" * 48)
    async with asyncio.timeout(5):
        await middleware({"type": "websocket", "path": "/", "headers": [cookie]}, messages.get, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


class SlowStore(AsyncMemoryStore):
    async def update(self, session_id: str, changes: Changes, *, timeout: float | None = None) -> Applied:
        await asyncio.sleep(0.03)
        return await super().update(session_id, changes, timeout=timeout)


async def test_r8_a_logout_while_the_response_is_about_to_start_takes_place() -> None:
    store = SlowStore(MemoryStore())
    manager = SessionManager(store, observers=[])
    begun = manager.session_for([])
    begun["x"] = 1
    await begun.commit()
    assert begun.ticket is not None
    assert begun.session_id is not None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        session["y"] = 2

        async def log_out() -> None:
            await asyncio.sleep(0.01)
            session.destroy()

        task = asyncio.create_task(log_out())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await task
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        """Nobody looks at the answer."""

    middleware = SessionMiddleware(app, store=store, observers=[])
    cookie = (b"cookie", b"__Host-session=" + begun.ticket.cookie_value.encode())
    await middleware({**HTTP, "headers": [cookie]}, nothing, send)
    assert await store.read(begun.session_id) is None


async def test_what_a_group_of_tasks_makes_of_a_replaced_response_is_no_news() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1

        async def respond() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(respond())

    async def send(message: Message) -> None:
        sent.append(message)

    await SessionMiddleware(app, store="redis://127.0.0.1:1", observers=[])({**HTTP}, nothing, send)
    assert sent[0]["status"] == 503
