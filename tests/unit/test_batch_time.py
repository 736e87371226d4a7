"""How long a batch takes, out of a profile's busy time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from planner.batch_time import batch_time
from planner.domain.problem import BatchTime
from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode


def row(rate_rps: float, busy: float | None, batch: float | None = None, **changes: object) -> ProfileRow:
    values: dict[str, object] = {"rate_rps": rate_rps, "busy": busy, "executed_batch_mean": batch}
    return ProfileRow(model="m", device="cpu-1", **(values | changes))  # type: ignore[arg-type]


def loaded(batches: Sequence[float], fixed_s: float, each_s: float, per_request: int = 1) -> list[ProfileRow]:
    """At 10 executions a second."""
    return [row(10 * b / per_request, 10 * (fixed_s + each_s * b), b, request_batch_size=per_request) for b in batches]


@pytest.mark.parametrize("per_request", [1, 2])
def test_points_on_a_line_give_the_line(per_request: int) -> None:
    found = batch_time(loaded([2, 3.5, 8], 0.004, 0.001, per_request), batches=True)
    assert found == BatchTime(4_000_000, 1_000_000)


def test_neither_part_is_negative() -> None:
    assert batch_time([row(10, 0.01, 1), row(20, 0.04, 2)], batches=True) == BatchTime(0, 1_200_000)
    assert batch_time([row(10, 0.02, 1), row(20, 0.01, 2)], batches=True) == BatchTime(1_200_000, 0)


def test_batches_that_hardly_differ_tell_nothing() -> None:
    assert batch_time(loaded([1.0, 1.19], 0.004, 0.001), batches=True) is None
    assert batch_time(loaded([1.0, 1.2], 0.004, 0.001), batches=True) == BatchTime(4_000_000, 1_000_000)
    assert batch_time([], batches=True) is None


def test_points_that_are_not_planned_with_do_not_count() -> None:
    good = loaded([2, 8], 0.004, 0.001)
    bad = [row(10, 1.0, 1, failed=1), row(10, 1.0, 1, stable=False), row(10, 1.0, None), row(10, None, 4)]
    assert batch_time([*bad, *good], batches=True) == BatchTime(4_000_000, 1_000_000)


def test_without_batching_busy_time_over_requests_is_it() -> None:
    assert batch_time([row(10, 0.1), row(50, 0.5)], batches=False) == BatchTime(10_000_000, 0)
    # The saturated rate, where busy time was not measured: there the device is always busy.
    assert batch_time([row(10, None), row(50, None)], batches=False) == BatchTime(20_000_000, 0)
    assert batch_time([row(10, None, 4)], batches=True) is None


def light(**changes: object) -> ProfileRow:
    """A tenth busy with 10 ms, so that one in ten waits: p95 half of it, p99 nine tenths."""
    known: dict[str, object] = {"latency_p50_ms": 12.0, "latency_p95_ms": 20.0, "latency_p99_ms": 23.0}
    return row(10, 0.1, **{"load": LoadMode.OPEN, **known, **changes})


def test_what_a_light_load_takes_above_execution_and_waiting_is_besides() -> None:
    found = batch_time([light(), row(50, 0.5, load=LoadMode.OPEN, latency_p50_ms=99.0)], batches=False)
    assert found == BatchTime(10_000_000, 0, ((50, 2_000_000), (95, 5_000_000), (99, 5_000_000)))
    # Two instances: the tenth that would wait does not.
    found = batch_time([light(instances=2)], batches=False)
    assert found == BatchTime(10_000_000, 0, ((50, 2_000_000), (95, 10_000_000), (99, 13_000_000)))
    # The batch waits for its delay whatever the load.
    batched = [light(executed_batch_mean=1.0, queue_delay_us=1500), row(40, 0.2, 2.0)]
    found = batch_time(batched, batches=True)
    assert found is not None
    assert found.besides_ns[0] == (50, 500_000)


def test_a_closed_loop_or_a_heavy_load_tells_nothing_of_besides() -> None:
    for one in (light(load=LoadMode.CLOSED), row(50, 0.5, load=LoadMode.OPEN, latency_p50_ms=99.0)):
        assert batch_time([one], batches=False) == BatchTime(10_000_000, 0)
