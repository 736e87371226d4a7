"""The least that a model's demand costs by given prices of its replicas, in whole replicas.

A model with few replicas and several capacities wastes what no linear demand row shows. Here its demand is an integer
program of its own: by class c of capacity, n_c whole, `sum capacity_c n_c >= missing`, and the number of replicas
within its limits. The relaxation over the hull of its solutions (covers) is what Dantzig-Wolfe decomposition of the
demand gives, and its bound adds up the cheapest covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Demand:
    """`capacity_mrps` [classes], cut at `missing_mrps`.

    In the master problem the classes take rows from `first_row` on, and after them comes the row that asks for one
    cover.
    """

    model: int
    capacity_mrps: Ints
    missing_mrps: int
    at_least: int
    at_most: int
    first_row: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.choice)

    @property
    def choice(self) -> int:
        return self.first_row + len(self.capacity_mrps)

    def entries(self, cover: Sequence[int]) -> list[tuple[int, float]]:
        """(row, amount) of a cover in the master problem: what it asks for, and that it is the one."""
        asked = [(self.first_row + place, -float(count)) for place, count in enumerate(cover) if count]
        return [*asked, (self.choice, 1.0)]

    def cheapest(self, prices: Floats) -> tuple[float, tuple[int, ...]]:
        """The price of the cheapest cover [classes], and the cover; infinite where there is none."""
        order = np.argsort(prices / self.capacity_mrps, kind="stable")
        counts = np.zeros(len(order), np.int64)
        value = least_cover(
            self.capacity_mrps[order], prices[order], self.missing_mrps, self.at_least, self.at_most, counts
        )
        cover = np.zeros(len(order), np.int64)
        cover[order] = counts
        return float(value), tuple(cover.tolist())

    def plain(self) -> list[tuple[int, ...]]:
        """Covers of one class each."""
        found = []
        for place, capacity in enumerate(self.capacity_mrps):
            count = max(-(-self.missing_mrps // int(capacity)), self.at_least)
            if count <= self.at_most:
                found.append(tuple(count if c == place else 0 for c in range(len(self.capacity_mrps))))
        return found


@njit(cache=True)
def least_cover(capacity: Ints, price: Floats, missing: int, at_least: int, at_most: int, best_counts: Ints) -> float:
    """Branch and bound; classes come by price per capacity. `best_counts` [classes] receives the cover."""
    classes = capacity.shape[0]
    cheapest = price[0]
    for c in range(1, classes):
        cheapest = min(cheapest, price[c])
    counts = np.zeros(classes, np.int64)
    best = np.inf
    level, left, spent, number = 0, missing, 0.0, 0
    down = True
    while level >= 0:
        if down and (left <= 0 or level == classes):
            short = max(0, at_least - number)
            total = spent + short * cheapest
            if left <= 0 and number + short <= at_most and total < best:
                best = total
                for c in range(classes):
                    best_counts[c] = counts[c] if c < level else 0
                for c in range(classes):
                    if price[c] == cheapest and short > 0:
                        best_counts[c] += short
                        short = 0
            down = False
            level -= 1
        elif down:
            # Of the first class as many as may be of use; then fewer and fewer.
            take = min((left + capacity[level] - 1) // capacity[level], at_most - number)
            if spent + left * (price[level] / capacity[level]) >= best - 1e-12:
                down = False
                level -= 1
            else:
                counts[level] = take
                left -= take * capacity[level]
                spent += take * price[level]
                number += take
                level += 1
        else:
            if counts[level] == 0:
                level -= 1
                continue
            counts[level] -= 1
            left += capacity[level]
            spent -= price[level]
            number -= 1
            level += 1
            down = True
    return best
