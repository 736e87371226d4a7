"""Percentiles, their confidence, and whether a window was stable. Pure: no numpy, no clock, no files.

Latencies are in seconds and come in the order in which they were measured; times are seconds since the
window's start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import NamedTuple

SAMPLES_BEYOND = 20
PERCENTILES = (50, 90, 95, 99)

_BATCHES = 10
_STUDENT_T_95_DF9 = 2.262  # two-sided 95 % of Student's t with _BATCHES - 1 degrees of freedom
_SUB_WINDOWS = 4
_WILD_SPREAD = 5.0


class Percentile(NamedTuple):
    """A percentile, or None with the reason why there is none."""

    value_s: float | None
    reason: str | None


class Interval(NamedTuple):
    """A two-sided confidence interval; None on a side where the sample is too small to bound it."""

    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Stability:
    """`stable` False means the window says nothing about a steady state; `reason` says why.

    `overloaded`: the open loop offered more than the server could take. `latency_growth` is in seconds of
    latency per second of window.
    """

    stable: bool
    overloaded: bool
    latency_growth: float
    reason: str | None


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value with at least `percent` % of the sample at or below it."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[_rank(len(ordered), percent) - 1]


def _rank(count: int, percent: float) -> int:
    return min(count, max(1, math.ceil(round(count * percent / 100, 9))))


def samples_needed(percent: float) -> int:
    """How many requests a percentile needs: p99 2000, p95 400, p90 200, p50 40."""
    return math.ceil(round(SAMPLES_BEYOND / (1 - percent / 100), 6))


def percentile_or_none(values: Sequence[float], percent: float) -> Percentile:
    """The percentile where at least 20 samples lie beyond it, else None and why."""
    needed = samples_needed(percent)
    if len(values) < needed:
        return Percentile(None, f"p{percent:g} needs {needed} requests, the window had {len(values)}")
    return Percentile(percentile(values, percent), None)


def percentile_interval(values: Sequence[float], percent: float, confidence: float = 0.95) -> Interval:
    """The interval of a percentile by order statistics (binomial), without any assumed distribution.

    Latencies of one queue come in bursts; the ranks are moved apart by the variance that batch means of
    "slower than the percentile" show over that of independent requests, so `values` must be in time order.
    """
    count = len(values)
    if count == 0:
        return Interval(None, None)
    ordered = sorted(values)
    share, tail = percent / 100, (1 - confidence) / 2
    centre = count * share
    spread = math.sqrt(_inflation(values, ordered[_rank(count, percent) - 1], 1 - share))
    low_rank = math.floor(centre - spread * (centre - _binomial_quantile(count, share, tail)))
    high_rank = math.ceil(centre + spread * (_binomial_quantile(count, share, 1 - tail) - centre)) + 1
    low = ordered[low_rank - 1] if low_rank >= 1 else None
    high = ordered[high_rank - 1] if high_rank <= count else None
    return Interval(low, high)


def _inflation(values: Sequence[float], threshold: float, tail_share: float) -> float:
    size = len(values) // _BATCHES
    if size < 2 or tail_share <= 0:
        return 1.0
    beyond = [sum(v > threshold for v in values[i * size : (i + 1) * size]) / size for i in range(_BATCHES)]
    independent = tail_share * (1 - tail_share) / size
    return max(1.0, stdev(beyond) ** 2 / independent)


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


def throughput_interval(completed_s: Sequence[float], seconds: float) -> Interval:
    """The 95 % interval of the completion rate (per second) by the means of 10 equal batches of the window."""
    rates = [count * _BATCHES / seconds for count in _counts(completed_s, seconds, _BATCHES)]
    half = _STUDENT_T_95_DF9 * stdev(rates) / math.sqrt(_BATCHES)
    return Interval(max(0.0, fmean(rates) - half), fmean(rates) + half)


def _counts(times_s: Sequence[float], seconds: float, parts: int) -> list[int]:
    counts = [0] * parts
    for time_s in times_s:
        if 0 <= time_s < seconds:
            counts[min(parts - 1, int(time_s / seconds * parts))] += 1
    return counts


def stability_closed(sent_s: Sequence[float], latency_s: Sequence[float], seconds: float) -> Stability:
    """A closed loop is stable where rate and median latency of four sub-windows agree within 20 % and noise."""
    completed = [sent + latency for sent, latency in zip(sent_s, latency_s, strict=True)]
    counts = _counts(completed, seconds, _SUB_WINDOWS)
    growth = latency_growth(sent_s, latency_s, seconds)
    mean = fmean(counts)
    if mean < 2:
        return Stability(False, False, growth, f"only {sum(counts)} requests ended within the window")
    allowed = 0.2 + 4 / math.sqrt(mean)
    rate_spread = (max(counts) - min(counts)) / mean
    if rate_spread > allowed:
        return Stability(False, False, growth, f"rate varied by {rate_spread:.0%} between sub-windows")
    parts = _latencies_by_part(sent_s, latency_s, seconds, _SUB_WINDOWS)
    medians = [median(part) for part in parts if part]
    latency_spread = (max(medians) - min(medians)) / fmean(medians)
    if latency_spread > allowed:
        return Stability(False, False, growth, f"latency varied by {latency_spread:.0%} between sub-windows")
    return Stability(True, False, growth, None)


def stability_open(
    sent_s: Sequence[float], latency_s: Sequence[float], seconds: float, offered: int, failed: int
) -> Stability:
    """An open loop is overloaded where requests fail, end too late, or wait longer and longer.

    With rho times as much offered as can be served, the latency of what is sent grows by `rho - 1` seconds
    per second: 3 % growth that also doubles the latency is taken for overload.
    """
    growth = latency_growth(sent_s, latency_s, seconds)
    if failed > 0.01 * offered:
        return Stability(False, True, growth, f"{failed} of {offered} requests failed")
    if not latency_s:
        return Stability(False, False, growth, "no request was sent in the window")
    ended = sum(sent + latency < seconds for sent, latency in zip(sent_s, latency_s, strict=True))
    late = offered - ended
    in_flight = offered / seconds * median(latency_s)
    if late > 0.05 * offered + 3 * math.sqrt(in_flight + 1) and late > 2 * in_flight:
        return Stability(False, True, growth, f"{late} of {offered} requests had not ended with the window")
    first, last = _first_and_last_median(sent_s, latency_s, seconds)
    if growth > 0.03 and last > 2 * first:
        reason = f"median latency grew from {first * 1e3:.1f} to {last * 1e3:.1f} ms over the window"
        return Stability(False, True, growth, reason)
    parts = _latencies_by_part(sent_s, latency_s, seconds, _SUB_WINDOWS)
    medians = [median(part) for part in parts if len(part) >= 10]
    if medians and max(medians) > _WILD_SPREAD * min(medians):
        reason = f"median latency swung between {min(medians) * 1e3:.1f} and {max(medians) * 1e3:.1f} ms"
        return Stability(False, False, growth, reason)
    return Stability(True, False, growth, None)


def latency_growth(sent_s: Sequence[float], latency_s: Sequence[float], seconds: float) -> float:
    """Seconds of median latency gained per second, from the first to the last quarter of the window."""
    first, last = _first_and_last_median(sent_s, latency_s, seconds)
    return (last - first) / (seconds * (_SUB_WINDOWS - 1) / _SUB_WINDOWS)


def _first_and_last_median(sent_s: Sequence[float], latency_s: Sequence[float], seconds: float) -> tuple[float, float]:
    parts = _latencies_by_part(sent_s, latency_s, seconds, _SUB_WINDOWS)
    if not parts[0] or not parts[-1]:
        return 0.0, 0.0
    return median(parts[0]), median(parts[-1])


def _latencies_by_part(
    sent_s: Sequence[float], latency_s: Sequence[float], seconds: float, parts: int
) -> list[list[float]]:
    split: list[list[float]] = [[] for _ in range(parts)]
    for sent, latency in zip(sent_s, latency_s, strict=True):
        if 0 <= sent < seconds:
            split[min(parts - 1, int(sent / seconds * parts))].append(latency)
    return split
