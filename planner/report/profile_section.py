"""One model on one device in words and figures: the recommendation and why, and what the charts show."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from planner.domain.profile import Source
from planner.domain.serving import LoadMode
from planner.domain.statistics import Interval, samples_needed
from planner.domain.units import format_bytes
from planner.profile_views.points import PARTS, Point
from planner.profile_views.ranking import Ranked
from planner.report.markup import Column, Group, Html, bullets, element, joined, number, share, table
from planner.report.profile_charts import PART_NAMES, model_charts
from planner.report.profile_subject import ModelOn, amount, latency_text, load_text

CONFIGURATIONS_SHOWN = 12
FAILURES_SHOWN = 10


def model_section(subject: ModelOn) -> Html:
    best, focus = subject.best, subject.focus
    heading = Html(f'<h2 id="{subject.anchor}">{escape(f"{subject.model} on {subject.device}")}</h2>')
    parts: list[Html] = [heading, *_recommendation(subject, best)]
    if focus is not None:
        parts += [model_charts(subject, focus), _configurations(subject, focus), _load_points(subject, focus)]
    parts.extend(_failures(subject))
    return element("section", joined(parts))


def _recommendation(subject: ModelOn, best: Ranked | None) -> Iterator[Html]:
    if best is None:
        yield element("p", joined([element("strong", "No recommendation.", "warn"), f" {_why_none(subject)}"]))
        return
    within = "" if subject.bound is None else f" within {subject.bound}"
    sentence = f" serves {number(best.inferences_per_s)} inferences/s{within} with {_memory_words(best)}. "
    yield element("p", joined([element("strong", f"Recommended: {best.label}"), sentence, _why(subject, best)]))
    yield bullets(list(_caveats(best)), 5, "")


def _memory_words(ranked: Ranked) -> str:
    return "memory not known" if ranked.memory_bytes is None else f"{amount(ranked.memory_bytes)} of hot memory"


def _why(subject: ModelOn, best: Ranked) -> str:
    fastest = subject.ranked[0]
    if len(subject.ranked) == 1:
        return "It is the only configuration measured."
    if fastest == best:
        near = "memory" if best.memory_bytes is not None else "instances"
        return f"No configuration is faster, and none that is nearly as fast takes less {near}."
    portion = (best.inferences_per_s or 0.0) / (fastest.inferences_per_s or 1.0)
    text = f"That is {portion:.0%} of the fastest, {fastest.label} with {number(fastest.inferences_per_s)} inferences/s"
    if best.memory_bytes is not None and fastest.memory_bytes is not None:
        saved = fastest.memory_bytes - best.memory_bytes
        return f"{text}, which takes {format_bytes(saved)} more." if saved > 0 else f"{text}."
    return f"{text}, which needs more instances or a larger batch."


def _why_none(subject: ModelOn) -> str:
    if not subject.finished:
        return "Every point failed."
    bound = subject.bound
    if bound is None:
        return "No stable point was measured."
    nearest = subject.nearest
    if nearest is None:
        needed = samples_needed(bound.percentile)
        return f"No stable point has a p{bound.percentile}: it takes {needed:,} requests in one window."
    latency, row = nearest
    where = f"{row.label}, {load_text(row)}"
    return f"No configuration keeps {bound}: {number(latency)} ms at best ({where})."


def _caveats(best: Ranked) -> Iterator[str]:
    if best.load is LoadMode.CLOSED:
        yield "The rate is that of a closed loop: a capacity, and no promise of latency under open traffic."
    if best.latency_ms is None:
        needed = samples_needed(best.percentile)
        yield f"Its p{best.percentile} is not known: it takes {needed:,} requests in one window."
    if best.source == Source.FITTED:
        yield "It was not measured: its figures follow from laws that held for its neighbours."
    if best.variant and "=" in best.variant:
        yield f"To plan with it, write {best.variant} into config.pbtxt and measure again."
    elif best.variant:
        yield "An ensemble, measured as a whole: its memory is that of all members, and it is not planned with."


def _configurations(subject: ModelOn, focus: Ranked) -> Html:
    columns = [
        Column("configuration", number=False),
        Column("inferences/s"),
        Column("latency there"),
        Column("hot memory"),
        Column("device time, s/M"),
        Column("energy, Wh/M"),
        Column("cost, USD/M"),
        Column("points"),
    ]
    shown = list(subject.ranked[:CONFIGURATIONS_SHOWN])
    if focus not in shown:
        shown[-1] = focus
    rows = [
        (
            element("strong", f"{r.label}, recommended") if r == subject.best else r.label,
            number(r.inferences_per_s),
            "-" if r.inferences_per_s is None else latency_text(r),
            amount(r.memory_bytes),
            number(r.busy_s_per_million),
            number(r.energy_wh_per_million),
            number(r.usd_per_million),
            str(r.points),
        )
        for r in shown
    ]
    hidden = len(subject.ranked) - len(shown)
    more = f"… and {hidden} slower ones: planner profiles compare --all --model {subject.model}"
    remark = [element("p", more, "more")] * (hidden > 0)
    return joined(
        [
            element("h3", "Configurations, the fastest first"),
            table(f"Configurations of {subject.model}", columns, [Group("", rows)]),
            *remark,
        ]
    )


def _load_points(subject: ModelOn, focus: Ranked) -> Html:
    columns = [
        Column("load", number=False),
        Column("inferences/s"),
        Column("95 %"),
        Column("mean ms"),
        Column(f"p{focus.percentile} ms"),
        Column("95 %"),
        *(Column(f"{name} ms") for name in PART_NAMES[: len(PARTS)]),
        Column("busy"),
        Column("planned", number=False),
    ]
    found = subject.of(focus)
    rows = [_load_row(point, focus.percentile) for point in found]
    kept = [i for i in range(len(columns)) if any(row[i] != "-" for row in rows)]
    title = f"Load points of {focus.label}"
    shown = [tuple(row[i] for i in kept) for row in rows]
    return joined([element("h3", title), table(title, [columns[i] for i in kept], [Group("", shown)])])


def _load_row(point: Point, percentile: int) -> tuple[str, ...]:
    row = point.row
    each = row.request_batch_size
    return (
        load_text(row),
        number(row.inferences_per_s),
        _interval(point.rate_interval_rps, each),
        number(row.latency_mean_ms),
        number(row.percentile_ms(percentile)),
        _interval(point.latency_p99_interval_ms) if percentile == 99 else "-",
        *(number(point.parts_ms.get(part)) for part in PARTS),
        share(row.busy),
        "yes" if row.is_planned else "no",
    )


def _interval(found: Interval | None, times: float = 1) -> str:
    if found is None:
        return "-"
    low, high = ("?" if side is None else number(side * times) for side in found)
    return f"{low}..{high}"


def _failures(subject: ModelOn) -> Iterator[Html]:
    causes = [
        f"{p.row.instances} x {p.row.max_batch_size}, {load_text(p.row)}: "
        + next(iter(p.failure.splitlines()), "no cause recorded")
        for p in subject.points
        if p.failure is not None
    ]
    if causes:
        more = f"in planner profiles show {subject.model}"
        yield joined([element("h3", "Failed points"), bullets(causes, FAILURES_SHOWN, more)])
