"""Where calls are served: connections that rest until the next call, and whose turn it is."""

from __future__ import annotations

import time
from contextlib import nullcontext
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from coatcheck.stores.sql.asking import Ask, Connect, Release, Step
from coatcheck.stores.sql.core import Call, Core
from coatcheck.stores.sql.drivers import Way
from coatcheck.stores.sql.files import FILES
from coatcheck.stores.sql.lines import Line
from coatcheck.stores.sql.places import Places
from coatcheck.stores.sql.sweeping import BATCH, Sweeper
from coatcheck.stores.sql.timing import DEADLINE
from coatcheck.stores.sql.trouble import Trouble, trouble
from coatcheck.stores.steps import follow_blocking

T = TypeVar("T")


class _Connected(Protocol):
    @property
    def is_dead(self) -> bool: ...
    def cut(self) -> None: ...


L = TypeVar("L", bound=_Connected)


class Resting(Generic[L]):
    """Connections that nobody uses now; the one used last is used first."""

    def __init__(self) -> None:
        self._lines: list[L] = []

    def take(self) -> L | None:
        """One that is not known to be dead."""
        while self._lines:
            try:
                line = self._lines.pop()
            except IndexError:  # another thread was faster
                break
            if not line.is_dead:
                return line
            line.cut()
        return None

    def put(self, line: L) -> None:
        self._lines.append(line)

    def all(self) -> list[L]:
        """Those that rest, who rest here no longer."""
        lines, self._lines = self._lines, []
        return lines

    def clear(self) -> None:
        """Cut all of them: the server has been restarted, or is another one now; or this process is about to fork."""
        for line in self.all():
            line.cut()


class Desk:
    """Serves the threads of one process.

    Args:
        core: says what is done.
        way: how to reach the database.
        places: how many threads it serves at once; `None` for as many as come, if the engine has its own way.
        sweep: seconds between two sweeps in the background; 0 for none.
    """

    def __init__(self, core: Core, way: Way, places: int | None, *, sweep: float = 0.0) -> None:
        self.core = core
        self.way = way
        self.resting: Resting[Line] = Resting()
        self._places = None if places is None else Places(places)
        self._sweeper = Sweeper(sweep, lambda: self.perform(core.sweeping(BATCH, None))) if sweep else None
        if way.is_file:
            FILES.shelves.add(self.resting)

    def perform(self, call: Call[T]) -> T:
        """See `Core.perform`."""
        if self._sweeper is not None:
            self._sweeper.begin()
        if self._places is not None and not self._places.enter(call.deadline - monotonic()):
            raise call.too_late(self.core.store)
        token = DEADLINE.set(call.deadline)
        hand = _Hand(self, call)
        try:
            return follow_blocking(self.core.perform(call), hand.do)
        finally:
            hand.let_go()
            DEADLINE.reset(token)
            if self._places is not None:
                self._places.leave()

    def close(self) -> None:
        """Close what was opened."""
        if self._sweeper is not None:
            self._sweeper.end()
        with FILES.in_hand() if self.way.is_file else nullcontext():  # who is forked meanwhile could never open it
            self.resting.clear()

    def forget(self) -> None:
        """Let go of what was opened without touching it: it is another process's."""
        _ABANDONED.append(self)


class _Hand:
    """What a call has hold of."""

    def __init__(self, desk: Desk, call: Call[Any]) -> None:
        self._desk = desk
        self._call = call
        self._line: Line | None = None
        self._has_file = False

    def do(self, step: Step) -> Any:
        """Carry out a step. Raises `Trouble`."""
        kind = type(step)
        if kind is Ask:
            return self._ask(step)  # type: ignore[arg-type]
        if kind is Connect:
            return self._connect()
        if kind is Release:
            return self._release(step)  # type: ignore[arg-type]
        return time.sleep(max(0.0, step.seconds))  # type: ignore[union-attr]

    def let_go(self) -> None:
        """Cut the connection off, if the call ended before it was done with it."""
        line, self._line = self._line, None
        if line is not None:
            line.cut()
        self._lay_aside()

    def _ask(self, ask: Ask) -> Any:
        assert self._line is not None
        with Uncertainty(self._call, ask) as uncertainty:
            if ask.commits and monotonic() >= self._call.deadline:  # whoever asked may have been told already
                uncertainty.unsent = True
                raise Trouble("slow", "no time is left")
            try:
                return self._line.ask(ask)
            except Exception as error:
                raise trouble(error, self._desk.way) from error

    def _connect(self) -> None:
        if monotonic() >= self._call.deadline:
            raise Trouble("slow", "no time is left")
        if self._desk.way.is_file:
            FILES.take()
            self._has_file = True
        try:
            self._line = self._desk.resting.take() or self._desk.way.open()
        except Exception as error:
            self._lay_aside()
            raise trouble(error, self._desk.way) from error

    def _release(self, release: Release) -> None:
        line, self._line = self._line, None
        assert line is not None
        if release.others:
            self._desk.resting.clear()
        if not release.clean:
            line.cut()
        elif line.rests:
            self._desk.resting.put(line)
        else:
            line.close()
        self._lay_aside()

    def _lay_aside(self) -> None:
        if self._has_file:
            self._has_file = False
            FILES.lay_aside()


class Uncertainty:
    """Notes at a call whether its commit may have been applied, when the call ends with something else than its answer.

    Attributes:
        unsent: whether it was not even sent.
    """

    __slots__ = ("_before", "_call", "_commits", "unsent")

    def __init__(self, call: Call[Any], ask: Ask) -> None:
        self._call = call
        self._commits = ask.commits
        self._before = call.uncertain
        self.unsent = False

    def __enter__(self) -> Uncertainty:
        if self._commits:
            self._call.uncertain = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        refused = isinstance(error, Trouble) and error.kind not in ("broken", "slow")
        if self._commits and (self.unsent or refused):
            self._call.uncertain = self._before  # this time it says that it was not applied


_ABANDONED: list[Desk] = []
"""Of the process from which this one was forked. They are kept as they are: a driver that is dropped may close a connection
that the parent still uses, or complain that nobody has."""
