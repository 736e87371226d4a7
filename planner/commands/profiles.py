"""planner profiles: look at what was measured, bring it in, take it out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.commands.output import note, print_json, print_table
from planner.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from planner.domain.profile import ProfileRow, ProfileStore
    from planner.inputs.profile_files import Imported
    from planner.profile_views import ConfigurationSummary

MB = 1_000_000


def _options(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option("--store", default="sqlite:///profiles.db", show_default=True, help="Profile store.")(function)


@click.group("profiles", short_help="List, show, compare, import, export and remove measured profiles.")
def command() -> None:
    """What was measured: which model, on which device, in which configuration, at which load."""


@command.command("list")
@click.option("--model", help="Only this model.")
@click.option("--device", help="Only this device type.")
@click.option("--all", "every", is_flag=True, help="Every configuration, not only the best of each instance count.")
@_options
def list_(store: str, as_json: bool, model: str | None, device: str | None, every: bool) -> None:
    """Models, devices and configurations with their peak rate, the p99 there, and their memory."""
    from planner.profile_views import overheads, summaries

    rows = _rows(store, model, device)
    if as_json:
        found = summaries(rows)
        print_json({"configurations": found, "overheads": overheads(_rows(store, None, device))})
        return
    print_summaries(rows, every=every)
    if model is not None:
        _print_overheads(_rows(store, None, device))


@command.command("show")
@click.argument("model")
@click.option("--device", help="Only this device type.")
@_options
def show(store: str, as_json: bool, model: str, device: str | None) -> None:
    """Every point of one MODEL. Points that are past the knee, unstable or failed are not planned with."""
    from planner.profile_views import points

    found = points(_rows(store, None, device), model)
    if as_json:
        print_json(found)
        return
    heads = ["config", "delay us", "load", "req/s", "mean ms", "p99 ms", "busy", "planned"]
    for name in sorted({row.device for row in found}):
        own = [row for row in found if row.device == name]
        print_table(f"{model} on {name}: {len(own)} points", heads, (_point_cells(row) for row in own))


@command.command("compare")
@click.option("--model", "models", multiple=True, help="Only these models.")
@click.option("--device", "devices", multiple=True, help="Only these device types.")
@click.option(
    "--p99", "bound_ms", type=click.FloatRange(min=0, min_open=True), help="Best rate within this p99, in ms."
)
@_options
def compare(
    store: str, as_json: bool, models: tuple[str, ...], devices: tuple[str, ...], bound_ms: float | None
) -> None:
    """Models and devices side by side: the best configuration of each."""
    from planner.profile_views import compare as side_by_side

    rows = _rows(store, None, None)
    _require(models, {r.model for r in rows if not r.is_overhead}, "model")
    _require(devices, {r.device for r in rows}, "device")
    chosen = [r for r in rows if (not models or r.model in models) and (not devices or r.device in devices)]
    found = side_by_side(chosen, latency_p99_ms=bound_ms)
    if as_json:
        print_json(found)
        return
    within = "" if bound_ms is None else f" within p99 {bound_ms:g} ms"
    cells = ([m, *(_compared(found.best[m][d]) for d in found.devices)] for m in found.models)
    print_table(f"Best rate{within}, its instances x max batch, hot memory", ["model", *found.devices], cells)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_options
def import_(store: str, as_json: bool, file: Path) -> None:
    """Import a CSV, Parquet or Triton Model Analyzer checkpoint FILE. The same points are replaced."""
    from planner.inputs.profile_files import as_measurements, read_profile_file
    from planner.profile_views import counts

    found = read_profile_file(file)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with _store(store, must_exist=False) as opened:
        opened.add(as_measurements(found.rows, origin=file.name, imported_at=now))
    per_model = counts(found.rows)
    if as_json:
        listed = [{"model": m, "device": d, "rows": n} for (m, d), n in per_model.items()]
        print_json({"form": found.form, "rows": len(found.rows), "counts": listed, "laws": found.laws,
                    "overheads": found.overheads, "notes": found.notes})  # fmt: skip
        return
    click.echo(f"imported {len(found.rows)} rows from {file} ({found.form}) into {store}")
    print_table("Rows", ["model", "device", "rows"], ((m, d, n) for (m, d), n in per_model.items()))
    _print_law(found)
    for text in found.notes:
        note(text)


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Only this model, and what its devices' servers take.")
@click.option("--device", help="Only this device type.")
@_options
def export(store: str, as_json: bool, file: Path, model: str | None, device: str | None) -> None:
    """Export to a FILE: Parquet where its name ends in .parquet, else CSV (- is standard output)."""
    from planner.inputs.profiles_csv import csv_text, write_profiles

    rows = _rows(store, None, device)
    if model is not None:
        _require((model,), {r.model for r in rows if not r.is_overhead}, "model")
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
@_options
def remove(store: str, as_json: bool, model: str | None, device: str | None, yes: bool) -> None:
    """Remove the points of a model, of a device, or of a model on a device."""
    if model is None and device is None:
        raise InputError("profiles remove needs --model or --device")
    with _store(store, must_exist=True) as opened:
        count = len(opened.rows(model=model, device=device))
        if not yes:
            _confirm(count, model, device)
        removed = opened.remove(model=model, device=device)
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"removed {removed} points")


@contextmanager
def _store(url: str, *, must_exist: bool) -> Iterator[ProfileStore]:
    from planner.store.database import open_store

    opened = open_store(url, must_exist=must_exist)
    try:
        yield opened
    finally:
        opened.close()


def _rows(url: str, model: str | None, device: str | None) -> list[ProfileRow]:
    with _store(url, must_exist=True) as opened:
        rows = opened.rows()
    _require((model,) if model else (), {r.model for r in rows}, "model")
    _require((device,) if device else (), {r.device for r in rows}, "device")
    return [r for r in rows if model in (None, r.model) and device in (None, r.device)]


def _require(names: tuple[str, ...], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise NotFoundError(f"{what} {name!r} has no profile; there are {', '.join(sorted(known)) or 'none'}")


def _confirm(count: int, model: str | None, device: str | None) -> None:
    if not sys.stdin.isatty():
        raise InputError("profiles remove asks before it removes", hint="pass --yes where nobody can answer")
    subject = " on ".join(name for name in (model, device) if name)
    click.confirm(f"Remove {count} points of {subject}?", abort=True)


def print_summaries(rows: Sequence[ProfileRow], *, every: bool) -> None:
    """A table per device: configurations, or only the best of each instance count, and what servers take."""
    from planner.profile_views import summaries

    found = summaries(rows)
    shown = found if every else _best_by_instances(found)
    heads = ["model", "inst", "batch", "points", "peak/s", "p99 ms", "cold MB", "hot MB"]
    for name in sorted({s.device for s in shown}):
        print_table(f"{name}: peak stable rate", heads, (_summary_cells(s) for s in shown if s.device == name))
    if len(shown) < len(found):
        click.echo(f"{len(found)} configurations in all; --all shows each of them")
    _print_overheads(rows)


def _best_by_instances(found: list[ConfigurationSummary]) -> list[ConfigurationSummary]:
    best: dict[tuple[str, str, int], ConfigurationSummary] = {}
    for s in found:
        key = (s.model, s.device, s.instances)
        if key not in best or (s.peak_rps or 0.0) > (best[key].peak_rps or 0.0):
            best[key] = s
    return list(best.values())


def _summary_cells(s: ConfigurationSummary) -> list[Any]:
    peak, latency = _number(s.peak_rps), _number(s.latency_p99_ms)
    cold, hot = _megabytes(s.memory_cold_bytes), _megabytes(s.memory_bytes) or "whole"
    return [s.model, s.instances, s.max_batch_size, s.points, peak, latency, cold, hot]


def _point_cells(row: ProfileRow) -> list[Any]:
    load = f"{row.load.value} {row.concurrency or _number(row.offered_rps) or ''}".strip()
    if row.request_batch_size > 1:
        load += f" b{row.request_batch_size}"
    shape = f"{row.instances} x {row.max_batch_size}"
    rate, mean, p99 = (_number(v) for v in (row.rate_rps, row.latency_mean_ms, row.latency_p99_ms))
    busy = None if row.busy is None else f"{row.busy:.0%}"
    return [shape, row.queue_delay_us, load, rate, mean, p99, busy, "yes" if row.stable and not row.failed else "no"]


def _compared(s: ConfigurationSummary | None) -> str | None:
    if s is None:
        return None
    memory = _megabytes(s.memory_bytes)
    taken = "whole device" if memory is None else f"{memory} MB"
    latency = "p99 unknown" if s.latency_p99_ms is None else f"p99 {_number(s.latency_p99_ms)} ms"
    return f"{_number(s.peak_rps)}/s\n{s.instances} x {s.max_batch_size}\n{latency}\n{taken}"


def _print_overheads(rows: Sequence[ProfileRow]) -> None:
    from planner.profile_views import overheads

    found = overheads(rows)
    if found:
        cells = ((o.device, o.what, _megabytes(o.memory_bytes), o.source) for o in found)
        print_table("Taken once per server", ["device", "what", "MB", "source"], cells)


def _print_law(found: Imported) -> None:
    if not found.laws:
        return
    base = _megabytes(round(found.laws[0].base_bytes))
    cells = (
        (law.model, law.backend, _megabytes(round(law.shared_bytes)), _megabytes(round(law.per_instance_bytes)),
         f"{law.worst_residual_bytes / MB:.1f}")
        for law in found.laws
    )  # fmt: skip
    heads = ["model", "backend", "shared MB", "per instance MB", "worst residual MB"]
    print_table(f"Memory law: used = {base} MB of the server + shared + instances x per instance", heads, cells)
    for overhead in found.overheads:
        if overhead.inferred_from:
            amount, models = _megabytes(overhead.overhead_bytes), " and ".join(overhead.inferred_from)
            click.echo(f"backend {overhead.backend}: {amount} MB once per server, inferred from {models}")
        else:
            click.echo(f"backend {overhead.backend}: overhead not known, it stays in each replica (safe)")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _megabytes(amount: int | None) -> str | None:
    return None if amount is None else f"{amount / MB:,.0f}"
