"""What one would use without Planner where all GPUs are alike; independent of `solvers`.

They share only the rules of `planner.domain`, and the check of every plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, gcd

from heuristics import best_of
from items import Items, items_of

from planner.domain.plan import Placement
from planner.domain.problem import Problem

# A variable takes a kilobyte or more while CP-SAT presolves it.
MOST_CPSAT_VARIABLES = 400_000
WORKERS = 2


@dataclass(frozen=True)
class Answer:
    """`bound` in GPUs; `note` says how the answer came about, or why there is none."""

    placements: tuple[Placement, ...] | None
    bound: int | None
    note: str = ""


def greedy_heuristics(problem: Problem, _seconds: float) -> Answer:
    items = items_of(problem)
    packed = best_of(items)
    return Answer(items.placements(packed.rows), items.area_bound, packed.name)


def naive_cpsat(problem: Problem, seconds: float) -> Answer:
    """A whole number per kind and GPU, and a flag per GPU in use; equal GPUs are used in their order."""
    started = time.monotonic()
    items = items_of(problem)
    hint = best_of(items)
    kinds = len(items.count)
    if kinds * hint.bins > MOST_CPSAT_VARIABLES:
        return Answer(None, None, f"{kinds * hint.bins:,} variables are too many")

    from ortools.sat.python import cp_model  # 2 s that the other peers need not wait

    model = cp_model.CpModel()
    used = [model.new_bool_var("") for _ in range(hint.bins)]
    put = [[model.new_int_var(0, min(items.alone(k), int(items.count[k])), "") for k in range(kinds)] for _ in used]
    for k in range(kinds):
        model.add(sum(row[k] for row in put) == int(items.count[k]))
    for row, flag in zip(put, used, strict=True):
        _one_gpu(model, items, row, flag)
    for one, other in pairwise(used):
        model.add_implication(other, one)
    hinted = {(place, kind): number for kind, place, number in hint.rows}
    for place, row in enumerate(put):
        model.add_hint(used[place], value=True)
        for k, variable in enumerate(row):
            model.add_hint(variable, hinted.get((place, k), 0))
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = WORKERS
    solver.parameters.max_time_in_seconds = max(1.0, seconds - (time.monotonic() - started))
    solver.parameters.catch_sigint_signal = False  # else it takes Ctrl-C away from Python for good
    status = solver.solve(model)
    bound = max(0, ceil(solver.best_objective_bound - 1e-6))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(None, bound, "no plan in time")
    found = [(k, place, solver.value(v)) for place, row in enumerate(put) for k, v in enumerate(row) if solver.value(v)]
    return Answer(items.placements(found), bound)


def _one_gpu(model: object, items: Items, row: list[object], used: object) -> None:
    """Memory and busy time of one GPU. Coefficients over what they share, so that they stay small."""
    from ortools.sat.python.cp_model import LinearExpr

    for d, whole in enumerate(items.capacity.tolist()):
        needs, limits = items.need[:, d].tolist(), items.limit[:, d].tolist()
        shared = gcd(whole, *needs, *limits)
        total = LinearExpr.weighted_sum(row, [need // shared for need in needs])
        model.add(total <= whole // shared * used)
        for k, limit in enumerate(limits):
            if limit < whole:
                here = model.new_bool_var("")
                model.add(row[k] == 0).only_enforce_if(~here)
                model.add(total <= limit // shared).only_enforce_if(here)


def arc_flow(problem: Problem, seconds: float) -> Answer:
    try:
        import arcflow
    except ImportError as error:
        return Answer(None, None, f"not installed: {error}")
    items = items_of(problem)
    try:
        flow = arcflow.solve(items, seconds)
    except arcflow.NoGraphError as error:
        return Answer(None, None, str(error))
    return Answer(None if flow.rows is None else items.placements(flow.rows), flow.bound, flow.note)


PEERS: dict[str, Callable[[Problem, float], Answer]] = {
    "heuristics": greedy_heuristics,
    "cpsat": naive_cpsat,
    "arc-flow": arc_flow,
}
