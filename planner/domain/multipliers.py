"""Prices of a device's resources that bound the value of its content from above (Lagrange multipliers).

For prices >= 0, a content is worth at most prices . capacity + the sum over models of the replicas it may have
x the best `value - prices . use` among its options, where that is positive (Geoffrion, Mathematical Programming
Study 2, 1974). This holds for any prices, so floating point may choose them; whole numbers do the bounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

PATIENCE = 3  # steps without progress before their length is halved
SMALLEST_STEP = 0.01
PROGRESS = 1e-5
DILATION = 3.0
NOTHING = 1e-12

# The group of an option (its model), its value, and its use of each resource, in any units.
Offer = tuple[int, float, Sequence[float]]


def good_prices(
    offers: Sequence[Offer],
    left: Sequence[int],
    capacity: Sequence[float],
    aim: float,
    start: Sequence[float],
    steps: int,
) -> list[float]:
    """Prices after some subgradient steps from `start`; they end where the bound is down at `aim`.

    `left` says per group how many replicas of it there may be. The steps' length is Polyak's, for a least bound of
    `aim`; space is dilated between them along the change of the slope (Shor's r-algorithm, 1971), because bounds
    of a few resources have sharp valleys.
    """
    prices = best = list(start)
    least: float | None = None
    length, stalled = 1.0, 0
    space = _Space(capacity)
    for _ in range(steps):
        bound, slope = _bound(offers, left, capacity, prices)
        stalled = stalled + 1 if least is not None and bound > least * (1 - PROGRESS) else 0
        if least is None or bound < least:
            least, best = bound, prices
        if least <= aim or length < SMALLEST_STEP:
            break
        if stalled == PATIENCE:
            length, stalled = length / 2, 0
        direction = space.direction([s if p > 0 or s < 0 else 0.0 for s, p in zip(slope, prices, strict=True)])
        if direction is None:
            break
        step = length * (bound - aim)
        prices = [max(0.0, p - step * d) for p, d in zip(prices, direction, strict=True)]
    return best


class _Space:
    """A linear map of the prices, `map[i][j]`, in which the valleys of the bound are less sharp.

    At first prices count per capacity, of which a resource may have much or little.
    """

    def __init__(self, capacity: Sequence[float]) -> None:
        size = range(len(capacity))
        self._map = [[1 / max(capacity[i], NOTHING) if i == j else 0.0 for j in size] for i in size]
        self._last: list[float] | None = None

    def direction(self, slope: list[float]) -> list[float] | None:
        """The steepest ascent, of such a length that the bound falls by 1 where it is straight; None at its foot."""
        if self._last is not None:
            self._dilate([now - before for now, before in zip(slope, self._last, strict=True)])
        self._last = slope
        seen = self._transposed(slope)
        steepness = sum(map(mul, seen, seen))
        return None if steepness < NOTHING else [sum(map(mul, row, seen)) / steepness for row in self._map]

    def _dilate(self, change: Sequence[float]) -> None:
        seen = self._transposed(change)
        norm = sum(map(mul, seen, seen)) ** 0.5
        if norm < NOTHING:
            return
        along = [s / norm for s in seen]
        for row in self._map:
            part = (1 / DILATION - 1) * sum(map(mul, row, along))
            row[:] = [entry + part * a for entry, a in zip(row, along, strict=True)]

    def _transposed(self, vector: Sequence[float]) -> list[float]:
        return [sum(map(mul, column, vector)) for column in zip(*self._map, strict=True)]


def _bound(
    offers: Sequence[Offer], left: Sequence[int], capacity: Sequence[float], prices: Sequence[float]
) -> tuple[float, list[float]]:
    """The bound at these prices, and its slope: what of each resource is left by the content that attains it."""
    best: dict[int, tuple[float, Sequence[float]]] = {}
    for group, value, use in offers:
        gain = value - sum(map(mul, prices, use))
        if gain > 0 and (group not in best or gain > best[group][0]):
            best[group] = gain, use
    bound, slope = sum(map(mul, prices, capacity)), list(capacity)
    for group, (gain, use) in best.items():
        bound += left[group] * gain
        for resource, amount in enumerate(use):
            slope[resource] -= left[group] * amount
    return bound, slope
