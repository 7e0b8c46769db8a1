"""Carrying out what a generator says, step by step: it yields a step, and is sent what came of it, or thrown what went wrong.

Decisions are such generators, as in `sql.verbs`, `redis.verbs` and `redis.topology`; this is all of them that differs between
event loops and threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


async def follow(steps: Generator[S, Any, T], do: Callable[[S], Awaitable[Any]]) -> T:
    """Do each step, and give what the generator returns."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = await do(step)
            except Exception as problem:
                step = steps.throw(problem)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def follow_blocking(steps: Generator[S, Any, T], do: Callable[[S], Any]) -> T:
    """`follow` without the await."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = do(step)
            except Exception as problem:
                step = steps.throw(problem)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def time_left(timeout: float | None, began: float) -> float | None:
    """What is left of so many seconds since `began`, on `time.monotonic`; `None` if there is no limit."""
    return None if timeout is None else max(0.0, timeout - (monotonic() - began))
