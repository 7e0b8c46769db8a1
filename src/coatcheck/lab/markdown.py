"""`report.md`: what the page says, without pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coatcheck.lab import advice, summary
from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.capacity import SUM, Capacity
from coatcheck.lab.experiments import EXPERIMENTS
from coatcheck.lab.page import again
from coatcheck.lab.results import Results


def markdown(results: Results) -> str:
    """The whole report."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield "# Where should web sessions live?"
    yield ""
    yield f"{summary.limits(results)} Begun {results.started}."
    if results.claims:
        yield "\n## Six claims, put to the test\n"
        yield "Each is made of parts that could have been refuted; they stand below, with their figures.\n"
        yield from (f"{one.number}. **{one.title}: {one.answer}.** {one.text}" for one in results.claims)
    steps, cases = advice.steps(results), advice.cases(results)
    if len(steps) > 1:
        yield "\n## Which one for me?\n\nThe first of these that is true decides:\n"
        yield from (f"{at}. {step.condition}: **{step.choice}**" for at, step in enumerate(steps, start=1))
        yield f"\n{advice.below_notice(results)}"
    if cases:
        yield "\n## Cases, and what each choice costs\n"
        yield from _table(
            ["your case", "choose", "because", "the price"],
            [[one.case, f"`{one.choice}`", one.why, one.price] for one in cases],
        )
    yield "\n## Words\n"
    yield from (f"- **{word}**: {meaning}" for word, meaning in advice.TERMS.items())
    yield "\n## How each one works\n"
    for outcome in results.architectures:
        one = ARCHITECTURES[outcome.architecture]
        yield (
            f"- **{one.name}** ({one.title}): {one.how} What was acknowledged survives {one.keeps}. To be run besides the "
            f"web servers: {one.runs}."
        )
    yield "\n## What each one does and costs\n"
    yield from _table(*summary.table(results))
    yield f"\n{summary.NOTATION}"
    heading, rows = Capacity(results).table()
    if rows:
        yield "\n## How many cores a store takes\n"
        yield from _table(heading, rows)
        yield f"\n{SUM}"
    if any(ARCHITECTURES[one.architecture].needs for one in results.architectures):
        yield f"\n## What it costs to lose nothing\n\n{advice.durability(results)}"
    if results.claims:
        yield "\n## The six claims, part by part\n"
        for claim in results.claims:
            yield f"{claim.number}. **{claim.title}: {claim.answer}.** {claim.note}".rstrip()
            yield from (f"   - {part.answer}: {part.text} ({part.reason})" for part in claim.parts)
    warnings = summary.warnings(results)
    if warnings:
        yield f"\n## How far to trust it\n\n{summary.CARE}\n"
        yield from (f"- {warning}" for warning in warnings)
    yield "\n## Every experiment"
    name, question, method = summary.CARTS
    yield f"\n### {name}\n\n{question} {method}\n"
    for outcome in results.architectures:
        yield from (
            f"- {verdict.answer}: {outcome.architecture}: {verdict.claim} ({verdict.reason})"
            for verdict in outcome.verdicts
        )
    for experiment in EXPERIMENTS.values():
        theirs = [one for one in results.experiments if one.experiment == experiment.name]
        if not theirs:
            continue
        yield f"\n### {experiment.name}\n\n{experiment.question} {experiment.method}"
        for case in dict.fromkeys(one.case for one in theirs):
            yield ""
            yield from _table(*summary.case_table(case, theirs, experiment.shown))
    yield "\n## Do it again\n"
    yield from (f"    {line}" for line in again(results).splitlines())


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
