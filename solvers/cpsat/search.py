"""One run of CP-SAT that Ctrl-C ends early without losing what was found."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import ceil, floor

from ortools.sat.python import cp_model

from planner.domain.plan import Placement
from planner.errors import PlannerError
from solvers.base import SolveOptions
from solvers.cpsat.variables import Variables
from solvers.reduction import name_placements
from solvers.stopping import WAKE_EVERY_S, stop_if_asked

# CP-SAT returns the bound of an integer objective as a float.
ROUNDING = 1e-6
FULL_RELAXATION = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """`bound` in the objective's integer unit, rounded to the safe side; None where nothing was proved.

    `ended`: the search was not cut short.
    """

    ended: bool
    infeasible: bool
    placements: tuple[Placement, ...] | None
    bound: int | None
    interrupted: bool


def search(
    model: cp_model.CpModel,
    variables: Variables,
    options: SolveOptions,
    seconds: float,
    found: Callable[[tuple[Placement, ...]], None],
    *,
    in_turns: bool,
) -> Outcome:
    """Solve the model as it stands. `found` is called with each plan, from the search's own thread.

    `in_turns`: workers take turns, so that the same seed gives the same plan; slower, and it may end early.
    """
    solver = _solver(options, seconds)
    solver.parameters.interleave_search = in_turns
    status, interrupted = run_until_stopped(solver, model, _Found(variables, found))
    if status == cp_model.MODEL_INVALID:
        raise PlannerError(f"CP-SAT refused the model: {model.validate()}")
    if status == cp_model.INFEASIBLE:
        return Outcome(ended=True, infeasible=True, placements=None, bound=None, interrupted=interrupted)
    if status == cp_model.UNKNOWN:
        return Outcome(ended=False, infeasible=False, placements=None, bound=None, interrupted=interrupted)
    proved = solver.best_objective_bound
    maximised = solver.objective_value <= proved
    return Outcome(
        ended=status == cp_model.OPTIMAL,
        infeasible=False,
        placements=_placements(variables, solver.value),
        bound=floor(proved + ROUNDING) if maximised else ceil(proved - ROUNDING),
        interrupted=interrupted,
    )


def _solver(options: SolveOptions, seconds: float) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.random_seed = options.seed
    solver.parameters.num_workers = options.workers
    solver.parameters.relative_gap_limit = options.gap
    # Without a full linear relaxation the bound stays at the area bound; other workers improve the plan.
    solver.parameters.linearization_level = FULL_RELAXATION
    solver.parameters.subsolvers.append("max_lp")
    # OR-Tools 9.15 loses solutions in this part of presolve and calls a worse one optimal (google/or-tools 5293).
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.catch_sigint_signal = False  # else Ctrl-C would end one stage, and nobody would know
    return solver


def run_until_stopped(
    solver: cp_model.CpSolver, model: cp_model.CpModel, callback: cp_model.CpSolverSolutionCallback | None = None
) -> tuple[cp_model.CpSolverStatus, bool]:
    """The search runs beside this thread, for only a waiting thread hears Ctrl-C. True: it was heard."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(solver.solve, model, callback)
        try:
            while not running.done():
                stop_if_asked()
                wait([running], timeout=WAKE_EVERY_S)
            return running.result(), False
        except KeyboardInterrupt:
            while not running.done():  # a search that has not quite begun does not hear the first call
                solver.stop_search()
                wait([running], timeout=WAKE_EVERY_S)
            return running.result(), True


class _Found(cp_model.CpSolverSolutionCallback):
    def __init__(self, variables: Variables, found: Callable[[tuple[Placement, ...]], None]) -> None:
        super().__init__()
        self._variables = variables
        self._found = found

    def on_solution_callback(self) -> None:
        self._found(_placements(self._variables, self.value))


def _placements(variables: Variables, value: Callable[[cp_model.IntVar], int]) -> tuple[Placement, ...]:
    return name_placements(variables.reduction.problem, variables.placed(value))
