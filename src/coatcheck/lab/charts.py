"""Charts as SVG that follows the page's colours, light or dark. Pure: from numbers to text.

Every chart has a title and a description for screen readers; the figures stand in tables as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from coatcheck.lab.measures import BEYOND

_WIDTH = 520
_LABEL = 112  # left of a row
_AFTER = 86  # right of a row, for the figure


@dataclass(frozen=True, slots=True)
class Row:
    """One bar.

    Attributes:
        label: what it is.
        value: its length.
        low, high: the whisker.
        shown: the figure in words.
        series: which colour; the name of an architecture.
    """

    label: str
    value: float
    low: float
    high: float
    shown: str
    series: str


def bars(title: str, rows: Sequence[Row], *, mark: float | None = None, mark_label: str = "") -> str:
    """Horizontal bars with whiskers, from 0; the whiskers are explained below. `mark` is a line across them all."""
    top, height = 8, 30
    most = max([row.high for row in rows] + [mark or 0.0, 1e-9])
    scale = (_WIDTH - _LABEL - _AFTER) / most
    foot = 22 if mark is not None else 4
    parts = []
    for at, row in enumerate(rows):
        y = top + at * height
        end = _LABEL + row.value * scale
        parts.append(
            f'<text x="{_LABEL - 10}" y="{y + 16}" class="label" text-anchor="end">{escape(row.label)}</text>'
            f'<rect x="{_LABEL}" y="{y + 3}" width="{max(1.5, end - _LABEL):.1f}" height="18" rx="3" '
            f'class="fill s-{row.series}"/>'
        )
        if row.high > row.low:
            parts.append(_whisker(_LABEL + row.low * scale, _LABEL + row.high * scale, y + 12))
        after = max(end, _LABEL + row.high * scale) + 8
        parts.append(f'<text x="{after:.1f}" y="{y + 16}" class="value">{escape(row.shown)}</text>')
    bottom = top + len(rows) * height
    if mark is not None:
        x = _LABEL + mark * scale
        parts.append(
            f'<path d="M{x:.1f} {top}V{bottom}" class="mark"/>'
            f'<text x="{x:.1f}" y="{bottom + 15}" class="note" text-anchor="middle">{escape(mark_label)}</text>'
        )
    if any(row.high > row.low for row in rows):
        y = bottom + foot + 8
        parts.append(_whisker(_LABEL, _LABEL + 30, y))
        parts.append(f'<text x="{_LABEL + 40}" y="{y + 4}" class="note">from the lowest to the highest repeat</text>')
        foot += 20
    return _svg(title, bottom + foot, parts)


def _whisker(low: float, high: float, y: float) -> str:
    """A line with two ends, on a lighter one, so that it is seen on any colour."""
    path = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"
    return f'<path d="{path}" class="halo"/><path d="{path}" class="whisker"/>'


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str) -> str:
    """Lines through points, both axes from 0."""
    left, right, top, bottom, height = 56, 86, 26, 44, 260
    xs = sorted({x for points in series.values() for x, _ in points})
    most_y = _nice(max(y for points in series.values() for _, y in points) or 1.0)

    def x_at(x: float) -> float:
        return left + x / (xs[-1] or 1.0) * (_WIDTH - left - right)

    def y_at(y: float) -> float:
        return top + (1 - y / most_y) * (height - top - bottom)

    parts = [f'<text x="{left}" y="14" class="note">{escape(y_label)}</text>']
    for step in range(5):
        y = most_y * step / 4
        parts.append(
            f'<path d="M{left} {y_at(y):.1f}H{_WIDTH - right}" class="grid"/>'
            f'<text x="{left - 8}" y="{y_at(y) + 4:.1f}" class="note" text-anchor="end">{_short(y)}</text>'
        )
    parts += [
        f'<text x="{x_at(x):.1f}" y="{height - bottom + 18}" class="note" text-anchor="middle">{x:g}</text>' for x in xs
    ]
    middle = (left + _WIDTH - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 6}" class="note" text-anchor="middle">{escape(x_label)}</text>')
    ends = _apart([(name, y_at(points[-1][1])) for name, points in series.items() if points], height - bottom)
    for name, points in series.items():
        if not points:
            continue
        path = " ".join(f"{'M' if at == 0 else 'L'}{x_at(x):.1f} {y_at(y):.1f}" for at, (x, y) in enumerate(points))
        parts.append(f'<path d="{path}" class="line s-{name}"/>')
        parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3.5" class="fill s-{name}"/>' for x, y in points]
        x = x_at(points[-1][0]) + 10
        parts.append(f'<text x="{x:.1f}" y="{ends[name] + 4:.1f}" class="named s-{name}">{escape(name)}</text>')
    return _svg(title, height, parts)


def distributions(title: str, series: Mapping[str, Sequence[float]], *, unit: str) -> str:
    """How many requests took longer than so many milliseconds: both axes in powers of ten, further right is slower.

    The names stand in the order of the slowest requests.
    """
    left, right, top, bottom, height = 56, 86, 26, 44, 290
    most = max((len(each) for each in series.values()), default=0)
    decades = min(3, max(1, round(math.log10(max(1.0, most / BEYOND)))))  # as far as the samples carry
    shares = [share for share in (1.0, 0.5, 0.1, 0.01, 0.001) if share >= 0.9 * 10**-decades]
    values = [value for each in series.values() for value in each if value > 0]
    low = math.floor(math.log10(max(1e-3, min(values, default=1.0))))
    high = math.ceil(math.log10(max(values, default=10.0)))
    high = max(high, low + 1)

    def x_at(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return left + share * (_WIDTH - left - right)

    def y_at(share: float) -> float:
        return top + min(1.0, -math.log10(share) / decades) * (height - top - bottom)

    parts = [f'<text x="{left}" y="14" class="note">share of requests that took longer</text>']
    parts += [
        f'<path d="M{left} {y_at(share):.1f}H{_WIDTH - right}" class="grid"/>'
        f'<text x="{left - 8}" y="{y_at(share) + 4:.1f}" class="note" text-anchor="end">{share * 100:g} %</text>'
        for share in shares
    ]
    for power in range(low, high + 1):
        x = x_at(10.0**power)
        parts.append(
            f'<path d="M{x:.1f} {top}V{height - bottom}" class="grid"/>'
            f'<text x="{x:.1f}" y="{height - bottom + 18}" class="note" text-anchor="middle">{10.0**power:g}</text>'
        )
    middle = (left + _WIDTH - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 6}" class="note" text-anchor="middle">{escape(unit)}</text>')
    ends = {}
    for name, each in series.items():
        ordered = sorted(each)
        count = len(ordered)
        if not count:
            continue
        marks = sorted({min(count - 1, round(count * (1 - 10 ** (-step / 16)))) for step in range(49)})
        # As far as the samples carry: what a handful of requests did says nothing about the next run.
        points = [(ordered[at], (count - at) / count) for at in marks if count - at >= min(BEYOND, count)]
        path = " ".join(f"{'M' if at == 0 else 'L'}{x_at(x):.1f} {y_at(y):.1f}" for at, (x, y) in enumerate(points))
        parts.append(f'<path d="{path}" class="line s-{name}"/>')
        ends[name] = points[-1][0]
    for at, name in enumerate(
        sorted(ends, key=lambda name: ends[name])
    ):  # beside the lines, which lie upon one another
        parts.append(
            f'<text x="{_WIDTH - right + 10}" y="{top + 12 + 18 * at}" class="named s-{name}">{escape(name)}</text>'
        )
    return _svg(title, height, parts)


_STORES = {
    "valkey": "Redis or Valkey",
    "database": "database",
}


def diagram(title: str, *, sticky: bool, own: bool, copies: bool, service: str | None, series: str) -> str:
    """Browsers, balancer, three web servers, and where the coats hang.

    Args:
        title: for screen readers.
        sticky: whether the balancer pins users.
        own: whether each web server keeps its own sessions.
        copies: whether each has a copy of all.
        service: the store beside the web servers, if there is one.
        series: which colour that has; the name of an architecture.
    """
    parts = []
    ys = (26, 82, 138)
    colours = ("a", "b", "c")
    for at, y in enumerate(ys):
        parts.append(f'<circle cx="14" cy="{y}" r="10" class="person p-{colours[at]}"/>')
        parts.append(f'<path d="M26 {y}L70 {82 + (y - 82) * 0.2:.0f}" class="wire"/>')
    parts.append('<rect x="70" y="58" width="78" height="48" rx="8" class="box"/>')
    parts.append('<text x="109" y="87" class="label" text-anchor="middle">balancer</text>')
    for at, y in enumerate(ys):
        pinned = f"wire w-{colours[at]}" if sticky else "wire"
        parts += [
            f'<path d="M148 {82 + (y - 82) * 0.2:.0f}L214 {target}" class="{pinned}"/>'
            for target in ((y,) if sticky else ys)
        ]
    for at, y in enumerate(ys):
        parts.append(f'<rect x="214" y="{y - 21}" width="136" height="42" rx="8" class="box"/>')
        parts.append(f'<text x="226" y="{y + 5}" class="label">web-{at + 1}</text>')
        coats = colours if copies else (colours[at],) if own else ()
        parts += [_coat(286 + 23 * place, y, coat) for place, coat in enumerate(coats)]
    if copies:
        parts += [f'<path d="M282 {y + 21}V{y + 35}" class="wire strong"/>' for y in ys[:2]]
        parts.append('<path d="M350 26C384 50 384 114 350 138" class="wire strong"/>')
    if service is not None:
        parts += [f'<path d="M350 {y}L392 82" class="wire strong"/>' for y in ys]
        parts.append(f'<rect x="392" y="44" width="124" height="76" rx="8" class="box store s-{series}"/>')
        name = escape(_STORES.get(service, service))
        parts.append(f'<text x="454" y="68" class="label" text-anchor="middle">{name}</text>')
        parts += [_coat(428 + 26 * place, 95, coat) for place, coat in enumerate(colours)]
    return _svg(title, 164, parts)


def _coat(x: float, y: float, colour: str) -> str:
    return (
        f'<g transform="translate({x:.0f} {y})"><path class="coat p-{colour}" '
        'd="M-3-9H3L8-6 10 2 7 3 6-1 7 10H-7L-6-1-7 3-10 2-8-6Z"/><path class="seam" d="M-3-9L0-4 3-9M0-4V10"/></g>'
    )


def _apart(ends: Sequence[tuple[str, float]], lowest: float, distance: float = 15.0) -> dict[str, float]:
    """Labels at these heights, moved so that none covers another, and none is below `lowest`."""
    placed: dict[str, float] = {}
    for name, y in sorted(ends, key=lambda end: end[1]):
        placed[name] = max(y, max(placed.values(), default=-math.inf) + distance)
    limit = lowest
    for name in reversed(placed):
        placed[name] = min(placed[name], limit)
        limit = placed[name] - distance
    return placed


def _nice(value: float) -> float:
    """The next round number."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 4, 5, 8, 10) if power * step >= value)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
