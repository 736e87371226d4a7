"""The time that a sweep may take."""

from __future__ import annotations

from collections.abc import Callable

_FIRST_GUESS_OF_COST_S = 2.0


class Budget:
    """Says whether one more point fits into `total_s` (None: no limit) of `clock`.

    Windows are not shortened to make more of them fit: a percentile needs its samples, and a point without
    percentiles is worth nothing. A point costs more than its window: starting servers, warming up, draining.
    That cost is learnt as the mean over the points so far.
    """

    def __init__(self, total_s: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._total_s = total_s
        self._costs_s: list[float] = []

    def has_room(self, window_s: float) -> bool:
        """Whether one more point with such a window still fits."""
        return self._total_s is None or self._left_s() >= window_s + self._cost_s()

    def spent(self, window_s: float, whole_s: float) -> None:
        """A point with a window of `window_s` took `whole_s` in all."""
        self._costs_s.append(max(0.0, whole_s - window_s))

    def elapsed_s(self) -> float:
        return self._clock() - self._start

    def _left_s(self) -> float:
        return (self._total_s or 0.0) - self.elapsed_s()

    def _cost_s(self) -> float:
        if not self._costs_s:
            return _FIRST_GUESS_OF_COST_S
        return sum(self._costs_s) / len(self._costs_s)
