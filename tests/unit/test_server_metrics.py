"""What a Triton tells of its machine on the metrics port."""

from __future__ import annotations

import pytest

from profiler.devices.remote import RemoteSampler
from profiler.server.metrics import MachineMetrics, parse_metrics

TWO_GPUS = """\
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_inference_count{model="a",version="1"} 12
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.52
nv_gpu_utilization{gpu_uuid="GPU-2"} 0
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 25757220864.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 1.5e9
nv_gpu_power_usage{gpu_uuid="GPU-1"} 71.5
nv_gpu_power_usage{gpu_uuid="GPU-2"} N/A
nv_energy_consumption{gpu_uuid="GPU-1"} 4711
nv_cpu_utilization 0.25
nv_cpu_memory_used_bytes 1136697344
"""


def test_gpus_are_told_apart_and_what_is_not_told_is_absent() -> None:
    found = parse_metrics(TWO_GPUS)
    first = {"utilization": 0.52, "memory_used_bytes": 1.5e9, "memory_total_bytes": 25757220864.0, "power_watts": 71.5}
    assert found.gpus == {"GPU-1": first, "GPU-2": {"utilization": 0.0}}
    assert found.cpu == {"utilization": 0.25, "memory_used_bytes": 1136697344.0}


def one_gpu(memory: float, watts: float) -> MachineMetrics:
    return MachineMetrics({"GPU-1": {"memory_used_bytes": memory, "power_watts": watts}}, {})


def test_a_window_has_the_most_memory_and_the_mean_power_and_no_memory_or_busy_time_of_a_model() -> None:
    answers = iter([one_gpu(9e9, 900), one_gpu(2e9, 50), OSError("connection refused"), one_gpu(1e9, 70)])
    times = iter([1.0, 2.0, 4.0])

    def read(_url: str) -> MachineMetrics:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sampler = RemoteSampler("http://x:8002/metrics", read, lambda: next(times))
    for _ in range(4):
        sampler.read_now()
    found = sampler.window(1.5, 4.5)
    assert found.power_watts == 60
    assert (found.peak_bytes, found.busy) == (None, None)
    assert found.remarks()["server_metrics"] == {
        "readings": 2, "gpus": {"GPU-1": {"memory_used_bytes": 2e9, "power_watts": 60.0}}, "cpu": {},
    }  # fmt: skip
    assert sampler.window(3.1, 3.2).power_watts == 50, "the last one before a short window"


def test_of_several_gpus_none_is_taken_for_the_model_s() -> None:
    sampler = RemoteSampler("http://x:8002/metrics", lambda _url: parse_metrics(TWO_GPUS))
    sampler.read_now()
    assert sampler.window().power_watts is None


@pytest.mark.parametrize("error", [OSError("connection refused"), ValueError("no metrics")])
def test_why_nothing_was_read_is_recorded(error: Exception) -> None:
    def read(_url: str) -> MachineMetrics:
        raise error

    sampler = RemoteSampler("http://x:8002/metrics", read)
    assert sampler.window().remarks()["server_metrics"] == {"unknown": "they were not read by then"}
    sampler.read_now()
    assert sampler.window().remarks()["server_metrics"] == {"unknown": str(error)}
