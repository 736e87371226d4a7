"""The leaves of a proof: whether they cover every case, and what the duals of each one say.

With duals >= 0 on rows `... >= rhs`, a leaf bounds its objective by the sum of dual x rhs over scale, if no content
of a GPU is worth more than the GPU's allowance: its own cost, less what the rows on GPUs take of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planner.domain.candidates import NotSettled
from planner.domain.certificate import Decision, Leaf, Side
from planner.domain.covers import priced_cover
from planner.domain.device_value import Found, most_valuable
from planner.domain.gpu_groups import GpuGroup
from planner.domain.room import Room
from planner.domain.rows import Refused, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedLeaf:
    """`values` of a replica by option, `allowances` of a GPU by group, `bound` in the objective's integer unit."""

    values: Mapping[str, int]
    allowances: Sequence[tuple[GpuGroup, int]]
    bound: int


def priced(rows: Rows, leaf: Leaf) -> PricedLeaf:
    """What the duals of a leaf come to. Raises `Refused` where a row does not hold or a figure is wrong."""
    if leaf.scale < 1:
        raise Refused(f"its scale is {leaf.scale}; 1 is the least")
    least = min((term.dual for row in (leaf.duals, leaf.decisions) for term in row), default=0)
    if least < 0:
        raise Refused(f"a dual is {least:,}; 0 is the least")
    terms = [(dual.dual, rows.row(dual)) for dual in leaf.duals]
    terms += [(decision.dual, rows.decision(decision)) for decision in leaf.decisions]
    rows.refuse_unserved(leaf.scale, leaf.duals)
    numerator = sum(dual * row.rhs for dual, row in terms) + sum(cover.value for cover in leaf.covers)
    if numerator != leaf.numerator:
        raise Refused(f"its numerator is {leaf.numerator:,}, recomputed {numerator:,}")
    values: dict[str, int] = {}
    taken: dict[str, int] = {}
    for dual, row in terms:
        for coefficients, sums in ((row.options, values), (row.groups, taken)):
            for name, coefficient in coefficients.items():
                sums[name] = sums.get(name, 0) + dual * coefficient
    for cover in leaf.covers:
        for name, value in priced_cover(rows, cover).items():
            values[name] = values.get(name, 0) + value
    allowances = [(g, leaf.scale * rows.cost(rows.objective, g) - taken.get(g.name, 0)) for g in rows.groups.values()]
    return PricedLeaf(values=values, allowances=allowances, bound=rows.rounded_up(-(-numerator // leaf.scale)))


def refuse_worth(leaf: PricedLeaf, room: Callable[[str], Room], node_limit: int) -> list[int]:
    """Raises `Refused` where a GPU may carry more than its allowance; the nodes of each search that was needed."""
    worth = _Worth(leaf.values, room, node_limit)
    for group, allowance in leaf.allowances:
        worth.refuse(group, allowance)
    return worth.nodes


class _Worth:
    """What devices carry at most, in one leaf."""

    def __init__(self, values: Mapping[str, int], room: Callable[[str], Room], node_limit: int) -> None:
        self.nodes: list[int] = []
        self._values, self._room, self._node_limit = values, room, node_limit
        # By kind: what its content is worth at best, and an amount that no content exceeds.
        self._best: dict[str, int] = {}
        self._bound: dict[str, int] = {}

    def refuse(self, group: GpuGroup, allowance: int) -> None:
        """A GPU carries one of its layouts: none may be worth more than the allowance."""
        if allowance < 0:
            raise Refused(f"the allowance of a GPU {group.name} is {allowance:,}; 0 is the least")
        for kinds in group.layouts:
            self._refuse_layout(kinds, allowance)

    def _refuse_layout(self, kinds: Sequence[str], allowance: int) -> None:
        """A GPU may leave devices empty, so that each counts for what it can carry, and none for less than 0."""
        (last, count), *others = reversed(Counter(kinds).items())
        rest = allowance - sum(number * self._best_of(kind) for kind, number in others)
        if rest < 0:
            raise Refused(f"a GPU {'+'.join(kinds)} can carry {-rest:,} more than its allowance of {allowance:,}")
        self._refuse_above(last, rest // count)

    def _refuse_above(self, kind: str, limit: int) -> None:
        if kind in self._bound and self._bound[kind] <= limit:
            return
        found = self._search(kind, limit, first=True)
        if found.content:
            content = ", ".join(found.content)
            raise Refused(f"{content} on one {kind} are worth {found.value:,}, its allowance is {limit:,}")
        self._bound[kind] = limit

    def _best_of(self, kind: str) -> int:
        """Where a GPU has devices of several kinds, their values must be known and not only bounded."""
        if kind not in self._best:
            self._best[kind] = self._bound[kind] = self._search(kind, 0, first=False).value
        return self._best[kind]

    def _search(self, kind: str, above: int, *, first: bool) -> Found:
        try:
            found = most_valuable(self._room(kind), self._values, above=above, node_limit=self._node_limit, first=first)
        except NotSettled as reason:
            raise Refused(f"not verified: {reason}") from reason
        self.nodes.append(found.nodes)
        return found


def refuse_gaps(leaves: Sequence[Leaf]) -> None:
    """Raises `Refused` unless the decisions of the leaves cover every case.

    They do if one of them has no decision left, or if the next one parts all of them by the same sum, at most v
    here and at least v + 1 there, and both sides are covered in turn.
    """
    todo = [(0, [leaf.decisions for leaf in leaves])]
    while todo:
        depth, cases = todo.pop()
        if any(len(decisions) == depth for decisions in cases):
            continue
        sides = [[decisions for decisions in cases if decisions[depth].side is side] for side in Side]
        nexts = [decisions[depth] for decisions in cases]
        if not all(sides) or not _is_one_branching(nexts):
            said = " or ".join(dict.fromkeys(map(_said, nexts))) or "none"
            raise Refused(f"the leaves do not cover every case: after {depth} decisions they go on with {said}")
        todo += [(depth + 1, side) for side in sides]


def _is_one_branching(decisions: Sequence[Decision]) -> bool:
    """Whether all are sides of one branching: at most v, or at least v + 1, of the same sum."""
    values = {d.value if d.side is Side.AT_MOST else d.value - 1 for d in decisions}
    return len(values) == 1 and len({(d.groups, d.options) for d in decisions}) == 1


def _said(decision: Decision) -> str:
    return f"{decision.side.value} {decision.value} of {', '.join((*decision.groups, *decision.options))}"
