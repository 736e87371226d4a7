"""A search that is stopped, by Ctrl-C or by its time limit, leaves its best checked plan."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODELS = 20
# What planner may take beside the search: start, import of the solver, build, check, write.
BESIDE_S = 15


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    """A project folder whose problem is not solved to optimality within a minute."""
    rng = random.Random(7)
    columns = "model,device,backend,instances,max_batch_size,rate_rps,latency_p99_ms,memory_bytes,busy"
    rows = [columns, "@server,A100-80,,,,,,500000000,"]
    demands = ["schema_version: 1", "models:"]
    for index in range(MODELS):
        rate = rng.randint(80, 400)
        for instances in (1, 2, 3):
            memory, busy = rng.randint(3, 9) * instances * 10**9, min(1, rng.uniform(0.12, 0.3) * instances)
            rows.append(
                f"m{index},A100-80,onnxruntime,{instances},8,{0.8 * rate * instances:.0f},9,{memory},{busy:.3f}"
            )
        demands.append(f"  - {{name: m{index}, rate_rps: {rng.randint(100, 900)}, latency_p99_ms: 100}}")
    (tmp_path / "profiles.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "workload.yaml").write_text("\n".join(demands) + "\n")
    return tmp_path


def _solve(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    script = "from planner.cli import main; main()"
    command = [sys.executable, "-c", script, "solve", "--gpus", "60xA100", "--profiles", "profiles.csv",
               "--optimistic-latency", *arguments]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _holds(folder: Path) -> bool:
    script = "from planner.cli import main; main()"
    return subprocess.run([sys.executable, "-c", script, "check", "plan"], cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_best_plan(hard: Path, number: signal.Signals) -> None:
    process = _solve(hard, "--time-limit", "300")
    time.sleep(5)
    started = time.monotonic()
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert time.monotonic() - started < BESIDE_S
    assert output.startswith("feasible: ")
    assert "stopped early: the best plan found so far is in plan" in error
    assert json.loads((hard / "plan" / "plan.json").read_text())["status"] == "feasible"
    assert _holds(hard)


def test_the_time_limit_is_kept(hard: Path) -> None:
    started = time.monotonic()
    process = _solve(hard, "--time-limit", "3")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - started < 3 + BESIDE_S
    assert json.loads((hard / "plan" / "plan.json").read_text())["runtime_s"] < 3 + BESIDE_S
    assert _holds(hard)
