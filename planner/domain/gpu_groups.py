"""GPUs that are alike: what stock, cost and the bounds of an objective count."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.problem import Problem
from planner.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGroup:
    """GPUs whose usable devices are the same, kind by kind.

    `kinds`: one per device, sorted. `cost`: micro-USD per hour of a GPU in use, `power`: its milliwatts; where the
    kinds of one GPU should differ in them, the least, so that a bound made of it stays one.
    """

    name: str
    kinds: tuple[str, ...]
    gpus: tuple[str, ...]
    cost: int
    power: int

    @property
    def count(self) -> int:
        return len(self.gpus)


def gpu_groups(problem: Problem) -> tuple[GpuGroup, ...]:
    """The groups of all devices that are not cordoned, in the order of the problem, each named by its kinds."""
    kinds_of_gpu: dict[str, list[str]] = {}
    for device in problem.devices:
        if not device.cordoned:
            kinds_of_gpu.setdefault(device.gpu, []).append(device.kind)
    alike: dict[tuple[str, ...], list[str]] = {}
    for gpu, kinds in kinds_of_gpu.items():
        alike.setdefault(tuple(sorted(kinds)), []).append(gpu)
    groups = tuple(_group(problem, kinds, gpus) for kinds, gpus in alike.items())
    if len({group.name for group in groups}) != len(groups):
        raise InputError("two groups of GPUs bear one name: a '+' in the name of a device kind cannot be told apart")
    return groups


def _group(problem: Problem, kinds: tuple[str, ...], gpus: list[str]) -> GpuGroup:
    cost = min(problem.kind_by_name[kind].cost_microusd_per_hour or 0 for kind in kinds)
    power = min(problem.kind_by_name[kind].power_milliwatts or 0 for kind in kinds)
    return GpuGroup(name="+".join(kinds), kinds=kinds, gpus=tuple(gpus), cost=cost, power=power)
