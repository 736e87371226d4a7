"""The rows of a certificate, recomputed from the problem: coefficients, right side, and whether a row holds at all.

Nothing of a certificate is believed but the duals. The bound of an objective is one on all plans whose earlier
objectives are no worse than those of the plan at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd

from planner.domain.certificate import Decision, RowDual, RowKind, Side
from planner.domain.gpu_groups import GpuGroup, gpu_groups
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value
from planner.domain.problem import Model, Objective, Option
from planner.domain.units import PPM

CERTIFIED = (Objective.UNSERVED, Objective.GPUS, Objective.COST, Objective.POWER)


class Refused(Exception):
    """Something in a certificate that does not hold; the text says what."""


@dataclass(frozen=True, slots=True)
class Row:
    """sum of `options` coefficients x replicas + sum of `groups` coefficients x GPUs in use >= `rhs`.

    The only other term is the unserved demand, see `Rows.refuse_unserved`.
    """

    rhs: int
    options: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)


class Rows:
    """The rows that hold for one objective of a problem, given a plan that keeps every rule."""

    def __init__(self, layout: Layout, objective: Objective) -> None:
        self.layout, self.problem = layout, layout.problem
        self.objective = objective
        self.groups: Mapping[str, GpuGroup] = {group.name: group for group in gpu_groups(layout.problem)}
        earlier = self.problem.objectives[: self.problem.objectives.index(objective)]
        self._reached = {name: integer_value(layout, name) for name in earlier}

    def cost(self, objective: Objective, group: GpuGroup) -> int:
        """What a GPU in use adds to an objective at least, in its integer unit."""
        return {Objective.GPUS: 1, Objective.COST: group.cost, Objective.POWER: group.power}.get(objective, 0)

    def rounded_up(self, bound: int) -> int:
        """The next value that the objective can have: cost and power are made of whole GPUs."""
        names = {kind for group in self.groups.values() for kind in group.kinds}
        kinds = [self.problem.kind_by_name[name] for name in names]
        steps = {
            Objective.COST: gcd(*(kind.cost_microusd_per_hour or 0 for kind in kinds)),
            Objective.POWER: gcd(*(kind.power_milliwatts or 0 for kind in kinds)),
        }
        step = steps.get(self.objective, 1)
        return -(-bound // step) * step if step else bound

    def row(self, dual: RowDual) -> Row:
        made = _ROWS[dual.row](self, dual)
        if dual.divisor != 1 and dual.row is not RowKind.DEMAND:
            raise Refused(f"{_name(dual)} has no divisor")
        return made

    def demand(self, dual: RowDual) -> Row:
        model, divisor = self.model(dual.subject, _name(dual)), dual.divisor
        if divisor < 1:
            raise Refused(f"{_name(dual)} has the divisor {divisor}; 1 is the least")
        if not self.all_served:
            if Objective.UNSERVED not in (self.objective, *self._reached):
                raise Refused(f"{_name(dual)} does not hold: demand may stay unserved")
            if divisor > 1:
                raise Refused(f"{_name(dual)} has the divisor {divisor}, but demand may stay unserved")
        asked = model.peak_mrps
        served = {o.id: -(-min(o.capacity_mrps, asked) // divisor) for o in self.options[model.name]}
        return Row(-(-asked // divisor), served)

    def replicas_min(self, dual: RowDual) -> Row:
        if self.problem.allow_unserved:
            raise Refused(f"{_name(dual)} does not hold: a model may have no replica where demand may stay unserved")
        model = self.model(dual.subject, _name(dual))
        return Row(model.replicas_min, {o.id: 1 for o in self.options[model.name]})

    def replicas_max(self, dual: RowDual) -> Row:
        model = self.model(dual.subject, _name(dual))
        if model.replicas_max is None:
            raise Refused(f"{_name(dual)} does not hold: there is no maximum")
        return Row(-model.replicas_max, {o.id: -1 for o in self.options[model.name]})

    def stock(self, dual: RowDual) -> Row:
        if dual.subject not in self.groups:
            raise Refused(f"{_name(dual)} names no group of GPUs of this fleet")
        return Row(-self.groups[dual.subject].count, groups={dual.subject: -1})

    def fixed(self, dual: RowDual) -> Row:
        """No worse in an earlier objective than the plan at hand; the unserved demand has its own term."""
        earlier = next((name for name in self._reached if name == dual.subject), None)
        if earlier not in CERTIFIED:
            raise Refused(f"{_name(dual)} names none of the objectives unserved, gpus, cost, power that come earlier")
        return Row(-self._reached[earlier], groups={g.name: -self.cost(earlier, g) for g in self.groups.values()})

    def decision(self, decision: Decision) -> Row:
        """A branching as a row of its leaf."""
        if bool(decision.groups) == bool(decision.options):
            raise Refused("a decision names either groups of GPUs or options")
        for name in decision.groups:
            if name not in self.groups:
                raise Refused(f"a decision names {name!r}, which is no group of GPUs of this fleet")
        for name in decision.options:
            if name not in self.problem.option_by_id:
                raise Refused(f"a decision names {name!r}, which is no option of this problem")
        sign = 1 if decision.side is Side.AT_LEAST else -1
        # A name that stands twice counts twice, here as in the sum that is branched on.
        return Row(sign * decision.value, _counted(decision.options, sign), _counted(decision.groups, sign))

    def refuse_unserved(self, scale: int, duals: Iterable[RowDual]) -> None:
        """Serving less must not pay: demand x its dual <= priority x what a missing share costs.

        A missing share q of a model, in ppm, is priority x q of `unserved`; its demand row misses demand x q / PPM.
        """
        if self.all_served or Objective.UNSERVED not in (self.objective, *self._reached):
            return
        price = scale if self.objective is Objective.UNSERVED else 0
        of_model: dict[str, int] = {}
        for dual in duals:
            if dual.row is RowKind.FIXED and dual.subject == Objective.UNSERVED:
                price += dual.dual
            if dual.row is RowKind.DEMAND:
                of_model[dual.subject] = of_model.get(dual.subject, 0) + dual.dual
        for model in self.problem.models:
            worth, most = of_model.get(model.name, 0) * model.peak_mrps, model.priority * PPM * price
            if worth > most:
                raise Refused(
                    f"the demand of {model.name!r} is worth {worth:,}, but to leave it unserved costs {most:,}: "
                    f"{worth - most:,} too much"
                )

    @cached_property
    def all_served(self) -> bool:
        """Whether every plan that is meant serves all demand."""
        if not self.problem.allow_unserved:
            return True
        every_share_counts = all(model.priority > 0 for model in self.problem.models)
        return every_share_counts and self._reached.get(Objective.UNSERVED) == 0

    @cached_property
    def options(self) -> Mapping[str, list[Option]]:
        found: dict[str, list[Option]] = {model.name: [] for model in self.problem.models}
        for option in self.problem.options:
            found[option.model].append(option)
        return found

    def model(self, name: str, what: str) -> Model:
        if name not in self.problem.model_by_name:
            raise Refused(f"{what} names no model of this problem")
        return self.problem.model_by_name[name]


_ROWS = {
    RowKind.DEMAND: Rows.demand,
    RowKind.REPLICAS_MIN: Rows.replicas_min,
    RowKind.REPLICAS_MAX: Rows.replicas_max,
    RowKind.STOCK: Rows.stock,
    RowKind.FIXED: Rows.fixed,
}


def _name(dual: RowDual) -> str:
    return f"the row {dual.row.value} of {dual.subject!r}"


def _counted(names: Iterable[str], sign: int) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + sign
    return counts
