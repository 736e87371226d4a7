"""Covers of a certificate: the demand of one model in whole replicas, priced, and the least that it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from planner.domain.certificate import Cover
from planner.domain.limits import limits_of
from planner.domain.problem import Model
from planner.domain.rows import Refused, Rows

MOST_NODES = 1_000_000


def priced_cover(rows: Rows, cover: Cover) -> Mapping[str, int]:
    """What a replica counts, by option of the model. Raises `Refused` where the value is more than the least."""
    model = rows.model(cover.subject, f"the cover of {cover.subject!r}")
    if not rows.all_served:
        raise Refused(f"the cover of {model.name!r} does not hold: demand may stay unserved")
    if not model.peak_mrps:
        raise Refused(f"the cover of {model.name!r} does not hold: it has no demand")
    prices = {dual.capacity_mrps: dual.dual for dual in cover.duals}
    if len(prices) != len(cover.duals) or min(prices.values(), default=0) < 0:
        raise Refused(f"the cover of {model.name!r} has a capacity twice or a dual below 0")
    sizes = _sizes(rows, model)
    unknown = set(prices) - set(sizes.values())
    if unknown:
        raise Refused(f"the cover of {model.name!r} names {min(unknown)} mrps, which no replica of it serves")
    classes = sorted({(size, prices.get(size, 0)) for size in sizes.values()})
    least = least_cover(classes, model.peak_mrps, model.replicas_min, model.replicas_max)
    if least is not None and cover.value > least:
        raise Refused(f"the cover of {model.name!r} is worth {cover.value:,}, but {least:,} is enough to serve it")
    return {option: prices.get(size, 0) for option, size in sizes.items()}


def _sizes(rows: Rows, model: Model) -> dict[str, int]:
    """Capacity of a replica, cut at the demand, by option that some GPU of the fleet can carry."""
    kinds = {kind for group in rows.groups.values() for kind in group.kinds}
    return {
        option.id: min(option.capacity_mrps, model.peak_mrps)
        for option in rows.options[model.name]
        if option.kind in kinds and limits_of(rows.problem, option) is not None
    }


def least_cover(classes: Sequence[tuple[int, int]], demand: int, at_least: int, at_most: int | None) -> int | None:
    """Least sum of price x n over `classes` (capacity > 0, price >= 0), n whole, capacities adding up to `demand`
    and the number of all n within its limits; None where there is no such n.

    Raises `Refused` where that is not settled within MOST_NODES.
    """
    ordered = sorted(classes, key=lambda pair: Fraction(pair[1], pair[0]))
    cheapest = min((price for _, price in classes), default=0)
    best: int | None = None
    nodes = 0
    todo = [(0, demand, 0, 0)]
    while todo:
        place, left, spent, number = todo.pop()
        nodes += 1
        if nodes > MOST_NODES:
            raise Refused(f"not verified: the cheapest cover is not settled within {MOST_NODES:,} nodes")
        if left <= 0:
            more = max(0, at_least - number)
            if at_most is None or number + more <= at_most:
                total = spent + more * cheapest
                best = total if best is None else min(best, total)
            continue
        if place == len(ordered):
            continue
        capacity, price = ordered[place]
        # The classes that follow cost no less per request.
        if best is not None and spent - (-left * price // capacity) >= best:
            continue
        most = -(-left // capacity) if at_most is None else min(-(-left // capacity), at_most - number)
        todo += [(place + 1, left - n * capacity, spent + n * price, number + n) for n in range(most + 1)]
    return best
