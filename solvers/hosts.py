"""Contents of devices put onto nodes whose hosts have less than all of them together ask for; then what else fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.plan import Placement
from planner.domain.problem import Device, Problem
from solvers.packing import Sizes
from solvers.reduction import Choice, Reduction, name_placements
from solvers.sited import SitedPacking

Floats = NDArray[np.float64]
# What counts for a smaller share of the most valuable content than this is put down after all else.
LITTLE = 0.1


def on_hosts(reduction: Reduction, contents: Sequence[Sequence[Choice]]) -> tuple[Placement, ...]:
    """A plan that keeps host totals, for problems without other rules between devices. Of a replica over several GPUs
    `contents` has a part for each."""
    sizes = Sizes(reduction, max, price=lambda choice: 1.0)
    devices = [device for group in reduction.groups for gpu in group.gpus for device in gpu]
    packing = SitedPacking(reduction, sizes, devices)
    packing.resume(_Hosts(reduction.problem, devices, contents).placed)
    widest = {choice.option.model: choice.option.gpus for choice in reduction.choices}  # theirs were kept free
    for model in sorted(
        reduction.problem.models, key=lambda m: (-widest.get(m.name, 1), -m.priority / max(1, m.peak_mrps))
    ):
        packing.place(model)
    return name_placements(reduction.problem, packing.pairs())


@dataclass(frozen=True, slots=True)
class _Asked:
    """What stands on so many devices of a node, what it takes of the host, and what it counts."""

    choices: tuple[Choice, ...]
    devices: int
    host: Floats
    weight: float


class _Hosts:
    """`placed`: what found a node; for replicas over several GPUs devices are kept free. Whatever asks for most goes
    first, to the node with most left per free device."""

    def __init__(self, problem: Problem, devices: Sequence[Device], contents: Sequence[Sequence[Choice]]) -> None:
        self._problem = problem
        self.placed: list[tuple[Choice, Device]] = []
        nodes = list(dict.fromkeys(device.node for device in devices))
        self._row = {name: row for row, name in enumerate(nodes)}
        self._left = np.array([self._host(name) for name in nodes], np.float64).reshape(-1, 2)
        self._free: dict[str, dict[str, list[Device]]] = {}
        for device in reversed(devices):
            self._free.setdefault(device.kind, {}).setdefault(device.node, []).append(device)
        asked = [self._asked([c for c in content if c.option.gpus == 1], 1) for content in contents]
        asked = [one for one in asked if one.choices] + list(self._spanning(contents))
        total = sum((one.host for one in asked), np.zeros(2))
        self._usual = np.maximum(total / max(1, len(asked)), 1e-9)
        most = max((one.weight for one in asked), default=0.0)
        asked.sort(key=lambda one: (one.weight < LITTLE * most, -one.devices, -float((one.host / self._usual).max())))
        for one in asked:
            self._put(one)

    def _host(self, name: str) -> tuple[float, float]:
        node = self._problem.node_by_name.get(name)
        memory, cpu = (None, None) if node is None else (node.host_memory_bytes, node.host_cpu_millis)
        return float("inf") if memory is None else memory, float("inf") if cpu is None else cpu

    def _asked(self, choices: Sequence[Choice], devices: int) -> _Asked:
        models = [self._problem.model_by_name[choice.option.model] for choice in choices]
        weights = (
            m.priority * min(1.0, c.capacity_mrps / max(1, m.peak_mrps)) for m, c in zip(models, choices, strict=True)
        )
        host = np.array([sum(m.host_memory_bytes for m in models), sum(m.host_cpu_millis for m in models)], np.float64)
        return _Asked(tuple(choices), devices, host, sum(weights))

    def _spanning(self, contents: Sequence[Sequence[Choice]]) -> Iterator[_Asked]:
        parts = Counter(choice for content in contents for choice in content if choice.option.gpus > 1)
        for choice, count in parts.items():
            for _ in range(count // choice.option.gpus):
                yield self._asked([choice], choice.option.gpus)

    def _put(self, one: _Asked) -> None:
        free = self._free.get(one.choices[0].kind.name, {})
        names = [name for name, row in free.items() if len(row) >= one.devices]
        if not names:
            return
        left = self._left[[self._row[name] for name in names]]
        counts = np.array([len(free[name]) for name in names], np.float64)
        plenty = (left / self._usual).min(axis=1) / counts
        plenty[(left < one.host).any(axis=1)] = -1.0
        if one.devices > 1:  # as few as there are, so that others find as many
            plenty[plenty >= 0] += 1e9 / counts[plenty >= 0]
        best = int(plenty.argmax())
        if plenty[best] < 0:
            return
        node = names[best]
        devices = [free[node].pop() for _ in range(one.devices)]
        self._left[self._row[node]] -= one.host
        self.placed += [(choice, devices[0]) for choice in one.choices if one.devices == 1]
