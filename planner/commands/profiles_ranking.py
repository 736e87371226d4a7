"""planner profiles compare and report: configurations by what they take, as a table and as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.commands.output import note, print_json, print_table
from planner.commands.profiles_store import (
    megabytes,
    number,
    require,
    store_options,
    stored_measurements,
    stored_rows,
)
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.profile_views.ranking import LatencyBound, Ranked

FLEET = Path("fleet.yaml")
BY = ("rate", "memory", "busy", "energy", "cost")


def _options(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--p99", "bound_ms", type=click.FloatRange(min=0, min_open=True),
                     help="Best rate within this p99 in ms, for every model."),
        click.option("--workload", type=click.Path(path_type=Path), help="Best rate within its objectives."),
        click.option("--price", "prices", multiple=True, metavar="TYPE=USD", help="USD per hour; may be repeated."),
        click.option("--fleet", type=click.Path(path_type=Path),
                     help="Prices of this fleet file.  [default: fleet.yaml where there is one]"),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command("compare", short_help="Rank models and configurations by what they take.")
@click.option("--model", "models", multiple=True, help="Only these models.")
@click.option("--device", "devices", multiple=True, help="Only these device types.")
@click.option("--by", type=click.Choice(BY), default="busy", show_default=True, help="What to rank by.")
@click.option("--all", "every", is_flag=True, help="Every configuration, not only the best of each model and device.")
@_options
@store_options
def compare(
    store: str,
    as_json: bool,
    models: tuple[str, ...],
    devices: tuple[str, ...],
    by: str,
    every: bool,
    bound_ms: float | None,
    workload: Path | None,
    prices: tuple[str, ...],
    fleet: Path | None,
) -> None:
    """Models and configurations ranked by memory, device time, energy or cost per million inferences.

    Each configuration is taken at its best stable rate. Energy is the whole device's, cost that of a device of
    its own; what the records do not tell stays unknown.
    """
    from planner.profile_views.ranking import RankBy, best_of_each, ranking
    from planner.profile_views.tables import compare as side_by_side

    rows = stored_rows(store, None, None)
    require(models, {r.model for r in rows if not r.is_overhead}, "model")
    require(devices, {r.device for r in rows}, "device")
    chosen = [r for r in rows if (not models or r.model in models) and (not devices or r.device in devices)]
    bounds = _bounds({r.model for r in chosen}, bound_ms, workload)
    found = ranking(chosen, RankBy(by), bounds=bounds, usd_per_hour=_prices(prices, fleet))
    shown = found if every else best_of_each(found)
    if as_json:
        print_json({**_sides(side_by_side(chosen, latency_p99_ms=bound_ms)), "by": by, "ranking": shown})
        return
    within = "" if not bounds else f" within {_within(bounds)}"
    _print_ranking(f"By {by}{within}", shown)
    for text in _unknown(shown, {r.model for r in chosen if not r.is_overhead}, within):
        note(text)
    if len(shown) < len(found):
        click.echo(f"{len(found)} configurations in all; --all shows each of them")


@click.command("report", short_help="Write what was measured of one model, or of all, as one HTML page.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("profiles.html"), show_default=True,
              help="The HTML file to write; it needs no network.")  # fmt: skip
@click.option("--device", "devices", multiple=True, help="Only these device types.")
@_options
@store_options
def report(
    store: str,
    as_json: bool,
    models: tuple[str, ...],
    out: Path,
    devices: tuple[str, ...],
    bound_ms: float | None,
    workload: Path | None,
    prices: tuple[str, ...],
    fleet: Path | None,
) -> None:
    """Throughput against latency, memory, where the time goes, and the recommended configuration and why."""
    from planner.files import write_all
    from planner.report.profiles_page import profiles_page

    measurements = stored_measurements(store)
    require(models, {m.row.model for m in measurements if not m.row.is_overhead}, "model")
    require(devices, {m.row.device for m in measurements}, "device")
    chosen = [
        m
        for m in measurements
        if (not devices or m.row.device in devices) and (not models or m.row.model in models or m.row.is_overhead)
    ]
    names = {m.row.model for m in chosen if not m.row.is_overhead}
    if not names:
        raise InputError(f"store {store}: there is no profile of a model to report on")
    bounds = _bounds(names, bound_ms, workload)
    html = profiles_page(chosen, bounds=bounds, usd_per_hour=_prices(prices, fleet))
    write_all({out: html})
    if as_json:
        print_json({"written": str(out), "models": sorted(names)})
    else:
        click.echo(f"written: {out}")


def _bounds(models: set[str], bound_ms: float | None, workload: Path | None) -> dict[str, LatencyBound]:
    from planner.profile_views.ranking import LatencyBound

    if bound_ms is not None and workload is not None:
        raise InputError("give --p99 or --workload, not both")
    if bound_ms is not None:
        return {model: LatencyBound(99, bound_ms) for model in models}
    if workload is None:
        return {}
    from planner.inputs.workload import read_workload

    return {
        demand.name: LatencyBound(demand.percentile, demand.latency_bound_ms)
        for demand in read_workload(workload).models
        if demand.latency_bound_ms is not None and demand.name in models
    }


def _prices(options: Sequence[str], fleet: Path | None) -> dict[str, float]:
    from planner.inputs.prices import usd_per_hour

    return usd_per_hour(options, fleet or (FLEET if FLEET.exists() else None))


def _sides(found: Any) -> dict[str, Any]:
    return {"models": found.models, "devices": found.devices, "best": found.best}


def _within(bounds: Mapping[str, LatencyBound]) -> str:
    different = {str(bound) for bound in bounds.values()}
    return different.pop() if len(different) == 1 else "the workload's objectives"


COLUMNS: tuple[tuple[str, Callable[[Ranked], Any]], ...] = (
    ("inf/s", lambda r: number(r.inferences_per_s)),
    ("ms", lambda r: number(r.latency_ms)),
    ("hot MB", lambda r: megabytes(r.memory_bytes) or "whole"),
    ("busy s", lambda r: number(r.busy_s_per_million)),
    ("Wh", lambda r: number(r.energy_wh_per_million)),
    ("USD", lambda r: None if r.usd_per_million is None else f"{r.usd_per_million:,.3g}"),
)


def _print_ranking(title: str, found: Sequence[Ranked]) -> None:
    devices, percentiles = {r.device for r in found}, {r.percentile for r in found}
    latency = f"p{percentiles.pop()} ms" if len(percentiles) == 1 else "bound ms"
    heads = ["model", *(["device"] if len(devices) > 1 else []), "config"]
    columns = [(latency if name == "ms" else name, cell) for name, cell in COLUMNS]
    columns = [(name, cell) for name, cell in columns if any(cell(r) is not None for r in found)]
    cells = (
        [r.model, *([r.device] if len(devices) > 1 else []), r.label, *(cell(r) for _, cell in columns)] for r in found
    )
    where = f" on {devices.pop()}" if len(devices) == 1 else ""
    print_table(f"{title}{where}", [*heads, *(name for name, _ in columns)], cells, tight=True)
    per_million = [name for name, _ in columns if name in ("busy s", "Wh", "USD")]
    if per_million:
        click.echo(f"{', '.join(per_million)}: per million inferences; config: instances x max batch")


def _unknown(found: Sequence[Ranked], models: set[str], within: str) -> Iterator[str]:
    """What the table cannot say, and what would let it."""
    for model in sorted(models - {r.model for r in found}):
        yield f"{model}: no stable point{within}"
    if found and all(r.energy_wh_per_million is None for r in found):
        yield "energy is not known: the records have no power"
    elif any(r.energy_wh_per_million is None for r in found):
        yield f"energy is not known of {_some(found, 'energy_wh_per_million')}: their records have no power"
    without = sorted({r.device for r in found if r.usd_per_million is None and r.inferences_per_s})
    if without:
        yield f"cost is not known on {', '.join(without)}: give its price per hour, --price {without[0]}=USD"
    if any(r.busy_s_per_million is not None and not r.busy_measured for r in found):
        yield f"busy time of {_some(found, 'busy_measured')} was not measured: it follows from the rates"
    if any(r.memory_bytes is None for r in found):
        yield "whole: memory is not known, a replica takes the whole device"


def _some(found: Sequence[Ranked], field: str) -> str:
    names = sorted({f"{r.model} on {r.device}" for r in found if not getattr(r, field)})
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
