"""Column generation: the linear relaxation over all contents of all GPUs, and the bound that it proves.

Duals are smoothed towards those of the best bound (Wentges 1997; Pessoa, Sadykov, Uchoa and Vanderbeck 2018).
Every pricing gives a valid bound, also before convergence: Lasdon's where stock is counted, Farley's where the
duals are scaled down until no content is worth more than its GPU costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column
from solvers.columns.instance import Instance
from solvers.columns.master import Cap, Duals, Master
from solvers.columns.pricing import Effort, Pricer
from solvers.columns.rows import Rows
from solvers.columns.wanted import Wanted
from solvers.stopping import stop_if_asked

Floats = NDArray[np.float64]
SMOOTHING = 0.7
# Of the gap, as a share of what all contents are worth, the part that a pricing may leave unknown; its least and most.
SLACK_OF_GAP, LEAST_SLACK, MOST_SLACK = 0.1, 1e-6, 0.004
EFFORT_GROWS = 8
MOST_NODES = 2_000_000
# A master of more rows takes longer than it is worth: the bound is then that of the prices by area.
MOST_ROWS = 3_000
# Values are floating-point sums; a content this much above its cost is not worth a column.
TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be placed at least cost. `costs` and `stock` by group; costs in units in which the dearest is 1."""

    instance: Instance
    wanted: Wanted
    costs: tuple[float, ...]
    stock: tuple[int, ...]
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True)
class Relaxed:
    """`bound` was proved by `duals` of `rows`; `columns` with `amounts` are the last solution of the master.

    `prices` are those of that solution, which all its columns meet.
    `unserved`: what no column serves, in whole units of rows; above 0 the solution is no relaxation of a plan.
    """

    bound: float
    duals: Duals
    rows: Rows
    value: float
    columns: list[Column]
    amounts: Floats
    prices: Duals
    unserved: float
    rounds: int


class Generator:
    """One master problem, priced until its bound is within `enough` of its value, or until the deadline."""

    def __init__(self, task: Task, pricer: Pricer, rng: np.random.Generator) -> None:
        self._task, self._pricer, self._rng = task, pricer, rng
        self.rows = Rows(task.instance, task.wanted)
        self.master = Master(task.instance, self.rows, task.stock, task.costs, task.caps)
        self.master.add_covers((demand, cover) for demand in self.rows.demands for cover in demand.plain())
        self._most = [task.wanted.useful(task.instance, kind) for kind in range(len(task.instance.items))]
        self._costs = np.array(task.costs)
        self._stock = np.array(task.stock, np.float64)
        self.bound = 0.0
        self.center: Duals | None = None
        self.rounds = 0

    def run(
        self, effort: Effort, deadline: float, enough: Callable[[float, float], bool], *, most_rounds: int = 1000,
        most_nodes: int = MOST_NODES,
    ) -> Relaxed:  # fmt: skip
        """`enough(value, bound)` says when to stop; the nodes of a search grow up to `most_nodes`."""
        smoothing = SMOOTHING
        if len(self.rows.rows) > MOST_ROWS:
            most_rounds = 0
        solution = self.master.solve() if most_rounds else self.master.unsolved()
        for _ in range(most_rounds):
            stop_if_asked()
            self.rounds += 1
            worth = solution.value if self.center is None else self.rows.value(self.center.rows)
            gap = (solution.value - self.bound) / worth if worth > 0 else 0.0
            effort = replace(effort, slack=min(MOST_SLACK, max(LEAST_SLACK, SLACK_OF_GAP * gap)))
            duals = solution.duals if self.center is None else self.center.mixed(solution.duals, smoothing)
            fresh, improved = self._round(duals, effort)
            if not fresh and self.center is not None and smoothing > 0:
                fresh, again = self._round(solution.duals, effort)
                improved = improved or again
                smoothing = max(0.0, smoothing - 0.2) if not improved else smoothing
            elif smoothing < SMOOTHING:
                smoothing += 0.1
            if fresh:
                solution = self.master.solve()
            if enough(solution.value, self.bound) or time.monotonic() > deadline:
                break
            if not fresh and not improved:
                # Nothing found, nothing proved: the search for contents ended at its limit.
                if effort.nodes * EFFORT_GROWS > most_nodes:
                    break
                effort = replace(effort, nodes=effort.nodes * EFFORT_GROWS, cases=effort.cases * EFFORT_GROWS)
        duals = self.center or solution.duals
        return Relaxed(self.bound, duals, self.rows, solution.value, self.master.columns, solution.amounts,
                       solution.duals, solution.unserved, self.rounds)  # fmt: skip

    def offer(self, columns: Iterable[Column]) -> None:
        self.master.add(columns)

    def start(self, duals: Duals) -> None:
        """Price once with duals known from elsewhere; they become the center if they prove anything."""
        self._round(duals, Effort())

    def _round(self, duals: Duals, effort: Effort) -> tuple[int, bool]:
        """Price once: (columns that are new, whether the bound rose)."""
        allowed = self._allowed(duals)
        values = [self.rows.values(kind, duals.rows) for kind in range(len(self._task.instance.items))]
        goals = allowed + TOLERANCE
        priced = self._pricer.price(values, goals, self._most, effort, self._rng)
        columns = [column for column, worth in priced.columns if worth > goals[column.group]]
        covers = [(demand, demand.cheapest(duals.rows[demand.rows])) for demand in self.rows.demands]
        fresh = self.master.add_covers((demand, cover) for demand, (price, cover) in covers if price < np.inf)
        improved = self._keep_bound(duals, priced.bound)
        return self.master.add(columns) + fresh, improved

    def _allowed(self, duals: Duals) -> Floats:
        """What a content of each group may be worth: its cost, its part of the stock, and of each cap."""
        allowed = self._costs + duals.stock
        for price, cap in zip(duals.caps, self._task.caps, strict=True):
            allowed = allowed + price * np.array(cap.weights)
        return allowed

    def _keep_bound(self, duals: Duals, worth: Floats) -> bool:
        """Both bounds that these duals prove, and the duals of the better one where it is the best so far."""
        found = max((self._lasdon(duals, worth), self._farley(duals, worth)), key=lambda pair: pair[0])
        if found[0] <= self.bound + 1e-12:
            return False
        self.bound, self.center = found
        return True

    def _lasdon(self, duals: Duals, worth: Floats) -> tuple[float, Duals]:
        """The price of stock rises to what the best content is worth beyond its cost."""
        without = Duals(duals.rows, np.zeros_like(duals.stock), duals.caps)
        priced = Duals(duals.rows, np.maximum(0.0, worth - self._allowed(without)), duals.caps)
        return self.value_of(priced), priced

    def _farley(self, duals: Duals, worth: Floats) -> tuple[float, Duals]:
        """All rows scaled down until no content is worth more than it may."""
        allowed = self._allowed(duals)
        scale = min(1.0, float((allowed / np.maximum(worth, 1e-12)).min()))
        scaled = Duals(duals.rows * scale, duals.stock, duals.caps)
        return self.value_of(scaled), scaled

    def value_of(self, duals: Duals) -> float:
        given = sum(price * cap.most for price, cap in zip(duals.caps, self._task.caps, strict=True))
        return float(self.rows.value(duals.rows) - duals.stock @ self._stock - given)
