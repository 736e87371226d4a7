"""The pictures of one model on one device: latency, memory, and where a request's time goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.domain.units import counted, format_bytes
from planner.profile_views.points import PARTS, Point
from planner.profile_views.ranking import Ranked
from planner.report.charts import Bar, Dot, Limit, Series, axis, line_chart, share_chart
from planner.report.markup import Html, element, joined, number
from planner.report.profile_subject import ModelOn, amount, load_text

HIGHLIGHTED = 5
BARS_SHOWN = 12
SAME_MEMORY_WITHIN = 0.02
PART_NAMES = ("queue", "compute input", "compute infer", "compute output", "network and client")
PART_HUES = ("hue2", "hue1", "hue0", "hue4", "once")


def model_charts(subject: ModelOn, focus: Ranked) -> Html:
    pictures = [_throughput_chart(subject, focus), _memory_chart(subject), _breakdown_chart(subject, focus)]
    return Html(f'<div class="charts">{"".join(pictures)}</div>')


def _missing(caption: str, why: str) -> Html:
    return joined([Html("<figure>"), element("figcaption", caption), element("p", why), Html("</figure>")])


def _throughput_chart(subject: ModelOn, focus: Ranked) -> Html:
    percentile = _percentile_known(subject, focus)
    name = f"p{percentile} latency" if percentile else "mean latency"
    caption = f"{name if percentile else name.capitalize()} against throughput"

    def latency(row: ProfileRow) -> float | None:
        return row.percentile_ms(percentile) if percentile else row.latency_mean_ms

    chosen = _highlighted(subject, focus)
    series: list[Series] = []
    for place, configuration in enumerate(chosen):
        label = f"{configuration.label}, recommended" if configuration == subject.best else configuration.label
        series.extend(_curves(subject, configuration, label, f"hue{place}", latency, strong=configuration == focus))
    others = [r for r in subject.ranked if r not in chosen]
    cloud = [dot for r in others for one in _curves(subject, r, "", "other", latency) for dot in one.dots]
    if cloud:
        series.insert(0, Series(counted(len(others), "other configuration"), "other", cloud, line=False))
    limit = subject.bound if percentile else None
    dots = [dot for one in series for dot in one.dots]
    if not dots:
        return _missing(caption, "No latency is known.")
    solid = [dot.y for dot in dots if not dot.hollow] or [dot.y for dot in dots]
    y = axis(f"{name}, ms", [*solid, *([] if limit is None else [limit.bound_ms])], log=True)
    series = [replace(one, dots=[dot for dot in one.dots if y.holds(dot.y)]) for one in series]
    beyond = sum(not y.holds(dot.y) for dot in dots)
    if any(one.dashed for one in series):
        series.append(Series("dashed: open loop", "other", (), dashed=True))
    own = "; ".join(
        f"{number(dot.x)}/s at {number(dot.y)} ms" for one in series if one.strong for dot in one.dots if not dot.hollow
    )
    what = f"Line chart of {name} in ms over inferences per second, {counted(len(subject.ranked), 'configuration')}"
    return line_chart(
        caption,
        f"{what}. {focus.label}: {own or 'no stable point'}.",
        axis("inferences per second", [dot.x for dot in dots]),
        y,
        series,
        limit=None if limit is None else Limit(f"objective {limit.bound_ms:g} ms", limit.bound_ms),
        hollow=_hollow(dots, beyond),
    )


def _hollow(dots: Sequence[Dot], beyond: int) -> str:
    if not any(dot.hollow for dot in dots):
        return ""
    return f"hollow: unstable or past the knee{f', {beyond:,} more are above' if beyond else ''}"


def _percentile_known(subject: ModelOn, focus: Ranked) -> int | None:
    """The percentile that matters, where most stable points of the recommended configuration have it."""
    rows = [point.row for point in subject.of(focus) if point.row.stable]
    known = sum(row.percentile_ms(focus.percentile) is not None for row in rows)
    return focus.percentile if 2 * known > len(rows) else None


def _highlighted(subject: ModelOn, focus: Ranked) -> list[Ranked]:
    """The recommended configuration and the fastest of each other number of instances; all where they are few."""
    if len(subject.ranked) <= HIGHLIGHTED:
        return [focus, *(r for r in subject.ranked if r != focus)]
    fastest: dict[object, Ranked] = {(focus.instances, focus.variant): focus}
    for ranked in subject.ranked:
        fastest.setdefault((ranked.instances, ranked.variant), ranked)
    others = sorted((r for r in fastest.values() if r != focus), key=lambda r: (r.instances, r.label))
    return [focus, *others[: HIGHLIGHTED - 1]]


def _curves(
    subject: ModelOn,
    configuration: Ranked,
    name: str,
    hue: str,
    latency: Callable[[ProfileRow], float | None],
    *,
    strong: bool = False,
) -> Iterator[Series]:
    """One series per way of loading; the name stands at the first one."""
    for mode in LoadMode:
        dots = []
        for point in subject.of(configuration):
            row, y = point.row, latency(point.row)
            if row.load is mode and y and row.inferences_per_s:
                title = f"{configuration.label}, {load_text(row)}: {number(row.inferences_per_s)}/s, {number(y)} ms"
                hollow = not row.stable or row.failed > 0
                dots.append(Dot(row.inferences_per_s, y, title, hollow))
        if dots:
            yield Series(name, hue, dots, strong=strong, dashed=mode is LoadMode.OPEN)
            name = ""


def _memory_chart(subject: ModelOn) -> Html:
    caption = "Hot memory of a replica, by instances and batch"
    known = [r for r in subject.ranked if r.memory_bytes is not None and not r.variant]
    if not known:
        return _missing(
            caption, "Memory is not known." if subject.ranked[0].variant == "" else "An ensemble has none of its own."
        )
    lines: dict[int, dict[int, int]] = {}
    for r in known:
        of_batch = lines.setdefault(r.max_batch_size, {})
        of_batch[r.instances] = max(of_batch.get(r.instances, 0), r.memory_bytes or 0)
    counts = {n for line in lines.values() for n in line}
    if len(counts) < 2 and len(lines) < 2:
        return _missing(caption, f"{amount(known[0].memory_bytes)} at {known[0].label}, the only one measured.")
    merged = _merged(lines)
    series = [
        Series(
            _batches(batches, lines),
            f"hue{place % 8}",
            [Dot(n, size / 2**20, f"{counted(n, 'instance')}, {_batches(batches, lines)}: {format_bytes(size)}")
             for n, size in sorted(line.items())],
        )
        for place, (batches, line) in enumerate(merged)
    ]  # fmt: skip
    words = "; ".join(f"{_batches(batches, lines)}: {_sizes(line)}" for batches, line in merged)
    return line_chart(
        caption,
        f"Line chart of hot memory over the number of instances. {words}.",
        axis("instances", [float(n) for n in counts], whole=True),
        axis("hot memory, MiB", [dot.y for one in series for dot in one.dots]),
        series,
    )


def _sizes(line: dict[int, int]) -> str:
    return ", ".join(f"{counted(n, 'instance')} {format_bytes(size)}" for n, size in sorted(line.items()))


def _merged(lines: dict[int, dict[int, int]]) -> list[tuple[list[int], dict[int, int]]]:
    """Batch sizes whose memory does not differ share a line; lines of most memory stand last."""
    merged: list[tuple[list[int], dict[int, int]]] = []
    for batch, line in sorted(lines.items()):
        for batches, other in merged:
            if line.keys() <= other.keys() and all(
                abs(size - other[n]) <= SAME_MEMORY_WITHIN * other[n] for n, size in line.items()
            ):
                batches.append(batch)
                break
        else:
            merged.append(([batch], line))
    return merged


def _batches(batches: Sequence[int], measured: Collection[int]) -> str:
    """ "max batch 1 to 128" where none that was measured is left out between."""
    between = [batch for batch in measured if batches[0] <= batch <= batches[-1]]
    if len(batches) > 2 and len(between) == len(batches):
        return f"max batch {batches[0]} to {batches[-1]}"
    return f"max batch {', '.join(map(str, batches))}"


def _breakdown_chart(subject: ModelOn, focus: Ranked) -> Html:
    caption = f"Where a request's time goes at {focus.label}, by load"
    known = [point for point in subject.of(focus) if len(point.parts_ms) == len(PARTS)]
    if not known:
        return _missing(caption, "The records do not have Triton's times of all four parts.")
    with_rest = all(point.rest_ms is not None for point in known)
    parts = len(PARTS) + with_rest
    bars = [
        Bar(
            load_text(point.row),
            [*(point.parts_ms[part] for part in PARTS), *([point.rest_ms or 0.0] if with_rest else [])],
            f"{number(_total(point))} ms",
        )
        for point in known[:BARS_SHOWN]
    ]
    words = "; ".join(f"{bar.label}: {_spoken(bar)}" for bar in bars)
    what = "Stacked bars of the mean time of a request by part, at the right the mean latency"
    return share_chart(caption, f"{what}. {words}.", PART_NAMES[:parts], PART_HUES[:parts], bars)


def _spoken(bar: Bar) -> str:
    return ", ".join(f"{name} {number(ms)} ms" for name, ms in zip(PART_NAMES, bar.amounts, strict=False))


def _total(point: Point) -> float:
    mean = point.row.latency_mean_ms
    return sum(point.parts_ms.values()) if mean is None else mean
