"""The traffic that a device of a plan is verified under, and what is predicted for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from planner.domain.latency import dilated_us, stretch
from planner.domain.layout import LoadedDevice, Placed
from planner.domain.plan import Plan, Replica
from planner.domain.problem import Option, Problem
from planner.domain.units import PPM, demand_mrps


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTraffic:
    """One replica at the rate it is driven at. `busy` and the latencies are predicted at that rate, beside
    neighbours at theirs: `promised_ms` as the plan promises, `expected_ms` by the fast limit alone.
    `backend_bytes` is the memory of its backend, which the plan counts once per server."""

    id: str
    model: str
    option: Option
    rate_rps: float
    percentile: int
    bound_ms: float | None
    busy: float
    promised_ms: float | None
    expected_ms: float | None
    backend_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraffic:
    """`period` is the device's busiest one: peaks of other hours are not driven together."""

    type: str
    period: str
    replicas: tuple[ReplicaTraffic, ...]

    @property
    def driven(self) -> tuple[ReplicaTraffic, ...]:
        return tuple(replica for replica in self.replicas if replica.rate_rps > 0)


def device_traffic(problem: Problem, plan: Plan, loaded: LoadedDevice, factor: float | None) -> DeviceTraffic:
    """The planned rates of the busiest period times `factor`; None: every replica at its whole capacity."""
    by_id = {replica.id: replica for replica in plan.replicas}
    replicas = [by_id[placed.replica] for placed in loaded.replicas]
    by_period = [[_rate_rps(replica, index, factor) for replica in replicas] for index in range(len(problem.periods))]
    period = max(range(len(by_period)), key=lambda index: _busy_ppm(loaded, by_period[index]))
    return traffic_at(problem, loaded, problem.periods[period], by_period[period])


def traffic_at(problem: Problem, loaded: LoadedDevice, period: str, rates_rps: Sequence[float]) -> DeviceTraffic:
    """These rates, in the order of the device's replicas, and what is predicted for them."""
    return DeviceTraffic(
        type=loaded.kind.type,
        period=period,
        replicas=tuple(_replica(problem, loaded, place, rates_rps) for place in range(len(rates_rps))),
    )


def _replica(problem: Problem, loaded: LoadedDevice, place: int, rates: Sequence[float]) -> ReplicaTraffic:
    placed = loaded.replicas[place]
    model = problem.model_by_name[placed.option.model]
    return ReplicaTraffic(
        id=placed.replica,
        model=model.name,
        option=placed.option,
        rate_rps=rates[place],
        percentile=model.percentile,
        bound_ms=None if model.latency_bound_us is None else model.latency_bound_us / 1000,
        busy=float(_own_busy_ppm(placed, rates[place])) / PPM,
        promised_ms=_latency_ms(loaded, place, rates, optimistic=problem.settings.optimistic_latency),
        expected_ms=_latency_ms(loaded, place, rates, optimistic=True),
        backend_bytes=loaded.kind.backend_overhead_bytes.get(placed.option.backend or "", 0),
    )


def _rate_rps(replica: Replica, period: int, factor: float | None) -> float:
    return replica.capacity_rps if factor is None else factor * replica.periods[period].rate_rps


def _busy_ppm(loaded: LoadedDevice, rates_rps: Sequence[float]) -> Fraction:
    pairs = zip(loaded.replicas, rates_rps, strict=True)
    return sum((_own_busy_ppm(placed, rate) for placed, rate in pairs), Fraction(0))


def _own_busy_ppm(placed: Placed, rate_rps: float) -> Fraction:
    """Busy time at a rate, in proportion to that at the capacity, which is the busiest period's."""
    return Fraction(max(placed.option.busy_ppm) * _mrps(rate_rps), placed.option.capacity_mrps)


def _latency_ms(loaded: LoadedDevice, place: int, rates: Sequence[float], *, optimistic: bool) -> float | None:
    """None where nothing was measured at this rate, or the neighbours leave no time."""
    own = loaded.replicas[place].option
    kappa = loaded.kind.kappa_ppm[own.interference_class]
    others = [(p, rate) for i, (p, rate) in enumerate(zip(loaded.replicas, rates, strict=True)) if i != place and rate]
    busy = sum((kappa[p.option.interference_class] * _own_busy_ppm(p, rate) for p, rate in others), Fraction(0))
    phi = stretch(ceil(busy / PPM), sum(p.option.instances for p, _ in others), optimistic=optimistic)
    if phi is None:
        return None
    latency_us = dilated_us(own.curve, _mrps(rates[place]), phi, own.queue_delay_us or 0)
    return None if latency_us is None else latency_us / 1000


def _mrps(rate_rps: float) -> int:
    """Up, but not for the last bit of a float: weight x rate may come out a hair above the capacity."""
    return demand_mrps(round(rate_rps, 6))
