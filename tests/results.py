"""The plan of a result, and what its bounds and proofs must keep beside the best plan that there is."""

from __future__ import annotations

from collections.abc import Sequence

from planner.domain.certificate import Certificate
from planner.domain.derive import Origin, derive_plan
from planner.domain.objectives import MAXIMISED, SCALE
from planner.domain.plan import Plan
from planner.domain.problem import SCHEMA_VERSION, Problem
from planner.domain.proof import verify
from planner.domain.rules import Violation
from solvers.base import SolveResult
from tests.problems import objective_key


def assert_bounds_hold(subject: Problem, result: SolveResult, best: Sequence[int]) -> None:
    """No bound says more than `best` where the earlier objectives are at theirs, and the checker proves them again."""
    assert result.placements is not None
    assert violations_of_proofs(subject, result) == []
    reached = objective_key(subject, result.placements)
    for place, (bound, objective) in enumerate(zip(result.bounds, subject.objectives, strict=True)):
        if reached[:place] == tuple(best[:place]):
            sign = -1 if objective in MAXIMISED else 1
            for value in (bound.value, bound.certified):
                assert value is None or sign * round(value * SCALE[objective]) <= best[place]


def plan_of(subject: Problem, result: SolveResult) -> Plan:
    """The plan as `planner solve` derives it."""
    assert result.placements is not None
    origin = Origin(
        status=result.status,
        solver=result.solver,
        seed=0,
        runtime_s=result.runtime_s,
        bounds=[(bound.value, bound.method) for bound in result.bounds],
        certified=[(bound.certified, bound.uncertified) for bound in result.bounds],
    )
    return derive_plan(subject, result.placements, origin)


def violations_of_proofs(subject: Problem, result: SolveResult) -> list[Violation]:
    """What `planner check --bound` has to say."""
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=subject.digest, proofs=result.proofs)
    return verify(subject, plan_of(subject, result), certificate)
