"""What is shown while a run goes on: a moving picture on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from coatcheck.lab.architectures import Architecture
from coatcheck.lab.bench import Watcher
from coatcheck.lab.messages import Progress
from coatcheck.lab.plan import Plan
from coatcheck.lab.results import Outcome

_LINE_EVERY = 5.0  # seconds between plain lines


class LiveDisplay:
    """One line per architecture with a bar and running counts. A context manager."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓", table_column=Column(no_wrap=True)),
            TextColumn("[bold]{task.description:<6}"),
            BarColumn(24),  # the only one that shrinks where the line is too long
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[words]}"),
            console=console,
            refresh_per_second=8,
        )
        self._task: TaskID | None = None
        self._steps: TaskID | None = None
        self._name = ""

    def __enter__(self) -> LiveDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def picture(self) -> RenderableType:
        """What is shown right now."""
        return self._bars.get_renderable()

    def begin(self, architecture: Architecture, plan: Plan) -> None:
        """Add a line."""
        self._task = self._bars.add_task(architecture.name, total=plan.seconds, words=architecture.title)

    def shopping(self, elapsed: float, progress: Progress, killed: str | None) -> None:
        """Move the bar."""
        assert self._task is not None
        # The bar is full only when the last answer is in and the history judged.
        total = self._bars.tasks[self._task].total or 0
        self._bars.update(self._task, completed=min(elapsed, total * 0.99), words=words(progress, killed))

    def finish(self, outcome: Outcome) -> None:
        """Fill the bar."""
        assert self._task is not None
        self._bars.update(self._task, completed=self._bars.tasks[self._task].total, words=summary(outcome))

    def expect(self, steps: int) -> None:
        """Add a line for the other experiments, if there will be any."""
        if steps:
            self._steps = self._bars.add_task("more", total=steps, completed=-1, words="")

    def step(self, name: str) -> None:
        """Move that line's bar."""
        assert self._steps is not None
        self._name = name
        self._bars.advance(self._steps)
        self._bars.update(self._steps, words=name)

    def measuring(self, what: str) -> Watcher:
        """Show what is being measured."""
        steps, name = self._steps, self._name

        def watch(_elapsed: float, _progress: Progress) -> None:
            assert steps is not None
            self._bars.update(steps, words=f"{name}: {what}")

        return watch


class PlainDisplay:
    """A line now and then. A context manager, for symmetry."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name = ""
        self._next = 0.0
        self._killed: str | None = None
        self._steps = self._done = 0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, architecture: Architecture, plan: Plan) -> None:
        """Say what is being built."""
        self._name, self._next, self._killed = architecture.name, _LINE_EVERY, None
        self._say(f"starting: {architecture.title}, {plan.servers} web servers, {plan.seconds:g} s of traffic")

    def shopping(self, elapsed: float, progress: Progress, killed: str | None) -> None:
        """Say how it goes, but not too often."""
        if killed != self._killed or elapsed >= self._next:
            self._killed = killed
            self._next = max(self._next, elapsed + _LINE_EVERY)
            self._say(f"{elapsed:3.0f} s: {words(progress, killed)}")

    def finish(self, outcome: Outcome) -> None:
        """Say that it is done."""
        self._say(f"done: {summary(outcome)}")

    def expect(self, steps: int) -> None:
        """Remember how many steps there will be."""
        self._steps, self._done = steps, 0

    def step(self, name: str) -> None:
        """Say what comes next."""
        self._done += 1
        self._name = f"step {self._done} of {self._steps}"
        self._say(name)

    def measuring(self, what: str) -> Watcher:
        """Say what is being measured."""
        self._say(f"  {what}")
        return _nobody

    def _say(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}", markup=False, highlight=False, soft_wrap=True)


def _nobody(_elapsed: float, _progress: Progress) -> None:
    """For lines that are said once."""


def create_display(console: Console) -> LiveDisplay | PlainDisplay:
    """The display that fits `console`."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def words(progress: Progress, killed: str | None) -> str:
    """Running counts in words."""
    share = progress.wrong / progress.reads if progress.reads else 0.0
    end = f", {killed} killed" if killed else ""
    return f"{progress.completed:,} requests, {share:.1%} wrong, {progress.errors:,} errors{end}"


def summary(outcome: Outcome) -> str:
    """An architecture's run in a few words."""
    figures = outcome.figures
    return f"{figures.operations:,} requests, {figures.in_all.share:.1%} wrong carts, {figures.sessions.lost} sessions lost"
