"""The files of the examples belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli import run
from planner.domain.plan import Plan, Status
from planner.domain.problem import Problem
from planner.explain import explain_plan
from planner.inputs.measure_config import read_measure_config
from planner.inputs.workload import read_workload
from planner.plan_files import read_plan
from planner.report.page import page

CPU = Path(__file__).parents[2] / "examples" / "cpu"


def test_the_demo_plans_three_of_the_models_as_the_whole_example_does() -> None:
    every = read_workload(CPU / "workload.yaml").models
    demo = read_workload(CPU / "demo-workload.yaml").models
    assert len(demo) == 3
    assert all(model in every for model in demo)
    assert {model.name for model in every} == {path.stem for path in (CPU / "configs").glob("*.pbtxt")}


def test_slow_models_are_held_to_a_p95_and_the_demo_ends_in_time() -> None:
    for model in read_workload(CPU / "workload.yaml").models:
        rate = max((model.rates_rps or {}).values())
        assert model.percentile == (95 if rate < 50 else 99)
    sweep = read_measure_config(CPU / "measure.yaml")
    assert (sweep.instances, sweep.max_batch_sizes, sweep.open_levels) == ((1, 2), (1, 4), (1, 2, 3))
    assert (sweep.open_of, sweep.budget_s) == ("planned", 240)


EXAMPLES = Path(__file__).parents[2] / "examples"


def solved(name: str, tmp_path: Path, *arguments: str) -> tuple[Problem, Plan]:
    """The example's plan as `planner solve` writes it, and the check has passed it."""
    folder, out = EXAMPLES / name, tmp_path / "plan"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, "-o", str(out), "--time-limit", "20", *arguments]) == 0
    assert run(["check", str(out)]) == 0
    return read_plan(out)


def test_periods_share_a_gpu_where_their_peaks_do_not_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, plan = solved("periods", tmp_path, "--gpus", "2xL4")
    assert (plan.status, plan.summary.gpus_used, problem.periods) == (Status.OPTIMAL, 1, ("day", "night"))
    busy = {r.model: [p.busy for p in r.periods] for r in plan.replicas}
    assert max(map(sum, zip(*busy.values(), strict=True))) <= 0.8 < sum(max(b) for b in busy.values())
    printed = capsys.readouterr().out
    assert "Periods" in printed
    assert "day" in printed


def test_power_prefers_two_small_gpus(tmp_path: Path) -> None:
    fleet = ["--fleet", str(EXAMPLES / "power" / "fleet.yaml")]
    _, plan = solved("power", tmp_path, *fleet, "--minimize", "power")
    assert (plan.status, plan.objectives[0].value, plan.summary.gpus_used) == (Status.OPTIMAL, 144, 2)
    assert plan.objectives[0].certified_bound == 144


def test_growth_finds_the_largest_common_factor(tmp_path: Path) -> None:
    _, plan = solved("growth", tmp_path, "--gpus", "3xL4", "--minimize", "throughput,gpus")
    assert (plan.status, plan.objectives[0].value) == (Status.OPTIMAL, 4.6)


def test_moves_leave_what_runs_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = ["--gpus", "3xL4"]
    _, before = solved("moves", tmp_path / "a", *gpus, "--workload", str(EXAMPLES / "moves" / "yesterday.yaml"))
    current = ["--current", str(tmp_path / "a" / "plan")]
    problem, after = solved("moves", tmp_path / "b", *gpus, *current, "--max-moves", "1")
    assert (len(before.replicas), len(after.replicas), problem.max_moves) == (4, 4, 1)
    there = {(r.id, r.devices) for r in before.replicas}
    assert len({(r.id, r.devices) for r in after.replicas} - there) == 1
    folder = EXAMPLES / "moves"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, *gpus, *current, "--max-moves", "0", "-o", str(tmp_path / "c")]) == 3
    assert "moves: 1 move would be enough, fewer would not" in capsys.readouterr().err


def test_mig_serves_with_fewer_gpus_than_whole_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ["--fleet", str(EXAMPLES / "mig" / "fleet.yaml")]
    _, whole = solved("mig", tmp_path / "whole", *fleet)
    _, split = solved("mig", tmp_path / "split", *fleet, "--mig")
    found = [(plan.status, plan.summary.gpus_used, plan.objectives[0].certified_bound) for plan in (whole, split)]
    assert found == [(Status.OPTIMAL, 5, 5), (Status.OPTIMAL, 3, 3)]
    assert {d.device for g in whole.gpus for d in g.devices if d.start is not None} == {
        "split/0/3g.40gb@0", "split/0/3g.40gb@4",
    }  # fmt: skip
    used = [device for gpu in split.gpus for device in gpu.devices]
    assert {device.start is None for device in used} == {True, False}  # a whole GPU beside split ones
    assert all(device.busy <= 0.95 for device in used if device.start is not None)
    assert run(["explain", str(tmp_path / "split" / "plan")]) == 0
    assert "mig-layout: free/" in capsys.readouterr().out


def test_a_mig_layout_that_is_too_small_is_told_in_amounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, fleet = EXAMPLES / "mig", tmp_path / "fleet.yaml"
    fleet.write_text("schema_version: 1\nnodes:\n  - {name: a, gpus: A100-80}\n  - name: b\n"
                     "    gpus: [{type: A100-80, mig_layout: [3g.40gb, 3g.40gb]}]\n", encoding="utf-8")  # fmt: skip
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, "--fleet", str(fleet), "--mig", "-o", str(tmp_path / "plan")]) == 3
    told = capsys.readouterr().err
    assert "fleet: 1 more A100-80 would be enough, fewer would not" in told
    assert "mig-layout: if all slices of a GPU could be used at once there would be a plan" in told


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (["--minimize", "moves"], "objective moves needs the plan that runs now"),
        (["--max-moves", "1"], "--max-moves needs the plan that runs now"),
        (["--minimize", "weight"], "allowed are unserved, gpus, cost, power, moves, balance, models, throughput"),
    ],
)
def test_objectives_that_cannot_be_are_refused(
    asked: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = EXAMPLES / "growth"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, "--gpus", "3xL4", *asked]) == 2
    assert error in capsys.readouterr().err


def test_ensemble_splits_its_bound_among_its_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, plan = solved("ensemble", tmp_path, "--gpus", "2xL4")
    (read,) = plan.ensembles
    assert (plan.status, plan.summary.gpus_used, read.servers) == (Status.OPTIMAL, 1, ())
    assert sum(member.latency_ms or 0 for member in read.members) == read.latency_ms
    assert read.latency_ms is not None
    assert read.latency_ms <= 300
    assert "ensemble read: p95 300 of 300 ms over detect -> recognise" in capsys.readouterr().out
    assert "300 of 300 ms" in "\n".join(explain_plan(*read_plan(tmp_path / "plan")))
    assert "read" in page(*read_plan(tmp_path / "plan"), None, [])


def test_ensemble_that_triton_serves_has_its_members_on_each_server(tmp_path: Path) -> None:
    _, plan = solved("ensemble-triton", tmp_path, "--gpus", "4xL4")
    (read,) = plan.ensembles
    carried = {d.device: {n.rpartition("-")[0] for n in d.replicas} for gpu in plan.gpus for d in gpu.devices}
    assert {server.device for server in read.servers} == set(carried)
    assert set(map(frozenset, carried.values())) == {frozenset({"detect", "recognise"})}


def test_an_ensemble_that_cannot_be_fast_enough_says_what_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (EXAMPLES / "ensemble" / "workload.yaml").read_text().replace("latency_p95_ms: 300", "latency_p95_ms: 70")
    (tmp_path / "workload.yaml").write_text(text)
    profiles = str(EXAMPLES / "ensemble" / "profiles.csv")
    asked = ["--workload", str(tmp_path / "workload.yaml"), "--profiles", profiles, "--gpus", "2xL4"]
    assert run(["solve", *asked, "-o", str(tmp_path / "plan")]) == 3
    assert "ensemble-latency: read: a p95 of " in capsys.readouterr().err


def test_explain_says_what_would_change_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solved("explain", tmp_path, "--fleet", str(EXAMPLES / "explain" / "fleet.yaml"))
    capsys.readouterr()
    assert run(["explain", str(tmp_path / "plan"), "--why", "ranker"]) == 0
    text = capsys.readouterr().out
    assert "the most expensive latency objective is ranker's p99 of 12 ms; without it: cost 4.2 -> 3.4" in text
    assert "next best place: large/1, a A100-80, alone: cost 4.2 -> 7.6" in text
    assert "one more A100-80: nothing, 1 of 2 stand empty" in text
    assert run(["explain", str(tmp_path / "plan"), "--time-limit", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["what_if"], found["gpus"][0]) == ([], "latency binds on 1 of 2 GPUs in use")
    assert run(["explain", str(tmp_path / "plan"), "--why", "rnaker"]) == 2
    assert "did you mean ranker?" in capsys.readouterr().err


def test_uncertain_rates_share_a_gpu_because_they_seldom_peak_together(tmp_path: Path) -> None:
    problem, plan = solved("uncertain", tmp_path, "--gpus", "4xL4", "--service-level", "0.99")
    assert (plan.status, plan.summary.gpus_used, problem.settings.service_level) == (Status.OPTIMAL, 1, 0.99)
    assert sum(r.periods[0].busy for r in plan.replicas) > 0.8 > plan.gpus[0].devices[0].busy


def test_observed_rates_are_planned_for_and_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for level in ("0.99", "0.999"):
        _, plan = solved("observed", tmp_path / level, "--gpus", "3xL4", "--service-level", level)
        found[level] = plan.summary.gpus_used, "Replayed: every rule held in 99.40%" in capsys.readouterr().out
    assert found == {"0.99": (1, True), "0.999": (2, False)}


def test_headroom_from_the_command_keeps_ensembles_and_what_was_observed(tmp_path: Path) -> None:
    problem, plan = solved("ensemble", tmp_path / "a", "--gpus", "2xL4", "--headroom", "0.1")
    assert problem.model_by_name["detect"].demand_mrps == (66_000,)
    assert [ensemble.name for ensemble in plan.ensembles] == ["read"]
    problem, _ = solved("observed", tmp_path / "b", "--gpus", "3xL4", "--headroom", "0")
    assert problem.observed is not None


def _models_by(plan: Plan, part: int) -> dict[str, list[str]]:
    """By model its GPUs (part 2 of a device's name) or nodes (part 1)."""
    found: dict[str, list[str]] = {}
    for replica in plan.replicas:
        found.setdefault(replica.model, []).extend("/".join(d.split("/")[:part]) for d in replica.devices)
    return found


def _sited(name: str, tmp_path: Path, *arguments: str) -> Plan:
    fleet = ["--fleet", str(EXAMPLES / name / "fleet.yaml")]
    _, plan = solved(name, tmp_path, *fleet, "--minimize", "gpus", *arguments)
    assert plan.status is Status.OPTIMAL
    return plan


def test_spread_stands_on_three_nodes(tmp_path: Path) -> None:
    assert sorted(_models_by(_sited("spread", tmp_path), 1)["search"]) == ["n1", "n2", "n3"]


def test_survives_any_rack_and_any_gpu(tmp_path: Path) -> None:
    plan = _sited("survives", tmp_path)
    nodes = _models_by(plan, 1)
    assert "n3" in nodes["search"]
    assert {"n1", "n2"} & set(nodes["search"])
    assert plan.summary.gpus_used == len(set(_models_by(plan, 2)["ads"])) == 2


def test_conflict_takes_a_gpu_more(tmp_path: Path) -> None:
    assert _sited("conflict", tmp_path).summary.gpus_used == 2


def test_together_stands_on_the_same_gpus(tmp_path: Path) -> None:
    gpus = _models_by(_sited("together", tmp_path), 2)
    assert sorted(gpus["search"]) == sorted(gpus["ads"])
    assert len(gpus["ads"]) == 2


def test_pinned_stands_where_it_is_told(tmp_path: Path) -> None:
    plan = _sited("pinned", tmp_path)
    assert _models_by(plan, 2)["search"] == ["n2/1"]
    assert plan.summary.gpus_used == 1


def test_host_cpu_takes_a_second_node(tmp_path: Path) -> None:
    nodes = _models_by(_sited("host", tmp_path), 1)
    assert nodes["search"] != nodes["ads"]


def test_a_model_over_two_gpus_has_them_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = _sited("several-gpus", tmp_path)
    gpus = _models_by(plan, 2)
    assert sorted(gpus["chat"]) == ["n1/0", "n1/1", "n1/2", "n1/3"]
    assert (gpus["search"], gpus["ads"]) == (["n2/0"], ["n2/0"])
    assert "over 2 GPUs" in capsys.readouterr().out
    assert "over 2 GPUs" in page(*read_plan(tmp_path / "plan"), None, [])
    for name in ("chat", "search", "ads"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text('backend: "python"')
    models = ["--model-repository", str(tmp_path / "models")]
    assert run(["emit", str(tmp_path / "plan"), *models, "-o", str(tmp_path / "out")]) == 0
    servers = [
        place["device"] for place in json.loads((tmp_path / "out" / "routing.json").read_text())["models"]["chat"]
    ]
    folders = {path.name for path in (tmp_path / "out" / "n1").iterdir()}
    assert folders == {"launch.sh", *(f"gpu{server.removeprefix('n1/')}" for server in servers)}
    launch = (tmp_path / "out" / "n1" / "launch.sh").read_text()
    for replica in (r for r in plan.replicas if r.model == "chat"):
        first, second = (device.removeprefix("n1/") for device in replica.devices)
        assert f'CUDA_VISIBLE_DEVICES="${{GPU{first}_UUID:-{first},{second}}}"' in launch


def test_too_few_gpus_on_a_node_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, fleet = EXAMPLES / "several-gpus", tmp_path / "fleet.yaml"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    command = ["solve", *files, "--fleet", str(fleet), "--minimize", "gpus", "-o", str(tmp_path / "none")]
    fleet.write_text("schema_version: 1\nnodes: [{name: 'n[1-5]', gpus: 1xA100-80}]")
    assert run(command) == 3
    assert "chat on A100-80: takes 2 GPUs of one node, and no node has more than 1" in capsys.readouterr().err
    fleet.write_text("schema_version: 1\nnodes: [{name: n1, gpus: 3xA100-80}, {name: n2, gpus: 2xA100-80}]")
    assert run(command) == 0
    fleet.write_text("schema_version: 1\nnodes: [{name: 'n[1-2]', gpus: 2xA100-80}]")
    assert run(command) == 3
    assert "fleet: 1 more A100-80 would be enough, fewer would not" in capsys.readouterr().err


def test_limits_of_power_leave_three_gpus_a_rack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = _sited("limits", tmp_path)
    nodes = [gpu.gpu.split("/")[0] for gpu in plan.gpus]
    assert sorted([nodes.count("n1"), nodes.count("n2")]) == [2, 3]
    poor = tmp_path / "fleet.yaml"
    poor.write_text((EXAMPLES / "limits" / "fleet.yaml").read_text().replace("usd_per_hour: 4}", "usd_per_hour: 3}"))
    files = ["--workload", str(EXAMPLES / "limits" / "workload.yaml")]
    files += ["--profiles", str(EXAMPLES / "limits" / "profiles.csv"), "--fleet", str(poor)]
    assert run(["solve", *files, "-o", str(tmp_path / "none")]) == 3
    assert "fleet: the budget is short by 1 USD/h" in capsys.readouterr().err


def test_cordoned_gpus_stay_empty_and_a_reserve_stays_free(tmp_path: Path) -> None:
    plan = _sited("cordoned", tmp_path)
    assert _models_by(plan, 2) == {"search": ["n1/2"], "ads": ["n1/2"]}
