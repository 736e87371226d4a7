"""The objectives of planner.domain.objectives as linear expressions in the same integer units."""

from __future__ import annotations

from ortools.sat.python import cp_model

from planner.domain.objectives import GROWTH_SCALE, growth_base_mrps
from planner.domain.problem import Model, Objective
from planner.domain.units import PPM
from solvers.cpsat.scaling import Term, at_least, at_most, weighted_sum
from solvers.cpsat.variables import Slot, Variables


class Objectives:
    def __init__(self, model: cp_model.CpModel, variables: Variables) -> None:
        self._model = model
        self._variables = variables
        self._problem = variables.reduction.problem

    def expression(self, objective: Objective) -> cp_model.LinearExpr:
        """Equal to the objective of the placements, or held at its best value for them by the solver."""
        return {
            Objective.UNSERVED: self.unserved,
            Objective.GPUS: self.gpus,
            Objective.COST: self.cost,
            Objective.POWER: self.power,
            Objective.MOVES: self._variables.moves,
            Objective.BALANCE: self.balance,
            Objective.MODELS: self.models,
            Objective.THROUGHPUT: self.throughput,
        }[objective]()

    def unserved(self) -> cp_model.LinearExpr:
        terms: list[Term] = []
        for model in self._problem.models:
            if model.peak_mrps:
                missing = self._model.new_int_var(0, PPM, f"missing of {model.name}")
                served = [(PPM * capacity, count) for capacity, count in self._capacities(model)]
                at_least(self._model, [*served, (model.peak_mrps, missing)], PPM * model.peak_mrps)
                terms.append((model.priority, missing))
        return weighted_sum(terms)

    def gpus(self) -> cp_model.LinearExpr:
        return weighted_sum([(1, place.used) for row in self._variables.places for place in row])

    def cost(self) -> cp_model.LinearExpr:
        rows = zip(self._variables.reduction.groups, self._variables.places, strict=True)
        return weighted_sum([(group.cost, place.used) for group, row in rows for place in row])

    def power(self) -> cp_model.LinearExpr:
        rows = zip(self._variables.reduction.groups, self._variables.places, strict=True)
        return weighted_sum([(group.power, place.used) for group, row in rows for place in row])

    def balance(self) -> cp_model.LinearExpr:
        largest = self._model.new_int_var(0, PPM, "balance")
        for slot in self._variables.slots:
            for period in range(len(self._problem.periods)):
                self._balance_of(slot, period, largest)
        return weighted_sum([(1, largest)])

    def models(self) -> cp_model.LinearExpr:
        terms: list[Term] = []
        for model in self._problem.models:
            loaded = self._model.new_bool_var(f"{model.name} loaded")
            counts = [count for _, count in self._variables.of_model(model.name)]
            at_least(self._model, [*((1, count) for count in counts), (-1, loaded)], 0)
            at_least(self._model, [*self._capacities(model), (-model.peak_mrps, loaded)], 0)
            terms.append((1, loaded))
        return weighted_sum(terms)

    def throughput(self) -> cp_model.LinearExpr:
        """The largest common growth factor, in units of 1 / GROWTH_SCALE."""
        bases = [(m, growth_base_mrps(m.peak_mrps, m.demand_mrps is not None)) for m in self._problem.models]
        bases = [(model, base) for model, base in bases if base]
        most = [self._largest_capacity(model) * GROWTH_SCALE // base for model, base in bases]
        growth = self._model.new_int_var(0, min(most, default=0), "growth")
        for model, base in bases:
            grown = [(GROWTH_SCALE * capacity, count) for capacity, count in self._capacities(model)]
            at_least(self._model, [*grown, (-base, growth)], 0)
        return weighted_sum([(1, growth)])

    def total_capacity(self) -> cp_model.LinearExpr:
        """What throughput maximises once its growth factor is fixed."""
        return weighted_sum([term for model in self._problem.models for term in self._capacities(model)])

    def _capacities(self, model: Model) -> list[Term]:
        return [(choice.capacity_mrps, count) for choice, count in self._variables.of_model(model.name)]

    def _largest_capacity(self, model: Model) -> int:
        reduction = self._variables.reduction
        return sum(c.capacity_mrps * reduction.most_on_device(c) for c, _ in self._variables.of_model(model.name))

    def _balance_of(self, slot: Slot, period: int, largest: cp_model.IntVar) -> None:
        """Alone on its device a replica is held against what it may use there, beside others against the threshold."""
        limit, alone = slot.kind.utilization_ppm, slot.kind.alone_ppm
        scaled = [(PPM * share, variable) for share, variable in self._variables.busy(slot, period)]
        at_most(self._model, [*scaled, (-alone, largest)], 0)
        if limit < alone:
            slack = PPM * (alone - limit)
            at_most(self._model, [*scaled, (-limit, largest), (slack, slot.shared)], slack)
