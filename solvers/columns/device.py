"""The best content of one device: branch and bound over a multiple-choice knapsack, compiled with numba.

A device's rules come as resources. What the residents use of resource r stays within `capacity[r]`, and within
`limit[i, r]` of each resident i: one that bears little is fragile (Clautiaux, Dell'Amico, Iori and Khanafer, Lower
and upper bounds for the bin packing problem with fragile objects, 2014). A backend's overhead is paid in resource 0
by its first resident. Of a model, `per_model` replicas may stand here, in any of its choices, `most` of each and no
more than `most` of any: a plan without needless replicas has no others.

The bound is Dantzig's for the linear relaxation of the multiple-choice knapsack (Sinha and Zoltners, 1979) over one
sum of all resources, each at a price per unit: any prices >= 0 make it valid, good ones come from `cases`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPSILON = 1e-9
IMPROVEMENTS_KEPT = 8
DEEPEST = 200
TRIES_PER_NODE = 32


@njit(cache=True, nogil=True)
def _fits(i: int, use: Ints, room: Ints, limit: Ints, used: Ints, extra: int) -> bool:
    """Whether item i, paying `extra` of resource 0, may join: `room` is the tightest limit of the residents."""
    for r in range(used.shape[0]):
        after = used[r] + use[i, r] + (extra if r == 0 else 0)
        if after > room[r] or after > limit[i, r]:
            return False
    return True


@njit(cache=True, nogil=True)
def _bound(
    start: int, place: int, goal: float, use: Ints, used: Ints, room: Ints, prices: Floats,
    rank: Ints, step_value: Floats, step_weight: Floats, copies: Ints, item: Ints,
) -> float:  # fmt: skip
    """No content made of models from rank `start` on is worth more; read from step `place`, their first."""
    left: float = 1e-12
    ceiling: float
    for r in range(used.shape[0]):
        left += prices[r] * (room[r] - used[r])
    found = 0.0
    for s in range(place, rank.shape[0]):
        if rank[s] < start:
            continue
        ceiling = found + left * step_value[s] / step_weight[s]
        if ceiling <= goal:
            return ceiling
        number = copies[s]
        i = item[s]
        if i >= 0:
            for r in range(used.shape[0]):
                if use[i, r] > 0:
                    number = min(number, (room[r] - used[r]) // use[i, r])
            if number <= 0:
                continue
        weight = step_weight[s]
        if number * weight >= left:
            return ceiling
        found += number * step_value[s]
        left -= number * weight
    return found


@njit(cache=True, nogil=True)
def _branch(
    seed: int, nodes: int, floor: float, slack: float, use: Ints, limit: Ints, capacity: Ints, model: Ints,
    backend: Ints, overhead: Ints, most: Ints, per_model: int, value: Floats, prices: Floats, first: Ints,
    options: Ints, rank: Ints, step_value: Floats, step_weight: Floats, copies: Ints, item: Ints, places: Ints,
    found: Ints, worth: Floats, kept: int, ring: int,
) -> tuple[int, float]:  # fmt: skip
    """Depth first over the models by rank, from an empty device or one that carries `seed`.

    Contents worth more than `floor` and than all before are written to `found` and `worth` from place `kept` on,
    in a ring of `ring`. Returns their number and a bound of what any content is worth.
    """
    resources, groups, deepest, models = capacity.shape[0], first.shape[0] - 1, found.shape[1], 0
    for i in range(model.shape[0]):
        models = max(models, model[i] + 1)
    used, paid = np.zeros(resources, np.int64), np.zeros(overhead.shape[0], np.int64)
    room = np.empty((deepest + 1, resources), np.int64)
    for r in range(resources):
        room[0, r] = capacity[r]
    stack, number, of_item = np.empty(deepest, np.int64), np.zeros(models, np.int64), np.zeros(model.shape[0], np.int64)
    most_of_model = np.zeros(models, np.int64)
    for i in options:
        most_of_model[model[i]] = max(most_of_model[model[i]], min(per_model, most[i]))
    at_rank, at_option = np.zeros(deepest + 1, np.int64), np.zeros(deepest + 1, np.int64)
    fresh, ceiling = np.ones(deepest + 1, np.bool_), np.full(deepest + 1, np.inf)
    base, depth, now, best, improvements, visited, tried = 0, 0, 0.0, floor, 0, 0, 0
    if seed >= 0:
        extra = overhead[backend[seed]]
        for r in range(resources):
            used[r] += use[seed, r]
            room[1, r] = min(room[0, r], limit[seed, r])
        used[0] += extra
        paid[backend[seed]] += 1
        number[model[seed]] += 1
        of_item[seed] += 1
        stack[0], depth, base, now = seed, 1, 1, value[seed]
        if now > best:
            best = now
            found[kept, 0], found[kept, 1] = seed, -1
            worth[kept] = now
            improvements = 1
    while depth >= base:
        go_back = depth >= deepest or visited > nodes
        r = at_rank[depth]
        if not go_back:
            go_back = r >= groups
        if not go_back and fresh[depth]:
            fresh[depth] = False
            goal = best * (1 + slack) + EPSILON
            ceiling[depth] = now + _bound(r, places[r], goal - now, use, used, room[depth], prices,
                                          rank, step_value, step_weight, copies, item)  # fmt: skip
            go_back = ceiling[depth] <= goal
        if go_back:
            if visited > nodes or depth >= deepest or depth == base:
                break
            depth -= 1
            i = stack[depth]
            for k in range(resources):
                used[k] -= use[i, k]
            paid[backend[i]] -= 1
            if paid[backend[i]] == 0:
                used[0] -= overhead[backend[i]]
            number[model[i]] -= 1
            of_item[i] -= 1
            now -= value[i]
            continue
        o = at_option[depth]
        i = options[o]
        at_option[depth] = o + 1
        if o + 1 >= first[r + 1]:
            at_rank[depth] = r + 1
        extra = overhead[backend[i]] if paid[backend[i]] == 0 else 0
        full = number[model[i]] >= most_of_model[model[i]] or of_item[i] >= most[i]
        if full or not _fits(i, use, room[depth], limit, used, extra):
            tried += 1  # what does not fit is not in the bound either, so that one stands
            visited += tried % TRIES_PER_NODE == 0
            continue
        visited += 1
        fresh[depth] = True
        for k in range(resources):
            used[k] += use[i, k]
            room[depth + 1, k] = min(room[depth, k], limit[i, k])
        used[0] += extra
        paid[backend[i]] += 1
        number[model[i]] += 1
        of_item[i] += 1
        now += value[i]
        stack[depth] = i
        depth += 1
        if number[model[i]] < per_model:
            at_rank[depth], at_option[depth] = r, o
        else:
            at_rank[depth], at_option[depth] = r + 1, first[r + 1]
        fresh[depth], ceiling[depth] = True, ceiling[depth - 1]
        if now > best + EPSILON:
            best = now
            place = kept + improvements % ring
            for d in range(depth):
                found[place, d] = stack[d]
            if depth < deepest:
                found[place, depth] = -1
            worth[place] = now
            improvements += 1
    bound = best * (1 + slack)
    if visited > nodes or depth >= deepest:
        for d in range(base, depth + 1):
            bound = max(bound, ceiling[d])
    return min(improvements, ring), bound


@njit(cache=True, nogil=True)
def search(
    use: Ints, limit: Ints, capacity: Ints, model: Ints, backend: Ints, overhead: Ints, most: Ints, per_model: int,
    value: Floats, prices: Floats, first: Ints, options: Ints, rank: Ints, step_value: Floats, step_weight: Floats,
    copies: Ints, item: Ints, places: Ints, seeds: Ints, nodes: int, nodes_of_seed: int, floor: float,
    slack: float, found: Ints, worth: Floats,
) -> tuple[int, float]:  # fmt: skip
    """Contents worth more than `floor`: their number, and a bound of the best; the arrays are those of `Ranking`.

    One search of `nodes` nodes from the empty device, which gives the bound, and one of `nodes_of_seed` from each
    of `seeds`. Rows of `found` [IMPROVEMENTS_KEPT + seeds, depth] are items ended by -1, `worth` is theirs.
    """
    kept, bound = int(np.int64(0)), 0.0
    for s in range(-1, seeds.shape[0]):
        # One call for both, with nothing literal: numba compiles it once more for each literal.
        seed, limited, ring = (seeds[s], nodes_of_seed, 1) if s >= 0 else (-1, nodes, IMPROVEMENTS_KEPT)
        more, reached = _branch(seed, limited, floor, slack, use, limit, capacity, model, backend, overhead, most,
                                per_model, value, prices, first, options, rank, step_value, step_weight, copies, item,
                                places, found, worth, kept, ring)  # fmt: skip
        kept += more
        if s < 0:
            bound = reached
    return kept, bound
