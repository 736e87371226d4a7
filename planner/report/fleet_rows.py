"""What the map of the fleet shows, as rows: one per device, or one per packing where there are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.domain.layout import Layout, LoadedDevice
from planner.domain.plan import Plan
from planner.domain.problem import Problem
from planner.domain.units import PPM

ROWS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar; `share` of the bar's whole length. `model` None: what the server and its backends take."""

    label: str
    share: float
    amount: float
    model: str | None


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """The memory slices of its GPU that a MIG slice takes: `taken` of `total`, from `start` on."""

    start: int
    taken: int
    total: int


@dataclass(frozen=True, slots=True)
class Row:
    """`count` devices with the same content. `busy_limit` is the share that the plan may use; `place` is that of all of
    them, None for whole GPUs, and where they differ in it."""

    label: str
    detail: str
    count: int
    memory_bytes_used: int
    memory_bytes_capacity: int
    busy: float
    busy_limit: float
    memory: tuple[Segment, ...]
    busy_parts: tuple[Segment, ...]
    place: SlicePlace | None = None


@dataclass(frozen=True, slots=True)
class FleetRows:
    """`hidden_devices` stand in none of the rows. `free` counts unused devices by type."""

    rows: tuple[Row, ...]
    hidden_devices: int
    free: tuple[tuple[str, int], ...]


def unknown_name(problem: Problem, plan: Plan) -> str | None:
    """Why the plan cannot be drawn on this problem's fleet; None where it can."""
    for replica in plan.replicas:
        option = problem.option_by_id.get(replica.option)
        if option is None or option.model != replica.model:
            return f"replica {replica.id!r} has the option {replica.option!r}, which its model does not have"
        for device in replica.devices:
            if device not in problem.device_by_id:
                return f"replica {replica.id!r} stands on {device!r}, which the fleet does not have"
    return None


def fleet_rows(problem: Problem, plan: Plan) -> FleetRows:
    by_gpu = Layout(problem, plan.placements()).by_gpu
    loaded = [one for devices in by_gpu.values() for one in sorted(devices, key=lambda one: one.device.start or 0)]
    used = {one.device.gpu for one in loaded}
    free = tuple(sorted(Counter(_free_types(problem, used)).items()))
    groups = [[one] for one in loaded]
    if len(groups) > ROWS_SHOWN:
        groups = sorted(_by_packing(loaded), key=len, reverse=True)
    hidden = sum(map(len, groups[ROWS_SHOWN:]))
    return FleetRows(tuple(map(_row, groups[:ROWS_SHOWN])), hidden, free)


def _free_types(problem: Problem, used: set[str]) -> Iterable[str]:
    """The type of each physical GPU that carries nothing and is not cordoned."""
    free = {d.gpu: problem.kind_by_name[d.kind].type for d in problem.devices if d.gpu not in used and not d.cordoned}
    return free.values()


def _by_packing(loaded: Sequence[LoadedDevice]) -> list[list[LoadedDevice]]:
    found: dict[object, list[LoadedDevice]] = {}
    for one in loaded:
        found.setdefault((one.kind.name, tuple(sorted(p.option.id for p in one.replicas))), []).append(one)
    return list(found.values())


def _row(same: Sequence[LoadedDevice]) -> Row:
    one = same[0]
    period = max(range(len(one.replicas[0].option.busy_ppm)), key=one.busy_ppm)
    many = len(same) > 1
    return Row(
        label=f"{len(same):,} x {one.kind.profile}" if many else one.device.id,
        detail=f"{one.device.id} + {len(same) - 1:,} more" if many else one.kind.profile,
        count=len(same),
        memory_bytes_used=one.memory_bytes_used,
        memory_bytes_capacity=one.kind.memory_bytes,
        busy=one.busy_ppm(period) / PPM,
        busy_limit=one.busy_limit_ppm / PPM,
        memory=tuple(_memory(one)),
        busy_parts=tuple(
            Segment(p.option.model, p.option.busy_ppm[period] / PPM, p.option.busy_ppm[period] / PPM, p.option.model)
            for p in one.replicas
        ),
        place=_place(same),
    )


def _place(same: Sequence[LoadedDevice]) -> SlicePlace | None:
    mig, starts = same[0].kind.mig, {one.device.start for one in same}
    start = starts.pop()
    return None if mig is None or start is None or starts else SlicePlace(start, mig.memory, mig.gpu_memory)


def _memory(one: LoadedDevice) -> Iterable[Segment]:
    once = {"server": one.kind.server_base_bytes}
    once |= {f"backend {name}": one.kind.backend_overhead_bytes.get(name, 0) for name in sorted(one.backends)}
    for label, amount in once.items():
        if amount:
            yield Segment(label, amount / one.kind.memory_bytes, amount, None)
    for placed in one.replicas:
        amount = placed.option.memory_bytes
        yield Segment(placed.option.model, amount / one.kind.memory_bytes, amount, placed.option.model)
