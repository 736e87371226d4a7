"""Every objective as an exact integer of a layout, and as the number that a reader sees."""

from __future__ import annotations

from collections.abc import Callable

from planner.domain.layout import Layout
from planner.domain.plan import ObjectiveValue
from planner.domain.problem import Objective
from planner.domain.units import PPM

GROWTH_SCALE = 1000
RATE_WITHOUT_DEMAND_MRPS = 1000

SCALE: dict[Objective, int] = {
    Objective.UNSERVED: PPM,
    Objective.GPUS: 1,
    Objective.COST: 1_000_000,
    Objective.POWER: 1000,
    Objective.MOVES: 1,
    Objective.BALANCE: PPM,
    Objective.MODELS: 1,
    Objective.THROUGHPUT: GROWTH_SCALE,
}
MAXIMISED = frozenset({Objective.MODELS, Objective.THROUGHPUT})


def integer_value(layout: Layout, objective: Objective) -> int:
    """The objective in its integer unit: natural unit x SCALE, rounded against ourselves."""
    return _VALUES[objective](layout)


def natural(objective: Objective, value: int) -> float:
    return value / SCALE[objective] if SCALE[objective] != 1 else value


def gap(objective: ObjectiveValue) -> float | None:
    """How far the value may be from the best one, as a share of the larger of the two; None without a bound."""
    if objective.bound is None:
        return None
    distance = abs(objective.value - objective.bound)
    return distance / max(abs(objective.value), abs(objective.bound)) if distance else 0.0


def _unserved(layout: Layout) -> int:
    return sum(
        model.priority * -(-layout.missing_mrps(model.name) * PPM // model.peak_mrps)
        for model in layout.problem.models
        if model.peak_mrps
    )


def _gpus(layout: Layout) -> int:
    return len(layout.used_gpus)


def _cost(layout: Layout) -> int:
    return sum(kind.cost_microusd_per_hour or 0 for kind in layout.used_gpus.values())


def _power(layout: Layout) -> int:
    return sum(kind.power_milliwatts or 0 for kind in layout.used_gpus.values())


def _moves(layout: Layout) -> int:
    return layout.moves


def _balance(layout: Layout) -> int:
    return max((-(-loaded.peak_busy_ppm * PPM // loaded.busy_limit_ppm) for loaded in layout.devices), default=0)


def _models(layout: Layout) -> int:
    return sum(1 for name, placed in layout.by_model.items() if placed and not layout.missing_mrps(name))


def growth_base_mrps(peak_mrps: int, asked: bool) -> int:
    """What a growth factor of one means for a model: its demand, or 1 request per second where none is asked."""
    return peak_mrps if asked else RATE_WITHOUT_DEMAND_MRPS


def _throughput(layout: Layout) -> int:
    factors = []
    for model in layout.problem.models:
        base = growth_base_mrps(model.peak_mrps, model.demand_mrps is not None)
        if base:
            factors.append(layout.capacity_mrps(model.name) * GROWTH_SCALE // base)
    return min(factors, default=0)


_VALUES: dict[Objective, Callable[[Layout], int]] = {
    Objective.UNSERVED: _unserved,
    Objective.GPUS: _gpus,
    Objective.COST: _cost,
    Objective.POWER: _power,
    Objective.MOVES: _moves,
    Objective.BALANCE: _balance,
    Objective.MODELS: _models,
    Objective.THROUGHPUT: _throughput,
}
