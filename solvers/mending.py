"""From a placement that breaks rules between devices to a plan: what breaks one goes, what is missing is put down anew.

A plan gets better by the same step: empty some GPUs, and put down what is missing then.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from planner.domain.problem import Device, DeviceKind, Objective, Option
from solvers.bounds import MAIN
from solvers.packing import Price, Sizes
from solvers.reduction import Choice, Reduction, usable
from solvers.sited import SitedPacking

Pair = tuple[Option, Device]
# GPUs that a step empties: fewer where that helped.
SMALLEST, LARGEST = 2.0, 60.0
# How much chance there is in which these are, beside how full they are: a standard deviation of the logarithm.
CHANCE = 0.5


class Mender:
    """Holds one placement and changes it. `price` of the device that a choice stands on, by the first objective."""

    def __init__(self, reduction: Reduction, price: Price, seed: int) -> None:
        self._reduction, self._problem = reduction, reduction.problem
        self._sizes = [Sizes(reduction, measure, price=price) for measure in (max, sum)]
        self._choices = {choice.option.id: choice for choice in reduction.choices}
        self._order = sorted(self._problem.models, key=self._sizes[0].of_replica, reverse=True)
        devices = [device for group in reduction.groups for gpu in group.gpus for device in gpu]
        self._packing = SitedPacking(reduction, self._sizes[0], devices)
        self._rng = np.random.default_rng(seed)
        self._pinned = {pin.gpu for pin in self._problem.pinned}  # never empty, and so never worth emptying
        self._emptied = 10.0
        self._main = [objective for objective in self._problem.objectives if objective in MAIN]

    def mend(self, pairs: Iterable[Pair]) -> bool:
        """Keep of the placement what breaks no rule, and put down the rest anew; False where something is missing."""
        self._packing.sizes = self._sizes[0]
        self._packing.resume([(self._choice(option), device) for option, device in pairs])
        self._packing.thin()
        whole = [self._packing.place(model) for model in self._order]
        self._packing.thin()
        return all(whole) or self._problem.allow_unserved

    def step(self) -> bool:
        """Empty some GPUs and put down what is missing then; whether that was better. Otherwise all is as before."""
        before = self.cost()
        full = {gpu: share for gpu, share in self._packing.shares().items() if gpu not in self._pinned}
        chance = dict(zip(full, self._rng.lognormal(0.0, CHANCE, len(full)), strict=True))
        emptied = sorted(full, key=lambda gpu: full[gpu] * chance[gpu])[: int(self._emptied)]
        self._packing.sizes = self._sizes[int(self._rng.integers(len(self._sizes)))]
        models = self._packing.vacate(set(emptied))
        kept = False
        try:
            kept = all(self._packing.place(model) for model in self._order if model.name in models)
            if kept:
                self._packing.thin(models)
                kept = self.cost() <= before
        finally:  # also where the user asks to stop
            if not kept:
                self._packing.undo()
        better = self.cost() < before
        self._emptied = min(LARGEST, max(SMALLEST, self._emptied * (0.9 if better else 1.02)))
        return better

    def cost(self) -> tuple[int, ...]:
        """Of the GPUs in use, by the objectives that count these."""
        used = self._packing.used_gpus().values()
        return tuple(sum(_unit_cost(kind, objective) for kind in used) for objective in self._main)

    def pairs(self) -> list[tuple[Option, tuple[Device, ...]]]:
        return self._packing.pairs()

    def _choice(self, option: Option) -> Choice:
        if option.id not in self._choices:  # without the rules between devices it was no worse than another
            choice = usable(self._problem, self._problem.option_by_id[option.id])
            assert choice is not None
            self._choices[option.id] = choice
        return self._choices[option.id]


def _unit_cost(kind: DeviceKind, objective: Objective) -> int:
    if objective is Objective.GPUS:
        return 1
    return (kind.cost_microusd_per_hour if objective is Objective.COST else kind.power_milliwatts) or 0
