"""What of a demand has to stay unserved at least, and contents of devices that leave out little more than that.

Whatever is left out stands on virtual devices, one part of a model's demand on each, that cost what the objective
`unserved` counts for it; real devices cost nothing. Without the rules between devices that is a problem of cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from planner.domain.objectives import natural
from planner.domain.problem import Device, DeviceKind, LatencyBasis, Model, Objective, Option, Problem
from planner.domain.relaxation import without_sites
from planner.domain.units import PPM
from solvers.base import Bound, SolveOptions
from solvers.bounds import NO_BOUND, applies
from solvers.columns.column import Column
from solvers.columns.compiled import compiled
from solvers.columns.instance import Instance
from solvers.columns.search import Costs, Search
from solvers.columns.solver import NAME
from solvers.reduction import Reduction

# A model's demand in more parts than these takes more devices than it makes the bound better.
MOST_PARTS = 5000
LEFT_OUT = "left out: "


@dataclass(frozen=True, slots=True)
class Served:
    """`contents`: per device of a plan without the rules between devices its options. Of a replica over several GPUs
    each has a part."""

    bound: Bound
    contents: tuple[tuple[str, ...], ...] = ()


def least_unserved(reduction: Reduction, options: SolveOptions) -> Served:
    """Within the time limit; NO_BOUND and no content where columns cannot tell."""
    deadline = time.monotonic() + options.time_limit_s
    relaxed, slack = _relaxed(replace(reduction.problem, options=tuple(choice.option for choice in reduction.choices)))
    if not relaxed.models or not applies(relaxed) or compiled(options.time_limit_s) is None:
        return Served(NO_BOUND)
    instance = Instance(Reduction(relaxed))
    costs = Costs(main=instance.unit_costs(Objective.COST))
    search = Search(instance, costs, options, deadline, lambda plan, bound: None)
    search.offer(_nothing_served(instance))
    search.run(brief=True)
    reason = "it was proved without the rules between devices, and a certificate does not say so"
    value = natural(Objective.UNSERVED, max(0, search.bound - slack))
    found = [
        tuple(instance.items[kind].choices[item].option.id for item in content)
        for column in search.plan or ()
        for kind, content in zip(instance.groups[column.group].kinds, column.contents, strict=True)
        if content and not instance.items[kind].kind.name.startswith(LEFT_OUT)
    ]
    return Served(Bound(value=value, method=NAME, uncertified=reason), tuple(found))


def _nothing_served(instance: Instance) -> list[Column]:
    return [
        group.column(number, {0: (0,)})
        for number, group in enumerate(instance.groups)
        if instance.items[group.kinds[0]].kind.name.startswith(LEFT_OUT)
        for _ in group.gpus
    ]


def _relaxed(problem: Problem) -> tuple[Problem, int]:
    """The problem of cost, and by how much its cost may exceed what is unserved."""
    plain = without_sites(problem)
    parts = [_Part.of(model, problem) for model in problem.models if model.peak_mrps]
    free = (replace(kind, cost_microusd_per_hour=0) for kind in plain.kinds)
    models = (
        replace(
            m,
            replicas_min=0,
            replicas_max=None,
            allowed_gpu=(*m.allowed_gpu, LEFT_OUT + m.name) if m.allowed_gpu else (),
        )
        for m in plain.models
        if m.peak_mrps
    )
    asked = {part.model.name for part in parts}
    relaxed = replace(
        plain,
        models=tuple(models),
        kinds=(*free, *(part.kind for part in parts)),
        devices=(*plain.devices, *(device for part in parts for device in part.devices())),
        options=(*(o for o in plain.options if o.model in asked), *(part.option for part in parts)),
        objectives=(Objective.COST,),
        allow_unserved=False,
        ensembles=(),
        current=(),
        max_moves=None,
        observed=None,
    )
    return relaxed, sum(part.slack for part in parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """So much of a model's demand is left out at a time."""

    model: Model
    mrps: int
    periods: int
    slack: int

    @staticmethod
    def of(model: Model, problem: Problem) -> _Part:
        """Where it divides the demand and all that replicas serve, nothing is lost; else less than one part."""
        capacities = [option.capacity_mrps for option in problem.options if option.model == model.name]
        mrps = gcd(model.peak_mrps, *capacities)
        if model.peak_mrps // mrps <= MOST_PARTS:
            return _Part(model, mrps, len(problem.periods), 0)
        mrps = -(-model.peak_mrps // MOST_PARTS)
        return _Part(model, mrps, len(problem.periods), _cost(model, mrps))

    @property
    def kind(self) -> DeviceKind:
        name = LEFT_OUT + self.model.name
        return DeviceKind(
            name=name, type=name, profile=name, memory_bytes=1, server_base_bytes=0, utilization_ppm=PPM,
            cost_microusd_per_hour=_cost(self.model, self.mrps), calibrated=True,
        )  # fmt: skip

    def devices(self) -> Iterator[Device]:
        kind = self.kind.name
        for number in range(-(-self.model.peak_mrps // self.mrps)):
            yield Device(id=f"{kind}/{number}", gpu=f"{kind}/{number}", kind=kind)

    @property
    def option(self) -> Option:
        return Option(
            id=self.kind.name, model=self.model.name, kind=self.kind.name, instances=1, max_batch_size=1,
            queue_delay_us=None, backend="", memory_bytes=1, capacity_mrps=self.mrps,
            busy_ppm=(0,) * self.periods, tolerance_ppm=0, max_others=0, curve=(), latency_basis=LatencyBasis.NONE,
        )  # fmt: skip


def _cost(model: Model, mrps: int) -> int:
    """What the objective counts for so much less of a model, rounded down."""
    return model.priority * mrps * PPM // model.peak_mrps
