"""A demand in whole replicas: the cheapest cover, in floating point for the solver, in whole numbers for the check."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.domain.certificate import Certificate, Cover, Leaf, Proof, ReplicaDual
from planner.domain.covers import least_cover
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Status
from planner.domain.problem import SCHEMA_VERSION, Objective, Problem
from planner.domain.proof import verify
from solvers.columns.covers import Demand
from tests.problems import devices, model, option, problem

CLASSES = st.dictionaries(st.integers(1, 9), st.integers(0, 6), min_size=1, max_size=3)


@settings(deadline=None)
@given(CLASSES, st.integers(1, 15), st.integers(0, 3), st.sampled_from([None, 3, 5]))
def test_the_cheapest_cover_is_that_of_brute_force(
    prices: dict[int, int], missing: int, at_least: int, at_most: int | None
) -> None:
    classes = sorted((min(size, missing), price) for size, price in prices.items())
    known = [
        sum(n * price for n, (_, price) in zip(counts, classes, strict=True))
        for counts in product(range(16), repeat=len(classes))
        if sum(n * size for n, (size, _) in zip(counts, classes, strict=True)) >= missing
        and at_least <= sum(counts) <= (at_most or 99)
    ]
    assert least_cover(classes, missing, at_least, at_most) == min(known, default=None)
    sizes = np.array([size for size, _ in classes])
    demand = Demand(0, sizes, missing, at_least, 2**62 if at_most is None else at_most)
    value, cover = demand.cheapest(np.array([float(price) for _, price in classes]))
    assert value == min(known, default=np.inf)
    if known:
        assert sum(n * price for n, (_, price) in zip(cover, classes, strict=True)) == value


def _subject() -> Problem:
    """2.5 requests, replicas of 1 or 2, a device for each: two devices are needed, 1.25 by a linear demand."""
    options = [
        option(id="one", capacity_mrps=1000, memory_bytes=7),
        option(id="two", capacity_mrps=2000, memory_bytes=12),
    ]
    return problem([model(demand_mrps=2500)], options, fleet=devices(count=4))


def _certified(subject: Problem, cover: Cover, bound: int, numerator: int) -> list[str]:
    placements = [Placement(replica=f"m-{i}", option="two", device=f"big/{i}") for i in range(2)]
    origin = Origin(status=Status.OPTIMAL, solver="test", seed=0, runtime_s=0.0, bounds=[(2, "test")],
                    certified=[(bound, None)])  # fmt: skip
    leaf = Leaf(duals=(), covers=(cover,), scale=10, numerator=numerator)
    proof = Proof(objective=Objective.GPUS, bound=bound, leaves=(leaf,), node_limit=1000)
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=subject.digest, proofs=(proof,))
    return [str(v) for v in verify(subject, derive_plan(subject, placements, origin), certificate)]


def _cover(one: int, two: int, value: int) -> Cover:
    duals = (ReplicaDual(capacity_mrps=1000, dual=one), ReplicaDual(capacity_mrps=2000, dual=two))
    return Cover(subject="m", duals=duals, value=value)


def test_a_cover_proves_what_no_linear_demand_does() -> None:
    assert _certified(_subject(), _cover(10, 10, 20), 2, 20) == []


@pytest.mark.parametrize(
    ("cover", "bound", "numerator", "text"),
    [
        (_cover(10, 10, 21), 3, 21, "is worth 21, but 20 is enough"),
        (_cover(10, 11, 20), 2, 20, "are worth 11, its allowance is 10"),
        (_cover(10, 9, 20), 2, 20, "is worth 20, but 18 is enough"),
        (_cover(10, 10, 19), 2, 20, "numerator is 20, recomputed 19"),
        (Cover(subject="m", duals=(ReplicaDual(capacity_mrps=2000, dual=10),), value=20), 2, 20, "but 0 is enough"),
        (Cover(subject="m", duals=(ReplicaDual(capacity_mrps=1500, dual=10),), value=0), 0, 0, "names 1500 mrps"),
        (Cover(subject="n", duals=(), value=0), 0, 0, "of 'n' names no model"),
    ],
)
def test_an_edited_cover_is_rejected(cover: Cover, bound: int, numerator: int, text: str) -> None:
    found = _certified(_subject(), cover, bound, numerator)
    assert any(text in line for line in found), found
