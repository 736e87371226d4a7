"""From the linear relaxation to a plan: take what is whole, solve again for the rest, and so on (diving)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from solvers.columns.column import Column
from solvers.columns.filling import Filler, Placed, Prices
from solvers.columns.generation import Generator, Relaxed, Task
from solvers.columns.pricing import Effort, Pricer

WHOLE = 1e-6
ROUNDS = 12
# The rest is filled up again where the relaxation has come down to this share of what it was the last time.
FILLED_AGAIN = 0.3
# Of the columns known, so many at most per row of a relaxation are in its master from the beginning.
KNOWN_PER_ROW, LEAST_KNOWN = 5, 200
POWERS = (1.0, 1.05, 1.2)


class Dive:
    """`pool` collects columns: those of one relaxation serve the next."""

    def __init__(self, pricer: Pricer, filler: Filler, rng: np.random.Generator, effort: Effort) -> None:
        self._pricer, self._filler, self._rng, self._effort = pricer, filler, rng, effort
        self.pool: dict[Column, None] = {}

    def run(
        self,
        task: Task,
        deadline: float,
        most_cost: float,
        relaxed: Relaxed | None = None,
        *,
        share: float = 0.2,
        noise: float = 0.0,
    ) -> Placed | None:
        """The cheapest plan below `most_cost` that was met on the way down.

        `share`: of the GPUs of a relaxation, so many at least are settled at once, the largest fractions rounded up.
        `noise`: the fractions are taken for larger or smaller by this standard deviation.
        """
        wanted, stock = task.wanted.copy(), list(task.stock)
        placed: Placed = []
        best: Placed | None = None
        last: Relaxed | None = None
        spent, filled_at = 0.0, math.inf
        while wanted.waiting.any() and time.monotonic() < deadline:
            rest = replace(task, wanted=wanted, stock=tuple(stock))
            if relaxed is None:
                relaxed = self._relax(rest, last, deadline)
            if relaxed.unserved > WHOLE or spent + relaxed.bound > most_cost - WHOLE:
                return best
            taken = list(self._rounded(rest, relaxed, share, noise))
            if not taken:
                return best
            for column, times in taken:
                wanted.take(task.instance, column, times)
                stock[column.group] -= times
                placed.append((column, times))
                spent += times * task.costs[column.group]
            filled: Placed | None = None
            if not wanted.waiting.any():
                filled = [] if spent < most_cost - WHOLE else None
            elif relaxed.value <= FILLED_AGAIN * filled_at:
                filled_at = relaxed.value
                left = replace(rest, wanted=wanted, stock=tuple(stock))
                filled = self._fill(left, relaxed, most_cost - spent, deadline)
            if filled is not None:
                best = [*placed, *filled]
                most_cost = cost_of(task, best)
            relaxed, last = None, relaxed
        return best

    def _relax(self, task: Task, last: Relaxed | None, deadline: float) -> Relaxed:
        generator = Generator(task, self._pricer, self._rng)
        most = math.ceil(KNOWN_PER_ROW * len(generator.rows.rows)) + LEAST_KNOWN
        asked = (c for c in self._by_loss(task, last) if task.wanted.asks_for(task.instance, c))
        generator.offer(itertools.islice(asked, most))
        relaxed = generator.run(self._effort, deadline, lambda value, bound: value - bound < 1e-3 * value,
                                most_rounds=ROUNDS, most_nodes=self._effort.nodes)  # fmt: skip
        self.pool.update(dict.fromkeys(relaxed.columns))
        return relaxed

    def _by_loss(self, task: Task, last: Relaxed | None) -> list[Column]:
        """The pool, first what loses least by the prices of the last relaxation."""
        pool = list(self.pool)
        if last is None or not pool:
            return pool
        losses = np.array([task.costs[column.group] + last.prices.stock[column.group] for column in pool])
        for kind in range(len(task.instance.items)):
            worth = last.rows.values(kind, last.prices.rows)
            number, item = task.instance.items_of(pool, kind)
            losses -= np.bincount(number, worth[item], minlength=len(pool))
        return [pool[n] for n in np.argsort(losses, kind="stable").tolist()]

    def _rounded(self, task: Task, relaxed: Relaxed, share: float, noise: float) -> Iterable[tuple[Column, int]]:
        """Whole parts, and the largest fractions rounded up where that is few. Nothing is served twice."""
        wanted, stock = task.wanted.copy(), list(task.stock)
        room = max(1, int(share * relaxed.amounts.sum()))
        whole = np.floor(relaxed.amounts + WHOLE)
        taken = 0
        for place in np.flatnonzero(whole).tolist():
            column = relaxed.columns[place]
            times = min(int(whole[place]), stock[column.group])
            if times and wanted.asks_for(task.instance, column):
                times = wanted.times(task.instance, column, times)
                wanted.take(task.instance, column, times)
                stock[column.group] -= times
                taken += times
                yield column, times
        fractions = relaxed.amounts - whole
        if noise:
            fractions += np.where(fractions > WHOLE, self._rng.normal(0.0, noise, len(whole)), -1.0)
        order = np.argsort(-fractions, kind="stable")
        for place in order[: 4 * room].tolist():
            if taken >= room:
                return
            column = relaxed.columns[place]
            full = wanted.asks_for(task.instance, column)
            if stock[column.group] and (full or (taken == 0 and relaxed.amounts[place] > WHOLE)):
                wanted.take(task.instance, column, 1)
                stock[column.group] -= 1
                taken += 1
                yield column, 1

    def _fill(self, task: Task, relaxed: Relaxed, most_cost: float, deadline: float) -> Placed | None:
        """The rest at once, by the duals of the relaxation."""
        prices = prices_of(relaxed)
        best: Placed | None = None
        for power in POWERS:
            filled = self._filler.fill(
                prices, power, task.wanted, task.stock, most_cost=most_cost - WHOLE, deadline=deadline
            )
            if filled is not None:
                best, most_cost = filled, cost_of(task, filled)
        return best


def prices_of(relaxed: Relaxed) -> Prices:
    """What items are worth by the duals of a relaxation."""
    return Prices([relaxed.rows.values(kind, relaxed.duals.rows) for kind in range(len(relaxed.rows.index))])


def cost_of(task: Task, placed: Placed) -> float:
    return sum(times * task.costs[column.group] for column, times in placed)
