"""The best of the usual greedy heuristics for vector packing, all of them fast with 100,000 replicas.

First and best fit decreasing place kind by kind; dot product and L2 fill bin after bin (Panigrahy, Talwar,
Uyeda and Wieder, Heuristics for Vector Bin Packing, 2011). Equal replicas move together: the outcome is that of
placing them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from items import Items, Numbers, Row
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[Floats, Floats], Floats]
"""How well shares (one column per kind) go with what is free of a bin; the largest is taken."""


@dataclass(frozen=True)
class Packed:
    name: str
    bins: int
    rows: list[Row]


def best_of(items: Items) -> Packed:
    """Of equal ones the first."""
    return min(_all(items), key=lambda packed: packed.bins)


def _all(items: Items) -> Iterator[Packed]:
    for name, size in _sizes(items).items():
        order = np.argsort(-size, kind="stable")
        yield _kind_by_kind(items, order, f"first fit by {name}", fullest_first=False)
        yield _kind_by_kind(items, order, f"best fit by {name}", fullest_first=True)
    for name, score in _scores(items).items():
        yield _bin_by_bin(items, score, name)


def _sizes(items: Items) -> dict[str, Floats]:
    """Ways to call one kind larger than another."""
    shares = items.shares
    single = {f"resource {d + 1}": shares[:, d] for d in range(shares.shape[1])}
    return {
        "sum": shares.sum(axis=1),
        "weighted sum": shares @ items.weights,
        "largest": shares.max(axis=1),
        "product": np.maximum(shares, 1e-6).prod(axis=1),
        "length": (shares**2).sum(axis=1),
        **single,
    }


def _scores(items: Items) -> dict[str, Score]:
    scarce = items.weights / items.weights.sum()
    equal = np.ones_like(scarce)
    found: dict[str, Score] = {}
    for name, weights in (("", equal), ("weighted ", scarce)):
        found[f"{name}dot product"] = lambda shares, free, w=weights: (free * w) @ shares
        found[f"{name}L2"] = lambda shares, free, w=weights: -(w @ (free[:, None] - shares) ** 2)
    return found


def _kind_by_kind(items: Items, order: Numbers, name: str, *, fullest_first: bool) -> Packed:
    """Each bin takes as many of the kind as fit, and the next bin the rest: one by one would end the same.

    So does best fit: a bin that took one is fuller than before, and stays the fullest of those in which it fits.
    """
    used = np.zeros((len(items.capacity), int(items.count.sum())), dtype=np.int64)
    limit = np.broadcast_to(items.capacity[:, None], used.shape).copy()
    rows: list[Row] = []
    bins = 0
    for kind in order.tolist():
        need, own_limit = items.need[kind][:, None], items.limit[kind][:, None]
        fits = items.copies(np.minimum(limit[:, :bins], own_limit) - used[:, :bins], kind)
        places = np.flatnonzero(fits)
        if fullest_first:
            fullness = (1 / items.capacity) @ used[:, places]
            places = places[np.argsort(-fullness, kind="stable")]
        before = np.cumsum(fits[places]) - fits[places]
        taken = np.minimum(fits[places], items.count[kind] - before).clip(min=0)
        fresh = _into_new_bins(int(items.count[kind] - taken.sum()), items.alone(kind))
        places = np.concatenate([places, np.arange(bins, bins + len(fresh))])
        taken = np.concatenate([taken, fresh])
        places, taken = places[taken > 0], taken[taken > 0]
        bins += len(fresh)
        used[:, places] += taken * need
        limit[:, places] = np.minimum(limit[:, places], own_limit)
        rows += [(kind, place, number) for place, number in zip(places.tolist(), taken.tolist(), strict=True)]
    return Packed(name, bins, rows)


def _into_new_bins(left: int, per_bin: int) -> Numbers:
    bins = -(-left // per_bin)
    return np.array([min(per_bin, left - per_bin * i) for i in range(bins)], dtype=np.int64)


def _bin_by_bin(items: Items, score: Score, name: str) -> Packed:
    """The next bin would be filled in the same way for as long as all that went into this one is there again."""
    left = items.count.copy()
    rows: list[Row] = []
    bins = 0
    while left.any():
        content = _one_bin(items, left, score)
        times = min(int(left[kind]) // number for kind, number in content.items())
        for kind, number in content.items():
            left[kind] -= number * times
            rows += [(kind, place, number) for place in range(bins, bins + times)]
        bins += times
    return Packed(name, bins, rows)


def _one_bin(items: Items, left: Numbers, score: Score) -> dict[int, int]:
    """Kind and number. What does not fit once never fits again."""
    content: dict[int, int] = {}
    limit, used = items.capacity, np.zeros_like(items.capacity)
    waiting = np.flatnonzero(left)
    need, limits, shares = items.need.T[:, waiting], items.limit.T[:, waiting], items.shares.T[:, waiting]
    while len(waiting):
        best = int(np.argmax(score(shares, (limit - used) / items.capacity)))
        kind = int(waiting[best])
        content[kind] = content.get(kind, 0) + 1
        used, limit = used + need[:, best], np.minimum(limit, limits[:, best])
        borne = np.minimum(limit[:, None], limits) if items.fragile else limit[:, None]
        fits = (need <= borne - used[:, None]).all(axis=0)
        fits[best] &= content[kind] < left[kind]
        waiting, need, limits, shares = waiting[fits], need[:, fits], limits[:, fits], shares[:, fits]
    return content
