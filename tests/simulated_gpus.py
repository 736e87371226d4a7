"""GPUs that are simulated in NVML's library (simulated_nvml/simulated_nvml.c): for pynvml they are real."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).parent / "simulated_nvml" / "simulated_nvml.c"
LIBRARY = "libnvidia-ml.so.1"
# Of this run of tests alone: a process of another one, or left by it, is not on these devices.
_RUN = f"{os.getpid():08x}-0000-0000-0000"
A100 = f"GPU-{_RUN}-00000000a100"
SPLIT = f"GPU-{_RUN}-0000000051ed"
MIG_1G = f"MIG-{_RUN}-000000000010"
MIG_3G = f"MIG-{_RUN}-000000000040"
ONE_GPU = f"gpu {A100} 81920 0 0 NVIDIA A100-SXM4-80GB"
SPLIT_GPU = (
    f"gpu {SPLIT} 81920 0 1 NVIDIA A100-SXM4-80GB",
    f"mig {MIG_1G} 9728 1",
    f"mig {MIG_3G} 40192 3",
)
MIB = 2**20


def build_library(folder: Path, *missing: str) -> Path:
    """Compile the library into a folder, without the symbols in `missing`; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, the simulated NVML cannot be built")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-std=c11", "-pthread"]
    command += [f"-D{name}=absent_{name}" for name in missing]
    subprocess.run([*command, f"-Wl,-soname,{LIBRARY}", "-o", str(target), str(SOURCE)], check=True)
    return target


class SimulatedNvml:
    """The library and the file that tells it what to show; `environment` makes another process use both."""

    def __init__(self, library: Path, orders: Path) -> None:
        self._orders = orders
        self.library = library
        self.environment = {"LD_LIBRARY_PATH": str(library.parent), "SIMULATED_NVML": str(orders)}
        self.show(ONE_GPU)

    def show(self, *lines: str) -> None:
        unfinished = self._orders.with_suffix(".unfinished")
        unfinished.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
        unfinished.replace(self._orders)


def use_in_this_process(simulated: SimulatedNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pynvml believe that it has loaded this library."""
    monkeypatch.setenv("SIMULATED_NVML", simulated.environment["SIMULATED_NVML"])
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(simulated.library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


@contextmanager
def process_on_gpu(uuid: str, code: str = "import time; time.sleep(600)") -> Iterator[subprocess.Popen[str]]:
    """A Python process that is on the device by CUDA's own rule. `code` runs once it has printed a line."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
    command = [sys.executable, "-c", f"print('ready', flush=True)\n{code}"]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
