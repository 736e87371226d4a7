"""planner profiles: look at what was measured, bring it in, take it out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.commands import profiles_import, profiles_ranking
from planner.commands.output import print_json, print_table
from planner.commands.profiles_store import (
    megabytes,
    number,
    opened_store,
    require,
    store_options,
    stored_measurements,
    stored_rows,
)
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.domain.profile import ProfileRow
    from planner.domain.statistics import Interval
    from planner.profile_views.points import Point
    from planner.profile_views.tables import ConfigurationSummary


DOUBTS_SHOWN = 3


@click.group("profiles", short_help="List, show, compare, report, import, export and remove measured profiles.")
def command() -> None:
    """What was measured: which model, on which device, in which configuration, at which load."""


command.add_command(profiles_ranking.compare)
command.add_command(profiles_ranking.report)
command.add_command(profiles_import.command)


@command.command("list")
@click.option("--model", help="Only this model.")
@click.option("--device", help="Only this device type.")
@click.option("--all", "every", is_flag=True, help="Every configuration, not only the best of each instance count.")
@store_options
def list_(store: str, as_json: bool, model: str | None, device: str | None, every: bool) -> None:
    """Models, devices and configurations with their peak rate, the p99 there, and their memory."""
    from planner.profile_views.tables import overheads, summaries

    rows = stored_rows(store, model, device)
    if as_json:
        found = summaries(rows)
        print_json({"configurations": found, "overheads": overheads(stored_rows(store, None, device))})
        return
    print_summaries(rows, every=every)
    if model is not None:
        _print_overheads(stored_rows(store, None, device))


@command.command("show")
@click.argument("model")
@click.option("--device", help="Only this device type.")
@store_options
def show(store: str, as_json: bool, model: str, device: str | None) -> None:
    """Every point of one MODEL, with 95 % intervals where its record has them.

    Points that are past the knee, unstable or failed are not planned with.
    """
    from planner.profile_views.points import points

    measurements = [m for m in stored_measurements(store) if device in (None, m.row.device)]
    require((device,) if device else (), {m.row.device for m in measurements}, "device")
    found = points(measurements, model)
    if as_json:
        print_json([_point_json(point) for point in found])
        return
    for name in sorted({point.row.device for point in found}):
        _print_points(f"{model} on {name}", [point for point in found if point.row.device == name])


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Only this model, and what its devices' servers take.")
@click.option("--device", help="Only this device type.")
@store_options
def export(store: str, as_json: bool, file: Path, model: str | None, device: str | None) -> None:
    """Export to a FILE: Parquet where its name ends in .parquet, else CSV (- is standard output)."""
    from planner.inputs.profiles_csv import csv_text, write_profiles

    rows = stored_rows(store, None, device)
    if model is not None:
        require((model,), {r.model for r in rows if not r.is_overhead}, "model")
        devices = {r.device for r in rows if r.model == model}
        rows = [r for r in rows if r.model == model or (r.is_overhead and r.device in devices)]
    if str(file) == "-":
        click.echo(csv_text(rows), nl=False)
        return
    write_profiles(rows, file)
    if as_json:
        print_json({"file": str(file), "rows": len(rows)})
    else:
        click.echo(f"exported {len(rows)} rows to {file}")


@command.command("remove")
@click.option("--model", help="Remove this model's points.")
@click.option("--device", help="Remove this device type's points.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def remove(store: str, as_json: bool, model: str | None, device: str | None, yes: bool) -> None:
    """Remove the points of a model, of a device, or of a model on a device."""
    if model is None and device is None:
        raise InputError("profiles remove needs --model or --device")
    with opened_store(store, must_exist=True) as opened:
        count = len(opened.rows(model=model, device=device))
        if not yes:
            _confirm(count, model, device)
        removed = opened.remove(model=model, device=device)
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"removed {removed} points")


def _confirm(count: int, model: str | None, device: str | None) -> None:
    if not sys.stdin.isatty():
        raise InputError("profiles remove asks before it removes", hint="pass --yes where nobody can answer")
    subject = " on ".join(name for name in (model, device) if name)
    click.confirm(f"Remove {count} points of {subject}?", abort=True)


def print_summaries(rows: Sequence[ProfileRow], *, every: bool) -> None:
    """A table per device: configurations, or only the best of each instance count, and what servers take."""
    from planner.profile_views.tables import summaries

    found = summaries(rows)
    shown = found if every else _best_by_instances(found)
    heads = ["model", "inst", "batch", "points", "peak/s", "p99 ms", "cold MB", "hot MB"]
    for name in sorted({s.device for s in shown}):
        print_table(f"{name}: peak stable rate", heads, (_summary_cells(s) for s in shown if s.device == name))
    if len(shown) < len(found):
        click.echo(f"{len(found)} configurations in all; --all shows each of them")
    _print_overheads(rows)


def _best_by_instances(found: list[ConfigurationSummary]) -> list[ConfigurationSummary]:
    best: dict[object, ConfigurationSummary] = {}
    for s in found:
        key = (s.model, s.device, s.instances, s.variant, s.requests)
        if key not in best or (s.peak_rps or 0.0) > (best[key].peak_rps or 0.0):
            best[key] = s
    return list(best.values())


def _summary_cells(s: ConfigurationSummary) -> list[Any]:
    peak, latency = number(s.peak_rps), number(s.latency_p99_ms)
    cold, hot = megabytes(s.memory_cold_bytes), megabytes(s.memory_bytes) or "whole"
    about = "; ".join(filter(None, (s.variant, s.requests, "fitted" if s.source == "fitted" else "")))
    name = f"{s.model} ({about})" if about else s.model
    return [name, s.instances, s.max_batch_size, s.points, peak, latency, cold, hot]


def _point_json(point: Point) -> dict[str, Any]:
    from planner.domain.codec import to_json

    row: dict[str, Any] = to_json(point.row)
    names = ("rate_interval_rps", "latency_p99_interval_ms", "failure", "doubts")
    known = {name: to_json(getattr(point, name)) for name in names}
    return {**row, **known, **point.parts_ms}


def _print_points(title: str, found: Sequence[Point]) -> None:
    finished = [point for point in found if point.failure is None]
    intervals = any(point.rate_interval_rps or point.latency_p99_interval_ms for point in finished)
    variants = any(point.row.variant for point in finished)
    configuration = "members" if variants else "config"
    heads = [configuration, "delay", "load", "req/s", "95%", "mean", "p99", "95%", "busy", "plan"]
    shown = [i for i, head in enumerate(heads) if head != "95%" or intervals]
    cells = ([cells[i] for i in shown] for cells in map(_point_cells, finished))
    print_table(f"{title}: {len(finished)} points, latencies in ms", [heads[i] for i in shown], cells, tight=True)
    for text in _remarks(found):
        click.echo(text)


def _remarks(found: Sequence[Point]) -> Iterator[str]:
    for kind in sorted({point.row.requests for point in found if point.row.requests}):
        labels = sorted({point.row.label for point in found if point.row.requests == kind})
        yield f"sent: {kind} ({', '.join(labels)})"
    if any(point.row.queue_delay_us is not None for point in found):
        yield "delay: microseconds that a batch may wait; - where dynamic batching is off"
    for point in found:
        where = f"{point.row.label}, {_load(point.row)}"
        if point.failure is not None:
            first = next(iter(point.failure.splitlines()), "no cause recorded")
            yield f"failed: {where}: {first}"
    for kind, points in _by_doubt(found).items():
        more = f"; and {len(points) - DOUBTS_SHOWN} more, in --json" if len(points) > DOUBTS_SHOWN else ""
        yield f"{kind}: {'; '.join(points[:DOUBTS_SHOWN])}{more}"


def _by_doubt(found: Sequence[Point]) -> dict[str, list[str]]:
    """Where each kind of doubt applies, with what its text says behind the colon."""
    places: dict[str, list[str]] = {}
    for point in found:
        for doubt in point.doubts:
            kind, _, detail = doubt.partition(": ")
            places.setdefault(kind, []).append(f"{point.row.label}, {_load(point.row)}{f' ({detail})' * bool(detail)}")
    return {kind: list(dict.fromkeys(one)) for kind, one in places.items()}


def _point_cells(point: Point) -> list[Any]:
    row = point.row
    rate, mean, p99 = (number(v) for v in (row.rate_rps, row.latency_mean_ms, row.latency_p99_ms))
    busy = None if row.busy is None else f"{row.busy:.0%}"
    return [
        row.label, row.queue_delay_us, _load(row),
        rate, _half(point.rate_interval_rps, row.rate_rps), mean, p99, _interval(point.latency_p99_interval_ms), busy,
        ("fitted" if row.is_fitted else "yes") if row.is_planned else "no",
    ]  # fmt: skip


def _load(row: ProfileRow) -> str:
    load = f"{row.load.value} {row.concurrency or number(row.offered_rps) or ''}".strip()
    return load if row.request_batch_size == 1 else f"{load} b{row.request_batch_size}"


def _half(found: Interval | None, value: float | None) -> str | None:
    """Half an interval as a share of the value: that of a rate lies evenly around it, and the terminal is narrow."""
    if found is None or found.low is None or found.high is None or not value:
        return _interval(found)
    return f"±{(found.high - found.low) / 2 / value:.0%}"


def _interval(found: Interval | None) -> str | None:
    if found is None or (found.low is None and found.high is None):
        return None
    low, high = ("?" if side is None else f"{side:,.3g}" if side < 1000 else f"{side:,.0f}" for side in found)
    return f"{low}..{high}"


def _print_overheads(rows: Sequence[ProfileRow]) -> None:
    from planner.profile_views.tables import overheads

    found = overheads(rows)
    if found:
        cells = ((o.device, o.what, megabytes(o.memory_bytes), o.source) for o in found)
        print_table("Taken once per server", ["device", "what", "MB", "source"], cells)
