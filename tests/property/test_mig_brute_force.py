"""Small random problems with MIG: every solver against brute force, and its bounds against the checker's proof."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings

from planner.domain.check import check_placements
from planner.domain.plan import Status
from planner.domain.problem import Problem
from solvers import registry
from solvers.base import Progress, SolveOptions
from tests.mig_problems import brute_force, tiny_mig_problems
from tests.problems import objective_key
from tests.results import assert_bounds_hold

ONE_WORKER = SolveOptions(time_limit_s=30, workers=1)
FEW_STEPS = SolveOptions(time_limit_s=5, iterations=5, workers=1)
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@SLOW
@given(tiny_mig_problems())
def test_cpsat_reaches_the_brute_force_optimum(subject: Problem) -> None:
    best = brute_force(subject)
    result = registry.solve(subject, ONE_WORKER, Progress(), name="cpsat")
    if best is None:
        assert result.status is Status.INFEASIBLE
        return
    assert result.status is Status.OPTIMAL
    assert result.placements is not None
    assert objective_key(subject, result.placements) == best


@pytest.mark.parametrize(("name", "options"), [("greedy", ONE_WORKER), ("columns", FEW_STEPS), ("auto", ONE_WORKER)])
@SLOW
@given(subject=tiny_mig_problems())
def test_every_plan_keeps_the_rules_and_its_bounds_hold(name: str, options: SolveOptions, subject: Problem) -> None:
    best = brute_force(subject)
    result = registry.solve(subject, options, Progress(), name=name)
    if result.placements is None:
        assert best is None or result.status is Status.NOT_FOUND
        return
    assert best is not None
    assert check_placements(subject, result.placements) == []
    reached = objective_key(subject, result.placements)
    assert reached >= best
    assert result.status is not Status.OPTIMAL or reached == best
    event(f"{name}: {result.status}")
    assert_bounds_hold(subject, result, best)
