"""`planner measure` and `planner doctor` with GPUs: a real Triton and the real pynvml on simulated GPUs.

The models run on cores, as everything here; what is tried is who is pinned where, and what is recorded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from planner.domain.profile import Measurement
from planner.store.database import open_store
from profiler.server.find import TritonInstallation
from tests.simulated_gpus import A100, MIB, MIG_1G, ONE_GPU, SPLIT_GPU, SimulatedNvml, process_on_gpu

pytestmark = pytest.mark.slow

QUICK = """\
schema_version: 1
search: grid
stability: {max_windows: 1}
instances: [1]
max_batch_sizes: [4]
closed_loop: {concurrency: [8]}
open_loop: {of: capacity, levels: [0.5]}
window: {min_seconds: 1, max_seconds: 1}
"""
WORKLOAD = """\
schema_version: 1
models:
  - {name: file_type, rate_rps: 10, latency: {percentile: 50, bound_ms: 2000}}
"""
COMMAND = [sys.executable, "-m", "planner.cli"]


@pytest.fixture
def project(tmp_path: Path, example_models: Path, triton: TritonInstallation) -> Path:
    """A model that chooses its device itself: with KIND_GPU a Triton without a real GPU refuses it."""
    shutil.copytree(example_models / "file_type", tmp_path / "models" / "file_type")
    config = tmp_path / "models" / "file_type" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_MODEL"))
    (tmp_path / "measure.yaml").write_text(QUICK)
    return tmp_path


@contextmanager
def measuring(project: Path, gpus: SimulatedNvml, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "measure", *arguments]
    process = subprocess.Popen(
        command, cwd=project, env={**os.environ, **gpus.environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(project: Path, gpus: SimulatedNvml, *arguments: str) -> tuple[int, str, str]:
    with measuring(project, gpus, *arguments) as process:
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def measurements(project: Path) -> tuple[list[Measurement], list[Measurement]]:
    """What the store has of the server, and of models."""
    store = open_store(f"sqlite:///{project / 'profiles.db'}")
    try:
        found = [store.get(key) for key in store.keys()]  # noqa: SIM118 - a store is no dictionary
    finally:
        store.close()
    whole = [one for one in found if one is not None]
    return [m for m in whole if m.row.is_overhead], [m for m in whole if not m.row.is_overhead]


def gpu_of(measurement: Measurement) -> Any:
    return measurement.statistics["gpu"]


def server_of(pid: int) -> psutil.Process:
    """The server that is measured, once a model is loaded in it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        family = psutil.Process(pid).children(recursive=True)
        names = {one.name(): one for one in family if one.is_running()}
        if "triton_python_ba" in " ".join(names) and "tritonserver" in names:
            return names["tritonserver"]
        time.sleep(0.05)
    raise AssertionError("no server with a model appeared")


def resident_bytes_until_its_end(server: psutil.Process) -> Iterator[int]:
    while server.is_running():
        with suppress(psutil.NoSuchProcess):
            yield sum(one.memory_info().rss for one in [server, *server.children(recursive=True)])
        time.sleep(0.05)


@pytest.mark.parametrize("load_generator", ["builtin", "perf_analyzer"])
def test_a_gpu_is_pinned_sampled_and_recorded(
    project: Path, gpus: SimulatedNvml, load_generator: str, request: pytest.FixtureRequest
) -> None:
    if load_generator == "perf_analyzer":
        request.getfixturevalue("perf_analyzer")
    gpus.show(ONE_GPU, *SPLIT_GPU, f"used {A100} 500")
    with measuring(project, gpus, "--device", "gpu:0", "--load-generator", load_generator, "--json") as process:
        server = server_of(process.pid)
        visible = server.environ()["CUDA_VISIBLE_DEVICES"]
        peak_bytes = max(resident_bytes_until_its_end(server))
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert visible == A100
    outcome = json.loads(out)
    assert {row["device"] for row in outcome["profiles"]} == {"A100-80"}
    [base], points = measurements(project)
    assert base.row.memory_bytes is not None
    assert len(points) == 2
    for point in points:
        row, gpu = point.row, gpu_of(point)
        assert row.load_generator == load_generator
        assert row.memory_bytes is not None
        assert row.memory_bytes + base.row.memory_bytes == pytest.approx(peak_bytes, rel=0.1)
        assert row.memory_cold_bytes is not None
        assert 10 * MIB < row.memory_cold_bytes <= row.memory_bytes
        assert row.busy is not None
        assert 0 < row.busy <= 1
        assert row.power_watts is not None
        assert row.power_watts > 50
        assert (gpu["memory_source"], gpu["other_processes"], gpu["unknown"]) == ("process", [], {})
        assert len(point.samples["power_watts"]) > 5  # in a window of one second
        environment: Any = point.environment["gpu"]
        assert (environment["uuid"], environment["driver"]) == (A100, "550.00.simulated")


def test_a_plan_made_from_it_is_verified_on_the_gpu(project: Path, gpus: SimulatedNvml) -> None:
    (project / "measure.yaml").write_text(QUICK.replace("max_seconds: 1", "max_seconds: 3"))  # 40 requests for a p50
    code, _, err = measure(project, gpus, "--device", "gpu:0")
    assert code == 0, err
    (project / "workload.yaml").write_text(WORKLOAD)
    environment = {**os.environ, **gpus.environment}
    for command in (["solve", "--gpus", "1xA100-80"], ["verify", "--max-seconds", "10", "--json"]):
        done = subprocess.run(
            [*COMMAND, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    [device] = json.loads(done.stdout)["devices"]
    assert device["type"] == "A100-80"
    assert device["memory_bytes_measured"] == pytest.approx(device["memory_bytes_predicted"], rel=0.25)
    assert 0 < device["busy_measured"] <= 1


def test_a_mig_device_of_an_older_library(project: Path, gpus: SimulatedNvml) -> None:
    missing = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlSystemGetNVMLVersion")
    gpus.show(*SPLIT_GPU, "hide memory", *(f"answer {name} 13" for name in missing))
    with process_on_gpu(MIG_1G) as other:
        code, _, err = measure(project, gpus, "--device", MIG_1G)
    assert code == 0, err
    assert "other processes were on the GPU: python" in err
    [base], points = measurements(project)
    assert base.row.device == "A100-80/1g.10gb"
    assert len(points) == 2
    for point in points:
        gpu = gpu_of(point)
        assert point.row.device == "A100-80/1g.10gb"
        assert gpu["memory_source"] == "difference"
        assert point.row.memory_bytes is not None
        assert 10 * MIB < point.row.memory_bytes < 500 * MIB
        assert (point.row.busy, point.row.power_watts, gpu["utilization"]) == (None, None, None)
        assert {"busy", "power_watts", "utilization", "memory_by_process"} <= set(gpu["unknown"])
        [named] = gpu["other_processes"]
        assert (named["pid"], named["memory_bytes"], named["share_of_samples"]) == (other.pid, None, 1.0)
        environment: Any = point.environment["gpu"]
        assert (environment["mig_profile"], environment["nvml"]) == ("1g.10gb", None)


def test_memory_that_no_library_call_tells_is_unknown_and_not_zero(project: Path, gpus: SimulatedNvml) -> None:
    gpus.show(ONE_GPU, "hide memory", "answer nvmlDeviceGetMemoryInfo 3", "answer nvmlDeviceGetMemoryInfo_v2 3")
    code, out, err = measure(project, gpus, "--device", "gpu:0")
    assert code == 0, err
    assert "the memory of @server is unknown, it stays within the models" in err
    assert "GPU memory is unknown, it will be planned as the whole device (nvmlDeviceGetMemoryInfo: Not Sup" in err
    assert "whole" in out
    overheads, points = measurements(project)
    assert overheads == []
    assert len(points) == 2
    for point in points:
        assert (point.row.memory_bytes, point.row.memory_cold_bytes) == (None, None)
        assert "nvmlDeviceGetMemoryInfo: Not Supported" in gpu_of(point)["unknown"]["used_bytes"]
        assert point.row.power_watts is not None


def test_exclusive_measures_nothing_beside_others(project: Path, gpus: SimulatedNvml) -> None:
    with process_on_gpu(A100) as other:
        code, out, err = measure(project, gpus, "--device", "gpu:0", "--exclusive")
    assert (code, out) == (5, "")
    assert "error: gpu:0 is not ours alone: python" in err
    assert f"pid {other.pid}" in err
    assert not (project / "profiles.db").exists()


def test_another_process_that_comes_later_fails_an_exclusive_point(project: Path, gpus: SimulatedNvml) -> None:
    with measuring(project, gpus, "--device", "gpu:0", "--exclusive", "--json") as process:
        server_of(process.pid)
        with process_on_gpu(A100) as other:
            out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert f"pid {other.pid}" in json.loads(out)["failed"][0]


def test_a_library_that_hangs_does_not_stop_the_sweep(project: Path, gpus: SimulatedNvml) -> None:
    with measuring(project, gpus, "--device", "gpu:0", "--json") as process:
        server_of(process.pid)
        gpus.show(ONE_GPU, "hang nvmlDeviceGetTotalEnergyConsumption", "hang nvmlDeviceGetUtilizationRates")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["complete"]
    _, points = measurements(project)
    last = max(points, key=lambda point: (point.measured_at, point.row.load == "open"))
    assert last.row.memory_bytes is not None
    assert last.row.power_watts is None or last.row.power_watts > 0
    assert "nvmlDeviceGetUtilizationRates" in gpu_of(last)["unknown"]["utilization"]


def test_a_gpu_lost_in_the_middle_is_the_cause_of_what_fails(project: Path, gpus: SimulatedNvml) -> None:
    with measuring(project, gpus, "--device", "gpu:0", "--json") as process:
        server_of(process.pid)
        gpus.show(ONE_GPU, f"lost {A100}")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert "GPU is lost" in json.loads(out)["failed"][0]
    code, _, err = measure(project, gpus, "--device", "gpu:0")
    assert code == 5
    assert "error: --device gpu:0: nvmlDeviceGetHandleByIndex: GPU is lost" in err
    gpus.show(ONE_GPU)
    code, _, err = measure(project, gpus, "--device", "gpu:0")
    assert code == 0, err


def test_a_model_for_a_gpu_is_given_the_pinned_one(project: Path, gpus: SimulatedNvml) -> None:
    config = project / "models" / "file_type" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_MODEL", "KIND_GPU"))
    code, out, err = measure(project, gpus, "--device", "gpu:0")
    assert code == 5, err
    assert "gpu id 0" in out  # in Triton's words: without a real GPU it refuses the one that it is given
    _, points = measurements(project)
    assert points == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--device", "gpu:3"], "--device gpu:3: there is no such GPU; there are gpu:0 GPU-"),
        (["--device", "gpu:1"], "this GPU is in MIG mode, no server can use it as a whole"),
        (["--device", "gpu:zero"], "--device 'gpu:zero': write gpu:0"),
    ],
)
def test_a_gpu_that_is_not_there_is_one_clear_error(
    project: Path, gpus: SimulatedNvml, arguments: list[str], text: str
) -> None:
    gpus.show(ONE_GPU, *SPLIT_GPU)
    code, _, err = measure(project, gpus, *arguments)
    assert code == 2
    assert text in err
    assert err.count("error:") == 1


def test_doctor_lists_gpus_and_what_their_library_lacks(project: Path, gpus: SimulatedNvml) -> None:
    gpus.show(
        ONE_GPU.replace("81920 0", "81920 3"), *SPLIT_GPU, "gpu GPU-dead 16384 0 0 Tesla T4", "lost GPU-dead",
        "answer nvmlDeviceGetTotalEnergyConsumption 3",
    )  # fmt: skip
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"], cwd=project, env={**os.environ, **gpus.environment},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["nvml"]["found"] == "driver 550.00.simulated, NVML 12.550.00.simulated"
    assert checks["gpu:0"]["found"] == (
        f"NVIDIA A100-SXM4-80GB, 80.0 GiB, {A100}, compute mode exclusive-process, "
        "energy_j unknown (nvmlDeviceGetTotalEnergyConsumption: Not Supported)"
    )
    assert "in MIG mode, with 2 MIG devices" in checks["gpu:1"]["found"]
    assert checks["gpu:1:0"]["found"].startswith(f"MIG 1g.10gb of NVIDIA A100-SXM4-80GB, 9.5 GiB, {MIG_1G}")
    assert (checks["gpu:2"]["ok"], checks["gpu:2"]["found"]) == (
        False, "nvmlDeviceGetHandleByIndex: GPU is lost",
    )  # fmt: skip
