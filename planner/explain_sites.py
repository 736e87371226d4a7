"""What the rules between devices, each relaxed alone, would have to give for a plan to exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from planner.domain import availability
from planner.domain.layout import Layout
from planner.domain.node_totals import Total
from planner.domain.problem import Problem
from planner.domain.topology import FleetLimit, Node
from planner.domain.units import PPM
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


def _host_memory(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if not any(node.host_memory_bytes is not None for node in problem.nodes):
        return

    def with_more(extra: int) -> Problem:
        return _with_nodes(problem, lambda n: replace(n, host_memory_bytes=_plus(n.host_memory_bytes, extra)))

    most = sum(model.host_memory_bytes for model in problem.models) * len(problem.devices)
    amount, answer = least(solve, with_more, most)
    short = Total(Rule.HOST_MEMORY, "", 0, 0, "bytes").text(amount or 0)
    yield Rule.HOST_MEMORY, verdict(answer, f"each node is short by {short}")


def _host_cpu(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if not any(node.host_cpu_millis is not None for node in problem.nodes):
        return

    def with_more(extra: int) -> Problem:
        return _with_nodes(problem, lambda n: replace(n, host_cpu_millis=_plus(n.host_cpu_millis, extra)))

    most = sum(model.host_cpu_millis for model in problem.models) * len(problem.devices)
    amount, answer = least(solve, with_more, most)
    yield Rule.HOST_CPU, verdict(answer, f"each node is short by {(amount or 0) / 1000:g} cores")


def _limits(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    power = sum(_power_of_gpus(problem).values())
    if any(limit.power_milliwatts is not None for limit in problem.limits):

        def with_power(extra: int) -> Problem:
            return _with_limits(problem, lambda x: replace(x, power_milliwatts=_plus(x.power_milliwatts, extra)))

        amount, answer = least(solve, with_power, power)
        yield Rule.FLEET, verdict(answer, f"limits of power are short by {-(-(amount or 0) // 1000)} W")
    if any(limit.cost_microusd_per_hour is not None for limit in problem.limits):
        cost = sum(_cost_of_gpus(problem).values())

        def with_cost(extra: int) -> Problem:
            changed = lambda x: replace(x, cost_microusd_per_hour=_plus(x.cost_microusd_per_hour, extra))  # noqa: E731
            return _with_limits(problem, changed)

        amount, answer = least(solve, with_cost, cost)
        short = -(-(amount or 0) // 1000) / 1000
        yield Rule.FLEET, verdict(answer, f"the budget is short by {short:g} USD/h")


def _power_of_gpus(problem: Problem) -> dict[str, int]:
    return {d.gpu: problem.kind_by_name[d.kind].power_milliwatts or 0 for d in problem.devices}


def _cost_of_gpus(problem: Problem) -> dict[str, int]:
    return {d.gpu: problem.kind_by_name[d.kind].cost_microusd_per_hour or 0 for d in problem.devices}


def _plus(amount: int | None, extra: int) -> int | None:
    return None if amount is None else amount + extra


def _with_nodes(problem: Problem, changed: Callable[[Node], Node]) -> Problem:
    return replace(problem, nodes=tuple(map(changed, problem.nodes)))


def _with_limits(problem: Problem, changed: Callable[[FleetLimit], FleetLimit]) -> Problem:
    return replace(problem, limits=tuple(map(changed, problem.limits)))


SITE_RELAXATIONS: tuple[Relaxation, ...] = (
    _spread, _survives, _conflict, _together, _pinned, _host_memory, _host_cpu, _limits,
)  # fmt: skip
