"""Solvers by name. Each is loaded when it is asked for: CP-SAT alone takes seconds to import."""

from __future__ import annotations

from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.problem import Problem
from planner.errors import InputError, PlannerError
from solvers.base import Progress, SolveOptions, Solver, SolveResult, SolverFactory
from solvers.bounds import places_needed
from solvers.greedy import GreedySolver
from solvers.reduction import Reduction

AUTO = "auto"
# With more variables CP-SAT hardly improves on the greedy plan within a minute on two cores.
LARGEST_FOR_CPSAT = 30_000


def solve(problem: Problem, options: SolveOptions, progress: Progress, *, name: str = AUTO) -> SolveResult:
    """A plan that keeps every rule, checked once more without the solver; InputError for an unknown name."""
    if name not in FACTORIES:
        raise InputError(f"solver {name!r} is not known", hint=f"there are {', '.join(FACTORIES)}")
    result = FACTORIES[name]().solve(problem, options, progress)
    violations = [] if result.placements is None else check_placements(problem, result.placements)
    if violations:
        text = "; ".join(map(str, violations))
        raise PlannerError(f"solver {result.solver} gave a plan that breaks rules: {text}")
    return result


class AutoSolver:
    """CP-SAT where its model stays small, else the greedy plan with the area bound."""

    name = AUTO

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        first = GreedySolver().solve(problem, options, progress)
        variables = _variables(problem, first)
        if variables > LARGEST_FOR_CPSAT:
            progress.message(f"{variables:,} variables are too many for cpsat: greedy plan with the area bound")
            return first
        return _cpsat().solve(problem, options, progress)


def _variables(problem: Problem, first: SolveResult) -> int:
    reduction = Reduction(problem)
    sizes = places_needed(reduction, None if first.placements is None else Layout(problem, first.placements))
    return sum(
        size * sum(len(reduction.by_kind[kind.name]) for kind in group.kinds)
        for size, group in zip(sizes, reduction.groups, strict=True)
    )


def _cpsat() -> Solver:
    from solvers.cpsat.solver import CpsatSolver

    return CpsatSolver()


FACTORIES: dict[str, SolverFactory] = {AUTO: AutoSolver, GreedySolver.name: GreedySolver, "cpsat": _cpsat}
