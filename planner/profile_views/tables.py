"""Tables over profile rows: what has been measured, models or devices side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.domain.profile import ProfileRow, by_configuration
from planner.domain.serving import LoadMode


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationSummary:
    """One configuration of one model on one device, at its peak: the stable point with the highest rate.

    `memory_bytes` is hot memory; None: it takes the whole device.
    """

    model: str
    device: str
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    request_batch_size: int
    variant: str
    requests: str
    points: int
    peak_rps: float | None
    peak_load: LoadMode | None
    latency_p99_ms: float | None
    memory_bytes: int | None
    memory_cold_bytes: int | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a device's server, or a backend in it, takes once."""

    device: str
    what: str
    memory_bytes: int | None
    source: str


def summaries(rows: Iterable[ProfileRow], *, latency_p99_ms: float | None = None) -> list[ConfigurationSummary]:
    """One line per configuration, sorted; with `latency_p99_ms` the peak is the best rate within that bound."""
    groups = by_configuration(row for row in rows if not row.is_overhead)
    found = [_summary(group, latency_p99_ms) for group in groups]
    return sorted(found, key=lambda s: (s.model, s.device, s.instances, s.max_batch_size, s.queue_delay_us or -1))


def _summary(group: Sequence[ProfileRow], bound_ms: float | None) -> ConfigurationSummary:
    first = group[0]
    usable = [row for row in group if row.stable and not row.failed and row.rate_rps is not None]
    if bound_ms is not None:
        usable = [r for r in usable if r.latency_p99_ms is not None and r.latency_p99_ms <= bound_ms]
    peak = max(usable, key=lambda row: row.rate_rps or 0.0, default=None)
    return ConfigurationSummary(
        model=first.model,
        device=first.device,
        instances=first.instances,
        max_batch_size=first.max_batch_size,
        queue_delay_us=first.queue_delay_us,
        request_batch_size=first.request_batch_size,
        variant=first.variant,
        requests=first.requests,
        points=len(group),
        peak_rps=peak.rate_rps if peak else None,
        peak_load=peak.load if peak else None,
        latency_p99_ms=peak.latency_p99_ms if peak else None,
        memory_bytes=max((r.memory_bytes for r in group if r.memory_bytes is not None), default=None),
        memory_cold_bytes=max((r.memory_cold_bytes for r in group if r.memory_cold_bytes is not None), default=None),
        source=first.source,
    )


def overheads(rows: Iterable[ProfileRow]) -> list[Overhead]:
    found = [
        Overhead(device=r.device, what=r.model, memory_bytes=r.memory_bytes, source=r.source)
        for r in rows
        if r.is_overhead
    ]
    return sorted(found, key=lambda o: (o.device, o.what != "@server", o.what))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`best[model][device]`: the configuration with the highest peak there, None where none was measured."""

    models: tuple[str, ...]
    devices: tuple[str, ...]
    best: dict[str, dict[str, ConfigurationSummary | None]]


def compare(rows: Iterable[ProfileRow], *, latency_p99_ms: float | None = None) -> Comparison:
    """Models as rows and devices as columns; each cell is the best configuration within the bound."""
    found = summaries(rows, latency_p99_ms=latency_p99_ms)
    models = tuple(sorted({s.model for s in found}))
    devices = tuple(sorted({s.device for s in found}))
    best: dict[str, dict[str, ConfigurationSummary | None]] = {m: dict.fromkeys(devices) for m in models}
    for s in found:
        known = best[s.model][s.device]
        if s.peak_rps is not None and (known is None or s.peak_rps > (known.peak_rps or 0.0)):
            best[s.model][s.device] = s
    return Comparison(models=models, devices=devices, best=best)


def counts(rows: Iterable[ProfileRow]) -> dict[tuple[str, str], int]:
    """How many points of which model on which device."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        found[row.model, row.device] = found.get((row.model, row.device), 0) + 1
    return dict(sorted(found.items()))
