"""Waiting for an answer that comes together with others.

An `asyncio.Future` wakes its task by a callback of its own in the loop, which costs more than all else between a reply and
its task. Replies come by the dozen, so here one callback wakes all whose answers came in one read, in the order in which they
came. asyncio takes any object for a future that behaves like one (`asyncio.isfuture`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")

_Callback: TypeAlias = Callable[[Any], object]


class Awaited(Generic[T]):
    """An answer that has not come yet. Used as a future is, but that nobody need look at an error.

    Args:
        waker: the event loop's.
    """

    __slots__ = ("_answer", "_asyncio_future_blocking", "_callback", "_context", "_done", "_error", "_more", "_waker")

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._asyncio_future_blocking = False  # set by whoever awaits it, for asyncio's tasks
        self._callback: _Callback | None = None  # the task's that awaits it
        self._context: Context | None = None
        self._more: list[tuple[_Callback, Context]] = _NO_MORE
        self._done = False
        self._answer: T | None = None
        self._error: BaseException | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._waker.loop

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return isinstance(self._error, asyncio.CancelledError)

    def result(self) -> T:
        if not self._done or self._error is not None:
            error = self.exception()
            assert error is not None  # or it would have been raised there
            raise error
        return self._answer  # type: ignore[return-value]  # it may be None itself

    def exception(self) -> BaseException | None:
        if not self._done:
            raise asyncio.InvalidStateError("the answer has not come yet")
        if isinstance(self._error, asyncio.CancelledError):
            raise self._error
        return self._error

    def cancel(self, msg: Any = None) -> bool:
        """Wait no longer. Returns whether it was still waited for."""
        if self._done:
            return False
        self._finish(None, asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    def _make_cancelled_error(self) -> BaseException:
        """For `asyncio.gather`, which asks its futures for more than they promise."""
        return asyncio.CancelledError() if self._error is None else self._error

    @property
    def _cancel_message(self) -> Any:
        """For `asyncio.gather` too."""
        return self._error.args[0] if self._error is not None and self._error.args else None

    def set_result(self, answer: T) -> None:
        self._finish(answer, None)

    def set_exception(self, error: BaseException) -> None:
        self._finish(None, error)

    def add_done_callback(self, callback: _Callback, *, context: Context | None = None) -> None:
        if context is None:
            context = copy_context()
        if self._callback is None:
            self._callback, self._context = callback, context
        else:
            self._more = [*self._more, (callback, context)]
        if self._done:
            self._waker.wake(self)

    def remove_done_callback(self, callback: _Callback) -> int:
        """Returns how often it was there."""
        kept = [each for each in self._more if each[0] != callback]
        removed = len(self._more) - len(kept)
        if self._callback is not None and self._callback == callback:
            self._callback = self._context = None
            removed += 1
        self._more = kept
        return removed

    def wake(self) -> None:
        """Call back whoever wanted to know. For the waker."""
        callback, context, more = self._callback, self._context, self._more
        self._callback = self._context = None
        self._more = _NO_MORE
        if callback is not None and context is not None:
            self._call(callback, context)
        for callback, context in more:
            self._call(callback, context)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def _finish(self, answer: T | None, error: BaseException | None) -> None:
        if self._done:
            raise asyncio.InvalidStateError("the answer has come already")
        self._done = True
        self._answer = answer
        self._error = error
        if self._callback is not None or self._more:
            self._waker.wake(self)

    def _call(self, callback: _Callback, context: Context) -> None:
        try:
            context.run(callback, self)
        except Exception as error:  # as the loop does with what goes wrong in a callback
            loop = self._waker.loop
            loop.call_exception_handler({"message": f"Exception in callback {callback!r}", "exception": error})


_NO_MORE: Final[list[Any]] = []


class Waker:
    """Wakes those whose answers have come, first come first served: in the loop's next tick, or when it is told to.

    Args:
        loop: the event loop.
    """

    __slots__ = ("_due", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._woken: list[Awaited[Any]] = []
        self._due = False

    def wake(self, awaited: Awaited[Any]) -> None:
        self._woken.append(awaited)
        if not self._due:
            self._due = True
            self.loop.call_soon(self.wake_all)

    def hold(self) -> None:
        """Wake nobody until `wake_all` is called, which must happen in this very callback of the loop."""
        self._due = True

    def wake_all(self) -> None:
        self._due = False
        woken, self._woken = self._woken, []  # whoever comes meanwhile is for the next tick
        done = 0
        try:
            for awaited in woken:
                done += 1
                awaited.wake()
        finally:
            if done < len(woken):  # a handler ended the process: the others are told so by its loop
                self._woken = [*woken[done:], *self._woken]
                if not self._due:
                    self._due = True
                    self.loop.call_soon(self.wake_all)
