"""The plan of a result, and what its bounds and proofs must keep beside the best plan that there is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from planner.domain.certificate import Certificate
from planner.domain.check import check_placements
from planner.domain.derive import Origin, derive_plan
from planner.domain.objectives import MAXIMISED, SCALE
from planner.domain.plan import Plan, Status
from planner.domain.problem import SCHEMA_VERSION, Problem
from planner.domain.proof import verify
from planner.domain.rules import Violation
from solvers.base import SolveResult
from tests.brute_force import objective_key


def assert_no_better(subject: Problem, result: SolveResult, best: Sequence[int] | None) -> None:
    """The plan keeps the rules and does not beat `best`, that of brute force; nothing is claimed that is not so."""
    if result.placements is None:
        assert best is None or result.status is Status.NOT_FOUND
        return
    assert best is not None
    assert check_placements(subject, result.placements) == []
    reached = objective_key(subject, result.placements)
    assert reached >= tuple(best)
    assert result.status is not Status.OPTIMAL or reached == tuple(best)
    assert_bounds_hold(subject, result, best)


def assert_best(subject: Problem, result: SolveResult, best: Sequence[int] | None) -> None:
    """Solved to the end: the optimum, with bounds that are it, or infeasible."""
    assert_no_better(subject, result, best)
    assert result.status is (Status.INFEASIBLE if best is None else Status.OPTIMAL)
    if best is not None:
        found = [abs(bound.value or 0) for bound in result.bounds]
        pairs = zip(best, subject.objectives, strict=True)
        assert found == pytest.approx([abs(value) / SCALE[o] for value, o in pairs])


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
