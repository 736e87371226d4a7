"""What tests of several folders share: a real tritonserver and real models, fetched on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import SetupError
from profiler.cache import cache_directory
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary, find_perf_analyzer, install_perf_analyzer
from profiler.server.find import TritonInstallation, find_triton, install_wheel
from solvers.columns.compiled import compiled
from tests.simulated_gpus import SimulatedNvml, build_library, use_in_this_process

BUILD_MODELS = Path(__file__).parent.parent / "examples" / "cpu" / "build_models.py"


@pytest.fixture(scope="session", autouse=True)
def compiled_search() -> None:
    """Compiling on a new machine must not eat the time limits of tests, which are short."""
    assert compiled(600) is not None


@pytest.fixture(scope="session")
def triton() -> TritonInstallation:
    try:
        return find_triton()
    except SetupError:
        return install_wheel()


@pytest.fixture(scope="session")
def example_models() -> Path:
    """The model repository of examples/cpu. Shared and kept: copy a model before changing it."""
    repository = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(repository)], check=True)
    return repository


@pytest.fixture(scope="session")
def perf_analyzer() -> PerfAnalyzerBinary:
    """The real one, set up in Planner's cache where this machine has none that runs."""
    try:
        return find_perf_analyzer()
    except SetupError:
        pass
    try:
        return install_perf_analyzer()
    except SetupError as error:
        pytest.skip(f"perf_analyzer cannot be had here: {error.message}")


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpus(nvml_library: Path, tmp_path: Path) -> SimulatedNvml:
    """Simulated GPUs for other processes: one A100 until `show` says otherwise."""
    return SimulatedNvml(nvml_library, tmp_path / "nvml.orders")


@pytest.fixture
def gpus_here(gpus: SimulatedNvml, monkeypatch: pytest.MonkeyPatch) -> SimulatedNvml:
    """The same in this process."""
    use_in_this_process(gpus, monkeypatch)
    return gpus
