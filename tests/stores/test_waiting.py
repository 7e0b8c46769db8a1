"""What a request waits for is a future to asyncio and to whoever uses it; and a crowd is woken in order, nobody forgotten."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar
from typing import Any

import pytest

from coatcheck.stores.redis.waiting import Awaited, Waker


@pytest.fixture
async def waker() -> Waker:
    return Waker(asyncio.get_running_loop())


async def of(awaited: Awaited[str]) -> str:
    return await awaited


async def test_its_answer_or_error_reaches_whoever_awaits_it(waker: Waker) -> None:
    right, wrong, early = (Awaited[str](waker) for _ in range(3))
    early.set_result("early")
    tasks = [asyncio.create_task(of(each)) for each in (right, right, wrong, early)]
    await asyncio.sleep(0)
    right.set_result("right")
    wrong.set_exception(OSError("wrong"))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(each) for each in answers] == ["right", "right", "wrong", "early"]
    assert await right == "right"
    assert (right.result(), str(wrong.exception()), right.cancelled()) == ("right", "wrong", False)


async def test_asyncio_takes_it_for_a_future(waker: Waker) -> None:
    awaited = Awaited[str](waker)
    assert asyncio.isfuture(awaited)
    assert not awaited.done()
    for ask in (awaited.result, awaited.exception):
        with pytest.raises(asyncio.InvalidStateError):
            ask()
    assert not await asyncio.wait_for(asyncio.sleep(0, False), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(awaited), 0.01)
    assert not awaited.done()
    asyncio.get_running_loop().call_later(0.01, awaited.set_result, "there")
    assert await asyncio.wait_for(awaited, 1) == "there"
    assert await asyncio.gather(awaited, awaited) == ["there", "there"]
    with pytest.raises(asyncio.InvalidStateError):
        awaited.set_result("again")


async def test_a_task_that_is_cancelled_waits_no_longer(waker: Waker) -> None:
    awaited = Awaited[str](waker)
    task = asyncio.create_task(of(awaited))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert awaited.done()
    assert awaited.cancelled()
    assert not awaited.cancel()
    with pytest.raises(asyncio.CancelledError):
        awaited.result()


async def test_a_time_limit_ends_the_waiting(waker: Waker) -> None:
    awaited = Awaited[str](waker)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await awaited
    assert awaited.cancelled()


async def test_a_task_cancelled_between_answer_and_waking_is_cancelled(waker: Waker) -> None:
    awaited = Awaited[str](waker)
    task = asyncio.create_task(of(awaited))
    await asyncio.sleep(0)
    awaited.set_result("too late")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_those_who_wait_are_woken_in_order_in_the_next_tick(waker: Waker) -> None:
    awoken: list[int] = []
    crowd = [Awaited[int](waker) for _ in range(50)]

    async def wait(awaited: Awaited[int]) -> None:
        awoken.append(await awaited)

    tasks = [asyncio.create_task(wait(each)) for each in crowd]
    await asyncio.sleep(0)
    for number, each in enumerate(crowd):
        each.set_result(number)
    assert awoken == []
    await asyncio.sleep(0)
    assert awoken == list(range(50))
    await asyncio.gather(*tasks)


async def test_callbacks_run_in_their_context_and_what_goes_wrong_in_one_stops_no_other(waker: Waker) -> None:
    where: ContextVar[str] = ContextVar("where", default="nowhere")
    said: list[str] = []
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    awaited = Awaited[str](waker)

    def fail(_: object) -> None:
        raise ValueError("in a callback")

    def forgotten(_: object) -> None:
        said.append("forgotten")

    awaited.add_done_callback(fail)
    where.set("here")
    awaited.add_done_callback(lambda each: said.append(f"{each.result()} {where.get()}"))
    awaited.add_done_callback(forgotten)
    where.set("there")
    assert awaited.remove_done_callback(forgotten) == 1
    assert awaited.remove_done_callback(forgotten) == 0
    awaited.set_result("said")
    await asyncio.sleep(0)
    assert said == ["said here"]
    assert [str(each["exception"]) for each in reported] == ["in a callback"]
    awaited.add_done_callback(lambda each: said.append("late"))
    await asyncio.sleep(0)
    assert said == ["said here", "late"]


@pytest.mark.parametrize("which", ["whoever gathers", "one of them"])
async def test_who_gathers_several_is_cancelled_with_them(waker: Waker, which: str) -> None:
    crowd = [Awaited[str](waker) for _ in range(2)]
    gathered = asyncio.gather(*crowd)
    (gathered if which == "whoever gathers" else crowd[0]).cancel()
    done, _ = await asyncio.wait([gathered], timeout=1)
    assert done
    with pytest.raises(asyncio.CancelledError):
        gathered.result()


def test_a_handler_that_ends_the_process_leaves_nobody_asleep() -> None:
    """Whoever was to be woken after it gets the answer when the loop runs again, to clean up."""
    loop = asyncio.new_event_loop()
    waker = Waker(loop)
    crowd = [Awaited[str](waker) for _ in range(3)]

    async def leave(awaited: Awaited[str]) -> None:
        raise SystemExit(await awaited)

    tasks = [loop.create_task(of(crowd[0])), loop.create_task(leave(crowd[1])), loop.create_task(of(crowd[2]))]
    for each in crowd:
        loop.call_later(0.01, each.set_result, "done")
    with pytest.raises(SystemExit):
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    assert loop.run_until_complete(asyncio.wait_for(tasks[2], 1)) == "done"
    assert isinstance(tasks[1].exception(), SystemExit)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def test_an_error_that_nobody_looks_at_is_nobodys_business(waker: Waker) -> None:
    """A request that was cancelled in the very moment in which its connection broke."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    Awaited[str](waker).set_exception(OSError("lost"))
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []
