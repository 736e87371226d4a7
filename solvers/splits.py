"""Ways to split the latency bounds of ensembles among their members, for searches that do not choose it themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from planner.domain.ensemble import Ensemble
from planner.domain.problem import Option, Problem
from solvers.reduction import Reduction

# By member, what a call may take at most.
Split = Mapping[str, int]


def without_latency(reduction: Reduction) -> Iterator[Reduction]:
    """The problem as it is, or for each split with the options alone with which no ensemble's bound can be broken."""
    problem = reduction.problem
    bounded = [ensemble for ensemble in problem.ensembles if ensemble.bound_us is not None]
    if not bounded:
        yield reduction
        return
    seen: list[set[str]] = []
    for splits in zip(*(_splits(reduction, ensemble, len(bounded[0].members)) for ensemble in bounded), strict=True):
        options = [o for o in problem.options if all(_keeps(o, e, s) for e, s in zip(bounded, splits, strict=True))]
        kept = {option.id for option in options}
        if kept not in seen:
            seen.append(kept)
            yield Reduction(_restricted(problem, options))


def _restricted(problem: Problem, options: list[Option]) -> Problem:
    ensembles = tuple(replace(ensemble, bound_us=None) for ensemble in problem.ensembles)
    return replace(problem, options=tuple(options), ensembles=ensembles)


def _keeps(option: Option, ensemble: Ensemble, split: Split) -> bool:
    if option.model not in ensemble.models:
        return True
    promised = option.promised_us(ensemble.call_percentile)
    return promised is not None and promised <= split.get(option.model, 0)


def _splits(reduction: Reduction, ensemble: Ensemble, favourites: int) -> Iterator[Split]:
    """In proportion to the quickest calls; then all that is left over to one member after the other."""
    bound = ensemble.bound_us or 0
    quickest = reduction.quickest_us(ensemble)
    total, _ = ensemble.slowest_path(quickest)
    if total > bound:  # where demand may stay unserved, its members are left out
        yield from [{}] * (1 + favourites)
        return
    yield {name: latency * bound // max(1, total) for name, latency in quickest.items()}
    for place in range(favourites):
        member = ensemble.members[place % len(ensemble.members)]
        left = (bound - total) // member.depth
        yield {name: us + left * (name == member.model) for name, us in quickest.items()}
