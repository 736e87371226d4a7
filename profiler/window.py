"""One load point's window, and the row and remarks that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode, LoadResult
from planner.domain.statistics import percentile_or_none
from planner.domain.workload import PERCENTILES
from profiler.devices.base import Usage
from profiler.points import LoadPoint
from profiler.stability import Stability, stability_closed, stability_open, throughput_interval


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
        if self.point.mode is LoadMode.CLOSED:
            return stability_closed(result.sent_s, result.latency_s, result.seconds)
        return stability_open(result.sent_s, result.latency_s, result.seconds, result.offered, result.failed)

    def samples(self) -> dict[str, tuple[float, ...]]:
        """The raw series: times since the window's start (load) or the series' first sample (device)."""
        return {"sent_s": self.result.sent_s, "latency_s": self.result.latency_s, **self.usage.samples()}

    def fill(self, row: ProfileRow, *, paid_once_bytes: int, cold_bytes: int | None) -> ProfileRow:
        """The row of its configuration and load with what was measured. `paid_once_bytes` is the memory of
        server and backend, which is not the replica's."""
        latency_s = self.result.latency_s
        stability = self.stability
        p50_ms, p90_ms, p95_ms, p99_ms = (_percentile_ms(latency_s, percent) for percent in PERCENTILES)
        return replace(
            row,
            rate_rps=self._served_rps(stability),
            latency_mean_ms=sum(latency_s) / len(latency_s) * 1e3 if latency_s else None,
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
        )

    def remarks(self) -> dict[str, object]:
        """What the row has no column for, stored beside Triton's statistics."""
        result = self.result
        completed = [sent + latency for sent, latency in zip(result.sent_s, result.latency_s, strict=True)]
        reasons = [percentile_or_none(result.latency_s, percent).reason for percent in PERCENTILES]
        return {
            "point": self.point.name,
            "window_s": result.seconds,
            "offered": result.offered,
            "first_error": result.first_error,
            "client_busy": result.client_busy,
            "client_bound": result.client_bound,
            "unstable": self.stability.reason,
            "throughput_interval_rps": list(throughput_interval(completed, result.seconds)),
            "percentiles_absent": [reason for reason in reasons if reason],
            "warnings": list(self.usage.warnings()),
            **self.usage.remarks(),
        }

    def _served_rps(self, stability: Stability) -> float:
        """Answered requests per second; under overload only what was answered within the window."""
        result = self.result
        answered = len(result.latency_s)
        if stability.overloaded:
            pairs = zip(result.sent_s, result.latency_s, strict=True)
            answered = sum(sent + latency < result.seconds for sent, latency in pairs)
        return answered / result.seconds


def _of_replica(used_bytes: int | None, paid_once_bytes: int) -> int | None:
    return None if used_bytes is None else max(0, used_bytes - paid_once_bytes)


def _percentile_ms(latency_s: tuple[float, ...], percent: int) -> float | None:
    value_s = percentile_or_none(latency_s, percent).value_s
    return None if value_s is None else value_s * 1e3
