"""From floating-point duals to a proof in whole numbers (planner.domain.certificate)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.domain.certificate import Leaf, Proof, RowDual, RowKind
from planner.domain.problem import Objective
from solvers.columns.generation import Relaxed, Task

# Duals are whole multiples of this share of the dearest GPU's cost.
FINEST = 10**13
# Taken off the duals, so that sums of floating-point numbers that hold just so hold in whole numbers too.
MARGIN = 1e-9
NODE_LIMIT = 2_000_000


def proof_of(
    objective: Objective, task: Task, relaxed: Relaxed, largest_cost: int, unit: int, fixed: Sequence[tuple[str, int]],
    shrink: float = 1.0,
) -> Proof:  # fmt: skip
    """One leaf: the duals of a linear relaxation. `fixed` names the task's caps: earlier objective, value reached.

    `largest_cost` is what a cost of 1 in the task means in the objective's integer unit; `shrink` scales the
    duals of the rows down, which makes the proof easier to check and its bound weaker.
    """
    scale = max(1, FINEST // largest_cost)
    whole = scale * largest_cost
    duals, numerator = [], 0
    for row, price in zip(relaxed.rows.rows, relaxed.duals.rows, strict=True):
        dual = math.floor(float(price) * whole * shrink * (1 - MARGIN))
        # Where models may be left out, a minimum of replicas is no row of its own.
        if dual > 0 and not (row.kind is RowKind.REPLICAS_MIN and task.instance.problem.allow_unserved):
            duals.append(RowDual(row=row.kind, subject=row.subject, divisor=row.divisor, dual=dual))
            numerator += dual * row.rhs
    for group, price, stock in zip(task.instance.groups, relaxed.duals.stock, task.stock, strict=True):
        dual = math.ceil(float(price) * whole * (1 + MARGIN))
        if dual > 0:
            duals.append(RowDual(row=RowKind.STOCK, subject=group.name, dual=dual))
            numerator -= dual * stock
    for (name, value), cap, price in zip(fixed, task.caps, relaxed.duals.caps, strict=True):
        dual = math.ceil(float(price) * cap.most / max(1, value) * whole * (1 + MARGIN))
        if dual > 0:
            duals.append(RowDual(row=RowKind.FIXED, subject=name, dual=dual))
            numerator -= dual * value
    bound = unit * -(-numerator // (scale * unit))
    leaf = Leaf(duals=tuple(duals), scale=scale, numerator=numerator)
    return Proof(objective=objective, bound=max(0, bound), leaves=(leaf,), node_limit=NODE_LIMIT)
