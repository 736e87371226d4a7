"""What the rules between devices, each relaxed alone, would have to give for a plan to exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from planner.domain import availability
from planner.domain.layout import Layout
from planner.domain.problem import Problem
from planner.domain.topology import FleetLimit, Node
from planner.domain.units import PPM, format_bytes
from planner.domain.violation import Rule, Violation
from planner.relaxing import Solve, least, verdict

MISSES_NAMED = 3

Relaxation = Callable[[Problem, Solve], Iterator[tuple[Rule, str]]]


def _spread(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if any(model.spread for model in problem.models):
        relaxed = replace(problem, models=tuple(replace(m, spread=()) for m in problem.models))
        yield Rule.SPREAD, _without(problem, relaxed, availability.spread, solve)


def _conflict(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if problem.conflict:
        yield Rule.CONFLICT, _without(problem, replace(problem, conflict=()), availability.conflict, solve)


def _together(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if problem.together:
        yield Rule.TOGETHER, _without(problem, replace(problem, together=()), availability.together, solve)


def _pinned(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if problem.pinned:
        yield Rule.PINNED, _without(problem, replace(problem, pinned=()), availability.pinned, solve)


def _without(problem: Problem, relaxed: Problem, rule: Callable[[Layout], Iterator[Violation]], solve: Solve) -> str:
    """What the plan that was found without the rule misses of it."""
    answer = solve(relaxed)
    if answer.placements is None:
        return verdict(answer, "")
    missed = [f"{v.subject}: {v.message}" for v in rule(Layout(problem, answer.placements))]
    more = f"; and {len(missed) - MISSES_NAMED} more" if len(missed) > MISSES_NAMED else ""
    return f"without it there would be a plan, which misses it by {'; '.join(missed[:MISSES_NAMED])}{more}"


def _survives(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    """The largest share that all survivals may have instead of their own, where it is larger."""
    if not problem.survives:
        return

    def with_less(less: int) -> Problem:
        asked = (replace(s, share_ppm=max(1, min(s.share_ppm, PPM - less))) for s in problem.survives)
        return replace(problem, survives=tuple(asked) if less < PPM else ())

    amount, answer = least(solve, with_less, PPM)
    found = ""
    if amount is not None:
        found = f"a share of {max(0, PPM - amount) // 1000 / 1000:g} can be survived"
    yield Rule.SURVIVES, verdict(answer, found)


@dataclass(frozen=True, slots=True)
class _Amount:
    """What nodes have, or limits allow: `field` of each of the problem's `holders`, of the models, and of the kinds."""

    rule: Rule
    holders: str
    field: str
    short_by: Callable[[int], str]

    def given(self, problem: Problem) -> bool:
        return any(getattr(holder, self.field) is not None for holder in getattr(problem, self.holders))

    def raised(self, problem: Problem, extra: int) -> Problem:
        changes: dict[str, Any] = {self.holders: tuple(self._more(h, extra) for h in getattr(problem, self.holders))}
        return replace(problem, **changes)

    def _more(self, holder: Node | FleetLimit, extra: int) -> Node | FleetLimit:
        known = getattr(holder, self.field)
        changes: dict[str, Any] = {} if known is None else {self.field: known + extra}
        return replace(holder, **changes)

    def all_of_it(self, problem: Problem) -> int:
        """So much that no plan could take more."""
        if self.holders == "nodes":
            return int(sum(getattr(model, self.field) for model in problem.models)) * len(problem.devices)
        of_gpus = {d.gpu: getattr(problem.kind_by_name[d.kind], self.field) or 0 for d in problem.devices}
        return int(sum(of_gpus.values()))


_AMOUNTS = (
    _Amount(Rule.HOST_MEMORY, "nodes", "host_memory_bytes", lambda n: f"each node is short by {format_bytes(n)}"),
    _Amount(Rule.HOST_CPU, "nodes", "host_cpu_millis", lambda n: f"each node is short by {n / 1000:g} cores"),
    _Amount(Rule.FLEET, "limits", "power_milliwatts", lambda n: f"limits of power are short by {-(-n // 1000)} W"),
    _Amount(
        Rule.FLEET,
        "limits",
        "cost_microusd_per_hour",
        lambda n: f"the budget is short by {-(-n // 1000) / 1000:g} USD/h",
    ),
)


def _amounts(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    for amount in _AMOUNTS:
        if amount.given(problem):
            short, answer = least(solve, partial(amount.raised, problem), amount.all_of_it(problem))
            yield amount.rule, verdict(answer, amount.short_by(short or 0))


SITE_RELAXATIONS: tuple[Relaxation, ...] = (_spread, _survives, _conflict, _together, _pinned, _amounts)
