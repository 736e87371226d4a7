"""Solving a problem again with one rule relaxed: what the answer says, and the least amount that is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from planner.domain.plan import Placement, Status
from planner.domain.problem import Problem

# Halvings of an interval: amounts are found to 1/4096 of what was searched.
BISECTIONS = 12
NO_HELP = "not enough to relax alone"
NOT_KNOWN = "not known in time whether relaxing it alone would be enough"


class Answer(Protocol):
    """What a solve gives, as far as explanations need it."""

    @property
    def status(self) -> Status: ...

    @property
    def placements(self) -> tuple[Placement, ...] | None: ...


Solve = Callable[[Problem], Answer]


def verdict(answer: Answer, found: str, proven: str = NO_HELP) -> str:
    if answer.status.has_plan:
        return found
    return proven if answer.status is Status.INFEASIBLE else NOT_KNOWN


def least(solve: Solve, relaxed: Callable[[int], Problem], most: int) -> tuple[int | None, Answer]:
    """The least amount up to `most` at which a plan was found, to the width of the last bisection."""
    answer = solve(relaxed(most))
    if not answer.status.has_plan:
        return None, answer
    low, high = 0, most
    for _ in range(BISECTIONS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        status = solve(relaxed(middle)).status
        if status is Status.NOT_FOUND:
            break
        low, high = (low, middle) if status.has_plan else (middle, high)
    return high, answer
