"""What rules between devices ask for at least, once they are left out: the relaxation that bounds are proved of.

Every plan of the problem keeps the rules of its relaxation, so a bound of the relaxation is one of the problem.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from planner.domain.problem import Model, Option, Problem
from planner.domain.topology import Domain


def without_sites(problem: Problem) -> Problem:
    """The problem without the rules between devices, but with the capacity and the replicas that these imply.

    `conflict` stays: a search of one device knows of it, at least of some pairs (`exclusive_groups`). A replica over
    several GPUs becomes a part on each.
    """
    asked = _Asked(problem)
    models = tuple(map(asked.of, problem.models))
    options = tuple(replace(o, gpus=1, capacity_mrps=-(-o.capacity_mrps // o.gpus)) for o in problem.options)
    return replace(problem, models=models, options=options, together=(), pinned=(), survives=(), limits=())


class _Asked:
    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._options: dict[str, list[Option]] = {model.name: [] for model in problem.models}
        for option in problem.options:
            self._options[option.model].append(option)
        self._pins = Counter(model for model, _ in {(pin.model, pin.gpu) for pin in problem.pinned})
        self._kept: dict[str, dict[Domain, int]] = {}
        for survival in problem.survives:
            for name in survival.models:
                left = problem.survival_mrps(survival, problem.model_by_name[name])
                of_model = self._kept.setdefault(name, {})
                of_model[survival.domain] = max(left, of_model.get(survival.domain, 0))
        self._domains = {
            domain: _by_kind(problem, domain) for domain in {d for kept in self._kept.values() for d in kept}
        }

    def of(self, model: Model) -> Model:
        """The model with all that the rules between devices ask of it, instead of these rules."""
        options = self._options[model.name]
        parts = [option.gpus for option in options] or [1]
        most = None if model.replicas_max is None else model.replicas_max * max(parts)
        plain = replace(model, spread=(), host_memory_bytes=0, host_cpu_millis=0, replicas_max=most)
        if self._problem.allow_unserved or not options:  # it may be left out as a whole
            return plain
        capacities = [option.capacity_mrps for option in options]
        demand = model.peak_mrps
        replicas = max([model.replicas_min, *(spread.at_least for spread in model.spread if spread.at_least > 1)])
        for domain, left in self._kept.get(model.name, {}).items():
            places = len(set().union(*(self._domains[domain].get(option.kind, set()) for option in options)))
            if left and places > 1:
                # Each domain but one serves `left`, whichever it is; and all replicas but one do.
                demand = max(demand, -(-left * places // (places - 1)), left + min(capacities))
                replicas = max(replicas, _fewest(-(-left // max(capacities)), places))
        plain = replace(plain, replicas_min=max(replicas * min(parts), self._pins[model.name]))
        if demand == model.peak_mrps:
            return plain
        return replace(plain, demand_mrps=tuple(max(d, demand) for d in model.demand_mrps or ()))


def _by_kind(problem: Problem, domain: Domain) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for device in problem.devices:
        if not device.cordoned:
            found.setdefault(device.kind, set()).add(problem.domain_of(device, domain))
    return found


def _fewest(left: int, places: int) -> int:
    """Replicas of which, evenly over so many domains, `left` are outside any one of them."""
    return left + -(-left // (places - 1))
