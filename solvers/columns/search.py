"""The search for a plan of least cost: fill, relax, dive, then neighbourhoods until it is proven or time is up."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from solvers.base import SolveOptions
from solvers.columns.area import area_duals
from solvers.columns.column import Column
from solvers.columns.filling import QUICK, THOROUGH, Filler, prices_by_size, spread_out
from solvers.columns.first_fit import first_fit
from solvers.columns.generation import Generator, Relaxed, Task
from solvers.columns.instance import Instance
from solvers.columns.neighbourhood import Neighbourhood, trimmed
from solvers.columns.pricing import Effort, Pricer
from solvers.columns.rounding import POWERS, Dive, prices_of
from solvers.columns.wanted import Wanted

# Shares of the time limit: fills from different prices, the relaxation, the dives.
SHARE_OF_FILLS, SHARE_OF_RELAXATION, SHARE_OF_DIVE = 0.08, 0.4, 0.85
# Of a relaxation's GPUs, what a dive settles at once, and by how much it mistakes fractions.
STEPS, BY_CHANCE = ((0.2, 0.0), (0.05, 0.0)), (0.08, 0.2)
DIVES_BY_CHANCE = 38
SURE = 1e-6
# Filling GPU by GPU takes seconds where each content is another one.
MANY_MODELS = 2_000
FRUITLESS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """By group, whole numbers: `main` is minimised first, then `then`."""

    main: tuple[int, ...]
    then: tuple[int, ...] = ()

    @property
    def unit(self) -> int:
        """Every plan costs a multiple of it."""
        return math.gcd(*self.main) or 1

    @property
    def largest(self) -> int:
        return max(self.main) or 1

    def total(self, plan: Sequence[Column]) -> int:
        return sum(self.main[column.group] for column in plan)

    def whole(self, bound: float) -> int:
        """A bound of a relaxation with scaled costs as the least multiple of the unit that a plan may cost."""
        return self.unit * math.ceil(bound * self.largest / self.unit - SURE)

    def blended(self) -> tuple[float, ...]:
        """One number that ranks like both: the dearest GPU costs about 1."""
        largest_then = max(self.then, default=0) or 1
        then = self.then or (0,) * len(self.main)
        return tuple(a / self.largest + 1e-5 * b / largest_then for a, b in zip(self.main, then, strict=True))

    def scaled(self) -> tuple[float, ...]:
        return tuple(cost / self.largest for cost in self.main)


@dataclass(frozen=True, slots=True)
class Pinned:
    """A GPU of a group, and models that stand on it, as places in the problem."""

    group: int
    models: frozenset[int]


class Search:
    """`plan` is the best so far, `bound` what is proven of `costs.main`, in its whole unit."""

    def __init__(
        self,
        instance: Instance,
        costs: Costs,
        options: SolveOptions,
        deadline: float,
        improved: Callable[[list[Column], int], None],
        pinned: Sequence[Pinned] = (),
    ) -> None:
        self._instance, self._costs, self._options, self._improved = instance, costs, options, improved
        self._started = time.monotonic()
        self._deadline = math.inf if options.iterations is not None else deadline
        problem = instance.problem
        wanted = Wanted.of(problem.models, optional=problem.allow_unserved)
        stock = tuple(group.stock for group in instance.groups)
        self.task = Task(instance=instance, wanted=wanted, costs=costs.blended(), stock=stock)
        self._rng = np.random.default_rng(options.seed)
        self._pricer = Pricer(instance)
        self._filler = Filler(instance, self.task.costs, options.seed)
        self._dive = Dive(
            self._pricer, self._filler, self._rng, Effort(nodes=2_000, nodes_of_case=200, seeds=30, cases=15)
        )
        self._pinned = pinned
        # Once prices are known, contents of pinned GPUs are fixed; `_todo` is what is left of the task then.
        self._fixed: list[Column] = []
        self._todo = self.task
        self._rest: list[Column] | None = None
        self.plan: list[Column] | None = None
        self.relaxed: Relaxed | None = None
        self.bound = 0
        self.scaled = costs.scaled()

    def run(self, *, brief: bool = False) -> None:
        """`brief`: end once proven, or when neighbourhoods bring nothing for a while: another solver goes on."""
        self.prove()
        self._fix_pinned()
        self._dives()
        if not self.near:
            self._select()
        self._neighbourhoods(brief=brief)

    def prove(self) -> None:
        """First plans and the relaxation: the bound, without more search for a plan."""
        self._fills()
        self._relax()

    @property
    def near(self) -> bool:
        """Proven as closely as was asked for."""
        if self.plan is None:
            return False
        value = self._costs.total(self.plan)
        return value - self.bound <= self._options.gap * value

    def offer(self, plan: Sequence[Column]) -> None:
        """Keep a plan, without what is fixed, where it is better in both costs, in their order."""
        rest = trimmed(self._todo, plan)
        whole = [*self._fixed, *rest]
        if self.plan is None or self._key(whole) < self._key(self.plan):
            self.plan, self._rest = whole, rest
            self._improved(whole, self.bound)

    def relaxation(self, task: Task, costs: Costs, columns: Sequence[Column], until: float) -> Relaxed:
        """The linear relaxation of `task`, whose costs are `costs` scaled, from the prices by area and these columns.

        It ends where nothing is to be gained: the rounded bound is that of its value, or the plan's cost already.
        """
        reached = math.inf if self.plan is None else costs.total(self.plan)

        def enough(value: float, bound: float) -> bool:
            low = costs.whole(bound)
            return reached <= low or costs.whole(value) <= low or value - bound <= 1e-6 * value

        generator = Generator(task, self._pricer, self._rng)
        generator.offer(columns)
        generator.start(area_duals(task, generator.rows))
        return generator.run(Effort(), until, enough)

    def _key(self, plan: Sequence[Column]) -> tuple[int, int]:
        return self._costs.total(plan), sum(self._costs.then[column.group] for column in plan if self._costs.then)

    def _at(self, share: float) -> float:
        return self._started + share * (self._deadline - self._started)

    def _fills(self) -> None:
        """Plans from prices by size; each gives columns to the relaxation as well."""
        if self.plan is None and len(self._instance.problem.models) > MANY_MODELS:
            placed = first_fit(self.task)
            if placed is not None:
                self.offer(spread_out(placed))
        resources = max(items.use.shape[1] for items in self._instance.items)
        for weights in _mixes(resources):
            prices = prices_by_size(self._instance, self.task.costs, weights)
            for power in POWERS:
                until = self._at(1.0 if self.plan is None else SHARE_OF_FILLS)
                effort = QUICK if self.plan is None else THOROUGH
                placed = self._filler.fill(
                    prices, power, self.task.wanted, self.task.stock, deadline=until, effort=effort
                )
                if placed is not None:
                    self._dive.pool.update(dict.fromkeys(column for column, _ in placed))
                    self.offer(spread_out(placed))
                if time.monotonic() > self._at(SHARE_OF_FILLS):
                    return

    def _relax(self) -> None:
        task = replace(self.task, costs=self.scaled)
        columns = [*self._dive.pool, *(self.plan or ())]
        self.relaxed = self.relaxation(task, self._costs, columns, self._at(SHARE_OF_RELAXATION))
        self._dive.pool.update(dict.fromkeys(self.relaxed.columns))
        self.bound = self._costs.whole(self.relaxed.bound)
        if self.plan is not None:
            self._improved(self.plan, self.bound)

    def _fix_pinned(self) -> None:
        """Settle what stands on pinned GPUs: by the prices of the relaxation what is worth most with their models."""
        if self.relaxed is None or self.relaxed.unserved > SURE or not self._pinned:
            return
        wanted, stock = self.task.wanted.copy(), list(self.task.stock)
        prices = prices_of(self.relaxed)
        for pinned in self._pinned:
            column = self._filler.with_models(pinned.group, pinned.models, prices, wanted)
            if column is not None and stock[pinned.group]:
                wanted.take(self._instance, column, 1)
                stock[pinned.group] -= 1
                self._fixed.append(column)
        self._todo = replace(self.task, wanted=wanted, stock=tuple(stock))
        before, self.plan, self._rest = self._rest, None, None
        used = Counter(column.group for column in before or ())
        if before is not None and all(used[group] <= most for group, most in enumerate(stock)):
            self.offer(before)
        for power in POWERS:
            placed = self._filler.fill(prices, power, wanted, stock, deadline=self._at(SHARE_OF_DIVE))
            if placed is not None:
                self.offer(spread_out(placed))

    def _dives(self) -> None:
        """First in large steps, which is soon done, then in smaller ones, then by chance."""
        if self.relaxed is None or self.relaxed.unserved > SURE:
            return
        until = self._at(SHARE_OF_DIVE)
        for share, noise in (*STEPS, *(BY_CHANCE,) * DIVES_BY_CHANCE):
            if self.near or time.monotonic() > until:
                return
            placed = self._dive.run(self._todo, until, self._most_cost(), self.relaxed, share=share, noise=noise)
            if placed is not None:
                self.offer(spread_out(placed))

    def _most_cost(self) -> float:
        return math.inf if self._rest is None else sum(self.task.costs[column.group] for column in self._rest)

    def _select(self) -> None:
        """The best plan from the columns known, by CP-SAT, whose import takes longer than a first plan."""
        from solvers.columns.selection import select

        seconds = 0.3 * (self._deadline - time.monotonic())
        bound = self.bound - self._costs.total(self._fixed)
        found = select(self._todo, list(self._dive.pool), self._rest, bound, self._costs, self._options, seconds)
        if found is not None:
            self.offer(found)

    def _neighbourhoods(self, *, brief: bool) -> None:
        if not self._rest or self.relaxed is None:
            return
        prices = prices_of(self.relaxed)
        around = Neighbourhood(self._todo, self._filler, self._dive, self._rng)
        turn, last, now = 0, 0, self._rest
        most = math.inf if self._options.iterations is None else self._options.iterations
        while turn < most and time.monotonic() < self._deadline:
            if (self.near and (brief or self._is_best_then())) or (brief and turn - last > FRUITLESS):
                return
            turn += 1
            moved = around.step(now, prices, self._deadline)
            if moved is not None:
                now = moved.plan
                if moved.saved > 0:
                    last = turn
                    self.offer(now)

    def _is_best_then(self) -> bool:
        """With one price per GPU the second cost follows from the first."""
        return len(self._costs.main) <= 1 or not any(self._costs.then)


def _mixes(resources: int) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Weights of the resources: all alike, then each one doubled."""
    alike = np.ones(resources)
    return [alike, *(alike + np.eye(resources)[r] for r in range(resources))]
