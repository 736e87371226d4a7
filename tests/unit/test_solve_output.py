"""What `planner solve` prints, and its one clear error for each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.cli import run
from planner.commands import plan_view
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Device, Objective, Problem
from tests.problems import devices, model, option, problem

PROFILES = """\
model,device,backend,instances,max_batch_size,rate_rps,latency_p99_ms,memory_bytes,busy
@server,A100-80,,,,,,500000000,
ranker,A100-80,onnxruntime,1,8,100,11.4,2000000000,0.5
ranker,A100-80,onnxruntime,2,8,150,12.5,4000000000,0.9
huge,A100-80,onnxruntime,1,8,100,5,90000000000,0.5
"""
WORKLOAD = "schema_version: 1\nmodels:\n  - {name: NAME, rate_rps: 120, latency_p99_ms: 25}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "profiles.csv").write_text(PROFILES)
    write(tmp_path)
    return tmp_path


def write(folder: Path, name: str = "ranker", old: str = "", new: str = "") -> None:
    (folder / "workload.yaml").write_text(WORKLOAD.replace("NAME", name).replace(old, new))


def solve(*arguments: str) -> int:
    return run(["solve", "--solver", "greedy", "--profiles", "profiles.csv", *arguments])


def _plan(subject: Problem, *pairs: tuple[str, str]) -> Plan:
    placements = [Placement(replica=f"r{i}", option=o, device=d) for i, (o, d) in enumerate(pairs)]
    bounds = [(None, "none")] * len(subject.objectives)
    origin = Origin(status=Status.FEASIBLE, solver="test", seed=0, runtime_s=0.0, bounds=bounds)
    return derive_plan(subject, placements, origin)


def test_gpus_with_the_same_contents_are_shown_once() -> None:
    subject = problem([model(demand_mrps=3000)], fleet=devices(count=9))
    plan = _plan(subject, *(("m@big", f"big/{i}") for i in range(9)))
    assert list(plan_view.placement(plan, subject, 20)) == [
        "9 x big, 4 of 12 B, busy 10%: big/0, big/1, big/2, big/3 and 5 more",
        "    m  1 x batch 1  1 req/s",
    ]


def test_slices_are_named_under_their_gpu() -> None:
    fleet = [Device(id=f"node/0/1g@{i}", gpu="node/0", kind="big") for i in (0, 4)]
    subject = problem(fleet=fleet)
    plan = _plan(subject, ("m@big", "node/0/1g@0"), ("m@big", "node/0/1g@4"))
    lines = list(plan_view.placement(plan, subject, 20))
    assert [line for line in lines if not line.startswith("    ")] == [
        "big: node/0", "  1g@0: 4 of 12 B, busy 10%", "  1g@4: 4 of 12 B, busy 10%",
    ]  # fmt: skip


def test_what_is_not_shown_is_counted() -> None:
    subject = problem([model("a"), model("b")], [option("a"), option("b")], fleet=devices(count=2))
    plan = _plan(subject, ("a@big", "big/0"), ("b@big", "big/1"))
    assert list(plan_view.placement(plan, subject, 1))[-1] == "... and 1 more GPU"


def test_what_stays_unserved_comes_first() -> None:
    subject = replace(problem(), allow_unserved=True, objectives=(Objective.UNSERVED,))
    assert plan_view.headline(_plan(subject), subject) == (
        "1 req/s of 1 model unserved; feasible: 0 replicas on 0 of 1 GPU"
    )


@pytest.mark.parametrize(("planned_mrps", "text"), [(1200, "0.2"), (1000, "0")])
def test_the_headroom_is_the_one_planned_with(planned_mrps: int, text: str) -> None:
    subject = problem([model("m", planned_mrps, rate_mrps=(1000,))])
    first = next(plan_view.figures(_plan(subject), subject, time_limit_s=60, gap=0))
    assert first.startswith(f"headroom {text}, utilization 0.8")


def test_headrooms_that_differ_are_shown_as_a_range() -> None:
    models = [model("a", 1100, rate_mrps=(1000,)), model("b")]
    subject = problem(models, [option("a"), option("b")])
    first = next(plan_view.figures(_plan(subject), subject, time_limit_s=60, gap=0))
    assert first.startswith("headroom 0 to 0.1,")


def test_a_plan_fits_into_eighty_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solve("--gpus", "2xA100", "--headroom", "0.25") == 0
    output = capsys.readouterr().out
    assert "headroom 0.25, utilization 0.8, reserve 0.05, MIG margin 0.05" in output
    assert "ranker  2 x batch 8  150 req/s  p99 12.5 of 25 ms" in output
    assert max(map(len, output.splitlines())) <= 80
    assert (folder / "plan" / "problem.json").exists()


@pytest.mark.parametrize(
    ("arguments", "old", "new", "expected"),
    [
        (["--gpus", "8xTITAN"], "", "", ["error: unknown GPU type 'TITAN'", "did you mean TITAN-RTX?"]),
        (["--gpus", "8xA100"], "rate_rps", "rat_rps", ["workload.yaml:3: models[0].rat_rps: unknown key", "rate_rps"]),
        (["--gpus", "8xA100"], "120", "-1", ["workload.yaml:3: models[0].rate_rps: must be at least 0", "got -1"]),
        (["--gpus", "8xA100"], "ranker", "rankre",
         ["workload.yaml: model 'rankre' has no profile; models with profiles: huge, ranker", "did you mean ranker?"]),
        (["--gpus", "8xL4"], "", "", ["workload.yaml: model 'ranker' has no profile on L4; it was measured on A100"]),
        (["--gpus", "8xA100", "--minimize", "gpu"], "", "", ["--minimize: unknown objective 'gpu'; allowed are"]),
        (["--gpus", "8xA100", "--profiles", "none.csv"], "", "", ["none.csv: there is no such file"]),
        (["--gpus", "8xA100"], "rate_rps: 120", "rate_rps: 120, allowed_gpu: [A1000]",
         ["workload.yaml: model 'ranker': allowed_gpu names the unknown type 'A1000'", "the fleet offers A100-80"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_error(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], old: str, new: str, expected: list[str]
) -> None:
    write(folder, old=old, new=new)
    assert solve(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert all(text in error for text in expected)
    assert not (folder / "plan").exists()


def test_a_store_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["solve", "--gpus", "1xA100", "--store", "sqlite:///none.db"]) == 2
    assert "store none.db: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("ranker", "25", "8", "ranker on A100-80: a p99 of 8 ms cannot be met: 11.4 ms at best (1 x batch 8)"),
        ("huge", "", "", "huge on A100-80: needs at least 83.8 GiB of memory, 75.3 GiB are usable"),
    ],
)
def test_one_reason_for_all_configurations(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, reason: str
) -> None:
    write(folder, name, old, new)
    assert solve("--gpus", "8xA100") == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: infeasible: no placement on 8 A100-80 keeps every rule",
        f"  - {reason}",
    ]
