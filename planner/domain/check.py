"""The check: recompute every rule and every figure of a plan from its problem, without any solver."""

from __future__ import annotations

from collections.abc import Iterator

from planner.domain.codec import to_json
from planner.domain.derive import Origin, derive_plan
from planner.domain.layout import Layout
from planner.domain.objectives import MAXIMISED
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Problem
from planner.domain.rules import RULES, Rule, Violation


def check_placements(problem: Problem, placements: tuple[Placement, ...]) -> list[Violation]:
    """All rules on bare placements, which must name known options and devices."""
    layout = Layout(problem, placements)
    return [violation for rule in RULES for violation in rule(layout)]


def check(problem: Problem, plan: Plan) -> list[Violation]:
    """Every violated rule, and every figure of the plan that does not follow from its placements."""
    broken = list(_references(problem, plan))
    if broken:
        return broken
    return [
        *check_placements(problem, plan.placements()),
        *_figures(problem, plan),
        *_bounds(plan),
    ]


def _references(problem: Problem, plan: Plan) -> Iterator[Violation]:
    """Names that must be known before anything can be computed."""
    seen: set[str] = set()
    for replica in plan.replicas:
        if replica.id in seen:
            yield Violation(Rule.PLAN_FILE, replica.id, "this replica id stands twice")
        seen.add(replica.id)
        if not replica.devices:
            yield Violation(Rule.FLEET, replica.id, "stands on no device")
        for device in replica.devices:
            if device not in problem.device_by_id:
                yield Violation(Rule.FLEET, replica.id, f"stands on {device!r}, which the fleet does not have")
        if replica.option not in problem.option_by_id:
            yield Violation(Rule.PLAN_FILE, replica.id, f"its option {replica.option!r} is not in the problem")
    names = tuple(o.name for o in plan.objectives)
    if names != problem.objectives:
        asked = ", ".join(problem.objectives)
        yield Violation(Rule.PLAN_FILE, "objectives", f"the problem asks for {asked}, the plan has {', '.join(names)}")


def _figures(problem: Problem, plan: Plan) -> Iterator[Violation]:
    origin = Origin(
        status=plan.status,
        solver=plan.solver,
        seed=plan.seed,
        runtime_s=plan.runtime_s,
        bounds=[(o.bound, o.method) for o in plan.objectives],
    )
    expected = to_json(derive_plan(problem, plan.placements(), origin))
    actual = to_json(plan)
    for found in (expected, actual):
        for objective in found["objectives"]:
            for field in ("certified_bound", "uncertified"):  # proved elsewhere: `planner check --bound`
                objective.pop(field)
    yield from _differences(expected, actual, "")


def _differences(expected: object, actual: object, path: str) -> Iterator[Violation]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected:
            yield from _differences(expected[key], actual[key], f"{path}.{key}" if path else key)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield Violation(Rule.PLAN_FILE, path, f"has {len(actual)} entries, recomputed {len(expected)}")
            return
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif expected != actual:
        yield Violation(Rule.PLAN_FILE, path, f"says {actual!r}, recomputed {expected!r}")


def _bounds(plan: Plan) -> Iterator[Violation]:
    for objective in plan.objectives:
        if objective.bound is None:
            if plan.status is Status.OPTIMAL:
                yield Violation(Rule.PLAN_FILE, objective.name, "the plan is called optimal, but there is no bound")
            continue
        better = objective.value - objective.bound if objective.name in MAXIMISED else objective.bound - objective.value
        if better > 0:
            text = f"value {objective.value} is better than its bound {objective.bound}: one of them is wrong"
            yield Violation(Rule.PLAN_FILE, objective.name, text)
        if plan.status is Status.OPTIMAL and better < 0:
            text = (
                f"the plan is called optimal, but the value {objective.value} has not met its bound {objective.bound}"
            )
            yield Violation(Rule.PLAN_FILE, objective.name, text)
