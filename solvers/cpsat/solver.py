"""One CP-SAT model, solved once per objective: what an earlier one reached stays fixed for the later ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ortools.sat.python import cp_model

from planner.domain.layout import Layout
from planner.domain.objectives import MAXIMISED, SCALE, integer_value, natural
from planner.domain.plan import Placement, Status
from planner.domain.problem import Objective, Problem
from planner.errors import PlannerError
from solvers.base import Bound, Progress, SolveOptions, SolveResult
from solvers.bounds import AREA, NO_BOUND, AreaBound, lexicographic, places_needed, unbounded
from solvers.cpsat.constraints import Constraints
from solvers.cpsat.objectives import Objectives
from solvers.cpsat.search import Outcome, search
from solvers.cpsat.variables import Variables
from solvers.greedy import first_plan
from solvers.reduction import Reduction

# Of the time left, what a stage may take while others wait.
SHARE_OF_STAGE = 0.6
# Of a stage's time, what the reproducible search gets; the rest goes to a faster one that is not.
SHARE_IN_TURNS = 0.5


class CpsatSolver:
    """The same seed gives the same plan, unless the time limit cuts the search short."""

    name = "cpsat"

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        started = time.monotonic()
        reduction = Reduction(problem)
        return self.improve(reduction, first_plan(reduction, progress), options, progress, started)

    def improve(
        self,
        reduction: Reduction,
        plan: tuple[Placement, ...] | None,
        options: SolveOptions,
        progress: Progress,
        started: float,
        known: Sequence[Bound] = (),
    ) -> SolveResult:
        """Start from a plan that is known. The time limit counts from `started`, a time.monotonic().

        `known`: bounds by objective, valid with the earlier ones at the plan's values or better.
        """
        problem = reduction.problem
        stages = _Stages(reduction, plan, options, progress, started + options.time_limit_s, known)
        hopeless = bool(reduction.hopeless) and not problem.allow_unserved
        status = Status.INFEASIBLE if hopeless else stages.run()
        missing = [NO_BOUND] * (len(problem.objectives) - len(stages.bounds))
        return SolveResult(
            status=status,
            solver=self.name,
            placements=stages.plan,
            bounds=(*stages.bounds, *missing),
            runtime_s=time.monotonic() - started,
            interrupted=stages.interrupted,
        )


class _Stages:
    """The best plan so far, and a bound for each objective that was dealt with."""

    def __init__(
        self,
        reduction: Reduction,
        plan: tuple[Placement, ...] | None,
        options: SolveOptions,
        progress: Progress,
        deadline: float,
        known: Sequence[Bound],
    ) -> None:
        self._known = known
        self._reduction = reduction
        self._problem = reduction.problem
        self._options = options
        self._progress = progress
        self._deadline = deadline
        self._area = AreaBound(reduction)
        self._model = cp_model.CpModel()
        self.plan = plan
        self.bounds: list[Bound] = []
        self.interrupted = False

    def run(self) -> Status:
        """All stages; after Ctrl-C the best plan so far, and KeyboardInterrupt only where there is none."""
        try:
            self._build()
            status = self._all_stages()
        except KeyboardInterrupt:
            self.interrupted, status = True, Status.FEASIBLE
        if self.interrupted and self.plan is None:
            raise KeyboardInterrupt
        return status

    def _build(self) -> None:
        self._variables = Variables(self._model, self._reduction, places_needed(self._reduction, self._layout()))
        Constraints(self._model, self._variables).add_all()
        self._objectives = Objectives(self._model, self._variables)

    def _all_stages(self) -> Status:
        proven = True
        for place, objective in enumerate(self._problem.objectives):
            expression = self._objectives.expression(objective)
            outcome = self._stage(place, objective, expression)
            if self.plan is None:
                return Status.INFEASIBLE if outcome is not None and outcome.infeasible else Status.NOT_FOUND
            proven = self._conclude(place, expression, outcome) and proven
        if Objective.THROUGHPUT in self._problem.objectives:
            self._search(self._objectives.total_capacity(), maximise=True, seconds=self._left())
        return Status.OPTIMAL if proven else Status.FEASIBLE

    def _stage(self, place: int, objective: Objective, expression: cp_model.LinearExpr) -> Outcome | None:
        """Improve one objective; None where there is nothing to search for, or no time."""
        layout = self._layout()
        maximise = objective in MAXIMISED
        value = None if layout is None else integer_value(layout, objective)
        area, _ = self._given(layout, place)
        if value is not None:
            self._model.add(expression >= value if maximise else expression <= value)
        if area is not None:
            self._model.add(expression <= area if maximise else expression >= area)
        if value is not None and value == area:
            return None
        last = place == len(self._problem.objectives) - 1
        return self._search(expression, maximise=maximise, seconds=self._left() * (1 if last else SHARE_OF_STAGE))

    def _conclude(self, place: int, expression: cp_model.LinearExpr, outcome: Outcome | None) -> bool:
        """Fix what was reached and keep the better of both bounds; True where it is the best possible."""
        layout, objective = self._layout(), self._problem.objectives[place]
        if layout is None or (outcome is not None and outcome.infeasible):
            raise PlannerError(f"CP-SAT calls a problem infeasible that has a plan (objective {objective})")
        maximise = objective in MAXIMISED
        value = integer_value(layout, objective)
        area, method = self._given(layout, place)
        self._model.add(expression >= value if maximise else expression <= value)
        searched = None if outcome is None else outcome.bound
        known = [bound for bound in (area, searched) if bound is not None]
        if not known:
            self.bounds.append(NO_BOUND)
            return False
        bound = min(known) if maximise else max(known)
        self.bounds.append(Bound(value=natural(objective, bound), method=method if bound == area else CpsatSolver.name))
        return bound == value

    def _given(self, layout: Layout | None, place: int) -> tuple[int | None, str]:
        """The best bound before any search, and how it was proved."""
        area = self._area.given(layout, place)
        known = self._known[place] if place < len(self._known) else NO_BOUND
        if known.value is None or self._problem.objectives[place] in MAXIMISED:
            return area, AREA
        value = round(known.value * SCALE[self._problem.objectives[place]])
        return (value, known.method) if area is None or value > area else (area, AREA)

    def _search(self, expression: cp_model.LinearExpr, *, maximise: bool, seconds: float) -> Outcome | None:
        if seconds <= 0 or self.interrupted:
            return None
        if maximise:
            self._model.maximize(expression)
        else:
            self._model.minimize(expression)
        deadline = time.monotonic() + seconds
        first = self._run(SHARE_IN_TURNS * seconds, in_turns=True)
        left = deadline - time.monotonic()
        if first.ended or first.interrupted or left <= 0:
            return first
        second = self._run(left, in_turns=False)
        known = [outcome.bound for outcome in (first, second) if outcome.bound is not None]
        better = min if maximise else max
        return replace(second, bound=better(known) if known else None)

    def _run(self, seconds: float, *, in_turns: bool) -> Outcome:
        if self.plan is not None:
            self._variables.hint(self.plan)
        outcome = search(self._model, self._variables, self._options, seconds, self._report, in_turns=in_turns)
        self.interrupted = outcome.interrupted
        if outcome.placements is not None and self._key(outcome.placements) <= self._key(self.plan):
            self.plan = outcome.placements
        return outcome

    def _report(self, placements: tuple[Placement, ...]) -> None:
        if self._key(placements) < self._key(self.plan):
            self._progress.improved(placements, unbounded(self._problem, Layout(self._problem, placements)))

    def _key(self, placements: tuple[Placement, ...] | None) -> tuple[float, ...]:
        if placements is None:
            return (float("inf"),)
        return lexicographic(self._problem, Layout(self._problem, placements))

    def _layout(self) -> Layout | None:
        return None if self.plan is None else Layout(self._problem, self.plan)

    def _left(self) -> float:
        return self._deadline - time.monotonic()
