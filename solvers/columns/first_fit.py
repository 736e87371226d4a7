"""A plan at once where hardly two models are alike: first fit decreasing over all open devices, in array operations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column
from solvers.columns.filling import Placed, shares_of_cost
from solvers.columns.generation import Task
from solvers.columns.instance import Items
from solvers.columns.wanted import Wanted
from solvers.stopping import stop_if_asked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def first_fit(task: Task) -> Placed | None:
    """Model by model, the largest first; None where the stock ends before all are served."""
    return _Fit(task).run()


class _Fit:
    def __init__(self, task: Task) -> None:
        self._task, self._instance = task, task.instance
        self._open = [_Open(items) for items in self._instance.items]
        self._left = list(task.stock)
        self._gpus: list[tuple[int, dict[int, list[int]]]] = []  # the group, and the items by place
        alike = np.ones(max(items.use.shape[1] for items in self._instance.items))
        self._shares = shares_of_cost(self._instance, task.costs, alike)

    def run(self) -> Placed | None:
        wanted = self._task.wanted.copy()
        sizes = np.zeros(len(wanted.missing_mrps))
        for items, shares in zip(self._instance.items, self._shares, strict=True):
            np.maximum.at(sizes, items.model, shares)
        for model in np.argsort(-sizes, kind="stable").tolist():
            stop_if_asked()
            beside = [np.zeros(0, np.int64) for _ in self._open]
            while wanted.missing_mrps[model] > 0 or wanted.at_least[model] > 0:
                if not self._place(model, wanted, beside):
                    return None
        return [(self._column(number, contents), 1) for number, contents in self._gpus]

    def _place(self, model: int, wanted: Wanted, beside: list[Ints]) -> bool:
        """One more replica, by the choice that costs least for what it serves of what is missing."""
        missing = int(wanted.missing_mrps[model])
        for kind, item in sorted(self._instance.by_model[model], key=lambda at: self._price(at, missing)):
            served = int(self._instance.items[kind].capacity_mrps[item])
            # With the replicas that may still come, the rest must be within reach.
            if missing - served > (int(wanted.at_most[model]) - 1) * int(self._instance.largest_mrps[model]):
                continue
            at = self._device(kind, item, beside)
            if at is None:
                continue
            gpu, place = self._open[kind].place[at]
            self._open[kind].put(item, at)
            self._gpus[gpu][1][place].append(item)
            beside[kind] = _longer(beside[kind], len(self._open[kind].place))
            beside[kind][at] += 1
            wanted.missing_mrps[model] = max(0, missing - served)
            wanted.at_least[model] = max(0, int(wanted.at_least[model]) - 1)
            wanted.at_most[model] -= 1
            return True
        return False

    def _price(self, at: tuple[int, int], missing: int) -> float:
        kind, item = at
        served = min(max(missing, 1), int(self._instance.items[kind].capacity_mrps[item]))
        return float(self._shares[kind][item]) / served

    def _device(self, kind: int, item: int, beside: list[Ints]) -> int | None:
        """An open device that bears the item, or one on a GPU that is taken anew."""
        devices = self._open[kind]
        if not devices.items.alone[item]:
            counts = _longer(beside[kind], len(devices.place))
            at = devices.first(item, counts < self._instance.per_model)
            if at is not None:
                return at
        for number, (group, left) in enumerate(zip(self._instance.groups, self._left, strict=True)):
            layout = max(group.layouts, key=lambda one: group.kinds_of(one).count(kind))
            if left and kind in group.kinds_of(layout):
                self._left[number] -= 1
                at = len(devices.place)
                for place in layout:
                    self._open[group.kinds[place]].add(len(self._gpus), place)
                self._gpus.append((number, {place: [] for place in layout}))
                return at
        return None

    def _column(self, number: int, contents: dict[int, list[int]]) -> Column:
        group = self._instance.groups[number]
        return group.canonical(group.column(number, {p: tuple(sorted(items)) for p, items in contents.items()}))


class _Open:
    """The devices of one kind on GPUs in use, in the order in which they were taken.

    [resources, devices]: `load`, and `room`, which the residents' own limits make smaller. `place`: GPU and device.
    """

    def __init__(self, items: Items) -> None:
        self.items = items
        self.place: list[tuple[int, int]] = []
        self._load = np.zeros((items.use.shape[1], 64), np.int64)
        self._room = np.zeros_like(self._load)
        self._backends = np.zeros((len(items.overhead), 64), np.bool_)

    def add(self, gpu: int, place: int) -> None:
        if len(self.place) == self._load.shape[1]:
            self._load, self._room, self._backends = (
                np.concatenate([rows, np.zeros_like(rows)], axis=1) for rows in (self._load, self._room, self._backends)
            )
        self._room[:, len(self.place)] = self.items.capacity
        self.place.append((gpu, place))

    def first(self, item: int, allowed: NDArray[np.bool_]) -> int | None:
        """The first device among those allowed [devices] that bears the item beside what it has."""
        count, items = len(self.place), self.items
        backend, fits = items.backend[item], allowed
        for resource, (use, limit) in enumerate(zip(items.use[item], items.limit[item], strict=True)):
            load = self._load[resource, :count] + use
            if resource == 0 and items.overhead[backend]:
                load += np.where(self._backends[backend, :count], 0, items.overhead[backend])
            fits = fits & (load <= self._room[resource, :count]) & (load <= limit)
        at = int(fits.argmax()) if count else 0
        return at if count and fits[at] else None

    def put(self, item: int, at: int) -> None:
        items, backend = self.items, self.items.backend[item]
        self._load[:, at] += items.use[item]
        if not self._backends[backend, at]:
            self._load[0, at] += items.overhead[backend]
            self._backends[backend, at] = True
        self._room[:, at] = 0 if items.alone[item] else np.minimum(self._room[:, at], items.limit[item])


def _longer(counts: Ints, length: int) -> Ints:
    return np.concatenate([counts, np.zeros(length - len(counts), np.int64)]) if length > len(counts) else counts
