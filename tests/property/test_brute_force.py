"""Small random problems in which every rule may bind: every solver against brute force."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings

from planner.domain.problem import Problem
from tests.any_problem import SOLVERS, any_problem, solve_as
from tests.brute_force import brute_force
from tests.results import assert_best, assert_no_better

SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@pytest.mark.parametrize("name", SOLVERS)
@SLOW
@given(subject=any_problem())
def test_no_solver_beats_brute_force(name: str, subject: Problem) -> None:
    best = brute_force(subject)
    result = solve_as(name, subject)
    event(f"{name}: {result.status}")
    if name == "cpsat":
        assert_best(subject, result, best)
    else:
        assert_no_better(subject, result, best)
