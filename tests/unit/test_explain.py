from __future__ import annotations

from dataclasses import replace

import pytest

from planner.domain.plan import Plan, Status
from planner.domain.problem import Objective, Problem
from planner.domain.units import PPM
from planner.explain import explain_infeasible, explain_plan
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult
from tests.problems import GIB, devices, kind, model, option, problem, running
from tests.results import plan_of


def _solve(subject: Problem) -> SolveResult:
    return registry.solve(subject, SolveOptions(time_limit_s=10, workers=1), Progress())


def _explained(subject: Problem) -> list[str]:
    assert _solve(subject).status is Status.INFEASIBLE
    return explain_infeasible(subject, _solve)


def test_fleet_counts_the_devices_that_are_missing() -> None:
    subject = problem([model(demand_mrps=3000)], fleet=devices(count=1))
    assert "fleet: 2 more big would be enough, fewer would not" in _explained(subject)


def test_demand_says_how_much_can_be_served() -> None:
    subject = problem([model("vgg19", demand_mrps=300_000)], [option("vgg19", capacity_mrps=252_000)])
    assert "demand: best split: 252 of 300 req/s of vgg19 (84%)" in _explained(subject)


def test_demand_names_some_models_and_counts_the_others() -> None:
    models = [model(f"m{i}", demand_mrps=3000, replicas_min=0) for i in range(7)]
    options = [option(m.name, capacity_mrps=1000) for m in models]
    found = [line for line in _explained(problem(models, options)) if line.startswith("demand: ")]
    assert len(found) == 6
    assert found[-1] == "demand: best split: 2 more models get less than they need"


def test_gpu_memory_says_what_each_device_is_short_of() -> None:
    subject = problem([model()], [option(memory_bytes=8 * GIB)], kinds=[kind(memory_bytes=5 * GIB)])
    assert "gpu-memory: each big is short by 3.0 GiB" in _explained(subject)


@pytest.fixture
def two_on_one() -> Problem:
    """Two models of busy 0.45 each on one device with a threshold of 0.8."""
    options = [option("a", busy_ppm=(450_000,)), option("b", busy_ppm=(450_000,))]
    return problem([model("a"), model("b")], options)


def test_gpu_utilization_says_which_threshold_would_do(two_on_one: Problem) -> None:
    assert "gpu-utilization: a threshold of 0.9 would be enough" in _explained(two_on_one)


def test_a_rule_that_does_not_help_is_named_too(two_on_one: Problem) -> None:
    assert _explained(two_on_one)[-1] == "not enough to relax alone: gpu-memory, one-replica"


def test_latency_is_relaxed_for_all_at_once() -> None:
    options = [option("a", tolerance_ppm=50_000), option("b")]
    text = "latency: without latency bounds there would be a plan: looser ones, or calibration, may give one"
    assert text in _explained(problem([model("a"), model("b")], options))


def test_replicas_minimum_beyond_the_fleet() -> None:
    found = _explained(problem([model(replicas_min=2)]))
    assert "replicas: without the minimum and maximum numbers of replicas there would be a plan" in found


def test_what_was_not_found_is_not_called_proven(two_on_one: Problem) -> None:
    def never(subject: Problem) -> SolveResult:
        return SolveResult(status=Status.NOT_FOUND, solver="none", placements=None, bounds=(), runtime_s=0.0)

    found = explain_infeasible(two_on_one, never)
    assert [text.partition(":")[0] for text in found] == ["not known in time whether relaxing it alone would be enough"]


def test_explain_plan_names_the_rule_that_binds() -> None:
    subject = problem([model()], [option(memory_bytes=12)])
    lines = explain_plan(subject, _plan(subject))
    assert lines[0] == "gpus: 1, proven to be the best possible (area)"
    assert lines[1] == "gpu-memory: big/0: 12 B of 12 B (100%)"
    assert lines[-1] == "fleet: every big is used"


def test_explain_plan_says_that_nothing_binds() -> None:
    subject = problem(fleet=devices(count=2))
    assert explain_plan(subject, _plan(subject)) == [
        "gpus: 1, proven to be the best possible (area)",
        "no rule binds on a device: each has slack in memory, busy time and latency",
    ]


def test_explain_plan_says_how_far_the_plan_may_be_from_the_best() -> None:
    subject = problem(fleet=devices(count=2))
    plan = _plan(subject)
    for bound, text in ((0.0, "gpus: 1, no plan does better than 0 (area)"), (None, "gpus: 1, without a proven bound")):
        worse = replace(plan, objectives=(replace(plan.objectives[0], bound=bound),), gap=(None,))
        assert explain_plan(subject, worse)[0] == text


def test_explain_plan_names_what_is_unserved() -> None:
    subject = replace(problem([model(demand_mrps=2 * PPM)]), allow_unserved=True, objectives=(Objective.UNSERVED,))
    assert "demand: m: 1999 req/s unserved, the devices are full" in explain_plan(subject, _plan(subject))


def _plan(subject: Problem) -> Plan:
    return plan_of(subject, _solve(subject))


def test_explain_plan_says_in_which_period_a_rule_binds() -> None:
    options = [option("a", busy_ppm=(700_000, 100_000)), option("b", busy_ppm=(100_000, 300_000))]
    subject = problem([model("a", (1000, 100)), model("b", (300, 1000))], options, periods=("day", "night"))
    assert "gpu-utilization: big/0: 0.8 of 0.8 busy share (100%) in period day" in explain_plan(subject, _plan(subject))


def test_moves_says_how_many_would_do() -> None:
    options = [option(name, memory_bytes=3) for name in "abc"]
    subject = problem(
        [model(name) for name in "abc"], options, fleet=devices(count=2), current=[running("a", "big/1")], max_moves=1
    )
    assert "moves: 2 moves would be enough, fewer would not" in _explained(subject)
