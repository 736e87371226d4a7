"""Each rule between devices alone: the check finds it broken, and without it every solver would break it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.domain.check import check_placements
from planner.domain.codec import to_json
from planner.domain.plan import Placement
from planner.domain.problem import Device, Problem, problem_from_json
from planner.domain.rules import Rule
from planner.domain.topology import Domain, FleetLimit, Node, Pin, Spread, Survival
from planner.domain.units import PPM
from planner.errors import InputError
from planner.explain import explain_infeasible
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult
from solvers.reduction import Reduction
from tests.problems import kind, model, option, problem

QUICK = SolveOptions(time_limit_s=5, workers=1)
# Two GPUs on n1, one on n2, one on n3; n1 and n2 are in one rack.
GPUS = ("n1/0", "n1/1", "n2/0", "n3/0")
NODES = (Node(name="n1", rack="r1"), Node(name="n2", rack="r1"), Node(name="n3", rack="r2"))


def four_gpus(**changes: object) -> Problem:
    """Models a and b, each served by one replica, and both fit on one GPU."""
    fleet = [Device(id=gpu, gpu=gpu, kind="big") for gpu in GPUS]
    values: dict[str, object] = {"nodes": NODES, "fleet": fleet}
    return problem(
        [model("a"), model("b")],
        [option("a"), option("b")],
        kinds=[kind(power_milliwatts=100)],
        **(values | changes),  # type: ignore[arg-type]
    )


def with_a(subject: Problem, **changes: object) -> Problem:
    a, *others = subject.models
    return replace(subject, models=(replace(a, **changes), *others))  # type: ignore[arg-type]


def survived(domain: Domain, share: float = 1.0) -> Problem:
    return four_gpus(survives=(Survival(domain=domain, share_ppm=round(share * PPM), models=("a",)),))


def hosts(memory: int | None = None, cpu: int | None = None) -> tuple[Node, ...]:
    return tuple(replace(node, host_memory_bytes=memory, host_cpu_millis=cpu) for node in NODES)


BOTH_ON_ONE = ("a n1/0", "b n1/0")
# Per case: the rule, a problem with it alone, a plan that breaks it in nothing else, and the fewest GPUs of one that
# keeps it: the plan would be as good as any without the rule.
CASES: dict[str, tuple[Rule, Problem, tuple[str, ...], int]] = {
    "two nodes": (Rule.SPREAD, with_a(four_gpus(), spread=(Spread(over=Domain.NODE, at_least=2),)), BOTH_ON_ONE, 2),
    "two racks": (
        Rule.SPREAD,
        with_a(four_gpus(), spread=(Spread(over=Domain.RACK, at_least=2),)),
        ("a n1/0", "a n2/0", "b n1/0"),
        2,
    ),
    "one of a node at most": (
        Rule.SPREAD,
        with_a(four_gpus(), replicas_min=3, spread=(Spread(over=Domain.NODE, at_most_each=1),)),
        ("a n1/0", "a n1/1", "a n2/0", "b n1/0"),
        3,
    ),
    "any gpu": (Rule.SURVIVES, survived(Domain.GPU), BOTH_ON_ONE, 2),
    "any node": (Rule.SURVIVES, survived(Domain.NODE), ("a n1/0", "a n1/1", "b n1/0"), 2),
    "a third of any rack": (Rule.SURVIVES, survived(Domain.RACK, 0.3), ("a n1/0", "a n2/0", "b n1/0"), 2),
    "rivals": (Rule.CONFLICT, four_gpus(conflict=(("a", "b"),)), BOTH_ON_ONE, 2),
    "partners": (
        Rule.TOGETHER,
        with_a(four_gpus(together=(("a", "b"),)), demand_mrps=(2000,), rate_mrps=(2000,)),
        ("a n1/0", "a n1/1", "b n1/0"),
        2,
    ),
    "a pin": (Rule.PINNED, four_gpus(pinned=(Pin(model="a", gpu="n3/0"),)), BOTH_ON_ONE, 1),
    "two pins": (Rule.PINNED, four_gpus(pinned=(Pin(model="a", gpu="n3/0"), Pin(model="b", gpu="n2/0"))),
                 ("a n3/0", "b n3/0"), 2),
    "host memory": (Rule.HOST_MEMORY, replace(with_a(four_gpus(), host_memory_bytes=3, replicas_min=2),
                                              nodes=hosts(memory=5)), ("a n1/0", "a n1/1", "b n1/0"), 2),
    "host cpu": (Rule.HOST_CPU, replace(with_a(four_gpus(), host_cpu_millis=3, replicas_min=2), nodes=hosts(cpu=5)),
                 ("a n1/0", "a n1/1", "b n1/0"), 2),
    "power of a node": (
        Rule.FLEET,
        with_a(four_gpus(limits=(FleetLimit(scope=Domain.NODE, power_milliwatts=199),)), replicas_min=2),
        ("a n1/0", "a n1/1", "b n1/0"),
        2,
    ),
    "power of a rack": (
        Rule.FLEET,
        with_a(four_gpus(limits=(FleetLimit(scope=Domain.RACK, name="r1", power_milliwatts=199),)), replicas_min=2),
        ("a n1/0", "a n2/0", "b n1/0"),
        2,
    ),
}  # fmt: skip


def placements(plan: tuple[str, ...]) -> tuple[Placement, ...]:
    pairs = [text.split() for text in plan]
    return tuple(Placement(replica=f"r{i}", option=f"{m}@big", device=d) for i, (m, d) in enumerate(pairs))


@pytest.mark.parametrize("name", CASES)
def test_check_finds_the_planted_violation_and_nothing_else(name: str) -> None:
    rule, subject, broken, _ = CASES[name]
    assert {v.rule for v in check_placements(subject, placements(broken))} == {rule}


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize("name", CASES)
def test_every_solver_keeps_it(solver: str, name: str) -> None:
    """No better plan than with the rule, and the registry has checked it."""
    _, subject, _, gpus = CASES[name]
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert result.placements is not None
    assert len({p.device for p in result.placements}) == gpus
    assert result.bounds[0].value is not None
    assert result.bounds[0].value <= gpus


def test_a_budget_of_the_fleet_binds() -> None:
    limits = (FleetLimit(scope=Domain.FLEET, cost_microusd_per_hour=2_999_999),)
    subject = with_a(four_gpus(limits=limits), replicas_min=3)
    assert registry.solve(subject, QUICK, Progress(), name="cpsat").status == "infeasible"
    assert registry.solve(subject, QUICK, Progress(), name="greedy").placements is None


def test_gpus_that_a_rule_tells_apart_are_not_alike() -> None:
    def groups(subject: Problem) -> list[list[str]]:
        return [[gpu[0].gpu for gpu in group.gpus] for group in Reduction(subject).groups]

    assert groups(four_gpus()) == [list(GPUS)]
    assert groups(survived(Domain.GPU)) == [list(GPUS)]
    assert groups(survived(Domain.NODE)) == [["n1/0", "n1/1"], ["n2/0"], ["n3/0"]]
    assert groups(survived(Domain.RACK)) == [["n1/0", "n1/1", "n2/0"], ["n3/0"]]
    assert groups(four_gpus(pinned=(Pin(model="a", gpu="n1/1"),))) == [["n1/0", "n2/0", "n3/0"], ["n1/1"]]


def test_with_unserved_demand_a_model_may_be_left_out_as_a_whole() -> None:
    subject = replace(survived(Domain.NODE), devices=(Device(id="n1/0", gpu="n1/0", kind="big"),), allow_unserved=True)
    assert check_placements(subject, placements(("b n1/0",))) == []
    assert {v.rule for v in check_placements(subject, placements(BOTH_ON_ONE))} == {Rule.SURVIVES}


def _answer(subject: Problem) -> SolveResult:
    return registry.solve(subject, QUICK, Progress(), name="cpsat")


ONE_NODE = tuple(Device(id=f"n1/{i}", gpu=f"n1/{i}", kind="big") for i in range(2))
INFEASIBLE: dict[str, tuple[Problem, str]] = {
    "spread": (
        with_a(four_gpus(fleet=ONE_NODE), spread=(Spread(over=Domain.NODE, at_least=2),)),
        "spread: without it there would be a plan, which misses it by a: on 1 node, at least 2 are asked for",
    ),
    "survives": (
        replace(with_a(survived(Domain.GPU), replicas_max=1), devices=ONE_NODE),
        "survives: a share of 0 can be survived",
    ),
    "more GPUs": (
        with_a(four_gpus(fleet=ONE_NODE), spread=(Spread(over=Domain.NODE, at_least=2),)),
        "fleet: 1 more big on nodes and in racks of their own would be enough, fewer would not",
    ),
    "conflict": (
        replace(four_gpus(conflict=(("a", "b"),)), devices=ONE_NODE[:1]),
        "conflict: without it there would be a plan, which misses it by n1/0: carries both 'a' and 'b'",
    ),
    "host-memory": (
        replace(with_a(four_gpus(), host_memory_bytes=7), nodes=hosts(memory=5)),
        "host-memory: each node is short by 2 B",
    ),
    "host-cpu": (
        replace(with_a(four_gpus(), host_cpu_millis=2500), nodes=hosts(cpu=1000)),
        "host-cpu: each node is short by 1.5 cores",
    ),
    "power": (
        four_gpus(limits=(FleetLimit(scope=Domain.FLEET, power_milliwatts=50),)),
        "fleet: limits of power are short by 1 W",
    ),
}


@pytest.mark.parametrize("name", INFEASIBLE)
def test_infeasible_is_explained_in_amounts(name: str) -> None:
    subject, sentence = INFEASIBLE[name]
    assert _answer(subject).status == "infeasible"
    assert sentence in explain_infeasible(subject, _answer)


def test_problem_files_without_the_rules_keep_their_digest_and_those_with_them_are_read_back() -> None:
    _, subject, _, _ = CASES["two racks"]
    assert problem_from_json(to_json(subject), "problem.json") == subject
    plain = to_json(problem())
    assert not {"nodes", "conflict", "together", "pinned", "survives", "limits"} & set(plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conflict": (("a", "x"),)}, "conflict: unknown model 'x'"),
        ({"together": (("a", "a"),)}, "together: needs two models, got 'a' twice"),
        ({"pinned": (Pin(model="a", gpu="n9/0"),)}, "pinned: model 'a': unknown gpu 'n9/0'"),
        ({"survives": (Survival(domain=Domain.ZONE, share_ppm=PPM, models=("a",)),)}, "node 'n1' has no zone"),
        ({"limits": (FleetLimit(scope=Domain.RACK, name="r9", power_milliwatts=1),)}, "unknown rack 'r9'"),
    ],
)
def test_rules_about_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        four_gpus(**changes)
