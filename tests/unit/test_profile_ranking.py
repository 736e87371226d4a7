"""Rankings by what a million inferences take, the recommended configuration, prices, and details of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.domain.profile import Measurement, ProfileRow
from planner.domain.serving import LoadMode
from planner.domain.statistics import Interval
from planner.errors import InputError, NotFoundError
from planner.inputs.prices import usd_per_hour
from planner.profile_views.points import point, points
from planner.profile_views.ranking import LatencyBound, RankBy, Ranked, best_of_each, ranking, recommended


def row(**values: Any) -> ProfileRow:
    return ProfileRow(**{"model": "m", "device": "L4", "rate_rps": 100.0, **values})


def one(*rows: ProfileRow, **options: Any) -> Ranked:
    (found,) = ranking(rows, RankBy.BUSY, **options)
    return found


def test_a_million_inferences() -> None:
    found = one(row(rate_rps=50.0, request_batch_size=2, power_watts=72.0, busy=0.5), usd_per_hour={"L4": 0.72})
    assert found.inferences_per_s == 100
    assert found.busy_s_per_million == 5000
    assert found.energy_wh_per_million == pytest.approx(200)
    assert found.usd_per_million == pytest.approx(2.0)
    assert found.busy_measured


def test_what_is_not_recorded_is_not_known() -> None:
    found = one(row())
    assert (found.memory_bytes, found.energy_wh_per_million, found.usd_per_million) == (None, None, None)
    assert (found.latency_ms, found.busy_measured) == (None, False)
    nothing = one(row(stable=False, memory_bytes=5))
    assert (nothing.inferences_per_s, nothing.busy_s_per_million, nothing.memory_bytes) == (None, None, 5)


def test_busy_that_was_not_measured_follows_the_rule_for_rows_without_it() -> None:
    saturated, below = row(rate_rps=200.0, latency_p99_ms=90.0), row(latency_p99_ms=5.0)
    bounds = {"m": LatencyBound(99, 10)}
    assert one(saturated, below, bounds=bounds).busy_s_per_million == pytest.approx(5000)
    batched = [row(rate_rps=r.rate_rps, latency_p99_ms=r.latency_p99_ms, max_batch_size=8, queue_delay_us=0)
               for r in (saturated, below)]  # fmt: skip
    assert one(*batched, bounds=bounds).busy_s_per_million == pytest.approx(10_000)


def test_a_bound_is_judged_on_open_loop_points_where_they_tell_the_percentile() -> None:
    closed = row(rate_rps=500.0, latency_p99_ms=5.0)
    opened = row(rate_rps=300.0, latency_p99_ms=8.0, load=LoadMode.OPEN)
    late = row(rate_rps=400.0, latency_p99_ms=30.0, load=LoadMode.OPEN)
    bound = {"m": LatencyBound(99, 10)}
    assert one(closed, opened, late, bounds=bound).inferences_per_s == 300
    assert one(closed, row(rate_rps=450.0, load=LoadMode.OPEN), bounds=bound).inferences_per_s == 500
    assert one(closed, late, bounds=bound).inferences_per_s is None
    assert one(closed, opened, late).inferences_per_s == 500


def test_what_is_not_known_stands_last() -> None:
    rows = [row(model="a", power_watts=90.0), row(model="b"), row(model="c", power_watts=50.0, memory_bytes=7)]
    assert [r.model for r in ranking(rows, RankBy.ENERGY)] == ["c", "a", "b"]
    assert [r.model for r in ranking(rows, RankBy.MEMORY)] == ["c", "a", "b"]
    assert ranking([*rows, row(model="d", rate_rps=900.0)], RankBy.RATE)[0].model == "d"
    by_cost = ranking(rows, RankBy.COST, usd_per_hour={"L4": 1.0})
    assert [r.usd_per_million for r in by_cost] == [pytest.approx(1e6 / 100 / 3600)] * 3


def test_best_of_each_leaves_out_what_has_no_rate() -> None:
    rows = [row(), row(instances=2, rate_rps=200.0), row(device="T4"), row(model="n", stable=False)]
    found = best_of_each(ranking(rows, RankBy.BUSY))
    assert [(r.model, r.device, r.instances) for r in found] == [("m", "L4", 2), ("m", "T4", 1)]


def test_recommended_takes_least_memory_among_the_nearly_fastest() -> None:
    rows = [
        row(instances=1, rate_rps=90.0, memory_bytes=1),
        row(instances=2, rate_rps=96.0, memory_bytes=20),
        row(instances=3, rate_rps=100.0, memory_bytes=30),
    ]
    assert recommended(ranking(rows, RankBy.RATE)) == ranking(rows, RankBy.RATE)[1]
    unknown = [row(instances=3), row(instances=2, max_batch_size=8, rate_rps=99.0), row(instances=2, rate_rps=98.0)]
    best = recommended(ranking(unknown, RankBy.RATE))
    assert best is not None
    assert (best.instances, best.max_batch_size) == (2, 0)
    assert recommended(ranking([row(stable=False)], RankBy.RATE)) is None


def test_labels() -> None:
    assert one(row(instances=2, max_batch_size=8)).label == "2 x 8"
    assert one(row(max_batch_size=8, queue_delay_us=100, request_batch_size=4)).label == (
        "1 x 8, requests of 4, delay 100 µs"
    )
    assert one(row(variant="add 1, sub 2")).label == "add 1, sub 2"


FLEET = """
schema_version: 1
nodes:
  - {name: a, gpus: 2xL4, usd_per_hour: 3}
  - {name: b, gpus: 1xT4, usd_per_hour: 1}
  - {name: c, gpus: 1xT4, usd_per_hour: 2}
  - {name: d, gpus: 1xA100-80, usd_per_hour: 9}
gpu_types: {A100-80: {usd_per_hour: 3.43}}
"""


def test_prices(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    assert usd_per_hour([], None) == {}
    assert usd_per_hour([], path) == {"L4": 1.5, "A100-80": 3.43}  # T4 has two prices: none is its price
    found = usd_per_hour(["NVIDIA L4=0.8", "A100/1g.10gb=0.5", "cpu-1=0"], path)
    assert found == {"L4": 0.8, "A100-80": 3.43, "A100-80/1g.10gb": 0.5, "cpu-1": 0.0}
    for text in ("L4", "=1", "L4=cheap", "L4=-1", "L4=nan", "L4=inf"):
        with pytest.raises(InputError, match="is not TYPE=USD"):
            usd_per_hour([text], None)


def measured(**values: Any) -> Measurement:
    return Measurement(**{"key": "k", "row": row(latency_p99_ms=9.0), **values})


def test_intervals_where_the_record_has_them() -> None:
    latencies = tuple(0.001 * (i % 100) for i in range(3000))
    found = point(
        measured(
            statistics={"throughput_interval_rps": [90.0, None], "client_bound": True}, samples={"latency_s": latencies}
        )
    )
    assert found.rate_interval_rps == Interval(90.0, None)
    low, high = found.latency_p99_interval_ms or (None, None)
    assert low is not None
    assert high is not None
    assert 95 <= low <= 98 <= high <= 99
    assert found.client_bound
    bare = point(measured(statistics={"throughput_interval_rps": [None, None]}))
    assert (bare.rate_interval_rps, bare.latency_p99_interval_ms, bare.rest_ms, bare.parts_ms) == (None, None, None, {})


def test_no_interval_of_a_percentile_that_is_not_known() -> None:
    few = measured(row=row(), samples={"latency_s": (0.1, 0.2)})
    assert point(few).latency_p99_interval_ms is None


def test_the_rest_of_the_mean_latency() -> None:
    parts = {"queue_ms": 1.0, "compute_input_ms": 0.5, "compute_infer_ms": 3.0, "compute_output_ms": 0.5}
    assert point(measured(row=row(latency_mean_ms=7.0), statistics=parts)).rest_ms == 2.0
    assert point(measured(row=row(latency_mean_ms=4.0), statistics=parts)).rest_ms == 0.0
    assert point(measured(statistics=parts)).rest_ms is None
    assert (
        point(measured(row=row(latency_mean_ms=7.0), statistics={"queue_ms": 1.0, "compute_infer_ms": None})).rest_ms
        is None
    )


def test_points_of_an_unknown_model() -> None:
    with pytest.raises(NotFoundError, match="models with profiles: none"):
        points([], "m")
