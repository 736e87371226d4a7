"""What the sampler says of processes on a simulated GPU: whose memory and time, who else, and what is not known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psutil
import pytest

from planner.domain.serving import Server
from planner.errors import DeviceError, InputError
from profiler.devices.gpu import GpuDevice, GpuSampler
from profiler.devices.gpu_list import find_gpu
from profiler.devices.gpu_usage import GpuUsage
from profiler.devices.nvml import Nvml
from tests.simulated_gpus import A100, MIB, MIG_1G, ONE_GPU, SPLIT_GPU, SimulatedNvml, process_on_gpu

GROW = (
    "import sys, time\n"
    "sys.stdin.readline()\n"
    "block = b'x' * (80 * 2**20); print('held', flush=True)\n"
    "sys.stdin.readline()\n"
    "while True: pass"
)
WITH_CHILD = (
    "import subprocess, sys, time\n"
    "sys.stdin.readline()\n"
    "child = subprocess.Popen([sys.executable, '-c', "
    "\"block = b'x' * (40 * 2**20); print('ready', flush=True); import time; time.sleep(600)\"], "
    "stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print('held', flush=True); sys.stdin.readline(); child.kill()"
)
NOT_SUPPORTED, NO_PERMISSION = 3, 4
ALL_THE_TIME = ("PowerUsage", "MemoryInfo_v2", "ClockInfo", "ComputeRunningProcesses_v3")


class ServerOfPid:
    """As much of a server as a device asks for."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid


@contextmanager
def device(spec: str = "gpu:0", *, exclusive: bool = False, deadline_s: float = 2.0) -> Iterator[GpuDevice]:
    nvml = Nvml(deadline_s)
    nvml.open()
    found = GpuDevice(nvml, find_gpu(nvml, spec), exclusive=exclusive)
    found.prepare()
    yield found


def sampler(found: GpuDevice, pid: int) -> GpuSampler:
    return found.sampler(cast(Server, ServerOfPid(pid)))


def tell(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for_word(process: Any) -> None:
    assert process.stdout.readline() == "held\n"


def gpu_of(usage: GpuUsage) -> dict[str, Any]:
    return cast(dict[str, Any], usage.remarks()["gpu"])


@pytest.mark.parametrize("hidden", [(), ("hide memory",), ("hide processes",)])
def test_memory_is_the_server_s_by_process_or_by_difference(gpus_here: SimulatedNvml, hidden: tuple[str, ...]) -> None:
    gpus_here.show(ONE_GPU, f"used {A100} 300", *hidden)
    with device() as found, process_on_gpu(A100, GROW) as server, sampler(found, server.pid) as watched:
        before = watched.sample()
        tell(server)
        wait_for_word(server)
        held = watched.sample()
        usage = watched.window(before, held)
    assert usage.memory_source == ("difference" if hidden else "process")
    assert usage.peak_bytes is not None
    assert usage.lowest_bytes is not None
    assert usage.peak_bytes - usage.lowest_bytes == pytest.approx(80 * MIB, rel=0.05)
    assert usage.peak_bytes < 150 * MIB  # the 300 MiB that were there before are not the server's
    reasons = gpu_of(usage)["unknown"]
    assert ("memory_by_process" in reasons) == bool(hidden)
    assert usage.samples()["memory_time_s"][0] == 0.0


def test_busy_time_and_power_follow_the_server(gpus_here: SimulatedNvml) -> None:
    with device() as found, process_on_gpu(A100, GROW) as server, sampler(found, server.pid) as watched:
        tell(server)
        wait_for_word(server)
        tell(server)
        start, spent_before_s = watched.sample(), cpu_s(server.pid)
        time.sleep(2.0)
        end, spent_s = watched.sample(), cpu_s(server.pid) - spent_before_s
        busy, best = watched.window(start, end), watched.busiest(1.0)
    share = spent_s / (end - start)  # of a core: less than all of it on a machine that others use
    assert busy.busy == pytest.approx(share, abs=0.15)
    assert busy.power_watts == pytest.approx(50 + 200 * share, abs=40)
    assert gpu_of(busy)["board_energy_j"] >= (busy.power_watts or 0.0) * (end - start) * 0.99
    assert best.busy is not None
    assert best.busy > 0


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_children_are_the_server_s_and_others_are_named(gpus_here: SimulatedNvml) -> None:
    with (
        device() as found,
        process_on_gpu(A100, WITH_CHILD) as server,
        sampler(found, server.pid) as watched,
    ):
        alone = watched.window(start=watched.sample()).peak_bytes
        tell(server)
        wait_for_word(server)
        both = watched.window(start=watched.sample())
        assert alone is not None
        assert both.peak_bytes is not None
        assert both.peak_bytes - alone > 40 * MIB
        assert gpu_of(both)["other_processes"] == []
        with process_on_gpu(A100) as other:
            mixed = watched.window(start=watched.sample())
        watched.check()  # reported, not refused
        tell(server)
    [named] = gpu_of(mixed)["other_processes"]
    assert (named["pid"], named["name"][:6]) == (other.pid, "python")
    assert named["memory_bytes"] > 0
    assert mixed.peak_bytes is not None
    assert mixed.peak_bytes < both.peak_bytes + 4 * MIB
    assert mixed.warnings() == (f"other processes were on the GPU: {named['name']} (pid {other.pid})",)


def test_exclusive_refuses_who_is_there_and_who_comes(gpus_here: SimulatedNvml) -> None:
    with (
        process_on_gpu(A100) as other,
        pytest.raises(DeviceError, match=rf"gpu:0 is not ours alone: python\S* \(pid {other.pid}, \d+ MiB\)"),
        device(exclusive=True),
    ):
        pass
    with (
        device(exclusive=True) as found,
        process_on_gpu(A100) as server,
        sampler(found, server.pid) as watched,
    ):
        watched.check()
        with process_on_gpu(A100) as intruder:
            watched.sample()
        with pytest.raises(DeviceError, match=rf"gpu:0 is not ours alone: .*pid {intruder.pid}"):
            watched.check()


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((f"used {A100} 300", "hide processes"), "300 MiB are in use by processes that NVML does not name"),
        (
            tuple(f"answer nvmlDeviceGetComputeRunningProcesses_v{n} {NO_PERMISSION}" for n in (2, 3)),
            "or NVML does not tell: .*Insufficient Permissions",
        ),
    ],
)
def test_exclusive_refuses_what_it_cannot_know(gpus_here: SimulatedNvml, lines: tuple[str, ...], text: str) -> None:
    gpus_here.show(ONE_GPU, *lines)
    with pytest.raises(DeviceError, match=text), device(exclusive=True):
        pass


def test_a_prohibited_compute_mode_is_refused(gpus_here: SimulatedNvml) -> None:
    gpus_here.show(ONE_GPU.replace("81920 0", "81920 2"))
    with pytest.raises(DeviceError, match="compute mode is prohibited"), device():
        pass


def test_unknown_memory_is_none_with_a_reason(gpus_here: SimulatedNvml) -> None:
    refused = [f"answer nvmlDeviceGetMemoryInfo{version} {NOT_SUPPORTED}" for version in ("", "_v2")]
    gpus_here.show(ONE_GPU, "hide memory", *refused)
    with device() as found, process_on_gpu(A100) as server, sampler(found, server.pid) as watched:
        usage = watched.window()
    assert (usage.peak_bytes, usage.memory_source) == (None, "unknown")
    assert "nvmlDeviceGetMemoryInfo: Not Supported" in gpu_of(usage)["unknown"]["used_bytes"]
    [warning] = usage.warnings()
    assert warning.startswith("GPU memory is unknown, it will be planned as the whole device")


def test_a_server_whose_time_nobody_tells_is_not_idle(gpus_here: SimulatedNvml) -> None:
    with device() as found, process_on_gpu(A100) as server, sampler(found, server.pid) as watched:
        time.sleep(0.3)
        usage = watched.window()
    assert usage.busy is None
    assert gpu_of(usage)["unknown"]["busy"] == "no sample of NVML names a process of the server"


def test_a_mig_device_has_its_own_memory_and_no_power(gpus_here: SimulatedNvml) -> None:
    gpus_here.show(*SPLIT_GPU)
    with (
        device(MIG_1G) as found,
        process_on_gpu(MIG_1G) as server,
        process_on_gpu(SPLIT_GPU[2].split()[1]),
        sampler(found, server.pid) as watched,
    ):
        time.sleep(0.3)
        usage = watched.window()
    gpu = gpu_of(usage)
    assert usage.memory_source == "process"
    assert gpu["used_bytes"] == usage.peak_bytes
    assert (usage.busy, usage.power_watts, gpu["utilization"]) == (None, None, None)
    assert gpu["board_power_watts"] > 40
    assert gpu["unknown"]["busy"] == "nvmlDeviceGetProcessUtilization: Not Supported"
    assert "no power reading of its own" in gpu["unknown"]["power_watts"]
    assert gpu["other_processes"] == []  # who is on the neighbour is not on this one


def test_throttling_is_named(gpus_here: SimulatedNvml) -> None:
    gpus_here.show(ONE_GPU, f"throttle {A100} 0x24")
    with device() as found, process_on_gpu(A100) as server, sampler(found, server.pid) as watched:
        time.sleep(0.2)
        usage = watched.window()
    assert gpu_of(usage)["throttled"] == {"power-cap": 1.0, "thermal-slowdown": 1.0}
    assert gpu_of(usage)["sm_clock_mhz"] == 900
    assert usage.warnings() == ("the GPU lowered its clocks: thermal-slowdown",)


def test_a_gpu_that_gets_lost_spoils_the_measurement(gpus_here: SimulatedNvml) -> None:
    with device() as found, process_on_gpu(A100) as server, sampler(found, server.pid) as watched:
        watched.check()
        gpus_here.show(ONE_GPU, f"lost {A100}")
        watched.sample()
        with pytest.raises(DeviceError, match=f"gpu:0 {A100}: .*GPU is lost"):
            watched.check()
        assert watched.window().peak_bytes is not None  # what was seen before
        with pytest.raises(DeviceError, match="GPU is lost"):
            found.prepare()


def test_a_library_that_hangs_holds_nobody_up(gpus_here: SimulatedNvml) -> None:
    with device(deadline_s=0.5) as found, process_on_gpu(A100) as server:
        begin = time.monotonic()
        with sampler(found, server.pid) as watched:
            before = watched.sample()
            gpus_here.show(ONE_GPU, "hang nvmlDeviceGetPowerUsage")
            time.sleep(1.5)
            end = watched.sample()
            gpus_here.show(ONE_GPU, *(f"hang nvmlDeviceGet{name}" for name in ALL_THE_TIME))
            while (silent := watched.window(start=watched.sample())).peak_bytes is not None:
                assert time.monotonic() - begin < 30
        assert time.monotonic() - begin < 60
        gpus_here.show(ONE_GPU)
    assert len(watched.window(before, end).series["memory_bytes"]) > 5  # it went on without the power
    assert silent.memory_source == "unknown"
    assert "GPU memory is unknown" in str(silent.warnings())


def test_a_server_elsewhere_cannot_be_watched(gpus_here: SimulatedNvml) -> None:
    with device() as found, pytest.raises(InputError, match="a server on this machine"):
        found.sampler(cast(Server, ServerOfPid(None)))
