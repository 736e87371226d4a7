"""Proofs of the solver columns, read by the check of `planner check --bound`."""

from __future__ import annotations

import pytest

from planner.domain.certificate import Certificate
from planner.domain.derive import Origin, derive_plan
from planner.domain.problem import SCHEMA_VERSION, Device, Objective, Problem
from planner.domain.proof import verify
from solvers import registry
from solvers.base import Progress, SolveOptions
from tests.problems import devices, kind, model, option, problem


def _idle_slices() -> Problem:
    """The cheap GPU is scarce, and has a second device of a kind that no option is for."""
    kinds = [
        kind("big", cost_microusd_per_hour=3_000_000),
        kind("idle", cost_microusd_per_hour=1_000_000),
        kind("small", cost_microusd_per_hour=1_000_000),
    ]
    cheap = [Device(id=f"s/0/{name}", gpu="s/0", kind=name) for name in ("small", "idle")]
    options = [option("m", name, id=name) for name in ("big", "small")]
    return problem(
        [model(demand_mrps=3000)], options, kinds=kinds, fleet=[*devices("big", 3), *cheap],
        objectives=(Objective.COST, Objective.GPUS),
    )  # fmt: skip


def _free_gpu() -> Problem:
    """The least cost is nothing, and holding it there is what makes two of the free GPUs needed."""
    kinds = [kind("big", cost_microusd_per_hour=3_000_000, memory_bytes=12), kind("free", cost_microusd_per_hour=0)]
    options = [option("m", "big", id="large", capacity_mrps=2000), option("m", "free", id="half", capacity_mrps=1000)]
    return problem(
        [model(demand_mrps=2000)], options, kinds=kinds, fleet=[*devices("big", 1), *devices("free", 2)],
        objectives=(Objective.COST, Objective.GPUS),
    )  # fmt: skip


@pytest.mark.parametrize("subject", [_idle_slices(), _free_gpu()], ids=["idle slices", "free GPU"])
def test_the_proofs_hold(subject: Problem) -> None:
    result = registry.solve(subject, SolveOptions(time_limit_s=5, iterations=3, workers=1), Progress(), name="columns")
    assert result.placements is not None
    origin = Origin(
        status=result.status, solver=result.solver, seed=0, runtime_s=0.0,
        bounds=[(bound.value, bound.method) for bound in result.bounds],
        certified=[(bound.certified, bound.uncertified) for bound in result.bounds],
    )  # fmt: skip
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=subject.digest, proofs=result.proofs)
    assert verify(subject, derive_plan(subject, result.placements, origin), certificate) == []
    values = [objective.value for objective in derive_plan(subject, result.placements, origin).objectives]
    assert [bound.certified for bound in result.bounds] == values
