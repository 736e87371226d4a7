"""Prices to begin with: the duals of the relaxation in which contents may be cut up and mixed at will.

Of each resource of each device kind the items take no more than the GPUs in use have; what single residents bear, and
what does not go together, is left aside.
"""

from __future__ import annotations

from collections import Counter

import highspy
import numpy as np

from solvers.columns.generation import Task
from solvers.columns.master import PENALTY, Duals, quiet_highs
from solvers.columns.rows import Rows


def area_duals(task: Task, rows: Rows) -> Duals:
    """Prices of the rows; stock and caps cost nothing yet."""
    instance = task.instance
    highs = quiet_highs()
    inf = highspy.kHighsInf
    for rhs, scale in zip(rows.rhs, rows.scale, strict=True):
        highs.addRow(float(rhs / scale), inf, 0, [], [])
    first = [highs.getNumRow()]
    for items in instance.items:
        for _ in items.capacity:
            highs.addRow(-inf, 0.0, 0, [], [])
        first.append(highs.getNumRow())
    for row in range(len(rows.rows)):
        highs.addCol(PENALTY, 0.0, inf, 1, np.array([row], np.int32), np.array([1.0]))
    for demand in rows.demands:
        for cover in demand.plain():
            places, amounts = zip(*demand.entries(cover), strict=True)
            highs.addCol(0.0, 0.0, inf, len(places), np.array(places, np.int32), np.array(amounts))
    for kind, items in enumerate(instance.items):
        share = items.use / items.capacity
        resources = np.arange(first[kind], first[kind + 1])
        for item in range(len(items.model)):
            used = rows.coefficient[kind][item] != 0
            index = np.concatenate([rows.index[kind][item][used], resources]).astype(np.int32)
            served = rows.coefficient[kind][item][used] / rows.scale[rows.index[kind][item][used]]
            highs.addCol(0.0, 0.0, inf, len(index), index, np.concatenate([served, share[item]]))
    for group, number, cost in zip(instance.groups, task.stock, task.costs, strict=True):
        for layout in group.layouts:
            counts = Counter(group.kinds_of(layout))
            index = np.concatenate([np.arange(first[k], first[k + 1]) for k in counts]).astype(np.int32)
            given = np.concatenate([np.full(first[k + 1] - first[k], -float(count)) for k, count in counts.items()])
            highs.addCol(cost, 0.0, float(number), len(index), index, given)
    highs.run()
    prices = np.maximum(np.array(highs.getSolution().row_dual)[: len(rows.rows)], 0.0) / rows.scale
    return Duals(prices, np.zeros(len(instance.groups)), np.zeros(len(task.caps)))
