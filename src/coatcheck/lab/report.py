"""What is shown when a run is over: one table, and a few sentences for each architecture. Pure, but for printing."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.checker import Figures
from coatcheck.lab.measures import samples_needed
from coatcheck.lab.results import Outcome, Results

WIDTH = 120  # columns, where there is no terminal to ask

_STYLES = {"holds": "green", "does not hold": "bold red", "not decided": "yellow"}


def show(results: Results, console: Console) -> None:
    """Print the table and the words."""
    if results.architectures:
        console.print()
        console.print(table(results))
        for outcome in results.architectures:
            console.print()
            console.print(Text(outcome.architecture, style="bold"), Text(outcome.title, style="dim"))
            for sentence in sentences(outcome, results.settings.servers):
                console.print(Text("  " + sentence))
            for verdict in outcome.verdicts:
                answer = Text(f"  {verdict.answer}", style=_STYLES[verdict.answer])
                console.print(answer + Text(f": {verdict.claim} ({verdict.reason})", style="default"))
            for warning in outcome.warnings:
                console.print(Text(f"  take care: {warning}", style="yellow"))
    if results.claims:
        console.print()
        console.print(Text("Six claims, put to the test", style="bold"))
        for claim in results.claims:
            answer = Text(f"  {claim.answer}", style=_STYLES[claim.answer])
            console.print(answer + Text(f": {claim.number}. {claim.title}", style="default"))
            for part in claim.parts:
                console.print(Text(f"      {part.answer}: {part.text} ({part.reason})", style="dim"))
    console.print()
    settings = results.settings
    console.print(
        Text(
            f"{settings.shoppers:,} shoppers, {settings.rate:g} arrivals per second for {settings.seconds:g} s, "
            f"{settings.servers} web servers, on {results.machine.cores} cores. Compare rows, not machines.",
            style="dim",
        )
    )
    if not results.complete:
        there = "the table shows what did" if results.architectures else "no architecture did, so there is no table"
        console.print(Text(f"This run did not finish; {there}.", style="yellow"))
    kept = "the record of every request, logs, results.json"
    if results.complete:
        kept += ", report.md, and report.html to look at"
    console.print(Text(f"Kept in {results.folder}: {kept}"), soft_wrap=True)


def table(results: Results) -> Table:
    """The one table. It fits 80 columns, for three servers."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    shown.add_column("", style="bold")
    for heading in ("wrong carts\nbefore kill", "wrong\noverall", "sessions\nlost", "errors"):
        shown.add_column(heading, justify="right")
    for heading in ("p50", "p99"):
        shown.add_column(f"{heading}\nms", justify="right")
    shown.add_column("requests per\nserver, † killed")
    for outcome in results.architectures:
        figures = outcome.figures
        sessions = figures.sessions
        shown.add_row(
            outcome.architecture,
            f"{figures.before_kill.share:.1%}",
            f"{figures.in_all.share:.1%}",
            f"{sessions.lost:,} of {sessions.lost + sessions.survived:,}",
            f"{figures.errors:,}",
            _milliseconds(figures.latency.p50),
            _milliseconds(figures.latency.p99) if figures.operations >= samples_needed(0.99) else "-",
            _per_server(figures),
        )
    return shown


def sentences(outcome: Outcome, servers: int) -> Iterator[str]:
    """What was seen, in words, from the figures alone.

    Args:
        outcome: of one architecture.
        servers: web servers before the kill.
    """
    figures = outcome.figures
    before, sessions = figures.before_kill, figures.sessions
    architecture = ARCHITECTURES[outcome.architecture]
    yield architecture.how

    if before.wrong:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in before.kinds.items())
        yield (
            f"Until the kill, {before.wrong:,} of {before.count:,} reads showed a wrong cart ({kinds}): "
            f"{before.share:.1%}, where {architecture.promise.wrong_reads(servers):.1%} was to be expected."
        )
    else:
        yield f"Until the kill, all of {before.count:,} reads showed the right cart."

    known = sessions.lost + sessions.survived
    if sessions.lost:
        took = f"{figures.killed} took {sessions.lost:,} of {known:,} sessions with it ({sessions.share:.1%})"
    else:
        took = f"{figures.killed} took none of {known:,} sessions with it"
    unknown = f"; the fate of {sessions.undecided:,} more is unknown" if sessions.undecided else ""
    failed = "no request" if not figures.errors else f"{figures.errors:,} of {figures.operations:,} requests"
    kinds = f" ({', '.join(f'{count}x {kind}' for kind, count in figures.error_kinds.items())})"
    yield f"The kill of {took}{unknown}, and {failed} failed{kinds if figures.errors else ''}."


def _per_server(figures: Figures) -> str:
    return "/".join(
        f"{count:,}{'†' if name == figures.killed else ''}" for name, count in figures.requests_by_server.items()
    )


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
