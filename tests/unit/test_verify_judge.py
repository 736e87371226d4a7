"""From measured latencies to a verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from planner.domain.plan import EndpointPorts, PlannedDevice
from planner.domain.serving import LoadResult
from planner.domain.verification import DeviceVerification, Failure, ModelVerification, Verdict
from planner.verify_judge import Usage, device_verification, observed
from planner.verify_traffic import DeviceTraffic, ReplicaTraffic
from tests.plans import replica_option

MIB = 2**20
DEVICE = PlannedDevice(
    device="n1/0",
    profile="cpu-1",
    start=None,
    memory_bytes_used=300 * MIB,
    memory_bytes_capacity=4000 * MIB,
    busy=0.5,
    endpoint=EndpointPorts(grpc_port=8001, http_port=8000, metrics_port=8002),
    replicas=("ranker-0",),
)
RANKER = ReplicaTraffic(
    id="ranker-0",
    model="ranker",
    option=replica_option("ranker", "cpu-1", memory_bytes=200 * MIB),
    rate_rps=400.0,
    percentile=99,
    bound_ms=20.0,
    busy=0.3,
    promised_ms=12.0,
    expected_ms=9.0,
)


def result(latency_ms: Sequence[float], **changes: object) -> LoadResult:
    failed = changes.get("failed", 0)
    assert isinstance(failed, int)
    values: dict[str, object] = {
        "model": "ranker",
        "seconds": 10.0,
        "sent_s": tuple(i / 400 for i in range(len(latency_ms))),
        "latency_s": tuple(value / 1000 for value in latency_ms),
        "offered": len(latency_ms) + failed,
        "failed": 0,
        "first_error": None,
        "client_busy": 0.2,
        "client_bound": False,
    }
    return LoadResult(**(values | changes))  # type: ignore[arg-type]


def spread(low_ms: float, high_ms: float, count: int = 4000) -> list[float]:
    """Evenly spread latencies in random order, so that a percentile is known and no burst widens its interval."""
    values = [low_ms + (high_ms - low_ms) * i / (count - 1) for i in range(count)]
    random.Random(0).shuffle(values)
    return values


def verified(
    found: LoadResult | None,
    *,
    replica: ReplicaTraffic = RANKER,
    usage: Usage | None = None,
    failure: Failure | None = None,
) -> DeviceVerification:
    traffic = DeviceTraffic(type="cpu-1", period="day", replicas=(replica,))
    seen = {} if found is None else {replica.id: observed(found, replica)}
    return device_verification(DEVICE, traffic, 10.0, seen, usage or Usage(), failure)


def judged(found: LoadResult | None, **changes: object) -> ModelVerification:
    [model] = verified(found, **changes).models  # type: ignore[arg-type]
    return model


def test_a_whole_interval_below_the_bound_is_met() -> None:
    model = judged(result(spread(5, 15)))
    assert (model.verdict, model.reason) == (Verdict.MET, None)
    assert model.measured_ms is not None
    assert model.measured_ms == pytest.approx(14.9, abs=0.1)
    assert model.measured_low_ms is not None
    assert model.measured_high_ms is not None
    assert model.measured_low_ms < model.measured_ms < model.measured_high_ms < 15
    assert (model.completed, model.failed) == (4000, 0)


def test_a_whole_interval_above_the_bound_is_missed() -> None:
    model = judged(result(spread(15, 35)))
    assert (model.verdict, model.reason) == (Verdict.MISSED, None)
    assert model.measured_low_ms is not None
    assert model.measured_low_ms > 20


def test_a_bound_within_the_interval_is_unclear() -> None:
    model = judged(result(spread(0.0, 20.2)))
    assert (model.verdict, model.reason) == (Verdict.UNCLEAR, "the bound lies within the interval")


@pytest.mark.parametrize(
    ("edge", "step_ms", "verdict"),
    [
        ("measured_high_ms", 0.0, Verdict.MET),
        ("measured_high_ms", -1e-6, Verdict.UNCLEAR),
        ("measured_low_ms", 0.0, Verdict.UNCLEAR),
        ("measured_low_ms", -1e-6, Verdict.MISSED),
    ],
)
def test_the_edges_of_the_interval(edge: str, step_ms: float, verdict: Verdict) -> None:
    found = result(spread(0.0, 20.0))
    bound_ms = getattr(judged(found), edge) + step_ms
    assert judged(found, replica=replace(RANKER, bound_ms=bound_ms)).verdict is verdict


def test_a_failed_request_counts_as_infinitely_slow() -> None:
    fast = spread(1, 2, 2400)
    few = judged(result(fast, failed=4, first_error="UNAVAILABLE: gone"))
    assert few.verdict is Verdict.MET
    assert few.reason == "4 of 2404 requests failed: UNAVAILABLE: gone"
    assert (few.completed, few.failed) == (2400, 4)
    many = judged(result(fast, failed=100, first_error="UNAVAILABLE: gone"))
    assert many.verdict is Verdict.MISSED
    assert (many.measured_ms, many.measured_low_ms, many.measured_high_ms, many.error) == (None, None, None, None)
    assert many.reason is not None
    assert many.reason.startswith("100 of 2500 requests failed")


def test_failures_about_at_the_percentile_are_unclear() -> None:
    model = judged(result(spread(1, 2, 2475), failed=25, first_error="no answer within 10 s"))
    assert model.verdict is Verdict.UNCLEAR
    assert model.measured_high_ms is None
    assert model.reason is not None
    assert "25 of 2500" in model.reason


@pytest.mark.parametrize(("percentile", "needed"), [(99, 2000), (95, 400), (90, 200), (50, 40)])
def test_too_few_requests_give_no_verdict_however_fast_or_slow(percentile: int, needed: int) -> None:
    replica = replace(RANKER, percentile=percentile)
    for latency_ms in (1.0, 1000.0):
        model = judged(result([latency_ms] * (needed - 1)), replica=replica)
        assert model.verdict is Verdict.UNCLEAR
        assert model.reason == f"p{percentile} needs {needed:,} requests, the window of 10 s had {needed - 1:,}"
        assert (model.measured_ms, model.measured_low_ms, model.measured_high_ms) == (None, None, None)
        assert judged(result([latency_ms] * needed), replica=replica).verdict is not Verdict.UNCLEAR


def test_a_generator_that_was_the_bottleneck_gives_no_verdict() -> None:
    for latencies in (spread(1, 2), spread(100, 200)):
        model = judged(result(latencies, client_bound=True, client_busy=0.97))
        assert model.verdict is Verdict.UNCLEAR
        assert model.reason == "the load generator was the bottleneck (97% of a core)"


def test_a_failed_server_gives_no_verdict() -> None:
    failure = Failure(message="Triton ended by signal SIGKILL", log_tail="last words")
    found = verified(None, failure=failure)
    assert found.failure is failure
    [model] = found.models
    assert (model.verdict, model.reason) == (Verdict.UNCLEAR, "its server failed")
    assert (model.completed, model.measured_ms, found.memory_bytes_measured) == (0, None, None)


def test_a_replica_without_traffic_is_unclear() -> None:
    model = judged(None, replica=replace(RANKER, rate_rps=0.0))
    assert (model.verdict, model.reason) == (Verdict.UNCLEAR, "no traffic is planned in this period")


@pytest.mark.parametrize("latencies", [spread(1, 2), spread(1, 2, 30)])
def test_a_model_without_a_bound_is_measured_and_not_judged(latencies: list[float]) -> None:
    model = judged(result(latencies), replica=replace(RANKER, bound_ms=None))
    assert model.verdict is None
    assert (model.measured_ms is None) == (len(latencies) < 2000)
    assert (model.reason is None) == (len(latencies) >= 2000)


def test_errors_are_relative_to_what_was_measured() -> None:
    model = judged(result([10.0] * 4000))
    assert model.measured_ms == pytest.approx(10.0)
    assert model.error == pytest.approx(0.2)
    assert model.expected_error == pytest.approx(-0.1)
    unknown = judged(result([10.0] * 4000), replica=replace(RANKER, promised_ms=None, expected_ms=None))
    assert (unknown.error, unknown.expected_error) == (None, None)


def test_pages_of_the_backend_are_taken_off_every_instance_because_the_plan_counts_them_once_per_server() -> None:
    replica = replace(RANKER, option=replace(RANKER.option, instances=2), backend_bytes=40 * MIB)
    usage = Usage(280 * MIB, 0.25, {"ranker": 180 * MIB}, {})
    found = verified(result(spread(1, 2)), replica=replica, usage=usage)
    assert found.models[0].memory_bytes_measured == 100 * MIB
    assert found.memory_bytes_measured == 280 * MIB


def test_memory_and_busy_share_stand_beside_what_was_predicted() -> None:
    usage = Usage(280 * MIB, 0.25, {"ranker": 180 * MIB}, {"ranker": 0.2})
    found = verified(result(spread(1, 2)), usage=usage)
    assert (found.memory_bytes_predicted, found.memory_bytes_measured) == (300 * MIB, 280 * MIB)
    assert (found.busy_predicted, found.busy_measured) == (0.3, 0.25)
    [model] = found.models
    assert (model.memory_bytes_predicted, model.memory_bytes_measured) == (200 * MIB, 180 * MIB)
    assert (model.busy_predicted, model.busy_measured) == (0.3, 0.2)
    [model] = verified(result(spread(1, 2))).models
    assert (model.memory_bytes_measured, model.busy_measured) == (None, None)
