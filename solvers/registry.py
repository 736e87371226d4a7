"""Solvers by name. Each is loaded when it is asked for: CP-SAT alone takes seconds to import."""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from planner.domain.certificate import Proof
from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value
from planner.domain.plan import ObjectiveValue, Placement, Status
from planner.domain.problem import Objective, Problem
from planner.errors import InputError, PlannerError
from solvers.base import Progress, SolveOptions, SolveResult, SolverFactory
from solvers.bounds import applies, lexicographic, places_needed, unbounded
from solvers.greedy import GreedySolver, first_plan, takes_a_moment
from solvers.reduction import Reduction, is_sited, tells_places_apart
from solvers.stopping import stoppable

if TYPE_CHECKING:
    from solvers.columns.solver import ColumnsSolver
    from solvers.cpsat.solver import CpsatSolver

AUTO = "auto"
# With more variables CP-SAT hardly improves on the greedy plan within a minute on two cores.
LARGEST_FOR_CPSAT = 30_000
# With fewer it mostly proves its plans itself.
PROVED_BY_CPSAT = 3_000
# What finding contents may take where demand stays unserved; the rest puts them onto nodes.
SHARE_OF_LEAVING_OUT = 0.8


def solve(problem: Problem, options: SolveOptions, progress: Progress, *, name: str = AUTO) -> SolveResult:
    """A plan that keeps every rule, checked once more without the solver; InputError for an unknown name.

    After Ctrl-C it is the best plan so far, and KeyboardInterrupt only where there is none.
    """
    if name not in FACTORIES:
        raise InputError(f"solver {name!r} is not known", hint=f"there are {', '.join(FACTORIES)}")
    result = stoppable(lambda: _solve(problem, options, _Keeping(progress), name))
    violations = [] if result.placements is None else check_placements(problem, result.placements)
    if violations:
        text = "; ".join(map(str, violations))
        raise PlannerError(f"solver {result.solver} gave a plan that breaks rules: {text}")
    return result


def _solve(problem: Problem, options: SolveOptions, keeping: _Keeping, name: str) -> SolveResult:
    started = time.monotonic()
    try:
        return FACTORIES[name]().solve(problem, options, keeping)
    except KeyboardInterrupt:
        if keeping.best is None:
            raise
        result = GreedySolver().conclude(Reduction(problem), keeping.best, started)
        return replace(result, solver=name, interrupted=True)


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
    """Columns for GPUs and cost, then CP-SAT for what is left where its model stays small."""

    name = AUTO

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        started = time.monotonic()
        reduction = Reduction(problem)
        quick = takes_a_moment(reduction) or not (applies(problem) or _leaves_out(problem))
        plan = first_plan(reduction, progress, started + options.time_limit_s) if quick else None
        variables = _variables(reduction, plan) if quick else inf
        large = variables > LARGEST_FOR_CPSAT
        if large and _leaves_out(problem):
            return _leaving_out(reduction, plan, options, progress, started)
        if reduction.hopeless and not problem.allow_unserved:
            return GreedySolver().conclude(reduction, plan, started)
        by_columns = None
        if applies(problem) and (not is_sited(problem) or variables > PROVED_BY_CPSAT):
            by_columns = _columns().improve(reduction, plan, options, progress, started, brief=not large)
            plan = by_columns.placements
            done = by_columns.interrupted or by_columns.status in (Status.OPTIMAL, Status.INFEASIBLE)
            if large or done:
                return by_columns
        if large:
            progress.message("too many variables for cpsat: the greedy plan, with a bound")
            return GreedySolver().conclude(reduction, plan, started)
        known = () if by_columns is None else by_columns.bounds
        result = _cpsat().improve(reduction, plan, options, progress, started, known)
        return result if by_columns is None else joined(problem, by_columns, result)


def _leaves_out(problem: Problem) -> bool:
    """Whether what stays unserved matters alone, and columns can tell how little it may be."""
    plain = not (problem.pools or problem.counts_moves or problem.ensembles or tells_places_apart(problem))
    return plain and problem.allow_unserved and problem.objectives == (Objective.UNSERVED,)


def _leaving_out(
    reduction: Reduction,
    plan: tuple[Placement, ...] | None,
    options: SolveOptions,
    progress: Progress,
    started: float,
) -> SolveResult:
    """Contents that leave out little, put onto the nodes."""
    from solvers.columns.unserved import least_unserved
    from solvers.hosts import on_hosts

    problem = reduction.problem
    limited = replace(options, time_limit_s=SHARE_OF_LEAVING_OUT * options.time_limit_s)
    found = least_unserved(reduction, limited)
    choices = {choice.option.id: choice for choice in reduction.choices}
    plans = [] if plan is None else [plan]
    plans.append(on_hosts(reduction, [[choices[name] for name in content] for content in found.contents]))
    plan = min(plans, key=lambda one: lexicographic(problem, Layout(problem, one)))
    progress.improved(plan, unbounded(problem, Layout(problem, plan)))
    return GreedySolver().conclude(reduction, plan, started, (found.bound,))


def joined(problem: Problem, first: SolveResult, last: SolveResult) -> SolveResult:
    """The last result with the proofs of the first. One that rests on the value of an earlier objective goes
    where that value changed."""
    if first.placements is None or last.placements is None:
        return replace(last, compile_s=first.compile_s)
    before, after = (Layout(problem, r.placements or ()) for r in (first, last))
    kept: list[Proof] = []
    bounds = []
    for place, (objective, ours, theirs) in enumerate(zip(problem.objectives, first.bounds, last.bounds, strict=True)):
        same = all(integer_value(before, o) == integer_value(after, o) for o in problem.objectives[:place])
        proof = next((p for p in first.proofs if p.objective is objective), None)
        if proof is not None and same:
            kept.append(proof)
            bounds.append(replace(theirs, certified=ours.certified))
        else:
            reason = "an earlier objective was improved after its proof" if proof is not None else None
            bounds.append(replace(theirs, uncertified=reason))
    return replace(last, bounds=tuple(bounds), proofs=tuple(kept), compile_s=first.compile_s)


def _variables(reduction: Reduction, plan: tuple[Placement, ...] | None) -> int:
    sizes = places_needed(reduction, None if plan is None else Layout(reduction.problem, plan))
    return sum(
        size * sum(len(reduction.by_kind[kind.name]) for kind in group.kinds)
        for size, group in zip(sizes, reduction.groups, strict=True)
    )


def _cpsat() -> CpsatSolver:
    from solvers.cpsat.solver import CpsatSolver

    return CpsatSolver()


def _columns() -> ColumnsSolver:
    from solvers.columns.solver import ColumnsSolver

    return ColumnsSolver()


FACTORIES: dict[str, SolverFactory] = {
    AUTO: AutoSolver, GreedySolver.name: GreedySolver, "cpsat": _cpsat, "columns": _columns,
}  # fmt: skip
