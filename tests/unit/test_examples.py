"""The files of the examples belong together."""

from __future__ import annotations

from pathlib import Path

from planner.inputs.measure_config import read_measure_config
from planner.inputs.workload import read_workload

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
