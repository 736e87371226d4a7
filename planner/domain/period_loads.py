"""What each period of the day asks of a plan, and how near it comes to the rules."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.layout import Layout
from planner.domain.plan import Plan
from planner.domain.problem import Problem
from planner.domain.units import PPM


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodLoad:
    """One period: the traffic of all models, and the device that is busiest then (None: nothing is placed).

    `binding`: rules with hardly any slack left whose tightest period this is.
    """

    period: str
    rate_rps: float
    device: str | None
    busy: float
    binding: int


def period_loads(problem: Problem, plan: Plan) -> list[PeriodLoad]:
    """One entry per period, in the order of the problem."""
    devices = Layout(problem, plan.placements()).devices
    found = []
    for index, period in enumerate(problem.periods):
        busy = {loaded.device.id: loaded.busy_ppm(index) / PPM for loaded in devices}
        busiest = max(busy, key=lambda name: busy[name], default=None)
        found.append(
            PeriodLoad(
                period=period,
                rate_rps=sum(replica.periods[index].rate_rps for replica in plan.replicas),
                device=busiest,
                busy=0.0 if busiest is None else busy[busiest],
                binding=sum(binding.period == period for binding in plan.binding),
            )
        )
    return found
