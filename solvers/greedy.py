"""A first plan in about a second: first fit decreasing in several orders, the best one by the objectives.

Keeps every rule at each step. It proves nothing but the area bound, and says `infeasible` only where some
model can be served by no device at all.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product

from planner.domain import availability, node_totals
from planner.domain.ensemble_rules import ensemble_servers
from planner.domain.layout import Layout
from planner.domain.plan import Placement, Status
from planner.domain.problem import Device, Model, Objective, Problem
from planner.domain.rules import moves
from solvers.base import Bound, Progress, SolveOptions, SolveResult
from solvers.bounds import MAIN, NO_BOUND, area_bounds, lexicographic, tighter, unbounded
from solvers.packing import Measure, Packing, Price, Score, Sizes
from solvers.reduction import Reduction, is_sited, name_placements
from solvers.sited import SitedPacking
from solvers.splits import without_latency

# So many questions to devices are worth asking in each phase: a count, not a time, keeps the plan reproducible.
TRIALS = 300_000
RETRIES = 10
# Rules that no device keeps for itself alone.
BETWEEN_DEVICES = (
    moves, ensemble_servers, availability.spread, availability.survives, availability.conflict, availability.together,
    availability.pinned, node_totals.host_memory, node_totals.host_cpu, node_totals.limits,
)  # fmt: skip
LARGEST_IN_A_MOMENT = 4_000

MEASURES: tuple[Measure, ...] = (max, sum, lambda shares: shares[0], lambda shares: shares[1])
PRICES: dict[Objective, Price] = {
    Objective.GPUS: lambda choice: 1.0,
    Objective.COST: lambda choice: float(choice.kind.cost_microusd_per_hour or 1),
    Objective.POWER: lambda choice: float(choice.kind.power_milliwatts or 1),
}
# Dot product and distance to what is free: Panigrahy et al., Heuristics for Vector Bin Packing (2011).
SCORES: tuple[Score, ...] = (
    lambda shares, free: shares[0] * free[0] + shares[1] * free[1],
    lambda shares, free: -((free[0] - shares[0]) ** 2) - (free[1] - shares[1]) ** 2,
)


class GreedySolver:
    name = "greedy"

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        """A plan that depends on nothing but the problem: neither on the seed nor on the time limit."""
        started = time.monotonic()
        reduction = Reduction(problem)
        return self.conclude(reduction, first_plan(reduction, progress), started)

    def conclude(
        self,
        reduction: Reduction,
        best: tuple[Placement, ...] | None,
        started: float,
        known: Sequence[Bound] = (),
    ) -> SolveResult:
        """A plan with what is known of it without a search. `known`: bounds from elsewhere, by objective."""
        problem = reduction.problem
        if best is None:
            proven = bool(reduction.hopeless) and not problem.allow_unserved
            status = Status.INFEASIBLE if proven else Status.NOT_FOUND
            bounds = (NO_BOUND,) * len(problem.objectives)
        else:
            layout = Layout(problem, best)
            bounds = area_bounds(reduction, layout)
            bounds = tuple(map(tighter, known, bounds)) if known else bounds
            reached = [objective.value for objective in unbounded(problem, layout)]
            status = Status.OPTIMAL if reached == [bound.value for bound in bounds] else Status.FEASIBLE
        runtime_s = time.monotonic() - started
        return SolveResult(status=status, solver=self.name, placements=best, bounds=bounds, runtime_s=runtime_s)


def takes_a_moment(reduction: Reduction) -> bool:
    """Whether the first plan is there within about a second; beyond that filling by compiled code is faster."""
    replicas = sum(reduction.fewest_replicas(model) for model in reduction.problem.models)
    return replicas + len(reduction.choices) <= LARGEST_IN_A_MOMENT


def first_plan(reduction: Reduction, progress: Progress, deadline: float = math.inf) -> tuple[Placement, ...] | None:
    """The best of all attempts by the objectives in their order; None where none keeps every rule.

    After `deadline`, a time.monotonic(), no further attempt is begun.
    """
    problem = reduction.problem
    if reduction.hopeless and not problem.allow_unserved:
        return None
    best: tuple[Placement, ...] | None = None
    key: tuple[int, ...] | None = None
    for part in without_latency(reduction):
        search = _Search(part, problem, progress, key, deadline)
        search.run()
        if search.best is not None:
            best, key = search.best, search.key
    return best


class _Search:
    """`whole`: the problem, of which the reduction may hold a part. `key`: only what is better counts."""

    def __init__(
        self, reduction: Reduction, whole: Problem, progress: Progress, key: tuple[int, ...] | None, deadline: float
    ) -> None:
        self._deadline = deadline
        self._reduction = reduction
        self._problem = reduction.problem
        self._whole = whole
        self._progress = progress
        self._packing = SitedPacking if is_sited(reduction.problem) else Packing
        self._trials = 0
        self.key = key
        self.best: tuple[Placement, ...] | None = None

    def run(self) -> None:
        if not self._problem.served_by_triton:  # their members come to a device together
            self.fill()
        self.pack()
        if self.best is not None and Objective.BALANCE in self._problem.objectives:
            self.spread(self.best)

    def fill(self) -> None:
        """Fill one device after the other with what goes best with its free memory and busy time.

        Where a device stands does not matter to it: it is not for rules that look further than one device.
        """
        if is_sited(self._problem):
            return
        limit = self._trials + TRIALS
        for sizes in self._distinct_sizes:
            order = sorted(self._problem.models, key=sizes.of_replica, reverse=True)
            for score in SCORES:
                packing = Packing(self._reduction, sizes, self._devices)
                failed = packing.fill(order, score)
                self._trials += packing.trials
                if failed is None:
                    self._finish(packing)
                if self._trials > limit or time.monotonic() > self._deadline:
                    return

    def pack(self) -> None:
        """Place model by model, each replica on the first device where it fits."""
        self._place(self._devices, spread=False)

    def spread(self, packed: Sequence[Placement]) -> None:
        """Place model by model over a fixed set of devices, each replica on the least busy one."""
        objectives = self._problem.objectives
        before = set(objectives[: objectives.index(Objective.BALANCE)])
        used = {device for placement in packed for device in placement.devices}
        fixed = bool({*MAIN, Objective.MOVES} & before)
        devices = [device for device in self._devices if device.id in used or not fixed]
        if len(packed) * len(devices) <= TRIALS:
            self._place(devices, spread=True)

    def _place(self, devices: Sequence[Device], *, spread: bool) -> None:
        limit = self._trials + TRIALS
        ways = (True, False) if self._problem.counts_moves else (False,)
        for sizes, order in self._attempts():
            for stay in ways:
                self._try(sizes, order, devices, spread=spread, stay=stay)
            if self._trials > limit or time.monotonic() > self._deadline:
                return

    @cached_property
    def _devices(self) -> list[Device]:
        """In the order in which they are taken: where moves count, those that carry most of them first."""
        found = [device for group in self._reduction.groups for gpu in group.gpus for device in gpu]
        if self._problem.counts_moves:
            found.sort(key=lambda device: -self._problem.running.get(device.id, Counter()).total())
        return found

    @cached_property
    def _sizes(self) -> list[Sizes]:
        first = next((o for o in self._problem.objectives if o in MAIN), Objective.GPUS)
        return [Sizes(self._reduction, measure, price=PRICES[first]) for measure in MEASURES]

    @cached_property
    def _distinct_sizes(self) -> list[Sizes]:
        """One for each way in which they rank the options."""
        found: list[Sizes] = []
        for sizes in self._sizes:
            if all(sizes.rankings != other.rankings for other in found):
                found.append(sizes)
        return found

    def _attempts(self) -> Iterator[tuple[Sizes, list[Model]]]:
        models = self._problem.models
        if self._problem.allow_unserved or Objective.MODELS in self._problem.objectives:
            for sizes in self._sizes:  # many small ones rather than few large ones
                yield sizes, sorted(models, key=lambda m, s=sizes: s.of_demand(m) / m.priority)  # type: ignore[misc]
        # Equal pairs first: a size that ranks the options should also order the models.
        for options_by, models_by in sorted(product(self._sizes, repeat=2), key=lambda pair: pair[0] is not pair[1]):
            yield options_by, sorted(models, key=models_by.of_replica, reverse=True)

    def _try(
        self, sizes: Sizes, order: list[Model], devices: Sequence[Device], *, spread: bool, stay: bool = False
    ) -> None:
        """Place all models in this order; one that does not fit comes first in the next trial."""
        for _ in range(RETRIES):
            packing = self._packing(self._reduction, sizes, devices, spread=spread)
            if stay:
                packing.stay()
            failed = self._fill(packing, order)
            self._trials += packing.trials
            if failed is None or order[0] is failed:
                break
            order = [failed, *(model for model in order if model is not failed)]
        if failed is None:
            self._finish(packing)

    def _fill(self, packing: Packing | SitedPacking, order: Sequence[Model]) -> Model | None:
        for model in order:
            if not packing.place(model) and not self._problem.allow_unserved:
                return model
        return None

    def _finish(self, packing: Packing | SitedPacking) -> None:
        """Keep it, and once more with further replicas where they count for throughput."""
        self._keep(packing)
        objectives = self._problem.objectives
        if Objective.THROUGHPUT in objectives:
            rivals = (*MAIN, Objective.MOVES)
            packing.grow(new_devices=all(_comes_first(objectives, Objective.THROUGHPUT, o) for o in rivals))
            self._keep(packing)

    def _keep(self, packing: Packing | SitedPacking) -> None:
        placements = name_placements(self._whole, packing.pairs())
        layout = Layout(self._whole, placements)
        if any(violation for rule in BETWEEN_DEVICES for violation in rule(layout)):
            return
        key = lexicographic(self._whole, layout)
        if self.key is None or key < self.key:
            self.key, self.best = key, placements
            self._progress.improved(placements, unbounded(self._whole, layout))


def _comes_first(objectives: Sequence[Objective], first: Objective, second: Objective) -> bool:
    return first in objectives and first in objectives[: [*objectives, second].index(second)]
