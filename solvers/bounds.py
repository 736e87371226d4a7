"""Bounds that need no search: the area bound of `gpus`, `cost` and `power`, and what counting alone shows.

Area: on every device, whatever stands there takes in total at most the whole of each resource. So the sum,
over models, of the least share of a device that their demand can take is a lower bound of the GPUs in use;
with each share multiplied by the device's price it is one of the cost. Shares are exact fractions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import floor

from planner.domain.layout import Layout
from planner.domain.objectives import GROWTH_SCALE, MAXIMISED, growth_base_mrps, integer_value, natural
from planner.domain.plan import ObjectiveValue
from planner.domain.problem import DeviceKind, Model, Objective, Problem
from planner.domain.units import PPM
from solvers.base import Bound
from solvers.reduction import Choice, GpuGroup, Reduction

AREA = "area"
SHARE_SCALE = 10**12  # sums of exact fractions with thousands of denominators would take minutes
MAIN = (Objective.GPUS, Objective.COST, Objective.POWER)
NO_BOUND = Bound(value=None, method="none")
# Their bounds count the whole demand, and hold only where it is served.
_OF_ALL_DEMAND = (*MAIN, Objective.BALANCE, Objective.MOVES)


class AreaBound:
    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self._problem = reduction.problem
        self._free_bytes = {kind.name: self._free_bytes_of(kind) for kind in reduction.problem.kinds}
        self._shares = {choice: self._shares_of(choice) for choice in reduction.choices}
        self._parts = _parts_of_gpus(reduction.groups)

    def value(self, objective: Objective) -> int | None:
        """A bound in the objective's integer unit, valid where all demand is served; None: none known."""
        if objective is Objective.GPUS:
            return self._area(lambda choice: self._parts[choice.kind.name])
        if objective is Objective.COST:
            return self._area(lambda choice: self._parts[choice.kind.name] * (choice.kind.cost_microusd_per_hour or 0))
        if objective is Objective.POWER:
            return self._area(lambda choice: self._parts[choice.kind.name] * (choice.kind.power_milliwatts or 0))
        if objective is Objective.MOVES:
            return self._moves()
        if objective is Objective.THROUGHPUT:
            return self._growth()
        if objective is Objective.BALANCE:
            return self._balance(sum(group.most_devices * len(group.gpus) for group in self._reduction.groups))
        if objective is Objective.UNSERVED:
            return sum(m.priority * PPM for m in self._problem.models if m.peak_mrps and not self._has_choice(m))
        if objective is Objective.MODELS:
            hopeless = set(self._reduction.hopeless)
            return sum(1 for m in self._problem.models if self._has_choice(m) and m.name not in hopeless)
        return None

    def given(self, layout: Layout | None, place: int) -> int | None:
        """The bound of the objective at `place`, with the earlier ones fixed at the values of `layout`."""
        objectives = self._problem.objectives
        earlier, objective = objectives[:place], objectives[place]
        if objective in _OF_ALL_DEMAND and self._problem.allow_unserved:
            fixed = layout is not None and Objective.UNSERVED in earlier
            all_served = fixed and layout is not None and integer_value(layout, Objective.UNSERVED) == 0
            if not all_served:
                return 0
        if objective is Objective.BALANCE and layout is not None and Objective.GPUS in earlier:
            most = max((group.most_devices for group in self._reduction.groups), default=0)
            return max(self.value(objective) or 0, self._balance(most * integer_value(layout, Objective.GPUS)))
        return self.value(objective)

    def _moves(self) -> int:
        """Of each model there are at least so many replicas, and no more can stay than run now."""
        running = Counter(replica.model for replica in self._problem.current)
        models = self._problem.models
        return sum(max(0, self._reduction.fewest_replicas(m) - running[m.name]) for m in models if self._has_choice(m))

    def _growth(self) -> int:
        """The least shares that the demand takes, grown by the factor, fit into all devices together."""
        bases = [(m, growth_base_mrps(m.peak_mrps, m.demand_mrps is not None)) for m in self._problem.models]
        bases = [(model, base) for model, base in bases if base]
        if not bases or not all(self._has_choice(model) for model, _ in bases):
            return 0
        groups = self._reduction.groups
        stock = Counter(kind.name for group in groups for kind in group.kinds for _ in group.gpus)
        devices = sum(group.most_devices * len(group.gpus) for group in groups)
        most = [self._most_mrps(model, stock) * GROWTH_SCALE // base for model, base in bases]
        for resource in range(max(map(len, self._shares.values()))):
            area = sum(
                floor(SHARE_SCALE * base * min(self._shares[c][resource] / c.capacity_mrps
                                               for c in self._reduction.by_model[model.name]))
                for model, base in bases
            )  # fmt: skip
            if area:
                most.append(devices * SHARE_SCALE * GROWTH_SCALE // area)
        return min(most)

    def _most_mrps(self, model: Model, stock: Mapping[str, int]) -> int:
        """What replicas of a model serve at most, whatever else there is."""
        choices = self._reduction.by_model[model.name]
        best = max(choice.capacity_mrps for choice in choices)
        on_device: dict[str, int] = {}
        for choice in choices:
            most = self._reduction.most_on_device(choice)
            on_device[choice.kind.name] = max(on_device.get(choice.kind.name, 0), most)
        replicas = sum(stock[kind] * most for kind, most in on_device.items())
        return best * (replicas if model.replicas_max is None else min(replicas, model.replicas_max))

    def _balance(self, devices: int) -> int:
        """The least busy time that the demand takes, spread evenly over so many devices."""
        models = [m for m in self._problem.models if self._has_choice(m)]
        totals = [
            sum(self._least(m, lambda c, p=p: c.option.gpus * Fraction(c.option.busy_ppm[p] - c.option.swing(p)))  # type: ignore[misc]
                for m in models)
            for p in range(len(self._problem.periods))
        ]  # fmt: skip
        return -(-max(totals, default=0) // (SHARE_SCALE * devices)) if devices else 0

    def _has_choice(self, model: Model) -> bool:
        return bool(self._reduction.by_model[model.name])

    def _area(self, price: Callable[[Choice], Fraction]) -> int:
        models = [m for m in self._problem.models if self._has_choice(m)]
        prices = {choice: price(choice) for choice in self._shares}
        resources = range(max(map(len, self._shares.values()), default=0))
        sums = [
            sum(self._least(model, lambda c, r=r: self._shares[c][r] * prices[c]) for model in models)  # type: ignore[misc]
            for r in resources
        ]
        most = self._problem.max_per_device
        if most is not None:  # replicas of one model that may not share a device need as many devices
            sums += [
                self._least(model, lambda c: prices[c] * (c.option.gpus if c.option.gpus > 1 else Fraction(1, most)))
                for model in models
            ]
        return -(-max(sums, default=0) // SHARE_SCALE)

    def _least(self, model: Model, weight: Callable[[Choice], Fraction]) -> int:
        """The least total weight of replicas that serve the model, times SHARE_SCALE, rounded down."""
        weights = [(weight(c), c.capacity_mrps) for c in self._reduction.by_model[model.name]]
        fractional = min(w / capacity for w, capacity in weights) * model.peak_mrps
        counted = min(w for w, _ in weights) * self._reduction.fewest_replicas(model)
        return floor(max(fractional, counted) * SHARE_SCALE)

    def _shares_of(self, choice: Choice) -> tuple[Fraction, ...]:
        """Of memory, of instances beside each other, and of busy time in every period."""
        option = choice.option
        if option.gpus > 1:  # whole GPUs, whatever it takes of them
            return (Fraction(option.gpus),) * (2 + len(option.busy_ppm))
        own_instances = option.instances
        limit = None if choice.max_others is None else choice.max_others + own_instances
        return (
            _share(option.memory_bytes, self._free_bytes[choice.kind.name]),
            Fraction(0) if limit is None else Fraction(own_instances, limit),
            *(_share(busy - option.swing(p), _busy_limit(choice, p)) for p, busy in enumerate(option.busy_ppm)),
        )

    def _free_bytes_of(self, kind: DeviceKind) -> int:
        """What a device in use leaves at best: it pays the server and at least one backend."""
        least = min((choice.overhead_bytes for choice in self._reduction.by_kind[kind.name]), default=0)
        return kind.memory_bytes - kind.server_base_bytes - least


def _parts_of_gpus(groups: Iterable[GpuGroup]) -> dict[str, Fraction]:
    """A device's part of its GPU, by kind, so that the devices of a GPU never make more than one."""
    parts: dict[str, Fraction] = {}
    for group in groups:
        for kind in group.kinds:
            parts[kind.name] = min(parts.get(kind.name, Fraction(1)), _part_of_gpu(kind, group))
    return parts


def _part_of_gpu(kind: DeviceKind, group: GpuGroup) -> Fraction:
    """Where the layout is free, a slice's part of the compute slices: no layout has more than all of them."""
    if not group.free_layout:
        return Fraction(1, len(group.kinds))
    if kind.mig is not None:
        return Fraction(kind.mig.compute, kind.mig.gpu_compute)
    return Fraction(1, sum(other.mig is None for other in group.kinds))


def _busy_limit(choice: Choice, period: int) -> int:
    """All busy time on a device that carries this choice beside others stays at or below this limit."""
    limit = choice.kind.utilization_ppm
    if min(map(min, choice.kind.kappa_ppm)) >= PPM:
        borne = choice.borne_ppm2 + choice.own_ppm2[period]
        limit = min(limit, borne // PPM)
    return limit


def _share(part: int, whole: int) -> Fraction:
    """At most 1: alone on its device a replica may take more than it could beside others."""
    if part == 0:
        return Fraction(0)
    return min(Fraction(1), Fraction(part, whole)) if whole > 0 else Fraction(1)


def area_bounds(reduction: Reduction, layout: Layout) -> tuple[Bound, ...]:
    """One bound per objective, valid with the earlier ones fixed at the values of `layout`."""
    area = AreaBound(reduction)
    values = [(o, area.given(layout, place)) for place, o in enumerate(reduction.problem.objectives)]
    return tuple(NO_BOUND if v is None else Bound(value=natural(o, v), method=AREA) for o, v in values)


def places_needed(reduction: Reduction, plan: Layout | None) -> list[int]:
    """How many GPUs of each group some best plan needs at most, by what can be said before any search.

    A plan at hand bounds them by its GPUs and its cost, up to the first objective that may still get better.
    """
    problem, groups = reduction.problem, reduction.groups
    useful = [reduction.useful_replicas(model) for model in problem.models]
    widest = [max((c.option.gpus for c in reduction.by_model[m.name]), default=1) for m in problem.models]
    devices = None if None in useful else sum((n or 0) * gpus for n, gpus in zip(useful, widest, strict=True))
    sizes = [len(g.gpus) if devices is None else min(len(g.gpus), devices) for g in groups]
    if plan is None:
        return sizes
    area = AreaBound(reduction)
    for place, objective in enumerate(problem.objectives):
        value = integer_value(plan, objective)
        if objective is Objective.GPUS:
            sizes = [min(size, value) for size in sizes]
        if objective is Objective.COST:
            sizes = [min(s, value // g.cost) if g.cost else s for s, g in zip(sizes, groups, strict=True)]
        if objective is Objective.POWER:
            sizes = [min(s, value // g.power) if g.power else s for s, g in zip(sizes, groups, strict=True)]
        if value != area.given(plan, place):
            break
    used = [sum(gpu[0].gpu in plan.used_gpus for gpu in group.gpus) for group in groups]
    return [max(pair) for pair in zip(sizes, used, strict=True)]


def lexicographic(problem: Problem, layout: Layout) -> tuple[int, ...]:
    """The objectives as integers to be minimised in their order."""
    return tuple(integer_value(layout, o) * (-1 if o in MAXIMISED else 1) for o in problem.objectives)


def unbounded(problem: Problem, layout: Layout) -> tuple[ObjectiveValue, ...]:
    """The objectives of a plan on the way, for a progress report."""
    return tuple(
        ObjectiveValue(name=o, value=natural(o, integer_value(layout, o)), bound=None, method=NO_BOUND.method)
        for o in problem.objectives
    )


def tighter(ours: Bound | None, area: Bound) -> Bound:
    """The tighter of both; where they are equal the one that needs no search, with what was certified."""
    if ours is None or ours.value is None:
        return area
    if area.value is None or area.value < ours.value:
        return ours
    return replace(area, certified=ours.certified, uncertified=ours.uncertified)


def applies(problem: Problem) -> bool:
    """Whether serving all demand is settled first, and GPUs or cost come next: what columns can search for.

    They know of no difference between like GPUs but their place.
    """
    if problem.pools:  # no sum is linear then
        return False
    if problem.counts_moves:
        return False
    if problem.served_by_triton or any(ensemble.bound_us is not None for ensemble in problem.ensembles):
        return False
    if problem.objectives[0] is Objective.UNSERVED:
        return problem.objectives[1:2] != () and problem.objectives[1] in MAIN
    return problem.objectives[0] in MAIN and not problem.allow_unserved
