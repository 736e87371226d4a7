"""The emitted folder: what Triton reads, what starts it, and who may be overwritten."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner import cli
from planner.domain.ensemble import Ensemble, Member, Serve
from planner.domain.plan import Plan
from planner.domain.problem import Device, Option, Problem
from planner.emit.places import Place, places
from planner.emit.repository import emit, repository_of
from planner.errors import InputError, NotFoundError
from planner.plan_files import write_plan
from tests.plans import CPU, GPU, node_devices, placed, replica_option
from tests.problems import kind, model

RANKER = """
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: 3 kind: KIND_GPU gpus: [ 0, 1 ] }, { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 100 preserve_ordering: true }
version_policy { specific { versions: [ 1 ] } }
parameters { key: "k" value { string_value: "v" } }
"""
SPEECH = """
backend: "python"
max_batch_size: 4
sequence_batching { max_sequence_idle_microseconds: 5000 oldest { max_candidate_sequences: 8 } }
"""
OCR = """
platform: "ensemble"
max_batch_size: 4
ensemble_scheduling { step [ { model_name: "ranker" model_version: -1 input_map { key: "x" value: "x" } },
  { model_name: "plain" model_version: -1 } ] }
"""
PLAIN = 'backend: "python"\n'
CONFIGS = {"ranker": RANKER, "speech": SPEECH, "ocr": OCR, "plain": PLAIN}
DECIDED = ("instance_group", "max_batch_size", "dynamic_batching")
# Says how it was started, and then lives until it is told to stop.
FAKE_SERVER = """#!/bin/sh
{
    echo "cuda=${CUDA_VISIBLE_DEVICES-unset} order=${CUDA_DEVICE_ORDER-unset} threads=${OMP_NUM_THREADS-unset}"
    grep Cpus_allowed_list /proc/self/status
    printf '%s\\n' "$@"
} > "$STARTED/$$.new"
mv "$STARTED/$$.new" "$STARTED/$$"
trap 'exit 0' TERM
while :; do sleep 0.05; done
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name, text in CONFIGS.items():
        (root / name / "1" / "__pycache__").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(f"# {name}")
        (root / name / "labels.txt").write_text("a\nb\n")
        (root / name / "config.pbtxt").write_text(text)
    return root


def ranker(kind_name: str = "A100-80", **changes: object) -> Option:
    return replica_option("ranker", kind_name, **({"instances": 2, "max_batch_size": 4} | changes))


def one(option: Option, device: str = "n1/0") -> tuple[Problem, Plan]:
    return placed([option], {device: [option.id]})


def written(out: Path, model_name: str, place: str = "n1/gpu0") -> Any:
    """The emitted configuration, read with Triton's own schema."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse((out / place / "models" / model_name / "config.pbtxt").read_text(), ModelConfig())


def emitted(planned: tuple[Problem, Plan], repository: Path, out: Path, *, copy: bool = False) -> list[Place]:
    return emit(*planned, repository, out, targets=("repository",), copy=copy)


def test_a_gpu_runs_its_instances_on_its_first_visible_gpu(repository: Path, tmp_path: Path) -> None:
    emitted(one(ranker(queue_delay_us=50)), repository, tmp_path / "out")
    config = written(tmp_path / "out", "ranker")
    [group] = config.instance_group
    assert (group.count, type(group).Kind.Name(group.kind), list(group.gpus)) == (2, "KIND_GPU", [0])
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == 50


def test_a_cpu_device_names_no_gpu(repository: Path, tmp_path: Path) -> None:
    emitted(one(ranker("cpu-1")), repository, tmp_path / "out")
    config = written(tmp_path / "out", "ranker")
    [group] = config.instance_group
    assert (group.count, type(group).Kind.Name(group.kind), list(group.gpus)) == (2, "KIND_CPU", [])
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"ocr"}))
def test_nothing_else_is_changed(repository: Path, tmp_path: Path, name: str) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    emitted(one(replica_option(name, "A100-80", max_batch_size=2)), repository, tmp_path / "out")
    before = text_format.Parse(CONFIGS[name], ModelConfig())
    after = written(tmp_path / "out", name)
    assert after.name == name
    after.name = ""
    for field in DECIDED:
        before.ClearField(field)
        after.ClearField(field)
    assert after == before


def test_an_ensemble_stands_beside_its_members_without_instances(repository: Path, tmp_path: Path) -> None:
    options = [replica_option(name, "cpu-1", max_batch_size=4) for name in ("ocr", "ranker", "plain")]
    emitted(placed(options, {"n1/0": [o.id for o in options]}), repository, tmp_path / "out")
    config = written(tmp_path / "out", "ocr")
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["ranker", "plain"]
    assert not config.instance_group
    assert not config.HasField("dynamic_batching")


def _served_by_triton(*members: str) -> tuple[Problem, Plan]:
    ensemble = Ensemble(
        name="ocr", demand_mrps=(9_000,), percentile=99, bound_us=None, call_percentile=99, serve=Serve.TRITON,
        members=tuple(Member(model=name) for name in members),
    )  # fmt: skip
    options = [replica_option(name, "cpu-1", max_batch_size=2) for name in members]
    layout = {device: [o.id for o in options] for device in ("n1/0", "n1/1")}
    return placed(options, layout, ensembles=[ensemble])


def test_an_ensemble_that_triton_serves_is_emitted_with_its_members(repository: Path, tmp_path: Path) -> None:
    emitted(_served_by_triton("ranker", "plain"), repository, tmp_path / "out")
    for place in ("n1/gpu0", "n1/gpu1"):
        config = written(tmp_path / "out", "ocr", place)
        assert (config.platform, config.max_batch_size) == ("ensemble", 2)
        assert [step.model_name for step in config.ensemble_scheduling.step] == ["ranker", "plain"]
    routing = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert [(e["device"], e["weight"]) for e in routing["ensembles"]["ocr"]] == [("n1/0", 0.5), ("n1/1", 0.5)]
    assert (tmp_path / "out" / "n1" / "launch.sh").read_text().count("--load-model=ocr") == 2


def test_an_ensemble_with_other_members_than_planned_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has steps for ranker, plain; as planned, ensemble 'ocr' calls ranker, speech"
    ):
        emitted(_served_by_triton("ranker", "speech"), repository, tmp_path / "out")
    shutil.rmtree(repository / "ocr")
    with pytest.raises(NotFoundError, match="ensemble 'ocr' of the plan is not in the model repository"):
        emitted(_served_by_triton("ranker", "plain"), repository, tmp_path / "out")


def test_an_ensemble_without_its_members_is_refused(repository: Path, tmp_path: Path) -> None:
    options = [replica_option(name, "cpu-1", max_batch_size=4) for name in ("ocr", "plain")]
    with pytest.raises(InputError, match=r"ensemble 'ocr' on n1/0 calls 'ranker', which the plan does not place there"):
        emitted(placed(options, {"n1/0": [o.id for o in options]}), repository, tmp_path / "out")


def test_everything_else_of_a_model_is_linked(repository: Path, tmp_path: Path) -> None:
    [place] = emitted(one(ranker()), repository, tmp_path / "out")
    folder = repository_of(place, tmp_path / "out") / "ranker"
    assert folder == tmp_path / "out" / "n1" / "gpu0" / "models" / "ranker"
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    assert (folder / "1").readlink() == repository / "ranker" / "1"
    shutil.move(tmp_path / "out", tmp_path / "moved")
    moved = tmp_path / "moved" / "n1" / "gpu0" / "models" / "ranker"
    assert (moved / "1" / "model.py").read_text() == "# ranker"


def test_a_copy_stands_alone(repository: Path, tmp_path: Path) -> None:
    emitted(one(ranker()), repository, tmp_path / "out", copy=True)
    shutil.rmtree(repository)
    folder = tmp_path / "out" / "n1" / "gpu0" / "models" / "ranker"
    assert (folder / "1" / "model.py").read_text() == "# ranker"
    assert (folder / "labels.txt").read_text() == "a\nb\n"
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.name == "__pycache__"]


def test_the_source_is_not_changed(repository: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    for _ in range(2):
        emitted(one(ranker()), repository, tmp_path / "out", copy=True)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_an_earlier_folder_is_replaced_as_a_whole(repository: Path, tmp_path: Path) -> None:
    emitted(one(ranker(), "old/0"), repository, tmp_path / "out")
    emitted(one(replica_option("plain", "cpu-1"), "new/0"), repository, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["new", "routing.json"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("already_emitted", [True, False])
def test_what_others_put_into_the_folder_is_not_lost(repository: Path, tmp_path: Path, already_emitted: bool) -> None:
    out = tmp_path / "out"
    if already_emitted:
        emitted(one(ranker()), repository, out)
    (out / "plan").mkdir(parents=True)
    (out / "plan" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="not all of it was written by planner emit"):
        emitted(one(ranker()), repository, out)
    assert (out / "plan" / "plan.json").read_text() == "{}"


def test_an_error_leaves_the_earlier_folder(repository: Path, tmp_path: Path) -> None:
    emitted(one(ranker()), repository, tmp_path / "out")
    with pytest.raises(NotFoundError):
        emitted(one(replica_option("absent", "cpu-1")), repository, tmp_path / "out")
    assert written(tmp_path / "out", "ranker").max_batch_size == 4


def test_a_model_that_the_repository_does_not_have_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"model 'rankr' of the plan is not in the model repository") as caught:
        emitted(one(replica_option("rankr", "cpu-1")), repository, tmp_path / "out")
    assert str(repository) in caught.value.message
    assert caught.value.hint == "did you mean ranker?"
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_a_configuration_is_named_with_file_and_line(repository: Path, tmp_path: Path) -> None:
    path = repository / "ranker" / "config.pbtxt"
    path.write_text('backend: "python"\nmax_batch: 4\n')
    with pytest.raises(InputError, match="line 2, column 1") as caught:
        emitted(one(ranker()), repository, tmp_path / "out")
    assert str(path) in caught.value.message
    assert caught.value.hint is not None
    assert "max_batch_size" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_cannot_be_read_is_named(repository: Path, tmp_path: Path) -> None:
    (repository / "ranker" / "config.pbtxt").unlink()
    (repository / "ranker" / "config.pbtxt").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*ranker/config\.pbtxt: Is a directory"):
        emitted(one(ranker()), repository, tmp_path / "out")


def test_a_model_under_another_name_is_refused(repository: Path, tmp_path: Path) -> None:
    path = repository / "ranker" / "config.pbtxt"
    path.write_text(f'name: "other"\n{RANKER}')
    with pytest.raises(InputError, match=r"config\.pbtxt: its name is 'other'") as caught:
        emitted(one(ranker()), repository, tmp_path / "out")
    assert caught.value.hint == 'write name: "ranker", or leave the line out'


def test_a_model_without_a_version_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "ranker" / "1").rename(repository / "ranker" / "first")
    with pytest.raises(InputError, match=r"model 'ranker' in .* has no version folder"):
        emitted(one(ranker()), repository, tmp_path / "out")


def test_a_dangling_link_is_named_when_it_is_to_be_copied(repository: Path, tmp_path: Path) -> None:
    (repository / "ranker" / "labels.txt").unlink()
    (repository / "ranker" / "labels.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"cannot read .*ranker/labels\.txt"):
        emitted(one(ranker()), repository, tmp_path / "out", copy=True)


@pytest.mark.parametrize("out", ["models", "models/out", "."])
def test_output_and_models_may_not_lie_inside_each_other(repository: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(InputError, match="lie inside each other"):
        emitted(one(ranker()), repository, tmp_path / out)


def test_a_missing_repository_and_an_unknown_target_are_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere is not a folder"):
        emitted(one(ranker()), tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="unknown target 'nomad'; allowed: repository"):
        emit(*one(ranker()), repository, tmp_path / "out", targets=["repository", "nomad"], copy=False)


def test_routing_gives_each_model_its_endpoints_and_weights(repository: Path, tmp_path: Path) -> None:
    small = replica_option("ranker", "cpu-1", max_batch_size=4)
    large = ranker(id="large", capacity_mrps=70_000)
    plain = replica_option("plain", "cpu-1")
    layout = {"n1/0": [small.id, plain.id], "n1/1": [large.id], "n2/0": [small.id]}
    problem, plan = placed([small, large, plain], layout)
    emitted((problem, plan), repository, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert (table["schema_version"], table["problem_digest"]) == (1, problem.digest)
    assert sorted(table["models"]) == ["plain", "ranker"]
    for replicas in table["models"].values():
        assert sum(replica["weight"] for replica in replicas) == pytest.approx(1)
    weights = {replica["device"]: replica["weight"] for replica in table["models"]["ranker"]}
    assert weights == pytest.approx({"n1/0": 1 / 9, "n1/1": 7 / 9, "n2/0": 1 / 9})
    endpoints = [replica["endpoint"] for replica in table["models"]["ranker"]]
    assert [endpoint["host"] for endpoint in endpoints] == ["n1", "n1", "n2"]
    assert [endpoint["grpc_port"] for endpoint in endpoints] == [8001, 8011, 8001]


def test_cpu_devices_take_cores_one_after_another_whether_used_or_not() -> None:
    pair = kind("cpu-2", memory_bytes=CPU.memory_bytes, cores=2)
    fleet = [*node_devices(["cpu-2", "A100-80", "cpu-1", "cpu-2"]), *node_devices(["cpu-1"], "n2")]
    options = [replica_option("ranker", "cpu-2"), replica_option("ranker", "cpu-1"), ranker()]
    layout = {"n1/1": [options[2].id], "n1/2": [options[1].id], "n1/3": [options[0].id], "n2/0": [options[1].id]}
    found = places(*placed(options, layout, kinds=[pair, CPU, GPU], fleet=fleet))
    assert [place.cores for place in found] == [None, (2,), (3, 4), (0,)]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("../0", "node '..' cannot name a folder"),
        ("a/b/0", "node 'a/b' cannot name a folder"),
        ("n1/first", "gpu 'n1/first' is not named node/index"),
        ("0", "node '' cannot name a folder"),
    ],
)
def test_a_device_that_cannot_be_a_folder_is_refused(device: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        places(*one(ranker(), device))


@pytest.mark.parametrize("name", ["..", "a/b", "a\0b"])
def test_a_model_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a folder"):
        places(*one(replica_option(name, "cpu-1")))


def test_a_device_with_two_replicas_of_a_model_is_refused() -> None:
    option = replica_option("ranker", "cpu-1")
    with pytest.raises(InputError, match="device 'n1/0' carries 2 replicas of 'ranker'"):
        places(*placed([option], {"n1/0": [option.id, option.id]}, max_per_device=None))


@pytest.mark.parametrize("device", ['n1/0/"$(touch here)"', "n1/0/}`id`@4"])
def test_a_device_whose_name_is_not_safe_in_a_script_is_refused(device: str) -> None:
    sliced = Device(id=device, gpu="n1/0", kind="A100-80", start=0)
    option = ranker()
    with pytest.raises(InputError, match="letters, digits"):
        places(*placed([option], {device: [option.id]}, fleet=[sliced]))


def slices() -> tuple[Problem, Plan]:
    """Two models on two slices of one GPU."""
    part = kind("A100-80/1g.10gb", memory_bytes=GPU.memory_bytes, type="A100-80")
    fleet = [Device(id=f"n1/0/1g.10gb@{at}", gpu="n1/0", kind=part.name, start=at) for at in (0, 4)]
    options = [replica_option("ranker", part.name, max_batch_size=4), replica_option("plain", part.name)]
    layout = {device.id: [option.id] for device, option in zip(fleet, options, strict=True)}
    return placed(options, layout, kinds=[part], fleet=fleet)


def mixed() -> tuple[Problem, Plan]:
    """A GPU with two models and a CPU device."""
    options = [ranker(), replica_option("plain", "A100-80"), replica_option("speech", "cpu-1", max_batch_size=4)]
    return placed(options, {"n1/0": [options[0].id, options[1].id], "n1/1": [options[2].id]})


@pytest.mark.parametrize("planned", [mixed, slices])
@pytest.mark.parametrize("command", [["sh", "-n"], ["bash", "-n"], ["dash", "-n"], ["shellcheck"]])
def test_launch_scripts_are_sound(repository: Path, tmp_path: Path, planned: Any, command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    emitted(planned(), repository, tmp_path / "out")
    script = tmp_path / "out" / "n1" / "launch.sh"
    assert os.access(script, os.X_OK)
    checked = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


class Launched:
    """An emitted launch.sh with servers that only say how they were started."""

    def __init__(self, script: Path, scratch: Path, **settings: str) -> None:
        self.started = scratch / "started"
        self.started.mkdir()
        server = scratch / "tritonserver"
        server.write_text(FAKE_SERVER)
        server.chmod(0o755)
        environment = {**os.environ, "TRITON_SERVER": str(server), "STARTED": str(self.started), **settings}
        self.process = subprocess.Popen(
            [str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def servers(self, count: int) -> dict[int, list[str]]:
        """What the servers wrote, by process id, once there are `count` of them."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            found = [path for path in self.started.iterdir() if path.name.isdigit()]
            if len(found) == count:
                return {int(path.name): path.read_text().splitlines() for path in found}
            assert self.process.poll() is None, self.errors()
            time.sleep(0.02)
        raise AssertionError(f"{count} servers did not start in 10 s")

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self) -> None:
        """Whatever a test found, nothing of it stays."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture
def launched(repository: Path, tmp_path: Path) -> Iterator[Any]:
    all_of_them = []

    def launch(planned: tuple[Problem, Plan], **settings: str) -> Launched:
        emitted(planned, repository, tmp_path / "out")
        one_of_them = Launched(tmp_path / "out" / "n1" / "launch.sh", tmp_path, **settings)
        all_of_them.append(one_of_them)
        return one_of_them

    yield launch
    for one_of_them in all_of_them:
        one_of_them.end()


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_launching_starts_one_pinned_server_per_device(launched: Any, tmp_path: Path) -> None:
    core = str(max(os.sched_getaffinity(0)))
    servers = sorted(launched(mixed(), GPU1_CORES=core).servers(2).values())
    on_cpu, on_gpu = servers  # "cuda= …" sorts before "cuda=0 …"
    assert on_gpu[0] == "cuda=0 order=PCI_BUS_ID threads=unset"
    assert on_cpu[0] == "cuda= order=unset threads=1"
    assert on_cpu[1].split() == ["Cpus_allowed_list:", core]
    out = tmp_path / "out" / "n1"
    assert on_gpu[2:] == [
        "--load-model=ranker",
        "--load-model=plain",
        f"--model-repository={out}/gpu0/models",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--http-port=8000",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--metrics-address=127.0.0.1",
        "--metrics-port=8002",
        "--backend-config=python,shm-region-prefix-name=planner_8001_",
    ]
    assert "--load-model=speech" in on_cpu
    assert "--http-port=8010" in on_cpu
    assert 'taskset -c "${GPU1_CORES:-0}"' in (out / "launch.sh").read_text()


def test_launching_takes_its_settings_from_the_environment(launched: Any) -> None:
    settings = {"TRITON_ADDRESS": "0.0.0.0", "TRITON_ARGS": "--log-verbose=1 --strict-readiness=true"}
    [server] = launched(one(ranker()), GPU0_UUID="GPU-1234", **settings).servers(1).values()
    assert server[0].startswith("cuda=GPU-1234 ")
    assert "--grpc-address=0.0.0.0" in server
    assert server[-2:] == ["--log-verbose=1", "--strict-readiness=true"]


def test_a_slice_must_be_named(launched: Any) -> None:
    nameless = launched(slices())
    assert nameless.process.wait(10) != 0
    assert "GPU0_1G_10GB_AT0_UUID: set it to the MIG device of n1/0/1g.10gb@0" in nameless.errors()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_stops_every_server(launched: Any, number: signal.Signals, code: int) -> None:
    running = launched(mixed(), GPU1_CORES=str(max(os.sched_getaffinity(0))))
    pids = list(running.servers(2))
    running.process.send_signal(number)
    assert running.process.wait(10) == code
    assert all(map(is_gone, pids))


def test_a_server_that_ends_takes_the_others_with_it(launched: Any) -> None:
    running = launched(mixed(), GPU1_CORES=str(max(os.sched_getaffinity(0))))
    servers = running.servers(2)
    dead = next(pid for pid, words in servers.items() if "--load-model=speech" in words)
    os.kill(dead, signal.SIGKILL)
    assert running.process.wait(10) == 1
    assert all(map(is_gone, servers))
    assert "launch.sh: the server of gpu1 ended with code 137; stopping the others" in running.errors()


def test_the_command_says_what_it_wrote(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path / "plan", *mixed())
    arguments = ["emit", str(tmp_path / "plan"), "--model-repository", str(repository), "-o", str(tmp_path / "out")]
    assert cli.run(arguments) == 0
    said = capsys.readouterr().out
    assert "2 servers on 1 node, 3 models" in said
    assert str(tmp_path / "out" / "n1" / "launch.sh") in said
    assert cli.run([*arguments, "--json"]) == 0
    servers = json.loads(capsys.readouterr().out)["servers"]
    assert [(server["device"], server["models"]) for server in servers] == [
        ("n1/0", ["ranker", "plain"]),
        ("n1/1", ["speech"]),
    ]
    assert all(Path(server["repository"]).is_dir() and Path(server["launch"]).is_file() for server in servers)


def test_the_command_refuses_what_it_cannot_emit(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["emit", str(tmp_path / "plan"), "--model-repository", str(repository), "-o", str(tmp_path / "out")]
    assert cli.run(arguments) == 2
    assert "plan does not exist" in capsys.readouterr().err
    problem, plan = one(ranker())
    broken = replace(plan, summary=replace(plan.summary, gpus_used=7))
    write_plan(tmp_path / "plan", problem, broken)
    assert cli.run(arguments) == 4
    assert "gpus_used: says 7, recomputed 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_models_of_a_plan_may_have_any_rates(repository: Path, tmp_path: Path) -> None:
    idle = model("plain", 0, replicas_min=1)
    option = replica_option("plain", "cpu-1")
    emitted(placed([option], {"n1/0": [option.id]}, models=[idle]), repository, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert [replica["weight"] for replica in table["models"]["plain"]] == [1.0]
