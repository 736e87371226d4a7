"""The benchmarks' instances and peers: small enough to run in every test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from shared_data import REPOSITORY, shared_file
from studies import load

from planner.domain.check import check_placements
from planner.domain.plan import Status
from planner.domain.problem import Problem, problem_from_json
from planner.plan_files import read_json
from solvers.base import SolveResult
from tests.any_problem import solve_as

SOLVER = REPOSITORY / "benchmarks" / "solver"
INSTANCES = sorted((SOLVER / "instances").glob("*.json"))


@pytest.fixture
def smallest() -> Problem:
    path = min(INSTANCES, key=lambda path: path.stat().st_size)
    return problem_from_json(read_json(path), str(path))


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.stem)
def test_an_instance_is_what_its_seed_gives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = load("make_instances", SOLVER, monkeypatch)
    style, size, seed = path.stem.split("-")
    assert problem_from_json(read_json(path), str(path)) == make.instance(style, int(size), int(seed))
    assert path.stat().st_size < 50_000


@pytest.mark.parametrize("peer", ["model_by_model", "first_fit_decreasing", "textbook_program"])
def test_a_peer_keeps_the_rules(peer: str, smallest: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", SOLVER, monkeypatch)
    found = peers.textbook_program(smallest, 5.0)[0] if peer == "textbook_program" else getattr(peers, peer)(smallest)
    assert check_placements(smallest, tuple(found)) == []


def test_the_study_of_two_real_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = shared_file("model_analyzer/resnet50_libtorch/0.ckpt")
    study = load("run", REPOSITORY / "benchmarks" / "titan_rtx", monkeypatch)
    monkeypatch.setattr(study, "RATES", [(100, 60)])
    monkeypatch.setattr(study, "SERVICES", (1,))
    study.main([str(checkpoint)])
    output = capsys.readouterr().out
    assert "| 100 | 60 | 2 | 1 | 1 | 0.50 | 1 | 1 | 0.50 |" in output
    assert "| 1 | 1,572 | 2,058 | 3,121 | 2,228 | 893 | 40% |" in output


def test_a_part_of_the_production_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_file("openb/openb_node_list_gpu_node.csv").parent
    study = load("run", REPOSITORY / "benchmarks" / "openb", monkeypatch)
    nodes, tasks = study.read_nodes(folder)[::100], study.read_tasks(folder, "gpuspec10")[::100]
    assert any(task.types for task in tasks)
    found = study.outcome(nodes, tasks, 3.0)
    assert (found.violations, found.tasks) == (0, len(tasks))
    assert 0.8 < found.allocated <= found.most <= found.asked


def test_the_study_of_the_solvers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    study = load("run", SOLVER, monkeypatch)
    study.main(["--seconds", "1", str(INSTANCES[0])])
    output = capsys.readouterr().out
    assert output.startswith("| instance | own GPUs | first fit | greedy | cpsat | SCIP | bound | gap |")
    assert "| cpsat | 1 | 1.000 | 1.000 |" in output


@pytest.mark.parametrize(("name", "networks", "gpus"), [("S1", 6, 2), ("S2", 11, 3), ("S3", 11, 5), ("S4", 11, 7)])
def test_the_study_of_mig_layouts_proves_what_was_published(
    name: str, networks: int, gpus: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more time than the study has, because the search may have to be compiled first."""
    study = load("run", REPOSITORY / "benchmarks" / "parvagpu", monkeypatch)
    study.main([name, "--seconds", "60", "--folder", str(shared_file("parvagpu"))])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| {name} | {networks} | {gpus} | {gpus} | {gpus} | {gpus} | ")


def test_the_study_of_mig_layouts_with_ten_times_the_traffic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load("run", REPOSITORY / "benchmarks" / "parvagpu", monkeypatch)
    study.main(["S1", "--times", "10", "--seconds", "60", "--folder", str(shared_file("parvagpu"))])
    assert capsys.readouterr().out.splitlines()[-1].startswith("| S1 x 10 | 6 | 9 | - | 9 | 9 | ")


def test_the_study_of_all_rules_finds_no_fault_and_would_find_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load("run", REPOSITORY / "benchmarks" / "rules", monkeypatch)
    study.main(["--problems", "5"])
    assert capsys.readouterr().out.endswith("faults: 0\n")

    def boastful(name: str, subject: Problem) -> SolveResult:
        result = solve_as("greedy", subject)
        return replace(result, status=Status.INFEASIBLE if result.placements is None else Status.OPTIMAL)

    monkeypatch.setattr(study, "solve_as", boastful)
    with pytest.raises(SystemExit):
        study.main(["--problems", "12", "--keep", str(tmp_path)])
    assert "  1: cpsat: " in capsys.readouterr().out
    kept = problem_from_json(read_json(tmp_path / "1-cpsat.json"), "kept")
    assert kept.objectives
