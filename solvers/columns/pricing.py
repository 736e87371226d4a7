"""Pricing: which content of a GPU is worth more than it costs, and a bound of what any is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.columns.column import Column, Content
from solvers.columns.device import DEEPEST, EPSILON, IMPROVEMENTS_KEPT, search
from solvers.columns.instance import Instance, Items
from solvers.columns.ranking import LEAST_WEIGHT, STEPS, Ranking, choose_weights, rank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# Duals change little from call to call, and so do the weights that suit them.
REFINE_EVERY = 5
# Of the resources that residents limit, the two that bind most are told apart by cases.
FRAGILE_RESOURCES = 2


@dataclass(frozen=True, slots=True)
class Effort:
    """Nodes of the one search that proves, nodes of the search from each seed, and how many seeds at most.

    `parts`: so many searches, by how much the most fragile resident bears, share the proof: see `_parts`.
    """

    nodes: int = 20_000
    nodes_of_seed: int = 60
    seeds: int = 120
    parts: int = 5


@dataclass(frozen=True, slots=True)
class Priced:
    """`worth` of a column, and `bound` [groups]: no content of a GPU of the group is worth more."""

    columns: list[tuple[Column, float]]
    bound: Floats


class Pricer:
    """Keeps the weights of resources that served best, kind by kind: duals change little from call to call."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._weights: dict[tuple[int, int], Floats] = {}
        self._calls = 0

    def price(
        self, values: Sequence[Floats], goals: Floats, most: Sequence[Ints], effort: Effort, rng: np.random.Generator
    ) -> Priced:
        """Contents of each group worth more than `goals` [groups]; `values` and `most` [items] by kind."""
        groups = self._instance.groups
        single = {g.kinds[0]: goals[place] for place, g in enumerate(groups) if len(g.kinds) == 1}
        shared = {kind for group in groups if len(group.kinds) > 1 for kind in group.kinds}
        found: dict[int, tuple[list[tuple[Content, float]], float]] = {}
        for kind in range(len(self._instance.items)):
            floor = 0.0 if kind in shared else max(0.0, float(single[kind]))
            found[kind] = self._kind(kind, values[kind], most[kind], floor, effort, rng)
        columns: list[tuple[Column, float]] = []
        bound = np.zeros(len(groups))
        for place, group in enumerate(groups):
            bound[place] = sum(found[kind][1] for kind in group.kinds)
            if len(group.kinds) == 1:
                columns += [(Column(place, (content,)), worth) for content, worth in found[group.kinds[0]][0]]
            else:
                columns += self._combined(place, [found[kind][0] for kind in group.kinds])
        return Priced(columns, bound)

    def _combined(self, place: int, rows: Sequence[list[tuple[Content, float]]]) -> list[tuple[Column, float]]:
        """Columns of a GPU of several devices: the best content of each, then the next ones."""
        ranked = [sorted(row, key=lambda pair: -pair[1]) or [((), 0.0)] for row in rows]
        combined = []
        for step in range(max(map(len, ranked))):
            chosen = [row[min(step, len(row) - 1)] for row in ranked]
            column = Column(place, tuple(content for content, _ in chosen))
            combined.append((column, sum(worth for _, worth in chosen)))
        return combined

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
        items = self._instance.items[kind]
        candidates = np.flatnonzero((value > EPSILON) & (most > 0))
        found: list[tuple[Content, float]] = []
        bound, best = 0.0, floor
        for number, (allowed, capacity) in enumerate(_parts(items, candidates, effort.parts)):
            weights, by = self._ranked(kind, number, allowed, capacity, value, most)
            seeds = _seeds(by, effort.seeds if number == 0 else 0, rng)
            rows = IMPROVEMENTS_KEPT + len(seeds)
            contents, worth = np.empty((rows, DEEPEST), np.int64), np.empty(rows)
            kept, part_bound = search(
                items.use, items.limit, capacity, items.model, items.backend, items.overhead, most,
                self._instance.per_model, value, weights, by.first, by.options, by.rank, by.step_value,
                by.step_weight, by.copies, by.item, by.places, seeds, effort.nodes, effort.nodes_of_seed, best,
                contents, worth,
            )  # fmt: skip
            found += [(_content(contents[row]), float(worth[row])) for row in range(kept)]
            bound = max(bound, part_bound)
            if not seeds.size:
                best = max([best, *worth[:kept].tolist()])
        return found, bound

    def _ranked(
        self, kind: int, part: int, candidates: Ints, capacity: Ints, value: Floats, most: Ints
    ) -> tuple[Floats, Ranking]:
        items = self._instance.items[kind]
        share = items.use / capacity
        known = self._weights.get((kind, part))
        start = np.full(len(capacity), 1 / len(capacity)) if known is None else known
        self._calls += 1
        weights = start
        if known is None or self._calls % REFINE_EVERY == 0:
            sweeps = len(STEPS) if known is None else 1
            weights = choose_weights(value[candidates], share[candidates], most[candidates], start, sweeps)
            self._weights[kind, part] = weights
        return weights, rank(candidates, items.model, most, value, share @ weights + LEAST_WEIGHT)


def _parts(items: Items, candidates: Ints, most_parts: int) -> Iterator[tuple[Ints, Ints]]:
    """Cases of which one holds for every content: the items that may be in it, and the capacity of each resource.

    A content falls into the case of its most fragile resident. There all residents bear at least the lower end of
    the case, and together take at most the upper end: a plain knapsack, whose bound is far better than one that
    leaves out what single residents bear.
    """
    if not len(candidates):
        return
    cases = [(candidates, items.capacity)]
    if most_parts > 1:
        borne = np.minimum(items.limit[candidates], items.capacity) / items.capacity
        fragile = np.flatnonzero((borne < 1).any(axis=0))
        for resource in fragile[np.argsort(borne[:, fragile].mean(axis=0))][:FRAGILE_RESOURCES]:
            cases = [
                part for allowed, capacity in cases for part in _split(items, allowed, capacity, resource, most_parts)
            ]
    yield from cases


def _split(
    items: Items, candidates: Ints, capacity: Ints, resource: int, most_parts: int
) -> Iterator[tuple[Ints, Ints]]:
    borne = np.minimum(items.limit[candidates, resource], items.capacity[resource])
    levels = np.unique(borne)
    ends = np.unique(levels[np.linspace(0, len(levels) - 1, min(most_parts, len(levels))).round().astype(int)])
    for place in range(len(ends) - 1, -1, -1):
        lower = ends[place - 1] + 1 if place else levels[0]
        shrunk = capacity.copy()
        shrunk[resource] = ends[place]
        yield candidates[borne >= lower], shrunk


def _content(row: Ints) -> Content:
    ends = np.flatnonzero(row < 0)
    return tuple(sorted(row[: ends[0]].tolist() if len(ends) else row.tolist()))


def _seeds(by: Ranking, count: int, rng: np.random.Generator) -> Ints:
    """The most valuable choice of each model; some of them where there are many."""
    seeds = by.options[by.first[:-1]]
    chosen: Ints = seeds if len(seeds) <= count else rng.choice(seeds, count, replace=False)
    return chosen
