"""The traffic that a device of a plan is verified under, and what is predicted for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from planner.domain.ensemble import Serve
from planner.domain.ensemble_rules import call_latencies, served_by_device
from planner.domain.latency import Curve, dilated_us, expected_us, stretch
from planner.domain.layout import Layout, LoadedDevice, Placed
from planner.domain.plan import Plan, Replica
from planner.domain.problem import Option, Problem
from planner.domain.units import PPM, demand_mrps


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTraffic:
    """One replica at the rate it is driven at. `busy` and the latencies are predicted at that rate, beside
    neighbours at theirs: `promised_ms` as the plan promises, `expected_ms` by the fast limit alone, between points.
    `backend_bytes` is the memory of its backend, which the plan counts once per server. `through_rps` of its rate
    are calls that the server makes itself, for an ensemble."""

    id: str
    model: str
    option: Option
    rate_rps: float
    percentile: int | float
    bound_ms: float | None
    busy: float
    promised_ms: float | None
    expected_ms: float | None
    backend_bytes: int = 0
    through_rps: float = 0.0

    @property
    def sent_rps(self) -> float:
        """What a client sends to it."""
        return max(0.0, round(self.rate_rps - self.through_rps, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleTraffic:
    """An ensemble that the server serves as a whole, with what the plan promises from end to end."""

    name: str
    calls: Mapping[str, int]
    rate_rps: float
    percentile: int
    bound_ms: float | None
    promised_ms: float | None

    @property
    def id(self) -> str:
        return f"ensemble {self.name}"

    @property
    def sent_rps(self) -> float:
        return self.rate_rps


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraffic:
    """`period` is the device's busiest one: peaks of other hours are not driven together."""

    type: str
    period: str
    replicas: tuple[ReplicaTraffic, ...]
    ensembles: tuple[EnsembleTraffic, ...] = ()

    @property
    def driven(self) -> tuple[ReplicaTraffic, ...]:
        return tuple(replica for replica in self.replicas if replica.rate_rps > 0)

    @property
    def sent(self) -> tuple[ReplicaTraffic | EnsembleTraffic, ...]:
        """What clients call."""
        both: list[ReplicaTraffic | EnsembleTraffic] = [*self.replicas, *self.ensembles]
        return tuple(stream for stream in both if stream.sent_rps > 0)


def device_traffic(layout: Layout, plan: Plan, loaded: LoadedDevice, factor: float | None) -> DeviceTraffic:
    """The planned rates of the busiest period times `factor`; None: every replica at its whole capacity."""
    by_id = {replica.id: replica for replica in plan.replicas}
    replicas = [by_id[placed.replica] for placed in loaded.replicas]
    periods = layout.problem.periods
    by_period = [[_rate_rps(replica, index, factor) for replica in replicas] for index in range(len(periods))]
    period = max(range(len(by_period)), key=lambda index: _busy_ppm(loaded, by_period[index]))
    ensembles = tuple(_ensembles(layout, loaded, period, factor))
    return traffic_at(layout.problem, loaded, periods[period], by_period[period], ensembles)


def traffic_at(
    problem: Problem,
    loaded: LoadedDevice,
    period: str,
    rates_rps: Sequence[float],
    ensembles: tuple[EnsembleTraffic, ...] = (),
) -> DeviceTraffic:
    """These rates, in the order of the device's replicas, and what is predicted for them."""
    replicas = (_replica(problem, loaded, place, rates_rps, ensembles) for place in range(len(rates_rps)))
    return DeviceTraffic(type=loaded.kind.type, period=period, replicas=tuple(replicas), ensembles=ensembles)


def _ensembles(layout: Layout, loaded: LoadedDevice, period: int, factor: float | None) -> Iterator[EnsembleTraffic]:
    """Those that this server serves, at its share of their traffic."""
    for ensemble in layout.problem.ensembles:
        served = served_by_device(layout, ensemble) if ensemble.serve is Serve.TRITON else {}
        here = served.get(loaded.device.id, 0)
        if here:
            bounded = ensemble.bound_us is not None
            share = min(1.0, ensemble.expected_mrps[period] / sum(served.values()))
            yield EnsembleTraffic(
                name=ensemble.name,
                calls={member.model: member.calls for member in ensemble.members},
                rate_rps=here / 1000 * (1 if factor is None else factor * share),
                percentile=ensemble.percentile,
                bound_ms=None if ensemble.bound_us is None else ensemble.bound_us / 1000,
                promised_ms=ensemble.slowest_path(call_latencies(layout, ensemble))[0] / 1000 if bounded else None,
            )


def _replica(
    problem: Problem, loaded: LoadedDevice, place: int, rates: Sequence[float], ensembles: Sequence[EnsembleTraffic]
) -> ReplicaTraffic:
    placed = loaded.replicas[place]
    objective = _objective(problem, placed.option)
    optimistic = problem.settings.optimistic_latency
    return ReplicaTraffic(
        id=placed.replica,
        model=placed.option.model,
        option=placed.option,
        rate_rps=rates[place],
        percentile=objective.percentile,
        bound_ms=objective.bound_ms,
        busy=float(_own_busy_ppm(placed, rates[place])) / PPM,
        promised_ms=_latency_ms(dilated_us, loaded, objective.curve, place, rates, optimistic=optimistic),
        expected_ms=_latency_ms(expected_us, loaded, objective.curve, place, rates, optimistic=True),
        backend_bytes=loaded.kind.backend_overhead_bytes.get(placed.option.backend or "", 0),
        through_rps=sum(e.rate_rps * e.calls.get(placed.option.model, 0) for e in ensembles),
    )


class _Objective(NamedTuple):
    percentile: int | float
    bound_ms: float | None
    curve: Curve


def _objective(problem: Problem, option: Option) -> _Objective:
    """The model's own; of one that has none, what it promises to the clients of an ensemble."""
    model = problem.model_by_name[option.model]
    if model.latency_bound_us is None:
        for ensemble in problem.ensembles:
            if ensemble.serve is Serve.CLIENT and ensemble.bound_us is not None and model.name in ensemble.models:
                percentile = ensemble.call_percentile
                promise = next((p for p in option.promises if p.percentile >= percentile), None)
                if promise is not None:
                    return _Objective(percentile, promise.latency_us / 1000, promise.curve)
    bound_ms = None if model.latency_bound_us is None else model.latency_bound_us / 1000
    return _Objective(model.percentile, bound_ms, option.curve)


def _rate_rps(replica: Replica, period: int, factor: float | None) -> float:
    return replica.capacity_rps if factor is None else factor * replica.periods[period].rate_rps


def _busy_ppm(loaded: LoadedDevice, rates_rps: Sequence[float]) -> Fraction:
    pairs = zip(loaded.replicas, rates_rps, strict=True)
    return sum((_own_busy_ppm(placed, rate) for placed, rate in pairs), Fraction(0))


def _own_busy_ppm(placed: Placed, rate_rps: float) -> Fraction:
    """Busy time at a rate, in proportion to that at the capacity, which is the busiest period's."""
    return Fraction(max(placed.option.busy_ppm) * _mrps(rate_rps), placed.option.capacity_mrps)


def _latency_ms(
    law: Callable[[Curve, int, Fraction], int | None],
    loaded: LoadedDevice,
    curve: Curve,
    place: int,
    rates: Sequence[float],
    *,
    optimistic: bool,
) -> float | None:
    """None where nothing was measured at this rate, or the neighbours leave no time."""
    own = loaded.replicas[place].option
    kappa = loaded.kind.kappa_ppm[own.interference_class]
    others = [(p, rate) for i, (p, rate) in enumerate(zip(loaded.replicas, rates, strict=True)) if i != place and rate]
    busy = sum((kappa[p.option.interference_class] * _own_busy_ppm(p, rate) for p, rate in others), Fraction(0))
    phi = stretch(ceil(busy / PPM), sum(p.option.instances for p, _ in others), optimistic=optimistic)
    if phi is None:
        return None
    latency_us = law(curve, _mrps(rates[place]), phi)
    return None if latency_us is None else latency_us / 1000


def _mrps(rate_rps: float) -> int:
    """Up, but not for the last bit of a float: weight x rate may come out a hair above the capacity."""
    return demand_mrps(round(rate_rps, 6))
