"""The linear master problem over the columns known so far, warm-started with HiGHS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column
from solvers.columns.covers import Demand
from solvers.columns.instance import Instance
from solvers.columns.rows import Rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# What one whole unit of a row may cost while no column serves it, in units of the dearest GPU.
PENALTY = 8.0
NO_CHOICE = 1e5
PRIMAL_SIMPLEX = 4


@dataclass(frozen=True, slots=True)
class Cap:
    """`sum over groups of weight x GPUs in use <= most`: an objective that was dealt with, or a side of a branching."""

    weights: tuple[float, ...]
    most: float


@dataclass(frozen=True, slots=True)
class Duals:
    """Prices >= 0: per row and whole unit of it, per GPU of a group's stock, and per unit of each cap."""

    rows: Floats
    stock: Floats
    caps: Floats

    def mixed(self, other: Duals, share: float) -> Duals:
        """`share` of this one, the rest of the other."""
        return Duals(*(share * mine + (1 - share) * theirs for mine, theirs in
                       ((self.rows, other.rows), (self.stock, other.stock), (self.caps, other.caps))))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Solution:
    """`amounts` [columns] in the order in which they were added; `unserved`: rows that the columns do not cover."""

    value: float
    duals: Duals
    amounts: Floats
    unserved: float


class Master:
    """Costs are those of one GPU by group, the dearest one being about 1."""

    def __init__(
        self, instance: Instance, rows: Rows, stock: Sequence[int], costs: Sequence[float], caps: Sequence[Cap]
    ) -> None:
        self._instance, self._rows, self._costs, self._caps = instance, rows, costs, caps
        self.columns: list[Column] = []
        self._places: list[int] = []
        self._covers: set[tuple[int, tuple[int, ...]]] = set()
        self._width = len(rows.rows)
        self._known: set[Column] = set()
        self._highs = _highs(rows, stock, caps)

    def add(self, columns: Iterable[Column]) -> int:
        """Add what is new; how many that were."""
        fresh = [c for c in dict.fromkeys(columns) if c not in self._known]
        if not fresh:
            return 0
        self._places.extend(range(self._width, self._width + len(fresh)))
        number, row, amount = self._entries(fresh)
        self._append(
            np.array([self._costs[column.group] for column in fresh]), np.searchsorted(number, np.arange(len(fresh))),
            row, amount,
        )  # fmt: skip
        self.columns.extend(fresh)
        self._known.update(fresh)
        return len(fresh)

    def add_covers(self, covers: Iterable[tuple[Demand, tuple[int, ...]]]) -> int:
        """Add covers that are new; how many that were."""
        fresh = [(d, c) for d, c in covers if (d.model, c) not in self._covers]
        if not fresh:
            return 0
        entries = []
        for demand, cover in fresh:
            self._covers.add((demand.model, cover))
            entries.append(demand.entries(cover))
        starts = np.cumsum([0, *map(len, entries)])[:-1]
        row = np.array([place for entry in entries for place, _ in entry])
        amount = np.array([share for entry in entries for _, share in entry], np.float64)
        self._append(np.zeros(len(fresh)), starts, row, amount)
        return len(fresh)

    def _append(self, costs: Floats, starts: Ints, row: Ints, amount: Floats) -> None:
        count = len(costs)
        self._highs.addCols(
            count, costs, np.zeros(count), np.full(count, highspy.kHighsInf), len(row), starts.astype(np.int32),
            row.astype(np.int32), amount,
        )  # fmt: skip
        self._width += count

    def solve(self) -> Solution:
        self._highs.run()
        solution = self._highs.getSolution()
        prices = np.maximum(np.array(solution.row_dual), 0.0)
        amounts = np.array(solution.col_value)
        rows, groups = len(self._rows.rows), len(self._instance.groups)
        duals = Duals(prices[:rows] / self._rows.scale, prices[rows : rows + groups], prices[rows + groups :])
        value = self._highs.getInfo().objective_function_value
        return Solution(value, duals, amounts[self._places], float(amounts[:rows].sum()))

    def unsolved(self) -> Solution:
        """No solution: nothing is priced, nothing is served."""
        rows, groups, caps = len(self._rows.rows), len(self._instance.groups), len(self._caps)
        duals = Duals(np.zeros(rows), np.zeros(groups), np.zeros(caps))
        return Solution(np.inf, duals, np.zeros(len(self.columns)), np.inf)

    def _entries(self, columns: Sequence[Column]) -> tuple[Ints, Ints, Floats]:
        """(column, row, amount) by column: served by its items, one GPU of the stock, and its part of each cap."""
        rows, groups = self._rows, len(self._instance.groups)
        width = len(rows.rows) + groups + len(self._caps)
        group = np.array([column.group for column in columns])
        places = np.arange(len(columns)) * width
        keys, amounts = [places + len(rows.rows) + group], [np.full(len(columns), -1.0)]
        for place, cap in enumerate(self._caps):
            keys.append(places + len(rows.rows) + groups + place)
            amounts.append(-np.array(cap.weights)[group])
        for kind, (index, coefficient) in enumerate(zip(rows.index, rows.coefficient, strict=True)):
            number, item = self._instance.items_of(columns, kind)
            row, served = index[item], coefficient[item]
            there = served != 0
            keys.append((number[:, None] * width + row)[there])
            amounts.append(served[there] / rows.scale[row[there]])
        key, same = np.unique(np.concatenate(keys), return_inverse=True)
        summed: Floats = np.bincount(same, np.concatenate(amounts)).astype(np.float64)
        return key // width, key % width, summed


def quiet_highs() -> highspy.Highs:
    """HiGHS that prints nothing, on one thread."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    # With columns added the last basis is still feasible: the primal simplex goes on from there.
    highs.setOptionValue("simplex_strategy", PRIMAL_SIMPLEX)
    return highs


def _highs(rows: Rows, stock: Sequence[int], caps: Sequence[Cap]) -> highspy.Highs:
    """Rows >= with one dear column each that stands for what nothing serves; stock and caps turned to >=."""
    highs = quiet_highs()
    count = len(rows.rows)
    lower = np.concatenate([rows.rhs / rows.scale, -np.array(stock, np.float64), [-cap.most for cap in caps]])
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count, len(lower)
    lp.row_lower_, lp.row_upper_ = lower, np.full(len(lower), highspy.kHighsInf)
    lp.col_cost_, lp.col_lower_ = _penalties(rows), np.zeros(count)
    lp.col_upper_ = np.full(count, highspy.kHighsInf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(count + 1)
    lp.a_matrix_.index_ = np.arange(count)
    lp.a_matrix_.value_ = np.ones(count)
    highs.passModel(lp)
    return highs


def _penalties(rows: Rows) -> Floats:
    """The choice of a cover must cost more than any cover that nothing serves."""
    penalties = np.full(len(rows.rows), PENALTY)
    penalties[[demand.choice for demand in rows.demands]] = NO_CHOICE
    return penalties
