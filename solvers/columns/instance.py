"""A problem as arrays: what stands on a device of each kind, item by item, and the GPUs that are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.domain.conflicts import exclusive_groups
from planner.domain.problem import Device, DeviceKind, Objective
from planner.domain.units import PPM
from solvers.columns.column import Column, Content
from solvers.columns.device import DEEPEST
from solvers.reduction import Choice, Reduction

Ints = NDArray[np.int64]
UNLIMITED = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The choices of one device kind. [items, resources]: `use`, `limit`; [resources]: `capacity`;
    [items]: `capacity_mrps`, requests that a replica serves, `model`, its place in the problem, and `group`, one for
    all models of an exclusive group.

    `alone`: items that stand on a device of this kind only without others. `overhead` is by backend, in bytes
    of resource 0, 0 where it is already taken off the capacity.
    """

    kind: DeviceKind
    choices: tuple[Choice, ...]
    use: Ints
    limit: Ints
    capacity: Ints
    capacity_mrps: Ints
    model: Ints
    group: Ints
    backend: Ints
    overhead: Ints
    alone: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """GPUs that are alike: `kinds` are places in Instance.items, one per device of the GPU.

    `layouts`: the largest sets of devices, as places in `kinds`, that a GPU can carry at once.
    """

    kinds: tuple[int, ...]
    layouts: tuple[tuple[int, ...], ...]
    gpus: tuple[tuple[Device, ...], ...]
    cost_microusd_per_hour: int
    power_milliwatts: int

    @property
    def stock(self) -> int:
        return len(self.gpus)

    @property
    def is_one_device(self) -> bool:
        return len(self.kinds) == 1

    def kinds_of(self, layout: tuple[int, ...]) -> list[int]:
        return [self.kinds[place] for place in layout]

    def column(self, number: int, contents: Mapping[int, Content]) -> Column:
        """A column of this group, whose number is given, of contents by place."""
        return Column(number, tuple(contents.get(place, ()) for place in range(len(self.kinds))))

    def canonical(self, column: Column) -> Column:
        """The same contents on the devices of one of `layouts`: placements alone make no column of their own."""
        used = [place for place, content in enumerate(column.contents) if content]
        if len(self.layouts) == 1:
            return column
        asked = Counter(self.kinds_of(tuple(used)))
        for layout in self.layouts:
            if asked <= Counter(self.kinds_of(layout)):
                free = list(layout)
                moved: dict[int, Content] = {}
                for place in sorted(used, key=lambda p: (self.kinds[p], column.contents[p])):
                    at = next(p for p in free if self.kinds[p] == self.kinds[place])
                    free.remove(at)
                    moved[at] = column.contents[place]
                return self.column(column.group, moved)
        return column


class Instance:
    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self.problem = reduction.problem
        self.model_index = {model.name: place for place, model in enumerate(self.problem.models)}
        self._group = exclusive_groups(self.problem)
        names = [kind.name for kind in self.problem.kinds if reduction.by_kind[kind.name]]
        self.items = tuple(self._items(self.problem.kind_by_name[name]) for name in names)
        places = {name: place for place, name in enumerate(names)}
        self.groups = tuple(
            Group(
                kinds=tuple(places[kind.name] for kind in group.kinds),
                layouts=group.layouts,
                gpus=group.gpus,
                cost_microusd_per_hour=group.cost,
                power_milliwatts=group.power,
            )
            for group in reduction.groups
        )

    @cached_property
    def per_model(self) -> int:
        most = self.problem.max_per_device
        return DEEPEST if most is None else most

    @cached_property
    def by_model(self) -> list[list[tuple[int, int]]]:
        """The (kind, item) places of each model."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.problem.models]
        for kind, items in enumerate(self.items):
            for item, model in enumerate(items.model.tolist()):
                found[model].append((kind, item))
        return found

    @cached_property
    def largest_mrps(self) -> Ints:
        """The largest capacity of a replica, by model; 0 where it has no choice."""
        largest = np.zeros(len(self.problem.models), np.int64)
        for items in self.items:
            np.maximum.at(largest, items.model, items.capacity_mrps)
        return largest

    def items_of(self, columns: Sequence[Column], kind: int) -> tuple[Ints, Ints]:
        """What the columns have on devices of a kind: places in `columns`, and the items there."""
        found = [
            (number, item)
            for number, column in enumerate(columns)
            for of_device, content in zip(self.groups[column.group].kinds, column.contents, strict=True)
            if of_device == kind
            for item in content
        ]
        number, item = np.array(found, np.int64).reshape(-1, 2).T
        return number, item

    def cost_of_device(self, kind: int, costs: Sequence[float]) -> float:
        """The least part of a GPU's cost that falls to a device of this kind; `costs` by group."""
        return min(
            c / len(layout)
            for c, g in zip(costs, self.groups, strict=True)
            for layout in g.layouts
            if kind in g.kinds_of(layout)
        )

    def unit_costs(self, objective: Objective) -> tuple[int, ...]:
        """By group, what one GPU in use adds to the objective, in its integer unit."""
        if objective is Objective.GPUS:
            return (1,) * len(self.groups)
        if objective is Objective.POWER:
            return tuple(group.power_milliwatts for group in self.groups)
        return tuple(group.cost_microusd_per_hour if objective is Objective.COST else 0 for group in self.groups)

    def _items(self, kind: DeviceKind) -> Items:
        choices = self.reduction.by_kind[kind.name]
        backends = sorted({choice.option.backend for choice in choices})
        overhead = [kind.backend_overhead_bytes.get(name, 0) for name in backends]
        free = kind.memory_bytes - kind.server_base_bytes
        if len(backends) == 1:
            free, overhead = free - overhead[0], [0]
        resources = [_Resource([c.option.memory_bytes for c in choices], [UNLIMITED] * len(choices), free)]
        resources += [r for r in _time_resources(kind, choices) if any(r.use)]
        busiest = [max(choice.option.busy_ppm) for choice in choices]
        return Items(
            kind=kind,
            choices=choices,
            use=np.array([r.use for r in resources], np.int64).T.copy(),
            limit=np.array([r.limit for r in resources], np.int64).T.copy(),
            capacity=np.array([max(1, r.capacity) for r in resources], np.int64),
            capacity_mrps=np.array([choice.capacity_mrps for choice in choices], np.int64),
            model=np.array([self.model_index[c.option.model] for c in choices], np.int64),
            group=np.array([self.model_index[self._group[c.option.model]] for c in choices], np.int64),
            backend=np.array([backends.index(c.option.backend) for c in choices], np.int64),
            overhead=np.array(overhead, np.int64),
            alone=np.array([busy > kind.utilization_ppm for busy in busiest], np.bool_),
        )


@dataclass(frozen=True, slots=True)
class _Resource:
    use: list[int]
    limit: list[int]
    capacity: int


def _time_resources(kind: DeviceKind, choices: Sequence[Choice]) -> list[_Resource]:
    """Busy time per period, what each interference class bears, and instances beside each other."""
    periods = range(len(choices[0].option.busy_ppm))
    threshold = kind.utilization_ppm
    busy = [_Resource([c.option.busy_ppm[p] for c in choices], [UNLIMITED] * len(choices), threshold) for p in periods]
    if len(kind.kappa_ppm) == 1 and kind.kappa_ppm[0][0] == PPM:
        # One class that counts everybody in full bears a total: a limit on busy time itself.
        borne = [[(c.borne_ppm2 + c.own_ppm2[p]) // PPM for c in choices] for p in periods]
        busy = [_Resource(r.use, limit, r.capacity) for r, limit in zip(busy, borne, strict=True)]
        return [*busy, *_instances(choices)]
    classes = range(len(kind.interference_classes))
    weighed = [
        _Resource(
            [c.added_ppm2[index][p] for c in choices],
            [c.borne_ppm2 + c.own_ppm2[p] if c.option.interference_class == index else UNLIMITED for c in choices],
            max(kind.kappa_ppm[index]) * threshold,
        )
        for index in classes
        for p in periods
    ]
    return [*busy, *weighed, *_instances(choices)]


def _instances(choices: Sequence[Choice]) -> list[_Resource]:
    if all(choice.max_others is None for choice in choices):
        return []
    most = DEEPEST * max(choice.option.instances for choice in choices)
    limits = [UNLIMITED if c.max_others is None else c.max_others + c.option.instances for c in choices]
    capacity = min(most, max(limits))
    return [_Resource([c.option.instances for c in choices], limits, capacity)]
