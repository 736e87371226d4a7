"""Before the branching: weights that add the resources of a device into one, and the models by efficiency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Factors by which the weight of a resource is tried, one per sweep.
STEPS = (1.03, 1.15, 1.5, 3.0)
TRIES_PER_STEP = 8
LEAST_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Models by efficiency, and the steps of their hulls in the same order.

    `first` [ranks + 1]: where the choices of the model of a rank start in `options`, those of most value first.
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


def relaxed(value: Floats, share: Floats, most: Ints, weights: Floats) -> float:
    """Fractional value of one device under the weighted sum, models left aside. It ranks weights."""
    weight = share @ weights + LEAST_WEIGHT
    order = np.argsort(-value / weight)
    taken = np.cumsum(weight[order] * most[order])
    full = int(np.searchsorted(taken, 1.0))
    worth = float((value[order[:full]] * most[order[:full]]).sum())
    if full == len(order):
        return worth
    left = 1.0 - (taken[full - 1] if full else 0.0)
    return worth + float(value[order[full]] / weight[order[full]]) * left


def choose_weights(value: Floats, share: Floats, most: Ints, weights: Floats, sweeps: int) -> Floats:
    """Move one weight at a time while the relaxed value falls; weights sum to one."""
    best = relaxed(value, share, most, weights)
    for step in reversed(STEPS[:sweeps]):
        for resource in range(len(weights)):
            for factor in (step, 1 / step):
                for _ in range(TRIES_PER_STEP):
                    trial = weights.copy()
                    trial[resource] *= factor
                    trial /= trial.sum()
                    now = relaxed(value, share, most, trial)
                    if now >= best - LEAST_WEIGHT:
                        break
                    best, weights = now, trial
    return weights


def rank(candidates: Ints, model: Ints, most: Ints, value: Floats, weight: Floats) -> Ranking:
    """`candidates`: items worth something, `most` copies of each at the most."""
    efficiency = value[candidates] / weight[candidates]
    best = np.zeros(int(model.max()) + 1)
    np.maximum.at(best, model[candidates], efficiency)
    order = np.lexsort((weight[candidates], model[candidates], -best[model[candidates]]))
    by_model = candidates[order]
    starts = np.flatnonzero(np.concatenate([[True], model[by_model][1:] != model[by_model][:-1]]))
    first = np.append(starts, len(by_model)).astype(np.int64)
    ranks = np.repeat(np.arange(len(starts)), np.diff(first))
    if len(starts) == len(by_model):
        step_rank, step_value, step_weight, item = ranks, value[by_model], weight[by_model], by_model
        options = by_model
    else:
        kept, step_value, step_weight = np.empty_like(by_model), np.empty(len(by_model)), np.empty(len(by_model))
        steps = _hulls(first, by_model, value, weight, kept, step_value, step_weight)
        kept, step_value, step_weight = kept[:steps], step_value[:steps], step_weight[:steps]
        step_rank = ranks[kept]
        alone = np.diff(first)[step_rank] == 1
        item = np.where(alone, by_model[kept], -1)
        options = by_model[np.lexsort((-value[by_model], ranks))]
    largest = np.zeros(int(model.max()) + 1, np.int64)
    np.maximum.at(largest, model[candidates], most[candidates])
    by = np.argsort(-(step_value / step_weight), kind="stable")
    step_rank = step_rank[by]
    places = np.full(len(starts), len(by), np.int64)
    np.minimum.at(places, step_rank, np.arange(len(by)))
    return Ranking(
        first, options, step_rank, step_value[by], step_weight[by], largest[model[options[first[step_rank]]]],
        item[by], places,
    )  # fmt: skip


@njit(cache=True)
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
