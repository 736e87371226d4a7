"""From Model Analyzer's own measurements of two networks on a TITAN RTX to a plan, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared_data import shared_file

from planner.cli import run

WORKLOAD = """\
schema_version: 1
models:
  - {name: resnet50_libtorch, rate_rps: 600, latency_p99_ms: 50}
  - {name: vgg19_libtorch, rate_rps: 300, latency_p99_ms: 50}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    checkpoint = shared_file("model_analyzer/resnet50_libtorch/0.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["profiles", "import", str(checkpoint)]) == 0
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    return tmp_path


def test_eight_gpus_are_enough_and_four_are_proven_to_be_needed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["solve", "--gpus", "8xTITAN-RTX"]) == 0
    output = capsys.readouterr().out
    plan = json.loads((project / "plan" / "plan.json").read_text())
    assert plan["status"] == "optimal"
    assert plan["summary"]["gpus_used"] == 4
    assert plan["objectives"][0]["bound"] == 4
    assert output.startswith("optimal: ")
    assert max(map(len, output.splitlines())) <= 80
    assert run(["check", "plan"]) == 0


def test_two_gpus_are_not_and_the_answer_says_what_is_missing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["solve", "--gpus", "2xTITAN-RTX"]) == 3
    error = capsys.readouterr().err
    assert "infeasible: no placement on 2 TITAN-RTX keeps every rule" in error
    assert "fleet: 2 more TITAN-RTX would be enough, fewer would not" in error
    assert "req/s of resnet50_libtorch" in error
    assert "req/s of vgg19_libtorch" in error
    assert not (project / "plan").exists()
