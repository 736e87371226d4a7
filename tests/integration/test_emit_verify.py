"""From a plan to folders that a real Triton serves, and a verification on real servers under real load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from planner import cli
from planner.domain.plan import Plan
from planner.domain.problem import Device, Problem
from planner.domain.serving import Endpoint
from planner.domain.verification import Verdict, verification_from_json
from planner.emit.places import places
from planner.emit.repository import emit, repository_of
from planner.errors import InputError
from planner.plan_files import plan_digest, read_plan, write_plan
from planner.verify import VerifySettings, verify
from planner.workflow.bench import LocalBench
from planner.workflow.cores import CoreShare
from profiler.server import ports
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from tests.plans import CPU, placed, replica_option
from tests.problems import model

MIB = 2**20
CONFIG = """
backend: "python"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
BROKEN_MODELS = {
    "refuses": "raise ImportError('weights are missing')\n",
    "kills": "import os\nclass TritonPythonModel:\n  def execute(self, requests):\n    os.kill(os.getppid(), 9)\n",
}
PROFILES = """\
model,device,backend,instances,max_batch_size,queue_delay_us,load,rate_rps,latency_p50_ms,latency_p99_ms,memory_bytes,busy
@server,cpu-1,,,,,,,,,80000000,
text_direction,cpu-1,python,2,4,0,open,60,20,60,200000000,0.3
file_type,cpu-1,python,1,4,0,open,60,20,60,200000000,0.3
speech_activity,cpu-1,python,1,0,,open,60,20,60,200000000,0.3
"""
WORKLOAD = """\
schema_version: 1
models:
  - {name: text_direction, rate_rps: 20, latency: {percentile: 50, bound_ms: 1000}}
  - {name: file_type, rate_rps: 20, latency: {percentile: 99, bound_ms: 1000}}
"""


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on one device, planned as a user would."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "profiles.csv").write_text(PROFILES)
    (folder / "workload.yaml").write_text(WORKLOAD)
    files = ["--profiles", folder / "profiles.csv", "--workload", folder / "workload.yaml"]
    assert run("solve", "--gpus", "1xcpu-1", *files, "--solver", "greedy", "-o", folder / "plan") == 0
    return folder / "plan"


def broken(repository: Path) -> tuple[Problem, Plan]:
    """A device whose server does not load its model, and one whose server dies under load."""
    for name, code in BROKEN_MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text(code)
        (repository / name / "config.pbtxt").write_text(CONFIG)
    options = [replica_option(name, "cpu-1", max_batch_size=4) for name in BROKEN_MODELS]
    return placed(options, {f"n1/{i}": [option.id] for i, option in enumerate(options)}, kinds=[CPU])


def pair() -> tuple[Problem, Plan]:
    """One model on each of two devices, asked for 20 req/s each."""
    names = ["text_direction", "file_type"]
    options = [replica_option(name, "cpu-1", capacity_mrps=20_000, max_batch_size=4) for name in names]
    models = [model(name, 20_000, percentile=50) for name in names]
    return placed(options, {f"n1/{i}": [o.id] for i, o in enumerate(options)}, kinds=[CPU], models=models)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_until(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s"
        time.sleep(0.05)
    return value


def all_gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_every_emitted_repository_loads(example_models: Path, triton: TritonInstallation, tmp_path: Path) -> None:
    names = ["text_direction", "file_type", "speech_activity"]
    batches = [4, 2, 0]
    options = [
        replica_option(name, "cpu-1", max_batch_size=batch, instances=2)
        for name, batch in zip(names, batches, strict=True)
    ]
    planned = placed(options, {"n1/0": [options[0].id, options[1].id], "n1/1": [options[2].id]}, kinds=[CPU])
    for place in emit(*planned, example_models, tmp_path / "out", targets=["repository"], copy=False):
        repository, log = repository_of(place, tmp_path / "out"), tmp_path / "triton.log"
        with LocalTriton.start(triton, repository, cores=None, log_path=log, gpu_uuid="", load=place.models) as server:
            stubs = [process for process in descendants(server.pid) if "python_backend_stub" in process.name()]
            assert len(stubs) == 2 * len(place.models)  # each instance is a process


def test_broken_servers_are_recorded_with_their_logs(
    triton: TritonInstallation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path / "plan", *broken(tmp_path / "models"))
    arguments = ["--model-repository", tmp_path / "models", "--triton-server", triton.binary, "--max-seconds", 10]
    assert run("verify", tmp_path / "plan", *arguments) == 5
    said = capsys.readouterr()
    assert "2 of 2 servers failed; n1/0:" in said.err
    assert "weights are missing" in said.err
    assert "FAILED" in said.out
    found = verification_from_json(json.loads((tmp_path / "plan" / "verification.json").read_text()), "verification")
    assert not found.complete
    refused, killed = [device.failure for device in found.devices]
    assert refused is not None
    assert killed is not None
    assert "weights are missing" in refused.message + refused.log_tail
    assert "Triton" in killed.message
    assert killed.log_tail
    assert not descendants(os.getpid())


@pytest.fixture
def verifying(
    solved: Path, example_models: Path, triton: TritonInstallation, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """`planner verify` in a process of its own, now under its real load."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["--model-repository", str(example_models), "--triton-server", str(triton.binary)]
    process = subprocess.Popen(
        [sys.executable, "-m", "planner.cli", "verify", str(solved), *arguments],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or _is_loading(process.pid), 30)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _is_loading(pid: int) -> bool:
    """Whether a load generator runs below it."""
    for process in descendants(pid):
        with suppress(psutil.NoSuchProcess):
            if "profiler.load.worker" in process.cmdline():
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(
    verifying: subprocess.Popen[str], solved: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = {path.name: path.read_bytes() for path in solved.iterdir()}
    assert sorted(before) == ["plan.json", "problem.json"]
    processes = descendants(verifying.pid)
    assert any("tritonserver" in process.name() for process in processes)
    verifying.send_signal(number)
    _, errors = verifying.communicate(timeout=30)
    assert verifying.returncode == 130
    assert "interrupted: " in errors
    assert "Traceback" not in errors
    assert all_gone(processes)
    assert {path.name: path.read_bytes() for path in solved.iterdir()} == before
    assert list((tmp_path / "scratch").glob("planner-*")) == []


def test_a_plan_is_verified_and_recorded(
    solved: Path, example_models: Path, triton: TritonInstallation, capsys: pytest.CaptureFixture[str]
) -> None:
    # On the folder of the runs that were interrupted above: they leave nothing that would be in the way.
    arguments = ["verify", solved, "--model-repository", example_models, "--triton-server", triton.binary]
    assert run(*arguments, "--max-seconds", 10, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("complete") is True
    assert printed == json.loads((solved / "verification.json").read_text())
    found = verification_from_json(printed, "verification")
    assert found.plan_digest == plan_digest(read_plan(solved)[1])
    [device] = found.devices
    assert device.failure is None
    assert device.seconds == 10
    assert device.memory_bytes_measured is not None
    assert device.busy_measured is not None
    assert 50 * MIB < device.memory_bytes_measured < 1000 * MIB
    assert 0 < device.busy_measured < 1
    by_name = {m.model: m for m in device.models}
    for measured in by_name.values():
        assert measured.rate_rps == pytest.approx(20)
        assert 100 < measured.completed < 300
        assert measured.failed == 0
        assert measured.memory_bytes_measured is not None
        assert measured.busy_measured is not None
        assert 5 * MIB < measured.memory_bytes_measured < device.memory_bytes_measured
        assert 0 < measured.busy_measured < device.busy_measured
    median, tail = by_name["text_direction"], by_name["file_type"]
    # where something else keeps the machine busy, no verdict is the right one
    assert median.verdict is Verdict.MET or "the load generator was the bottleneck" in str(median.reason)
    assert median.measured_low_ms is not None
    assert median.measured_ms is not None
    assert median.measured_high_ms is not None
    assert 0 < median.measured_low_ms <= median.measured_ms <= median.measured_high_ms < 1000
    assert median.predicted_ms is not None
    assert tail.verdict is Verdict.UNCLEAR
    assert tail.reason is not None
    assert tail.reason.startswith("p99 needs 2,000 requests")


class Together:
    """Two servers at the same time, on whatever cores there are."""

    def __init__(self, triton: TritonInstallation, models: Path, folder: Path) -> None:
        self.problem, self.plan = pair()
        found = emit(self.problem, self.plan, models, folder / "out", targets=["repository"], copy=False)
        cores = sorted(os.sched_getaffinity(0))
        shares = {
            place.device.device: CoreShare((cores[i % len(cores)],), tuple(cores)) for i, place in enumerate(found)
        }
        self.bench = LocalBench(triton, folder / "out", found, shares, folder / "logs")
        self.waves = [list(shares)]

    def verify(self, seconds: float) -> Any:
        settings = VerifySettings(min_seconds=seconds, max_seconds=seconds)
        return verify(self.problem, self.plan, self.bench, settings, waves=self.waves)


def test_devices_of_a_wave_share_the_machine(triton: TritonInstallation, example_models: Path, tmp_path: Path) -> None:
    found = Together(triton, example_models, tmp_path).verify(1.0)
    assert found.complete
    assert all(m.completed > 5 and m.memory_bytes_measured for m in found.models())
    assert not descendants(os.getpid())


def test_an_interruption_ends_all_servers_of_a_wave(
    triton: TritonInstallation, example_models: Path, tmp_path: Path
) -> None:
    together = Together(triton, example_models, tmp_path)
    # The system may give a process's signal to any of its threads: the worst is one that is not the main one.
    timer = threading.Timer(4.0, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            together.verify(60.0)
    finally:
        timer.cancel()
    assert time.monotonic() - start < 20
    assert not descendants(os.getpid())


def free_device() -> tuple[Device, ...]:
    """Devices of one node, of which the last has ports that nobody uses: a plan's ports follow from its place."""
    for place in range(1200, 2200):
        first = 8000 + 10 * place
        with suppress(InputError):
            ports.require_free(Endpoint("127.0.0.1", first + 1, first, first + 2))
            return tuple(Device(id=f"n1/{i}", gpu=f"n1/{i}", kind="cpu-1") for i in range(place + 1))
    pytest.skip("every port is taken")


@pytest.fixture
def launch(triton: TritonInstallation, example_models: Path, tmp_path: Path) -> Iterator[Any]:
    """An emitted launch.sh with a real server; the process and the server's HTTP port."""
    fleet = free_device()
    option = replica_option("file_type", "cpu-1", max_batch_size=4)
    planned = placed([option], {fleet[-1].id: [option.id]}, kinds=[CPU], fleet=fleet)
    [place] = places(*planned)
    emit(*planned, example_models, tmp_path / "out", targets=["repository"], copy=True)
    environment = {
        **os.environ,
        "TRITON_SERVER": str(triton.binary),
        "TRITON_ARGS": f"--backend-directory={triton.backend_directory}" if triton.backend_directory else "",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, triton.library_path)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        f"GPU{place.gpus[0]}_CORES": str(max(os.sched_getaffinity(0))),
    }
    with (tmp_path / "launch.log").open("w") as log:
        process = subprocess.Popen(
            [str(tmp_path / "out" / "n1" / "launch.sh")],
            env=environment,
            cwd=triton.working_directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process, place.device.endpoint.http_port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_launch_script_starts_real_servers_and_stops_them(launch: Any, tmp_path: Path) -> None:
    process, port = launch

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "launch.log").read_text()
        with suppress(OSError):
            return _get(port, "v2/health/ready") == 200
        return False

    wait_until(answers, 30)
    assert _get(port, "v2/models/file_type/ready") == 200
    index = urllib.request.Request(f"http://127.0.0.1:{port}/v2/repository/index", method="POST")
    with urllib.request.urlopen(index, timeout=5) as answer:
        assert json.loads(answer.read()) == [{"name": "file_type", "version": "1", "state": "READY"}]
    processes = descendants(process.pid)
    assert {process.name()[:12] for process in processes} >= {"tritonserver", "triton_pytho"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    wait_until(lambda: all_gone(processes), 5)


def _get(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        return int(answer.status)
