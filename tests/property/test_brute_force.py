"""Tiny random problems in which every rule may bind: the exact solver against brute force, greedy against check."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from planner.domain.check import check_placements
from planner.domain.objectives import MAXIMISED, SCALE
from planner.domain.plan import Status
from planner.domain.problem import Problem
from solvers import registry
from solvers.base import Progress, SolveOptions
from tests.problems import brute_force, objective_key, tiny_problems, tiny_sited_problems, tiny_spanning_problems
from tests.results import assert_bounds_hold

ONE_WORKER = SolveOptions(time_limit_s=30, workers=1)
ANY = tiny_problems() | tiny_sited_problems() | tiny_spanning_problems()
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(ANY)
def test_cpsat_reaches_the_brute_force_optimum(subject: Problem) -> None:
    best = brute_force(subject)
    result = registry.solve(subject, ONE_WORKER, Progress(), name="cpsat")
    if best is None:
        assert result.status is Status.INFEASIBLE
        return
    assert result.status is Status.OPTIMAL
    assert result.placements is not None
    assert objective_key(subject, result.placements) == best
    assert [abs(bound.value or 0) for bound in result.bounds] == pytest.approx(
        [abs(value) / SCALE[o] for value, o in zip(best, subject.objectives, strict=True)]
    )


@SLOW
@given(ANY)
def test_greedy_keeps_the_rules_and_its_bounds_hold(subject: Problem) -> None:
    best = brute_force(subject)
    result = registry.solve(subject, ONE_WORKER, Progress(), name="greedy")
    if result.placements is None:
        assert best is None or result.status is Status.NOT_FOUND
        return
    assert best is not None
    assert check_placements(subject, result.placements) == []
    reached = objective_key(subject, result.placements)
    assert reached >= best
    for place, (bound, objective) in enumerate(zip(result.bounds, subject.objectives, strict=True)):
        if reached[:place] == best[:place] and bound.value is not None:
            sign = -1 if objective in MAXIMISED else 1
            assert sign * round(bound.value * SCALE[objective]) <= best[place]


@SLOW
@given(ANY)
def test_columns_keep_the_rules_and_their_bounds_hold(subject: Problem) -> None:
    best = brute_force(subject)
    result = registry.solve(subject, SolveOptions(time_limit_s=5, iterations=5, workers=1), Progress(), name="columns")
    if result.placements is None:
        assert best is None or result.status is Status.NOT_FOUND
        return
    assert best is not None
    assert check_placements(subject, result.placements) == []
    reached = objective_key(subject, result.placements)
    assert reached >= best
    assert_bounds_hold(subject, result, best)


@SLOW
@given(tiny_sited_problems() | tiny_spanning_problems())
def test_a_bound_without_the_rules_between_devices_holds_with_them(subject: Problem) -> None:
    best = brute_force(subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "PROVED_BY_CPSAT", 0)
        patch.setattr(registry, "LARGEST_FOR_CPSAT", 0)
        result = registry.solve(subject, ONE_WORKER, Progress())
    if result.placements is not None:
        assert best is not None
        assert_bounds_hold(subject, result, best)
        assert result.status is not Status.OPTIMAL or objective_key(subject, result.placements) == best
