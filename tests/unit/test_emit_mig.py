"""A plan with slices as folders, and as a configuration of NVIDIA's MIG partition editor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from shared_data import REPOSITORY

from planner.cli import run
from planner.domain.plan import Plan
from planner.emit.mig_parted import mig_parted
from planner.plan_files import read_plan
from tests.mig_problems import fixed_gpu, slice_kind
from tests.plans import placed, replica_option

EXAMPLE = REPOSITORY / "examples" / "mig"
MODELS = ("chat", "search", "ranking", "spam", "archive", "translate")


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solved")
    files = ["--workload", str(EXAMPLE / "workload.yaml"), "--profiles", str(EXAMPLE / "profiles.csv")]
    fleet = ["--fleet", str(EXAMPLE / "fleet.yaml"), "--mig"]
    assert run(["solve", *files, *fleet, "-o", str(folder / "plan"), "--time-limit", "20"]) == 0
    return folder / "plan"


@pytest.fixture
def plan(solved: Path) -> Plan:
    return read_plan(solved)[1]


@pytest.fixture
def emitted(solved: Path, tmp_path: Path) -> Path:
    for name in MODELS:
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text('backend: "onnxruntime"\nmax_batch_size: 1\n')
    arguments = ["emit", str(solved), "-o", str(tmp_path / "out"), "--target", "mig-parted"]
    assert run([*arguments, "--model-repository", str(tmp_path / "models")]) == 0
    assert run([*arguments, "--model-repository", str(tmp_path / "models")]) == 0  # and replaces what it wrote
    return tmp_path / "out"


def test_a_server_runs_on_every_slice(plan: Plan, emitted: Path) -> None:
    folders = set()
    for gpu in plan.gpus:
        node, _, index = gpu.gpu.rpartition("/")
        for device in gpu.devices:
            where = "" if device.start is None else f"-{device.profile.partition('/')[2]}-at{device.start}"
            folder = emitted / node / f"gpu{index}{where}"
            folders.add(folder)
            assert sorted(path.name for path in (folder / "models").iterdir()) == sorted(
                replica.model for replica in plan.replicas if replica.id in device.replicas
            )
            script = (emitted / node / "launch.sh").read_text()
            variable = f"GPU{index}{where}".upper().replace(".", "_").replace("-", "_") + "_UUID"
            assert f"${{{variable}:" in script
    assert {path.parent for path in emitted.glob("*/gpu*/models")} == folders
    ports = [place["endpoint"]["grpc_port"] for places in json.loads((emitted / "routing.json").read_text())["models"]
             .values() for place in places if place["endpoint"]["host"] == "free"]  # fmt: skip
    assert len(set(ports)) == len(ports)


def test_mig_parted_is_told_how_each_gpu_is_split(plan: Plan, emitted: Path) -> None:
    file = yaml.safe_load((emitted / "mig-parted.yaml").read_text())
    assert file.keys() == {"version", "mig-configs"}
    assert file["version"] == "v1"
    told: dict[str, dict[str, int]] = {}
    for node, entries in file["mig-configs"].items():
        for entry in entries:
            # The fields that mig-parted's specification v1 knows; it refuses any other.
            assert entry.keys() <= {"devices", "mig-enabled", "mig-devices"}
            assert entry["mig-enabled"] is bool(entry.get("mig-devices"))
            told |= {f"{node}/{index}": entry.get("mig-devices", {}) for index in entry["devices"]}
    assert told.keys() == {gpu.gpu for gpu in plan.gpus}
    for gpu in plan.gpus:
        slices = [device.profile.partition("/")[2] for device in gpu.devices if device.start is not None]
        if gpu.gpu == "split/0":  # keeps its layout, in use or not
            assert told[gpu.gpu] == {"3g.40gb": 2}
        else:
            assert told[gpu.gpu] == {name: slices.count(name) for name in slices}
    assert {} in told.values()


def test_a_gpu_that_is_split_already_keeps_all_of_its_slices() -> None:
    slices = [slice_kind(name, memory_bytes=2**30) for name in ("1g", "2g")]
    problem, plan = placed(
        [replica_option("m", "split/1g")],
        {"split/0/1g@2": ["m@split/1g"]},
        kinds=slices,
        fleet=[*fixed_gpu(0, ("2g", 0), ("1g", 2)), *fixed_gpu(1, ("2g", 0))],
    )
    assert yaml.safe_load(mig_parted(problem, plan))["mig-configs"] == {
        "split": [{"devices": [0], "mig-enabled": True, "mig-devices": {"2g": 1, "1g": 1}}]
    }


def test_a_plan_without_slices_has_nothing_for_mig_parted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    growth = REPOSITORY / "examples" / "growth"
    files = ["--workload", str(growth / "workload.yaml"), "--profiles", str(growth / "profiles.csv")]
    out = ["-o", str(tmp_path / "plan")]
    assert run(["solve", *files, "--gpus", "3xL4", "--minimize", "gpus", *out]) == 0
    (tmp_path / "models").mkdir()
    arguments = ["emit", str(tmp_path / "plan"), "-o", str(tmp_path / "out"), "--target", "mig-parted"]
    assert run([*arguments, "--model-repository", str(tmp_path / "models")]) == 2
    assert "target mig-parted: no GPU of this plan is split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
