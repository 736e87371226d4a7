"""Pricing: which content of a GPU is worth more than it costs, and a bound of what any is worth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from solvers.columns.cases import Case, Cases
from solvers.columns.column import Column, Content
from solvers.columns.device import DEEPEST, EPSILON, IMPROVEMENTS_KEPT, search
from solvers.columns.instance import Group, Instance
from solvers.columns.ranking import LEAST_WEIGHT, Ranking, rank

# Of a device of several on a GPU, so many contents at most are put together with those of the others.
MOST_RANKED = 12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effort:
    """Nodes of a search that proves, of one in a case that has parts, of one from a seed, and how many seeds.

    `cases` at most are looked into. What is worth up to `slack` more than the goal, as a share, is let go.
    """

    nodes: int = 50_000
    nodes_of_case: int = 1_000
    nodes_of_seed: int = 60
    seeds: int = 60
    cases: int = 500
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Priced:
    """`worth` of a column, and `bound` [groups]: no content of a GPU of the group is worth more."""

    columns: list[tuple[Column, float]]
    bound: Floats


class Pricer:
    """Searches kinds side by side. Prices of resources are kept from call to call: duals change little."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._threads = ThreadPoolExecutor(min(len(instance.items), os.cpu_count() or 1) or 1)
        self._cases = [Cases(items, instance.per_model) for items in instance.items]

    def price(
        self, values: Sequence[Floats], goals: Floats, most: Sequence[Ints], effort: Effort, rng: np.random.Generator
    ) -> Priced:
        """Contents of each group worth more than `goals` [groups]; `values` and `most` [items] by kind."""
        groups = self._instance.groups
        single = {g.kinds[0]: goals[place] for place, g in enumerate(groups) if len(g.kinds) == 1}
        shared = {kind for group in groups if len(group.kinds) > 1 for kind in group.kinds}
        kinds = range(len(self._instance.items))
        rngs = rng.spawn(len(kinds))

        def priced(kind: int) -> tuple[list[tuple[Content, float]], float]:
            floor = 0.0 if kind in shared else max(0.0, float(single[kind]))
            return self._kind(kind, values[kind], most[kind], floor, effort, rngs[kind])

        found = list(self._threads.map(priced, kinds)) if len(kinds) > 1 else [priced(kind) for kind in kinds]
        columns: list[tuple[Column, float]] = []
        bound = np.zeros(len(groups))
        for place, group in enumerate(groups):
            bound[place] = max(sum(found[kind][1] for kind in group.kinds_of(layout)) for layout in group.layouts)
            if group.is_one_device:
                columns += [(Column(place, (content,)), worth) for content, worth in found[group.kinds[0]][0]]
            else:
                ranked = [sorted(found[kind][0], key=lambda pair: -pair[1])[:MOST_RANKED] for kind in kinds]
                for layout in group.layouts:
                    columns += _combined(group, place, layout, ranked)
        return Priced(columns, bound)

    def _kind(
        self, kind: int, value: Floats, most: Ints, floor: float, effort: Effort, rng: np.random.Generator
    ) -> tuple[list[tuple[Content, float]], float]:
        items = self._instance.items[kind]
        together = np.where(items.alone, 0, np.minimum(most, self._instance.per_model))
        contents, bound = self.fill(kind, value, together, floor, effort, rng)
        for item in np.flatnonzero(items.alone & (most > 0)):
            bound = max(bound, float(value[item]))
            if value[item] > floor:
                contents.append(((int(item),), float(value[item])))
        return contents, bound

    def fill(
        self, kind: int, value: Floats, most: Ints, floor: float, effort: Effort, rng: np.random.Generator
    ) -> tuple[list[tuple[Content, float]], float]:
        """Contents of one device worth more than `floor`, and a bound of the best; `most` copies of each item."""
        cases = self._cases[kind]
        candidates = np.flatnonzero((value > EPSILON) & (most > 0))
        found: list[tuple[Content, float]] = []
        best, unknown = max(floor, EPSILON), 0.0
        root = cases.root(candidates, value, most, best * (1 + effort.slack))
        waiting = [] if root is None else [root]
        searched = 0
        while waiting and waiting[0].bound > best * (1 + effort.slack) and searched < effort.cases:
            case = heappop(waiting)
            seeds = effort.seeds if searched == 0 else 0
            searched += 1
            parts = cases.parts(case, best * (1 + effort.slack)) if effort.cases > 1 else None
            nodes = effort.nodes if parts is None else effort.nodes_of_case
            contents, bound = self._search(
                kind, case, value, most, best if parts is None else floor, effort, nodes, seeds, rng
            )
            found += contents
            best = max([best, *(worth for _, worth in contents)])
            if bound <= best * (1 + effort.slack):
                continue
            if parts is None:
                unknown = max(unknown, min(bound, case.bound))
            for part in parts or ():
                relaxed = cases.relaxed(part, value, most, best * (1 + effort.slack))
                if relaxed is not None:
                    heappush(waiting, relaxed)
        left = max((case.bound for case in waiting), default=0.0)
        return found, max(best * (1 + effort.slack), unknown, left)

    def _search(
        self,
        kind: int,
        case: Case,
        value: Floats,
        most: Ints,
        floor: float,
        effort: Effort,
        nodes: int,
        seeds: int,
        rng: np.random.Generator,
    ) -> tuple[list[tuple[Content, float]], float]:
        items = self._instance.items[kind]
        capacity, overhead = self._cases[kind].room(case.upper, case), items.overhead.copy()
        overhead[list(case.present)] = 0
        prices = np.maximum(case.prices, LEAST_WEIGHT) / items.capacity
        by = rank(case.items, items.group, most, value, items.use @ prices + LEAST_WEIGHT)
        starts = _seeds(by, seeds, rng)
        rows = IMPROVEMENTS_KEPT + len(starts)
        contents, worth = np.empty((rows, DEEPEST), np.int64), np.empty(rows)
        kept, bound = search(
            items.use, items.limit, capacity, items.group, items.backend, overhead, most, self._instance.per_model,
            value, prices, by.first, by.options, by.rank, by.step_value, by.step_weight, by.copies, by.item,
            by.places, starts, nodes, effort.nodes_of_seed, floor, effort.slack, contents, worth,
        )  # fmt: skip
        return [(_content(contents[row]), float(worth[row])) for row in range(kept)], bound


def _combined(
    group: Group, number: int, layout: tuple[int, ...], ranked: Sequence[list[tuple[Content, float]]]
) -> Iterator[tuple[Column, float]]:
    """Columns of a GPU of several devices: the best content of each, the next ones, and on like devices different
    ones, because a model may ask for less than several devices of the best."""
    longest = max(len(ranked[kind]) for kind in group.kinds_of(layout))
    for step in range(longest):
        for apart in (0, 1):
            contents, worth = {}, 0.0
            taken: Counter[int] = Counter()
            for place in layout:
                kind = group.kinds[place]
                row = ranked[kind]
                if row:
                    contents[place], own = row[min(step + apart * taken[kind], len(row) - 1)]
                    worth += own
                taken[kind] += 1
            yield group.canonical(group.column(number, contents)), worth


def _content(row: Ints) -> Content:
    ends = np.flatnonzero(row < 0)
    return tuple(sorted(row[: ends[0]].tolist() if len(ends) else row.tolist()))


def _seeds(by: Ranking, count: int, rng: np.random.Generator) -> Ints:
    """The most valuable choice of each model; some of them where there are many."""
    seeds = by.options[by.first[:-1]]
    chosen: Ints = seeds if len(seeds) <= count else rng.choice(seeds, count, replace=False)
    return chosen
