"""What a problem and a plan rest on, in sentences for the reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.domain.problem import LatencyBasis, Option, Problem
from planner.domain.profile import ProfileRow, Source
from planner.domain.workload import PERCENTILES, Workload

MEASURED = PERCENTILES[-1]


def requests_notes(rows: Sequence[ProfileRow], workload: Workload) -> list[str]:
    notes = []
    for demand in workload.models:
        kinds = sorted({row.requests or "random requests" for row in rows if row.model == demand.name})
        if len(kinds) > 1:
            notes.append(
                f"{demand.name}: its profiles come from {len(kinds)} kinds of requests, and a plan may rest on the "
                f"easiest: {'; '.join(kinds)}"
            )
    return notes


def digest_notes(rows: Sequence[ProfileRow], workload: Workload) -> list[str]:
    notes = []
    for demand in workload.models:
        digests = {row.model_digest for row in rows if row.model == demand.name and row.model_digest}
        if len(digests) > 1:
            notes.append(
                f"{demand.name}: its profiles come from {len(digests)} different versions of the model's files"
            )
    return notes


def basis_notes(problem: Problem, used: Iterable[Option]) -> list[str]:
    """What the plan rests on, in sentences: estimates, closed-loop latency, no calibration."""
    options = list(used)
    notes = []
    for source in (Source.ESTIMATED, Source.FITTED, Source.PUBLISHED, Source.IMPORTED):
        count = sum(1 for o in options if o.source.split(":")[0] == source)
        if count:
            notes.append(f"{_of_replicas(count, len(options))} on {source} profiles")
    kinds = {option.kind for option in options}
    for name in sorted(kinds):
        overhead, _, basis = problem.kind_by_name[name].overhead_source.partition(":")
        if overhead != Source.MEASURED:
            detail = f" ({basis.strip()})" if basis else ""
            notes.append(f"memory of the server and its backends on {name} is {overhead}{detail}")
    closed = sum(1 for o in options if o.latency_basis is LatencyBasis.CLOSED)
    if closed:
        notes.append(f"{_of_replicas(closed, len(options))} on closed-loop latency: no promise under open traffic")
    for ensemble in problem.ensembles:
        calls = sum(member.calls for member in ensemble.members)
        if ensemble.bound_us is not None and ensemble.call_percentile > MEASURED:
            firm = MEASURED - (calls - 1) * (100 - MEASURED)
            sure = f"without estimates it promises {f'p{firm}' if firm > 0 else 'nothing'}"
            notes.append(
                f"ensemble {ensemble.name}: its p{ensemble.percentile} over {calls} calls rests on the "
                f"p{ensemble.call_percentile} of each, which is estimated from the tail up to p{MEASURED}; {sure}"
            )
    if any(not problem.kind_by_name[name].calibrated for name in kinds):
        limits = "the fast limit alone" if problem.settings.optimistic_latency else "the safer of two limits"
        notes.append(f"uncalibrated: latency beside other models is planned by {limits}")
    return notes


def _of_replicas(count: int, total: int) -> str:
    if count < total:
        return f"{count} of {total} replicas rest"
    return "the only replica rests" if total == 1 else f"all {total} replicas rest"
