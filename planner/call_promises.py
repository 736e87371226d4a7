"""What an option may promise of a call, for ensembles: the more of the others it bears, the longer a call takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from planner.domain.ensemble import Ensemble, Promise
from planner.domain.latency import CurvePoint, dilated_us, largest_stretch, tolerance
from planner.domain.problem import LatencyBasis, Model, Option, Settings

# By how much others may stretch a call. Until calibrated a neighbour's instance counts as one more; with the fast limit
# alone it is their busy time that stretches.
STRETCHES = tuple(map(Fraction, (1, 2, 3, 4, 6, 8)))
FAST_STRETCHES = tuple(map(Fraction, ("1", "1.25", "1.5", "2", "3", "4")))

Curves = Mapping[float, tuple[Sequence[CurvePoint], LatencyBasis]]


def promising(
    option: Option, model: Model, ensembles: Sequence[Ensemble], curves: Curves, settings: Settings
) -> Iterator[Option]:
    """The option once per stretch that keeps every bound, with its limits cut to it; none where calls are unknown."""
    most = None
    for ensemble in ensembles:
        depth = next(member.depth for member in ensemble.members if member.model == model.name)
        points, _ = curves[ensemble.call_percentile]
        reach = largest_stretch(points, option.capacity_mrps, (ensemble.bound_us or 0) // depth)
        if reach is None:
            return
        most = reach if most is None else min(most, reach)
    if most is None:
        return
    basis = next(basis for _, basis in curves.values())
    levels = FAST_STRETCHES if settings.optimistic_latency else STRETCHES
    for phi in sorted({*(level for level in levels if level < most), most}):
        borne = tolerance(phi, optimistic=settings.optimistic_latency)
        limits = [limit for limit in (option.max_others, borne.max_others) if limit is not None]
        promises = [
            Promise(percentile, latency, tuple(points))
            for percentile, (points, _) in sorted(curves.items())
            if (latency := dilated_us(points, option.capacity_mrps, phi)) is not None
        ]
        if len(promises) == len(curves):
            yield replace(
                option,
                id=f"{option.id}:x{float(phi):.4g}",
                tolerance_ppm=min(option.tolerance_ppm, borne.busy_ppm),
                max_others=min(limits, default=None),
                promises=tuple(promises),
                latency_basis=basis if option.latency_basis is LatencyBasis.NONE else option.latency_basis,
            )
