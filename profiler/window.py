"""One load point's window, and the row and remarks that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode, LoadResult
from planner.domain.statistics import Interval, percentile, too_few_for
from planner.domain.workload import PERCENTILES
from profiler.devices.base import Usage
from profiler.points import LoadPoint
from profiler.stability import (
    Stability,
    rate_interval_of_parts,
    stability_closed,
    stability_of_parts,
    stability_open,
    throughput_interval,
)


@dataclass(frozen=True, slots=True)
class Window:
    """What one load point's window showed. `peak_bytes` is the server's peak since its start.
    None: unknown."""

    point: LoadPoint
    result: LoadResult
    usage: Usage
    peak_bytes: int | None
    statistics: Mapping[str, Any]

    @property
    def stability(self) -> Stability:
        result = self.result
        if result.summary is not None:
            return stability_of_parts(result.summary, result.seconds, self.point.rate_rps)
        if self.point.mode is LoadMode.CLOSED:
            return stability_closed(result.sent_s, result.latency_s, result.seconds)
        return stability_open(result.sent_s, result.latency_s, result.seconds, result.offered, result.failed)

    def samples(self) -> dict[str, tuple[float, ...]]:
        """The raw series: times since the window's start (load) or the series' first sample (device)."""
        return {"sent_s": self.result.sent_s, "latency_s": self.result.latency_s, **self.usage.samples()}

    def fill(self, row: ProfileRow, *, paid_once_bytes: int, cold_bytes: int | None) -> ProfileRow:
        """The row of its configuration and load with what was measured. `paid_once_bytes` is the memory of
        server and backend, which is not the replica's."""
        stability = self.stability
        p50_ms, p90_ms, p95_ms, p99_ms = (_percentile_ms(self.result, percent) for percent in PERCENTILES)
        return replace(
            row,
            rate_rps=self._served_rps(stability),
            latency_mean_ms=_mean_ms(self.result),
            latency_p50_ms=p50_ms,
            latency_p90_ms=p90_ms,
            latency_p95_ms=p95_ms,
            latency_p99_ms=p99_ms,
            memory_bytes=_of_replica(self.peak_bytes, paid_once_bytes),
            memory_cold_bytes=_of_replica(cold_bytes, paid_once_bytes),
            busy=self.usage.busy,
            power_watts=self.usage.power_watts,
            executed_batch_mean=self.statistics["executed_batch_mean"],
            stable=stability.stable,
            failed=self.result.failed,
            load_generator=self.result.load_generator,
        )

    def remarks(self) -> dict[str, object]:
        """What the row has no column for, stored beside Triton's statistics."""
        result = self.result
        reasons = [too_few_for(percent, result.answered) for percent in PERCENTILES]
        return {
            "load_generator_version": result.load_generator_version,
            "load_generator_note": result.note,
            "samples": "summary" if result.summary is not None else "every request",
            "point": self.point.name,
            "window_s": result.seconds,
            "offered": result.offered,
            "first_error": result.first_error,
            "client_busy": result.client_busy,
            "client_bound": result.client_bound,
            "unstable": self.stability.reason,
            "throughput_interval_rps": list(_rate_interval(result)),
            "percentiles_absent": [reason for reason in reasons if reason],
            "warnings": list(self.usage.warnings()),
            **self.usage.remarks(),
        }

    def _served_rps(self, stability: Stability) -> float:
        """Answered requests per second; under overload only what was answered within the window."""
        result = self.result
        if result.summary is not None:
            return fmean(result.summary.part_rates_rps)
        answered = result.answered
        if stability.overloaded:
            pairs = zip(result.sent_s, result.latency_s, strict=True)
            answered = sum(sent + latency < result.seconds for sent, latency in pairs)
        return answered / result.seconds


def _of_replica(used_bytes: int | None, paid_once_bytes: int) -> int | None:
    return None if used_bytes is None else max(0, used_bytes - paid_once_bytes)


def _percentile_ms(result: LoadResult, percent: int) -> float | None:
    if too_few_for(percent, result.answered) is not None:
        return None
    if result.summary is not None:
        return result.summary.percentiles_s[percent] * 1e3
    return percentile(result.latency_s, percent) * 1e3


def _mean_ms(result: LoadResult) -> float | None:
    if result.summary is not None:
        return result.summary.mean_s * 1e3
    return fmean(result.latency_s) * 1e3 if result.latency_s else None


def _rate_interval(result: LoadResult) -> Interval:
    if result.summary is not None:
        return rate_interval_of_parts(result.summary.part_rates_rps)
    completed = [sent + latency for sent, latency in zip(result.sent_s, result.latency_s, strict=True)]
    return throughput_interval(completed, result.seconds)
