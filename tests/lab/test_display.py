"""What people watch while a run goes on."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.display import LiveDisplay, PlainDisplay, create_display
from coatcheck.lab.messages import Progress

from .test_verdicts import a_run
from .worlds import PLAN, perfect


def watch(console: Console, folder: Path) -> None:
    """A run of `local`, as the lab tells its display about it."""
    outcome = a_run(folder, {"local": perfect("local")}).architectures[0]
    with create_display(console) as display:
        display.begin(ARCHITECTURES["local"], PLAN)
        for tenth in range(81):
            progress = Progress(completed=tenth * 15, reads=tenth * 12, wrong=tenth * 8, errors=0)
            display.shopping(tenth / 10, progress, "web-2" if tenth >= 40 else None)
        display.finish(outcome)


def test_where_there_is_no_terminal_a_line_is_printed_now_and_then(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=60)
    assert isinstance(create_display(console), PlainDisplay)
    watch(console, tmp_path / "run")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "local: starting: a store per web server, 3 web servers, 8 s of traffic"
    assert lines[1] == "local:   4 s: 600 requests, 66.7% wrong, 0 errors, web-2 killed"
    assert lines[-1].startswith("local: done: 1,200 requests, 6")
    assert len(lines) <= 5


def test_on_a_terminal_a_bar_moves_until_the_last_answer_is_judged(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    assert isinstance(create_display(console), LiveDisplay)
    watch(console, tmp_path / "run")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "✓" in shown
    assert "sessions lost" in shown
    assert shown.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_the_picture_fits_a_terminal_of_eighty_columns(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    display = LiveDisplay(console)
    display.begin(ARCHITECTURES["sticky"], PLAN)
    assert "0:00:00 a store per web server, shoppers pinned to theirs" in drawn(display, console)
    display.shopping(5.0, Progress(completed=123_456, reads=100_000, wrong=66_700, errors=1_234), "web-16")
    assert "0:00:00 123,456 requests, 66.7% wrong, 1,234 errors, web-16 killed" in drawn(display, console)


def drawn(display: LiveDisplay, console: Console) -> str:
    with console.capture() as capture:
        console.print(display.picture())
    return capture.get()
