"""What this machine offers for measuring, as plain data; `planner doctor` prints it.

No check raises, and none imports what it looks for into this process, but for the library of NVIDIA's driver.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import PlannerError
from profiler.load.perf_analyzer_binary import INSTALL_HINT, find_perf_analyzer
from profiler.server.find import (
    PYTHON_VERSION,
    TritonInstallation,
    find_triton,
    python_library_directory,
    python_library_is_known_to_the_loader,
)
from profiler.server.local import LocalTriton

if TYPE_CHECKING:
    from profiler.devices.gpu_list import GpuFacts
    from profiler.devices.nvml import Nvml

GIB = 1024**3
RUN_TIMEOUT_S = 20.0
NVML_DEADLINE_S = 5.0
# Each instance of a Python-backend model takes 1 MiB at first and grows with its tensors.
SHM_NEEDED_BYTES = 256 * 1024**2
TRIAL_S = 15.0
TRIAL_CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
TRIAL_MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]) for x in inputs]
"""
PERF_ANALYZER_HINT = f"{INSTALL_HINT}; the built-in load generator works without"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report; `hint` says what to do, and is None where `ok` is true."""

    name: str
    ok: bool
    found: str
    hint: str | None = None


def _check(name: str, ok: bool, found: str, hint: str) -> Check:
    return Check(name, ok, found, None if ok else hint)


def checks(explicit: Path | None = None) -> list[Check]:
    """Every check, in the order in which they are of use; `explicit` as in `find_triton`."""
    return [
        *_triton_checks(explicit),
        _python_library(),
        _onnxruntime(),
        _perf_analyzer(),
        *_gpus(),
        _cores(),
        _memory(),
        _glibc(),
        _shared_memory(),
    ]


def _triton_checks(explicit: Path | None) -> Iterator[Check]:
    try:
        installation = find_triton(explicit)
    except PlannerError as error:
        yield Check("triton", False, error.message, error.hint)
        return
    with tempfile.TemporaryDirectory(prefix="planner-doctor-") as scratch:
        yield from _trial(installation, Path(scratch))


def _trial(installation: TritonInstallation, scratch: Path) -> Iterator[Check]:
    """Only a server that runs tells its version, and only a model that loads shows that the stub works."""
    where = f"{installation.binary}, from {installation.origin}"
    repository = scratch / "models"
    (repository / "trial" / "1").mkdir(parents=True)
    (repository / "trial" / "config.pbtxt").write_text(TRIAL_CONFIG)
    (repository / "trial" / "1" / "model.py").write_text(TRIAL_MODEL)
    try:
        server = LocalTriton.start(
            installation, repository, cores=None, gpu_uuid="", ready_timeout_s=TRIAL_S, log_path=scratch / "log"
        )
    except PlannerError as error:
        yield Check("triton", False, f"{where}: {_words(error)}", "reinstall it, or take another: --triton-server")
        return
    with server:
        yield Check("triton", True, f"{server.server_version}, {where}")
        yield _python_backend(server)


def _python_backend(server: LocalTriton) -> Check:
    name, asked = "python-backend", [1.0, 2.0, 3.0]
    try:
        server.load("trial", timeout_s=TRIAL_S)
        answered = server.infer_once("trial", "x", asked, "y")
    except PlannerError as error:
        hint = f"is there a stub for Python {PYTHON_VERSION}, executable, with every library that it needs?"
        return Check(name, False, _words(error), hint)
    # A stub built for another NumPy loads and answers, with the wrong numbers or with none.
    return _check(
        name,
        answered == [2 * number for number in asked],
        f"a model of Python {PYTHON_VERSION} doubles {asked}: {answered}",
        "the stub was built for another NumPy than the models import: try one with numpy<2",
    )


def _words(error: PlannerError) -> str:
    last = (error.log_tail or "").splitlines()[-1:]
    return " / ".join([error.message, *last])


def _python_library() -> Check:
    directory = python_library_directory()
    known = python_library_is_known_to_the_loader()
    return _check(
        "libpython",
        directory is not None or known,
        str(directory) if directory else ("known to the loader" if known else "not found"),
        f"the stub needs libpython{PYTHON_VERSION}.so.1.0: install libpython{PYTHON_VERSION}, or a Python "
        "built with --enable-shared",
    )


def _onnxruntime() -> Check:
    ok, said = _run([sys.executable, "-c", "import onnxruntime; print(onnxruntime.__version__)"])
    return _check("onnxruntime", ok, said, "only the example models need it: pip install 'planner[examples]'")


def _perf_analyzer() -> Check:
    try:
        found = find_perf_analyzer()
    except PlannerError as error:
        return Check("perf_analyzer", False, error.message, PERF_ANALYZER_HINT)
    return Check("perf_analyzer", True, f"{found.version}, {found.command[-1]}, from {found.origin}")


def _gpus() -> Iterator[Check]:
    from profiler.devices.gpu_list import find_gpus
    from profiler.devices.nvml import Nvml

    nvml = Nvml(NVML_DEADLINE_S)
    try:
        nvml.open()
        gpus = find_gpus(nvml)
    except PlannerError as error:
        yield Check("nvml", False, error.message, "GPUs can be planned for here, not measured")
        return
    versions = next((f"driver {gpu.driver}, NVML {gpu.nvml}" for gpu in gpus if gpu.driver), "no GPU")
    yield _check("nvml", bool(gpus), versions, "NVIDIA's driver is there, and names no GPU")
    for gpu in gpus:
        yield _gpu(nvml, gpu)


def _gpu(nvml: Nvml, gpu: GpuFacts) -> Check:
    from profiler.devices.gpu_reading import GpuReader

    hint = "this GPU cannot be measured: look into the kernel's log"
    if gpu.unusable is not None:
        return Check(gpu.spec, False, gpu.unusable, hint)
    try:
        reader = GpuReader(nvml, gpu.uuid)
        reader.read()
    except PlannerError as error:
        return Check(gpu.spec, False, error.message, hint)
    name = gpu.name if gpu.mig_profile is None else f"MIG {gpu.mig_profile} of {gpu.name}"
    memory = "memory unknown" if gpu.memory_bytes is None else f"{gpu.memory_bytes / GIB:.1f} GiB"
    parts = [name, memory, gpu.uuid]
    if gpu.mig_mode:
        parts.append(f"in MIG mode, with {len(gpu.mig_devices)} MIG devices")
    if gpu.compute_mode not in ("default", None):
        parts.append(f"compute mode {gpu.compute_mode}")
    parts += [f"{what} unknown ({reason})" for what, reason in {**gpu.unknown, **reader.unknown}.items()]
    return Check(gpu.spec, True, ", ".join(parts))


def _cores() -> Check:
    usable = sorted(os.sched_getaffinity(0))
    return _check(
        "cores",
        len(usable) >= 2,
        f"{len(usable)} usable of {os.cpu_count()}: {', '.join(map(str, usable))}",
        "with one core the load generator and the server take it from each other: figures will be low",
    )


def _memory() -> Check:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total_bytes = os.sysconf("SC_PHYS_PAGES") * page_bytes
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * page_bytes
    return _check(
        "memory",
        total_bytes >= 2 * GIB,
        f"{total_bytes / GIB:.1f} GiB, {free_bytes / GIB:.1f} GiB free",
        "Triton and a model of ordinary size need 2 GiB",
    )


def _glibc() -> Check:
    name, version = platform.libc_ver()
    return _check(
        "glibc",
        name == "glibc",
        f"{name} {version}".strip() or "not glibc",
        "Triton is built for glibc: use a Debian, Ubuntu or Red Hat system",
    )


def _shared_memory() -> Check:
    try:
        free_bytes = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        return Check("shared-memory", False, str(error), "Python models need /dev/shm")
    return _check(
        "shared-memory",
        free_bytes >= SHM_NEEDED_BYTES,
        f"{free_bytes / GIB:.2f} GiB free in /dev/shm",
        "Python models pass tensors through it: start the container with --shm-size=1g",
    )


def _run(command: list[str]) -> tuple[bool, str]:
    """Whether a command ended well, and its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"
