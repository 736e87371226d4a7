"""Rates that were observed, step by step, and a plan replayed against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.domain.units import PPM
from planner.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ObservedRates:
    """As a file has them: `rates_rps[step][place]` of the model or ensemble `names[place]`.

    A step lasts `seconds[step]` from `starts[step]`.
    """

    starts: tuple[str, ...]
    seconds: tuple[float, ...]
    names: tuple[str, ...]
    rates_rps: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that models of a problem were asked for in each step, ensembles' calls included; rates in mrps."""

    starts: tuple[str, ...]
    seconds: tuple[float, ...]
    models: tuple[str, ...]
    rates_mrps: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.starts) == len(self.seconds) == len(self.rates_mrps) > 0 or min(self.seconds) <= 0:
            raise InputError("observed: needs steps, each with its start, its seconds > 0 and its rates")
        if any(len(step) != len(self.models) or min(step, default=0) < 0 for step in self.rates_mrps):
            raise InputError("observed: each step needs one rate >= 0 per model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Of `total_s` observed every rule held in `held_s`; `broken_s`: for how long which rule did not, and of what."""

    total_s: float
    held_s: float
    broken_s: Mapping[tuple[str, str], float]

    @property
    def share(self) -> float:
        return self.held_s / self.total_s


def replayed(seconds: tuple[float, ...], broken: Iterator[set[tuple[str, str]]]) -> Replay:
    """`broken`: by step the rules, with their subjects, that did not hold."""
    held, times = 0.0, Counter[tuple[str, str]]()
    for lasted, rules in zip(seconds, broken, strict=True):
        if not rules:
            held += lasted
        for rule in rules:
            times[rule] += lasted  # type: ignore[assignment]
    return Replay(total_s=sum(seconds), held_s=held, broken_s=dict(times))


def busy_at(busy_ppm: tuple[int, ...], demand_mrps: tuple[int, ...], rate_mrps: int) -> int:
    """Busy time at a rate, no less than it is: that of the least period that asks for as much, or in proportion."""
    known = [busy for busy, demand in zip(busy_ppm, demand_mrps, strict=True) if demand >= rate_mrps]
    if known:
        return min(known)
    peak = max(demand_mrps)
    return -(-max(busy_ppm) * rate_mrps // peak) if peak else PPM * (rate_mrps > 0)
