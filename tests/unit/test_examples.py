"""The files of the examples belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli import run
from planner.domain.plan import Plan, Status
from planner.domain.problem import Problem
from planner.inputs.measure_config import read_measure_config
from planner.inputs.workload import read_workload
from planner.plan_files import read_plan

CPU = Path(__file__).parents[2] / "examples" / "cpu"


def test_the_demo_plans_three_of_the_models_as_the_whole_example_does() -> None:
    every = read_workload(CPU / "workload.yaml").models
    demo = read_workload(CPU / "demo-workload.yaml").models
    assert len(demo) == 3
    assert all(model in every for model in demo)
    assert {model.name for model in every} == {path.stem for path in (CPU / "configs").glob("*.pbtxt")}


def test_slow_models_are_held_to_a_p95_and_the_demo_ends_in_time() -> None:
    for model in read_workload(CPU / "workload.yaml").models:
        rate = max((model.rates_rps or {}).values())
        assert model.percentile == (95 if rate < 50 else 99)
    sweep = read_measure_config(CPU / "measure.yaml")
    assert (sweep.instances, sweep.max_batch_sizes, sweep.open_levels) == ((1, 2), (1, 4), (1, 2, 3))
    assert (sweep.open_of, sweep.budget_s) == ("planned", 240)


EXAMPLES = Path(__file__).parents[2] / "examples"


def solved(name: str, tmp_path: Path, *arguments: str) -> tuple[Problem, Plan]:
    """The example's plan as `planner solve` writes it, and the check has passed it."""
    folder, out = EXAMPLES / name, tmp_path / "plan"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, "-o", str(out), "--time-limit", "20", *arguments]) == 0
    assert run(["check", str(out)]) == 0
    return read_plan(out)


def test_periods_share_a_gpu_where_their_peaks_do_not_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, plan = solved("periods", tmp_path, "--gpus", "2xL4")
    assert (plan.status, plan.summary.gpus_used, problem.periods) == (Status.OPTIMAL, 1, ("day", "night"))
    busy = {r.model: [p.busy for p in r.periods] for r in plan.replicas}
    assert max(map(sum, zip(*busy.values(), strict=True))) <= 0.8 < sum(max(b) for b in busy.values())
    printed = capsys.readouterr().out
    assert "Periods" in printed
    assert "day" in printed
