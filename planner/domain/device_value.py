"""What the content of a device may be worth at most, by branch and bound in whole numbers.

A content is cut off where prices of the resources (`multipliers`) show that it cannot be completed to one worth
more than what is to be exceeded. Contents are taken case by case: which backends are present, and how fragile the
most fragile replica is; so that in each case the limits of all resources are nearly known from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import add, itemgetter, mul, sub

from planner.domain.candidates import Candidate, NotSettled, candidates_of
from planner.domain.multipliers import good_prices
from planner.domain.room import Room
from planner.domain.units import counted

# Prices are multiples of 2 ** -SHIFT; so many steps are made towards better ones.
SHIFT = 40
STEPS_AT_ROOT, STEPS_OF_CASE, STEPS_OF_DIVE, STEPS_OF_NODE = 60, 6, 30, 3
REPRICED_FROM = 8  # candidates: below, a scan is faster than better prices

# A candidate by what it adds to the bound, `value - prices . use`; then its need, its group and itself.
_Row = tuple[int, int, int, Candidate]


@dataclass(frozen=True, slots=True)
class Found:
    """`content`: options of the most valuable content, empty where none is worth more than was to be exceeded."""

    value: int
    content: tuple[str, ...]
    nodes: int


def most_valuable(room: Room, values: Mapping[str, int], *, above: int, node_limit: int, first: bool = False) -> Found:
    """The content of a device worth most, if that is more than `above` >= 0; any such content where `first`.

    `values` by option; those that are missing are worth nothing. Raises NotSettled after `node_limit` nodes.
    """
    best = max(room.alone, key=lambda option: values.get(option.id, 0), default=None)
    alone = 0 if best is None else values.get(best.id, 0)
    content: tuple[str, ...] = ()
    if best is not None and alone > above:
        content, above = (best.id,), alone
    if content and first:
        return Found(above, content, 0)
    search = _Search(room, values, above, node_limit, first)
    search.run()
    return Found(search.above, search.content or content, search.nodes)


class _Enough(Exception):
    """A content worth more than asked for was found."""


@dataclass(frozen=True, slots=True)
class _Prices:
    """Per resource: of a share of the whole, as a float, and of its unit, as a multiple of 2 ** -SHIFT."""

    shares: Sequence[float]
    whole: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Case:
    """Contents of `candidates` that take at most `capacity` [resources] together.

    Overheads of `paid` bytes are spent; each backend of `undecided` (name, bytes) may be there or not.
    """

    candidates: Sequence[Candidate]
    capacity: tuple[int, ...]
    paid: int
    undecided: Sequence[tuple[str, int]]
    prices: Sequence[float]

    def by_backend(self, place: int) -> Iterator[_Case]:
        """The backend is there, or not: together the same contents."""
        name, overhead = self.undecided[place]
        rest = [*self.undecided[:place], *self.undecided[place + 1 :]]
        yield replace(self, paid=self.paid + overhead, undecided=rest)
        yield replace(self, candidates=[c for c in self.candidates if c.backend != name], undecided=rest)

    def by_level(self, resource: int, level: int) -> Iterator[_Case]:
        """Someone bears no more of the resource than the level, or all bear more: together the same contents."""
        least = tuple(min(most, level) if r == resource else most for r, most in enumerate(self.capacity))
        yield replace(self, capacity=least)
        yield replace(self, candidates=[c for c in self.candidates if c.limit[resource] > level])


class _Search:
    def __init__(self, room: Room, values: Mapping[str, int], above: int, node_limit: int, first: bool) -> None:
        self.above = above
        self.content: tuple[str, ...] = ()
        self.nodes = 0
        self._room, self._first, self._node_limit = room, first, node_limit
        found = candidates_of(room, values)
        self._all, self._left = found.all, list(found.left)
        self._packing, self._unit, self._scale = found.packing, found.unit, found.scale

    def run(self) -> None:
        best: dict[int, int] = {}
        for candidate in self._all:
            best[candidate.group] = max(best.get(candidate.group, 0), candidate.value)
        if sum(self._left[group] * value for group, value in best.items()) <= self.above:
            return
        overheads = [(name, overhead) for name, overhead in self._room.overheads.items() if overhead]
        start = [self.above / self._unit / len(self._scale)] * len(self._scale)
        whole = tuple(max(limits) for limits in zip(*(c.limit for c in self._all), strict=True))
        try:
            self._explore(_Case(self._all, whole, 0, overheads, start), STEPS_AT_ROOT)
        except _Enough:
            return
        except RecursionError as error:
            raise NotSettled(f"too many replicas fit on one {self._room.kind.name}") from error

    def _explore(self, case: _Case, steps: int = STEPS_OF_CASE) -> None:
        """Go through a case, in parts while its relaxed content exceeds what these would tell apart."""
        self._count()
        if not case.candidates:
            return
        borne = (max(limits) for limits in zip(*(c.limit for c in case.candidates), strict=True))
        most = tuple(map(min, case.capacity, borne))
        capacity = (most[0] - case.paid, *most[1:])
        if capacity[0] < 0:
            return
        nothing = (0,) * len(self._scale)
        fitting = self._fitting(case.candidates, nothing, capacity)
        rows, bound, prices = self._priced(fitting, 0, capacity, case.prices, steps)
        if bound < self._needed:
            return
        kept = self._hopeful(rows, bound)
        candidates = [row[-1] for row in kept]
        hopeful = replace(case, candidates=candidates, capacity=most, prices=prices.shares)
        parts = self._parts(hopeful, self._taken(kept, capacity, prices))
        if parts is None:
            self._dive(candidates, 0, nothing, capacity, prices.shares, [])
        for part in parts or ():
            self._explore(part)

    def _parts(self, case: _Case, taken: Sequence[int]) -> Iterator[_Case] | None:
        """The two cases that differ most from what the relaxed content assumes; None where it assumes nothing."""
        excess, parts = 0.0, None
        for resource, reach in enumerate(taken):
            levels = sorted({c.limit[resource] for c in case.candidates if c.limit[resource] < reach})
            if levels and 1 - levels[len(levels) // 2] / reach > excess:
                level = levels[len(levels) // 2]
                excess, parts = 1 - level / reach, case.by_level(resource, level)
        backends = {c.backend for c in case.candidates}
        for place, (name, overhead) in enumerate(case.undecided):
            share = case.prices[0] * overhead / self._scale[0] * self._unit / max(1, self.above)
            if name in backends and (share > excess or parts is None):
                excess, parts = share, case.by_backend(place)
        return parts

    def _taken(self, rows: Sequence[_Row], capacity: Sequence[int], prices: _Prices) -> list[int]:
        """What the relaxed content takes: all there is of a resource that has a price."""
        taken, seen = [0] * len(capacity), set()
        for gain, _, group, candidate in rows:
            if gain > 0 and group not in seen:
                seen.add(group)
                taken = [t + self._left[group] * own for t, own in zip(taken, candidate.use, strict=True)]
        return [
            most if price > 0 else min(own, most)
            for own, most, price in zip(taken, capacity, prices.shares, strict=True)
        ]

    def _dive(
        self,
        candidates: Sequence[Candidate],
        value: int,
        used: tuple[int, ...],
        capacity: tuple[int, ...],
        start: Sequence[float],
        content: list[Candidate],
    ) -> None:
        """From the edge of a case on, by prices that are worth their time."""
        rest = tuple(map(sub, capacity, used))
        rows, bound, prices = self._priced(candidates, value, rest, start, STEPS_OF_DIVE)
        self._node(self._hopeful(rows, bound), value, used, capacity, prices, content)

    def _node(
        self,
        rows: Sequence[_Row],
        value: int,
        used: tuple[int, ...],
        capacity: tuple[int, ...],
        prices: _Prices,
        content: list[Candidate],
    ) -> None:
        """Contents that hold `content`, and others of `rows`, each of which fits."""
        self._count()
        if value > self.above:
            self._record(value, content)
        if not rows:
            return
        rest = tuple(map(sub, capacity, used))
        bound = self._bound(rows, value, rest, prices)
        if bound < self._needed:
            return
        if len(rows) >= REPRICED_FROM:
            candidates = [row[-1] for row in rows]
            rows, bound, prices = self._priced(candidates, value, rest, prices.shares, STEPS_OF_NODE)
        left, guards = self._left, self._packing.guards
        for place, (gain, _, group, candidate) in enumerate(rows):
            reach = bound + min(0, gain)
            if reach < self._needed:
                break  # what follows adds even less, and is not joined by those that were passed
            if content.count(candidate) == candidate.most * len(candidate.options):
                continue
            now_used, now_capacity = tuple(map(add, used, candidate.use)), tuple(map(min, capacity, candidate.limit))
            room, least = self._packing.room(now_used, now_capacity), self._needed - reach
            left[group] -= 1
            following = rows[place:] if left[group] else [row for row in rows[place + 1 :] if row[2] != group]
            # `Packing.fits`, written out: this line is most of the time
            fitting = [row for row in following if row[0] >= least and (room - row[1]) & guards == guards]
            self._node(fitting, value + candidate.value, now_used, now_capacity, prices, [*content, candidate])
            left[group] += 1
            if gain > 0:
                second = next((row[0] for row in rows[place + 1 :] if row[2] == group), 0)
                bound -= left[group] * (gain - max(0, second))

    def _priced(
        self, candidates: Sequence[Candidate], value: int, rest: Sequence[int], start: Sequence[float], steps: int
    ) -> tuple[list[_Row], int, _Prices]:
        """Better prices than `start`, the candidates by what they gain at these, and the bound that follows."""
        shares = good_prices(
            [(c.group, c.worth, c.shares) for c in candidates],
            self._left,
            [amount / whole for amount, whole in zip(rest, self._scale, strict=True)],
            (self.above - value) / self._unit,
            start,
            steps,
        )
        whole = [int(p * (1 << SHIFT)) * self._unit // s for p, s in zip(shares, self._scale, strict=True)]
        rows = [((c.value << SHIFT) - sum(map(mul, whole, c.use)), c.need, c.group, c) for c in candidates]
        rows.sort(key=itemgetter(0), reverse=True)
        prices = _Prices(shares, whole)
        return rows, self._bound(rows, value, rest, prices), prices

    def _bound(self, rows: Sequence[_Row], value: int, rest: Sequence[int], prices: _Prices) -> int:
        """No content that holds `value` already, and leaves `rest`, is worth more; in 2 ** -SHIFT."""
        bound: int = (value << SHIFT) + sum(map(mul, prices.whole, rest))
        seen = set()
        for gain, _, group, _ in rows:
            if gain <= 0:
                break
            if group not in seen:
                seen.add(group)
                bound += self._left[group] * gain
        return bound

    def _hopeful(self, rows: Sequence[_Row], bound: int) -> list[_Row]:
        """Those that some content of enough value may hold."""
        best: dict[int, int] = {}
        for gain, _, group, _ in rows:
            best.setdefault(group, max(0, gain))
        return [row for row in rows if bound - best[row[2]] + row[0] >= self._needed]

    def _fitting(
        self, candidates: Sequence[Candidate], used: Sequence[int], capacity: Sequence[int]
    ) -> list[Candidate]:
        room, fits = self._packing.room(used, capacity), self._packing.fits
        return [c for c in candidates if self._left[c.group] and fits(c.need, room)]

    @property
    def _needed(self) -> int:
        return (self.above + 1) << SHIFT

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > self._node_limit:
            nodes = counted(self._node_limit, "node")
            raise NotSettled(f"a search of {nodes} did not settle what one {self._room.kind.name} can carry")

    def _record(self, value: int, content: Sequence[Candidate]) -> None:
        self.above = value
        times: dict[Candidate, int] = {}
        names = []
        for candidate in content:
            number = times[candidate] = times.get(candidate, -1) + 1
            names.append(candidate.options[number // candidate.most])
        self.content = tuple(names)
        if self._first:
            raise _Enough
