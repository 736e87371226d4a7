"""Percentiles beyond the highest that is measured, for calls of which a request makes many."""

from __future__ import annotations

import math
from collections.abc import Mapping

from planner.domain.profile import ProfileRow
from planner.domain.workload import PERCENTILES


def percentile_or_tail_ms(row: ProfileRow, percentile: float) -> float | None:
    """The measured percentile or the next higher one; beyond p99 an estimate from all that the row knows.

    None where it does not know p99 and another one.
    """
    if percentile <= PERCENTILES[-1] or row.latency_p99_ms is None:
        return row.percentile_ms(percentile)
    known = (row.latency_p50_ms, row.latency_p90_ms, row.latency_p95_ms, row.latency_p99_ms)
    return tail_ms({p: ms for p, ms in zip(PERCENTILES, known, strict=True) if ms}, percentile)


def tail_ms(known: Mapping[int, float], percentile: float) -> float | None:
    """A percentile above the highest of `known`; None where only one is known.

    The share of requests that take longer than x is taken to fall as a power of x, and no faster than anywhere
    between a lower percentile and the highest.
    """
    if len(known) < 2:
        return None
    top = max(known)
    powers = (math.log(known[top] / ms) / math.log((100 - p) / (100 - top)) for p, ms in known.items() if p != top)
    longer: float = known[top] * ((100 - top) / (100 - percentile)) ** max(0.0, *powers)
    return longer
