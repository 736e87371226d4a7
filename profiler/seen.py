"""Between a sweep's measurements and its search: what a closed loop showed, and what a fit becomes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.domain.profile import Measurement, ProfileRow, Source
from planner.domain.serving import LoadMode
from planner.domain.statistics import Interval
from profiler.points import Configuration, MeasureRequest, ModelFacts, point_key, saturating_points
from profiler.precision import spread
from profiler.search import Fitted, Seen

_COMPUTE = ("compute_input_ms", "compute_infer_ms", "compute_output_ms")
_WAITING_SHARE = 0.25
_DISTURBED_SHARE = 0.1
_FULL = 0.9


def seen(configuration: Configuration, closed: Sequence[Measurement]) -> Seen:
    """What the closed loop of a configuration showed, of points that did not fail."""
    best = max(
        closed,
        key=lambda m: (m.row.rate_rps or 0.0) * given_back(m.row.instances, m.row.busy, m.statistics),
        default=None,
    )
    if best is None or not best.row.rate_rps:
        return Seen(configuration=configuration, failed=True)
    more = given_back(best.row.instances, best.row.busy, best.statistics)
    lone = next((m.row for m in closed if m.row.concurrency == 1), None)
    return Seen(
        configuration=configuration,
        inferences_per_s=(best.row.inferences_per_s or 0.0) * more,
        memory_bytes=max((m.row.memory_bytes for m in closed if m.row.memory_bytes is not None), default=None),
        busy=None if best.row.busy is None else min(1.0, best.row.busy * more),
        noise=spread(_interval(best.statistics), best.row.rate_rps) or 0.0,
        client_bound=best.statistics.get("client_bound") is True,
        disturbed=more == 1.0 and _is_disturbed(best.statistics),
        lone_ms=None if lone is None else lone.latency_mean_ms,
    )


def given_back(instances: int, busy: float | None, statistics: Mapping[str, Any]) -> float:
    """How many times the rate there would have been, had the cores' time that others took been the server's; 1 where
    nobody can say: only a server with work for every core would have used it."""
    cpu = statistics.get("cpu") or {}
    taken = (cpu.get("others_busy") or 0.0) + (cpu.get("stolen") or 0.0)
    cores = cpu.get("cores")
    if not cores or instances < cores or not busy or busy + taken < _FULL:
        return 1.0
    return (busy + taken) / busy


def is_saturated(measurement: Measurement) -> bool:
    """Whether requests waited in Triton's queue for a good part of the time that they were computed: then every
    instance always had work, and more requests at once can only wait longer."""
    statistics = measurement.statistics
    queue, parts = statistics.get("queue_ms"), [statistics.get(part) for part in _COMPUTE]
    if not isinstance(queue, int | float) or measurement.statistics.get("client_bound"):
        return False
    compute_ms = sum(part for part in parts if isinstance(part, int | float))
    return queue >= _WAITING_SHARE * compute_ms > 0


def fitted_measurement(request: MeasureRequest, model: ModelFacts, fitted: Fitted, made_at: str) -> Measurement:
    """A closed-loop point as the laws tell it. It has the key of the point that it stands for, so that measuring this
    replaces it; its latency is what so many requests at such a rate must take (Little's law), its percentiles are
    unknown."""
    configuration = fitted.configuration
    point = saturating_points(request, configuration)[0]
    rate_rps = fitted.inferences_per_s / configuration.request_batch_size
    row = ProfileRow(
        model=model.name,
        device=request.device,
        backend=model.backend,
        instances=configuration.instances,
        max_batch_size=configuration.max_batch_size,
        queue_delay_us=configuration.queue_delay_us,
        variant=model.variant(configuration),
        requests=request.requests_of(model),
        load=LoadMode.CLOSED,
        request_batch_size=configuration.request_batch_size,
        concurrency=point.concurrency,
        rate_rps=rate_rps,
        latency_mean_ms=1000 * (point.concurrency or 1) / rate_rps,
        memory_bytes=fitted.memory_bytes,
        busy=fitted.busy,
        model_digest=model.digest,
        source=Source.FITTED.value,
    )
    return Measurement(
        key=point_key(request, model, configuration, point),
        row=row,
        statistics={
            "point": point.name,
            "throughput_interval_rps": [rate_rps * (1 - fitted.within), rate_rps * (1 + fitted.within)],
            "laws": {
                law.name: {"coefficients": list(law.coefficients), "worst_residual": law.worst, "spare": law.spare}
                for law in fitted.laws
            },
        },
        environment=request.environment,
        measured_at=made_at,
    )


def _is_disturbed(statistics: Mapping[str, Any]) -> bool:
    """CPU time on the server's cores, or time that a GPU ran kernels, which was not the server's."""
    cpu, gpu = statistics.get("cpu") or {}, statistics.get("gpu") or {}
    share = (cpu.get("others_busy") or 0.0) + (cpu.get("stolen") or 0.0)
    if gpu.get("other_processes"):
        whole, own = gpu.get("utilization"), gpu.get("busy")
        share += max(0.0, whole - own) if whole is not None and own is not None else 0.0
    return share > _DISTURBED_SHARE


def _interval(statistics: Mapping[str, Any]) -> Interval:
    low, high = statistics.get("throughput_interval_rps") or (None, None)
    return Interval(low, high)
