"""What one option bears on its device, as the numbers in which every rule of a device is linear."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.latency import largest_stretch, tolerance
from planner.domain.problem import Option, Problem
from planner.domain.units import PPM


@dataclass(frozen=True, slots=True)
class Limits:
    """The rule `latency` as it binds: busy time of the others, weighed by kappa, in ppm squared, and their number."""

    borne_ppm2: int
    max_others: int | None


def limits_of(problem: Problem, option: Option) -> Limits | None:
    """The limits of an option on an otherwise empty device; None where it breaks a rule even alone there.

    A measured curve bounds the stretch, and the stretch bounds the others: with `largest_stretch` rounded as
    `tolerance` does, the rule `latency` holds exactly where both limits do.
    """
    kind, model = problem.kind_by_name[option.kind], problem.model_by_name[option.model]
    overhead = kind.backend_overhead_bytes.get(option.backend, 0)
    if kind.server_base_bytes + overhead + option.memory_bytes > kind.memory_bytes:
        return None
    if max(option.busy_ppm) > kind.alone_ppm:
        return None
    if model.allowed_gpu and kind.type not in model.allowed_gpu:
        return None
    borne, max_others = option.tolerance_ppm, option.max_others
    curves = [] if model.latency_bound_us is None else [(option.curve, model.latency_bound_us)]
    curves += [(promise.curve, promise.latency_us) for promise in option.promises if promise.curve]
    for curve, bound_us in [] if kind.calibrated else curves:
        phi = largest_stretch(curve, option.capacity_mrps, bound_us)
        if phi is None:
            return None
        measured = tolerance(phi, optimistic=problem.settings.optimistic_latency)
        borne = min(borne, measured.busy_ppm)
        known = [limit for limit in (max_others, measured.max_others) if limit is not None]
        max_others = min(known, default=None)
    return Limits(borne * PPM, max_others)
