"""What is shown while a run goes on: a moving picture on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from coatcheck.lab.architectures import Architecture
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


class PlainDisplay:
    """A line now and then. A context manager, for symmetry."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name = ""
        self._next = 0.0
        self._killed: str | None = None

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

    def _say(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}", markup=False, highlight=False, soft_wrap=True)


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
