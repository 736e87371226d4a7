"""Cases of which one holds for every content of a device, each with a bound of what its contents are worth.

A case says how much the most fragile resident bears of each resource, from a lower to an upper level, and which
backends are there. In it every resident bears at least the lower level, together they take at most the upper one,
and the backends that are there have paid their overhead: a plain knapsack. The bound is its Lagrangian relaxation
(Fisher 1981), with Polyak's steps towards the goal in Shor's dilated space (1971). By an item's regret the bound
falls for contents with that item: what no content worth more than the goal has is left aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from solvers.columns.instance import Items

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Steps of the relaxation of a case: from the prices of another call, or of the case that it is part of.
FIRST_STEPS, STEPS = 150, 40
FRUITLESS, SMALLEST_STEP, PROGRESS = 3, 0.01, 1e-5
DILATION, NOTHING = 3.0, 1e-12
LEAST_PRICE = 1e-9
# Levels that the relaxed content exceeds by less, as a share, are left to the search.
LEAST_EXCESS = 1e-3


@njit(cache=True, nogil=True)
def relax(
    items: Ints, model: Ints, most: Ints, per_model: int, value: Floats, share: Floats, capacity: Floats,
    prices: Floats, goal: float, steps: int, taken: Floats, regret: Floats,
) -> float:  # fmt: skip
    """A bound of what a content of `items`, given by model, is worth; the steps end where it is down at `goal`.

    `share` [all items, resources] and `capacity` [resources] in parts of a whole device. `prices` [resources] are the
    start, and at the end the best found, with what the relaxed content then takes. `regret` [items]: the bound falls
    by it for contents with that item.
    """
    resources = capacity.shape[0]
    now, used, slope, last = prices.copy(), np.empty(resources), np.empty(resources), np.zeros(resources)
    seen, dilation = np.empty(resources), np.zeros((resources, resources))
    for r in range(resources):
        dilation[r, r] = 1.0 / capacity[r]
    best, length, fruitless = np.inf, 1.0, 0
    for step in range(steps):
        worth = _relaxed_value(items, model, most, per_model, value, share, capacity, now, used)
        fruitless = fruitless + 1 if worth > best * (1 - PROGRESS) else 0
        if worth < best:
            best = worth
            prices[:] = now
            taken[:] = used
        if fruitless >= FRUITLESS:
            fruitless, length = 0, length / 2
        if best <= goal or length < SMALLEST_STEP:
            break
        for r in range(resources):
            slope[r] = capacity[r] - used[r]
            if now[r] <= 0.0 and slope[r] > 0.0:
                slope[r] = 0.0
        if step > 0:
            _dilate(dilation, slope - last, seen)
        last[:] = slope
        norm = _transposed(dilation, slope, seen)
        if norm < NOTHING:
            break
        for r in range(resources):
            direction = 0.0
            for j in range(resources):
                direction += dilation[r, j] * seen[j]
            now[r] = max(0.0, now[r] - length * (worth - goal) * direction / norm)
    _regrets(items, model, value, share, prices, regret)
    return best


@njit(cache=True, nogil=True)
def _transposed(dilation: Floats, vector: Floats, seen: Floats) -> float:
    """A vector as the dilated space sees it, and the square of its length there."""
    resources, norm = vector.shape[0], 0.0
    for j in range(resources):
        seen[j] = 0.0
        for r in range(resources):
            seen[j] += dilation[r, j] * vector[r]
        norm += seen[j] * seen[j]
    return norm


@njit(cache=True, nogil=True)
def _dilate(dilation: Floats, change: Floats, seen: Floats) -> None:
    """Shrink the space of prices along the change of the slope: bounds of a few resources have sharp valleys."""
    resources, norm = change.shape[0], _transposed(dilation, change, seen)
    if norm < NOTHING:
        return
    for r in range(resources):
        part = 0.0
        for j in range(resources):
            part += dilation[r, j] * seen[j]
        part *= (1 / DILATION - 1) / norm
        for j in range(resources):
            dilation[r, j] += part * seen[j]


@njit(cache=True, nogil=True)
def _relaxed_value(
    items: Ints, model: Ints, most: Ints, per_model: int, value: Floats, share: Floats, capacity: Floats,
    prices: Floats, used: Floats,
) -> float:  # fmt: skip
    """The Lagrangian relaxation at `prices`, and what of each resource its content uses."""
    resources, count, k = capacity.shape[0], items.shape[0], 0
    worth = 0.0
    for r in range(resources):
        worth += prices[r] * capacity[r]
        used[r] = 0.0
    while k < count:
        m, chosen, gain, copies = model[items[k]], -1, 0.0, 0
        while k < count and model[items[k]] == m:
            i = items[k]
            profit = value[i]
            for r in range(resources):
                profit -= prices[r] * share[i, r]
            if profit > gain:
                gain, chosen = profit, i
            copies = max(copies, min(per_model, most[i]))
            k += 1
        if chosen >= 0:
            worth += copies * gain
            for r in range(resources):
                used[r] += copies * share[chosen, r]
    return worth


@njit(cache=True, nogil=True)
def _regrets(items: Ints, model: Ints, value: Floats, share: Floats, prices: Floats, regret: Floats) -> None:
    count, k = items.shape[0], 0
    while k < count:
        start, m, gain = k, model[items[k]], 0.0
        while k < count and model[items[k]] == m:
            profit = value[items[k]]
            for r in range(share.shape[1]):
                profit -= prices[r] * share[items[k], r]
            regret[k] = profit
            gain = max(gain, profit)
            k += 1
        for j in range(start, k):
            regret[j] = gain - regret[j]


@dataclass(slots=True, eq=False)
class Case:
    """`items` by group; `upper` [resources] what the residents may take; `present` backends have paid, `open` ones may.

    `taken` [resources]: what the relaxed content takes, in parts of a device.
    """

    bound: float
    items: Ints
    upper: Ints
    present: tuple[int, ...]
    open: tuple[int, ...]
    prices: Floats
    taken: Floats

    def __lt__(self, other: Case) -> bool:
        return self.bound > other.bound


class Cases:
    """The tree of cases of one device kind."""

    def __init__(self, items: Items, per_model: int) -> None:
        self._items, self._per_model = items, per_model
        self.borne = np.minimum(items.limit, items.capacity)
        self._share = items.use / items.capacity
        self._fragile = np.flatnonzero((self.borne < items.capacity).any(axis=0))
        self._costly = tuple(np.flatnonzero(items.overhead > 0).tolist())
        self._prices = np.full(len(items.capacity), 1 / len(items.capacity))

    @cached_property
    def _by_group(self) -> Ints:
        return np.argsort(self._items.group, kind="stable")

    def root(self, candidates: Ints, value: Floats, most: Ints, goal: float) -> Case | None:
        """The case that holds for all contents; None where none is worth more than `goal`."""
        wanted = np.zeros(len(self._items.model), np.bool_)
        wanted[candidates] = True
        items = self._by_group[wanted[self._by_group]]
        whole = Case(np.inf, items, self._items.capacity, (), self._costly, self._prices, self._prices)
        case = self.relaxed(whole, value, most, goal, FIRST_STEPS)
        if case is not None:
            self._prices = np.maximum(case.prices, LEAST_PRICE)
        return case

    def parts(self, case: Case, goal: float) -> Iterator[Case] | None:
        """The two cases that it consists of, yet to be relaxed; None where there is nothing to tell apart.

        Told apart is what the relaxed content exceeds most: what one of the items bears, or what is left for
        overheads.
        """
        excess, parts = LEAST_EXCESS, None
        whole = self._items.capacity
        taken = np.where(case.prices > LEAST_PRICE, case.upper / whole, case.taken)
        for resource in self._fragile.tolist():
            reach = min(taken[resource] * whole[resource], case.upper[resource])
            borne = self.borne[case.items, resource]
            levels = np.unique(borne[borne < reach])
            if len(levels) and 1 - levels[len(levels) // 2] / reach > excess:
                level = int(levels[len(levels) // 2])
                excess, parts = 1 - level / reach, self._by_level(case, resource, level)
        for backend in case.open:
            share = case.prices[0] * self._items.overhead[backend] / whole[0] / goal
            if share > excess:
                excess, parts = share, self._by_backend(case, backend)
        return parts

    def _by_level(self, case: Case, resource: int, level: int) -> Iterator[Case]:
        """Someone bears no more than the level, or all bear more."""
        shrunk = case.upper.copy()
        shrunk[resource] = level
        yield replace(case, upper=shrunk)
        yield replace(case, items=case.items[self.borne[case.items, resource] > level])

    def _by_backend(self, case: Case, backend: int) -> Iterator[Case]:
        rest = tuple(b for b in case.open if b != backend)
        yield replace(case, present=(*case.present, backend), open=rest)
        yield replace(case, items=case.items[self._items.backend[case.items] != backend], open=rest)

    def relaxed(self, case: Case, value: Floats, most: Ints, goal: float, steps: int = STEPS) -> Case | None:
        """With its bound, and without items that do not go with more than `goal`; None where no content does."""
        items = self._items
        if not len(case.items):
            return None
        upper = np.minimum(case.upper, self.borne[case.items].max(axis=0))
        room = self.room(upper, case)
        if room[0] < 0:
            return None
        capacity = np.maximum(room / items.capacity, NOTHING)
        prices, taken, regret = case.prices.copy(), np.empty(len(capacity)), np.empty(len(case.items))
        bound = relax(case.items, items.group, most, self._per_model, value, self._share, capacity, prices, goal,
                      steps, taken, regret)  # fmt: skip
        if bound <= goal:
            return None
        kept = bound - regret > goal
        bound -= self._forced(case, regret)
        if bound <= goal:
            return None
        return replace(case, bound=bound, items=case.items[kept], upper=upper, prices=prices, taken=taken)

    def room(self, upper: Ints, case: Case) -> Ints:
        """`upper` less the overheads that are paid."""
        left = upper.copy()
        left[0] -= self._items.overhead[list(case.present)].sum()
        return left

    def _forced(self, case: Case, regret: Floats) -> float:
        """What it costs at least that someone has the upper level, or less, and that each backend has a resident."""
        most = 0.0
        for resource in self._fragile.tolist():
            if case.upper[resource] < self._items.capacity[resource]:
                weak = self.borne[case.items, resource] <= case.upper[resource]
                most = max(most, float(regret[weak].min(initial=np.inf)))
        for backend in case.present:
            there = self._items.backend[case.items] == backend
            most = max(most, float(regret[there].min(initial=np.inf)))
        return most
