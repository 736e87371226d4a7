"""The simulator of a device, against closed forms and against what no queue may do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.device import Stream, besides_s, poisson, simulate


def stream(arrivals_s: object, **changes: object) -> Stream:
    """One request a batch, one second each, on one instance."""
    values: dict[str, object] = {
        "arrivals_s": np.asarray(arrivals_s, np.float64),
        "instances": 1,
        "most_requests": 1,
        "delay_s": 0.0,
        "fixed_s": 1.0,
        "each_s": 0.0,
    }
    return Stream(**(values | changes))  # type: ignore[arg-type]


def alone(only: Stream, end_s: float = 1e9) -> list[float]:
    [served], _ = simulate([only], [[1.0]], 0.0, end_s)
    return list(served.latency_s)


def mean_s(rate_rps: float, requests: int = 400_000, **changes: object) -> float:
    seconds = requests / rate_rps
    only = stream(poisson(rate_rps, seconds, np.random.default_rng(1)), **changes)
    [served], busy = simulate([only], [[1.0]], 0.1 * seconds, seconds)
    assert busy == pytest.approx(rate_rps, rel=0.02)
    return float(served.latency_s.mean())


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_instance_is_the_queue_m_d_1(load: float) -> None:
    assert mean_s(load) == pytest.approx(1 + load / (2 * (1 - load)), rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_as_many_instances_as_requests_share_the_device(load: float) -> None:
    # Processor sharing: 1 / (mu - lambda), whatever the services are.
    assert mean_s(load, instances=500) == pytest.approx(1 / (1 - load), rel=0.03)


def test_two_models_that_never_queue_share_as_one_does() -> None:
    rng, loads, works = np.random.default_rng(2), (0.5, 0.2), (0.3, 4.0)
    seconds = 200_000.0
    pair = [
        stream(poisson(load / work, seconds, rng), fixed_s=work, instances=500)
        for load, work in zip(loads, works, strict=True)
    ]
    served, busy = simulate(pair, np.ones((2, 2)).tolist(), 0.0, seconds)
    assert busy == pytest.approx(sum(loads), rel=0.02)
    for one, work in zip(served, works, strict=True):
        assert one.latency_s.mean() == pytest.approx(work / (1 - sum(loads)), rel=0.05)


def test_executions_slow_each_other_by_their_weights() -> None:
    # Alone a second; beside the other it gets a third of its speed, the other one half.
    pair = [stream([0.0]), stream([0.0])]
    (a, b), _ = simulate(pair, [[1.0, 2.0], [1.0, 1.0]], 0.0, 10.0)
    assert (b.latency_s[0], a.latency_s[0]) == pytest.approx((2.0, 2.0 + 1 / 3))
    (a, b), busy = simulate(pair, [[1.0, 0.0], [0.0, 1.0]], 0.0, 10.0)
    assert (a.latency_s[0], b.latency_s[0], busy) == pytest.approx((1.0, 1.0, 0.1))


def test_a_batch_takes_what_waits_and_no_more_than_it_may() -> None:
    # The first goes alone, three of the four that wait meanwhile go next, the last one after them.
    batched = stream([0.0, 0.1, 0.2, 0.3, 0.4], most_requests=3, fixed_s=1.0, each_s=0.5)
    assert alone(batched) == pytest.approx([1.5, 3.9, 3.8, 3.7, 5.1])
    [served], _ = simulate([batched], [[1.0]], 0.0, 10.0)
    assert (served.batches, served.requests, served.work_s) == (3, 5, pytest.approx(5.5))


def test_a_batch_waits_for_its_delay_or_until_it_is_full() -> None:
    waits = stream([0.0, 0.4, 5.0, 5.1, 5.2], most_requests=3, delay_s=0.5)
    assert alone(waits) == pytest.approx([1.5, 1.1, 1.2, 1.1, 1.0])
    # The instance is free again only after the delay is over: nobody waits longer for company.
    assert alone(stream([0.0, 0.6], most_requests=2, delay_s=0.5)) == pytest.approx([1.5, 1.9])


def test_the_window_counts_what_arrives_in_it() -> None:
    [served], busy = simulate([stream([0.0, 2.0, 2.5, 9.9])], [[1.0]], 1.0, 10.0)
    assert list(served.latency_s) == pytest.approx([1.0, 1.5, 1.0])
    assert (served.batches, served.waiting) == (3, 1)
    assert busy == pytest.approx(2.1 / 9)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_arrives_leaves_and_no_work_is_lost(data: st.DataObject) -> None:
    def one() -> Stream:
        gaps = data.draw(st.lists(st.floats(0, 3), min_size=1, max_size=20))
        return stream(
            np.cumsum(gaps),
            instances=data.draw(st.integers(1, 3)),
            most_requests=data.draw(st.integers(1, 4)),
            delay_s=data.draw(st.sampled_from([0.0, 0.3, 2.0])),
            fixed_s=data.draw(st.floats(0.001, 1)),
            each_s=data.draw(st.floats(0, 1)),
        )

    streams = [one() for _ in range(data.draw(st.integers(1, 4)))]
    served, busy = simulate(streams, np.ones((len(streams), len(streams))).tolist(), 0.0, 1e4)
    for given_, found in zip(streams, served, strict=True):
        assert len(found.latency_s) == found.requests == len(given_.arrivals_s)
        assert found.batches >= found.requests / given_.most_requests
        assert found.work_s == pytest.approx(found.batches * given_.fixed_s + found.requests * given_.each_s)
        assert min(found.latency_s) >= given_.fixed_s + given_.each_s - 1e-9
    # The device does one second of work a second while there is any.
    assert busy * 1e4 == pytest.approx(sum(found.work_s for found in served))
    left = max(float((s.arrivals_s + f.latency_s).max()) for s, f in zip(streams, served, strict=True))
    assert left <= max(float(s.arrivals_s[-1]) + s.delay_s for s in streams) + sum(f.work_s for f in served) + 1e-6


def test_poisson_arrivals_follow_their_seed() -> None:
    one, same, other = (poisson(50.0, 200.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert list(one) == list(same) != list(other)
    assert list(one) == sorted(one)
    gaps = np.diff(one)
    assert (len(one), gaps.mean(), gaps.std()) == pytest.approx((10_000, 0.02, 0.02), rel=0.05)


def test_what_is_besides_has_the_percentiles_it_was_given() -> None:
    rng = np.random.default_rng(3)
    drawn = besides_s([(50, 1.0), (90, 2.0), (99, 5.0)], 400_000, rng)
    assert np.percentile(drawn, [50, 90, 99]) == pytest.approx([1.0, 2.0, 5.0], rel=0.03)
    # Beyond the last one as an exponential tail: three more per tenfold rarer.
    assert np.percentile(drawn, 99.9) == pytest.approx(8.0, rel=0.05)
    assert drawn.min() == 1.0
    assert list(besides_s([(95, 0.5)], 3, rng)) == [0.5] * 3
    assert list(besides_s([], 2, rng)) == [0.0, 0.0]
