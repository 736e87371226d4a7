"""Percentiles and their confidence. Pure: no numpy, no clock, no files.

Values come in the order in which they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev
from typing import NamedTuple

SAMPLES_BEYOND = 20

BATCHES = 10


class Percentile(NamedTuple):
    """A percentile, or None with the reason why there is none."""

    value_s: float | None
    reason: str | None


class Interval(NamedTuple):
    """A two-sided confidence interval; None on a side where the sample is too small to bound it."""

    low: float | None
    high: float | None


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value with at least `percent` % of the sample at or below it."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[rank(len(ordered), percent) - 1]


def rank(count: int, percent: float) -> int:
    """From 1, of the value that is a percentile of `count` values in ascending order."""
    return min(count, max(1, math.ceil(round(count * percent / 100, 9))))


def samples_needed(percent: float) -> int:
    """How many requests a percentile needs: p99 2000, p95 400, p90 200, p50 40."""
    return math.ceil(round(SAMPLES_BEYOND / (1 - percent / 100), 6))


def percentile_or_none(values: Sequence[float], percent: float) -> Percentile:
    """The percentile where at least 20 samples lie beyond it, else None and why."""
    reason = too_few_for(percent, len(values))
    return Percentile(percentile(values, percent), None) if reason is None else Percentile(None, reason)


def too_few_for(percent: float, count: int) -> str | None:
    """Why `count` requests are too few for a percentile; None where they are enough."""
    needed = samples_needed(percent)
    return f"p{percent:g} needs {needed} requests, the window had {count}" if count < needed else None


def percentile_interval(values: Sequence[float], percent: float, confidence: float = 0.95) -> Interval:
    """The interval of a percentile by order statistics (binomial), without any assumed distribution.

    Latencies of one queue come in bursts; the ranks are moved apart by the variance that batch means of
    "slower than the percentile" show over that of independent requests, so `values` must be in time order.
    """
    count = len(values)
    if count == 0:
        return Interval(None, None)
    ordered = sorted(values)
    threshold, size = ordered[rank(count, percent) - 1], count // BATCHES
    beyond = [sum(v > threshold for v in values[i * size : (i + 1) * size]) for i in range(BATCHES)]
    low, high = interval_ranks(count, percent, beyond, confidence)
    return Interval(ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= count else None)


def interval_ranks(count: int, percent: float, beyond: Sequence[float], confidence: float = 0.95) -> tuple[int, int]:
    """The ranks, from 1, between which a percentile lies; below 1 or above `count` where the sample does not bound it.

    `beyond`: how many values of each of BATCHES consecutive batches of equal size are above the percentile.
    """
    share, tail = percent / 100, (1 - confidence) / 2
    centre = count * share
    spread = math.sqrt(_inflation(beyond, count // BATCHES, 1 - share))
    low = math.floor(centre - spread * (centre - _binomial_quantile(count, share, tail)))
    high = math.ceil(centre + spread * (_binomial_quantile(count, share, 1 - tail) - centre)) + 1
    return low, high


def _inflation(beyond: Sequence[float], size: int, tail_share: float) -> float:
    if size < 2 or tail_share <= 0:
        return 1.0
    return max(1.0, stdev(beyond) ** 2 / (tail_share * (1 - tail_share) * size))


def _binomial_quantile(count: int, share: float, probability: float) -> int:
    """The smallest k with P(Binomial(count, share) <= k) >= probability."""
    deviation = math.sqrt(count * share * (1 - share))
    k = max(0, math.floor(count * share - 10 * deviation - 10))
    log_choose = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    term = math.exp(log_choose + k * math.log(share) + (count - k) * math.log1p(-share))
    total = term
    while total < probability and k < count:
        term *= (count - k) / (k + 1) * share / (1 - share)
        k += 1
        total += term
    return k
