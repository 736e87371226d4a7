"""The rules between devices as constraints: one method per rule, by the rule's name."""

from __future__ import annotations

from ortools.sat.python import cp_model

from planner.domain.problem import Model
from planner.domain.topology import Domain
from solvers.cpsat.scaling import Term, at_least, at_most
from solvers.cpsat.variables import Slot, Variables
from solvers.reduction import Choice

_Placed = tuple[Choice, Slot, cp_model.IntVar]


class SiteConstraints:
    """With `allow_unserved` a model may be left out as a whole: then none of these binds it."""

    def __init__(self, model: cp_model.CpModel, variables: Variables) -> None:
        self._model = model
        self._variables = variables
        self._problem = variables.reduction.problem
        self._placed: dict[str, cp_model.IntVar] = {}

    def add_all(self) -> None:
        self.spread()
        self.survives()
        self.conflict()
        self.together()
        self.pinned()
        self.host_memory()
        self.host_cpu()
        self.limits()

    def spread(self) -> None:
        for model in self._problem.models:
            for spread in model.spread:
                present = []
                for name, rows in self._by_domain(model.name, spread.over).items():
                    counts: list[Term] = [(1, count) for _, _, count in rows]
                    if spread.at_most_each is not None:
                        at_most(self._model, counts, spread.at_most_each)
                    there = self._model.new_bool_var(f"{model.name} on {spread.over} {name}")
                    at_least(self._model, [*counts, (-1, there)], 0)
                    present.append(there)
                if spread.at_least > 1:
                    self._where_placed(model, [(1, there) for there in present], spread.at_least)

    def survives(self) -> None:
        for survival in self._problem.survives:
            for name in survival.models:
                model = self._problem.model_by_name[name]
                left = self._problem.survival_mrps(survival, model)
                rows = self._by_domain(name, survival.domain)
                if not left:
                    continue
                every = [(c.capacity_mrps, count) for c, count in self._variables.of_model(name)]
                reduction = self._variables.reduction
                most = sum(c.capacity_mrps * reduction.most_on_device(c) for c, _ in self._variables.of_model(name))
                total = self._model.new_int_var(0, most, f"capacity of {name}")
                at_least(self._model, [*every, (-1, total)], 0)
                self._where_placed(model, [(1, total)], left)
                for found in rows.values():
                    inside = [(-c.capacity_mrps, count) for c, _, count in found]
                    self._where_placed(model, [(1, total), *inside], left)

    def conflict(self) -> None:
        for one, other in self._problem.conflict:
            for slot in self._variables.slots:
                ours, theirs = (_present(slot, name) for name in (one, other))
                if ours and theirs and self._problem.max_per_device == 1:
                    at_most(self._model, [(1, v) for v in (*ours, *theirs)], 1)
                elif ours and theirs:
                    for left in ours:
                        for right in theirs:
                            self._model.add_at_most_one(left, right)

    def together(self) -> None:
        for one, other in self._problem.together:
            for slot in self._variables.slots:
                ours, theirs = (self._any(slot, name) for name in (one, other))
                self._model.add(ours == theirs)

    def pinned(self) -> None:
        for pin in self._problem.pinned:
            model = self._problem.model_by_name[pin.model]
            rows = self._by_domain(pin.model, Domain.GPU).get(pin.gpu, ())
            self._where_placed(model, [(1, count) for _, _, count in rows], 1)

    def host_memory(self) -> None:
        self._on_nodes(
            {m.name: m.host_memory_bytes for m in self._problem.models},
            {n.name: n.host_memory_bytes for n in self._problem.nodes},
        )

    def host_cpu(self) -> None:
        self._on_nodes(
            {m.name: m.host_cpu_millis for m in self._problem.models},
            {n.name: n.host_cpu_millis for n in self._problem.nodes},
        )

    def limits(self) -> None:
        """A part of the rule `fleet`: budgets and power of the GPUs in use."""
        for limit in self._problem.limits:
            power: dict[str, list[Term]] = {}
            cost: dict[str, list[Term]] = {}
            rows = zip(self._variables.reduction.groups, self._variables.places, strict=True)
            for group, place in ((group, place) for group, row in rows for place in row):
                name = self._problem.domain_of(place.slots[0].device, limit.scope)
                if limit.name in (None, name):
                    watts = max(kind.power_milliwatts or 0 for kind in group.kinds)
                    power.setdefault(name, []).append((watts, place.used))
                    cost.setdefault(name, []).append((group.cost, place.used))
            for used, most in ((power, limit.power_milliwatts), (cost, limit.cost_microusd_per_hour)):
                for terms in used.values() if most is not None else ():
                    at_most(self._model, terms, most or 0)

    def _on_nodes(self, needs: dict[str, int], offers: dict[str, int | None]) -> None:
        terms: dict[str, list[Term]] = {name: [] for name, offer in offers.items() if offer is not None}
        for stand in (stand for row in self._variables.stands.values() for stand in row):
            if stand.device.node in terms:
                terms[stand.device.node].append((needs[stand.choice.option.model], stand.count))
        for name, row in terms.items():
            at_most(self._model, row, offers[name] or 0)

    def _by_domain(self, model: str, domain: Domain) -> dict[str, list[_Placed]]:
        """What stands inside of each domain; a replica over several GPUs inside of each of these."""
        found: dict[str, list[_Placed]] = {}
        for stand in self._variables.stands[model]:
            one = stand.choice.option.gpus == 1 or domain is not Domain.GPU
            for slot in stand.slots[:1] if one else stand.slots:
                count = stand.count if one else slot.counts[stand.choice]
                found.setdefault(self._problem.domain_of(slot.device, domain), []).append((stand.choice, slot, count))
        return found

    def _where_placed(self, model: Model, terms: list[Term], least: int) -> None:
        """The sum is at least this; with `allow_unserved` only where the model has a replica at all."""
        if not self._problem.allow_unserved:
            at_least(self._model, terms, least)
            return
        if model.name not in self._placed:
            placed = self._placed[model.name] = self._model.new_bool_var(f"{model.name} has a replica")
            for choice, count in self._variables.of_model(model.name):
                at_most(self._model, [(1, count), (-self._variables.reduction.most_on_device(choice), placed)], 0)
        at_least(self._model, [*terms, (-least, self._placed[model.name])], 0)

    def _any(self, slot: Slot, model: str) -> cp_model.IntVar:
        """Whether the slot carries the model, by any choice."""
        found = _present(slot, model)
        if len(found) == 1:
            return found[0]
        there = self._model.new_bool_var(f"{model} on {slot.device.id}")
        self._model.add_max_equality(there, [*found, 0])
        return there


def _present(slot: Slot, model: str) -> list[cp_model.IntVar]:
    return [present for choice, present in slot.present.items() if choice.option.model == model]
