"""Whether a window of load was stable, and how sure its rate is. Pure: no numpy, no clock, no files.

Latencies are in seconds and come in the order in which they were measured; times are seconds since the
window's start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from planner.domain.serving import LoadSummary
from planner.domain.statistics import Interval

_BATCHES = 10
# two-sided 95 % of Student's t, by degrees of freedom
_STUDENT_T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_SUB_WINDOWS = 4
_WILD_SPREAD = 5.0
_DRIFT = 0.1
_DRIFT_T = 3.36  # two-sided 99 % of Student's t with 8 degrees of freedom: a line through 10 batches


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


def throughput_interval(completed_s: Sequence[float], seconds: float) -> Interval:
    """The 95 % interval of the completion rate (per second) by the means of 10 equal batches of the window."""
    rates = [count * _BATCHES / seconds for count in _counts(completed_s, seconds, _BATCHES)]
    half = _STUDENT_T_95[_BATCHES - 1] * stdev(rates) / math.sqrt(_BATCHES)
    return Interval(max(0.0, fmean(rates) - half), fmean(rates) + half)


def drift(completed_s: Sequence[float], seconds: float) -> str | None:
    """What a closed loop's rate did over the window, where a straight line through its 10 batches says so; else None.

    It says so where the line rises or falls by more than 10 % from end to end, and by more than chance would.
    """
    counts = _counts(completed_s, seconds, _BATCHES)
    mean = fmean(counts)
    centre = (_BATCHES - 1) / 2
    squares = sum((place - centre) ** 2 for place in range(_BATCHES))
    slope = sum((place - centre) * count for place, count in enumerate(counts)) / squares
    left = sum((count - mean - slope * (place - centre)) ** 2 for place, count in enumerate(counts))
    # a count has a spread of its own, also where ten of them happen to lie on a line
    error = max(math.sqrt(left / (_BATCHES - 2)), 0.5) / math.sqrt(squares)
    change = slope * (_BATCHES - 1) / mean if mean else 0.0
    if abs(change) <= _DRIFT or abs(slope) <= _DRIFT_T * error:
        return None
    return f"drift: the rate {'rose' if change > 0 else 'fell'} by {abs(change):.0%} over {seconds:.3g} s"


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of three or more values; None of fewer."""
    if len(values) < 3:
        return None
    t = _STUDENT_T_95.get(len(values) - 1, 2.0)
    half = t * stdev(values) / math.sqrt(len(values))
    return Interval(max(0.0, fmean(values) - half), fmean(values) + half)


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


def stability_of_parts(summary: LoadSummary, seconds: float, offered_rps: float | None) -> Stability:
    """The same judgements on the rate and the mean latency of a window's few consecutive parts.

    `offered_rps` is an open loop's rate, None in a closed loop.
    """
    rates, means_s = summary.part_rates_rps, summary.part_means_s
    span_s = seconds * (len(means_s) - 1) / len(means_s)
    growth = (means_s[-1] - means_s[0]) / span_s if span_s > 0 else 0.0
    per_part = max(1.0, summary.answered / len(rates))
    if offered_rps is not None:
        short = 1 - fmean(rates) / offered_rps
        if short > 0.05 + 3 / math.sqrt(summary.answered + 1):
            return Stability(False, True, growth, f"{short:.0%} of what was offered was not answered in time")
        if growth > 0.03 and means_s[-1] > 2 * means_s[0]:
            reason = f"mean latency grew from {means_s[0] * 1e3:.1f} to {means_s[-1] * 1e3:.1f} ms over the window"
            return Stability(False, True, growth, reason)
        if max(means_s) > _WILD_SPREAD * min(means_s):
            reason = f"mean latency swung between {min(means_s) * 1e3:.1f} and {max(means_s) * 1e3:.1f} ms"
            return Stability(False, False, growth, reason)
        return Stability(True, False, growth, None)
    allowed = 0.2 + 4 / math.sqrt(per_part)
    for what, values in (("rate", rates), ("latency", means_s)):
        spread = (max(values) - min(values)) / fmean(values)
        if spread > allowed:
            return Stability(False, False, growth, f"{what} varied by {spread:.0%} between sub-windows")
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
