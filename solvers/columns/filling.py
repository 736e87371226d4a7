"""Fill GPU after GPU, each with the content that is worth most by given prices: a plan in one pass.

With prices by size the waiting replicas that fill a GPU best go first (minimum bin slack: Gupta and Ho 1999, for
several dimensions); with the duals of the linear relaxation those that it would use. A power above 1 takes large
replicas first, while there are small ones to fill up with.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column, Content
from solvers.columns.instance import Group, Instance
from solvers.columns.pricing import Effort, Pricer
from solvers.columns.wanted import Wanted
from solvers.stopping import stop_if_asked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Placed = list[tuple[Column, int]]


@dataclass(frozen=True, slots=True)
class Prices:
    """By kind, what an item is worth at its whole capacity; what it serves in part is worth that part."""

    worth: Sequence[Floats]

    def values(self, instance: Instance, wanted: Wanted, kind: int, power: float) -> Floats:
        items = instance.items[kind]
        missing = wanted.missing_mrps[items.model]
        part = np.where(missing > 0, np.minimum(1.0, missing / items.capacity_mrps), 1.0)
        values: Floats = (self.worth[kind] * part) ** power
        return values


def shares_of_cost(instance: Instance, costs: Sequence[float], weights: Floats) -> list[Floats]:
    """By kind and item: the weighted share of a device that it takes, times the device's cost."""
    shares = []
    for kind, items in enumerate(instance.items):
        cost = instance.cost_of_device(kind, costs)
        used = (items.use / items.capacity) @ _fitted(weights, len(items.capacity))
        shares.append(np.maximum(cost, 1e-9) * np.maximum(used, 1e-9))
    return shares


def prices_by_size(instance: Instance, costs: Sequence[float], weights: Floats) -> Prices:
    """What the replica of a model costs that takes the least weighted share of a device, per request served."""
    shares = shares_of_cost(instance, costs, weights)
    least = np.full(len(instance.problem.models), np.inf)
    for share, items in zip(shares, instance.items, strict=True):
        np.minimum.at(least, items.model, share / items.capacity_mrps)
    return Prices([least[items.model] * items.capacity_mrps for items in instance.items])


def _fitted(weights: Floats, length: int) -> Floats:
    """Kinds may differ in the resources that bind: what is missing counts like the last one."""
    fitted = np.resize(weights, length) if len(weights) < length else weights[:length]
    shares: Floats = fitted / fitted.sum()
    return shares


# Of more items than these, the most valuable and some of the others fill a device as well.
MOST_ITEMS = 500
MOST_VALUABLE = 100
THOROUGH = Effort(nodes=2_000, nodes_of_case=60, nodes_of_seed=0, seeds=0, cases=8, slack=1e-3)
QUICK = Effort(nodes=200, nodes_of_case=60, nodes_of_seed=0, seeds=0, cases=1, slack=1e-3)


def spread_out(placed: Placed) -> list[Column]:
    """One column per GPU."""
    return [column for column, times in placed for _ in range(times)]


class Filler:
    """A content is placed as often as nothing of it is more than what is asked for."""

    def __init__(self, instance: Instance, costs: Sequence[float], seed: int) -> None:
        self._instance, self._costs = instance, costs
        self._pricer = Pricer(instance)
        self._rng = np.random.default_rng(seed)

    def fill(
        self, prices: Prices, power: float, wanted: Wanted, stock: Sequence[int], *, most_cost: float = np.inf,
        deadline: float = np.inf, effort: Effort = THOROUGH,
    ) -> Placed | None:  # fmt: skip
        """None where stock, `most_cost` or time ends before the demand is served. Changes none of its arguments."""
        wanted, left = wanted.copy(), list(stock)
        placed: Placed = []
        best: dict[int, tuple[Column, float] | None] = {}
        cost = 0.0
        while wanted.waiting.any():
            stop_if_asked()
            for group in range(len(left)):
                if left[group] and group not in best:
                    best[group] = self._best(group, prices, power, wanted, effort)
            offers = [(worth / max(self._costs[g], 1e-9), g, column) for g, found in best.items()
                      if found is not None and left[g] for column, worth in [found]]  # fmt: skip
            if not offers:
                return None
            _, group, column = max(offers, key=lambda offer: (offer[0], -offer[1]))
            times = wanted.times(self._instance, column, left[group])
            cost += times * self._costs[group]
            if cost > most_cost or time.monotonic() > deadline:
                return None
            wanted.take(self._instance, column, times)
            left[group] -= times
            placed.append((column, times))
            best = {g: f for g, f in best.items() if g != group and f is not None and self._lasts(f[0], wanted)}
        return placed

    def with_models(self, group: int, models: Collection[int], prices: Prices, wanted: Wanted) -> Column | None:
        """The content of a GPU of one device worth most among those with a replica of each model; None: none found."""
        kinds = self._instance.groups[group].kinds
        if len(kinds) > 1:
            return None
        items = self._instance.items[kinds[0]]
        worth = prices.worth[kinds[0]]
        # Worth more than all others together, they come first.
        added = np.where(np.isin(items.model, list(models)), 1.0 + worth.sum(), 0.0)
        raised = Prices(
            [worth + added if kind == kinds[0] else prices.worth[kind] for kind in range(len(prices.worth))]
        )
        content, _ = self._device(kinds[0], raised, 1.0, wanted, THOROUGH)
        held = {int(items.model[item]) for item in content}
        return Column(group, (content,)) if held.issuperset(models) else None

    def _best(
        self, group: int, prices: Prices, power: float, wanted: Wanted, effort: Effort
    ) -> tuple[Column, float] | None:
        """The most valuable content of a GPU; a model on several of its devices counts on each of them alike."""
        of_group = self._instance.groups[group]
        first = {kind: self._device(kind, prices, power, wanted, effort) for kind in dict.fromkeys(of_group.kinds)}
        # What a layout is worth at most, as far as is known: what is filled later is worth no more than what was first.
        most = {layout: sum(first[kind][1] for kind in of_group.kinds_of(layout)) for layout in of_group.layouts}
        best: tuple[Column, float] | None = None
        for layout in sorted(of_group.layouts, key=lambda layout: -most[layout]):
            if most[layout] <= (0.0 if best is None else best[1]):
                break
            found = self._layout(group, layout, first, prices, power, wanted, effort)
            if best is None or found[1] > best[1]:
                best = found
        return best

    def _layout(
        self,
        number: int,
        layout: tuple[int, ...],
        first: Mapping[int, tuple[Content, float]],
        prices: Prices,
        power: float,
        wanted: Wanted,
        effort: Effort,
    ) -> tuple[Column, float]:
        """The devices of a layout filled one after the other; `first`: each kind's content where nothing is there."""
        group = self._instance.groups[number]
        contents: dict[int, Content] = {}
        total, known = 0.0, dict(first)
        for place in layout:
            kind = group.kinds[place]
            if kind not in known:
                known[kind] = self._device(kind, prices, power, wanted, effort)
            content, worth = known[kind]
            contents[place] = content
            total += worth
            if len(layout) > 1 and content:
                wanted = wanted.copy()
                alone = group.column(number, {place: content})
                wanted.take(self._instance, alone, 1)
                known = {k: f for k, f in known.items() if self._asked(group, number, k, f[0], wanted)}
        return group.canonical(group.column(number, contents)), total

    def _asked(self, group: Group, number: int, kind: int, content: Content, wanted: Wanted) -> bool:
        """Whether a content found before is still asked for in full."""
        return self._lasts(group.column(number, {group.kinds.index(kind): content}), wanted)

    def _device(self, kind: int, prices: Prices, power: float, wanted: Wanted, effort: Effort) -> tuple[Content, float]:
        items = self._instance.items[kind]
        useful = wanted.useful(self._instance, kind)
        values = prices.values(self._instance, wanted, kind, power)
        together = np.where(items.alone, 0, np.minimum(useful, self._instance.per_model))
        together = self._some(together, values)
        found, _ = self._pricer.fill(kind, values, together, 0.0, effort, self._rng)
        found += [((int(i),), float(values[i])) for i in np.flatnonzero(items.alone & (useful > 0) & (values > 0))]
        return max(found, key=lambda pair: pair[1], default=((), 0.0))

    def _some(self, useful: Ints, values: Floats) -> Ints:
        """`useful`, with none of the items that are left aside this time."""
        waiting = np.flatnonzero((useful > 0) & (values > 0))
        if len(waiting) <= MOST_ITEMS:
            return useful
        first = np.argpartition(-values[waiting], MOST_VALUABLE)[:MOST_VALUABLE]
        others = self._rng.choice(len(waiting), MOST_ITEMS - MOST_VALUABLE, replace=False)
        kept = np.zeros_like(useful)
        chosen = waiting[np.concatenate([first, others])]
        kept[chosen] = useful[chosen]
        return kept

    def _lasts(self, column: Column, wanted: Wanted) -> bool:
        """Whether a content found before is still asked for in full."""
        return wanted.asks_for(self._instance, column, in_full=True)
