"""NVML's library behind a deadline, through the real pynvml and a simulated library."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest

from planner.errors import DeviceError, InputError, SetupError
from profiler.devices.gpu_list import find_gpu, find_gpus
from profiler.devices.gpu_reading import GpuReader, Reading
from profiler.devices.nvml import Nvml, NvmlSilent, Unknown
from tests.simulated_gpus import (
    A100,
    MIG_1G,
    MIG_3G,
    ONE_GPU,
    SPLIT,
    SPLIT_GPU,
    SimulatedNvml,
    build_library,
    process_on_gpu,
    use_in_this_process,
)

FUNCTION_OF = {
    "used_bytes": ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"),
    "processes": ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
    "utilization": ("nvmlDeviceGetUtilizationRates",),
    "process_busy": ("nvmlDeviceGetProcessUtilization",),
    "power_watts": ("nvmlDeviceGetPowerUsage",),
    "energy_j": ("nvmlDeviceGetTotalEnergyConsumption",),
    "throttle": ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
}


@pytest.fixture
def nvml(gpus_here: SimulatedNvml) -> Nvml:
    opened = Nvml(deadline_s=1.0)
    opened.open()
    return opened


def unknown_in(reading: Reading) -> set[str]:
    return {name for name in Reading.__slots__ if getattr(reading, name) is None}


def test_a_reading_has_every_figure(nvml: Nvml) -> None:
    with process_on_gpu(A100) as process:
        reader = GpuReader(nvml, A100)
        reading = reader.read()
        assert unknown_in(reading) == set()
        assert reader.unknown == {}
        assert reading.processes == {process.pid: reading.used_bytes}
    assert reading.used_bytes is not None
    assert reading.used_bytes > 2**20
    assert (reading.power_watts or 0) >= 50
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz, reading.throttle) == (1410, 1593, ())


@pytest.mark.parametrize("figure", FUNCTION_OF)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_what_is_not_supported_is_unknown_with_its_reason_and_never_zero(
    nvml: Nvml, gpus_here: SimulatedNvml, figure: str, code: int
) -> None:
    gpus_here.show(ONE_GPU, *(f"answer {function} {code}" for function in FUNCTION_OF[figure]))
    reader = GpuReader(nvml, A100)
    assert unknown_in(reader.read()) == {figure}
    assert set(reader.unknown) == {figure}
    assert str(pynvml.NVMLError(code)) in reader.unknown[figure]
    gpus_here.show(ONE_GPU)
    assert unknown_in(reader.read()) == set()
    assert reader.unknown == {}


@pytest.mark.parametrize("figure", FUNCTION_OF)
def test_a_library_without_a_symbol(
    figure: str, gpus: SimulatedNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = build_library(tmp_path / "old", *FUNCTION_OF[figure])
    use_in_this_process(SimulatedNvml(library, tmp_path / "orders"), monkeypatch)
    reader = GpuReader(Nvml(), A100)
    assert unknown_in(reader.read()) == {figure}
    assert "Function Not Found" in reader.unknown[figure]


@pytest.mark.parametrize("figure", [name for name, functions in FUNCTION_OF.items() if len(functions) > 1])
def test_the_older_function_answers_where_the_newer_is_missing(
    figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = build_library(tmp_path / "old", FUNCTION_OF[figure][0], "nvmlDeviceGetGraphicsRunningProcesses_v3")
    use_in_this_process(SimulatedNvml(library, tmp_path / "orders"), monkeypatch)
    reader = GpuReader(Nvml(), A100)
    assert unknown_in(reader.read()) == set()
    assert reader.unknown == {}


def test_a_call_that_hangs_costs_its_own_figure_and_comes_back(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    reader = GpuReader(nvml, A100)
    gpus_here.show(ONE_GPU, "hang nvmlDeviceGetUtilizationRates")
    first = reader.read()
    assert first.used_bytes is not None  # asked before
    assert first.utilization is None
    assert first.power_watts is None  # cut off
    assert reader.unknown["utilization"] == "nvmlDeviceGetUtilizationRates: no answer within 1 s"
    begin = time.monotonic()
    assert unknown_in(reader.read()) == {"utilization"}
    assert time.monotonic() - begin < 1.0
    assert "has not answered since an earlier call" in reader.unknown["utilization"]
    gpus_here.show(ONE_GPU)
    deadline = time.monotonic() + 10
    while unknown_in(reader.read()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert reader.unknown == {}


def test_where_everything_hangs_nobody_waits_again(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    reader = GpuReader(nvml, A100)
    names = [name for functions in FUNCTION_OF.values() for name in functions]
    gpus_here.show(ONE_GPU, *(f"hang {name}" for name in names))
    for _ in range(3):
        reader.read()
    begin = time.monotonic()
    assert unknown_in(reader.read()) == set(Reading.__slots__)
    assert time.monotonic() - begin < 0.5
    assert "NVML does not answer: nvmlDeviceGet" in reader.unknown["power_watts"]
    gpus_here.show(ONE_GPU)


def test_a_task_that_fails_fails_where_it_was_asked(nvml: Nvml) -> None:
    with pytest.raises(ZeroDivisionError):
        nvml.run(lambda: 1 // 0)
    with pytest.raises(Unknown, match="nvmlDeviceGetHandleByUUID: Not Found"):
        nvml.run(lambda: nvml.ask((pynvml.nvmlDeviceGetHandleByUUID, "GPU-nobody")))
    with pytest.raises(NvmlSilent, match=r"NVML did not answer within 0.05 s"):
        nvml.run(lambda: time.sleep(0.3), 0.05)
    assert nvml.run(lambda: 1) == 1


def test_a_lost_gpu_is_an_error_and_not_a_figure(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    reader = GpuReader(nvml, A100)
    gpus_here.show(ONE_GPU, *SPLIT_GPU, f"lost {A100}")
    with pytest.raises(DeviceError, match="nvmlDeviceGetMemoryInfo: GPU is lost"):
        reader.read()
    with pytest.raises(DeviceError, match="GPU is lost"):
        GpuReader(nvml, A100)
    lost, split, *_ = find_gpus(nvml)
    assert "GPU is lost" in str(lost.unusable)
    assert split.unusable is None
    with pytest.raises(DeviceError, match=r"--device gpu:0: .*GPU is lost"):
        find_gpu(nvml, "gpu:0")
    with pytest.raises(DeviceError, match=r"GPU GPU-nobody: .*Not Found"):
        GpuReader(nvml, "GPU-nobody")


def test_gpus_and_their_mig_devices_are_listed_and_found(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    gpus_here.show(ONE_GPU, *SPLIT_GPU)
    whole, split, small, large = find_gpus(nvml)
    assert (whole.spec, whole.uuid, whole.memory_bytes) == ("gpu:0", A100, 80 * 2**30)
    assert (whole.driver, whole.cuda, whole.compute_mode) == ("550.00.simulated", "12.4", "default")
    assert (split.mig_mode, split.mig_devices) == (True, (MIG_1G, MIG_3G))
    assert (small.spec, small.mig_profile, small.parent_uuid, small.name) == ("gpu:1:0", "1g.10gb", SPLIT, split.name)
    assert (large.mig_profile, large.memory_bytes) == ("3g.40gb", 40192 * 2**20)
    for spec in ("gpu:0", A100, A100.lower()):
        assert find_gpu(nvml, spec) == whole
    for spec in ("gpu:1:1", MIG_3G):
        assert find_gpu(nvml, spec) == large
    with pytest.raises(InputError, match="in MIG mode") as refused:
        find_gpu(nvml, "gpu:1")
    assert refused.value.hint == "name one of its MIG devices: gpu:1:0 1g.10gb; gpu:1:1 3g.40gb"
    with pytest.raises(InputError, match=f"gpu:7: there is no such GPU; there are gpu:0 {A100}; gpu:1"):
        find_gpu(nvml, "gpu:7")
    with pytest.raises(InputError, match="write gpu:0, gpu:0:1 for a MIG device"):
        find_gpu(nvml, "gpu:first")


@pytest.mark.parametrize(
    ("gpu_mib", "mig_mib", "slices", "profile"),
    [
        (24576, 5952, 1, "1g.6gb"),
        (40960, 4864, 1, "1g.5gb"),
        (81920, 19968, 1, "1g.20gb"),
        (81920, 80640, 7, "7g.80gb"),
        (143771, 16896, 1, "1g.18gb"),
        (143771, 71424, 3, "3g.71gb"),
        (183359, 22016, 1, "1g.23gb"),
    ],
)
def test_the_profile_of_a_mig_device(
    nvml: Nvml, gpus_here: SimulatedNvml, gpu_mib: int, mig_mib: int, slices: int, profile: str
) -> None:
    gpus_here.show(f"gpu {SPLIT} {gpu_mib} 0 1 NVIDIA GPU", f"mig {MIG_1G} {mig_mib} {slices}")
    assert find_gpu(nvml, MIG_1G).mig_profile == profile


def test_a_library_that_knows_neither_mig_nor_limits_still_lists(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    refused = ("nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetEnforcedPowerLimit")
    gpus_here.show(ONE_GPU, *(f"answer {name} 3" for name in refused))
    [gpu] = find_gpus(nvml)
    assert not gpu.mig_mode
    assert gpu.power_limit_watts is None
    assert gpu.unknown["power_limit_watts"] == "nvmlDeviceGetEnforcedPowerLimit: Not Supported"


def test_what_pynvml_itself_stumbles_over_is_unknown_too(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    gpus_here.show(ONE_GPU.replace("NVIDIA", "\udcff"))  # a name that is no UTF-8
    [gpu] = find_gpus(nvml)
    assert "nvmlDeviceGetName: UnicodeDecodeError" in str(gpu.unusable)
    assert unknown_in(GpuReader(nvml, A100).read()) == set()


def test_no_list_is_an_error(nvml: Nvml, gpus_here: SimulatedNvml) -> None:
    gpus_here.show(ONE_GPU, "answer nvmlDeviceGetCount_v2 999")
    with pytest.raises(DeviceError, match=r"does not list the GPUs .*nvmlDeviceGetCount: Unknown Error"):
        find_gpus(nvml)


@pytest.mark.parametrize(
    ("line", "text"),
    [("answer nvmlInitWithFlags 9", "Driver Not Loaded"), ("hang nvmlInitWithFlags", "no answer within 0.2 s")],
)
def test_a_driver_that_does_not_start_is_told(gpus_here: SimulatedNvml, line: str, text: str) -> None:
    gpus_here.show(line)
    with pytest.raises(SetupError, match=text):
        Nvml(0.2).open()
    gpus_here.show(ONE_GPU)


def test_without_a_library_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    code = "from profiler.devices.nvml import Nvml\ntry: Nvml().open()\nexcept Exception as error: print(repr(error))"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "Error" not in done.stdout:
        pytest.skip("this machine has NVIDIA's driver")
    assert "SetupError('NVML cannot be used: nvmlInit: NVML Shared Library Not Found')" in done.stdout
