"""Busy time of models whose rates vary independently: their peaks seldom meet, so they need less than their sum."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt


def pooled_ppm(parts: Iterable[tuple[str, int, int]]) -> int:
    """Parts are (model, busy, swing): busy at the planned quantile of its rate, of which `swing` is above its mean.

    Means add up, and so do variances of different models: the quantile of the total is the sum of the means plus the
    root of the sum of squared swings. Replicas of one model vary together.
    """
    means, swings = 0, dict[str, int]()
    for model, busy, swing in parts:
        means += busy - swing
        swings[model] = swings.get(model, 0) + swing
    return means + ceil_root(sum(swing * swing for swing in swings.values()))


def ceil_root(square: int) -> int:
    """The least whole number whose square is no less."""
    root = isqrt(square)
    return root + (root * root < square)
