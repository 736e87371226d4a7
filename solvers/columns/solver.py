"""Column generation behind the protocol of all solvers: plans, bounds and proofs for `gpus` and `cost`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from planner.domain.certificate import Proof
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value, natural
from planner.domain.plan import ObjectiveValue, Placement, Status
from planner.domain.problem import Device, Option, Problem
from planner.domain.relaxation import without_sites
from solvers.base import Bound, Progress, SolveOptions, SolveResult
from solvers.bounds import MAIN, NO_BOUND, applies, area_bounds, lexicographic, tighter, unbounded
from solvers.columns.certifying import Held, proof_of
from solvers.columns.column import Column
from solvers.columns.compiled import compiled
from solvers.columns.generation import Relaxed, Task
from solvers.columns.instance import Instance
from solvers.columns.master import Cap
from solvers.columns.search import Costs, Pinned, Search
from solvers.columns.settling import Settling
from solvers.greedy import PRICES, first_plan, takes_a_moment
from solvers.reduction import Reduction, is_sited, name_placements

NAME = "columns"
# Of the time limit, what the search may take; the rest is for later objectives and for writing the plan down.
SHARE_OF_SEARCH, SHARE_OF_BRIEF = 0.93, 0.85
# And of that, what a plan with rules between devices gets when its columns are found.
SHARE_OF_IMPROVING = 0.2


class ColumnsSolver:
    """Other objectives than `gpus` and `cost` keep what the first plan gave them.

    With a limit in iterations the same seed gives the same plan.
    """

    name = NAME

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
        started = time.monotonic()
        reduction = Reduction(problem)
        quick = takes_a_moment(reduction) or not applies(problem)
        plan = first_plan(reduction, progress) if quick else None
        return self.improve(reduction, plan, options, progress, started)

    def improve(
        self,
        reduction: Reduction,
        plan: tuple[Placement, ...] | None,
        options: SolveOptions,
        progress: Progress,
        started: float,
        *,
        brief: bool = False,
    ) -> SolveResult:
        """Start from a plan that is known. The time limit counts from `started`, a time.monotonic().

        `brief`: leave time for another solver, which starts from this one's plan and bounds.
        """
        run = _Run(reduction, plan, options, progress, started, brief=brief)
        try:
            run.all_objectives()
        except KeyboardInterrupt:
            run.interrupted = True
            if run.plan is None:
                raise
        return run.result()


class _Run:
    def __init__(
        self,
        reduction: Reduction,
        plan: tuple[Placement, ...] | None,
        options: SolveOptions,
        progress: Progress,
        started: float,
        *,
        brief: bool,
    ) -> None:
        self._brief = brief
        self._reduction, self._problem = reduction, reduction.problem
        # Of rules between devices columns know what these ask for at least; the rest comes when they find their GPUs.
        self._relaxed = Reduction(without_sites(self._problem)) if is_sited(self._problem) else reduction
        self._settling: Settling | None = None
        self._options, self._progress, self._started = options, progress, started
        self._deadline = started + options.time_limit_s
        self._compile_s = 0.0
        self._bounds: dict[int, Bound] = {}
        self._bound = 0
        self._proofs: list[Proof] = []
        self._infeasible = bool(self._relaxed.hopeless) and not reduction.problem.allow_unserved
        self.plan = plan
        self.interrupted = False

    def all_objectives(self) -> None:
        if self._infeasible or not self._relaxed.groups or not applies(self._problem):
            return
        ready = compiled(self._deadline - time.monotonic())
        if ready is None:
            self._progress.message("the time limit ended while the search was being compiled for this machine")
            self.plan = self.plan or first_plan(self._reduction, self._progress, self._deadline)
            return
        self._compile_s = ready
        self._instance = Instance(self._relaxed)
        places = [place for place, o in enumerate(self._problem.objectives) if o in MAIN]
        if self._relaxed is not self._reduction:
            price = PRICES[self._problem.objectives[places[0]]]
            self._settling = Settling(self._reduction, self._instance, price, self._options, self._keep_plan)
        search = self._first(places)
        if self._settling is not None and self.plan is None and not self._infeasible:
            self.plan = first_plan(self._reduction, self._progress, self._deadline)
        if self.plan is not None and search.relaxed is not None and self._serves_all(self.plan):
            for number, place in enumerate(places[1:], start=1):
                self._later(search, place, places[:number])

    def result(self) -> SolveResult:
        objectives = self._problem.objectives
        bounds: tuple[Bound, ...] = (NO_BOUND,) * len(objectives)
        status = Status.INFEASIBLE if self._infeasible else Status.NOT_FOUND
        if self.plan is not None:
            layout = Layout(self._problem, self.plan)
            known = area_bounds(self._reduction, layout)
            bounds = tuple(tighter(self._bounds.get(place), bound) for place, bound in enumerate(known))
            reached = [objective.value for objective in unbounded(self._problem, layout)]
            status = Status.OPTIMAL if reached == [bound.value for bound in bounds] else Status.FEASIBLE
        return SolveResult(
            status=status, solver=NAME, placements=self.plan, bounds=bounds,
            runtime_s=time.monotonic() - self._started, interrupted=self.interrupted, proofs=tuple(self._proofs),
            compile_s=self._compile_s,
        )  # fmt: skip

    def _first(self, places: Sequence[int]) -> Search:
        """Search for the first of our objectives, the next one deciding between plans that cost the same."""
        costs = Costs(main=self._costs(places[0]), then=self._costs(places[1]) if len(places) > 1 else ())
        share = SHARE_OF_BRIEF if self._brief else SHARE_OF_SEARCH
        end = self._started + share * self._options.time_limit_s
        deadline = end if self._settling is None else end - SHARE_OF_IMPROVING * self._options.time_limit_s
        search = Search(self._instance, costs, self._options, deadline, self._keep, list(self._pinned()))
        if self.plan is not None and self._serves_all(self.plan):
            search.offer(columns_of(self._instance, self.plan))
        try:
            search.run(brief=self._brief)
            if self._settling is not None and search.plan is not None:
                self._settling.settle(search.plan, end, last=True)
            if self._settling is not None and self.plan is not None:
                self._settling.improve(self.plan, search.bound, end, brief=self._brief)
        finally:
            self._conclude(search, places[0])
        return search

    def _pinned(self) -> Iterator[Pinned]:
        models: dict[str, set[int]] = {}
        for pin in self._problem.pinned:
            models.setdefault(pin.gpu, set()).add(self._instance.model_index[pin.model])
        for number, group in enumerate(self._instance.groups):
            for gpu in group.gpus:
                if gpu[0].gpu in models:
                    yield Pinned(number, frozenset(models[gpu[0].gpu]))

    def _conclude(self, search: Search, place: int) -> None:
        if search.plan is not None:
            self._keep(search.plan, search.bound)
        if search.relaxed is None:
            return
        stock_cost = sum(c * g.stock for c, g in zip(self._costs(place), self._instance.groups, strict=True))
        self._infeasible = not self._problem.allow_unserved and search.bound > stock_cost
        if self.plan is None or not self._serves_all(self.plan):
            return
        objective = self._problem.objectives[place]
        self._bounds[place] = Bound(value=natural(objective, search.bound), method=NAME)
        task = replace(search.task, costs=search.scaled)
        self._prove(place, task, search.relaxed, Costs(main=self._costs(place)), [])

    def _later(self, search: Search, place: int, earlier: Sequence[int]) -> None:
        """The bound of a later objective, with the earlier ones held at the values of the plan."""
        layout = Layout(self._problem, self.plan or ())
        held, caps = [], []
        for name, costs in ((self._problem.objectives[p], Costs(main=self._costs(p))) for p in earlier):
            value = integer_value(layout, name)
            held.append(Held(name, value, costs.largest))
            caps.append(Cap(costs.scaled(), value / costs.largest))
        costs = Costs(main=self._costs(place))
        task = replace(search.task, costs=costs.scaled(), caps=tuple(caps))
        relaxed = search.relaxation(task, costs, columns_of(self._instance, self.plan or ()), self._deadline)
        objective = self._problem.objectives[place]
        self._bounds[place] = Bound(value=natural(objective, costs.whole(relaxed.bound)), method=NAME)
        self._prove(place, task, relaxed, costs, held)

    def _prove(self, place: int, task: Task, relaxed: Relaxed, costs: Costs, held: Sequence[Held]) -> None:
        objective = self._problem.objectives[place]
        proof = proof_of(objective, task, relaxed, costs.largest, costs.unit, held)
        self._proofs.append(proof)
        self._bounds[place] = replace(self._bounds[place], certified=natural(objective, proof.bound))

    def _costs(self, place: int) -> tuple[int, ...]:
        return self._instance.unit_costs(self._problem.objectives[place])

    def _serves_all(self, plan: Sequence[Placement]) -> bool:
        if not self._problem.allow_unserved:
            return True
        layout = Layout(self._problem, plan)
        return not any(layout.missing_mrps(model.name) for model in self._problem.models)

    def _keep(self, columns: Sequence[Column], bound: int = 0) -> None:
        """Keep and report a plan that is better in the objectives of the problem. `bound`: of the first of ours."""
        self._bound = bound
        if self._settling is not None:
            self._settling.settle(columns, self._deadline)
        else:
            self._keep_plan(placements_of(self._instance, columns))

    def _keep_plan(self, plan: tuple[Placement, ...]) -> None:
        if self.plan is None or self._key(plan) < self._key(self.plan):
            self.plan = plan
            self._progress.improved(plan, self._values(plan, self._bound))

    def _key(self, plan: Sequence[Placement]) -> tuple[int, ...]:
        return lexicographic(self._problem, Layout(self._problem, plan))

    def _values(self, plan: Sequence[Placement], bound: int) -> tuple[ObjectiveValue, ...]:
        values = unbounded(self._problem, Layout(self._problem, plan))
        first = next(value.name for value in values if value.name in MAIN)
        return tuple(
            replace(v, bound=natural(first, bound), method=NAME) if v.name is first and bound else v for v in values
        )


def columns_of(instance: Instance, plan: Sequence[Placement]) -> list[Column]:
    """The contents of the GPUs in use, without options that others beat where no rule is between devices."""
    places = {
        choice.option.id: item for items in instance.items for item, choice in enumerate(items.choices)
    }  # fmt: skip
    on_device: dict[str, list[int]] = {}
    for placement in plan:
        if placement.option in places:
            on_device.setdefault(placement.device, []).append(places[placement.option])
    found = []
    for number, group in enumerate(instance.groups):
        for gpu in group.gpus:
            contents = tuple(tuple(sorted(on_device.get(device.id, ()))) for device in gpu)
            if any(contents):
                found.append(group.canonical(Column(number, contents)))
    return found


def placements_of(instance: Instance, columns: Sequence[Column]) -> tuple[Placement, ...]:
    """The first GPUs of each group, in the order of the columns."""
    return name_placements(instance.problem, _pairs(instance, columns))


def _pairs(instance: Instance, columns: Sequence[Column]) -> Iterator[tuple[Option, tuple[Device, ...]]]:
    free = [iter(group.gpus) for group in instance.groups]
    for column in sorted(columns, key=lambda c: (c.group, c.contents)):
        gpu = next(free[column.group])
        for device, kind, content in zip(gpu, instance.groups[column.group].kinds, column.contents, strict=True):
            for item in content:
                yield instance.items[kind].choices[item].option, (device,)
