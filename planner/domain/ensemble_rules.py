"""The rules on ensembles, and the figures of them that follow from a layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.domain.ensemble import Ensemble, Serve
from planner.domain.layout import Layout, LoadedDevice, Placed
from planner.domain.violation import Rule, Violation


def call_latencies(layout: Layout, ensemble: Ensemble) -> Mapping[str, int]:
    """By member, the longest that a call may take at any of its replicas, at the percentile that the bound needs."""
    found = {}
    for name in ensemble.models:
        promised = [p.option.promised_us(ensemble.call_percentile) for p in layout.by_model[name]]
        known = [latency for latency in promised if latency is not None]
        if known:
            found[name] = max(known)
    return found


def served_by_device(layout: Layout, ensemble: Ensemble) -> Mapping[str, int]:
    """By device that has every member, the requests in mrps that it can serve in full."""
    found = {}
    for loaded in layout.devices:
        capacity = dict.fromkeys(ensemble.models, 0)
        for placed in loaded.replicas:
            if placed.option.model in capacity:
                capacity[placed.option.model] += placed.option.capacity_mrps
        if all(capacity.values()):
            found[loaded.device.id] = min(capacity[member.model] // member.calls for member in ensemble.members)
    return found


@dataclass(frozen=True, slots=True)
class Through:
    """Of a period's traffic, what the ensemble that Triton serves brings: to a replica, and to all of its model."""

    here_mrps: float = 0.0
    of_model_mrps: float = 0.0


def traffic_of(layout: Layout, placed: Placed) -> tuple[float, Sequence[Through]]:
    """A replica's weight, and by period what comes through its ensemble.

    Weights are shares of capacity. Where Triton serves an ensemble, each server calls its own members, so weights are
    shares of the capacity that this leaves for the model's other traffic.
    """
    model, ensemble = placed.option.model, layout.problem.served_by_triton.get(placed.option.model)
    replicas = layout.by_model[model]
    none = [Through()] * len(layout.problem.periods)
    served = {} if ensemble is None else served_by_device(layout, ensemble)
    if ensemble is None or not sum(served.values()):
        return placed.option.capacity_mrps / layout.capacity_mrps(model), none
    calls = next(member.calls for member in ensemble.members if member.model == model)

    def share(of: Placed) -> float:
        """Of the ensemble's calls of the model."""
        there = sum(p.option.capacity_mrps for p in replicas if p.device.id == of.device.id)
        return served.get(of.device.id, 0) / sum(served.values()) * of.option.capacity_mrps / there

    most = calls * max(ensemble.expected_mrps)
    left = {p.replica: max(0.0, p.option.capacity_mrps - share(p) * most) for p in replicas}
    total = sum(left.values())
    weight = left[placed.replica] / total if total > 0 else placed.option.capacity_mrps / layout.capacity_mrps(model)
    # More than is served does not come.
    through = [calls * min(rate, sum(served.values())) for rate in ensemble.expected_mrps]
    return weight, [Through(share(placed) * rate, rate) for rate in through]


def ensemble_latency(layout: Layout) -> Iterator[Violation]:
    for ensemble in layout.problem.ensembles:
        if ensemble.bound_us is not None:
            yield from _promised(layout, ensemble, ensemble.bound_us)


def _promised(layout: Layout, ensemble: Ensemble, bound_us: int) -> Iterator[Violation]:
    for name in ensemble.models:
        for placed in layout.by_model[name]:
            if placed.option.promised_us(ensemble.call_percentile) is None:
                text = f"{placed.replica} promises no p{ensemble.call_percentile} of a call"
                yield Violation(Rule.ENSEMBLE_LATENCY, ensemble.name, text)
    total, path = ensemble.slowest_path(call_latencies(layout, ensemble))
    if total > bound_us:
        text = f"p{ensemble.percentile} {total / 1000:.3f} ms over {' -> '.join(path)}, bound {bound_us / 1000:.3f} ms"
        yield Violation(Rule.ENSEMBLE_LATENCY, ensemble.name, text)


def promises_kept(layout: Layout, loaded: LoadedDevice, placed: Placed) -> Iterator[Violation]:
    """What an option promises of a call must follow from its curve beside these neighbours."""
    for promise in placed.option.promises:
        for index, period in enumerate(layout.problem.periods):
            latency = loaded.dilated_us(placed, index, promise.curve) if promise.curve else 0
            if latency is None or latency > promise.latency_us:
                found = "not known (past the last stable point)" if latency is None else f"{latency / 1000:.3f} ms"
                text = f"p{promise.percentile} of a call {found} in period {period!r}, "
                text += f"{promise.latency_us / 1000:.3f} ms are promised"
                yield Violation(Rule.LATENCY, f"{placed.replica} on {loaded.device.id}", text)


def ensemble_servers(layout: Layout) -> Iterator[Violation]:
    """An ensemble that Triton serves has all members on each server that has any, and enough such servers."""
    for ensemble in layout.problem.ensembles:
        if ensemble.serve is not Serve.TRITON:
            continue
        for loaded in layout.devices:
            here = {placed.option.model for placed in loaded.replicas}
            missing = [name for name in ensemble.models if name not in here]
            if missing and len(missing) < len(ensemble.members):
                text = f"carries a part of ensemble {ensemble.name!r}, but not {', '.join(missing)}"
                yield Violation(Rule.ENSEMBLE_SERVERS, loaded.device.id, text)
        served, asked = sum(served_by_device(layout, ensemble).values()), max(ensemble.demand_mrps)
        if served < asked and not layout.problem.allow_unserved:
            text = f"its servers serve {served / 1000:.3f} req/s of {asked / 1000:.3f}: "
            text += f"short by {(asked - served) / 1000:.3f}"
            yield Violation(Rule.ENSEMBLE_SERVERS, ensemble.name, text)
