"""Import of reports that a real perf_analyzer 2.60.0 wrote against a real Triton (text_direction on one core)."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.errors import InputError
from planner.inputs.imported import ImportedPoint
from planner.inputs.profile_files import Imported, Told, read_profile_file

GOLDEN = Path(__file__).parents[1] / "golden"
TOLD = Told(model="m", device="cpu-1", instances=1, max_batch_size=4, request_batch_size=2, queue_delay="0")


def read(kind: str) -> Imported:
    return read_profile_file(GOLDEN / f"perf_analyzer-2.60.0-{kind}.csv", TOLD)


def test_a_closed_loop_with_all_columns() -> None:
    found = read("concurrency")
    assert found.form == "perf_analyzer report"
    first = found.points[0]
    assert first.row == ProfileRow(
        model="m", device="cpu-1", max_batch_size=4, queue_delay_us=0, request_batch_size=2, concurrency=1,
        rate_rps=549.1 / 2, latency_mean_ms=3.545, latency_p50_ms=3.313, latency_p90_ms=4.474, latency_p95_ms=4.823,
        latency_p99_ms=7.164, load_generator="perf_analyzer", source="imported",
    )  # fmt: skip
    assert first.statistics == {
        "queue_ms": 0.063, "compute_input_ms": 0.048, "compute_infer_ms": 2.582, "compute_output_ms": 0.365,
    }  # fmt: skip
    assert [(p.row.concurrency, p.row.stable) for p in found.points] == [(1, True), (2, True), (3, True), (4, False)]
    assert "a replica's is not known" in found.notes[0]
    assert "1 of 4 points lie past the knee" in found.notes[1]


def test_request_rates_are_an_open_loop() -> None:
    found = read("request-rate")
    assert {p.row.load for p in found.points} == {LoadMode.OPEN}
    assert [(p.row.offered_rps, p.row.latency_mean_ms) for p in found.points] == [(40, None), (80, None), (120, None)]
    assert [p.row.stable for p in found.points] == [False, False, False]  # of batches of 2 it got half
    assert "no 'Avg latency' in it" in found.notes[-1]


def test_what_a_server_without_a_gpu_leaves_empty_is_not_known() -> None:
    (point,) = read("metrics").points
    assert point.row.power_watts is None
    assert "gpu_utilization" not in point.statistics


HEAD = "Concurrency,Inferences/Second,Client Send,p99 latency"
GPU = "Avg GPU Utilization,Avg GPU Power Usage,Max GPU Memory Usage"


def written(tmp_path: Path, text: str) -> tuple[ImportedPoint, ...]:
    path = tmp_path / "r.csv"
    path.write_text(text)
    return read_profile_file(path, TOLD).points


def test_readings_of_one_gpu(tmp_path: Path) -> None:
    (point,) = written(tmp_path, f"{HEAD},{GPU}\n1,10,3,5000,GPU-1:0.5;,GPU-1:70.5;,GPU-1:1000;\n")
    assert point.row.power_watts == 70.5
    assert point.row.memory_bytes is None
    assert point.statistics == {"gpu_utilization": 0.5, "device_memory_bytes": 1000.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}\n1,ten,3,5000\n", "r.csv:2: column Inferences/Second: a number >= 0 is needed, got 'ten'"),
        (f"{HEAD}\n1,-1,3,5000\n", "a number >= 0 is needed, got '-1'"),
        (f"{HEAD}\n1,10,3,nan\n", "column p99 latency: a number >= 0 is needed, got 'nan'"),
        (f"{HEAD}\n1.5,10,3,5\n", "column Concurrency: a whole number >= 1 is needed, got 1.5"),
        (f"{HEAD}\n1,10,3\n", "r.csv:2: 3 cells, but the first line names 4 columns"),
        (f"{HEAD}\n", "there is no measurement in it"),
        (f"{HEAD},colour\n1,10,3,5,1\n", "r.csv:1: unknown column 'colour'"),
        (f"{HEAD},p99 latency\n1,10,3,5,1\n", "column 'p99 latency' is given twice"),
        ("Concurrency,Inferences/Second,Response Throughput,p99 latency\n1,1,1,1\n", "a decoupled model"),
        ("Concurrency,Inferences/Second,Client Send\n1,1,1\n", "report on a member of an ensemble"),
        (f"{HEAD},{GPU}\n1,10,3,5,,a:1;b:2;,\n", "Avg GPU Power Usage: measured over 2 GPUs"),
        (f"{HEAD},{GPU}\n1,10,3,5,,a:x;,\n", "Avg GPU Power Usage: a number >= 0 is needed, got 'x'"),
        (f'{HEAD}\n"1,10,3,5\n', "not valid CSV"),
    ],
)
def test_a_malformed_report(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        written(tmp_path, text)
    assert message in caught.value.message


def test_what_ran_must_be_told() -> None:
    path = GOLDEN / "perf_analyzer-2.60.0-concurrency.csv"
    with pytest.raises(InputError, match="does not say what ran: --device, --queue-delay missing"):
        read_profile_file(path, Told(model="m", instances=1, max_batch_size=1, request_batch_size=1))
    some = Told(model="m", device="L4", instances=1, max_batch_size=1, request_batch_size=1, queue_delay="soon")
    with pytest.raises(InputError, match="--queue-delay: 'soon' is not allowed; it is off"):
        read_profile_file(path, some)
    with pytest.raises(InputError, match="--model: only a perf_analyzer report needs to be told that"):
        read_profile_file(GOLDEN / "profiles-v1.csv", Told(model="m"))
    with pytest.raises(InputError, match="--csv writes the tables of a Model Analyzer checkpoint"):
        read_profile_file(GOLDEN / "profiles-v1.csv", with_tables=True)
