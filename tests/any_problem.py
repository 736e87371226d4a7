"""Random problems with any of the rules, and the ways to solve them that are held against brute force."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from hypothesis import strategies as st

from planner.domain.problem import Objective, Problem
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult
from tests.mig_problems import tiny_mig_problems
from tests.tiny_problems import sited, tiny_problems, tiny_spanning_problems

ONE_WORKER = SolveOptions(time_limit_s=30, workers=1)
FEW_STEPS = SolveOptions(time_limit_s=5, iterations=5, workers=1)
# `large`: as `auto` goes about a problem that is too large for CP-SAT.
LARGE = "large"
SOLVERS = ("cpsat", "greedy", "columns", "auto", LARGE)


def any_problem() -> st.SearchStrategy[Problem]:
    plain, mig = tiny_problems(), tiny_mig_problems()
    return plain | sited(plain) | tiny_spanning_problems() | mig | sited(mig) | _leaving_out()


def _leaving_out() -> st.SearchStrategy[Problem]:
    """Problems in which nothing counts but what stays unserved."""
    only = [Objective.UNSERVED]
    found = tiny_problems(only) | tiny_spanning_problems(only)
    return found.map(lambda subject: replace(subject, allow_unserved=True, ensembles=(), max_moves=None))


def solve_as(name: str, subject: Problem) -> SolveResult:
    if name == LARGE:
        with patch.object(registry, "PROVED_BY_CPSAT", 0), patch.object(registry, "LARGEST_FOR_CPSAT", 0):
            return registry.solve(subject, FEW_STEPS, Progress())
    return registry.solve(subject, FEW_STEPS if name == "columns" else ONE_WORKER, Progress(), name=name)
