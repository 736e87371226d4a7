"""One load point's window, and the row and remarks that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode, LoadResult
from planner.domain.statistics import Interval, percentile, percentile_interval, too_few_for
from planner.domain.workload import PERCENTILES
from planner.errors import ServerError
from profiler.devices.base import Usage
from profiler.points import LoadPoint
from profiler.stability import (
    Stability,
    drift,
    mean_interval,
    stability_closed,
    stability_of_parts,
    stability_open,
    throughput_interval,
)
from profiler.triton_statistics import statistics_delta

_UNKNOWN = Interval(None, None)
Reading = Mapping[str, Any] | ServerError
"""Triton's statistics of a model, or why they could not be read."""


@dataclass(frozen=True)
class Window:
    """What one load point's window showed. `peak_bytes` is the server's peak since its start.
    None: unknown. `before` and `after` are what Triton's statistics said, `members` the same of an ensemble's."""

    point: LoadPoint
    result: LoadResult
    usage: Usage
    peak_bytes: int | None
    before: Reading
    after: Reading
    members: Mapping[str, tuple[Reading, Reading]] = field(default_factory=dict)

    @cached_property
    def statistics(self) -> Mapping[str, Any]:
        own = statistics_delta(self.before, self.after)
        members = {name: statistics_delta(*readings) for name, readings in self.members.items()}
        return {**own, "members": members} if members else own

    @cached_property
    def stability(self) -> Stability:
        result = self.result
        if result.summary is not None:
            return stability_of_parts(result.summary, result.seconds, self.point.rate_rps)
        if self.point.mode is LoadMode.OPEN:
            return stability_open(result.sent_s, result.latency_s, result.seconds, result.offered, result.failed)
        found = stability_closed(result.sent_s, result.latency_s, result.seconds)
        trend = drift(_completed_s(result), result.seconds) if found.stable else None
        return found if trend is None else replace(found, stable=False, reason=trend)

    @cached_property
    def rate_rps(self) -> float:
        """Answered requests per second; under overload only what was answered within the window."""
        result = self.result
        if result.summary is not None:
            return fmean(result.summary.part_rates_rps)
        answered = result.answered
        if self.stability.overloaded:
            answered = sum(at < result.seconds for at in _completed_s(result))
        return answered / result.seconds

    @cached_property
    def rate_interval_rps(self) -> Interval:
        result = self.result
        if result.summary is not None:
            return mean_interval(result.summary.part_rates_rps) or _UNKNOWN
        return throughput_interval(_completed_s(result), result.seconds)

    def percentile_ms(self, percent: float) -> float | None:
        """None where too few requests stand behind it, or a summary does not have it."""
        if too_few_for(percent, self.result.samples) is not None:
            return None
        if (summary := self.result.summary) is not None:
            known_s = summary.percentiles_s.get(int(percent))
            return None if known_s is None else known_s * 1e3
        return percentile(self.result.latency_s, percent) * 1e3

    def percentile_interval_ms(self, percent: float) -> Interval:
        """Of every request's latency; of a summary by its windows, and unknown where these are fewer than three."""
        if self.percentile_ms(percent) is None:
            return _UNKNOWN
        if (summary := self.result.summary) is not None:
            low, high = mean_interval([one[int(percent)] for one in summary.by_window]) or _UNKNOWN
        else:
            low, high = percentile_interval(self.result.latency_s, percent)
        return Interval(None if low is None else low * 1e3, None if high is None else high * 1e3)

    def samples(self) -> dict[str, tuple[float, ...]]:
        """The raw series: times since the window's start (load) or the series' first sample (device)."""
        return {"sent_s": self.result.sent_s, "latency_s": self.result.latency_s, **self.usage.samples()}

    def fill(self, row: ProfileRow, *, paid_once_bytes: int, cold_bytes: int | None) -> ProfileRow:
        """The row of its configuration and load with what was measured. `paid_once_bytes` is the memory of
        server and backend, which is not the replica's."""
        p50_ms, p90_ms, p95_ms, p99_ms = map(self.percentile_ms, PERCENTILES)
        return replace(
            row,
            rate_rps=self.rate_rps,
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
            stable=self.stability.stable,
            failed=self.result.failed,
            load_generator=self.result.load_generator,
        )

    def remarks(self) -> dict[str, object]:
        """What the row has no column for, stored beside Triton's statistics."""
        result = self.result
        reasons = [too_few_for(percent, result.samples) for percent in PERCENTILES]
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
            "overloaded": self.stability.overloaded,
            "throughput_interval_rps": list(self.rate_interval_rps),
            "latency_p99_interval_ms": list(self.percentile_interval_ms(99)),
            "percentiles_absent": [reason for reason in reasons if reason],
            "warnings": list(self.usage.warnings()),
            **self.usage.remarks(),
        }


def _completed_s(result: LoadResult) -> list[float]:
    return [sent + latency for sent, latency in zip(result.sent_s, result.latency_s, strict=True)]


def _of_replica(used_bytes: int | None, paid_once_bytes: int) -> int | None:
    return None if used_bytes is None else max(0, used_bytes - paid_once_bytes)


def _mean_ms(result: LoadResult) -> float | None:
    if result.summary is not None:
        return result.summary.mean_s * 1e3
    return fmean(result.latency_s) * 1e3 if result.latency_s else None
