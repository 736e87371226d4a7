"""Some of the faults of benchmarks/faults, one of each kind that is quickly over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profiler.server.find import TritonInstallation

RUN = Path(__file__).parents[2] / "benchmarks" / "faults" / "run.py"
FAULTS = (
    "server killed in a window", "hang at load", "hang in a closed loop", "simulated by SIGKILL",
    "exception in initialize", "output of another shape", "limit of file sizes", "built-in generator killed",
    "planner itself killed", "model replaced",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_survives_faults(triton: TritonInstallation, example_models: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--jobs", "2", "--only", *FAULTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FAULTS)} survived" in done.stdout
