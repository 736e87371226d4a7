"""GPUs that are alike: what stock, cost and the bounds of an objective count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.domain.mig import layouts
from planner.domain.problem import Device, Problem
from planner.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGroup:
    """GPUs whose usable devices are the same, kind by kind.

    `kinds`: one per device, sorted. `layouts`: the largest sets of kinds that a GPU can carry at once, one unless
    the layout of its slices is free. `cost`: micro-USD per hour of a GPU in use, `power`: its milliwatts; where the
    kinds of one GPU should differ in them, the least, so that a bound made of it stays one.
    """

    name: str
    kinds: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    gpus: tuple[str, ...]
    cost: int
    power: int

    @property
    def count(self) -> int:
        return len(self.gpus)


def gpu_groups(problem: Problem) -> tuple[GpuGroup, ...]:
    """The groups of all devices that are not cordoned, in the order of the problem, each named by its kinds."""
    devices_of_gpu: dict[str, list[Device]] = {}
    for device in problem.devices:
        if not device.cordoned:
            devices_of_gpu.setdefault(device.gpu, []).append(device)
    alike: dict[_Carried, list[str]] = {}
    known: dict[tuple[tuple[str, int | None], ...], _Carried] = {}
    for gpu, devices in devices_of_gpu.items():
        built = tuple((device.kind, device.start) for device in devices)
        if built not in known:
            known[built] = _carried(problem, devices)
        alike.setdefault(known[built], []).append(gpu)
    groups = tuple(_group(problem, kinds, carried, gpus) for (kinds, *carried), gpus in alike.items())
    if len({group.name for group in groups}) != len(groups):
        raise InputError("two groups of GPUs bear one name: the same kinds in other layouts, or a '+' in a kind's name")
    return groups


# The kinds of a GPU's devices, and after them the layouts that it can carry.
_Carried = tuple[tuple[str, ...], ...]


def _carried(problem: Problem, devices: Sequence[Device]) -> _Carried:
    parts = tuple(map(problem.part, devices))
    found = sorted(tuple(sorted(parts[place].kind for place in places)) for places in layouts(parts))
    return (tuple(sorted(part.kind for part in parts)), *found)


def _group(
    problem: Problem, kinds: tuple[str, ...], carried: Sequence[tuple[str, ...]], gpus: Sequence[str]
) -> GpuGroup:
    cost = min(problem.kind_by_name[kind].cost_microusd_per_hour or 0 for kind in kinds)
    power = min(problem.kind_by_name[kind].power_milliwatts or 0 for kind in kinds)
    # Where the layout is free every placement of a slice is a device: too many to name each.
    name = "+".join(kinds) if len(carried) == 1 else "|".join(dict.fromkeys(kinds))
    return GpuGroup(name=name, kinds=kinds, layouts=tuple(carried), gpus=tuple(gpus), cost=cost, power=power)
