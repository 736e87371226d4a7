"""What each node holds of all that the rules between devices limit there, in arrays: where a GPU's content goes best.

A rule becomes a number per model and domain that stays within a limit. What survival asks for is one too: with the
columns given, a model's capacity in a domain may be no more than what it has beyond the share that must be left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.problem import Device, DeviceKind, Option, Problem
from planner.domain.topology import Domain
from solvers.columns.instance import UNLIMITED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AREAS = (Domain.NODE, Domain.RACK, Domain.ZONE)
# What a rule that holds says about where a content is better off, against one that is broken.
HINT = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What a GPU's content adds where it stands. `watched`: by area, watches and amounts; `host`: memory and CPU."""

    watched: Sequence[tuple[Ints, Ints]]
    host: tuple[int, int]
    drawn: tuple[int, int]


class Places:
    """`options`: the contents of all GPUs in use, which say how much of a model there is."""

    def __init__(self, problem: Problem, options: Sequence[Option]) -> None:
        self._problem = problem
        self.nodes = list(dict.fromkeys(device.node for device in problem.devices))
        number = {name: place for place, name in enumerate(self.nodes)}
        a_device = {device.node: device for device in problem.devices}
        self.areas = [_Area(problem, domain, [a_device[n] for n in self.nodes]) for domain in AREAS]
        totals: dict[str, int] = {}
        for option in options:
            totals[option.model] = totals.get(option.model, 0) + option.capacity_mrps
        for area in self.areas:
            area.watch(problem, totals)
        known = [problem.node_by_name.get(name) for name in self.nodes]
        self._host_most = [
            np.array([UNLIMITED if n is None or v is None else v for n, v in zip(known, row, strict=True)], np.int64)
            for row in (
                [n and n.host_memory_bytes for n in known],
                [n and n.host_cpu_millis for n in known],
            )
        ]
        self._host = [np.zeros(len(self.nodes), np.int64) for _ in self._host_most]
        self._host_unit = [
            max(1, max((getattr(m, name) for m in problem.models), default=1))
            for name in ("host_memory_bytes", "host_cpu_millis")
        ]
        self._limits = list(_limits(problem, [a_device[n] for n in self.nodes]))
        self.number = number

    def load(self, options: Sequence[Option], kind: DeviceKind) -> Load:
        replicas: dict[str, int] = {}
        capacity: dict[str, int] = {}
        memory = cpu = 0
        for option in options:
            replicas[option.model] = replicas.get(option.model, 0) + 1
            capacity[option.model] = capacity.get(option.model, 0) + option.capacity_mrps
            model = self._problem.model_by_name[option.model]
            memory += model.host_memory_bytes
            cpu += model.host_cpu_millis
        drawn = (kind.power_milliwatts or 0, kind.cost_microusd_per_hour or 0)
        return Load([area.entries(replicas, capacity) for area in self.areas], (memory, cpu), drawn)

    def put(self, load: Load, node: int, sign: int = 1) -> None:
        """Add a content to a node, or with -1 take it away."""
        for area, (watches, amounts) in zip(self.areas, load.watched, strict=True):
            if len(watches):
                area.used[watches, area.of_node[node]] += sign * amounts
        for row, amount in zip(self._host, load.host, strict=True):
            row[node] += sign * amount
        for limit in self._limits:
            limit.used[limit.of_node[node]] += sign * load.drawn[limit.what]

    def broken(self, load: Load) -> Floats:
        """[nodes]: how much more of the rules is broken with the content there; 1 is about a replica."""
        return self._weighed(load)[0]

    def preferred(self, load: Load) -> Floats:
        """[nodes]: the same, and among those alike where most is left."""
        broken, full = self._weighed(load)
        return broken + HINT * full

    def _weighed(self, load: Load) -> tuple[Floats, Floats]:
        broken, full = np.zeros(len(self.nodes)), np.zeros(len(self.nodes))
        for area, (watches, amounts) in zip(self.areas, load.watched, strict=True):
            if len(watches):
                worse, fuller = area.with_more(watches, amounts)
                broken += worse[area.of_node]
                full += fuller[area.of_node]
        for most, used, amount, unit in zip(self._host_most, self._host, load.host, self._host_unit, strict=True):
            if amount:
                broken += (np.maximum(0, used + amount - most) - np.maximum(0, used - most)) / unit
                full += (used + amount) / np.maximum(most, 1)
        for limit in self._limits:
            amount = load.drawn[limit.what]
            over = np.maximum(0, limit.used + amount - limit.most) - np.maximum(0, limit.used - limit.most)
            broken += (over / max(1, amount))[limit.of_node]
        return broken, full


class _Area:
    """One kind of domain. [watches, domains]: `used`; [watches]: `most`, `unit`, `apart`, the domains asked for."""

    def __init__(self, problem: Problem, domain: Domain, of_nodes: Sequence[Device]) -> None:
        self.domain = domain
        names = [problem.domain_of(device, domain) for device in of_nodes]
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.of_node = np.array([order[name] for name in names], np.int64)
        self._domains = len(order)
        self._by_replicas: dict[str, list[int]] = {}
        self._by_capacity: dict[str, list[int]] = {}

    def watch(self, problem: Problem, totals: Mapping[str, int]) -> None:
        most: list[int] = []
        apart: list[int] = []
        largest: dict[str, int] = {}
        for option in problem.options:
            largest[option.model] = max(largest.get(option.model, 0), option.capacity_mrps)
        unit: list[int] = []
        for model in problem.models:
            for spread in model.spread:
                if spread.over is self.domain and (spread.at_least > 1 or spread.at_most_each is not None):
                    self._by_replicas.setdefault(model.name, []).append(len(most))
                    most.append(UNLIMITED if spread.at_most_each is None else spread.at_most_each)
                    apart.append(spread.at_least if spread.at_least > 1 else 0)
                    unit.append(1)
        for survival in problem.survives:
            for name in survival.models if survival.domain is self.domain else ():
                left = problem.survival_mrps(survival, problem.model_by_name[name])
                if left:
                    self._by_capacity.setdefault(name, []).append(len(most))
                    most.append(max(0, totals.get(name, 0) - left))
                    apart.append(0)
                    unit.append(largest.get(name, 1))
        self.used = np.zeros((len(most), self._domains), np.int64)
        self.most, self.apart = np.array(most, np.int64), np.array(apart, np.int64)
        self.unit = np.array(unit, np.float64)

    def entries(self, replicas: Mapping[str, int], capacity: Mapping[str, int]) -> tuple[Ints, Ints]:
        found = [(w, count) for name, count in replicas.items() for w in self._by_replicas.get(name, ())]
        found += [(w, amount) for name, amount in capacity.items() for w in self._by_capacity.get(name, ())]
        watches, amounts = np.array(found, np.int64).reshape(-1, 2).T
        return watches, amounts

    def with_more(self, watches: Ints, amounts: Ints) -> tuple[Floats, Floats]:
        """[domains]: how much more of the rules is broken, and how full the watches are."""
        used, most, added = self.used[watches], self.most[watches, None], amounts[:, None]
        over = (np.maximum(0, used + added - most) - np.maximum(0, used - most)) / self.unit[watches, None]
        apart = self.apart[watches]
        if apart.any():
            over -= (used == 0) & ((used > 0).sum(axis=1) < apart)[:, None]
        full = (used + added) / np.maximum(most, 1)
        return over.sum(axis=0), full.sum(axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class _Limit:
    """`what`: 0 power, 1 cost."""

    what: int
    of_node: Ints
    used: Ints
    most: Ints


def _limits(problem: Problem, of_nodes: Sequence[Device]) -> list[_Limit]:
    found = []
    for limit in problem.limits:
        names = [problem.domain_of(device, limit.scope) for device in of_nodes]
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        of_node = np.array([order[name] for name in names], np.int64)
        for what, amount in enumerate((limit.power_milliwatts, limit.cost_microusd_per_hour)):
            if amount is not None:
                most = [amount if limit.name in (None, name) else UNLIMITED for name in order]
                found.append(_Limit(what, of_node, np.zeros(len(order), np.int64), np.array(most, np.int64)))
    return found
