"""Certified bounds: each kind of row proves what it should, and every edit of a certificate is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from planner.domain.certificate import Certificate, Decision, Leaf, Proof, RowDual, RowKind
from planner.domain.check import check
from planner.domain.ensemble import Ensemble, Member, Serve
from planner.domain.layout import Layout
from planner.domain.plan import Placement, Plan
from planner.domain.problem import Device, Objective, Problem
from planner.domain.proof import Prover, examine, verify
from planner.domain.rows import Refused, Rows
from planner.domain.units import PPM
from tests.certificates import (
    at_least,
    at_most,
    certificate,
    dual,
    edited,
    leaf,
    plan_of,
    proof,
    rows_for,
)
from tests.problems import devices, kind, model, option, problem

USD = 1_000_000
GPUS, COST, UNSERVED = Objective.GPUS, Objective.COST, Objective.UNSERVED
DEMAND, STOCK, FIXED = RowKind.DEMAND, RowKind.STOCK, RowKind.FIXED


def on(*pairs: tuple[str, str]) -> tuple[Placement, ...]:
    """Replicas by option and device."""
    return tuple(Placement(replica=f"r{i}", option=o, device=d) for i, (o, d) in enumerate(pairs))


def proven(subject: Problem, placed: Sequence[Placement], objective: Objective, *leaves: Leaf) -> float:
    """The bound that these leaves prove, where nothing is wrong with them."""
    made = proof(rows_for(subject, placed, objective), *leaves)
    plan = plan_of(subject, placed, made)
    assert check(subject, plan) == []
    examined = examine(subject, plan, certificate(subject, made))
    assert examined.violations == ()
    return examined.proven[0].bound


# Two replicas of 1,000 mrps fit on a GPU, and there are four GPUs.
PAIRS = problem(
    [model(demand_mrps=3000)], [option(memory_bytes=5)], fleet=devices(count=4), max_per_device=None,
    objectives=(GPUS, Objective.BALANCE),
)  # fmt: skip
PAIRED = on(("m@big", "big/0"), ("m@big", "big/0"), ("m@big", "big/1"))
ROWS = rows_for(PAIRS, PAIRED, GPUS)


def test_demand_bounds_the_gpus() -> None:
    assert proven(PAIRS, PAIRED, GPUS, leaf(ROWS, 2000, [dual(DEMAND, "m", 1)])) == 2


def test_demand_is_rounded_up_in_units_of_its_divisor() -> None:
    subject = replace(PAIRS, models=(model(demand_mrps=4001),))
    placed = on(*(("m@big", f"big/{i // 2}") for i in range(5)))
    rows = rows_for(subject, placed, GPUS)
    rounded = leaf(rows, 2, [dual(DEMAND, "m", 1, divisor=1000)])
    assert (rounded.numerator, proven(subject, placed, GPUS, rounded)) == (5, 3)


def test_the_least_number_of_replicas_bounds_the_gpus() -> None:
    subject = replace(PAIRS, models=(model(demand_mrps=None, replicas_min=3),))
    rows = rows_for(subject, PAIRED, GPUS)
    assert proven(subject, PAIRED, GPUS, leaf(rows, 2, [dual(RowKind.REPLICAS_MIN, "m", 1)])) == 2


def test_the_largest_number_of_replicas_forces_a_large_one() -> None:
    options = [
        option("a", id="small", memory_bytes=3),
        option("a", id="large", memory_bytes=12, capacity_mrps=2000),
        option("b", id="b", memory_bytes=3),
    ]
    subject = problem([model("a", 2000, replicas_max=1), model("b", 1000)], options, fleet=devices(count=3))
    placed = on(("large", "big/0"), ("b", "big/1"))
    rows = rows_for(subject, placed, GPUS)
    duals = [dual(DEMAND, "a", 1), dual(RowKind.REPLICAS_MAX, "a", 1000), dual(DEMAND, "b", 1)]
    assert proven(subject, placed, GPUS, leaf(rows, 1000, duals)) == 2


def _cheap_and_dear(dear_memory: int, objectives: tuple[Objective, ...], cheap: int) -> Problem:
    """A replica of 1,000 mrps on each cheap GPU, and as many as fit on a dear one; 2,000 are asked for."""
    kinds = [
        kind("cheap", memory_bytes=5, cost_microusd_per_hour=USD),
        kind("dear", memory_bytes=dear_memory, cost_microusd_per_hour=3 * USD),
    ]
    return problem(
        [model(demand_mrps=2000)],
        [option(kind_name=k.name, memory_bytes=5) for k in kinds],
        kinds=kinds,
        fleet=[*devices("cheap", cheap), *devices("dear", 2)],
        objectives=objectives,
        max_per_device=None,
    )


def test_the_stock_of_cheap_gpus_is_counted() -> None:
    subject = _cheap_and_dear(5, (COST,), cheap=1)
    placed = on(("m@cheap", "cheap/0"), ("m@dear", "dear/0"))
    rows = rows_for(subject, placed, COST)
    assert proven(subject, placed, COST, leaf(rows, 1, [dual(DEMAND, "m", 3000), dual(STOCK, "cheap", 2 * USD)])) == 4


def test_an_earlier_objective_is_fixed() -> None:
    subject = _cheap_and_dear(10, (GPUS, COST), cheap=2)
    placed = on(("m@dear", "dear/0"), ("m@dear", "dear/0"))
    rows = rows_for(subject, placed, COST)
    assert proven(subject, placed, COST, leaf(rows, 1, [dual(DEMAND, "m", 2000), dual(FIXED, "gpus", USD)])) == 3


def test_a_fixed_cost_is_counted_by_gpu() -> None:
    subject = _cheap_and_dear(10, (COST, GPUS), cheap=2)
    placed = on(("m@cheap", "cheap/0"), ("m@cheap", "cheap/1"))
    rows = rows_for(subject, placed, GPUS)
    # y per mrps, f per micro-USD: 2000 y <= S + 3 USD f and 1000 y <= S + 1 USD f
    duals = [dual(DEMAND, "m", 2 * USD // 1000), dual(FIXED, "cost", 1)]
    assert proven(subject, placed, GPUS, leaf(rows, USD, duals)) == 2


ONE_EACH = problem(
    [model(demand_mrps=3000)], fleet=devices(count=2), allow_unserved=True, objectives=(UNSERVED, GPUS),
)  # fmt: skip
BOTH = on(("m@big", "big/0"), ("m@big", "big/1"))


def test_what_stays_unserved_is_bounded() -> None:
    rows = rows_for(ONE_EACH, BOTH, UNSERVED)
    bound = leaf(rows, 3, [dual(DEMAND, "m", 1000), dual(STOCK, "big", PPM)])
    assert proven(ONE_EACH, BOTH, UNSERVED, bound) == 0.333334


def test_unserved_demand_is_fixed_at_what_was_reached() -> None:
    rows = rows_for(ONE_EACH, BOTH, GPUS)
    bound = leaf(rows, 10**9, [dual(DEMAND, "m", 10**6), dual(FIXED, "unserved", 3000)])
    assert proven(ONE_EACH, BOTH, GPUS, bound) == 2


def test_where_all_is_served_a_divisor_holds() -> None:
    subject = replace(ONE_EACH, models=(model(demand_mrps=1001),))
    rows = rows_for(subject, BOTH, GPUS)
    assert proven(subject, BOTH, GPUS, leaf(rows, 1, [dual(DEMAND, "m", 1, divisor=1000)])) == 2


def test_a_cost_is_rounded_up_to_whole_gpus() -> None:
    subject = replace(PAIRS, objectives=(COST,), kinds=(kind(cost_microusd_per_hour=1_500_000),))
    rows = rows_for(subject, PAIRED, COST)
    assert proven(subject, PAIRED, COST, leaf(rows, 4, [dual(DEMAND, "m", 3000)])) == 3
    free = replace(PAIRS, objectives=(COST,), kinds=(kind(cost_microusd_per_hour=None),))
    assert proven(free, PAIRED, COST, leaf(rows_for(free, PAIRED, COST), 1, [])) == 0


def _branched(rows: Rows = ROWS) -> Proof:
    demand = dual(DEMAND, "m", 1)
    few = leaf(rows, 1, [demand], [at_most(1, groups=["big"], amount=1999)])
    many = leaf(rows, 1, [], [at_least(2, groups=["big"], amount=1)])
    return proof(rows, few, many)


def test_decisions_on_gpus_part_the_plans() -> None:
    assert proven(PAIRS, PAIRED, GPUS, *_branched().leaves) == 2


def test_decisions_on_options_part_the_plans() -> None:
    few = leaf(ROWS, 1, [dual(DEMAND, "m", 1)], [at_most(2, options=["m@big"], amount=1000)])
    many = leaf(ROWS, 2, [], [at_least(3, options=["m@big"], amount=1)])
    assert proven(PAIRS, PAIRED, GPUS, few, many) == 2


def test_the_devices_of_a_gpu_share_its_allowance() -> None:
    kinds = [kind("half", memory_bytes=5), kind("quarter", memory_bytes=3)]
    fleet = [
        Device(id=f"{gpu}/{i}", gpu=gpu, kind=name)
        for gpu in ("g0", "g1")
        for i, name in enumerate(("half", "quarter", "quarter"))
    ]
    options = [option(kind_name="half"), option(kind_name="quarter", memory_bytes=3, capacity_mrps=500)]
    subject = problem([model(demand_mrps=3000)], options, kinds=kinds, fleet=fleet)
    placed = on(*((f"m@{d.kind}", d.id) for d in fleet[:5]), ("m@quarter", "g1/2"))
    rows = rows_for(subject, placed, GPUS)
    assert proven(subject, placed, GPUS, leaf(rows, 2000, [dual(DEMAND, "m", 1)])) == 2
    short = proof(rows, leaf(rows, 1999, [dual(DEMAND, "m", 1)]))
    assert "are worth 500, its allowance is 499" in _refusals(subject, plan_of(subject, placed, short), short)
    shorter = proof(rows, leaf(rows, 900, [dual(DEMAND, "m", 1)]))
    assert "can carry 100 more than its allowance" in _refusals(subject, plan_of(subject, placed, shorter), shorter)


def _refusals(subject: Problem, plan: Plan, *proofs: Proof) -> str:
    return "\n".join(map(str, verify(subject, plan, certificate(subject, *proofs))))


# What is wrong with a certificate, and what is said about it. The plan claims what the unedited one proves.
GOOD = certificate(PAIRS, _branched())
PLAN = plan_of(PAIRS, PAIRED, *GOOD.proofs)


def _cover(*cases: Sequence[Decision]) -> Certificate:
    """The same bound in every case, with these decisions."""
    duals = (dual(DEMAND, "m", 1),)
    leaves = tuple(Leaf(decisions=tuple(case), duals=duals, scale=2000, numerator=3000) for case in cases)
    return edited(GOOD, leaves=leaves)


BAD: dict[str, tuple[Certificate, str]] = {
    "another problem": (replace(GOOD, problem_digest="sha256:0"), "is of another problem: sha256:0"),
    "bound up by one": (edited(GOOD, bound=3), "certificate.json has 3"),
    "bound down by one": (edited(GOOD, bound=1), "certificate.json has 1"),
    "proof dropped": (replace(GOOD, proofs=()), "claims the certified bound 2, but there is no proof"),
    "proof twice": (replace(GOOD, proofs=GOOD.proofs * 2), "has 2 proofs"),
    "of balance": (
        replace(GOOD, proofs=(*GOOD.proofs, replace(GOOD.proofs[0], objective=Objective.BALANCE))),
        "balance: this objective is never certified"),
    "of no objective": (
        replace(GOOD, proofs=(*GOOD.proofs, replace(GOOD.proofs[0], objective=COST))), "is no objective of this"),
    "first leaf dropped": (edited(GOOD, leaves=GOOD.proofs[0].leaves[1:]), "they go on with at-least 2 of big"),
    "second leaf dropped": (edited(GOOD, leaves=GOOD.proofs[0].leaves[:1]), "they go on with at-most 1 of big"),
    "no leaf": (edited(GOOD, leaves=()), "the leaves do not cover every case"),
    "no scale": (edited(GOOD, scale=0), "leaf 1 of 2: its scale is 0"),
    "scale changed": (edited(GOOD, place=1, scale=2), "prove 1, not 2"),
    "numerator up": (edited(GOOD, numerator=1002), "its numerator is 1,002, recomputed 1,001"),
    "dual up": (edited(GOOD, duals=(dual(DEMAND, "m", 2),)), "recomputed 4,001"),
    "dual and numerator up": (
        edited(GOOD, place=1, decisions=(at_least(2, groups=["big"], amount=2),), numerator=4),
        "leaf 2 of 2: the allowance of a GPU big is -1"),
    "allowance short by one": (
        edited(GOOD, decisions=(at_most(1, groups=["big"], amount=1998),), numerator=1002),
        "m@big, m@big on one big are worth 2,000, its allowance is 1,999"),
    "negative dual": (edited(GOOD, duals=(dual(DEMAND, "m", -1),)), "a dual is -1"),
    "negative dual of a decision": (
        edited(GOOD, decisions=(at_most(1, groups=["big"], amount=-1),)), "a dual is -1"),
    "unknown model": (edited(GOOD, duals=(dual(DEMAND, "x", 1),)), "row demand of 'x' names no model"),
    "unknown group": (edited(GOOD, duals=(dual(STOCK, "x", 1),)), "row stock of 'x' names no group"),
    "unknown objective": (edited(GOOD, duals=(dual(FIXED, "x", 1),)), "row fixed of 'x' names none of"),
    "own objective": (edited(GOOD, duals=(dual(FIXED, "gpus", 1),)), "row fixed of 'gpus' names none of"),
    "later objective": (edited(GOOD, duals=(dual(FIXED, "balance", 1),)), "row fixed of 'balance' names none of"),
    "divisor 0": (edited(GOOD, duals=(dual(DEMAND, "m", 1, divisor=0),)), "has the divisor 0"),
    "divisor of a stock": (edited(GOOD, duals=(dual(STOCK, "big", 1, divisor=2),)), "has no divisor"),
    "no maximum": (edited(GOOD, duals=(dual(RowKind.REPLICAS_MAX, "m", 1),)), "there is no maximum"),
    "decision on an unknown group": (_cover([at_most(1, groups=["x"])], [at_least(2, groups=["x"])]), "'x', which is"),
    "decision on an unknown option": (
        _cover([at_most(1, options=["x"])], [at_least(2, options=["x"])]), "'x', which is no option"),
    "decision on both": (
        _cover(*([side(v, groups=["big"], options=["m@big"])] for side, v in ((at_most, 1), (at_least, 2)))),
        "either groups of GPUs or options"),
    "a gap between the sides": (_cover([at_most(1, groups=["big"])], [at_least(3, groups=["big"])]), "not cover"),
    "sides of two sums": (_cover([at_most(1, groups=["big"])], [at_least(2, options=["m@big"])]), "not cover"),
    "half of a side": (
        _cover([at_most(1, groups=["big"])], [at_least(2, groups=["big"]), at_most(2, groups=["big"])]),
        "after 1 decisions they go on with at-most 2 of big"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_an_edited_certificate_is_refused(fault: str) -> None:
    assert verify(PAIRS, PLAN, GOOD) == []
    edited_certificate, said = BAD[fault]
    found = verify(PAIRS, PLAN, edited_certificate)
    assert all(violation.rule.value == "certificate" for violation in found)
    assert said in "\n".join(map(str, found))


def test_a_bound_edited_in_both_files_is_refused() -> None:
    for bound in (1, 3):
        raised = replace(GOOD.proofs[0], bound=bound)
        found = _refusals(PAIRS, plan_of(PAIRS, PAIRED, raised), raised)
        assert f"its leaves prove 2, not {bound}" in found


def test_decisions_may_be_nested() -> None:
    two = [at_most(2, groups=["big"])], [at_least(3, groups=["big"])]
    nested = _cover(*([at_most(3, options=["m@big"]), *case] for case in two), [at_least(4, options=["m@big"])])
    assert verify(PAIRS, PLAN, nested) == []


def test_a_bound_that_the_plan_beats_or_does_not_state_is_refused() -> None:
    claims = PLAN.objectives[0]
    worse = replace(PLAN, objectives=(replace(claims, value=1), PLAN.objectives[1]))
    assert "is above the value 1" in str(verify(PAIRS, worse, GOOD)[0])
    for weaker in (None, 1):
        unstated = replace(PLAN, objectives=(replace(claims, bound=weaker), PLAN.objectives[1]))
        assert f"is better than the bound {weaker}" in str(verify(PAIRS, unstated, GOOD)[0])
    silent = replace(PLAN, objectives=(replace(claims, certified_bound=None), PLAN.objectives[1]))
    assert "but plan.json claims none" in str(verify(PAIRS, silent, GOOD)[0])


def _unserved_refusal(subject: Problem, objective: Objective, *duals: RowDual, scale: int = 1) -> str:
    given = Leaf(duals=duals, scale=scale, numerator=0)
    made = Proof(objective=objective, bound=0, leaves=(given,), node_limit=10)
    return _refusals(subject, plan_of(subject, BOTH, made), made)


def test_where_demand_may_stay_unserved_fewer_rows_hold() -> None:
    assert "the divisor 2, but demand may" in _unserved_refusal(ONE_EACH, GPUS, dual(DEMAND, "m", 1, divisor=2))
    assert "a model may have no replica" in _unserved_refusal(ONE_EACH, GPUS, dual(RowKind.REPLICAS_MIN, "m", 1))
    without = replace(ONE_EACH, objectives=(GPUS,))
    assert "does not hold: demand may stay unserved" in _unserved_refusal(without, GPUS, dual(DEMAND, "m", 1))
    # 3,000 mrps x 334 / PPM of a share is worth more than the share costs
    duals = dual(DEMAND, "m", 334), dual(STOCK, "big", 1)
    assert "is worth 1,002,000, but to leave it unserved costs 1,000,000" in _unserved_refusal(
        ONE_EACH, UNSERVED, *duals
    )
    assert "to leave it unserved costs 0" in _unserved_refusal(ONE_EACH, GPUS, dual(DEMAND, "m", 1))


def test_without_a_certificate_nothing_may_be_claimed() -> None:
    assert verify(PAIRS, plan_of(PAIRS, PAIRED), None) == []
    assert "there is no proof of it" in str(verify(PAIRS, PLAN, None)[0])


# Three models, of which two fit on a GPU: resources in fractions would carry 2.4, so a search is needed.
THREE = problem(
    [model(name) for name in "abc"], [option(name, memory_bytes=5) for name in "abc"], fleet=devices(count=2),
)  # fmt: skip
PLACED = on(("a@big", "big/0"), ("b@big", "big/0"), ("c@big", "big/1"))
THREE_ROWS = rows_for(THREE, PLACED, GPUS)
SEARCHED = proof(THREE_ROWS, leaf(THREE_ROWS, 2000, [dual(DEMAND, name, 1) for name in "abc"]))


def test_what_was_proved_is_told_with_its_effort() -> None:
    plan = plan_of(THREE, PLACED, SEARCHED)
    (bound,) = examine(THREE, plan, certificate(THREE, SEARCHED)).proven
    assert (bound.objective, bound.bound, bound.leaves) == (GPUS, 2, 1)
    assert 0 < bound.most_nodes == bound.nodes
    enough = replace(SEARCHED, node_limit=bound.most_nodes)
    assert verify(THREE, plan, certificate(THREE, enough)) == []
    few = replace(SEARCHED, node_limit=bound.most_nodes - 1)
    (violation,) = verify(THREE, plan, certificate(THREE, few))
    assert violation.message.startswith("leaf 1 of 1: not verified: a search of ")
    assert violation.message.endswith("did not settle what one big can carry")


def test_replicas_of_no_use_do_not_count() -> None:
    """Any number of them would fit."""
    subject = problem([model(demand_mrps=3000)], [option(memory_bytes=0, busy_ppm=(0,))], max_per_device=None)
    placed = on(*(("m@big", "big/0"),) * 3)
    rows = rows_for(subject, placed, GPUS)
    made = proof(rows, leaf(rows, 3000, [dual(DEMAND, "m", 1)]))
    assert _refusals(subject, plan_of(subject, placed, made), made) == ""


@pytest.mark.parametrize("pools", [True, False])
def test_what_the_rows_do_not_know_is_never_certified(pools: bool) -> None:
    """Pooled busy time is no sum, and members that stand together may have more replicas than are of use."""
    members = tuple(Member(model=m.name) for m in PAIRS.models[:2])
    ensemble = Ensemble(
        name="e", demand_mrps=(0,) * len(PAIRS.periods), percentile=99, bound_us=None, call_percentile=99,
        serve=Serve.TRITON, members=members,
    )  # fmt: skip
    swings = tuple(replace(o, swing_ppm=(0,) * len(o.busy_ppm)) for o in PAIRS.options)
    subject = replace(PAIRS, options=swings) if pools else replace(PAIRS, ensembles=(ensemble,))
    with pytest.raises(Refused, match="never certified"):
        Prover(Layout(subject, PLAN.placements())).prove(GOOD.proofs[0])
