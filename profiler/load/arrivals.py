"""When the requests of an open loop leave, the same for every load generator, and how late they may."""

from __future__ import annotations

import random
from collections.abc import Sequence

from planner.domain.statistics import percentile

LAG_ALLOWED_S = 1e-3
LAG_ALLOWED_OF_LATENCY = 0.2


def arrival_generator(seed: int, model: str, stream: int) -> random.Random:
    return random.Random(f"{seed} {model} {stream}")


def poisson_arrivals(rate_rps: float, start_s: float, end_s: float, rng: random.Random) -> list[float]:
    """Arrival times in [start_s, end_s) of a Poisson process."""
    arrivals = []
    time_s = start_s + rng.expovariate(rate_rps)
    while time_s < end_s:
        arrivals.append(time_s)
        time_s += rng.expovariate(rate_rps)
    return arrivals


def allowed_lag_s(latency_s: Sequence[float]) -> float:
    """How late a generator may send, in the worst of ten cases, before it is what is measured."""
    typical_s = percentile(latency_s, 50) if latency_s else 0.0
    return max(LAG_ALLOWED_S, LAG_ALLOWED_OF_LATENCY * typical_s)
