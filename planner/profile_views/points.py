"""One model's load points with what is known about each: intervals, and where the time went. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from planner.domain.profile import Measurement, ProfileRow
from planner.domain.statistics import Interval, percentile_interval
from planner.errors import NotFoundError

PARTS = ("queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A load point. Intervals are at 95 %; None: the record does not have what they follow from.

    `parts_ms`: mean milliseconds per request that Triton counted, by its name in PARTS; a part that was not
    recorded is absent. `failure`: why there is no result. `client_bound`: the load generator set the rate.
    `doubts`: what a reader should know before trusting the figures, in words.
    """

    row: ProfileRow
    rate_interval_rps: Interval | None
    latency_p99_interval_ms: Interval | None
    parts_ms: Mapping[str, float]
    failure: str | None
    client_bound: bool
    doubts: tuple[str, ...] = ()

    @property
    def rest_ms(self) -> float | None:
        """Mean latency outside the four parts: network and client. None where a part or the mean is not known."""
        mean = self.row.latency_mean_ms
        if mean is None or len(self.parts_ms) < len(PARTS):
            return None
        return max(0.0, mean - sum(self.parts_ms.values()))


def point(measurement: Measurement) -> Point:
    return Point(
        row=measurement.row,
        rate_interval_rps=_rate_interval(measurement.statistics),
        latency_p99_interval_ms=_p99_interval(measurement),
        parts_ms=_parts(measurement.statistics),
        failure=measurement.failure,
        client_bound=measurement.statistics.get("client_bound") is True,
        doubts=tuple(_doubts(measurement)),
    )


def points(measurements: Iterable[Measurement], model: str) -> list[Point]:
    """Every point of one model by configuration and load; NotFoundError names what there is."""
    measurements = list(measurements)
    found = [point(m) for m in measurements if m.row.model == model]
    if not found:
        known = ", ".join(sorted({m.row.model for m in measurements if not m.row.is_overhead})) or "none"
        raise NotFoundError(f"model {model!r} has no profile; models with profiles: {known}")
    return sorted(found, key=lambda p: _order(p.row))


def _doubts(measurement: Measurement) -> Iterator[str]:
    statistics = measurement.statistics
    if measurement.row.is_fitted:
        yield "fitted, not measured"
    if unstable := statistics.get("unstable"):
        yield f"unstable: {unstable}"
    if statistics.get("client_bound") is True:
        yield "the load generator was too slow"
    if imprecise := statistics.get("imprecise"):
        yield f"less sure than asked: {imprecise}"
    warnings = statistics.get("warnings")
    yield from map(str, warnings if isinstance(warnings, list | tuple) else ())


def _order(row: ProfileRow) -> tuple[object, ...]:
    return (
        row.device, row.instances, row.max_batch_size, -1 if row.queue_delay_us is None else row.queue_delay_us,
        row.request_batch_size, row.variant, row.requests, row.load, row.concurrency or row.offered_rps or 0.0,
        row.rate_rps or 0.0,
    )  # fmt: skip


def _rate_interval(statistics: Mapping[str, object]) -> Interval | None:
    return _interval(statistics.get("throughput_interval_rps"))


def _interval(found: object) -> Interval | None:
    if not isinstance(found, list | tuple) or len(found) != 2:
        return None
    low, high = (float(side) if isinstance(side, int | float) else None for side in found)
    return None if low is None and high is None else Interval(low, high)


def _p99_interval(measurement: Measurement) -> Interval | None:
    kept = _interval(measurement.statistics.get("latency_p99_interval_ms"))
    if kept is not None:
        return kept
    latency_s = measurement.samples.get("latency_s", ())
    if measurement.row.latency_p99_ms is None or not latency_s:
        return None
    low, high = percentile_interval(latency_s, 99)
    return Interval(None if low is None else low * 1e3, None if high is None else high * 1e3)


def _parts(statistics: Mapping[str, object]) -> dict[str, float]:
    values = {part: statistics.get(part) for part in PARTS}
    return {part: float(value) for part, value in values.items() if isinstance(value, int | float)}
