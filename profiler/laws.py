"""Laws fitted to measured configurations, and how far they are off. Pure.

With n instances and batches of b, on one device:

    seconds per batch, all instances together   (a + a'/n) + (c + c'/n) b    what instances share, and what they overlap
    device seconds per batch                    a + c b
    hot memory of the replica                   s + n (p + q b)

Every law is linear in its coefficients, so least squares of relative errors finds them. A law speaks only of what
its measurements span: where none had two instances, it says nothing about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Place = tuple[float, float]
"""Instances, and inferences in a full batch."""

_OUTSIDE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """`residuals`: law over measurement, less 1, in the order of the measurements. `spare`: how many places more were
    measured than the law needs; without one it was never put to a test."""

    name: str
    features: Callable[[Place], Sequence[float]]
    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    spare: int
    _span: np.ndarray = field(repr=False)

    @property
    def worst(self) -> float:
        return max((abs(residual) for residual in self.residuals), default=0.0)

    def at(self, place: Place) -> float | None:
        """What the law says there; None where the measurements do not span it, or it says less than nothing."""
        import numpy as np

        features = np.array(self.features(place), float)
        outside = features - self._span.T @ (self._span @ features)
        if np.linalg.norm(outside) > _OUTSIDE * np.linalg.norm(features):
            return None
        value = float(features @ np.array(self.coefficients))
        return value if value > 0 else None


def batch_seconds(place: Place) -> tuple[float, ...]:
    instances, batch = place
    return (1.0, 1 / instances, batch, batch / instances)


def device_seconds(place: Place) -> tuple[float, ...]:
    _, batch = place
    return (1.0, batch)


def memory(place: Place) -> tuple[float, ...]:
    instances, batch = place
    return (1.0, instances, instances * batch)


def fit(
    name: str, features: Callable[[Place], Sequence[float]], places: Sequence[Place], values: Sequence[float]
) -> Law | None:
    """None of nothing. `values` must be more than 0."""
    import numpy as np

    if not places:
        return None
    rows = np.array([features(place) for place in places], float)
    wanted = np.array(values, float)
    # a column's scale must not decide which of several equally good laws is the smallest one
    scale = np.abs(rows).max(axis=0)
    weighted = rows / scale / wanted[:, None]
    found, _, rank, _ = np.linalg.lstsq(weighted, np.ones(len(values)), rcond=1e-9)
    coefficients = found / scale
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    span = directions[sizes > 1e-9 * sizes[0]]
    return Law(
        name=name,
        features=features,
        coefficients=tuple(float(value) for value in coefficients),
        residuals=tuple(float(value) for value in rows @ coefficients / wanted - 1),
        spare=len(set(places)) - int(rank),
        _span=span,
    )
