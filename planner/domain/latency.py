"""Latency under co-location by time dilation (docs/model.md, "Latency under co-location").

Alone a replica has a measured curve p(rate). Neighbours stretch its service times by phi >= 1, and a queue
whose services are stretched by phi is the same queue with a slower clock:

    p at rate r = queue_delay + phi * (p_alone(phi * r) - queue_delay)

All quantities are integers (mrps, us, ppm) or exact fractions, so that check and solver agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from planner.domain.units import PPM
from planner.errors import InputError


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A stable measured point: the latency percentile at this rate, measured alone."""

    rate_mrps: int
    latency_us: int


Curve = Sequence[CurvePoint]


def _stretch(latency_us: int, phi: Fraction, queue_delay_us: int) -> Fraction:
    # A request that left before its delay ran out waited less than the delay; then all of it may be service.
    delay = queue_delay_us if latency_us > queue_delay_us else 0
    return delay + phi * (latency_us - delay)


def dilated_us(curve: Curve, rate_mrps: int, phi: Fraction, queue_delay_us: int = 0) -> int | None:
    """Latency at `rate_mrps` stretched by `phi`; None past the last stable point, where nothing is known.

    `curve` is sorted by rate; it is read as a step function: the largest latency among the points up to and
    including the first with rate >= phi * r.
    """
    if phi < 1:
        raise InputError(f"a stretch must be at least 1, got {phi}")
    worst = Fraction(0)
    for point in curve:
        worst = max(worst, _stretch(point.latency_us, phi, queue_delay_us))
        if point.rate_mrps >= phi * rate_mrps:
            return ceil(worst)
    return None


def largest_stretch(curve: Curve, rate_mrps: int, bound_us: int, queue_delay_us: int = 0) -> Fraction | None:
    """The largest phi at which `rate_mrps` keeps `bound_us`; None where it does not keep it even alone."""
    best: Fraction | None = None
    limit: Fraction | None = None
    for point in curve:
        delay = queue_delay_us if point.latency_us > queue_delay_us else 0
        own = Fraction(bound_us - delay, max(1, point.latency_us - delay))
        limit = own if limit is None else min(limit, own)
        reach = min(limit, Fraction(point.rate_mrps, rate_mrps)) if rate_mrps else limit
        if reach >= 1 and (best is None or reach > best):
            best = reach
    return best


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much of the others a replica bears: their busy share, and how many of their instances."""

    busy_ppm: int
    max_others: int | None


def tolerance(phi: Fraction, *, optimistic: bool) -> Tolerance:
    """Processor sharing gives phi = 1 / (1 - busy of the others); slow neighbours phi = 1 + their number.

    The safe default keeps both limits; `optimistic` the first alone.
    """
    busy = floor(PPM * (1 - 1 / phi))
    return Tolerance(busy, None if optimistic else floor(phi) - 1)


def stretch(others_busy_ppm: int, others_instances: int, *, optimistic: bool) -> Fraction | None:
    """The phi that these neighbours cause; None where they leave no time at all."""
    if others_busy_ppm >= PPM:
        return None
    sharing = Fraction(PPM, PPM - others_busy_ppm)
    return sharing if optimistic else max(sharing, Fraction(1 + others_instances))
