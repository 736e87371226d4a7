"""What was measured as one page: the recommended configurations first, then each model. It needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from planner.domain.profile import SERVER_ROW, Measurement
from planner.domain.units import counted
from planner.profile_views.points import points
from planner.profile_views.ranking import LatencyBound, RankBy, Ranked, ranking
from planner.report import charts
from planner.report.charts import Dot, Series, axis, line_chart
from planner.report.markup import Column, Group, Html, bullets, document, element, html, joined, number, section, table
from planner.report.profile_section import model_section
from planner.report.profile_subject import ModelOn, amount, latency_text

SERIES_SHOWN = 8
NOTES_SHOWN = 30

_COLUMNS = (
    Column("model", number=False),
    Column("recommended", number=False),
    Column("inferences/s"),
    Column("latency there"),
    Column("hot memory"),
    Column("device time, s"),
    Column("energy, Wh"),
    Column("cost, USD"),
)


def profiles_page(
    measurements: Iterable[Measurement],
    *,
    bounds: Mapping[str, LatencyBound] | None = None,
    usd_per_hour: Mapping[str, float] | None = None,
) -> str:
    """`bounds`: latency objectives by model; `usd_per_hour`: prices by device."""
    measurements = list(measurements)
    subjects = list(_subjects(measurements, bounds or {}, usd_per_hour or {}))
    models, devices = {s.model for s in subjects}, sorted({s.device for s in subjects})
    what = next(iter(models)) if len(models) == 1 else counted(len(models), "model")
    title = f"Profiles: {what} on {', '.join(devices)}"
    parts = [element("h1", title), element("p", _answer(subjects), "answer"), _summary(subjects, devices)]
    if len(subjects) > 1:
        parts.append(_overview(subjects))
    parts += [_how_sure(subjects), *(model_section(subject) for subject in subjects), _foot(measurements)]
    return document(title, charts.STYLE, joined(parts))


def _subjects(
    measurements: Sequence[Measurement], bounds: Mapping[str, LatencyBound], usd_per_hour: Mapping[str, float]
) -> Iterator[ModelOn]:
    finished = [m.row for m in measurements if m.failure is None]
    ranked = ranking(finished, RankBy.RATE, bounds=bounds, usd_per_hour=usd_per_hour)
    pairs = sorted({(m.row.model, m.row.device) for m in measurements if not m.row.is_overhead})
    for place, (model, device) in enumerate(pairs, 1):
        own = [m for m in measurements if (m.row.model, m.row.device) == (model, device)]
        yield ModelOn(
            anchor=f"model-{place}",
            model=model,
            device=device,
            points=tuple(points(own, model)),
            ranked=tuple(r for r in ranked if (r.model, r.device) == (model, device)),
            bound=bounds.get(model),
        )


def _answer(subjects: Sequence[ModelOn]) -> str:
    found = [subject for subject in subjects if subject.best is not None]
    configurations = sum(len(subject.ranked) for subject in subjects)
    load_points = sum(len(subject.finished) for subject in subjects)
    text = f"{counted(configurations, 'configuration')} at {counted(load_points, 'load point')}."
    if len(found) < len(subjects):
        missing = ", ".join(f"{s.model} on {s.device}" for s in subjects if s.best is None)
        text += f" No configuration to recommend for {missing}: see below."
    return text


def _summary(subjects: Sequence[ModelOn], devices: Sequence[str]) -> Html:
    groups = [
        Group(f"on {device}" if len(devices) > 1 else "", [_row(s) for s in subjects if s.device == device])
        for device in devices
    ]
    key = (
        "Recommended: of the configurations with at least 95 % of the best rate, the one that takes least memory. "
        "Instances x largest batch (0: no batching). Device time, energy and cost per million inferences; energy is "
        "the whole device's, its idle power included; cost is that of a device of its own. A dash means not known."
    )
    return section(
        "Recommended configurations",
        table("Recommended configurations", _COLUMNS, groups, "models; name some of them to planner profiles report"),
        element("p", key, "small"),
        *_unknown(subjects),
    )


def _row(subject: ModelOn) -> tuple[str, ...]:
    name, best = Html(f'<a href="#{subject.anchor}">{html(subject.model)}</a>'), subject.best
    if best is None:
        return (name, "none", "-", "-", "-", "-", "-", "-")
    return (
        name,
        best.label,
        number(best.inferences_per_s),
        latency_text(best),
        amount(best.memory_bytes),
        number(best.busy_s_per_million),
        number(best.energy_wh_per_million),
        number(best.usd_per_million),
    )


def _unknown(subjects: Sequence[ModelOn]) -> Iterator[Html]:
    best = [subject.best for subject in subjects if subject.best is not None]
    notes = []
    if any(r.energy_wh_per_million is None for r in best):
        notes.append(f"Energy is not known{_of(best, 'energy_wh_per_million')}: the records have no power.")
    without = sorted({r.device for r in best if r.usd_per_million is None})
    if without:
        notes.append(
            f"Cost is not known on {', '.join(without)}: no price per hour was given (--price {without[0]}=USD)."
        )
    if any(not r.busy_measured for r in best):
        notes.append(f"Device time was not measured{_of(best, 'busy_measured')}: it follows from the rates.")
    if any(r.memory_bytes is None for r in best):
        notes.append(f"Memory is not known{_of(best, 'memory_bytes')}: planned, it takes the whole device.")
    if notes:
        yield bullets(notes, NOTES_SHOWN, "")


def _of(best: Sequence[Ranked], field: str) -> str:
    missing = [f"{r.model} on {r.device}" for r in best if not getattr(r, field)]
    return "" if len(missing) == len(best) else f" of {', '.join(missing)}"


def _overview(subjects: Sequence[ModelOn]) -> Html:
    """The recommended configuration of every model; all models in one picture."""
    several = len({subject.device for subject in subjects}) > 1
    series = [
        Series(
            f"{s.model} on {s.device}" if several else s.model,
            f"hue{place}" if place < SERIES_SHOWN else "other",
            [Dot(x, y, title) for x, y, title in s.mean_curve(s.best)],
        )
        for place, s in enumerate(s for s in subjects if s.best is not None)
        if s.best is not None
    ]
    drawn = [one for one in series if one.dots]
    if not drawn:
        return section("All models", element("p", "No mean latency is known, so there is nothing to draw."))
    dots = [dot for one in drawn for dot in one.dots]
    words = "; ".join(
        f"{one.name} from {number(one.dots[0].x)} inferences/s at {number(one.dots[0].y)} ms to "
        f"{number(one.dots[-1].x)} at {number(one.dots[-1].y)} ms"
        for one in drawn
    )
    chart = line_chart(
        "Mean latency against throughput, recommended configurations",
        f"Line chart with logarithmic axes, one line per model: {words}.",
        axis("inferences per second", [dot.x for dot in dots], log=True),
        axis("mean latency, ms", [dot.y for dot in dots], log=True),
        drawn,
    )
    return section("All models", chart)


def _how_sure(subjects: Sequence[ModelOn]) -> Html:
    notes = [f"{s.model} on {s.device}: {text}" for s in subjects for text in s.doubts()]
    sources = sorted({point.row.source for s in subjects for point in s.finished})
    lines = [f"Profiles are {', '.join(sources)}.", *notes]
    return section("How sure this is", bullets(lines, NOTES_SHOWN, "in planner profiles show"))


def _foot(measurements: Sequence[Measurement]) -> Html:
    once = [m.row for m in measurements if m.row.is_overhead and m.failure is None]
    lines = [
        f"{'Server' if row.model == SERVER_ROW else row.model.removeprefix('@')} on {row.device}, once per server: "
        f"{amount(row.memory_bytes)} ({row.source})"
        for row in once
    ]
    generators = sorted({m.row.load_generator for m in measurements if m.row.load_generator})
    servers = sorted({str(m.environment["triton"]) for m in measurements if m.environment.get("triton")})
    by = [f"Load by {', '.join(generators)}"] * bool(generators) + [f"Triton {', '.join(servers)}"] * bool(servers)
    return element("footer", joined(element("div", line) for line in [*lines, "; ".join(by)] if line))
