"""Solvers by name. Each is loaded when it is asked for: CP-SAT alone takes seconds to import."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.plan import ObjectiveValue, Placement
from planner.domain.problem import Problem
from planner.errors import InputError, PlannerError
from solvers.base import Progress, SolveOptions, Solver, SolveResult, SolverFactory
from solvers.bounds import places_needed
from solvers.greedy import GreedySolver, first_plan
from solvers.reduction import Reduction

if TYPE_CHECKING:
    from solvers.cpsat.solver import CpsatSolver

AUTO = "auto"
# With more variables CP-SAT hardly improves on the greedy plan within a minute on two cores.
LARGEST_FOR_CPSAT = 30_000


def solve(problem: Problem, options: SolveOptions, progress: Progress, *, name: str = AUTO) -> SolveResult:
    """A plan that keeps every rule, checked once more without the solver; InputError for an unknown name.

    After Ctrl-C it is the best plan so far, and KeyboardInterrupt only where there is none.
    """
    if name not in FACTORIES:
        raise InputError(f"solver {name!r} is not known", hint=f"there are {', '.join(FACTORIES)}")
    started, keeping = time.monotonic(), _Keeping(progress)
    try:
        result = FACTORIES[name]().solve(problem, options, keeping)
    except KeyboardInterrupt:
        if keeping.best is None:
            raise
        result = GreedySolver().conclude(Reduction(problem), keeping.best, started)
        result = replace(result, solver=name, interrupted=True)
    violations = [] if result.placements is None else check_placements(problem, result.placements)
    if violations:
        text = "; ".join(map(str, violations))
        raise PlannerError(f"solver {result.solver} gave a plan that breaks rules: {text}")
    return result


class _Keeping(Progress):
    """Hands everything on and keeps the last plan: solvers report better ones only."""

    def __init__(self, heard: Progress) -> None:
        self._heard = heard
        self.best: tuple[Placement, ...] | None = None

    def improved(self, placements: tuple[Placement, ...], objectives: tuple[ObjectiveValue, ...]) -> None:
        self.best = placements
        self._heard.improved(placements, objectives)

    def message(self, text: str) -> None:
        self._heard.message(text)


class AutoSolver:
    """CP-SAT where its model stays small, else the greedy plan with the area bound."""

    name = AUTO

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        started = time.monotonic()
        reduction = Reduction(problem)
        plan = first_plan(reduction, progress)
        variables = _variables(reduction, plan)
        if variables > LARGEST_FOR_CPSAT:
            progress.message(f"{variables:,} variables are too many for cpsat: greedy plan with the area bound")
            return GreedySolver().conclude(reduction, plan, started)
        return _cpsat().improve(reduction, plan, options, progress, started)


def _variables(reduction: Reduction, plan: tuple[Placement, ...] | None) -> int:
    sizes = places_needed(reduction, None if plan is None else Layout(reduction.problem, plan))
    return sum(
        size * sum(len(reduction.by_kind[kind.name]) for kind in group.kinds)
        for size, group in zip(sizes, reduction.groups, strict=True)
    )


def _cpsat() -> CpsatSolver:
    from solvers.cpsat.solver import CpsatSolver

    return CpsatSolver()


def _columns() -> Solver:
    from solvers.columns.solver import ColumnsSolver

    return ColumnsSolver()


FACTORIES: dict[str, SolverFactory] = {
    AUTO: AutoSolver, GreedySolver.name: GreedySolver, "cpsat": _cpsat, "columns": _columns,
}  # fmt: skip
