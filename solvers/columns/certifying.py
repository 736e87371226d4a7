"""From floating-point duals to a proof in whole numbers (planner.domain.certificate)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from planner.domain.certificate import Cover, Leaf, Proof, ReplicaDual, RowDual, RowKind
from planner.domain.gpu_groups import gpu_groups
from planner.domain.limits import limits_of
from planner.domain.problem import Objective
from solvers.columns.covers import Demand
from solvers.columns.generation import Relaxed, Task

# Duals are whole multiples of this share of the dearest GPU's cost.
FINEST = 10**13
# Taken off the duals, so that sums of floating-point numbers that hold just so hold in whole numbers too.
MARGIN = 1e-9
NODE_LIMIT = 5_000_000


@dataclass(frozen=True, slots=True)
class Held:
    """An earlier objective, held at the value that the plan reached; `largest_cost`: of its dearest GPU."""

    objective: Objective
    value: int
    largest_cost: int


def proof_of(
    objective: Objective, task: Task, relaxed: Relaxed, largest_cost: int, unit: int, held: Sequence[Held]
) -> Proof:
    """One leaf: the duals of a linear relaxation. `held` are the task's caps, in their order.

    `largest_cost` is what a cost of 1 in the task means in the objective's integer unit.
    """
    scale = max(1, FINEST // largest_cost)
    whole = scale * largest_cost
    prices = [math.floor(float(price) * whole * (1 - MARGIN)) for price in relaxed.duals.rows]
    duals, numerator = [], 0
    for row, dual in zip(relaxed.rows.rows, prices, strict=True):
        # Where models may be left out, a minimum of replicas is no row of its own.
        optional = row.kind is RowKind.REPLICAS_MIN and task.instance.problem.allow_unserved
        if dual > 0 and row.kind is not None and not optional:
            duals.append(RowDual(row=row.kind, subject=row.subject, divisor=row.divisor, dual=dual))
            numerator += dual * row.rhs
    groups = gpu_groups(task.instance.problem)
    stocked = {kind for group in groups for kind in group.kinds}
    covers = [_cover(task, demand, prices[demand.rows], stocked) for demand in relaxed.rows.demands]
    numerator += sum(cover.value for cover in covers)
    names = {gpu: alike.name for alike in groups for gpu in alike.gpus}
    for group, price in zip(task.instance.groups, relaxed.duals.stock, strict=True):
        dual = math.ceil(float(price) * whole * (1 + MARGIN))
        # GPUs that differ only in devices of no use are alike here, and told apart in a certificate.
        counts = Counter(names[gpu[0].gpu] for gpu in group.gpus) if dual > 0 else Counter[str]()
        for name, count in counts.items():
            duals.append(RowDual(row=RowKind.STOCK, subject=name, dual=dual))
            numerator -= dual * count
    for earlier, price in zip(held, relaxed.duals.caps, strict=True):
        dual = math.ceil(float(price) / earlier.largest_cost * whole * (1 + MARGIN))
        if dual > 0:
            duals.append(RowDual(row=RowKind.FIXED, subject=earlier.objective, dual=dual))
            numerator -= dual * earlier.value
    bound = unit * -(-numerator // (scale * unit))
    leaf = Leaf(duals=tuple(duals), covers=tuple(covers), scale=scale, numerator=numerator)
    # Below 0 what rows asked for is missing that have no place here; duals that proved nothing need not hold.
    if bound < 0 or relaxed.bound <= 0:
        bound, leaf = 0, Leaf(duals=(), covers=(), scale=scale, numerator=0)
    return Proof(objective=objective, bound=bound, leaves=(leaf,), node_limit=NODE_LIMIT)


def _cover(task: Task, demand: Demand, prices: Sequence[int], stocked: Collection[str]) -> Cover:
    """`stocked`: kinds that the fleet has devices of.

    The search for the cheapest cover is in floating point: a little is taken off, which costs nothing.
    """
    _, counts = demand.cheapest(np.array(prices, np.float64))
    value = sum(count * price for count, price in zip(counts, prices, strict=True))
    model = task.instance.problem.models[demand.model]
    priced = dict(zip(demand.capacity_mrps.tolist(), prices, strict=True))
    # Options that others beat were left out; a replica that serves no more is worth no more.
    for option in task.instance.problem.options:
        size = min(option.capacity_mrps, model.peak_mrps)
        own = option.model == model.name and option.kind in stocked
        if own and size not in priced and limits_of(task.instance.problem, option) is not None:
            priced[size] = min((price for known, price in priced.items() if known >= size), default=0)
    duals = tuple(ReplicaDual(capacity_mrps=size, dual=price) for size, price in sorted(priced.items()))
    return Cover(subject=model.name, duals=duals, value=max(0, value - value // 10**12 - 1))
