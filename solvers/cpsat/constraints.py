"""The rules of planner.domain.rules as constraints: one method per rule, by the rule's name.

Those between devices are in site_constraints.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from ortools.sat.python import cp_model

from planner.domain.ensemble import Ensemble, Serve
from planner.domain.units import PPM
from solvers.cpsat.scaling import Term, at_least, at_most
from solvers.cpsat.site_constraints import SiteConstraints
from solvers.cpsat.variables import Slot, Variables
from solvers.reduction import Choice


class Constraints:
    """`allowed-gpu` and `fleet` are kept by the reduction: there is no variable for what they forbid."""

    def __init__(self, model: cp_model.CpModel, variables: Variables) -> None:
        self._model = model
        self._variables = variables
        self._problem = variables.reduction.problem

    def add_all(self) -> None:
        self.gpu_memory()
        self.gpu_utilization()
        self.latency()
        self.one_replica()
        self.demand()
        self.replicas()
        self.ensemble_latency()
        self.ensemble_servers()
        self.moves()
        self.mig_layout()
        SiteConstraints(self._model, self._variables).add_all()
        self.symmetry()

    def gpu_memory(self) -> None:
        for slot in self._variables.slots:
            paid = {choice.option.backend: choice.overhead_bytes for choice in slot.counts}
            terms: list[Term] = [(choice.option.memory_bytes, count) for choice, count in slot.counts.items()]
            terms += [(paid[name], variable) for name, variable in slot.backends.items()]
            terms.append((slot.kind.server_base_bytes - slot.kind.memory_bytes, slot.used))
            at_most(self._model, terms, 0)

    def gpu_utilization(self) -> None:
        """Alone, a replica may take more than the threshold: it then counts as the threshold and shares with none."""
        for slot in self._variables.slots:
            limit = slot.kind.utilization_ppm
            for period in range(len(self._problem.periods)):
                if self._problem.pools:
                    busy = self._variables.busy(slot, period)
                    at_most(self._model, [*busy, (PPM - limit, slot.shared)], PPM)
                    continue
                busy = [(min(c.option.busy_ppm[period], limit), count) for c, count in slot.counts.items()]
                at_most(self._model, [*busy, (-limit, slot.used)], 0)
            for choice in slot.counts:
                if max(choice.option.busy_ppm) > limit:
                    self._model.add_implication(slot.present[choice], ~slot.shared)

    def latency(self) -> None:
        for slot in self._variables.slots:
            self._max_others(slot)
            for index in range(len(slot.kind.interference_classes)):
                for period in range(len(self._problem.periods)):
                    self._tolerance(slot, index, period)

    def one_replica(self) -> None:
        most = self._problem.max_per_device
        if most is None:
            return
        for slot in self._variables.slots:
            for row in _by_model(slot.counts):
                at_most(self._model, [*((1, slot.counts[choice]) for choice in row), (-most, slot.used)], 0)

    def demand(self) -> None:
        if self._problem.allow_unserved:
            return
        for model in self._problem.models:
            terms = [(choice.capacity_mrps, count) for choice, count in self._variables.of_model(model.name)]
            at_least(self._model, terms, model.peak_mrps)

    def replicas(self) -> None:
        """With `allow_unserved` a model may be left out as a whole."""
        for model in self._problem.models:
            counts = [count for _, count in self._variables.of_model(model.name)]
            terms: list[Term] = [(1, count) for count in counts]
            if model.replicas_max is not None:
                at_most(self._model, terms, model.replicas_max)
            if not self._problem.allow_unserved:
                at_least(self._model, terms, model.replicas_min)
            elif model.replicas_min > 1:
                placed = self._model.new_bool_var(f"{model.name} placed")
                at_least(self._model, [*terms, (-model.replicas_min, placed)], 0)
                for choice, count in self._variables.of_model(model.name):
                    most = self._variables.reduction.most_on_device(choice)
                    at_most(self._model, [(1, count), (-most, placed)], 0)

    def ensemble_latency(self) -> None:
        """How long a call of each member may take is a variable: the bound is split by the search."""
        for ensemble in self._problem.ensembles:
            if ensemble.bound_us is None:
                continue
            ends: dict[str, cp_model.IntVar] = {}
            for name in ensemble.order:
                depth = next(member.depth for member in ensemble.members if member.model == name)
                call = self._longest_call(ensemble, name, ensemble.bound_us // depth)
                ends[name] = self._model.new_int_var(0, ensemble.bound_us, f"{ensemble.name}: end of {name}")
                self._model.add(ends[name] >= depth * call)
                for other in ensemble.before[name]:
                    self._model.add(ends[name] >= ends[other] + depth * call)

    def _longest_call(self, ensemble: Ensemble, name: str, most_us: int) -> cp_model.IntVar:
        """At least what each replica in use promises; one that promises more than `most_us` is not used."""
        longest = self._model.new_int_var(0, most_us, f"{ensemble.name}: a call of {name}")
        used: dict[int, cp_model.IntVar] = {}
        for slot in self._variables.slots:
            for choice, present in slot.present.items():
                if choice.option.model != name:
                    continue
                promised = choice.option.promised_us(ensemble.call_percentile)
                if promised is None or promised > most_us:
                    self._model.add(present == 0)
                    continue
                if promised not in used:
                    used[promised] = self._model.new_bool_var(f"{ensemble.name}: {name} within {promised}")
                    self._model.add(longest >= promised * used[promised])
                self._model.add_implication(present, used[promised])
        return longest

    def ensemble_servers(self) -> None:
        for ensemble in self._problem.ensembles:
            if ensemble.serve is Serve.TRITON:
                served = [self._served_on(slot, ensemble) for slot in self._variables.slots]
                if not self._problem.allow_unserved:
                    at_least(self._model, [(1, variable) for variable in served], max(ensemble.demand_mrps))

    def _served_on(self, slot: Slot, ensemble: Ensemble) -> cp_model.IntVar:
        """All members or none; requests of the ensemble that this server takes."""
        rows = {m.model: [c for c in slot.counts if c.option.model == m.model] for m in ensemble.members}
        everyone = self._model.new_bool_var(f"{ensemble.name} on {slot.device.id}")
        served = self._model.new_int_var(0, max(ensemble.demand_mrps), f"{ensemble.name} served on {slot.device.id}")
        for member in ensemble.members:
            row = rows[member.model]
            for choice in row:
                self._model.add_implication(slot.present[choice], everyone)
            at_least(self._model, [*((1, slot.counts[choice]) for choice in row), (-1, everyone)], 0)
            capacity = [(choice.capacity_mrps, slot.counts[choice]) for choice in row]
            at_least(self._model, [*capacity, (-member.calls, served)], 0)
        return served

    def moves(self) -> None:
        if self._problem.max_moves is not None:
            self._model.add(self._variables.moves() <= self._problem.max_moves)

    def mig_layout(self) -> None:
        """A memory slice is in one slice in use at most, and compute slices are as many as there are."""
        for place in (place for row in self._variables.places for place in row if place.free_layout):
            whole = [slot.used for slot in place.slots if slot.kind.mig is None]
            sliced = [(slot, slot.kind.mig) for slot in place.slots if slot.kind.mig is not None]
            for memory in range(max(mig.gpu_memory for _, mig in sliced)):
                here = [slot.used for slot, mig in sliced if mig.mask(slot.device.start or 0) >> memory & 1]
                for row in [[*here, used] for used in whole] or [here]:
                    self._model.add_at_most_one(row)
            terms: list[Term] = [(mig.compute, slot.used) for slot, mig in sliced]
            at_most(self._model, terms, min(mig.gpu_compute for _, mig in sliced))

    def symmetry(self) -> None:
        """Of like GPUs the first ones are used. An order of their contents as well made the search worse."""
        for row in self._variables.places:
            for left, right in pairwise(row):
                self._model.add_implication(right.used, left.used)

    def _tolerance(self, slot: Slot, index: int, period: int) -> None:
        """What all replicas on the device take from class `index`, against what each resident of it bears."""
        added = {choice: choice.added_ppm2[index][period] for choice in slot.counts}
        shared = max(slot.kind.kappa_ppm[index]) * slot.kind.utilization_ppm
        largest = max(shared, *added.values(), 0)
        limits = {c: c.borne_ppm2 + added[c] for c in slot.counts if c.option.interference_class == index}
        limits = {choice: limit for choice, limit in limits.items() if limit < shared}
        terms = [(added[choice], count) for choice, count in slot.counts.items()]
        self._limit_beside(slot, terms, largest, limits)

    def _max_others(self, slot: Slot) -> None:
        terms = [(choice.option.instances, count) for choice, count in slot.counts.items()]
        largest = sum(choice.option.instances * most for choice, most in slot.most.items())
        limits = {c: c.max_others + c.option.instances for c in slot.counts if c.max_others is not None}
        limits = {choice: limit for choice, limit in limits.items() if limit < largest}
        self._limit_beside(slot, terms, largest, limits)

    def _limit_beside(self, slot: Slot, terms: Sequence[Term], largest: int, limits: dict[Choice, int]) -> None:
        """The total stays within `largest` anyway, and within the limit of each choice that is present."""
        if not limits:
            return
        total = self._model.new_int_var(0, largest, "")
        at_most(self._model, [*terms, (-1, total)], 0)
        alone = self._problem.max_per_device == 1  # then only one choice of a model can be present
        rows = _by_model(limits) if alone else [[choice] for choice in limits]
        for row in rows:
            less = [(largest - limits[choice], slot.present[choice]) for choice in row]
            at_most(self._model, [(1, total), *less], largest)


def _by_model(choices: Iterable[Choice]) -> list[list[Choice]]:
    rows: dict[str, list[Choice]] = {}
    for choice in choices:
        rows.setdefault(choice.option.model, []).append(choice)
    return list(rows.values())
