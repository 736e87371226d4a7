"""The fleet as a picture: a row per device with its memory and its busy time, filled by model. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from planner.domain.plan import Plan
from planner.domain.problem import Problem
from planner.domain.units import format_bytes
from planner.errors import InputError
from planner.report.fleet_rows import FleetRows, Row, Segment, SlicePlace, fleet_rows, unknown_name
from planner.report.palette import OTHER, fills, model_classes, variables

WIDTH = 920
ROW_HEIGHT = 44
BAR_HEIGHT = 22
HEAD_HEIGHT = 28
ROW_TOP = 4
LABEL_WIDTH = 150
BAR_WIDTH = 300
GAP = 16
FIGURE_WIDTH = 84
MEMORY_X = LABEL_WIDTH
BUSY_X = MEMORY_X + BAR_WIDTH + FIGURE_WIDTH + GAP
CHARACTER_WIDTH = 6.8
NAME_NARROWER = 0.85
MARGIN = 12
CELL = 12  # of a memory slice, with the gap behind it
LEGEND_COLUMNS = 4
LEGEND_ROW = 20
LEGEND_TOP = 12

STYLE = (
    "svg.fleet text{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink2)}"
    "svg.fleet .name{font-weight:600;fill:var(--ink);font-size:12px}"
    "svg.fleet .head{fill:var(--ink3)}svg.fleet .track{fill:var(--track)}svg.fleet .once{fill:var(--once)}"
    "svg.fleet .taken{fill:var(--ink3)}"
    "svg.fleet .limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:3 2}"
    "svg.fleet .figure{fill:var(--ink);font-variant-numeric:tabular-nums}"
    "svg.fleet .over{fill:var(--bad);font-weight:700}" + fills().replace(".", "svg.fleet .")
)


def standalone_svg(problem: Problem, plan: Plan) -> str:
    """The map as a file of its own, light or dark as its reader's screen is; InputError where it cannot be drawn."""
    unknown = unknown_name(problem, plan)
    if unknown is not None:
        raise InputError(f"the fleet map cannot be drawn: {unknown}", hint="`planner check` lists everything")
    parts, y = [], 0
    for block, height in _blocks(problem, plan):
        parts.append(f'<g transform="translate(0 {y})">{block}</g>')
        y += height
    style = f"<style>{variables('svg.fleet')}{STYLE}</style>"
    size = f'x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="8"'
    paper = f'<rect {size} style="fill:var(--paper);stroke:var(--line)"/>'
    names = f"<title>Map of the fleet</title><desc>{escape(_description(plan))}</desc>"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="fleet" role="img" {_size(y)}>'
    return f"{opening}{names}{style}{paper}{''.join(parts)}</svg>\n"


def inline_svg(problem: Problem, plan: Plan) -> str:
    """The map for a page that has the palette's variables and STYLE: a picture per row, so that print can break."""
    blocks = (f'<svg class="fleet" aria-hidden="true" {_size(h)}>{block}</svg>' for block, h in _blocks(problem, plan))
    return f'<div class="fleet-map" role="img" aria-label="{escape(_description(plan))}">{"".join(blocks)}</div>'


def _size(height: int) -> str:
    return f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'


def _description(plan: Plan) -> str:
    summary = plan.summary
    return (
        f"Map of the fleet: {summary.devices_used} devices carry {summary.replicas} replicas. Each row is a device: "
        "its usable memory on the left and its busy time at full capacity on the right, filled by model."
    )


def _blocks(problem: Problem, plan: Plan) -> Iterator[tuple[str, int]]:
    """Drawings that stand below each other, with their heights."""
    fleet, classes = fleet_rows(problem, plan), model_classes(plan)
    yield "".join(_head()), HEAD_HEIGHT
    for row in fleet.rows:
        yield "".join(_row(row, ROW_TOP, classes)), ROW_HEIGHT
    for line in _remarks(fleet):
        text = escape(_fitted(line, WIDTH - 2 * MARGIN))
        yield f'<text x="{MARGIN}" y="{LEGEND_ROW - 6}">{text}</text>', LEGEND_ROW
    legend = list(_legend(fleet, classes))
    yield "".join(legend), LEGEND_TOP + -(-len(legend) // LEGEND_COLUMNS) * LEGEND_ROW + MARGIN // 2


def _head() -> Iterator[str]:
    yield f'<text class="head" x="{MEMORY_X}" y="20">memory, of what is usable</text>'
    yield f'<text class="head" x="{BUSY_X}" y="20">busy time at full capacity</text>'


def _row(row: Row, y: int, classes: Mapping[str, str]) -> Iterator[str]:
    width = LABEL_WIDTH - MARGIN - 6
    yield f'<text class="name" x="{MARGIN}" y="{y + 10}">{escape(_fitted(row.label, width * NAME_NARROWER))}</text>'
    yield f'<text x="{MARGIN}" y="{y + 23}">{escape(_fitted(row.detail, width))}</text>'
    if row.place is not None:
        yield from _memory_slices(row.place, y)
    yield from _bar(MEMORY_X, y, row.memory, classes, _bytes)
    yield _figure(
        MEMORY_X,
        y,
        format_bytes(row.memory_bytes_used),
        f"of {format_bytes(row.memory_bytes_capacity)}",
        over=row.memory_bytes_used > row.memory_bytes_capacity,
    )
    yield from _bar(BUSY_X, y, row.busy_parts, classes, _percent)
    if row.busy_limit < 1:
        x = BUSY_X + row.busy_limit * BAR_WIDTH
        title = f"<title>limit of a shared device: {row.busy_limit:.0%}</title>"
        yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + BAR_HEIGHT + 3}">{title}</line>'
    yield _figure(BUSY_X, y, f"{row.busy:.0%}", f"of {row.busy_limit:.0%}", over=row.busy > row.busy_limit)


def _memory_slices(place: SlicePlace, y: int) -> Iterator[str]:
    """A cell per memory slice of the GPU, those of this MIG slice filled."""
    last = place.start + place.taken - 1
    span = f"memory slice {place.start}" if place.taken == 1 else f"memory slices {place.start} to {last}"
    cells = "".join(
        f'<rect class="{"taken" if place.start <= cell <= last else "track"}" x="{MARGIN + cell * CELL}" '
        f'y="{y + 28}" width="{CELL - 2}" height="5"/>'
        for cell in range(place.total)
    )
    yield f"<g><title>{span} of 0 to {place.total - 1}</title>{cells}</g>"


def _figure(x: int, y: int, value: str, of: str, *, over: bool) -> str:
    right = x + BAR_WIDTH + 6
    css = "figure over" if over else "figure"
    return f'<text class="{css}" x="{right}" y="{y + 10}">{value}</text><text x="{right}" y="{y + 23}">{of}</text>'


def _bar(
    x: int, y: int, segments: Sequence[Segment], classes: Mapping[str, str], amount: Callable[[Segment], str]
) -> Iterator[str]:
    yield f'<rect class="track" x="{x}" y="{y}" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" rx="3"/>'
    left = float(x)
    # A plan that breaks a rule can hold more than a bar is long: what is too much is cut off at its end.
    for segment, width in zip(segments, _widths(segments), strict=True):
        css = "once" if segment.model is None else classes[segment.model]
        title = escape(f"{segment.label}: {amount(segment)}")
        size = f'width="{max(0.5, width - 1.5):.2f}" height="{BAR_HEIGHT}" rx="2"'
        yield f'<rect class="{css}" x="{left:.2f}" y="{y}" {size}><title>{title}</title></rect>'
        label = _fitted(segment.label, width - 10)
        if segment.model is not None and (label == segment.label or len(label) > 3):
            yield f'<text class="on-{css}" x="{left + 5:.1f}" y="{y + 15}" pointer-events="none">{escape(label)}</text>'
        left += width


def _widths(segments: Sequence[Segment]) -> Iterator[float]:
    left = float(BAR_WIDTH)
    for segment in segments:
        width = min(left, segment.share * BAR_WIDTH)
        left -= width
        yield width


def _remarks(fleet: FleetRows) -> Iterator[str]:
    if any(row.count > 1 for row in fleet.rows) or fleet.hidden_devices:
        yield "Devices with the same content share a row; the most frequent ones stand first."
    if fleet.hidden_devices:
        yield f"{fleet.hidden_devices:,} more devices, with rarer contents, are listed in plan.json."
    if fleet.free:
        yield "Unused: " + ", ".join(f"{count:,} x {name}" for name, count in fleet.free)


def _legend(fleet: FleetRows, classes: Mapping[str, str]) -> Iterator[str]:
    shown = {segment.model for row in fleet.rows for segment in row.memory if segment.model is not None}
    entries = [(css, name) for name, css in classes.items() if css != OTHER and name in shown]
    others = sum(1 for name in shown if classes[name] == OTHER)
    entries += [(OTHER, "1 other model" if others == 1 else f"{others} other models")] * (others > 0)
    entries += [("once", "server and backends")] * any(s.model is None for row in fleet.rows for s in row.memory)
    column = (WIDTH - 2 * MARGIN) / LEGEND_COLUMNS
    for place, (css, name) in enumerate(entries):
        x, line = MARGIN + place % LEGEND_COLUMNS * column, LEGEND_TOP + place // LEGEND_COLUMNS * LEGEND_ROW
        square = f'<rect class="{css}" x="{x:.0f}" y="{line}" width="12" height="12" rx="2"/>'
        text = f'<text x="{x + 18:.0f}" y="{line + 10}">{escape(_fitted(name, column - 24))}</text>'
        yield f"<g><title>{escape(name)}</title>{square}{text}</g>"


def _fitted(text: str, width: float) -> str:
    """Numbered names differ at their ends: the number stays."""
    most = int(width / CHARACTER_WIDTH)
    if len(text) <= most:
        return text
    tail = most // 3 if text[-1:].isdigit() else 0
    return text[: most - 1 - tail] + "…" + text[len(text) - tail :] if most > 1 else ""


def _bytes(segment: Segment) -> str:
    return f"{format_bytes(int(segment.amount))} ({segment.share:.1%})"


def _percent(segment: Segment) -> str:
    return f"{segment.share:.1%}"
