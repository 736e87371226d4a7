"""A plan on disk, explained: by its own figures, by the check, and by solving again within a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from planner.domain.plan import Status
from planner.domain.problem import Problem
from planner.errors import NotFoundError
from solvers.base import Progress, SolveOptions, SolveResult

SECONDS_EACH = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`binding`: the tightest rules; `gpus`: on how many GPUs; `what_if`: what would change the plan."""

    binding: tuple[str, ...]
    gpus: tuple[str, ...]
    what_if: tuple[str, ...]
    why: tuple[str, ...]
    notes: tuple[str, ...]


def explain(path: Path, why: Sequence[str], time_limit_s: float) -> Explanation:
    """NotFoundError for a model that the plan's problem does not have."""
    from planner.alternatives import binding_by_gpu, dearest_objective, one_more_gpu, why_here
    from planner.basis import basis_notes
    from planner.explain import explain_plan
    from planner.plan_files import read_plan

    problem, plan = read_plan(path)
    for name in why:
        if name not in problem.model_by_name:
            near = get_close_matches(name, problem.model_by_name, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(problem.model_by_name)}"
            raise NotFoundError(f"{path}: there is no model {name!r} in this plan", hint=hint)
    again = _Again(plan.solver, plan.seed, time.monotonic() + time_limit_s)
    what_if: list[str] = []
    if time_limit_s:
        what_if = [*one_more_gpu(problem, plan, again), *dearest_objective(problem, plan, again)]
        again = _Again(plan.solver, plan.seed, time.monotonic() + time_limit_s)
    used = [problem.option_by_id[replica.option] for replica in plan.replicas]
    return Explanation(
        binding=tuple(explain_plan(problem, plan)),
        gpus=tuple(binding_by_gpu(problem, plan)),
        what_if=tuple(what_if),
        why=tuple(line for name in why for line in why_here(problem, plan, name, again)),
        notes=tuple(basis_notes(problem, used)),
    )


class _Again:
    """Solves variants of the problem until the time is up; then nothing more is known."""

    def __init__(self, solver: str, seed: int, deadline: float) -> None:
        self._solver, self._seed, self._deadline = solver, seed, deadline

    def __call__(self, problem: Problem) -> SolveResult:
        from solvers import registry

        seconds = min(SECONDS_EACH, self._deadline - time.monotonic())
        if seconds <= 0:
            return SolveResult(status=Status.NOT_FOUND, solver=self._solver, placements=None, bounds=(), runtime_s=0.0)
        return registry.solve(problem, SolveOptions(time_limit_s=seconds, seed=self._seed), Progress())
