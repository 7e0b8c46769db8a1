"""`report.html`: one file that needs nothing else, light or dark. Pure, but for reading the samples of the distributions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from shlex import quote

from coatcheck.lab import advice, charts, samples, summary
from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.capacity import SUM, Capacity
from coatcheck.lab.claims import EVEN, Claim, Evidence, Measured
from coatcheck.lab.experiments import EXPERIMENTS
from coatcheck.lab.measures import FIGURES, durations
from coatcheck.lab.results import Outcome, Results
from coatcheck.lab.verdicts import Answer

_CASES_OF_LOAD = {"calm": "few users", "busy": "many users", "stored": "many users, many sessions stored"}

_CLASS: dict[Answer, str] = {"holds": "holds", "does not hold": "refuted", "not decided": "open"}


def html(results: Results, folder: Path) -> str:
    """The whole page.

    Args:
        results: of a run that came to its end.
        folder: the run's, where the samples are.
    """
    style = (resources.files("coatcheck.lab") / "page.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Where should sessions live? coatcheck lab, {escape(results.started[:10])}</title>
<style>{style}</style>
</head>
<body>
{"".join(_body(results, folder))}
</body>
</html>
"""


def _body(results: Results, folder: Path) -> Iterator[str]:
    found = summary.evidence(results)
    machine, settings = results.machine, results.settings
    described = results.scenario
    yield (
        '<header class="top"><h1>Where should web sessions live?</h1>'
        f"<p>{len(results.architectures)} ways of keeping sessions, built from real servers on one machine, visited, broken "
        f"and measured by <code>coatcheck lab</code> on {escape(results.started.replace('T', ' at ')[:19])} UTC.</p>"
        f'<p class="soft">{escape(described.title)}: {described.users:,} users, one request each every '
        f"{described.think_time:g} s, {described.write_share:.0%} of them changing a session of "
        f"{escape(described.session_size)}. {settings.servers} web servers, {machine.cores} processor cores, Python "
        f"{escape(machine.python)}, {escape(machine.system)}.</p></header><main>"
    )
    if results.claims:
        yield (
            '<section aria-labelledby="verdicts"><h2 id="verdicts">Six claims, put to the test</h2>'
            '<p class="soft">Each is made of parts that could have been refuted; they stand below, with their figures.</p>'
            '<div class="grid">'
        )
        yield from (
            f'<article class="card claim">{_verdict(claim)}<p class="soft">{escape(claim.text)}</p></article>'
            for claim in results.claims
        )
        yield "</div></section>"

    yield from _choosing(results)

    yield (
        '<section><h2>How each one works</h2><p class="soft">Three people, a balancer, three web servers. A coat is a '
        "session; its colour says whose it is.</p>"
    )
    yield '<div class="grid">'
    yield from (_architecture(outcome, found) for outcome in results.architectures)
    yield "</div></section>"

    yield (
        f"<section><h2>What each one does and costs</h2>{_table(*summary.table(results))}"
        f'<p class="soft">{escape(summary.NOTATION)}</p></section>'
    )
    yield from _needs(results)

    pictures = list(_pictures(results, found, folder))
    if pictures:
        yield '<section><h2>Pictures</h2><div class="grid">' + "".join(pictures) + "</div></section>"

    yield from _parts(results)
    yield from _trust(results)
    yield from _details(results)
    yield from _again(results)
    yield "</main><footer>Made by coatcheck lab. Every figure comes from the raw samples in the run's folder.</footer>"


def _verdict(claim: Claim) -> str:
    return (
        f"<header><h3>{claim.number}. {escape(claim.title)}</h3>"
        f'<span class="badge {_CLASS[claim.answer]}">{claim.answer}</span></header>'
    )


def _parts(results: Results) -> Iterator[str]:
    """The claims again, each with its parts and what has to be known to read them."""
    if not results.claims:
        return
    yield '<section><h2>The six claims, part by part</h2><div class="grid">'
    for claim in results.claims:
        parts = "".join(
            f'<li class="{_CLASS[part.answer]}"><span>{escape(_sentence(part.text))}</span>'
            f'<span class="reason">{escape(part.reason)}</span></li>'
            for part in claim.parts
        )
        note = f'<p class="note">{escape(claim.note)}</p>' if claim.note else ""
        yield f'<article class="card claim">{_verdict(claim)}<ul class="parts">{parts}</ul>{note}</article>'
    yield "</div></section>"


def _needs(results: Results) -> Iterator[str]:
    """Processor cores of a store, and what it costs that nothing is lost."""
    heading, rows = Capacity(results).table()
    if rows:
        yield f"<section><h2>How many cores a store takes</h2>{_table(heading, rows)}<p>{escape(SUM)}</p></section>"
    if any(ARCHITECTURES[one.architecture].needs for one in results.architectures):
        yield f"<section><h2>What it costs to lose nothing</h2><p>{escape(advice.durability(results))}</p></section>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An architecture in each column."""
    return (
        '<div class="scroll" style="margin-bottom:12px"><table><thead><tr>'
        + "".join(f'<th scope="col">{_dot(cell) if cell else ""}{escape(cell)}</th>' for cell in heading)
        + "</tr></thead><tbody>"
        + "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(c)}</td>" for c in row[1:]) + "</tr>"
            for row in rows
        )
        + "</tbody></table></div>"
    )


def _choosing(results: Results) -> Iterator[str]:
    """Which one, and why: a few questions in order, then cases with what each costs."""
    steps, cases = advice.steps(results), advice.cases(results)
    if len(steps) > 1:
        yield '<section><h2>Which one for me?</h2><p>The first of these that is true decides:</p><ol class="steps">'
        yield from (
            f"<li>{escape(step.condition)}: <strong>{_dot(step.choice)}{escape(step.choice)}</strong></li>"
            for step in steps
        )
        yield f"</ol><p>{escape(advice.below_notice(results))}</p></section>"
    if cases:
        rows = "".join(
            f'<tr><th scope="row">{escape(one.case)}</th><td>{_dot(one.choice)}{escape(one.choice)}</td>'
            f"<td>{escape(one.why)}</td><td>{escape(one.price)}</td></tr>"
            for one in cases
        )
        yield (
            '<section><h2>Cases, and what each choice costs</h2><div class="scroll"><table class="words"><thead><tr>'
            '<th scope="col">Your case</th><th scope="col">Choose</th><th scope="col">Because</th>'
            f'<th scope="col">The price</th></tr></thead><tbody>{rows}</tbody></table></div></section>'
        )
    terms = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in advice.TERMS.items())
    yield f'<section><h2>Words</h2><dl class="terms">{terms}</dl></section>'


def _architecture(outcome: Outcome, found: Evidence) -> str:
    architecture = ARCHITECTURES[outcome.architecture]
    service = next(iter(architecture.needs), None)
    copies = outcome.architecture == "all-to-all"
    picture = charts.diagram(
        f"{outcome.architecture}: {architecture.how}",
        sticky=architecture.balancing == "sticky",
        own=service is None and not copies,
        copies=copies,
        service=service,
        series=outcome.architecture,
    )
    figures = outcome.figures
    words = [
        f"{figures.before_kill.share:.1%} of the carts wrong",
        f"{figures.sessions.share:.0%} of the sessions lost with a server",
    ]
    work = found.values("load", outcome.architecture, "busy", "store_p50")
    if work:
        words.append(f"{summary.spoken(work, 'ms')} of session work per request")
    return (
        f'<article class="card"><h3>{_dot(outcome.architecture)}{escape(outcome.architecture)}: '
        f"{escape(architecture.title)}</h3>{picture}<p>{escape(architecture.how)}</p>"
        f'<p class="soft">{escape("; ".join(words))}. What was acknowledged survives {escape(architecture.keeps)}. '
        f"To be run besides the web servers: {escape(architecture.runs)}.</p></article>"
    )


def _pictures(results: Results, found: Evidence, folder: Path) -> Iterator[str]:
    outcomes = results.architectures
    names = [outcome.architecture for outcome in outcomes]
    share = [(one.architecture, one.figures.before_kill.share) for one in outcomes]
    rows = [charts.Row(name, value, value, value, f"{value:.1%}", name) for name, value in share]
    yield _figure("Wrong carts", "Of the reads while all servers were up.", charts.bars("Wrong carts", rows))
    lost = [(one.architecture, one.figures.sessions.share) for one in outcomes]
    rows = [charts.Row(name, value, value, value, f"{value:.1%}", name) for name, value in lost]
    yield _figure("Sessions lost with one server", "One web server was killed.", charts.bars("Sessions lost", rows))

    rows = _rows(found, names, "crowding", "", "load")
    if rows:
        chart = charts.bars("Load in a crowd", rows, mark=1.0, mark_label="even")
        yield _figure(
            "A crowd on one server",
            f"Requests of the busiest server, as a multiple of the mean. Up to {EVEN:g} counts as spread.",
            chart,
        )
    rows = _rows(found, names, "crowding", "", "load_after")
    if rows:
        chart = charts.bars("Load in a crowd, after a server was added", rows, mark=1.0, mark_label="even")
        took = ", ".join(
            f"{name} {summary.spoken(values, 'share')}"
            for name in names
            if (values := found.values("crowding", name, "", "newcomer"))
        )
        yield _figure("Does an added server help?", f"The same after that. What the new one took over: {took}.", chart)
    for figure, title in (("store", "Session work"), ("whole", "Whole request")):
        by_name = {name: _durations(results, folder, name, figure) for name in names}
        by_name = {name: values for name, values in by_name.items() if values}
        if by_name:
            chart = charts.distributions(f"{title}: distribution", by_name, unit="milliseconds")
            yield _figure(
                f"{title}, when busy",
                "How many requests took longer; all rounds together. Each line ends where ten requests are left.",
                chart,
            )
    for case, words in _CASES_OF_LOAD.items():
        if rows := _rows(found, names, "load", case, "whole_p50"):
            about = "The whole request, as its user sees it. Where the whiskers overlap, the difference may be chance."
            yield _figure(f"Median: {words}", about, charts.bars(f"Median, {words}", rows))
    for case, words in (("1-at-once", "one at a time"), ("64-at-once", "64 at once")):
        if rows := _rows(found, names, "work", case, "store_p50"):
            about = "What a request waits for its session, measured without anything else."
            yield _figure(f"Session work alone: {words}", about, charts.bars(f"Session work, {words}", rows))
    for figure, label in (("memory", "bytes per session"), ("network", "bytes per request")):
        series = {}
        for name in names:
            sizes = sorted(int(case[1:]) for case in found.cases("growth", name))
            grown = [(float(size), found.values("growth", name, f"n{size}", figure)) for size in sizes]
            points = [(size, statistics.median(each)) for size, each in grown if each]
            if points:
                series[name] = points
        if series:
            title = "Memory, as servers are added" if figure == "memory" else "Network, as servers are added"
            chart = charts.lines(title, series, x_label="web servers", y_label=label)
            yield _figure(title, FIGURES[figure].title.capitalize() + ".", chart)
    cases = [case for case in found.cases("layout", "redis") if not case.endswith("-at-once")]
    rows = [
        row
        for case in cases
        for row in _rows(found, ["redis", "redis-value"], "layout", case, "network", f"{case.replace('kB', ' kB')}, ")
    ]
    if rows:
        chart = charts.bars("Bytes per change", rows)
        yield _figure("A hash, or one value", "Bytes to and from the store for one changed field.", chart)


def _rows(
    found: Evidence, names: Sequence[str], experiment: str, case: str, figure: str, before: str = ""
) -> list[charts.Row]:
    rows = []
    for name in names:
        values = found.values(experiment, name, case, figure)
        if values:
            shown = summary.spoken(values, FIGURES[figure].unit)
            label = before + ("hash" if name == "redis" else "one value") if before else name
            rows.append(charts.Row(label, statistics.median(values), min(values), max(values), shown, name))
    return rows


def _durations(results: Results, folder: Path, architecture: str, figure: str) -> list[float]:
    """Milliseconds, one for each request of the busy case, all rounds."""
    files = [
        file
        for one in results.experiments
        if (one.experiment, one.architecture, one.case) == ("load", architecture, "busy")
        for file in one.files
    ]
    return [value for file in files for value in durations(samples.read(folder / file))[figure]]


def _figure(title: str, words: str, chart: str) -> str:
    return f'<figure class="card"><h3>{escape(title)}</h3><p class="soft">{escape(words)}</p>{chart}</figure>'


def _trust(results: Results) -> Iterator[str]:
    yield f"<section><h2>How far to trust it</h2><p>{escape(summary.limits(results))}</p>"
    warnings = summary.warnings(results)
    if warnings:
        yield f'<div class="care"><p>{escape(summary.CARE)}</p><ul>'
        yield "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
        yield "</ul></div>"
    yield "</section>"


def _details(results: Results) -> Iterator[str]:
    name, question, method = summary.CARTS
    yield f"<section><h2>Every experiment</h2><details><summary>{name}: {question}</summary><p>{escape(method)}</p>"
    for outcome in results.architectures:
        for verdict in outcome.verdicts:
            yield (
                f'<p><span class="badge {_CLASS[verdict.answer]}">{verdict.answer}</span> {escape(outcome.architecture)}: '
                f'{escape(verdict.claim)} <span class="soft">({escape(verdict.reason)})</span></p>'
            )
    yield "</details>"
    for experiment in EXPERIMENTS.values():
        theirs = [one for one in results.experiments if one.experiment == experiment.name]
        if theirs:
            yield f"<details><summary>{experiment.name}: {escape(experiment.question)}</summary>"
            yield f"<p>{escape(experiment.method)}</p>"
            yield from (_case(case, theirs, experiment.shown) for case in dict.fromkeys(one.case for one in theirs))
            yield "</details>"
    yield "</section>"


def _case(case: str, theirs: Sequence[Measured], shown: Sequence[str]) -> str:
    """One table of a case."""
    return f'<div style="margin-top:12px">{_table(*summary.case_table(case, theirs, shown))}</div>'


def _again(results: Results) -> Iterator[str]:
    versions = {**results.machine.packages, **results.machine.programs}
    yield (
        "<section><h2>Do it again</h2><p>All figures anew from the raw samples of this run, and the whole run anew:</p>"
        f"<pre><code>{escape(again(results))}</code></pre>"
        f'<p class="soft">{escape("; ".join(f"{name}: {said}" for name, said in versions.items()))}</p></section>'
    )


def again(results: Results) -> str:
    """What makes the report anew, and the run, line by line."""
    return f"coatcheck lab report {quote(results.folder)}\n{_command(results)}"


def _command(results: Results) -> str:
    """What was typed, or means the same."""
    settings = results.settings
    words = ["coatcheck lab"]
    if settings.quick:
        words.append("--quick")
    words += [
        f"--only {','.join(settings.only)}",
        f"--scenario {quote(settings.scenario)}",
        f"--servers {settings.servers}",
    ]
    words += [f"--shoppers {settings.shoppers}", f"--rate {settings.rate:g}", f"--seconds {settings.seconds:g}"]
    if settings.load_seconds is not None:
        words.append(f"--load-seconds {settings.load_seconds:g}")
    return " ".join([*words, f"--seed {settings.seed}"])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _dot(architecture: str) -> str:
    return f'<span class="dot s-{architecture}" aria-hidden="true"></span>'
