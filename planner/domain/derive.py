"""From placements to the plan with every figure that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.domain.ensemble import Ensemble, Serve
from planner.domain.ensemble_rules import Through, call_latencies, served_by_device, traffic_of
from planner.domain.layout import Layout, LoadedDevice, Placed
from planner.domain.node_totals import host_cpu_totals, host_memory_totals, limit_totals
from planner.domain.objectives import gap, integer_value, natural
from planner.domain.plan import (
    Binding,
    EndpointPorts,
    EnsembleServer,
    ObjectiveValue,
    Placement,
    Plan,
    PlannedDevice,
    PlannedEnsemble,
    PlannedGpu,
    PlannedMember,
    Replica,
    ReplicaPeriod,
    Status,
    Summary,
    Unserved,
)
from planner.domain.problem import SCHEMA_VERSION, DeviceKind, LatencyBasis, Problem
from planner.domain.rules import Rule
from planner.domain.units import PPM

FIRST_PORT = 8000
PORTS_PER_DEVICE = 10
BINDING_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What cannot be recomputed: who made the plan, how long it took, and which bounds were proved.

    `bounds` has one (value, method) per objective of the problem; so has `certified`, where it is not empty:
    the bound that certificate.json proves, or else why there is none.
    """

    status: Status
    solver: str
    seed: int
    runtime_s: float
    bounds: Sequence[tuple[float | None, str]]
    certified: Sequence[tuple[float | None, str | None]] = ()


def derive_plan(problem: Problem, placements: Sequence[Placement], origin: Origin) -> Plan:
    layout = Layout(problem, placements)
    objectives = _objectives(layout, origin)
    return Plan(
        schema_version=SCHEMA_VERSION,
        status=origin.status,
        solver=origin.solver,
        seed=origin.seed,
        runtime_s=origin.runtime_s,
        problem_digest=problem.digest,
        objectives=objectives,
        gap=tuple(gap(o) for o in objectives),
        calibrated=all(loaded.kind.calibrated for loaded in layout.devices),
        summary=_summary(layout),
        gpus=_gpus(layout),
        replicas=_replicas(layout),
        unserved=tuple(_unserved(layout)),
        binding=tuple(_binding(layout)),
        ensembles=tuple(_ensemble(layout, ensemble) for ensemble in problem.ensembles),
    )


def _objectives(layout: Layout, origin: Origin) -> tuple[ObjectiveValue, ...]:
    names = layout.problem.objectives
    certified = origin.certified or [(None, None)] * len(names)
    return tuple(
        ObjectiveValue(
            name=name,
            value=natural(name, integer_value(layout, name)),
            bound=bound,
            certified_bound=proved,
            uncertified=reason,
            method=method,
        )
        for name, (bound, method), (proved, reason) in zip(names, origin.bounds, certified, strict=True)
    )


def _summary(layout: Layout) -> Summary:
    costs = [kind.cost_microusd_per_hour for kind in layout.used_gpus.values()]
    powers = [kind.power_milliwatts for kind in layout.used_gpus.values()]
    return Summary(
        gpus_used=len(layout.used_gpus),
        devices_used=len(layout.devices),
        cost_usd_per_hour=None if None in costs else sum(c or 0 for c in costs) / 1_000_000,
        power_watts=None if None in powers else sum(p or 0 for p in powers) / 1000,
        replicas=len(layout.placed),
    )


def _ports(problem: Problem) -> Mapping[str, EndpointPorts]:
    """Ports count on within a node, so that the servers of one host never collide."""
    next_of_node: dict[str, int] = {}
    ports = {}
    for device in problem.devices:
        node = device.gpu.rsplit("/", 1)[0]
        place = next_of_node.get(node, 0)
        next_of_node[node] = place + 1
        base = FIRST_PORT + PORTS_PER_DEVICE * place
        ports[device.id] = EndpointPorts(http_port=base, grpc_port=base + 1, metrics_port=base + 2)
    return ports


def _gpus(layout: Layout) -> tuple[PlannedGpu, ...]:
    by_gpu: dict[str, list[PlannedDevice]] = {}
    kinds: dict[str, DeviceKind] = {}
    ports = _ports(layout.problem)
    for loaded in layout.devices:
        server = loaded.device if loaded.has_server else loaded.replicas[0].device
        by_gpu.setdefault(loaded.device.gpu, []).append(
            PlannedDevice(
                device=loaded.device.id,
                profile=loaded.kind.profile,
                start=loaded.device.start,
                memory_bytes_used=loaded.memory_bytes_used,
                memory_bytes_capacity=loaded.kind.memory_bytes,
                busy=loaded.peak_busy_ppm / PPM,
                endpoint=ports[server.id],
                replicas=tuple(p.replica for p in loaded.replicas),
            )
        )
        kinds[loaded.device.gpu] = loaded.kind
    return tuple(PlannedGpu(gpu=gpu, type=kinds[gpu].type, devices=tuple(found)) for gpu, found in by_gpu.items())


def _replicas(layout: Layout) -> tuple[Replica, ...]:
    where = {p.replica: loaded for loaded in layout.devices for p in loaded.replicas}
    return tuple(_replica(layout, placed, where[placed.replica]) for placed in layout.placed)


def _replica(layout: Layout, placed: Placed, loaded: LoadedDevice) -> Replica:
    option = placed.option
    weight, through_ensemble = traffic_of(layout, placed)
    return Replica(
        id=placed.replica,
        model=option.model,
        option=option.id,
        devices=tuple(device.id for device in placed.devices),
        instances=option.instances,
        max_batch_size=option.max_batch_size,
        queue_delay_us=option.queue_delay_us,
        capacity_rps=option.capacity_mrps / 1000,
        weight=weight,
        memory_bytes=option.memory_bytes * len(placed.devices),
        latency_basis=option.latency_basis,
        source=option.source,
        periods=tuple(
            _replica_period(layout, placed, loaded, index, weight, through_ensemble[index])
            for index in range(len(layout.problem.periods))
        ),
    )


def _replica_period(
    layout: Layout, placed: Placed, loaded: LoadedDevice, index: int, weight: float, through: Through
) -> ReplicaPeriod:
    model = layout.problem.model_by_name[placed.option.model]
    latency = loaded.latency_us(placed, index) if placed.option.latency_basis is not LatencyBasis.NONE else None
    capacity = layout.capacity_mrps(model.name)
    # What is not served is not sent: traffic never exceeds the capacity that was planned.
    rate = capacity if model.rate_mrps is None else min(model.rate_mrps[index], capacity)
    return ReplicaPeriod(
        period=layout.problem.periods[index],
        rate_rps=(weight * max(0, rate - through.of_model_mrps) + through.here_mrps) / 1000,
        busy=placed.option.busy_ppm[index] / PPM,
        latency_ms=None if latency is None else latency / 1000,
        percentile=model.percentile,
    )


def _unserved(layout: Layout) -> Iterator[Unserved]:
    for model in layout.problem.models:
        missing = layout.missing_mrps(model.name)
        left_out = not layout.by_model[model.name] and model.replicas_min > 0
        if missing or left_out:
            has_option = any(o.model == model.name for o in layout.problem.options)
            reason = "the devices are full" if has_option else "no measured configuration keeps its rules here"
            yield Unserved(model=model.name, rate_rps=missing / 1000, reason=reason)


def _ensemble(layout: Layout, ensemble: Ensemble) -> PlannedEnsemble:
    calls = call_latencies(layout, ensemble)
    total, path = ensemble.slowest_path(calls)
    served = served_by_device(layout, ensemble) if ensemble.serve is Serve.TRITON else {}
    bounded = ensemble.bound_us is not None
    return PlannedEnsemble(
        name=ensemble.name,
        serve=ensemble.serve,
        percentile=ensemble.percentile,
        bound_ms=None if ensemble.bound_us is None else ensemble.bound_us / 1000,
        latency_ms=total / 1000 if bounded else None,
        path=path if bounded else (),
        members=tuple(
            PlannedMember(
                model=member.model,
                calls=member.calls,
                percentile=ensemble.call_percentile,
                latency_ms=calls[member.model] / 1000 if bounded and member.model in calls else None,
            )
            for member in ensemble.members
        ),
        servers=tuple(
            EnsembleServer(device=device, weight=mrps / sum(served.values())) for device, mrps in served.items() if mrps
        ),
    )


def _binding(layout: Layout) -> Iterator[Binding]:
    yield from _binding_layout(layout)
    for loaded in layout.devices:
        subject = loaded.device.id
        used, capacity = loaded.memory_bytes_used, loaded.kind.memory_bytes
        if used >= BINDING_SHARE * capacity:
            yield Binding(rule=Rule.GPU_MEMORY, subject=subject, limit=capacity, actual=used, unit="bytes")
        limit = loaded.busy_limit_ppm
        busy, period = _worst(layout, loaded.busy_ppm)
        if busy >= BINDING_SHARE * limit:
            yield Binding(
                rule=Rule.GPU_UTILIZATION,
                subject=subject,
                limit=limit / PPM,
                actual=busy / PPM,
                unit="busy share",
                period=period,
            )
        for placed in loaded.replicas if loaded.has_server else ():
            yield from _binding_latency(layout, loaded, placed)
    yield from _binding_ensembles(layout)
    for total in (*host_memory_totals(layout), *host_cpu_totals(layout), *limit_totals(layout)):
        if total.used >= BINDING_SHARE * total.limit:
            most, actual = total.limit / total.scale, total.used / total.scale
            yield Binding(rule=total.rule, subject=total.subject, limit=most, actual=actual, unit=total.unit)


def _binding_ensembles(layout: Layout) -> Iterator[Binding]:
    for ensemble in layout.problem.ensembles:
        bound = ensemble.bound_us
        total, path = ensemble.slowest_path(call_latencies(layout, ensemble))
        if bound is not None and total >= BINDING_SHARE * bound:
            subject = f"{ensemble.name} over {' -> '.join(path)}"
            yield Binding(
                rule=Rule.ENSEMBLE_LATENCY, subject=subject, limit=bound / 1000, actual=total / 1000, unit="ms"
            )


def _binding_layout(layout: Layout) -> Iterator[Binding]:
    """GPUs whose slices leave no compute slice, or else no memory slice, for another one."""
    for gpu, used in layout.by_gpu.items():
        slices = [loaded.kind.mig for loaded in used if loaded.kind.mig is not None]
        if not slices:
            continue
        compute, memory = sum(mig.compute for mig in slices), sum(mig.memory for mig in slices)
        if compute == slices[0].gpu_compute:
            yield Binding(rule=Rule.MIG_LAYOUT, subject=gpu, limit=compute, actual=compute, unit="compute slices")
        elif memory == slices[0].gpu_memory:
            yield Binding(rule=Rule.MIG_LAYOUT, subject=gpu, limit=memory, actual=memory, unit="memory slices")


def _binding_latency(layout: Layout, loaded: LoadedDevice, placed: Placed) -> Iterator[Binding]:
    bound = layout.problem.model_by_name[placed.option.model].latency_bound_us
    worst, period = _worst(layout, lambda index: loaded.latency_us(placed, index) or 0)
    if bound is not None and worst >= BINDING_SHARE * bound:
        subject = f"{placed.replica} on {loaded.device.id}"
        limit, actual = bound / 1000, worst / 1000
        yield Binding(rule=Rule.LATENCY, subject=subject, limit=limit, actual=actual, unit="ms", period=period)


def _worst(layout: Layout, value: Callable[[int], int]) -> tuple[int, str | None]:
    """The largest value of any period, and the first period that has it where there are several."""
    periods = layout.problem.periods
    values = [value(index) for index in range(len(periods))]
    worst = max(values)
    return worst, periods[values.index(worst)] if len(periods) > 1 else None
