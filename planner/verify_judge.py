"""From what was measured to a verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.domain.plan import PlannedDevice
from planner.domain.serving import LoadResult
from planner.domain.statistics import percentile, percentile_interval, samples_needed
from planner.domain.verification import DeviceVerification, Failure, ModelVerification, SimulatedModel, Verdict
from planner.verify_traffic import DeviceTraffic, EnsembleTraffic, ReplicaTraffic


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server took: its peak memory since it started, and its share of the device's time in the last
    window; per model where it can be told. None: not known on this kind of device."""

    memory_bytes: int | None = None
    busy: float | None = None
    memory_bytes_by_model: Mapping[str, int] = field(default_factory=dict)
    busy_by_model: Mapping[str, float] = field(default_factory=dict)


class Latency(NamedTuple):
    """A percentile in milliseconds with its interval; None where it is not known, infinite where requests failed."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of a replica's requests. `within`: the share of them that kept the bound, None without one. `doubt`
    says why they cannot give a verdict at all, `failures` how many failed and why."""

    completed: int
    failed: int
    latency: Latency
    within: float | None
    doubt: str | None
    failures: str | None = None
    simulated: SimulatedModel | None = None


def device_verification(
    device: PlannedDevice,
    traffic: DeviceTraffic,
    seconds: float,
    seen: Mapping[str, Seen],
    usage: Usage,
    failure: Failure | None,
) -> DeviceVerification:
    """`seen` by replica and ensemble; what is not in it was not driven, or its server failed."""
    return DeviceVerification(
        device=device.device,
        type=traffic.type,
        period=traffic.period,
        seconds=seconds,
        memory_bytes_predicted=device.memory_bytes_used,
        memory_bytes_measured=usage.memory_bytes,
        busy_predicted=sum(replica.busy for replica in traffic.replicas),
        busy_measured=usage.busy,
        models=(
            *(_model(replica, seen.get(replica.id), usage, failure) for replica in traffic.replicas),
            *(_ensemble(e, seen.get(e.id), failure) for e in traffic.ensembles if failure or e.id in seen),
        ),
        failure=failure,
    )


def _model(replica: ReplicaTraffic, seen: Seen | None, usage: Usage, failure: Failure | None) -> ModelVerification:
    latency = Latency() if seen is None else seen.latency
    verdict, reason = _judged(replica, seen, failure)
    return ModelVerification(
        replica=replica.id,
        model=replica.model,
        rate_rps=replica.rate_rps,
        completed=0 if seen is None else seen.completed,
        failed=0 if seen is None else seen.failed,
        percentile=replica.percentile,
        bound_ms=replica.bound_ms,
        predicted_ms=replica.promised_ms,
        expected_ms=replica.expected_ms,
        measured_ms=_finite(latency.value),
        measured_low_ms=_finite(latency.low),
        measured_high_ms=_finite(latency.high),
        error=_error(replica.promised_ms, _finite(latency.value)),
        expected_error=_error(replica.expected_ms, _finite(latency.value)),
        memory_bytes_predicted=replica.option.memory_bytes,
        memory_bytes_measured=_own_memory(replica, usage.memory_bytes_by_model.get(replica.model)),
        busy_predicted=replica.busy,
        busy_measured=usage.busy_by_model.get(replica.model),
        verdict=verdict,
        reason=reason,
        within=None if seen is None else seen.within,
        simulated=None if seen is None else seen.simulated,
    )


def _ensemble(ensemble: EnsembleTraffic, seen: Seen | None, failure: Failure | None) -> ModelVerification:
    """From end to end; memory and busy time are those of its members."""
    latency = Latency() if seen is None else seen.latency
    verdict, reason = _judged(ensemble, seen, failure)
    return ModelVerification(
        replica=ensemble.id,
        model=ensemble.id,
        rate_rps=ensemble.rate_rps,
        completed=0 if seen is None else seen.completed,
        failed=0 if seen is None else seen.failed,
        percentile=ensemble.percentile,
        bound_ms=ensemble.bound_ms,
        predicted_ms=ensemble.promised_ms,
        expected_ms=None,
        measured_ms=_finite(latency.value),
        measured_low_ms=_finite(latency.low),
        measured_high_ms=_finite(latency.high),
        error=_error(ensemble.promised_ms, _finite(latency.value)),
        expected_error=None,
        memory_bytes_predicted=0,
        memory_bytes_measured=None,
        busy_predicted=0.0,
        busy_measured=None,
        verdict=verdict,
        reason=reason,
        within=None if seen is None else seen.within,
        is_ensemble=True,
    )


def _own_memory(replica: ReplicaTraffic, processes_bytes: int | None) -> int | None:
    """Every instance is a process that maps the backend's pages too; the plan counts those once per server."""
    if processes_bytes is None:
        return None
    return max(0, processes_bytes - replica.option.instances * replica.backend_bytes)


def observed(result: LoadResult, stream: ReplicaTraffic | EnsembleTraffic) -> Seen:
    """What a load generator saw. A failed request never ended: it counts as infinitely slow."""
    values = [*result.latency_s, *[math.inf] * result.failed]
    failures = f"{result.failed} of {result.offered} requests failed: {result.first_error}" if result.failed else None
    within = None
    if stream.bound_ms is not None and values:
        within = sum(value * 1e3 <= stream.bound_ms for value in values) / len(values)
    return Seen(
        completed=len(result.latency_s),
        failed=result.failed,
        latency=_latency(values, stream.percentile),
        within=within,
        doubt=_doubt(result, stream.percentile, len(values)),
        failures=failures,
    )


def _latency(values: Sequence[float], percent: float) -> Latency:
    if len(values) < samples_needed(percent):
        return Latency()
    low, high = percentile_interval(values, percent)
    return Latency(percentile(values, percent) * 1e3, _ms(low), _ms(high))


def _judged(
    stream: ReplicaTraffic | EnsembleTraffic, seen: Seen | None, failure: Failure | None
) -> tuple[Verdict | None, str | None]:
    """The verdict, and for all but a clean one the reason in words."""
    verdict = Verdict.UNCLEAR
    if failure is not None:
        reason: str | None = "its server failed"
    elif seen is None:
        through = isinstance(stream, ReplicaTraffic) and stream.through_rps
        reason = "all of its calls come through its ensemble" if through else "no traffic is planned in this period"
    else:
        reason = seen.doubt
        if reason is None:
            verdict = _verdict(seen.latency, stream.bound_ms or math.inf)
            reason = seen.failures
            if reason is None and verdict is Verdict.UNCLEAR and stream.bound_ms is not None:
                reason = "the bound lies within the interval"
    return (None if stream.bound_ms is None else verdict), reason


def _verdict(latency: Latency, bound_ms: float) -> Verdict:
    if latency.low is not None and latency.low > bound_ms:
        return Verdict.MISSED
    return Verdict.MET if latency.high is not None and latency.high <= bound_ms else Verdict.UNCLEAR


def _doubt(result: LoadResult, percent: float, count: int) -> str | None:
    """Why this window cannot give a verdict at all; None where it can."""
    if result.client_bound:
        return f"the load generator was the bottleneck ({result.client_busy:.0%} of a core)"
    return too_few(percent, count, result.seconds)


def too_few(percent: float, count: int, seconds: float) -> str | None:
    """Why a window has no percentile; None where it has enough requests."""
    needed = samples_needed(percent)
    return (
        None if count >= needed else f"p{percent} needs {needed:,} requests, the window of {seconds:g} s had {count:,}"
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _error(predicted: float | None, measured: float | None) -> float | None:
    return None if predicted is None or not measured else (predicted - measured) / measured
