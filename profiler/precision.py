"""How closely a load point must be known before its windows end. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.statistics import Interval
from planner.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Half of a 95 % interval, as a share of the value: `rate` of a closed loop's rate, `latency` of the percentile
    that its model is planned by. `max_windows` of the same load end a point that stays less sure than that."""

    rate: float = 0.05
    latency: float = 0.25
    max_windows: int = 3

    def __post_init__(self) -> None:
        for name in ("rate", "latency"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"precision: {name} is a share between 0 and 1, got {getattr(self, name)}")
        if self.max_windows < 1:
            raise InputError(f"precision: max_windows must be at least 1, got {self.max_windows}")


def spread(interval: Interval, value: float) -> float | None:
    """Half of the interval as a share of the value; None where a side is not bounded."""
    if interval.low is None or interval.high is None or value <= 0:
        return None
    return (interval.high - interval.low) / 2 / value
