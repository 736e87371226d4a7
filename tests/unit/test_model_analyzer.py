"""Import of Model Analyzer checkpoints, and the memory law that follows from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared_file

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.errors import InputError, NotFoundError
from planner.inputs.checkpoint_file import read_checkpoint_file
from planner.inputs.memory_law import MemoryLaw, backend_overhead, fit, replica_bytes
from planner.inputs.model_analyzer import ImportedCheckpoint, read_checkpoint
from planner.inputs.model_analyzer_csv import GPU_FILE, INFERENCE_FILE, SERVER_FILE, tables
from planner.inputs.profile_files import as_measurements, read_profile_file

MB = 1_000_000

# Readings in MB over 1..5 instances (triton.md, "Memory").
LOWEST = {"resnet50": (1571, 1691, 1810, 1932, 2054), "vgg19": (2056, 2654, 3251, 3850, 4449)}
HIGHEST = {"resnet50": (1572, 1744, 1893, 2067, 2218), "vgg19": (2058, 2714, 3371, 4027, 4682)}


def law_of(model: str, readings: tuple[int, ...]) -> MemoryLaw:
    law = fit(model, "pytorch", 509 * MB, {n: mb * MB for n, mb in enumerate(readings, 1)})
    assert law is not None
    return law


@pytest.mark.parametrize(
    ("readings", "shared_mb", "per_instance_mb"),
    [(HIGHEST, 900, {"resnet50": 162, "vgg19": 656}), (LOWEST, 945, {"resnet50": 121, "vgg19": 598})],
)
def test_the_law_within_five_percent(
    readings: dict[str, tuple[int, ...]], shared_mb: int, per_instance_mb: dict[str, int]
) -> None:
    laws = [law_of(model, values) for model, values in readings.items()]
    for law in laws:
        assert law.shared_bytes == pytest.approx(shared_mb * MB, rel=0.05)
        assert law.per_instance_bytes == pytest.approx(per_instance_mb[law.model] * MB, rel=0.05)
        assert law.worst_residual_bytes < 10 * MB
    overhead = backend_overhead("pytorch", laws)
    assert overhead.overhead_bytes == int(min(law.shared_bytes for law in laws))
    assert overhead.inferred_from == ("resnet50", "vgg19")


def some_law(model: str, shared_mb: float, backend: str = "b") -> MemoryLaw:
    return MemoryLaw(model=model, backend=backend, base_bytes=0, shared_bytes=shared_mb * MB, per_instance_bytes=MB)


@pytest.mark.parametrize(
    ("laws", "overhead_mb", "models"),
    [
        ([], 0, ()),
        ([some_law("a", 900)], 0, ()),
        ([some_law("a", 900), some_law("c", 950, backend="other")], 0, ()),
        ([some_law("a", 900), some_law("c", 1000)], 0, ()),
        ([some_law("a", 900), some_law("c", 945)], 900, ("a", "c")),
        ([some_law("a", 900), some_law("c", 945), some_law("d", 2000)], 900, ("a", "c")),
        # Two agree, but a third gets by with less: the overhead cannot be as large as theirs.
        ([some_law("a", 900), some_law("c", 945), some_law("d", 300)], 0, ()),
        ([some_law("a", -5), some_law("c", -5)], 0, ()),
    ],
)
def test_overhead_is_inferred_only_where_the_smallest_intercepts_agree(
    laws: list[MemoryLaw], overhead_mb: int, models: tuple[str, ...]
) -> None:
    found = backend_overhead("b", laws)
    assert (found.overhead_bytes, found.inferred_from) == (overhead_mb * MB, models)


def test_one_instance_count_gives_no_law_and_the_reading_counts() -> None:
    assert fit("a", "b", 10, {1: 50}) is None
    assert replica_bytes(None, 1, 50, 10, 5) == 35
    law = fit("a", "b", 10, {1: 50, 2: 70, 3: 105})
    assert law is not None
    assert replica_bytes(law, 3, 105, 10, 0) == 95
    assert replica_bytes(law, 3, 20, 10, 0) == 93  # 102.5 by the law, rounded up
    assert replica_bytes(None, 1, 5, 10, 0) == 0


@pytest.fixture(scope="module")
def titan() -> ImportedCheckpoint:
    return read_checkpoint(shared_file("model_analyzer/resnet50_libtorch/0.ckpt"))


def test_every_measurement_is_imported(titan: ImportedCheckpoint) -> None:
    server, backend, *rows = titan.rows
    assert (server.model, server.device, server.memory_bytes) == ("@server", "TITAN-RTX", 509 * MB)
    assert backend.model == "@backend:pytorch"
    assert backend.memory_bytes == pytest.approx(900 * MB, rel=0.05)
    assert backend.source == "imported: inferred from resnet50_libtorch and vgg19_libtorch"
    assert len(rows) == 1012
    assert {r.model for r in rows} == {"resnet50_libtorch", "vgg19_libtorch"}
    assert {(r.load, r.backend, r.queue_delay_us, r.busy, r.source) for r in rows} == {
        (LoadMode.CLOSED, "pytorch", None, None, "imported")
    }


def test_the_memory_law_of_the_checkpoint(titan: ImportedCheckpoint) -> None:
    per_instance = {law.model: law.per_instance_bytes / MB for law in titan.laws}
    assert per_instance == pytest.approx({"resnet50_libtorch": 162, "vgg19_libtorch": 656}, rel=0.05)


def test_planned_memory_is_never_below_a_reading(titan: ImportedCheckpoint) -> None:
    overhead = titan.overheads[0].overhead_bytes
    for model, readings in HIGHEST.items():
        for instances, reading in enumerate(readings, 1):
            own = [r.memory_bytes for r in titan.rows if r.model == f"{model}_libtorch" and r.instances == instances]
            used = [509 * MB + overhead + memory for memory in own if memory is not None]
            assert max(used) >= reading * MB
            assert max(used) <= 1.01 * reading * MB


def test_points_past_the_knee_are_marked(titan: ImportedCheckpoint) -> None:
    rows = [r for r in titan.rows if (r.model, r.instances, r.max_batch_size) == ("vgg19_libtorch", 2, 1)]
    assert [(r.concurrency, r.rate_rps, r.stable) for r in rows[:5]] == [
        (1, 158.0, True), (2, 157.0, False), (4, 222.0, True), (8, 222.0, True), (16, 218.0, False),
    ]  # fmt: skip
    assert any("past the knee" in note for note in titan.notes)


@pytest.mark.parametrize(
    ("folder", "load"), [("single-model-ckpt", "Concurrency"), ("request-rate-ckpt", "Request Rate")]
)
def test_the_figures_are_those_that_model_analyzer_printed(folder: str, load: str) -> None:
    found = read_checkpoint(shared_file(f"model_analyzer/{folder}/0.ckpt"))
    with shared_file(f"model_analyzer/{folder}/golden-metrics-model-inference.csv").open(newline="") as file:
        printed = sorted(_printed_point(record, load) for record in csv.DictReader(file))
    assert sorted(_point(row) for row in found.rows if not row.is_overhead) == printed


def _printed_point(record: dict[str, str], load: str) -> tuple[Any, ...]:
    instances = int(record["Instance Group"].split(":")[0])
    return (instances, int(record["Max Batch Size"]), int(record["Batch"]), int(record[load]),
            float(record["Throughput (infer/sec)"]), float(record["p99 Latency (ms)"]))  # fmt: skip


def _point(row: ProfileRow) -> tuple[Any, ...]:
    assert row.rate_rps is not None
    assert row.latency_p99_ms is not None
    level = row.concurrency if row.load is LoadMode.CLOSED else row.offered_rps
    inferences = round(row.rate_rps * row.request_batch_size, 1)
    return (row.instances, row.max_batch_size, row.request_batch_size, level, inferences, round(row.latency_p99_ms, 1))


def test_dynamic_batching_and_one_model(tmp_path: Path) -> None:
    found = read_checkpoint(shared_file("model_analyzer/single-model-ckpt/0.ckpt"))
    assert {r.queue_delay_us for r in found.rows if r.max_batch_size == 8} == {None}
    assert {r.queue_delay_us for r in found.rows if r.max_batch_size in (1, 2)} == {0}
    assert found.rows[1].source == "imported: not known: left in the replicas"
    assert found.rows[1].memory_bytes == 0


def test_an_ensemble_is_imported_as_a_whole() -> None:
    found = read_checkpoint(shared_file("model_analyzer/ensemble-ckpt/0.ckpt"))
    server, *rows = found.rows
    assert server.model == "@server"  # its members' backend has no row: their memory cannot be told apart
    assert {(r.model, r.backend, r.instances) for r in rows} == {("ensemble_add_sub", "ensemble", 1)}
    assert {r.variant for r in rows} == {"add 1, sub 1", "add 1, sub 2", "add 2, sub 1", "add 3, sub 3"}
    assert {r.memory_bytes for r in rows} == {318_080}
    assert len(rows) == 16
    assert not any(r.is_planned for r in rows)
    assert "ensemble_add_sub_config_default: it ran on the CPU" in found.notes[0]
    assert "never planned with" in found.notes[1]


def test_where_time_goes_comes_along(titan: ImportedCheckpoint) -> None:
    first = next(p for p in titan.points if p.row.model == "resnet50_libtorch" and p.row.concurrency == 1)
    assert set(first.statistics) == {
        "queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms", "gpu_utilization",
    }  # fmt: skip
    parts = sum(v for name, v in first.statistics.items() if name.endswith("_ms") and isinstance(v, float))
    assert first.row.latency_mean_ms is not None
    assert 0.8 * first.row.latency_mean_ms < parts < first.row.latency_mean_ms


@pytest.mark.parametrize("folder", ["single-model-ckpt", "request-rate-ckpt", "ensemble-ckpt"])
@pytest.mark.parametrize("name", [INFERENCE_FILE, GPU_FILE, SERVER_FILE])
def test_the_tables_equal_those_that_model_analyzer_printed(folder: str, name: str) -> None:
    printed = tables(read_checkpoint_file(shared_file(f"model_analyzer/{folder}/0.ckpt")))[name]
    golden = shared_file(f"model_analyzer/{folder}/golden-{name}").read_text()
    assert list(csv.reader(printed.splitlines())) == [row for row in csv.reader(golden.splitlines()) if row]


def table_of(tmp_path: Path, data: object, name: str) -> list[dict[str, str]]:
    path = tmp_path / "0.ckpt"
    path.write_text(json.dumps(data))
    return list(csv.DictReader(tables(read_checkpoint_file(path))[name].splitlines()))


def test_tables_of_other_shapes(tmp_path: Path) -> None:
    groups = [{"kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}, {"kind": "KIND_CPU", "count": 3}]
    (row,) = table_of(tmp_path, checkpoint(config={"name": "m", "instanceGroup": groups}), INFERENCE_FILE)
    assert row["Instance Group"] == "4:GPU + 3:CPU"
    assert (row["Request Rate"], row["Max Batch Size"], row["p99 Latency (ms)"]) == ("60", "0", "5.0")
    assert table_of(tmp_path, checkpoint(config={"name": "m", "cpu_only": True}), GPU_FILE) == []
    (row,) = table_of(tmp_path, checkpoint(), GPU_FILE)
    assert (row["GPU Memory Usage (MB)"], row["GPU Power Usage (W)"]) == ("800.0", "")  # not measured: not 0
    with pytest.raises(InputError, match="models measured together have no table"):
        table_of(tmp_path, checkpoint(runs=[{"_model_config": {}}, {"_model_config": {}}]), GPU_FILE)


def test_a_reading_without_memory_is_not_known(tmp_path: Path) -> None:
    data = checkpoint()
    (point,) = data["ResultManager.results"]["_results"]["m"]["m_config_0"][1].values()
    point["_gpu_data"]["u"] = [["gpu_power_usage", {"_value": 70.0}]]
    found = read(tmp_path, data)
    assert found.rows[-1].memory_bytes is None
    assert found.rows[-1].power_watts == 70.0
    assert "1 of 1 points have no memory reading: it is not known there" in found.notes


def checkpoint(**changes: Any) -> dict[str, Any]:
    """The smallest checkpoint: one configuration, one point."""
    values = [["perf_throughput", {"_value": 100.0}], ["perf_latency_p99", {"_value": 5.0}]]
    parts: dict[str, Any] = {
        "values": values,
        "config": {"name": "m", "platform": "onnxruntime_onnx", "maxBatchSize": 4},
        "load": {"batch-size": 2, "concurrency-range": None, "request-rate-range": 60},
        "gpus": {"u": {"name": "Tesla T4", "total_memory": 1}},
        "server": {"u": [["gpu_used_memory", {"_value": 300.0}]]},
        **changes,
    }
    point = {
        "_gpu_data": {"u": [["gpu_used_memory", {"_value": 800.0}]]},
        "_model_config_measurements": [{"_model_specific_pa_params": parts["load"], "_non_gpu_data": parts["values"]}],
    }
    run = {"_model_run_configs": parts.get("runs", [{"_model_config": parts["config"]}])}
    return {
        "ResultManager.results": {"_results": {"m": {"m_config_0": [run, {"p": point}]}}},
        "ResultManager.server_only_data": parts["server"],
        "MetricsManager.gpus": parts["gpus"],
    }


def read(tmp_path: Path, data: object) -> ImportedCheckpoint:
    path = tmp_path / "0.ckpt"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_checkpoint(path)


def test_an_overloaded_request_rate_is_not_stable(tmp_path: Path) -> None:
    server, _, row = read(tmp_path, checkpoint()).rows
    assert server.memory_bytes == 300 * MB
    assert (row.backend, row.device, row.instances, row.memory_bytes) == ("onnxruntime", "T4", 1, 500 * MB)
    assert (row.load, row.offered_rps, row.rate_rps, row.stable) == (LoadMode.OPEN, 60.0, 50.0, False)


def test_without_a_server_only_reading_memory_is_not_known(tmp_path: Path) -> None:
    found = read(tmp_path, checkpoint(server={}))
    assert [r.memory_bytes for r in found.rows] == [None]
    assert "memory is not known" in found.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 20000, "nested too deeply"),
        ("{}", "not a Model Analyzer checkpoint"),
        (checkpoint(gpus={}), "it names no GPU"),
        (checkpoint(gpus={"u": {"name": "Tesla T4"}, "v": {"name": "Tesla T4"}}), "measured over 2 GPUs at once"),
        (checkpoint(gpus={"u": {"name": "Voodoo"}}), "unknown GPU type 'Voodoo'"),
        (checkpoint(runs=[{"_model_config": {}}, {"_model_config": {}}]), "2 models were measured together"),
        (checkpoint(runs=[]), "'_model_run_configs' is empty"),
        (checkpoint(config={"cpu_only": True}), "it ran on the CPU"),
        (checkpoint(config={"instanceGroup": [{"kind": "KIND_CPU"}]}), "it ran on the CPU"),
        (checkpoint(load={"batch-size": 1}), "either concurrency-range or request-rate-range is needed"),
        (checkpoint(load={"concurrency-range": 2}), "_model_specific_pa_params: 'batch-size' is missing"),
        (checkpoint(load={"batch-size": 0, "concurrency-range": 2}),
         "_model_specific_pa_params.batch-size: a whole number >= 1 is needed, got 0"),
        (checkpoint(config={"maxBatchSize": "big"}), 'maxBatchSize: a whole number >= 0 is needed, got "big"'),
        (checkpoint(config={"instanceGroup": {}}), "instanceGroup: a list is needed, got {}"),
        (checkpoint(config={"cpu_only": "no"}), 'cpu_only: true or false is needed, got "no"'),
        (checkpoint(config={"platform": 3}), "platform: text is needed, got 3"),
        (checkpoint(runs=[3]), "_model_run_configs[0]: an object is needed, got 3"),
        (checkpoint(server={"u": [["gpu_used_memory"]]}), "u[0]: a list of two is needed"),
        (checkpoint(server={"u": [["gpu_used_memory", {"_value": -1}]]}), "_value: a number >= 0 is needed, got -1"),
        (checkpoint(values=[]), "'perf_throughput' is missing; there is nothing"),
        ({"ResultManager.results": {"_results": {}}, "MetricsManager.gpus": {"u": {"name": "Tesla T4"}}},
         "nothing can be imported: it holds no measurement"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_refused(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises((InputError, NotFoundError)) as caught:
        read(tmp_path, data)
    assert message in caught.value.message


def test_importing_twice_gives_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    head = "model,device,instances,max_batch_size,rate_rps,latency_p99_ms,concurrency\n"
    path.write_text(head + "m,L4,1,1,10,5,\nm,L4,1,1,20,5,\nm,L4,1,1,30,5,4\nm,L4,1,1,30,5,4\n")
    first = as_measurements(read_profile_file(path).points, origin="p.csv", imported_at="now")
    assert len({m.key for m in first}) == 4
    path.write_text(head + "m,L4,1,1,10,6,\nm,L4,1,1,20,6,\nm,L4,1,1,31,6,4\nm,L4,1,1,32,6,4\n")
    second = as_measurements(read_profile_file(path).points, origin="p.csv", imported_at="later")
    assert [m.key for m in second] == [m.key for m in first]
