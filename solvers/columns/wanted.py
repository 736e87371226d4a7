"""What is still to be placed, by model, and what a content takes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.problem import Model
from solvers.columns.column import Column
from solvers.columns.instance import UNLIMITED, Instance

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Wanted:
    """By model: what is missing in mrps, replicas that must and that may still come."""

    missing_mrps: Ints
    at_least: Ints
    at_most: Ints

    @staticmethod
    def of(models: Iterable[Model], *, optional: bool) -> Wanted:
        """`optional`: a model without demand may be left out."""
        listed = list(models)
        return Wanted(
            np.array([model.peak_mrps for model in listed], np.int64),
            np.array([0 if optional and not m.peak_mrps else m.replicas_min for m in listed], np.int64),
            np.array([UNLIMITED if m.replicas_max is None else m.replicas_max for m in listed], np.int64),
        )

    def copy(self) -> Wanted:
        return Wanted(self.missing_mrps.copy(), self.at_least.copy(), self.at_most.copy())

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """Models that ask for more."""
        found: NDArray[np.bool_] = (self.missing_mrps > 0) | (self.at_least > 0)
        return found

    def useful(self, instance: Instance, kind: int) -> Ints:
        """So many copies of each item may still be of use, 0 where they could not end in a plan."""
        items = instance.items[kind]
        missing, least = self.missing_mrps[items.model], self.at_least[items.model]
        capacity = np.minimum(items.capacity_mrps, np.maximum(missing, 1))
        needed = np.maximum(-(-missing // capacity), least)
        room = self.at_most[items.model]
        # With the room that is left after it, the largest replicas must be able to serve the rest.
        rest = missing - np.minimum(room - 1, 2**20) * instance.largest_mrps[items.model]
        useful: Ints = np.where((needed > 0) & (items.capacity_mrps >= rest), np.minimum(needed, room), 0)
        return useful

    def times(self, instance: Instance, column: Column, most: int) -> int:
        """How often the column may be placed without serving more than is asked for, at least once, at most `most`."""
        capacity, replicas = served(instance, column)
        times = most
        for model, count in replicas.items():
            if capacity[model]:
                times = min(times, max(int(self.missing_mrps[model] // capacity[model]),
                                       int(self.at_least[model] // count)))  # fmt: skip
            times = min(times, int(self.at_most[model] // count))
        return max(1, times)

    def take(self, instance: Instance, column: Column, times: int) -> None:
        capacity, replicas = served(instance, column)
        for model, count in replicas.items():
            self.missing_mrps[model] = max(0, self.missing_mrps[model] - times * capacity[model])
            self.at_least[model] = max(0, self.at_least[model] - times * count)
            self.at_most[model] -= times * count

    def asks_for(self, instance: Instance, column: Column, *, in_full: bool = False) -> bool:
        """Whether every replica of the column serves something; `in_full`: nothing of it would be left over."""
        capacity, replicas = served(instance, column)
        for model, count in replicas.items():
            used = capacity[model] if in_full else capacity[model] - capacity[model] // count + 1
            if self.missing_mrps[model] < used and self.at_least[model] < count:
                return False
            if self.at_most[model] < count:
                return False
        return True


def served(instance: Instance, column: Column) -> tuple[dict[int, int], dict[int, int]]:
    """By model: capacity in mrps, and replicas."""
    capacity: dict[int, int] = {}
    replicas: dict[int, int] = {}
    for kind, content in zip(instance.groups[column.group].kinds, column.contents, strict=True):
        items = instance.items[kind]
        for item in content:
            model = int(items.model[item])
            capacity[model] = capacity.get(model, 0) + int(items.capacity_mrps[item])
            replicas[model] = replicas.get(model, 0) + 1
    return capacity, replicas
