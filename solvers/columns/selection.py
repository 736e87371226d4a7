"""The restricted master problem in whole numbers, by CP-SAT: the best plan made of columns that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from solvers.base import SolveOptions
from solvers.columns.column import Column
from solvers.columns.generation import Task
from solvers.columns.instance import UNLIMITED
from solvers.columns.wanted import served
from solvers.cpsat.search import run_until_stopped

if TYPE_CHECKING:
    from solvers.columns.search import Costs

# With more columns CP-SAT spends its time on reading them.
MOST_COLUMNS = 6_000


def select(
    task: Task,
    columns: Sequence[Column],
    plan: Sequence[Column] | None,
    bound: int,
    costs: Costs,
    options: SolveOptions,
    seconds: float,
) -> list[Column] | None:
    """A plan from `columns`, at least as good as `plan`; None where there is none within the time."""
    known = list(dict.fromkeys([*(plan or ()), *columns[-MOST_COLUMNS:]]))
    if seconds < 1 or not known:
        return None
    model = cp_model.CpModel()
    counts = [model.new_int_var(0, task.stock[column.group], "") for column in known]
    _rules(model, task, known, counts)
    cost = cp_model.LinearExpr.weighted_sum(counts, [costs.main[column.group] for column in known])
    model.add(cost >= bound)
    if plan is not None:
        model.add(cost <= costs.total(plan))
        used = Counter(plan)
        for column, count in zip(known, counts, strict=True):
            model.add_hint(count, used[column])
    model.minimize(cost)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    if options.iterations is not None:
        solver.parameters.max_deterministic_time = 10.0
        solver.parameters.interleave_search = True
    solver.parameters.use_lns = False  # the neighbourhoods are ours, and see columns that are not known yet
    solver.parameters.random_seed = options.seed
    solver.parameters.num_workers = options.workers
    solver.parameters.catch_sigint_signal = False
    status, interrupted = run_until_stopped(solver, model)
    if interrupted:
        raise KeyboardInterrupt
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [column for column, count in zip(known, counts, strict=True) for _ in range(solver.value(count))]


def _rules(model: cp_model.CpModel, task: Task, known: Sequence[Column], counts: Sequence[cp_model.IntVar]) -> None:
    """Stock by group; demand and replicas by model."""
    for group, most in enumerate(task.stock):
        model.add(cp_model.LinearExpr.sum([c for k, c in zip(known, counts, strict=True) if k.group == group]) <= most)
    capacity: dict[int, list[tuple[cp_model.IntVar, int]]] = {}
    replicas: dict[int, list[tuple[cp_model.IntVar, int]]] = {}
    for column, count in zip(known, counts, strict=True):
        serves, places = served(task.instance, column)
        for place, amount in serves.items():
            capacity.setdefault(place, []).append((count, amount))
        for place, amount in places.items():
            replicas.setdefault(place, []).append((count, amount))
    wanted = task.wanted
    for place in range(len(wanted.missing_mrps)):
        missing, least, most = (int(a[place]) for a in (wanted.missing_mrps, wanted.at_least, wanted.at_most))
        if missing:
            model.add(_sum(capacity.get(place, [])) >= missing)
        if least:
            model.add(_sum(replicas.get(place, [])) >= least)
        if most < UNLIMITED:
            model.add(_sum(replicas.get(place, [])) <= most)


def _sum(terms: Sequence[tuple[cp_model.IntVar, int]]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.weighted_sum([variable for variable, _ in terms], [factor for _, factor in terms])
