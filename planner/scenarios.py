"""Observed rates as periods: few situations that between them cover what happened, but for what may be missed.

A step that asks for no more of any model than some period does keeps every rule where that period does. So a plan for
the periods holds in all steps that they cover, and models that never peak together are not planned as if they did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.domain.observed import Observed, ObservedRates
from planner.domain.units import demand_mrps, exact
from planner.domain.workload import ALL_DAY, Workload
from planner.errors import InputError

MOST_PERIODS = 12

Floats = NDArray[np.float64]


def with_observed_periods(workload: Workload, observed: ObservedRates, service_level: float) -> Workload:
    """The workload with periods that cover at least `service_level` of the observed time."""
    for model in workload.models:
        if set(model.rates_rps or {}) - {ALL_DAY}:
            raise InputError(
                f"model {model.name!r} has rates_rps by period, but observed_rates makes the periods",
                hint="give it a rate_rps, or a column among the observed rates",
            )
    rates = np.array(observed.rates_rps)
    kept = np.flatnonzero(_kept(rates, np.array(observed.seconds), service_level))
    covers = sorted(_covers(rates[kept]), key=lambda cover: cover[0])
    periods = {observed.starts[kept[peak]]: most for peak, most in covers}
    by_name = {
        name: {period: float(most[place]) for period, most in periods.items()}
        for place, name in enumerate(observed.names)
    }
    return replace(
        workload,
        models=tuple(replace(m, rates_rps=by_name.get(m.name, m.rates_rps)) for m in workload.models),
        ensembles=tuple(replace(e, rates_rps=by_name.get(e.name, e.rates_rps)) for e in workload.ensembles),
    )


def _kept(rates: Floats, seconds: Floats, service_level: float) -> NDArray[np.bool_]:
    """Without the steps that rise furthest above their models' own quantiles, as long as enough time is left."""
    usual = np.maximum(np.quantile(rates, service_level, axis=0), 1e-9)
    worst_first = np.argsort(-(rates / usual).max(axis=1), kind="stable")
    missed = np.cumsum(seconds[worst_first]) <= (1 - service_level) * seconds.sum() + 1e-9
    kept = np.ones(len(rates), np.bool_)
    kept[worst_first[missed]] = False
    return kept


def _covers(rates: Floats) -> list[tuple[int, Floats]]:
    """Of each group of steps that are alike its busiest step, and the most that any of them asks of each model.

    Each group starts with the step that is furthest from all earlier ones (Gonzalez, Theoretical Computer Science 38,
    1985).
    """
    shares = rates / np.maximum(rates.max(axis=0), 1e-9)
    centres = [int(shares.sum(axis=1).argmax())]
    distance = np.linalg.norm(shares - shares[centres[0]], axis=1)
    group = np.zeros(len(shares), np.int64)
    while len(centres) < MOST_PERIODS and distance.max() > 1e-9:
        centres.append(int(distance.argmax()))
        new = np.linalg.norm(shares - shares[centres[-1]], axis=1)
        group[new < distance] = len(centres) - 1
        distance = np.minimum(distance, new)
    found = []
    for number in range(len(centres)):
        own = np.flatnonzero(group == number)
        found.append((int(own[shares[own].sum(axis=1).argmax()]), rates[own].max(axis=0)))
    return [
        (peak, most)
        for place, (peak, most) in enumerate(found)
        if not any(
            (most <= other).all() and ((most < other).any() or place > at) for at, (_, other) in enumerate(found)
        )
    ]


def asked_of_models(workload: Workload, observed: ObservedRates) -> Observed:
    """What each step asked of every model: its own rate, and the calls of ensembles."""
    return Observed(
        starts=observed.starts,
        seconds=observed.seconds,
        models=tuple(model.name for model in workload.models),
        rates_mrps=tuple(
            _step_mrps(workload, dict(zip(observed.names, rates, strict=True))) for rates in observed.rates_rps
        ),
    )


def _step_mrps(workload: Workload, rates: Mapping[str, float]) -> tuple[int, ...]:
    asked = {m.name: exact(rates.get(m.name, (m.rates_rps or {}).get(ALL_DAY, 0.0))) for m in workload.models}
    for ensemble in workload.ensembles:
        rate = exact(rates.get(ensemble.name, ensemble.rates_rps.get(ALL_DAY, 0.0)))
        for member in ensemble.members:
            asked[member.name] += rate * member.calls
    return tuple(map(demand_mrps, asked.values()))
