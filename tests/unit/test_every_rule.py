"""Each rule by its name: a problem with it alone and the same without. A plan made without it is found to break it and
nothing else, and every solver does worse with it, or finds no plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from planner.domain.check import check_placements
from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.plan import Status
from planner.domain.problem import Device, Objective, Problem
from planner.domain.rules import RULES, Rule
from planner.domain.topology import Domain, Node, Pin, Spread, Survival
from planner.domain.units import PPM
from solvers import registry
from solvers.base import Progress, SolveOptions
from tests.brute_force import objective_key
from tests.mig_problems import SLICES, fixed_gpu, free_gpu, slice_kind
from tests.problems import devices, kind, model, option, problem, running

# Two on one node, one on another.
GPUS = ("n1/0", "n1/1", "n2/0")
# These are about a plan's file and its certificate: test_check_faults.py and test_proof.py.
NOT_OF_A_PROBLEM = (Rule.PLAN_FILE, Rule.CERTIFICATE)


def pair(**changes: object) -> Problem:
    """Models a and b on three GPUs; without any rule both are on the first one."""
    values: dict[str, object] = {
        "models": [model("a"), model("b")],
        "options": [option("a"), option("b")],
        "fleet": [Device(id=gpu, gpu=gpu, kind="big") for gpu in GPUS],
        "nodes": (Node(name="n1"), Node(name="n2")),
    }
    return problem(**(values | changes))  # type: ignore[arg-type]


def with_a(subject: Problem, **changes: object) -> Problem:
    a, *others = subject.models
    return replace(subject, models=(replace(a, **changes), *others))  # type: ignore[arg-type]


def crowded(**hosts: int) -> Problem:
    """Two replicas of a, which each take 3 of their node's memory and CPU."""
    subject = with_a(pair(), replicas_min=2, host_memory_bytes=3, host_cpu_millis=3)
    return replace(subject, nodes=tuple(replace(node, **hosts) for node in subject.nodes))


def typed(*allowed: str) -> Problem:
    kinds = [kind("big", cost_microusd_per_hour=1), kind("small", cost_microusd_per_hour=2)]
    options = [option("m", name) for name in ("big", "small")]
    fleet = [*devices("big"), *devices("small")]
    return problem([model(allowed_gpu=allowed)], options, kinds=kinds, fleet=fleet, objectives=[Objective.COST])


def split(compute: int) -> Problem:
    """Each model needs a slice of two compute slices; a GPU has room for two of them in its memory."""
    mig = replace(SLICES["2g"], gpu_compute=compute)
    options = [option(name, "split/2g") for name in "ab"]
    fleet = [*fixed_gpu(0, ("2g", 0), ("2g", 2)), *free_gpu(1, ["2g"], whole=False)]
    return problem([model("a"), model("b")], options, kinds=[slice_kind("2g", mig=mig, memory_bytes=7)], fleet=fleet)


def chained(bound_us: int | None = None, serve: Serve = Serve.CLIENT, **changes: object) -> Problem:
    """a calls b; each is quick alone and slow beside the other."""
    ensemble = Ensemble(
        name="e", demand_mrps=(1000,), percentile=95, bound_us=bound_us, call_percentile=99, serve=serve,
        members=(Member(model="a"), Member(model="b")), edges=(("a", "b"),),
    )  # fmt: skip
    curve = (CurvePoint(1000, 300), CurvePoint(3000, 350))
    options = [
        option(name, id=f"{name}{n}", tolerance_ppm=n * 500_000, max_others=n, memory_bytes=4,
               promises=(Promise(percentile=99, latency_us=300 + 400 * n, curve=curve),))
        for name in "ab" for n in (0, 1)
    ]  # fmt: skip
    return pair(options=options, ensembles=[ensemble], **changes)


def moving(most: int | None) -> Problem:
    return pair(current=(running("a", "n1/0"), running("b", "n1/1")), max_moves=most)


def one_kind(**changes: object) -> Problem:
    return pair(kinds=[kind(**changes)])


def survived(share: float) -> tuple[Survival, ...]:
    return (Survival(domain=Domain.NODE, share_ppm=round(share * PPM), models=("a",)),)


busy = [option("a", busy_ppm=(500_000,)), option("b", busy_ppm=(500_000,))]
two_and_one = [model("a", replicas_min=2), model("b", replicas_max=1)]
doubled = [model(demand_mrps=2000)]
# Per rule: the problem with it, and without it.
CASES: dict[Rule, Callable[[], tuple[Problem, Problem]]] = {
    Rule.GPU_MEMORY: lambda: (one_kind(memory_bytes=7), one_kind(memory_bytes=8)),
    Rule.GPU_UTILIZATION: lambda: (pair(options=busy), pair(options=busy, kinds=[kind(utilization_ppm=PPM)])),
    Rule.LATENCY: lambda: (pair(options=[option("a", tolerance_ppm=0), option("b")]), pair()),
    Rule.ONE_REPLICA: lambda: (
        problem(doubled, fleet=devices(count=2)), problem(doubled, fleet=devices(count=2), max_per_device=None)),
    Rule.DEMAND: lambda: (problem(doubled, fleet=devices(count=2)), problem(fleet=devices(count=2))),
    Rule.REPLICAS: lambda: (with_a(pair(), replicas_min=2), pair()),
    Rule.ALLOWED_GPU: lambda: (typed("small"), typed()),
    Rule.MIG_LAYOUT: lambda: (split(compute=3), split(compute=4)),
    Rule.ENSEMBLE_LATENCY: lambda: (chained(bound_us=1000), chained()),
    Rule.ENSEMBLE_SERVERS: lambda: (chained(serve=Serve.TRITON, models=two_and_one), chained(models=two_and_one)),
    Rule.SPREAD: lambda: (with_a(pair(), spread=(Spread(over=Domain.NODE, at_least=2),)), pair()),
    Rule.SURVIVES: lambda: (pair(survives=survived(1.0)), pair()),
    Rule.CONFLICT: lambda: (pair(conflict=(("a", "b"),)), pair()),
    Rule.TOGETHER: lambda: (pair(models=two_and_one, together=(("a", "b"),)), pair(models=two_and_one)),
    Rule.PINNED: lambda: (
        pair(pinned=(Pin(model="a", gpu="n1/0"), Pin(model="b", gpu="n2/0"))), pair()),
    Rule.HOST_MEMORY: lambda: (crowded(host_memory_bytes=2), crowded()),
    Rule.HOST_CPU: lambda: (crowded(host_cpu_millis=2), crowded()),
    Rule.FLEET: lambda: (
        problem(fleet=[replace(devices()[0], cordoned=True)]), problem()),
    Rule.MOVES: lambda: (moving(0), moving(None)),
}  # fmt: skip
QUICK = SolveOptions(time_limit_s=5, workers=1)


def test_every_rule_has_its_problem() -> None:
    assert {*CASES, *NOT_OF_A_PROBLEM} == set(Rule)
    assert len(RULES) == len(CASES)


@pytest.mark.parametrize("rule", CASES)
def test_a_plan_made_without_the_rule_breaks_it_and_nothing_else(rule: Rule) -> None:
    subject, without = CASES[rule]()
    found = registry.solve(without, QUICK, Progress(), name="cpsat")
    assert found.placements is not None
    assert {violation.rule for violation in check_placements(subject, found.placements)} == {rule}


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize("rule", CASES)
def test_the_rule_bites(rule: Rule, solver: str) -> None:
    subject, without = CASES[rule]()
    free = registry.solve(without, QUICK, Progress(), name="cpsat")
    found = registry.solve(subject, QUICK, Progress(), name=solver)
    assert free.placements is not None
    if found.placements is None:
        assert found.status in (Status.INFEASIBLE, Status.NOT_FOUND)
    else:
        assert objective_key(subject, found.placements) > objective_key(without, free.placements)
