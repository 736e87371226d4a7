"""Percentiles and their intervals, as verdicts use them: failed requests are infinite."""

from __future__ import annotations

import math
import random

import pytest

from planner.domain import statistics
from planner.domain.statistics import percentile, percentile_interval, percentile_or_none, samples_needed


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 5), (51, 6), (90, 9), (95, 10), (100, 10)])
def test_a_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(list(range(10, 0, -1)), percent) == expected


def test_rounding_does_not_raise_a_rank() -> None:
    assert percentile(list(range(1, 1001)), 99.9) == 999
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


@pytest.mark.parametrize(("percent", "needed"), [(50, 40), (90, 200), (95, 400), (99, 2000), (99.9, 20_000)])
def test_a_percentile_needs_20_samples_beyond_it(percent: float, needed: int) -> None:
    assert samples_needed(percent) == needed
    assert percentile_or_none([0.001] * needed, percent) == (0.001, None)
    value, reason = percentile_or_none([0.001] * (needed - 1), percent)
    assert value is None
    assert reason == f"p{percent:g} needs {needed} requests, the window had {needed - 1}"


def test_the_binomial_quantile_is_exact() -> None:
    for count, share, probability in [(20, 0.5, 0.025), (40, 0.9, 0.975), (300, 0.99, 0.5)]:
        terms = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
        expected = next(k for k in range(count + 1) if sum(terms[: k + 1]) >= probability)
        assert statistics._binomial_quantile(count, share, probability) == expected


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_an_interval_covers_the_truth_about_as_often_as_it_promises(percent: float) -> None:
    truth, rng, covered = -math.log(1 - percent / 100), random.Random(11), 0
    for _ in range(200):
        low, high = percentile_interval([rng.expovariate(1) for _ in range(2500)], percent)
        assert low is not None
        assert high is not None
        covered += low <= truth <= high
    assert covered >= 184  # 95 % promised; below 92 % would be beyond chance


def test_an_interval_has_no_side_that_the_sample_cannot_bound() -> None:
    assert percentile_interval([], 99) == (None, None)
    low, high = percentile_interval([float(i) for i in range(100)], 99)
    assert low is not None
    assert high is None


def test_bursts_widen_an_interval() -> None:
    rng = random.Random(1)
    values = [rng.expovariate(1) for _ in range(4000)]
    calm, bursts = percentile_interval(values, 95), percentile_interval(sorted(values), 95)
    assert bursts.low is not None
    assert calm.low is not None
    assert bursts.low < calm.low


def test_infinite_values_are_the_largest() -> None:
    values = [0.001] * 2000 + [math.inf] * 100
    assert percentile(values, 99) == math.inf
    assert percentile_interval(values, 99) == (math.inf, math.inf)
    assert percentile_interval([0.001] * 2000 + [math.inf], 50) == (0.001, 0.001)
