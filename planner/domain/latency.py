"""Latency under co-location by time dilation (docs/model.md, "Latency under co-location").

Alone a replica has a measured curve p(rate). Neighbours stretch its service times by phi >= 1, and a queue
whose services are stretched by phi is the same queue with a slower clock:

    p at rate r = phi * p_alone(phi * r)

A batcher's queue delay is stretched too, though its clock does not slow down: alone it hides that a request would have
waited for the batch before, and that wait is stretched.

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


def dilated_us(curve: Curve, rate_mrps: int, phi: Fraction) -> int | None:
    """Latency at `rate_mrps` stretched by `phi`; None past the last stable point, where nothing is known.

    `curve` is sorted by rate; it is read as a step function: the largest latency among the points up to and
    including the first with rate >= phi * r.
    """
    if phi < 1:
        raise InputError(f"a stretch must be at least 1, got {phi}")
    worst = 0
    for point in curve:
        worst = max(worst, point.latency_us)
        if point.rate_mrps >= phi * rate_mrps:
            return ceil(phi * worst)
    return None


def expected_us(curve: Curve, rate_mrps: int, phi: Fraction) -> int | None:
    """What `dilated_us` promises, without its steps: straight between the points, never falling, and as unknown past
    the last one. Where latency levels off, a curve lies above its chord, so this is no promise."""
    before = CurvePoint(0, 0)
    for point in curve:
        here = CurvePoint(point.rate_mrps, max(point.latency_us, before.latency_us))
        if here.rate_mrps >= phi * rate_mrps:
            if not before.latency_us:
                return ceil(phi * here.latency_us)
            share = (phi * rate_mrps - before.rate_mrps) / (here.rate_mrps - before.rate_mrps)
            return ceil(phi * (before.latency_us + share * (here.latency_us - before.latency_us)))
        before = here
    return None


def largest_stretch(curve: Curve, rate_mrps: int, bound_us: int) -> Fraction | None:
    """The largest phi at which `rate_mrps` keeps `bound_us`; None where it does not keep it even alone."""
    best: Fraction | None = None
    limit: Fraction | None = None
    for point in curve:
        own = Fraction(bound_us, max(1, point.latency_us))
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
