"""What else could have been, in amounts."""

from __future__ import annotations

from dataclasses import replace

from planner.alternatives import binding_by_gpu, dearest_objective, one_more_gpu, why_here
from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.plan import Plan, Status
from planner.domain.problem import LatencyBasis, Objective, Problem
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult
from tests.problems import devices, kind, model, option, problem
from tests.results import plan_of


def _solve(subject: Problem) -> SolveResult:
    return registry.solve(subject, SolveOptions(time_limit_s=10, workers=1), Progress())


def _never(subject: Problem) -> SolveResult:
    return SolveResult(status=Status.NOT_FOUND, solver="none", placements=None, bounds=(), runtime_s=0.0)


def _plan(subject: Problem) -> Plan:
    return plan_of(subject, _solve(subject))


def _two_types() -> Problem:
    """a and b fit on a cheap device each, or together on a dear one; there is one cheap device."""
    kinds = [kind("big", cost_microusd_per_hour=3_000_000), kind("small", cost_microusd_per_hour=1_000_000)]
    options = [option(name, k.name, memory_bytes=6 if k.name == "big" else 12) for name in "ab" for k in kinds]
    fleet = [*devices("big", 2), *devices("small")]
    return problem([model("a"), model("b")], options, kinds=kinds, fleet=fleet, objectives=(Objective.COST,))


def test_rules_are_counted_by_gpu() -> None:
    options = [option("a", memory_bytes=12), option("b", memory_bytes=6, busy_ppm=(990_000,))]
    subject = problem([model("a"), model("b")], options, fleet=devices(count=3))
    assert sorted(binding_by_gpu(subject, _plan(subject))) == [
        "gpu-memory binds on 1 of 2 GPUs in use", "gpu-utilization binds on 1 of 2 GPUs in use",
    ]  # fmt: skip
    loose = problem(fleet=devices(count=2))
    assert list(binding_by_gpu(loose, _plan(loose))) == []


def test_one_more_gpu_of_each_type() -> None:
    subject = _two_types()
    plan = _plan(subject)
    assert list(one_more_gpu(subject, plan, _solve)) == [
        "one more big: nothing, 1 of 2 stand empty", "one more small: nothing, 1 of 1 stand empty",
    ]  # fmt: skip
    dearer = replace(subject, kinds=(replace(subject.kinds[0], cost_microusd_per_hour=3_500_000), subject.kinds[1]),
                     options=tuple(replace(o, memory_bytes=12) for o in subject.options))  # fmt: skip
    assert list(one_more_gpu(dearer, _plan(dearer), _solve)) == [
        "one more big: nothing, 1 of 2 stand empty", "one more small: cost 4.5 -> 2",
    ]  # fmt: skip
    assert list(one_more_gpu(dearer, _plan(dearer), _never))[1] == "one more small: not known in time"


def test_one_more_gpu_has_all_slices_of_its_like() -> None:
    fleet = [replace(d, id=f"n/0/{i}", gpu="n/0") for i, d in enumerate(devices(count=2))]
    subject = problem([model(demand_mrps=2000)], fleet=fleet, objectives=(Objective.THROUGHPUT,))
    assert list(one_more_gpu(subject, _plan(subject), _solve)) == ["one more big: throughput 1 -> 2"]


def _bounded(**changes: object) -> Problem:
    """a bears nobody beside it within its bound."""
    curve = (CurvePoint(1000, 900), CurvePoint(3000, 950))
    options = [
        option("a", tolerance_ppm=0, max_others=0, curve=curve, latency_basis=LatencyBasis.OPEN),
        option("b", curve=(CurvePoint(3000, 100),), latency_basis=LatencyBasis.OPEN),
    ]
    models = [model("a", latency_bound_us=1000), model("b", latency_bound_us=1000)]
    return problem(models, options, fleet=devices(count=2), **changes)  # type: ignore[arg-type]


def test_the_dearest_objective_is_the_one_whose_absence_saves_most() -> None:
    subject = _bounded()
    (line,) = dearest_objective(subject, _plan(subject), _solve)
    assert line == "the most expensive latency objective is a's p99 of 1 ms; without it: gpus 2 -> 1"


def test_objectives_that_cost_nothing_or_are_not_known() -> None:
    subject = problem(models=[model(latency_bound_us=1000)],
                      options=[option(curve=(CurvePoint(3000, 100),), latency_basis=LatencyBasis.OPEN)])  # fmt: skip
    none = "no single latency objective costs anything, as far as was found"
    assert list(dearest_objective(subject, _plan(subject), _solve)) == [none]
    assert list(dearest_objective(subject, _plan(subject), _never)) == [
        none, "not known in time for 1 latency objective",
    ]  # fmt: skip
    assert list(dearest_objective(problem(), _plan(problem()), _solve)) == []


def test_an_ensembles_bound_may_be_the_dearest() -> None:
    ensemble = Ensemble(
        name="e", demand_mrps=(1000,), percentile=95, bound_us=1000, call_percentile=99, serve=Serve.CLIENT,
        members=(Member(model="a"), Member(model="b")), edges=(("a", "b"),),
    )  # fmt: skip
    options = [
        option(name, id=f"{name}{n}", max_others=n, promises=(Promise(percentile=99, latency_us=300 + 400 * n),))
        for name in "ab" for n in (0, 1)
    ]  # fmt: skip
    subject = problem([model("a"), model("b")], options, fleet=devices(count=2), ensembles=[ensemble])
    (line,) = dearest_objective(subject, _plan(subject), _solve)
    assert line == "the most expensive latency objective is e's p95 of 1 ms; without it: gpus 2 -> 1"


def test_the_next_best_place_and_what_it_costs() -> None:
    subject = _two_types()
    lines = list(why_here(subject, _plan(subject), "a", _solve))
    assert lines == [
        "a-1 is on big/0, a big, beside b",
        "  next best place: small/0, a small, alone: cost 3 -> 4",
        "no replica of a on big at all: cost 3 -> 4",
    ]


def test_where_it_may_not_be_and_by_which_rule() -> None:
    subject = _bounded()
    lines = list(why_here(subject, _plan(subject), "a", _solve))
    assert lines[0] == "a-1 is on big/0, a big, alone"
    assert lines[1:] == [
        "  nowhere else, with the rest as it is: latency (1)",
        "no replica of a on big at all: there is no configuration of it for any other type",
    ]
    assert list(why_here(replace(subject, allow_unserved=True), replace(_plan(subject), replicas=()), "a", _solve)) == [
        "a has no replica in this plan"
    ]
