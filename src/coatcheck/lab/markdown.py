"""`report.md`: what the page says, without pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coatcheck.lab import advice, summary
from coatcheck.lab.architectures import ARCHITECTURES
from coatcheck.lab.experiments import EXPERIMENTS
from coatcheck.lab.measures import FIGURES
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
        for claim in results.claims:
            yield f"{claim.number}. **{claim.title}: {claim.answer}.** {claim.text}"
            yield from (f"   - {part.answer}: {part.text} ({part.reason})" for part in claim.parts)
    yield "\n## Which one for me?\n\nThe first of these that is true decides:\n"
    yield from (f"{at}. {step.condition}: **{step.choice}**" for at, step in enumerate(advice.steps(results), start=1))
    yield "\n## Cases, and what each choice costs\n"
    yield from _table(
        ["your case", "choose", "because", "the price"],
        [[one.case, f"`{one.choice}`", one.why, one.price] for one in advice.cases(results)],
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
    warnings = summary.warnings(results)
    if warnings:
        yield "\n## Take care\n"
        yield from (f"- {warning}" for warning in warnings)
    yield "\n## Every experiment"
    for experiment in EXPERIMENTS.values():
        theirs = [one for one in results.experiments if one.experiment == experiment.name]
        if not theirs:
            continue
        yield f"\n### {experiment.name}\n\n{experiment.question} {experiment.method}"
        for case in dict.fromkeys(one.case for one in theirs):
            measured = [one for one in theirs if one.case == case]
            rows = [
                [title, *(summary.cell(one, name, spread=True) for one in measured)]
                for name, title in ((name, FIGURES[name].title) for name in (*experiment.shown, "samples", "lag"))
                if any(summary.cell(one, name) != summary.MISSING for one in measured)
            ]
            yield ""
            yield from _table([case, *(one.architecture for one in measured)], rows)
    yield "\n## Do it again\n"
    yield from (f"    {line}" for line in again(results).splitlines())


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
