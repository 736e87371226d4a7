"""Configurations ranked by what they take: memory, device time, energy and cost per million inferences. Pure.

Each is taken at its best stable rate, within the model's latency bound where it has one. What the records do
not tell is None, and stands last in a ranking by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from planner.domain.profile import ProfileRow, Source, by_configuration, configuration_label
from planner.domain.serving import LoadMode

NEARLY_BEST = 0.95
_MILLION = 1_000_000
_JOULES_PER_WH = 3600
_SECONDS_PER_HOUR = 3600
_SHAPE = (
    "model", "device", "instances", "max_batch_size", "queue_delay_us", "request_batch_size", "variant",
    "requests",
)  # fmt: skip


class RankBy(StrEnum):
    RATE = "rate"
    MEMORY = "memory"
    BUSY = "busy"
    ENERGY = "energy"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class LatencyBound:
    percentile: int
    bound_ms: float

    def __str__(self) -> str:
        return f"p{self.percentile} {self.bound_ms:g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One configuration at its best rate; without one (`inferences_per_s` None) only its memory is known.

    `memory_bytes`: hot memory of a replica, None: not known, it takes the whole device. `busy_s_per_million`:
    device-seconds; `busy_measured` False: from the rates, by the rule for rows without busy. Energy is that of
    the whole device at this load, its idle power included. Cost is that of a device of its own.
    """

    model: str
    device: str
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    request_batch_size: int
    variant: str
    requests: str
    source: str
    points: int
    load: LoadMode | None
    inferences_per_s: float | None
    percentile: int
    latency_ms: float | None
    memory_bytes: int | None
    busy_s_per_million: float | None
    busy_measured: bool
    energy_wh_per_million: float | None
    usd_per_million: float | None

    @property
    def label(self) -> str:
        """ "2 x 8": instances and largest batch; of an ensemble its members and theirs; then what was sent, and
        whether it is fitted."""
        batch = f", requests of {self.request_batch_size}" if self.request_batch_size > 1 else ""
        delay = f", delay {self.queue_delay_us:,} µs" if self.queue_delay_us else ""
        sent = f", {self.requests}" if self.requests else ""
        fitted = ", fitted" if self.source == Source.FITTED else ""
        return f"{configuration_label(self.instances, self.max_batch_size, self.variant)}{batch}{delay}{sent}{fitted}"

    def has(self, row: ProfileRow) -> bool:
        """Whether a point is one of this configuration."""
        return all(getattr(row, name) == getattr(self, name) for name in _SHAPE)

    def value(self, by: RankBy) -> float | None:
        """What is ranked by, less is better; None: not known."""
        if by is RankBy.RATE:
            return None if self.inferences_per_s is None else -self.inferences_per_s
        return {
            RankBy.MEMORY: self.memory_bytes,
            RankBy.BUSY: self.busy_s_per_million,
            RankBy.ENERGY: self.energy_wh_per_million,
            RankBy.COST: self.usd_per_million,
        }[by]


def ranking(
    rows: Iterable[ProfileRow],
    by: RankBy,
    *,
    bounds: Mapping[str, LatencyBound] | None = None,
    usd_per_hour: Mapping[str, float] | None = None,
) -> list[Ranked]:
    """Every configuration, best first. `bounds` by model, `usd_per_hour` by device (one GPU of it)."""
    groups = by_configuration(row for row in rows if not row.is_overhead)
    found = [_ranked(group, (bounds or {}).get(group[0].model), usd_per_hour or {}) for group in groups]
    return sorted(found, key=lambda ranked: _order(ranked, by))


def best_of_each(found: Iterable[Ranked]) -> list[Ranked]:
    """The first of each model and device, of those that have a rate."""
    first: dict[tuple[str, str], Ranked] = {}
    for ranked in found:
        if ranked.inferences_per_s is not None:
            first.setdefault((ranked.model, ranked.device), ranked)
    return list(first.values())


def recommended(found: Sequence[Ranked]) -> Ranked | None:
    """Of one model's configurations on one device: the least memory among those nearly as fast as the fastest.

    None where none has a rate. Where memory is not known, fewer instances and smaller batches stand for less.
    """
    fastest = max((r.inferences_per_s for r in found if r.inferences_per_s is not None), default=None)
    if fastest is None:
        return None
    near = [r for r in found if r.inferences_per_s is not None and r.inferences_per_s >= NEARLY_BEST * fastest]
    return min(near, key=_frugality)


def _frugality(ranked: Ranked) -> tuple[object, ...]:
    memory, rate = ranked.memory_bytes, ranked.inferences_per_s or 0.0
    return (memory is None, memory or 0, ranked.instances, ranked.max_batch_size, -rate, ranked.label)


def _order(ranked: Ranked, by: RankBy) -> tuple[object, ...]:
    value, rate = ranked.value(by), ranked.inferences_per_s or 0.0
    return (value is None, value or 0.0, -rate, ranked.model, ranked.device, *_frugality(ranked))


def _ranked(group: Sequence[ProfileRow], bound: LatencyBound | None, usd_per_hour: Mapping[str, float]) -> Ranked:
    first, percentile = group[0], 99 if bound is None else bound.percentile
    best = _best(group, bound)
    rate = None if best is None else best.inferences_per_s
    busy = None if best is None else _busy(best, group)
    power, price = None if best is None else best.power_watts, usd_per_hour.get(first.device)
    return Ranked(
        model=first.model,
        device=first.device,
        instances=first.instances,
        max_batch_size=first.max_batch_size,
        queue_delay_us=first.queue_delay_us,
        request_batch_size=first.request_batch_size,
        variant=first.variant,
        requests=first.requests,
        source=first.source,
        points=len(group),
        load=None if best is None else best.load,
        inferences_per_s=rate,
        percentile=percentile,
        latency_ms=None if best is None else best.percentile_ms(percentile),
        memory_bytes=max((r.memory_bytes for r in group if r.memory_bytes is not None), default=None),
        busy_s_per_million=None if busy is None or not rate else busy * first.gpus * _MILLION / rate,
        busy_measured=best is not None and best.busy is not None,
        energy_wh_per_million=None if power is None or not rate else power * _MILLION / rate / _JOULES_PER_WH,
        usd_per_million=(
            None if price is None or not rate else price * first.gpus * _MILLION / rate / _SECONDS_PER_HOUR
        ),
    )


def _best(group: Iterable[ProfileRow], bound: LatencyBound | None) -> ProfileRow | None:
    """As in planning: where open-loop points tell the percentile, closed ones say nothing about a bound."""
    usable = [row for row in group if row.stable and not row.failed and row.rate_rps]
    if bound is not None:
        known = [row for row in usable if row.percentile_ms(bound.percentile) is not None]
        basis = [row for row in known if row.load is LoadMode.OPEN] or known
        usable = [row for row in basis if (row.percentile_ms(bound.percentile) or 0.0) <= bound.bound_ms]
    return max(usable, key=lambda row: row.rate_rps or 0.0, default=None)


def _busy(best: ProfileRow, group: Iterable[ProfileRow]) -> float:
    """Measured; else 1 at the saturated rate, less in proportion below it where nothing is batched, else 1."""
    if best.busy is not None:
        return best.busy
    if best.max_batch_size > 1 and best.queue_delay_us is not None:
        return 1.0
    saturated = max(row.rate_rps or 0.0 for row in group if not row.failed)
    return (best.rate_rps or 0.0) / saturated
