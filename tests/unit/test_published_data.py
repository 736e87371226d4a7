"""Planning with data of others: examples/a100 follows from what was published, a checkpoint gives a plan."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from shared_data import REPOSITORY, shared_file

from planner.build import BuildSettings, build
from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Status
from planner.domain.problem import Problem, Settings
from planner.domain.profile import ProfileRow
from planner.domain.workload import ModelDemand, Workload
from planner.inputs.fleet import fleet_from_counts
from planner.inputs.model_analyzer import read_checkpoint
from planner.inputs.profiles_csv import read_profiles
from planner.inputs.workload import read_workload

EXAMPLE = REPOSITORY / "examples" / "a100"


def problem_of(workload: Workload, gpus: str, rows: Sequence[ProfileRow]) -> Problem:
    fleet, _ = fleet_from_counts([gpus])
    built = build(workload, fleet, rows, BuildSettings(settings=Settings()))
    assert built.without_option == ()
    return built.problem


def gpus_used_alone(problem: Problem) -> int:
    """GPUs of a checked plan in which every replica has its own and takes its largest option."""
    free = iter(problem.devices)
    placements: list[Placement] = []
    for model in problem.models:
        best = max((o for o in problem.options if o.model == model.name), key=lambda o: o.capacity_mrps)
        for _ in range(-(-model.peak_mrps // best.capacity_mrps)):
            placements.append(Placement(replica=f"r{len(placements)}", option=best.id, device=next(free).id))
    bounds = [(None, "none")] * len(problem.objectives)
    origin = Origin(status=Status.FEASIBLE, solver="test", seed=0, runtime_s=0.0, bounds=bounds)
    plan = derive_plan(problem, placements, origin)
    assert check(problem, plan) == []
    return plan.summary.gpus_used


def test_the_rows_of_the_example_follow_from_the_published_data() -> None:
    specification = importlib.util.spec_from_file_location("make_profiles", EXAMPLE / "make_profiles.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    rows = read_profiles(EXAMPLE / "profiles.csv")
    for model in ("resnet50", "vgg19"):
        published: Path = shared_file(f"parvagpu/{model}.csv")
        assert [r for r in rows if r.model == model] == list(script.model_rows(model, published))


def test_the_example_has_a_plan_that_rests_on_estimates() -> None:
    problem = problem_of(read_workload(EXAMPLE / "workload.yaml"), "8xA100", read_profiles(EXAMPLE / "profiles.csv"))
    assert gpus_used_alone(problem) == 2
    assert {option.source.split(":")[0] for option in problem.options} == {"estimated"}
    assert problem.kinds[0].server_base_bytes == 509_000_000


def test_a_checkpoint_can_be_planned_with() -> None:
    """resnet50 at 600 and vgg19 at 300 requests/s within p99 50 ms fit on eight TITAN RTX."""
    rates = {"resnet50_libtorch": 600.0, "vgg19_libtorch": 300.0}
    demands = tuple(ModelDemand(name=m, rates_rps={"all": r}, latency_bound_ms=50) for m, r in rates.items())
    rows = read_checkpoint(shared_file("model_analyzer/resnet50_libtorch/0.ckpt")).rows
    assert gpus_used_alone(problem_of(Workload(models=demands), "8xTITAN-RTX", rows)) == 4
