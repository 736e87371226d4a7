"""Charts as inline SVG in the palette's colours: lines and points over two axes, and stacked bars.

Every chart is one picture for a screen reader, with a description in words; the figures stand in a table near it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from planner.report.markup import Html, number

WIDTH = 520
HEIGHT = 320
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 42
LEGEND_ROW = 18
CHARACTER_WIDTH = 6.4
BAR_HEIGHT = 18
BAR_ROW = 26
BAR_LABEL = 116
BAR_FIGURE = 66
_TICKS = 6
_MOST_LEGEND_CHARACTERS = 70
_NARROWEST_IN_BAR = 30

STYLE = (
    "svg.chart{display:block;width:100%;height:auto}"
    "svg.chart text{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink2);"
    "font-variant-numeric:tabular-nums}"
    "svg.chart .axis{fill:var(--ink3)}svg.chart .grid{stroke:var(--line);stroke-width:1}"
    "svg.chart .line{fill:none;stroke-width:1.5}svg.chart .strong{stroke-width:2.5}"
    "svg.chart .dashed{stroke-dasharray:5 3}"
    "svg.chart .limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:3 2}"
    "svg.chart .name{fill:var(--ink)}svg.chart .hollow{fill:var(--paper)}"
    "svg.chart .once{fill:var(--once)}svg.chart .on-once{fill:var(--ink)}svg.chart .stroke-other{stroke:var(--other)}"
    + "".join(f"svg.chart .stroke-hue{i}{{stroke:var(--hue{i})}}svg.chart .on-hue{i}{{fill:var(--hue{i}-ink)}}"
              for i in range(8))
    + ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 28px}"
    "a{color:var(--hue0)}h3{font-size:15px;margin:22px 0 4px}"
    "figure{margin:8px 0;min-width:0}figcaption{font-weight:600;font-size:13px;margin-bottom:2px}"
    ".chart-frame{min-width:440px;max-width:620px}"
    "@media print{.charts{grid-template-columns:1fr}.chart-frame{min-width:0;max-width:460px}figure{break-inside:avoid}"
    "h3,figcaption{break-after:avoid}}"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Axis:
    """`low` and `high` are the ends; on a logarithmic axis both are positive."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def share(self, value: float) -> float:
        """Where a value stands between the ends, 0 to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _nice((self.high - self.low) / _TICKS)
        step = max(1.0, step) if self.whole else step
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(label: str, values: Iterable[float], *, log: bool = False, whole: bool = False) -> Axis:
    """An axis that holds all values, from 0 where it is linear; `whole`: they are whole numbers, such as counts."""
    found = [value for value in values if not log or value > 0]
    low, high = min(found, default=1.0), max(found, default=1.0)
    if log:
        low, high = _floor_125(low), _nice(high)
        return Axis(label, low, high if high > low else 10 * low, log=True)
    if whole:
        return Axis(label, 0, high + 0.5, whole=True)
    step = _nice((high or 1.0) / _TICKS)
    return Axis(label, 0, math.ceil((high or 1.0) / step) * step)


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    title: str
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """`hue` is a class of the palette. Without a line only the dots are drawn, without dots only the name."""

    name: str
    hue: str
    dots: Sequence[Dot]
    line: bool = True
    strong: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """A level of y that is drawn as a dashed line."""

    name: str
    at: float


def line_chart(
    caption: str,
    description: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    limit: Limit | None = None,
    hollow: str = "",
) -> Html:
    """Lines over two axes; `hollow` says in the legend what hollow dots are."""
    entries = [(s.name, s.hue, s.dashed) for s in series if s.name]
    if hollow:
        entries.append((hollow, "", False))
    rows = list(_legend_rows(entries))
    height = HEIGHT + LEGEND_ROW * len(rows)
    parts = [*_frame(x, y)]
    for one in series:
        parts.extend(_series(one, x, y))
    if limit is not None and y.holds(limit.at):
        level = _y(y, limit.at)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT + 6}" y="{level - 4:.1f}">{escape(limit.name)}</text>')
    parts.extend(_legend(rows, HEIGHT))
    return _figure(caption, description, height, parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """Amounts in the order of the parts' names; `figure` stands behind the bar."""

    label: str
    amounts: Sequence[float]
    figure: str


def share_chart(caption: str, description: str, names: Sequence[str], hues: Sequence[str], bars: Sequence[Bar]) -> Html:
    """Bars of one length, each divided by the shares of its amounts."""
    rows = list(_legend_rows([(name, hue, False) for name, hue in zip(names, hues, strict=True)]))
    bottom = TOP + BAR_ROW * len(bars)
    full = WIDTH - BAR_LABEL - BAR_FIGURE
    parts: list[str] = []
    for place, bar in enumerate(bars):
        top, left, total = TOP + BAR_ROW * place, float(BAR_LABEL), sum(bar.amounts)
        parts.append(
            f'<text class="name" x="{BAR_LABEL - 8}" y="{top + 13}" text-anchor="end">{escape(bar.label)}</text>'
        )
        for name, hue, amount in zip(names, hues, bar.amounts, strict=True):
            width = full * amount / total if total else 0.0
            if width <= 0:
                continue
            title = f"<title>{escape(f'{bar.label}, {name}: {number(amount)} ms ({amount / total:.0%})')}</title>"
            size = f'width="{max(0.5, width - 1):.1f}" height="{BAR_HEIGHT}" rx="2"'
            parts.append(f'<rect class="{hue}" x="{left:.1f}" y="{top}" {size}>{title}</rect>')
            if width >= _NARROWEST_IN_BAR:
                middle = left + width / 2
                text = f'x="{middle:.1f}" y="{top + 13}" text-anchor="middle" pointer-events="none"'
                parts.append(f'<text class="on-{hue}" {text}>{amount / total:.0%}</text>')
            left += width
        parts.append(f'<text class="name" x="{WIDTH - BAR_FIGURE + 8}" y="{top + 13}">{escape(bar.figure)}</text>')
    parts.extend(_legend(rows, bottom + 6))
    return _figure(caption, description, bottom + 10 + LEGEND_ROW * len(rows), parts)


def _figure(caption: str, description: str, height: int, parts: Iterable[str]) -> Html:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    picture = f'<svg class="chart" role="img" aria-label="{escape(description)}" {size}>{"".join(parts)}</svg>'
    frame = f'<div class="chart-frame">{picture}</div>'
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">{frame}</div>'
    return Html(f"<figure><figcaption>{escape(caption)}</figcaption>{region}</figure>")


def _x(axis_: Axis, value: float) -> float:
    return LEFT + axis_.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis_: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis_.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in y.ticks():
        level = _y(y, tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
    yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    for tick in x.ticks():
        place = _x(x, tick)
        yield f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(tick)}</text>'
    yield f'<text class="axis" x="{right}" y="{bottom + 33}" text-anchor="end">{escape(x.label)}</text>'
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 12 {middle:.0f})" text-anchor="middle"'
    yield f'<text class="axis" x="12" y="{middle:.0f}" {turned}>{escape(y.label)}</text>'


def _series(one: Series, x: Axis, y: Axis) -> Iterator[str]:
    css = " ".join(["line", f"stroke-{one.hue}", *["strong"] * one.strong, *["dashed"] * one.dashed])
    solid = [dot for dot in one.dots if not dot.hollow]
    if one.line and len(solid) > 1:
        path = " ".join(f"{_x(x, dot.x):.1f},{_y(y, dot.y):.1f}" for dot in solid)
        yield f'<polyline class="{css}" points="{path}"/>'
    radius = 4 if one.strong else 3 if one.line else 2
    for dot in one.dots:
        fill = f"hollow stroke-{one.hue}" if dot.hollow else one.hue
        place = f'cx="{_x(x, dot.x):.1f}" cy="{_y(y, dot.y):.1f}" r="{radius}"'
        yield f'<circle class="{fill}" {place}><title>{escape(dot.title)}</title></circle>'


Entry = tuple[str, str, bool]


def _legend_rows(entries: Iterable[Entry]) -> Iterator[list[tuple[float, Entry]]]:
    """Entries with where they begin, as many in a row as fit."""
    row: list[tuple[float, Entry]] = []
    left = 0.0
    for name, hue, dashed in entries:
        shown = name if len(name) <= _MOST_LEGEND_CHARACTERS else f"{name[: _MOST_LEGEND_CHARACTERS - 1]}…"
        width = 24 + len(shown) * CHARACTER_WIDTH + 14
        if row and left + width > WIDTH:
            yield row
            row, left = [], 0.0
        row.append((left, (shown, hue, dashed)))
        left += width
    if row:
        yield row


def _legend(rows: Iterable[list[tuple[float, Entry]]], top: int) -> Iterator[str]:
    for place, row in enumerate(rows):
        y = top + LEGEND_ROW * place + 10
        for left, (name, hue, dashed) in row:
            mark = f'<rect class="{hue}" x="{left + 2:.0f}" y="{y - 6}" width="14" height="8" rx="2"/>'
            if not hue:
                mark = f'<circle class="hollow stroke-other" cx="{left + 9:.0f}" cy="{y - 2}" r="3"/>'
            if dashed:
                ends = f'x1="{left + 1:.0f}" x2="{left + 18:.0f}" y1="{y - 2}" y2="{y - 2}"'
                mark = f'<line class="line strong dashed stroke-{hue}" {ends}/>'
            yield f'{mark}<text x="{left + 22:.0f}" y="{y + 2}">{escape(name)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _nice(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= value * (1 - 1e-9))


def _floor_125(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (5, 2, 1) if f * power <= value * (1 + 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each power of ten; over more than three powers only 1."""
    factors = (1, 2, 5) if high / low <= 1000 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
