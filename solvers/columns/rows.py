"""The rows of the master problem: what a model still asks for, as inequalities over its items.

Each is a row of planner.domain.certificate, with the same whole numbers: duals found here are proof there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.certificate import RowKind
from planner.domain.problem import Model
from solvers.columns.covers import Demand
from solvers.columns.instance import UNLIMITED, Instance
from solvers.columns.wanted import Wanted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """sum over items of coefficient x number >= rhs. `subject` is a model.

    `kind` None: a row of a cover; the replicas of one capacity, `divisor`, or the choice of a cover itself.
    """

    kind: RowKind | None
    subject: str
    rhs: int
    divisor: int = 1


# With more replicas of the largest capacity than these, what whole replicas waste is little.
MOST_IN_COVER = 16
# The rows of covers make a master of more models than these slow before they make it tight.
MOST_COVERED = 120
IMPOSSIBLE = 1e6


class Rows:
    """Rows of all models that wait, and for each kind's items the rows that they stand in.

    `demands`: models whose demand is a choice of covers. `index[kind]` and `coefficient[kind]` [items, width]: row
    and whole coefficient, padded with 0 in row 0.
    """

    def __init__(self, instance: Instance, wanted: Wanted) -> None:
        self._instance = instance
        self.rows: list[Row] = []
        self.demands: list[Demand] = []
        self.largest: list[int] = []
        self._entries: list[list[tuple[int, int, int]]] = [[] for _ in instance.items]
        waiting = np.flatnonzero(wanted.waiting).tolist()
        self._covers = len(waiting) <= MOST_COVERED
        for place in waiting:
            self._model(place, instance.problem.models[place], wanted)
        self.rhs = np.array([row.rhs for row in self.rows], np.float64)
        self._given = np.array([0 if row.kind is None else row.rhs for row in self.rows], np.float64)
        self.scale = np.array(self.largest, np.float64)
        self.index, self.coefficient = self._arrays()

    def values(self, kind: int, duals: Floats) -> Floats:
        """What an item is worth: sum over its rows of dual x coefficient."""
        if not len(duals):
            return np.zeros(len(self.index[kind]))
        worth: Floats = (duals[self.index[kind]] * self.coefficient[kind]).sum(axis=1)
        return worth

    def value(self, duals: Floats) -> float:
        """What these prices give for all that is asked for: right sides, and the cheapest covers."""
        covers = sum(min(demand.cheapest(duals[demand.rows])[0], IMPOSSIBLE) for demand in self.demands)
        return float(duals @ self._given) + covers

    def _model(self, place: int, model: Model, wanted: Wanted) -> None:
        missing, least, most = (int(a[place]) for a in (wanted.missing_mrps, wanted.at_least, wanted.at_most))
        items = self._instance.items
        caps = {
            (kind, item): min(int(items[kind].capacity_mrps[item]), missing)
            for kind, item in self._instance.by_model[place]
        }
        sizes = set(caps.values())
        if not sizes:
            return
        if len(sizes) == 1:
            size = max(1, sizes.pop())
            needed = -(-missing // size)
            row = Row(RowKind.DEMAND, model.name, needed, size) if needed >= least else None
            self._add(row or Row(RowKind.REPLICAS_MIN, model.name, least), dict.fromkeys(caps, 1))
            return
        if self._covers and 0 < missing <= MOST_IN_COVER * max(sizes):
            self._cover(model, caps, Demand(place, np.array(sorted(sizes)), missing, least, most))
            return
        if missing:
            self._add(Row(RowKind.DEMAND, model.name, missing), caps)
        if least > -(-missing // max(sizes)):
            self._add(Row(RowKind.REPLICAS_MIN, model.name, least), dict.fromkeys(caps, 1))
        if most < UNLIMITED and most < -(-missing // max(1, min(sizes))):
            self._add(Row(RowKind.REPLICAS_MAX, model.name, -most), dict.fromkeys(caps, -1))

    def _cover(self, model: Model, caps: dict[tuple[int, int], int], demand: Demand) -> None:
        demand.first_row = len(self.rows)
        for capacity in demand.capacity_mrps.tolist():
            of_class = [at for at, size in caps.items() if size == capacity]
            self._add(Row(None, model.name, 0, capacity), dict.fromkeys(of_class, 1))
        self._add(Row(None, model.name, 1), {})
        self.demands.append(demand)

    def _add(self, row: Row, coefficients: dict[tuple[int, int], int]) -> None:
        number = len(self.rows)
        self.rows.append(row)
        self.largest.append(max(map(abs, coefficients.values()), default=1) or 1)
        for (kind, item), coefficient in coefficients.items():
            self._entries[kind].append((item, number, coefficient))

    def _arrays(self) -> tuple[list[Ints], list[Ints]]:
        index, coefficient = [], []
        for entries, items in zip(self._entries, self._instance.items, strict=True):
            filled = [0] * len(items.choices)
            for item, _, _ in entries:
                filled[item] += 1
            width = max(filled, default=0)
            rows = np.zeros((len(items.choices), width), np.int64)
            values = np.zeros((len(items.choices), width), np.int64)
            filled = [0] * len(items.choices)
            for item, row, value in entries:
                rows[item, filled[item]], values[item, filled[item]] = row, value
                filled[item] += 1
            index.append(rows)
            coefficient.append(values)
        return index, coefficient
