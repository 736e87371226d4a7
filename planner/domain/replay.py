"""A plan against the rates that were observed: in how much of the time every rule held."""

from __future__ import annotations

from collections.abc import Iterator

from planner.domain.layout import Layout, LoadedDevice
from planner.domain.observed import Observed, Replay, busy_at, replayed
from planner.domain.units import PPM
from planner.domain.violation import Rule

Broken = set[tuple[str, str]]


def replay(layout: Layout, observed: Observed) -> Replay:
    """Rules that do not depend on rates are for `check`; here are `demand`, `gpu-utilization` and `latency`.

    Traffic is what was observed, without headroom, split by capacity.
    """
    return replayed(observed.seconds, _steps(layout, observed))


def _steps(layout: Layout, observed: Observed) -> Iterator[Broken]:
    capacity = {name: layout.capacity_mrps(name) for name in observed.models}
    for rates in observed.rates_mrps:
        asked = dict(zip(observed.models, rates, strict=True))
        broken = {(Rule.DEMAND.value, name) for name, rate in asked.items() if rate > capacity[name]}
        for loaded in layout.devices:
            broken |= _on_device(layout, loaded, asked)
        yield broken


def _on_device(layout: Layout, loaded: LoadedDevice, asked: dict[str, int]) -> Broken:
    busy = []
    for placed in loaded.replicas:
        option, model = placed.option, layout.problem.model_by_name[placed.option.model]
        demand = model.demand_mrps or (0,) * len(option.busy_ppm)
        busy.append(busy_at(option.busy_ppm, demand, asked.get(model.name, model.peak_mrps)))
    broken: Broken = set()
    if sum(busy) > loaded.busy_limit_ppm:
        broken.add((Rule.GPU_UTILIZATION.value, loaded.device.id))
    for placed in loaded.replicas:
        weights = loaded.kind.kappa_ppm[placed.option.interference_class]
        felt = sum(
            weights[other.option.interference_class] * share
            for other, share in zip(loaded.replicas, busy, strict=True)
            if other is not placed
        )
        if felt > placed.option.tolerance_ppm * PPM:
            broken.add((Rule.LATENCY.value, placed.replica))
    return broken
