"""workload.yaml and measure.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.domain.topology import Domain, Pin, Spread
from planner.domain.workload import ModelDemand, Workload
from planner.errors import InputError
from planner.inputs.measure_config import Constraint, MeasureConfig, Product, parse_duration, read_measure_config
from planner.inputs.workload import read_workload

GOLDEN = Path(__file__).parents[1] / "golden"


def read(tmp_path: Path, models: str) -> Workload:
    path = tmp_path / "workload.yaml"
    path.write_text(f"schema_version: 1\nmodels:\n{models}\n")
    return read_workload(path)


def test_version_1_is_still_read() -> None:
    assert read_workload(GOLDEN / "workload-v1.yaml") == Workload(
        models=(
            ModelDemand(
                name="ranker",
                rates_rps={"day": 1200.0, "night": 100.5},
                headroom=0.2,
                latency_bound_ms=25.0,
                replicas_min=2,
                replicas_max=8,
                allowed_gpu=("A100-80", "L4"),
                priority=3,
            ),
            ModelDemand(name="no", rates_rps={"all": 1000.0}, percentile=95, latency_bound_ms=20.0),
            ModelDemand(name="background", headroom=0.2),
        )
    )


@pytest.mark.parametrize(
    ("key", "percentile"), [("latency_p50_ms", 50), ("latency_p90_ms", 90), ("latency_p95_ms", 95)]
)
def test_percentile_shorthands(tmp_path: Path, key: str, percentile: int) -> None:
    (model,) = read(tmp_path, f"  - {{name: a, {key}: 5}}").models
    assert (model.percentile, model.latency_bound_ms) == (percentile, 5.0)


def test_an_unknown_gpu_type_stays_for_the_fleet_to_know(tmp_path: Path) -> None:
    (model,) = read(tmp_path, "  - {name: a, allowed_gpu: [nvidia-a10g, mine]}").models
    assert model.allowed_gpu == ("A10G", "mine")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("  - {name: a, rate_rps: 1, rates_rps: {day: 1}}", r":3: models\[0\].rates_rps: give rate_rps or rates_rps"),
        ("  - {name: a, rates_rps: {}}", r"models\[0\].rates_rps: must not be empty"),
        ("  - {name: a, rates_rps: {all: 1, day: 1}}", r"models\[0\].rates_rps.all: 'all' means every period"),
        ("  - {name: a, latency_p99_ms: 1, latency: {bound_ms: 2}}", "not both latency_p99_ms and latency"),
        ("  - {name: a, latency: {percentile: 98, bound_ms: 2}}", "must be 50, 90, 95 or 99, got 98"),
        ("  - {name: a, latency: {percentile: 99}}", r"models\[0\].latency.bound_ms: is missing"),
        ("  - {name: a, latency_p99_ms: 0}", "must be more than 0"),
        ("  - {name: a}\n  - {name: a}", r":4: models\[1\].name: model 'a' is given twice"),
        ("  - name: a\n    replicas: {min: 3, max: 1}", r":3: models\[0\]: model 'a': replicas need"),
        ("  - {name: a, replicas: {max: 0}}", r"replicas.max: must be at least 1"),
        ("  - {name: a, rates_rps: {day: 1, night: 2}}\n  - {name: b, rates_rps: {day: 1}}",
         r":4: models\[1\].rates_rps: has no rate for night"),
    ],
)  # fmt: skip
def test_contradictions_are_named(tmp_path: Path, models: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, models)


def test_measure_version_1_is_still_read() -> None:
    assert read_measure_config(GOLDEN / "measure-v1.yaml") == MeasureConfig(
        models=("a", "b"),
        queue_delays_us=(None, 0, 100),
        concurrency=(1, 2),
        open_of="planned",
        open_levels=(0.5, 1.0, 1.5),
        budget_s=3840.0,
        shapes={"a": {"INPUT": (3, 224, 224)}},
        request_batch_sizes=(2,),
        min_window_s=1.0,
        max_window_s=5.0,
    )


def test_constraints_of_a_model_come_before_the_default_ones(tmp_path: Path) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text(
        "schema_version: 1\nsearch: grid\nstability: {rate: 0.1, latency: 0.5, max_windows: 5}\nconstraints:\n"
        "  default: {latency_p99_ms: 50, max_memory: 1GiB}\n"
        "  models: {a: {latency_p95_ms: 5, min_rate_rps: 10}, b: {}}\n"
    )
    config = read_measure_config(path)
    default = Constraint(latency_ms=50, max_memory_bytes=2**30)
    own = Constraint(percentile=95, latency_ms=5, min_rate_rps=10, max_memory_bytes=2**30)
    assert (config.constraint, config.constraints) == (default, {"a": own, "b": default})
    assert (config.search, config.rate_within, config.latency_within, config.max_windows) == ("grid", 0.1, 0.5, 5)


def test_manual_configurations_are_products(tmp_path: Path) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text(
        "schema_version: 1\nmanual:\n  a:\n    - {instances: [1, 2], config: {parameters.threads: [1, 2]}}\n"
        "    - {max_batch_sizes: [8], queue_delays_us: [null, 5]}\n"
    )
    assert read_measure_config(path).manual == {
        "a": (
            Product(instances=(1, 2), config={"parameters.threads": (1, 2)}),
            Product(max_batch_sizes=(8,), queue_delays_us=(None, 5)),
        )
    }


def test_measure_defaults(tmp_path: Path) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text("schema_version: 1\n")
    assert read_measure_config(path) == MeasureConfig()
    path.write_text("schema_version: 1\nopen_loop: {of: planned}\n")
    assert read_measure_config(path).open_levels == (1.0, 2.0, 3.0)


def test_deadlines_are_durations(tmp_path: Path) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text("schema_version: 1\ndeadlines: {load: 10m, answer: 1.5s}\n")
    config = read_measure_config(path)
    assert (config.start_deadline_s, config.load_deadline_s, config.answer_deadline_s) == (60.0, 600.0, 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: 4x", ":2: budget: '4x' is not a duration; write for example 90s, 4m or 1h30m"),
        ("budget: 4", "must be a duration"),
        ("budget: 0s", "is not a duration"),
        ("deadlines: {load: 4x}", ":2: deadlines.load: '4x' is not a duration; write for example 90s, 4m or 1h30m"),
        ("deadlines: {load: null}", "deadlines.load: "),
        ("open_loop: {levels: [1.5]}", "open_loop.levels: a share of the capacity is at most 1, got 1.5"),
        ("window: {min_seconds: 40}", "window: min_seconds must not be more than max_seconds"),
        ("instances: [0]", r"instances\[0\]: must be at least 1"),
        ("shapes: {a: {x: [-1]}}", r"shapes.a.x\[0\]: must be at least 1"),
        ("queue_delays_us: [-1]", r"queue_delays_us\[0\]: must be at least 0"),
        ("instance: [1]", "instance: unknown key; did you mean instances?"),
        ("search: quick", "search: must be 'auto' or 'grid', got 'quick'"),
        ("stability: {rate: 1.5}", "stability.rate: "),
        ("stability: {max_windows: 0}", "stability.max_windows: must be at least 1, got 0"),
        ("constraints: {latency_p99_ms: 5}", "constraints.latency_p99_ms: unknown key; allowed: default, models"),
        (
            "constraints: {models: {a: {latency_p99_ms: 5, latency_p50_ms: 2}}}",
            "constraints.models.a.latency_p99_ms: give one latency bound, not both latency_p50_ms and latency_p99_ms",
        ),
        ("constraints: {default: {max_memory: 12}}", "'?12'? is less than 1 MiB; write the unit"),
        ("manual: {a: []}", "manual.a: must not be empty"),
        ("manual: {a: [{config: {x.y: 1}}]}", r"manual.a\[0\].config.x.y: must be a list, got 1"),
        ("closed_loop: {concurency: [1]}", "closed_loop.concurency: unknown key; did you mean concurrency?"),
    ],
)
def test_measure_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text(f"schema_version: 1\n{text}\n")
    with pytest.raises(InputError, match=message):
        read_measure_config(path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("4m", 240), ("1h30m", 5400), ("1.5s", 1.5), ("1h1m1s", 3661)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, where="budget") == seconds


RULES_FILE = """schema_version: 1
models:
  - name: a
    spread: {over: node, at_least: 2, at_most_each: 1}
    host: {memory: 4GiB, cpu: 1.5}
  - {name: b}
  - {name: c}
rules:
  - conflict: [a, b, c]
  - together: [b, c]
  - pinned: {model: a, gpu: node1/0}
survives:
  - {domain: node}
  - {domain: gpu, share: 0.5, models: [b]}
"""


def test_rules_between_devices_are_read(tmp_path: Path) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(RULES_FILE)
    found = read_workload(path)
    assert found.models[0].spread == (Spread(over=Domain.NODE, at_least=2, at_most_each=1),)
    assert (found.models[0].host_memory_bytes, found.models[0].host_cpu) == (4 * 2**30, 1.5)
    assert found.conflict == (("a", "b"), ("a", "c"), ("b", "c"))
    assert found.together == (("b", "c"),)
    assert found.pinned == (Pin(model="a", gpu="node1/0"),)
    assert [(s.domain, s.share, s.models) for s in found.survives] == [
        ("node", 1.0, ("a", "b", "c")),
        ("gpu", 0.5, ("b",)),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[b, c]", "[b, d]", r":10: rules\[1\].together\[1\]: there is no model 'd'"),
        ("[b, c]", "[b, b]", r":10: rules\[1\].together\[1\]: model 'b' stands twice"),
        ("[b, c]", "[b]", r":10: rules\[1\].together: must not be empty|at least 2"),
        ("over: node", "over: room", r":4: models\[0\].spread\[0\].over: must be 'node', 'rack' or 'zone'"),
        ("share: 0.5", "share: 1.5", r":14: survives\[1\].share: must be at most 1"),
        ("model: a,", "model: aa,", r":11: rules\[2\].pinned.model: there is no model 'aa'"),
        ("- together: [b, c]", "- {}", r":10: rules\[1\]: each entry is one of conflict, together, pinned"),
    ],
)
def test_rules_about_nothing_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(RULES_FILE.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_workload(path)
