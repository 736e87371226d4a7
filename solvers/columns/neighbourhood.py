"""Large-neighbourhood search: empty some GPUs, place what stood there anew, keep it where it costs no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column
from solvers.columns.filling import Filler, Placed, Prices, prices_by_size, spread_out
from solvers.columns.generation import Task
from solvers.columns.rounding import WHOLE, Dive, cost_of
from solvers.columns.wanted import Wanted, served

Ints = NDArray[np.int64]
SMALLEST, LARGEST = 4, 40
FILLS = 6
DIVE_EVERY = 4


@dataclass(frozen=True, slots=True)
class Moved:
    """A plan that costs no more: `saved` >= 0."""

    plan: list[Column]
    saved: float


class Neighbourhood:
    def __init__(self, task: Task, filler: Filler, dive: Dive, rng: np.random.Generator) -> None:
        self._task, self._filler, self._dive, self._rng = task, filler, dive, rng
        self._size = 10.0
        self._turn = 0
        self._known: Sequence[Column] | None = None
        self._total = Total.of(task, ())

    def step(self, plan: Sequence[Column], prices: Prices, deadline: float) -> Moved | None:
        """One neighbourhood, solved by filling in several ways or, every few turns, by a dive."""
        self._turn += 1
        size = min(len(plan), int(self._size))
        emptied = self._choose(plan, size)
        rest = self._rest(plan, emptied)
        before = sum(self._task.costs[plan[place].group] for place in emptied)
        placed = self._solve(rest, prices, before, deadline)
        if placed is None:
            self._size = min(LARGEST, self._size * 1.02)
            return None
        saved = before - cost_of(self._task, placed)
        if saved > WHOLE:
            self._size = max(SMALLEST, self._size * 0.9)
        kept = [column for place, column in enumerate(plan) if place not in emptied]
        return Moved([*kept, *spread_out(placed)], max(0.0, saved))

    def _choose(self, plan: Sequence[Column], size: int) -> set[int]:
        """GPUs at random, or those that share models with one of them."""
        count = len(plan)
        if self._rng.random() < 0.5:
            return set(self._rng.choice(count, size, replace=False).tolist())
        start = int(self._rng.integers(count))
        own = set(served(self._task.instance, plan[start])[1])
        near = sorted(
            range(count), key=lambda p: (-len(own & set(served(self._task.instance, plan[p])[1])), self._rng.random())
        ) if count <= 400 else self._rng.permutation(count).tolist()  # fmt: skip
        return {start, *near[: size - 1]}

    def _rest(self, plan: Sequence[Column], emptied: set[int]) -> Task:
        """What the GPUs that stay do not serve, and the stock that they leave."""
        if self._known is not plan:
            self._known, self._total = plan, Total.of(self._task, plan)
        total = self._total.copy()
        for place in emptied:
            total.add(self._task, plan[place], -1)
        return replace(self._task, wanted=total.left(self._task.wanted), stock=total.stock(self._task))

    def _solve(self, rest: Task, prices: Prices, before: float, deadline: float) -> Placed | None:
        if self._turn % DIVE_EVERY == 0:
            return self._dive.run(rest, deadline, before + WHOLE / 2)
        best: Placed | None = None
        for _ in range(FILLS):
            by = prices if self._rng.random() < 0.3 else self._random_prices()
            power = float(self._rng.uniform(0.98, 1.3))
            filled = self._filler.fill(
                by, power, rest.wanted, rest.stock, most_cost=before + WHOLE / 2, deadline=deadline
            )
            if filled is not None:
                best = filled
                before = cost_of(rest, filled) - WHOLE
        return best

    def _random_prices(self) -> Prices:
        resources = max(items.use.shape[1] for items in self._task.instance.items)
        weights = self._rng.exponential(size=resources) + 0.05
        prices = prices_by_size(self._task.instance, self._task.costs, weights)
        factor = self._rng.normal(1.0, 0.03, len(self._task.wanted.missing_mrps))
        return Prices(
            [
                worth * np.maximum(0.5, factor[items.model])
                for worth, items in zip(prices.worth, self._task.instance.items, strict=True)
            ]
        )


def trimmed(task: Task, plan: Sequence[Column]) -> list[Column]:
    """Without replicas that serve nothing: the smallest of a model that has too many; GPUs left empty go too."""
    instance = task.instance
    total = Total.of(task, plan)
    surplus, counts = total.capacity_mrps - task.wanted.missing_mrps, total.replicas
    found = []
    for column in plan:
        contents = []
        for kind, content in zip(instance.groups[column.group].kinds, column.contents, strict=True):
            items, stays = instance.items[kind], []
            for item in sorted(content, key=lambda i: items.capacity_mrps[i]):
                model, capacity = int(items.model[item]), int(items.capacity_mrps[item])
                if surplus[model] >= capacity and counts[model] > task.wanted.at_least[model]:
                    surplus[model] -= capacity
                    counts[model] -= 1
                else:
                    stays.append(item)
            contents.append(tuple(sorted(stays)))
        if any(contents):
            found.append(Column(column.group, tuple(contents)))
    return found


@dataclass(slots=True, eq=False)
class Total:
    """What a plan serves: by model, capacity in mrps and replicas; by group, GPUs."""

    capacity_mrps: Ints
    replicas: Ints
    gpus: Ints

    @staticmethod
    def of(task: Task, plan: Sequence[Column]) -> Total:
        models = len(task.wanted.missing_mrps)
        total = Total(np.zeros(models, np.int64), np.zeros(models, np.int64), np.zeros(len(task.stock), np.int64))
        for column in plan:
            total.add(task, column, 1)
        return total

    def copy(self) -> Total:
        return Total(self.capacity_mrps.copy(), self.replicas.copy(), self.gpus.copy())

    def add(self, task: Task, column: Column, times: int) -> None:
        capacity, replicas = served(task.instance, column)
        for model, count in replicas.items():
            self.capacity_mrps[model] += times * capacity[model]
            self.replicas[model] += times * count
        self.gpus[column.group] += times

    def left(self, wanted: Wanted) -> Wanted:
        return Wanted(
            np.maximum(0, wanted.missing_mrps - self.capacity_mrps),
            np.maximum(0, wanted.at_least - self.replicas),
            wanted.at_most - self.replicas,
        )

    def stock(self, task: Task) -> tuple[int, ...]:
        return tuple((np.array(task.stock) - self.gpus).tolist())
