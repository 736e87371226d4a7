"""A plan on a terminal: GPUs that carry the same are shown once, and every line fits into 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.domain.plan import Plan, PlannedDevice, PlannedGpu, Replica
from planner.domain.problem import Problem
from planner.domain.units import counted, format_bytes

GPUS_NAMED = 4
WIDTH = 80


def headline(plan: Plan, problem: Problem) -> str:
    missing = sum(entry.rate_rps for entry in plan.unserved)
    unserved = f"{missing:,g} req/s of {counted(len(plan.unserved), 'model')} unserved; " if plan.unserved else ""
    gpus = len({device.gpu for device in problem.devices})
    cost = plan.summary.cost_usd_per_hour
    price = "" if cost is None or not plan.summary.gpus_used else f", {cost:,g} USD/h"
    replicas = counted(plan.summary.replicas, "replica")
    return f"{unserved}{plan.status.value}: {replicas} on {plan.summary.gpus_used} of {counted(gpus, 'GPU')}{price}"


def figures(plan: Plan, problem: Problem, *, time_limit_s: float, gap: float) -> Iterator[str]:
    """The settings that the plan was made with."""
    settings = problem.settings
    yield (
        f"headroom {_headroom(problem)}, utilization {settings.utilization:g}, reserve {settings.reserve:g}, "
        f"MIG margin {settings.mig_margin:g}"
        + ("" if settings.service_level is None else f", service level {settings.service_level:.5g}")
    )
    yield f"{plan.solver}: {plan.runtime_s:.1f} s of {time_limit_s:g} s, gap {gap:g}, seed {plan.seed}"


def placement(plan: Plan, problem: Problem, most: int) -> Iterator[str]:
    """Per group of GPUs with the same contents its devices, and under each its replicas."""
    groups = _groups(plan, problem)
    rows = [row for group in groups[:most] for device in group.devices for row in device.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for group in groups[:most]:
        head = f"{len(group.gpus)} x {group.type}" if len(group.gpus) > 1 else group.type
        if not group.sliced:
            head += f", {group.devices[0].load}"
        yield _with_names(head, group.gpus)
        for device in group.devices:
            if group.sliced:
                yield f"  {device.name}: {device.load}"
            for row in device.rows:
                model, run, rate, latency = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                yield f"    {model}  {run}  {rate.strip():>{widths[2]}}  {latency}".rstrip()
    hidden = sum(len(group.gpus) for group in groups[most:])
    if hidden:
        yield f"... and {counted(hidden, 'more GPU')}"


def ensembles(plan: Plan) -> Iterator[str]:
    """Per ensemble what it promises, over which path, and how its bound is split among calls."""
    for ensemble in plan.ensembles:
        if ensemble.latency_ms is not None and ensemble.bound_ms is not None:
            path = " -> ".join(ensemble.path)
            promised = f"p{ensemble.percentile} {ensemble.latency_ms:.4g} of {ensemble.bound_ms:g} ms"
            yield f"ensemble {ensemble.name}: {promised} over {path}"
            for member in ensemble.members:
                if member.latency_ms is not None:
                    calls = counted(member.calls, "call")
                    yield f"    {member.model}  {calls}, each p{member.percentile} within {member.latency_ms:.4g} ms"
        if ensemble.servers:
            names = ", ".join(f"{server.device} {server.weight:.0%}" for server in ensemble.servers[:GPUS_NAMED])
            more = f" and {len(ensemble.servers) - GPUS_NAMED} more" if len(ensemble.servers) > GPUS_NAMED else ""
            yield f"ensemble {ensemble.name}: served by {names}{more}"


@dataclass(frozen=True, slots=True)
class _Device:
    name: str
    load: str
    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class _Group:
    type: str
    devices: tuple[_Device, ...]
    gpus: list[str]
    sliced: bool


def _groups(plan: Plan, problem: Problem) -> list[_Group]:
    replicas = {replica.id: replica for replica in plan.replicas}
    groups: dict[tuple[str, tuple[_Device, ...]], _Group] = {}
    for gpu in plan.gpus:
        devices = tuple(_device(gpu, device, [replicas[name] for name in device.replicas], problem)
                        for device in gpu.devices)  # fmt: skip
        sliced = any(device.device != gpu.gpu for device in gpu.devices)
        key = (gpu.type, devices)
        groups.setdefault(key, _Group(gpu.type, devices, [], sliced)).gpus.append(gpu.gpu)
    return list(groups.values())


def _device(gpu: PlannedGpu, device: PlannedDevice, replicas: Sequence[Replica], problem: Problem) -> _Device:
    used, capacity = format_bytes(device.memory_bytes_used), format_bytes(device.memory_bytes_capacity)
    if used.split()[1] == capacity.split()[1]:
        used = used.split()[0]
    return _Device(
        name=device.device.removeprefix(gpu.gpu).removeprefix("/"),
        load=f"{used} of {capacity}, busy {device.busy:.0%}",
        rows=tuple(sorted(_row(replica, problem) for replica in replicas)),
    )


def _row(replica: Replica, problem: Problem) -> tuple[str, str, str, str]:
    run = (
        f"{replica.instances} x batch {replica.max_batch_size}" if replica.max_batch_size else f"{replica.instances} x"
    )
    if len(replica.devices) > 1:
        run += f", over {len(replica.devices)} GPUs"
    rate = f"{replica.capacity_rps:,.4g} req/s"
    latencies = [period.latency_ms for period in replica.periods if period.latency_ms is not None]
    bound = problem.model_by_name[replica.model].latency_bound_us
    if not latencies or bound is None:
        return replica.model, run, rate, ""
    percentile = replica.periods[0].percentile
    return replica.model, run, rate, f"p{percentile} {max(latencies):.3g} of {bound / 1000:g} ms"


def _with_names(head: str, gpus: Sequence[str]) -> str:
    """As many names as fit into a line, the rest as a number."""
    for named in range(min(GPUS_NAMED, len(gpus)), 0, -1):
        rest = f" and {len(gpus) - named} more" if len(gpus) > named else ""
        line = f"{head}: {', '.join(gpus[:named])}{rest}"
        if len(line) <= WIDTH:
            break
    return line


def _headroom(problem: Problem) -> str:
    """What the models are planned with: one figure, or the least and the largest."""
    found = set()
    for model in problem.models:
        asked = max(model.rate_mrps or (0,))
        if asked:
            found.add(round((model.peak_mrps - model.swing_mrps) / asked - 1, 3))
    if len(found) > 1:
        return f"{min(found):g} to {max(found):g}"
    return f"{min(found, default=problem.settings.headroom):g}"
