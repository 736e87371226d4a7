"""Large problems with rules between devices: what these imply, GPUs for columns, and mending, each on its own."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from planner.domain.check import check_placements
from planner.domain.conflicts import exclusive_groups
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value
from planner.domain.problem import Device, Objective, Problem
from planner.domain.relaxation import without_sites
from planner.domain.rules import Rule
from planner.domain.topology import Domain, FleetLimit, Node, Pin, Spread, Survival
from solvers import registry
from solvers.base import Progress, SolveOptions
from solvers.columns.column import Column
from solvers.columns.instance import Instance
from solvers.columns.seating import seated
from solvers.greedy import PRICES
from solvers.mending import Mender
from solvers.packing import Sizes
from solvers.reduction import Reduction, name_placements
from solvers.sited import SitedPacking
from tests.problems import devices, kind, model, option, problem
from tests.results import violations_of_proofs


def fleet_of(nodes: int, gpus_each: int, kinds: int = 1) -> tuple[Device, ...]:
    return tuple(
        Device(id=f"n{n}/{g}", gpu=f"n{n}/{g}", kind=f"t{n % kinds}") for n in range(nodes) for g in range(gpus_each)
    )


def mid_size(models: int = 24, nodes: int = 24) -> Problem:
    """Every rule between devices at once: 24 models of about 8 replicas, two GPU types, six racks."""
    rng = random.Random(3)
    kinds = [
        kind(f"t{i}", memory_bytes=80_000 + 16_000 * i, cost_microusd_per_hour=1_000_000 + 500_000 * i)
        for i in range(2)
    ]
    fleet = fleet_of(nodes, 4, 2)
    names = [f"m{i}" for i in range(models)]
    made, options = [], []
    for i, name in enumerate(names):
        spread = (Spread(over=Domain.RACK, at_least=3),) if i % 3 == 0 else ()
        made.append(model(name, rng.randint(6, 10) * 1000, host_memory_bytes=rng.randint(1, 10), spread=spread))
        memory, busy = rng.randint(2_000, 20_000), rng.randint(30, 180) * 1000
        options += [option(name, k.name, memory_bytes=memory, busy_ppm=(busy,)) for k in kinds]
    return problem(
        made,
        options,
        kinds=kinds,
        fleet=fleet,
        objectives=(Objective.COST, Objective.GPUS),
        nodes=tuple(Node(name=f"n{n}", rack=f"r{n % 6}", host_memory_bytes=150) for n in range(nodes)),
        survives=(Survival(domain=Domain.NODE, share_ppm=700_000, models=tuple(names)),),
        conflict=(("m0", "m1"), ("m2", "m3")),
        pinned=(Pin(model="m4", gpu="n0/0"), Pin(model="m5", gpu="n3/1")),
        limits=(FleetLimit(scope=Domain.RACK, power_milliwatts=16 * 300_000),),
    )


@pytest.mark.parametrize(
    ("domains", "share_ppm", "demand", "replicas"),
    [(2, 1_000_000, 8000, 8), (5, 1_000_000, 5000, 5), (5, 500_000, 4000, 3), (1, 1_000_000, 4000, 1)],
)
def test_survival_implies_capacity_and_replicas(domains: int, share_ppm: int, demand: int, replicas: int) -> None:
    subject = problem(
        [model("m", 4000)],
        [option("m", "t0", capacity_mrps=1000)],
        kinds=[kind("t0")],
        fleet=fleet_of(domains, 4),
        survives=(Survival(domain=Domain.NODE, share_ppm=share_ppm, models=("m",)),),
    )
    (asked,) = without_sites(subject).models
    assert (asked.peak_mrps, asked.replicas_min) == (demand, replicas)


def test_pins_and_spread_imply_replicas_and_nothing_where_a_model_may_be_left_out() -> None:
    subject = problem(
        [model("m", 1000, spread=(Spread(over=Domain.NODE, at_least=2),))],
        [option("m", "t0")],
        kinds=[kind("t0")],
        fleet=fleet_of(3, 2),
        pinned=tuple(Pin(model="m", gpu=gpu) for gpu in ("n0/0", "n0/1", "n1/0")),
    )
    assert without_sites(subject).models[0].replicas_min == 3
    assert without_sites(replace(subject, pinned=())).models[0].replicas_min == 2
    optional = replace(subject, allow_unserved=True, objectives=(Objective.UNSERVED, Objective.GPUS))
    assert without_sites(optional).models[0].replicas_min == 1


def test_contents_that_share_a_model_find_different_nodes_and_pins_their_gpus() -> None:
    """Four GPUs with the same model on four nodes, though each node has room for all; one of them is pinned."""
    subject = problem(
        [model("m", 4000), model("other", 2000)],
        [option("m", "t0"), option("other", "t0")],
        kinds=[kind("t0")],
        fleet=fleet_of(4, 4),
        nodes=tuple(Node(name=f"n{n}", rack=f"r{n}") for n in range(4)),
        survives=(Survival(domain=Domain.NODE, share_ppm=750_000, models=("m",)),),
        pinned=(Pin(model="other", gpu="n2/3"),),
    )
    instance = Instance(Reduction(without_sites(subject)))
    columns = [Column(0, ((0,),)), Column(0, ((0,),)), Column(0, ((0, 1),)), Column(0, ((0, 1),))]
    pairs = seated(instance, subject, columns, time.monotonic() + 5)
    assert check_placements(subject, name_placements(subject, [(o, (device,)) for o, device in pairs])) == []


def test_an_exchange_makes_room_on_both_hosts() -> None:
    """The heaviest first, each where most is left: 5 + 4 and 5 + 3 + 3, of 10 each. Then 4 and 5 change places."""
    memory = {"a": 5, "b": 5, "c": 4, "d": 3, "e": 3}
    subject = problem(
        [model(name, 1000, host_memory_bytes=amount) for name, amount in memory.items()],
        [option(name, "t0", memory_bytes=12) for name in memory],
        kinds=[kind("t0")],
        fleet=fleet_of(2, 3),
        nodes=tuple(Node(name=f"n{n}", host_memory_bytes=10) for n in range(2)),
    )
    instance = Instance(Reduction(without_sites(subject)))
    columns = [Column(0, ((i,),)) for i in range(5)]
    now = time.monotonic()
    alone, exchanged = (
        name_placements(subject, [(o, (device,)) for o, device in seated(instance, subject, columns, until)])
        for until in (now, now + 5)
    )
    assert [violation.rule for violation in check_placements(subject, alone)] == [Rule.HOST_MEMORY]
    assert check_placements(subject, exchanged) == []


def test_mending_makes_a_plan_and_steps_make_it_cheaper() -> None:
    subject = mid_size()
    mender = Mender(Reduction(subject), PRICES[Objective.COST], 0)
    assert mender.mend(())
    first = mender.cost()
    for _ in range(30):
        before = mender.cost()
        assert mender.step() == (mender.cost() < before)
        assert mender.cost() <= before
    assert mender.cost() < first
    assert check_placements(subject, name_placements(subject, mender.pairs())) == []


def test_what_is_undone_leaves_no_trace() -> None:
    subject = mid_size()
    reduction = Reduction(subject)
    sizes = Sizes(reduction, max, price=PRICES[Objective.COST])
    packing = SitedPacking(reduction, sizes, subject.devices)
    assert all(packing.place(m) for m in subject.models)
    before, used = _said(packing), packing.used_gpus()
    models = packing.vacate([*used][::2])
    assert _said(packing) != before
    for name in sorted(models)[1:]:  # one is left out, and its sums with it
        packing.place(subject.model_by_name[name])
    packing.undo()
    assert _said(packing) == before
    packing.vacate([*used][1::2])
    assert all(packing.place(m) for m in subject.models)
    assert check_placements(subject, name_placements(subject, packing.pairs())) == []


def _said(packing: SitedPacking) -> list[tuple[str, str]]:
    return sorted((o.id, device.id) for o, (device,) in packing.pairs())


def test_every_rule_at_once_in_a_problem_of_some_size() -> None:
    """Plan and certificate, within a few percent of each other; without its rules the plan would break them."""
    subject = mid_size()
    options = SolveOptions(time_limit_s=20, iterations=4, workers=1)
    result = registry.solve(subject, options, Progress(), name="columns")
    assert result.placements is not None
    assert violations_of_proofs(subject, result) == []
    value = integer_value(Layout(subject, result.placements), Objective.COST)
    assert result.bounds[0].certified is not None
    assert result.bounds[0].certified * 1e6 <= value <= 1.15 * result.bounds[0].certified * 1e6
    plain = registry.solve(without_sites(subject), options, Progress(), name="columns")
    assert plain.placements is not None
    broken = {violation.rule for violation in check_placements(subject, plain.placements)}
    assert {Rule.SURVIVES, Rule.HOST_MEMORY} & broken


def test_a_certificate_counts_what_the_rules_between_devices_imply() -> None:
    """Two nodes, either of which must be able to serve all: twice the GPUs, proved; and no more than that."""
    subject = problem(
        [model("m", 4000)],
        [option("m", "t0", memory_bytes=12)],
        kinds=[kind("t0")],
        fleet=fleet_of(2, 6),
        survives=(Survival(domain=Domain.NODE, share_ppm=1_000_000, models=("m",)),),
    )
    result = registry.solve(subject, SolveOptions(time_limit_s=10, iterations=2, workers=1), Progress(), name="columns")
    assert result.bounds[0].certified == 8
    assert violations_of_proofs(subject, result) == []
    raised = tuple(replace(proof, bound=proof.bound + 1) for proof in result.proofs)
    assert violations_of_proofs(subject, replace(result, proofs=raised)) != []
    weaker = replace(subject, survives=())
    assert violations_of_proofs(weaker, result) != []


def test_models_in_conflict_form_disjoint_groups_all_of_which_are_in_conflict() -> None:
    pairs = (("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("e", "d"))
    subject = problem([model(n) for n in "abcdef"], [option(n) for n in "abcdef"], conflict=pairs)
    assert exclusive_groups(subject) == {"a": "b", "b": "b", "c": "b", "d": "d", "e": "d", "f": "f"}
    several = replace(subject, max_per_device=2)
    assert all(name == group for name, group in exclusive_groups(several).items())


def test_conflicts_count_in_columns_and_certificates() -> None:
    """Halves of a GPU, that go together by two unless they are in conflict: six of three models fill two GPUs each."""
    pairs = (("a", "b"), ("b", "c"), ("a", "c"))
    subject = problem(
        [model(name, 2000) for name in "abcd"],
        [option(name, "t0", memory_bytes=6) for name in "abcd"],
        kinds=[kind("t0")],
        fleet=fleet_of(3, 4),
        conflict=pairs,
    )
    result = registry.solve(subject, SolveOptions(time_limit_s=10, iterations=2, workers=1), Progress(), name="columns")
    assert result.bounds[0].certified == 6
    assert violations_of_proofs(subject, result) == []
    assert violations_of_proofs(replace(subject, conflict=pairs[:1]), result) != []


def test_a_pinned_gpu_that_costs_more_than_others_is_filled_too() -> None:
    """Twelve halves: five cheap GPUs and the dear one, not six and one more for the pinned replica alone."""
    kinds = [kind("t0"), kind("t1", cost_microusd_per_hour=2_000_000)]
    subject = problem(
        [model(name, 3000) for name in "abcd"],
        [option(name, k.name, memory_bytes=6) for name in "abcd" for k in kinds],
        kinds=kinds,
        fleet=fleet_of(2, 8, 2),
        objectives=(Objective.COST,),
        pinned=(Pin(model="a", gpu="n1/0"),),
    )
    result = registry.solve(subject, SolveOptions(time_limit_s=10, iterations=3, workers=1), Progress(), name="columns")
    assert result.placements is not None
    assert integer_value(Layout(subject, result.placements), Objective.COST) == 7_000_000


def test_cordoned_gpus_and_domains_that_no_option_can_use_do_not_help_to_survive() -> None:
    fleet = [*fleet_of(2, 4), *devices("t1", 4), replace(fleet_of(3, 1)[2], cordoned=True)]
    subject = problem(
        [model("m", 1000)],
        [option("m", "t0")],
        kinds=[kind("t0"), kind("t1")],
        fleet=fleet,
        survives=(Survival(domain=Domain.NODE, share_ppm=1_000_000, models=("m",)),),
    )
    assert without_sites(subject).models[0].peak_mrps == 2000
