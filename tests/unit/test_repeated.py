"""Windows of one load point: which count, when they are enough, and what they are together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from planner.domain.serving import LoadMode, LoadResult, LoadSummary
from planner.errors import InputError
from profiler.points import LoadPoint, closed_point
from profiler.precision import Precision
from profiler.repeated import Repeated
from profiler.window import Window

OPEN = LoadPoint(LoadMode.OPEN, "0.5 of capacity", rate_rps=100.0)


@dataclass(frozen=True)
class SimulatedUsage:
    peak_bytes: int | None = 100
    busy: float | None = 0.5
    power_watts: float | None = None
    warning: str = ""

    def samples(self) -> dict[str, tuple[float, ...]]:
        return {"cpu_time_s": (0.0, 1.0), "cpu_s": (0.0, 0.5), "memory_bytes": (90.0, 100.0)}

    def remarks(self) -> dict[str, object]:
        return {}

    def warnings(self) -> tuple[str, ...]:
        return (self.warning,) if self.warning else ()


def window(
    point: LoadPoint, sent_s: Sequence[float], latency_s: Sequence[float], seconds: float, usage: SimulatedUsage
) -> Window:
    result = LoadResult("m", seconds, tuple(sent_s), tuple(latency_s), len(sent_s), 0, None, 0.1, False)
    counters = {"model_stats": [{"inference_count": 10, "execution_count": 10}]}
    return Window(point, result, usage, 100, {"model_stats": []}, counters)


def closed(rate_rps: float, *, last_rps: float | None = None, seconds: float = 2.0) -> Window:
    """One request at a time, the rate moving evenly from `rate_rps` to `last_rps`."""
    sent, latency, now = [], [], 0.0
    while now < seconds:
        step = 1 / (rate_rps + ((last_rps or rate_rps) - rate_rps) * now / seconds)
        sent.append(now)
        latency.append(step)
        now += step
    return window(closed_point(1), sent, latency, seconds, SimulatedUsage())


def opened(seed: int, *, count: int = 3000, seconds: float = 30.0, jitter: float = 0.3) -> Window:
    rng = random.Random(seed)
    sent = sorted(rng.uniform(0, seconds) for _ in range(count))
    latency = [0.01 * rng.lognormvariate(0, jitter) for _ in sent]
    return window(OPEN, sent, latency, seconds, SimulatedUsage())


def repeated(*windows: Window, percent: float = 99, **precision: float) -> Repeated:
    return Repeated(windows, percent, Precision(**precision))  # type: ignore[arg-type]


def test_one_window_that_tells_enough_is_enough() -> None:
    assert repeated(closed(500)).is_enough
    assert repeated(closed(500)).imprecise is None
    assert repeated(opened(1)).is_enough


def test_a_rate_that_is_not_known_closely_asks_for_more_until_the_windows_are_used_up() -> None:
    wide = closed(12)  # two dozen requests
    asked = repeated(wide, rate=0.001)
    assert not asked.is_enough
    assert asked.imprecise == "rate ±3% (0% asked)" or (asked.imprecise or "").startswith("rate ±")
    assert not repeated(wide, wide, rate=0.001).is_enough
    assert repeated(wide, wide, wide, rate=0.001).is_enough


def test_a_percentile_that_is_not_known_closely_asks_for_more() -> None:
    first = opened(1, count=2100, jitter=0.8)
    assert not repeated(first, latency=0.02).is_enough
    assert repeated(first, latency=0.02).imprecise is not None
    assert "p99 ±" in (repeated(first, latency=0.02).imprecise or "")
    together = repeated(first, opened(2, count=2100, jitter=0.8), latency=0.02).together
    alone, both = first.percentile_interval_ms(99), together.percentile_interval_ms(99)
    assert alone.low is not None
    assert both.low is not None
    assert both.high is not None
    assert both.high - both.low < (alone.high or 1e9) - alone.low


def test_a_percentile_becomes_known_over_several_windows_where_there_can_be_enough() -> None:
    short = [opened(seed, count=800, seconds=8.0) for seed in range(3)]
    assert short[0].percentile_ms(99) is None
    assert not repeated(short[0]).is_enough
    assert repeated(*short).together.percentile_ms(99) is not None
    # with 300 in each of three windows it stays unknown: one is enough to know that
    assert repeated(opened(1, count=300, seconds=3.0)).is_enough


def test_what_came_before_an_unstable_window_does_not_count() -> None:
    steady, falling = closed(500), closed(800, last_rps=300)
    assert not falling.stability.stable
    settled = repeated(falling, steady)
    assert settled.counted == (steady,)
    assert settled.together.rate_rps == pytest.approx(500, rel=0.02)
    assert settled.is_enough
    kept = settled.remarks()["windows"]
    assert isinstance(kept, list)
    assert [one["counted"] for one in kept] == [False, True]
    assert kept[0]["unstable"] == falling.stability.reason
    never = repeated(steady, falling)
    assert never.counted == (falling,)
    assert not never.is_enough
    assert not never.together.stability.stable


def test_drift_is_named_within_a_window_and_over_windows() -> None:
    falling = closed(550, last_rps=450)
    assert falling.stability.reason is not None
    assert falling.stability.reason.startswith("drift: the rate fell by ")
    steps = repeated(closed(560), closed(500), closed(440))
    assert all(one.stability.stable for one in steps.windows)
    assert steps.together.stability.reason is not None
    assert "drift: the rate fell by " in steps.together.stability.reason
    assert not steps.together.stability.stable


def test_a_steady_rate_with_noise_is_no_drift() -> None:
    rng = random.Random(5)
    unstable = 0
    for _ in range(100):
        now, sent, latency = 0.0, [], []
        while now < 2.0:
            step = rng.expovariate(300)
            sent.append(now)
            latency.append(step)
            now += step
        unstable += not window(closed_point(1), sent, latency, 2.0, SimulatedUsage()).stability.stable
    assert unstable <= 10


def test_an_overload_asks_for_no_more() -> None:
    sent = [place / 100 for place in range(3000)]
    latency = [0.01 + 0.5 * at for at in sent]
    overload = window(OPEN, sent, latency, 30.0, SimulatedUsage())
    assert overload.stability.overloaded
    assert repeated(overload).is_enough


def test_windows_together_are_as_if_they_had_followed_each_other() -> None:
    first, second = closed(500), closed(500)
    together = repeated(first, second, rate=0.0001).together
    assert together.result.seconds == 4.0
    assert together.result.answered == first.result.answered + second.result.answered
    assert list(together.result.sent_s) == sorted(together.result.sent_s)
    assert together.statistics["inference_count"] == 10  # from before the first to after the last
    samples = together.samples()
    assert samples["cpu_s"] == (0.0, 0.5, 0.5, 1.0)
    assert samples["memory_bytes"] == (90.0, 100.0, 90.0, 100.0)
    assert together.usage.busy == 0.5


def test_summaries_have_a_percentile_s_interval_from_three_windows_on() -> None:
    def summary(p99_s: float) -> Window:
        told = LoadSummary(3000, 0.01, {50: 0.01, 90: 0.012, 95: 0.015, 99: p99_s}, (100.0, 101.0, 99.0), (0.01,) * 3)
        result = LoadResult("m", 30.0, (), (), 3000, 0, None, 0.1, False, summary=told)
        return Window(OPEN, result, SimulatedUsage(), 100, {"model_stats": []}, {"model_stats": []})

    one, two, three = (summary(value) for value in (0.020, 0.022, 0.021))
    assert repeated(one).is_enough
    assert repeated(one, two).together.percentile_interval_ms(99) == (None, None)
    all_three = repeated(one, two, three).together
    assert all_three.percentile_ms(99) == pytest.approx(21)
    low, high = all_three.percentile_interval_ms(99)
    assert low is not None
    assert high is not None
    assert low < 21 < high
    # a percentile of windows rests on what each of them had
    assert all_three.result.samples == 3000


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"latency": 1.0}, {"max_windows": 0}])
def test_a_precision_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="precision: "):
        Precision(**wrong)  # type: ignore[arg-type]


def test_members_of_an_ensemble_are_counted_from_the_first_window_to_the_last() -> None:
    def with_member(before: int, after: int) -> Window:
        first, last = ({"model_stats": [{"inference_count": n, "execution_count": n}]} for n in (before, after))
        return replace(closed(100), members={"first": (first, last)})

    together = Repeated((with_member(5, 25), with_member(26, 47)), 99, Precision()).together
    assert together.statistics["members"]["first"]["inference_count"] == 42
