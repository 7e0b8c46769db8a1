"""Names of servers: a resolver that does not answer, and an application that keeps all threads busy."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from coatcheck.stores.redis.address import Address
from coatcheck.stores.redis.blocking_wire import BlockingWire
from coatcheck.stores.redis.resolver import resolver
from coatcheck.stores.redis.transport import ExchangeFailed, whole
from coatcheck.stores.redis.wire import Wire
from tests.servers.clock import fair_time
from tests.servers.processes import eventually
from tests.servers.valkey import Valkey

NAME = "valkey.test"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The system's look-up of `NAME` hangs until this is set; then it is this machine."""
    answers = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host: str, *rest: Any, **options: Any) -> Any:
        if host != NAME:
            return look_up(host, *rest, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "it is no number")
        answers.wait(30)
        return look_up("127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield answers
    answers.set()


def looking_up() -> int:
    """How many threads wait for the system's look-up."""
    return sum(NAME in thread.name for thread in threading.enumerate())


async def test_a_resolver_that_hangs_costs_the_time_limit_and_one_thread(
    own_valkey: Valkey, answers: threading.Event
) -> None:
    there = Address(host=NAME, port=own_valkey.port)
    ours = threading.active_count()

    async def awaited() -> Any:
        return await wire.exchange([("PING",)], whole, timeout=0.1)

    async def threaded() -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            threads, lambda: blocking.exchange([("PING",)], whole, timeout=0.1)
        )

    with ThreadPoolExecutor(1) as threads:
        wire, blocking = Wire(there, timeout=0.1), BlockingWire(there, timeout=0.1)
        for _ in range(20):
            for ask in (awaited, threaded):
                began = fair_time()
                with pytest.raises(ExchangeFailed):
                    await ask()
                assert fair_time() - began < 0.3
            await asyncio.sleep(0.05)  # so that it is tried again, more than once
        assert looking_up() == 1
        assert threading.active_count() <= ours + 3  # that one, the one in which the blocking wire is, and the clock's
        answers.set()
        for ask in (awaited, threaded):
            answer = None
            async with asyncio.timeout(15):
                while answer != ["PONG"]:
                    with suppress(ExchangeFailed):
                        answer = await ask()
                    await asyncio.sleep(0.01)
        await wire.close()
        blocking.close()
    await eventually(lambda: looking_up() == 0, "the look-up's end")


async def test_an_application_that_fills_the_executor_does_not_keep_the_store_from_its_server(
    own_valkey: Valkey,
) -> None:
    over = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(threads)
        busy = [loop.run_in_executor(None, over.wait, 30) for _ in range(10)]
        wire = Wire(Address(host="localhost", port=own_valkey.port), timeout=5)
        try:
            assert await wire.exchange([("PING",)], whole) == ["PONG"]
        finally:
            over.set()
            await asyncio.gather(*busy)
            await wire.close()


def test_a_child_process_does_not_wait_for_its_parents_look_up(answers: threading.Event) -> None:
    asked = resolver.look_up(NAME, 1)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            answers.set()
            if resolver.look_up(NAME, 1).result(5):
                os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    answers.set()
    assert asked.result(10)
    assert status == 0
