"""Before the branching: the models by efficiency, where prices add the resources of a device into one weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEAST_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Models by efficiency, and the steps of their hulls in the same order.

    `first` [ranks + 1]: where the choices of the model of a rank start in `options`, those that gain most first.
    Per step: its rank, value, weight, copies, and its item (-1 where the model has several choices). `places`
    [ranks]: the first step of a rank; the steps of later ranks all come after it.
    """

    first: Ints
    options: Ints
    rank: Ints
    step_value: Floats
    step_weight: Floats
    copies: Ints
    item: Ints
    places: Ints


def rank(items: Ints, model: Ints, most: Ints, value: Floats, weight: Floats) -> Ranking:
    """`items`, given by model, worth something, `most` copies of each at the most; `weight`: what they take, priced."""
    starts, best, largest = _models(items, model, most, value, weight)
    # Sorting takes numba seconds to compile, and NumPy no longer to do.
    order = np.argsort(-best, kind="stable")
    first, options, ranks, step_value, step_weight, item = _steps(items, starts, order, value, weight)
    by = np.argsort(-(step_value / step_weight), kind="stable")
    ranks = ranks[by]
    places = np.full(len(order), len(by), np.int64)
    places[ranks[::-1]] = np.arange(len(by))[::-1]
    return Ranking(
        first, options, ranks, step_value[by], step_weight[by], largest[order[ranks]], item[by], places
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _models(items: Ints, model: Ints, most: Ints, value: Floats, weight: Floats) -> tuple[Ints, Floats, Ints]:
    """Where each model's items start, its best efficiency, and the most copies of any of them."""
    count, models, k = items.shape[0], 0, 0
    starts, best, largest = np.empty(count + 1, np.int64), np.empty(count), np.zeros(count, np.int64)
    while k < count:
        m, efficiency, copies = model[items[k]], 0.0, 0
        starts[models] = k
        while k < count and model[items[k]] == m:
            efficiency = max(efficiency, value[items[k]] / weight[items[k]])
            copies = max(copies, most[items[k]])
            k += 1
        best[models], largest[models] = efficiency, copies
        models += 1
    starts[models] = count
    return starts, best[:models], largest[:models]


@njit(cache=True, nogil=True)
def _steps(
    items: Ints, starts: Ints, order: Ints, value: Floats, weight: Floats
) -> tuple[Ints, Ints, Ints, Floats, Floats, Ints]:
    """`first`, `options`, and per step along the hulls its rank, value, weight and item, by rank."""
    count, models = items.shape[0], order.shape[0]
    first, options, by_weight = np.zeros(models + 1, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    for r in range(models):
        start = first[r]
        first[r + 1] = start + starts[order[r] + 1] - starts[order[r]]
        for k in range(starts[order[r]], starts[order[r] + 1]):
            i, length = items[k], k - starts[order[r]]
            a = b = start + length
            while a > start and weight[i] - value[i] < weight[options[a - 1]] - value[options[a - 1]]:
                options[a] = options[a - 1]
                a -= 1
            options[a] = i
            while b > start and weight[i] < weight[by_weight[b - 1]]:
                by_weight[b] = by_weight[b - 1]
                b -= 1
            by_weight[b] = i
    kept, step_value, step_weight = np.empty(count, np.int64), np.empty(count), np.empty(count)
    steps = _hulls(first, by_weight, value, weight, kept, step_value, step_weight)
    ranks, item = np.empty(steps, np.int64), np.empty(steps, np.int64)
    r = 0
    for s in range(steps):
        while kept[s] >= first[r + 1]:
            r += 1
        ranks[s] = r
        item[s] = by_weight[kept[s]] if first[r + 1] - first[r] == 1 else -1
    return first, options, ranks, step_value[:steps], step_weight[:steps], item


@njit(cache=True, nogil=True)
def _hulls(
    first: Ints, by_model: Ints, value: Floats, weight: Floats, kept: Ints, step_value: Floats, step_weight: Floats
) -> int:
    """Of each model the choices, given by weight, on the upper hull from (0, 0): places, and steps along it."""
    steps = 0
    for g in range(first.shape[0] - 1):
        base = steps
        for a in range(first[g], first[g + 1]):
            v, w = value[by_model[a]], weight[by_model[a]]
            if steps > base and v <= value[by_model[kept[steps - 1]]]:
                continue
            while steps > base:
                last = by_model[kept[steps - 1]]
                v0, w0 = 0.0, 0.0
                if steps > base + 1:
                    v0, w0 = value[by_model[kept[steps - 2]]], weight[by_model[kept[steps - 2]]]
                if (value[last] - v0) * (w - w0) > (v - v0) * (weight[last] - w0):
                    break
                steps -= 1
            kept[steps] = a
            steps += 1
        v0, w0 = 0.0, 0.0
        for s in range(base, steps):
            i = by_model[kept[s]]
            step_value[s], step_weight[s] = value[i] - v0, weight[i] - w0
            v0, w0 = value[i], weight[i]
    return steps
