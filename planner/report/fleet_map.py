"""The fleet as a picture: a row per device with its memory and its busy time, filled by model. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from planner.domain.plan import Plan
from planner.domain.problem import Problem
from planner.domain.units import format_bytes
from planner.report.fleet_rows import FleetRows, Row, Segment, fleet_rows
from planner.report.palette import OTHER, fills, model_classes, variables

WIDTH = 920
ROW_HEIGHT = 46
BAR_HEIGHT = 22
HEAD_HEIGHT = 34
LABEL_WIDTH = 150
BAR_WIDTH = 300
GAP = 16
FIGURE_WIDTH = 62
MEMORY_X = LABEL_WIDTH
BUSY_X = MEMORY_X + BAR_WIDTH + FIGURE_WIDTH + GAP
CHARACTER_WIDTH = 6.4
LEGEND_COLUMNS = 4
LEGEND_ROW = 20

STYLE = (
    "svg.fleet text{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink2)}"
    "svg.fleet .name{font-weight:600;fill:var(--ink);font-size:12px}"
    "svg.fleet .head{fill:var(--ink3)}svg.fleet .track{fill:var(--track)}svg.fleet .once{fill:var(--once)}"
    "svg.fleet .limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:3 2}"
    "svg.fleet .figure{fill:var(--ink);font-variant-numeric:tabular-nums}" + fills().replace(".", "svg.fleet .")
)


def standalone_svg(problem: Problem, plan: Plan) -> str:
    """The map as a file of its own, light or dark as its reader's screen is."""
    inner, height = _drawing(fleet_rows(problem, plan), model_classes(plan))
    style = f"<style>{variables('svg.fleet')}{STYLE}</style>"
    paper = f'<rect width="{WIDTH}" height="{height}" style="fill:var(--paper)"/>'
    return f"{_open(plan, height, standalone=True)}{style}{paper}{inner}</svg>\n"


def inline_svg(problem: Problem, plan: Plan) -> str:
    """The map for a page that has the palette's variables and STYLE."""
    inner, height = _drawing(fleet_rows(problem, plan), model_classes(plan))
    return f"{_open(plan, height, standalone=False)}{inner}</svg>"


def _open(plan: Plan, height: int, *, standalone: bool) -> str:
    space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    devices = plan.summary.devices_used
    text = (
        f"{devices} devices carry {plan.summary.replicas} replicas. Each row is one device: its usable memory on the "
        "left and its busy time at full capacity on the right, filled by model."
    )
    return (
        f'<svg{space} class="fleet" role="img" aria-labelledby="fleet-title fleet-desc" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<title id="fleet-title">Map of the fleet</title><desc id="fleet-desc">{escape(text)}</desc>'
    )


def _drawing(fleet: FleetRows, classes: Mapping[str, str]) -> tuple[str, int]:
    parts = [*_head()]
    y = HEAD_HEIGHT
    for row in fleet.rows:
        parts += _row(row, y, classes)
        y += ROW_HEIGHT
    for line in _remarks(fleet):
        parts.append(f'<text x="8" y="{y + 12}">{escape(line)}</text>')
        y += LEGEND_ROW
    legend = list(_legend(fleet, classes, y + 10))
    rows = -(-len(legend) // LEGEND_COLUMNS)
    return "".join([*parts, *legend]), y + 10 + rows * LEGEND_ROW + 6


def _head() -> Iterator[str]:
    yield f'<text class="head" x="{MEMORY_X}" y="20">memory, of what is usable</text>'
    yield f'<text class="head" x="{BUSY_X}" y="20">busy time at full capacity</text>'


def _row(row: Row, y: int, classes: Mapping[str, str]) -> Iterator[str]:
    times = f"{row.count} x " if row.count > 1 else ""
    yield f'<text class="name" x="8" y="{y + 13}">{escape(_fitted(times + row.label, LABEL_WIDTH - 14))}</text>'
    yield f'<text x="8" y="{y + 28}">{escape(_fitted(row.detail, LABEL_WIDTH - 14))}</text>'
    yield from _bar(MEMORY_X, y, row.memory, classes, _bytes)
    yield _figure(MEMORY_X, y, format_bytes(row.memory_bytes_used), f"of {format_bytes(row.memory_bytes_capacity)}")
    yield from _bar(BUSY_X, y, row.busy_parts, classes, _percent)
    if row.busy_limit < 1:
        x = BUSY_X + row.busy_limit * BAR_WIDTH
        title = f"<title>limit of a shared device: {row.busy_limit:.0%}</title>"
        yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + BAR_HEIGHT + 3}">{title}</line>'
    yield _figure(BUSY_X, y, f"{row.busy:.0%}", f"of {row.busy_limit:.0%}")


def _figure(x: int, y: int, value: str, of: str) -> str:
    right = x + BAR_WIDTH + 6
    return f'<text class="figure" x="{right}" y="{y + 10}">{value}</text><text x="{right}" y="{y + 23}">{of}</text>'


def _bar(
    x: int, y: int, segments: Sequence[Segment], classes: Mapping[str, str], amount: Callable[[Segment], str]
) -> Iterator[str]:
    yield f'<rect class="track" x="{x}" y="{y}" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" rx="3"/>'
    left = float(x)
    for segment in segments:
        width = segment.share * BAR_WIDTH
        css = "once" if segment.model is None else classes[segment.model]
        title = escape(f"{segment.label}: {amount(segment)}")
        yield f'<rect class="{css}" x="{left:.2f}" y="{y}" width="{max(0.5, width - 1.5):.2f}" height="{BAR_HEIGHT}" rx="2">'
        yield f"<title>{title}</title></rect>"
        label = _fitted(segment.label, width - 10)
        if segment.model is not None and len(label) > 3:
            yield f'<text class="on-{css}" x="{left + 5:.1f}" y="{y + 15}" pointer-events="none">{escape(label)}</text>'
        left += width


def _remarks(fleet: FleetRows) -> Iterator[str]:
    if any(row.count > 1 for row in fleet.rows) or fleet.hidden_devices:
        yield "Devices with the same content share a row; the most frequent ones stand first."
    if fleet.hidden_devices:
        yield f"{fleet.hidden_devices:,} more devices, with rarer contents, are listed in plan.json."
    if fleet.free:
        yield "Unused: " + ", ".join(f"{count:,} x {name}" for name, count in fleet.free)


def _legend(fleet: FleetRows, classes: Mapping[str, str], y: int) -> Iterator[str]:
    shown = {segment.model for row in fleet.rows for segment in row.memory if segment.model is not None}
    entries = [(css, name) for name, css in classes.items() if css != OTHER and name in shown]
    others = sum(1 for name in shown if classes[name] == OTHER)
    entries += [(OTHER, f"{others} other models")] * (others > 0)
    entries += [("once", "server and backends")] * any(s.model is None for row in fleet.rows for s in row.memory)
    column = (WIDTH - 16) / LEGEND_COLUMNS
    for place, (css, name) in enumerate(entries):
        x, line = 8 + place % LEGEND_COLUMNS * column, y + place // LEGEND_COLUMNS * LEGEND_ROW
        label = escape(_fitted(name, column - 24))
        yield (
            f'<g><title>{escape(name)}</title><rect class="{css}" x="{x:.0f}" y="{line}" width="12" height="12" rx="2"/>'
            f'<text x="{x + 18:.0f}" y="{line + 10}">{label}</text></g>'
        )


def _fitted(text: str, width: float) -> str:
    most = int(width / CHARACTER_WIDTH)
    if len(text) <= most:
        return text
    return text[: most - 1] + "…" if most > 1 else ""


def _bytes(segment: Segment) -> str:
    return f"{format_bytes(int(segment.amount))} ({segment.share:.1%})"


def _percent(segment: Segment) -> str:
    return f"{segment.share:.1%}"
