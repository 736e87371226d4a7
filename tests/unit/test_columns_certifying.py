"""Proofs of the solver columns, read by the check of `planner check --bound`."""

from __future__ import annotations

import pytest

from planner.domain.certificate import Certificate
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Plan
from planner.domain.problem import SCHEMA_VERSION, Device, Objective, Problem
from planner.domain.proof import verify
from planner.domain.rules import Violation
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


def _replicas_for_no_reason() -> Problem:
    """A minimum of replicas, which proves nothing where demand may stay unserved, and a stock that it strains."""
    one = tuple(Device(id=f"big/0/{number}", gpu="big/0", kind="big") for number in range(2))
    options = [option("m", capacity_mrps=500, tolerance_ppm=0)]
    return problem(
        [model(demand_mrps=1, replicas_min=2)], options, fleet=one,
        objectives=(Objective.UNSERVED, Objective.GPUS), allow_unserved=True, max_per_device=1,
    )  # fmt: skip


@pytest.mark.parametrize("subject", [_idle_slices(), _free_gpu()], ids=["idle slices", "free GPU"])
def test_the_proofs_hold_and_are_tight(subject: Problem) -> None:
    plan, violations = _planned(subject)
    assert violations == []
    assert [objective.certified_bound for objective in plan.objectives] == [o.value for o in plan.objectives]


def test_the_proof_holds_where_a_row_of_the_relaxation_proves_nothing() -> None:
    plan, violations = _planned(_replicas_for_no_reason())
    assert violations == []
    assert plan.objectives[1].certified_bound == 0


def _planned(subject: Problem) -> tuple[Plan, list[Violation]]:
    result = registry.solve(subject, SolveOptions(time_limit_s=5, iterations=3, workers=1), Progress(), name="columns")
    assert result.placements is not None
    origin = Origin(
        status=result.status, solver=result.solver, seed=0, runtime_s=0.0,
        bounds=[(bound.value, bound.method) for bound in result.bounds],
        certified=[(bound.certified, bound.uncertified) for bound in result.bounds],
    )  # fmt: skip
    plan = derive_plan(subject, result.placements, origin)
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=subject.digest, proofs=result.proofs)
    return plan, verify(subject, plan, certificate)
