"""The rows of the master problem: what a model still asks for, as inequalities over its items.

Each is a row of planner.domain.certificate, with the same whole numbers: duals found here are proof there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.certificate import RowKind
from planner.domain.problem import Model
from solvers.columns.instance import UNLIMITED, Instance
from solvers.columns.wanted import Wanted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """sum over items of coefficient x number >= rhs. `subject` is a model."""

    kind: RowKind
    subject: str
    rhs: int
    divisor: int = 1


class Rows:
    """Rows of all models that wait, and for each kind's items the rows that they stand in.

    `index[kind]` and `coefficient[kind]` [items, width]: row and whole coefficient, padded with 0 in row 0.
    """

    def __init__(self, instance: Instance, wanted: Wanted, *, divisors: dict[int, tuple[int, ...]]) -> None:
        self._instance = instance
        self.rows: list[Row] = []
        self.largest: list[int] = []
        self._entries: list[list[tuple[int, int, int]]] = [[] for _ in instance.items]
        for place in np.flatnonzero(wanted.waiting).tolist():
            self._model(place, instance.problem.models[place], wanted, divisors.get(place, ()))
        self.rhs = np.array([row.rhs for row in self.rows], np.float64)
        self.scale = np.array(self.largest, np.float64)
        self.index, self.coefficient = self._arrays()

    def values(self, kind: int, duals: Floats) -> Floats:
        """What an item is worth: sum over its rows of dual x coefficient."""
        if not len(duals):
            return np.zeros(len(self.index[kind]))
        worth: Floats = (duals[self.index[kind]] * self.coefficient[kind]).sum(axis=1)
        return worth

    def _model(self, place: int, model: Model, wanted: Wanted, divisors: tuple[int, ...]) -> None:
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
        if missing:
            for divisor in (1, *divisors):
                rhs = -(-missing // divisor)
                self._add(Row(RowKind.DEMAND, model.name, rhs, divisor), {k: -(-c // divisor) for k, c in caps.items()})
        if least > -(-missing // max(sizes)):
            self._add(Row(RowKind.REPLICAS_MIN, model.name, least), dict.fromkeys(caps, 1))
        if most < UNLIMITED and most < -(-missing // max(1, min(sizes))):
            self._add(Row(RowKind.REPLICAS_MAX, model.name, -most), dict.fromkeys(caps, -1))

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
