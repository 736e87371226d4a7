"""What must be served: models with rates and latency objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.errors import InputError

ALL_DAY = "all"
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDemand:
    """One model's demand. `rates_rps` None: no rate is asked for (objectives models and throughput).

    `rates_rps` maps a period of the day to requests per second; a rate that never changes has the one
    period "all". `latency_bound_ms` None: no latency objective.
    """

    name: str
    rates_rps: Mapping[str, float] | None = None
    headroom: float = 0.0
    percentile: int = 99
    latency_bound_ms: float | None = None
    replicas_min: int = 1
    replicas_max: int | None = None
    allowed_gpu: tuple[str, ...] = ()
    priority: int = 1

    def __post_init__(self) -> None:
        subject = f"model {self.name!r}"
        for period, rate in (self.rates_rps or {}).items():
            if not 0 <= rate < float("inf"):
                where = "rate_rps" if period == ALL_DAY else f"rates_rps.{period}"
                raise InputError(f"{subject}: {where} must be a number >= 0, got {rate}")
        if self.headroom < 0:
            raise InputError(f"{subject}: headroom must be >= 0, got {self.headroom}")
        if self.percentile not in PERCENTILES:
            allowed = ", ".join(map(str, PERCENTILES))
            raise InputError(f"{subject}: percentile must be one of {allowed}, got {self.percentile}")
        if self.latency_bound_ms is not None and not 0 < self.latency_bound_ms < float("inf"):
            raise InputError(f"{subject}: the latency bound must be positive, got {self.latency_bound_ms} ms")
        if self.replicas_min < 0 or (self.replicas_max is not None and self.replicas_max < max(1, self.replicas_min)):
            found = f"min {self.replicas_min} and max {self.replicas_max}"
            raise InputError(f"{subject}: replicas need 0 <= min <= max and max >= 1, got {found}")
        if self.priority < 1:
            raise InputError(f"{subject}: priority must be a positive integer, got {self.priority}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    models: tuple[ModelDemand, ...]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"workload: model {name!r} is given twice")
        if not names:
            raise InputError("workload: there is no model in it")

    @property
    def periods(self) -> tuple[str, ...]:
        """Every period that some model names; a rate without periods holds in all of them."""
        named = {p: None for model in self.models for p in model.rates_rps or {} if p != ALL_DAY}
        return tuple(named) or (ALL_DAY,)
