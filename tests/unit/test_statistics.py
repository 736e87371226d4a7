from __future__ import annotations

import random
from statistics import NormalDist

import pytest

from planner.domain import statistics
from profiler import stability


def exponential(count: int, rng: random.Random, mean_s: float = 0.01) -> list[float]:
    return [rng.expovariate(1 / mean_s) for _ in range(count)]


def queue(rate_rps: float, service_s: float, seconds: float, rng: random.Random) -> tuple[list[float], list[float]]:
    """Sent times and latencies of one server with a fixed service time and Poisson arrivals."""
    sent, latency, free, now = [], [], 0.0, rng.expovariate(rate_rps)
    while now < seconds:
        free = max(free, now) + service_s
        sent.append(now)
        latency.append(free - now)
        now += rng.expovariate(rate_rps)
    return sent, latency


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (51, 6), (90, 9), (95, 10), (99, 10), (100, 10), (1, 1)])
def test_percentile_is_nearest_rank(percent: float, expected: int) -> None:
    assert statistics.percentile(list(range(10, 0, -1)), percent) == expected


def test_percentile_rank_is_not_raised_by_rounding() -> None:
    assert statistics.percentile(list(range(1, 1001)), 99.9) == 999
    assert statistics.percentile(list(range(1, 101)), 55) == 55


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        statistics.percentile([], 50)


@pytest.mark.parametrize(("percent", "needed"), [(50, 40), (90, 200), (95, 400), (99, 2000), (99.9, 20000)])
def test_a_percentile_needs_20_samples_beyond_it(percent: float, needed: int) -> None:
    assert statistics.samples_needed(percent) == needed
    assert statistics.percentile_or_none([0.001] * needed, percent) == (0.001, None)
    value, reason = statistics.percentile_or_none([0.001] * (needed - 1), percent)
    assert value is None
    assert reason == f"p{percent:g} needs {needed} requests, the window had {needed - 1}"


def test_binomial_quantile_agrees_with_the_normal_approximation() -> None:
    normal = NormalDist(10_000 * 0.95, (10_000 * 0.95 * 0.05) ** 0.5)
    for probability in (0.025, 0.5, 0.975):
        assert statistics._binomial_quantile(10_000, 0.95, probability) == pytest.approx(
            normal.inv_cdf(probability), abs=2
        )


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentile_interval_covers_the_truth_about_as_often_as_promised(percent: float) -> None:
    from math import log

    truth = -0.01 * log(1 - percent / 100)
    rng = random.Random(7)
    covered = 0
    for _ in range(200):
        low, high = statistics.percentile_interval(exponential(2500, rng), percent)
        assert low is not None
        covered += low <= truth and (high is None or truth <= high)
    assert covered >= 184  # 95 % promised; below 92 % would be beyond chance


def test_percentile_interval_has_no_side_that_the_sample_cannot_bound() -> None:
    assert statistics.percentile_interval([], 99) == (None, None)
    low, high = statistics.percentile_interval([i / 1000 for i in range(100)], 99)
    assert low is not None
    assert high is None


def test_percentile_interval_is_wider_where_slow_requests_come_in_bursts() -> None:
    rng = random.Random(1)
    values = exponential(4000, rng)
    burst = sorted(values)
    independent = statistics.percentile_interval(values, 95)
    dependent = statistics.percentile_interval(burst, 95)
    assert dependent.low is not None
    assert independent.low is not None
    assert dependent.low < independent.low
    assert dependent.high is None or (independent.high is not None and dependent.high > independent.high)


def test_throughput_interval_holds_the_rate() -> None:
    rng = random.Random(3)
    low, high = stability.throughput_interval([rng.uniform(0, 10) for _ in range(1000)], 10.0)
    assert low is not None
    assert high is not None
    assert low < 100 < high
    assert high - low < 30


def test_a_steady_closed_loop_is_stable() -> None:
    sent = [i * 0.01 for i in range(500)]
    assert stability.stability_closed(sent, [0.01] * 500, 5.0).stable


def test_a_closed_loop_that_slows_down_is_not_stable() -> None:
    sent = [i * 0.01 for i in range(250)] + [2.5 + i * 0.04 for i in range(62)]
    latency = [0.01] * 250 + [0.04] * 62
    found = stability.stability_closed(sent, latency, 5.0)
    assert not found.stable
    assert found.reason is not None
    assert found.reason.startswith("rate varied by")


def test_a_closed_loop_with_hardly_a_request_is_not_stable() -> None:
    assert not stability.stability_closed([0.0], [1.0], 5.0).stable


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_an_open_loop_below_capacity_is_stable(load: float) -> None:
    for seed in range(20):
        sent, latency = queue(load * 100, 0.01, 20.0, random.Random(seed))
        found = stability.stability_open(sent, latency, 20.0, len(sent), 0)
        assert found.stable, found


@pytest.mark.parametrize("load", [1.2, 1.5, 3.0])
def test_an_open_loop_above_capacity_is_overload(load: float) -> None:
    for seed in range(20):
        sent, latency = queue(load * 100, 0.01, 10.0, random.Random(seed))
        found = stability.stability_open(sent, latency, 10.0, len(sent), 0)
        assert found.overloaded
        assert not found.stable
        assert found.latency_growth == pytest.approx(load - 1, abs=0.2)


def test_an_open_loop_with_failures_is_overload() -> None:
    sent, latency = queue(20, 0.01, 10.0, random.Random(0))
    found = stability.stability_open(sent, latency, 10.0, len(sent) + 10, 10)
    assert found.overloaded
    assert found.reason is not None
    assert "failed" in found.reason


def test_an_open_loop_that_stalls_for_a_while_is_not_stable() -> None:
    sent, latency = queue(50, 0.005, 8.0, random.Random(0))
    latency = [0.5 if 2 <= at < 4 else value for at, value in zip(sent, latency, strict=True)]
    found = stability.stability_open(sent, latency, 8.0, len(sent), 0)
    assert not found.stable
    assert not found.overloaded


def test_an_open_loop_without_requests_is_not_stable() -> None:
    assert not stability.stability_open([], [], 5.0, 0, 0).stable
