"""LocalTriton against the real server: its life, its errors, and that nothing is left after its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from planner.domain.serving import Endpoint, Server
from planner.errors import InputError, TritonExited, TritonRefused, TritonUnreachable
from profiler.server import local, ports
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from profiler.server.remote import RemoteHost, RemoteTriton, parse_url

CONFIG = """
backend: "python"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
ECHO = """
import psutil
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]) for x in inputs]
"""
FINALIZE = """
    def finalize(self):
        open(__file__ + ".finalized", "w").close()
"""
LEAVES_A_CHILD = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n"
MODELS = {
    "echo": ECHO,
    "syntax_error": "class TritonPythonModel(:\n",
    "hangs": "import time\nclass TritonPythonModel:\n    def initialize(self, args):\n        time.sleep(600)\n",
    "kills_its_server": "import os\nos.kill(os.getppid(), 9)\n",
    "leaves_a_child": LEAVES_A_CHILD + ECHO + FINALIZE,
}
PARENT = """
import sys, time
from pathlib import Path
from profiler.server.find import find_triton
from profiler.server.local import LocalTriton
with LocalTriton.start(find_triton(Path(sys.argv[1])), Path(sys.argv[2]), cores=None,
                       log_path=Path(sys.argv[3]), load=["leaves_a_child"]) as server:
    print(server.pid, flush=True)
    {then}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, code in MODELS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(CONFIG)
        (root / name / "1" / "model.py").write_text(code)
    return root


@pytest.fixture(scope="module")
def core() -> int:
    return max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def start(
    triton: TritonInstallation, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., LocalTriton]:
    """LocalTriton.start with what all tests have in common."""
    logs = tmp_path_factory.mktemp("logs")

    def start(**changes: object) -> LocalTriton:
        options: dict[str, object] = {"cores": None, "log_path": logs / "triton.log", **changes}
        return LocalTriton.start(options.pop("installation", triton), repository, **options)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="module")
def server(start: Callable[..., LocalTriton], core: int) -> Iterator[LocalTriton]:
    """One running server for all tests that do it no harm."""
    with start(cores=[core], load=["echo"]) as server:
        yield server


def infer(server: Server, value: float) -> list[float]:
    from tritonclient.grpc import InferenceServerClient, InferInput

    tensor = InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
    with InferenceServerClient(f"{server.endpoint.host}:{server.endpoint.grpc_port}") as client:
        answer = client.infer("echo", [tensor], client_timeout=10).as_numpy("y")
    assert answer is not None
    return [float(number) for number in answer[0]]


def statistics(server: Server) -> Any:
    return server.statistics("echo")["model_stats"][0]  # type: ignore[index]


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def shm_regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("triton_python_backend_shm_region_*")}


def shm_regions_of(pids: set[int]) -> set[str]:
    """The regions that some of the processes have mapped now."""
    found = set()
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        found |= {line.rpartition("/")[2] for line in maps.splitlines() if "/dev/shm/triton_python_backend" in line}
    return found


def test_serves_and_counts(server: LocalTriton) -> None:
    before = statistics(server)["inference_count"]
    assert infer(server, 1.5) == [3.0, 3.0]
    patience = time.monotonic() + 5
    while (entry := statistics(server))["inference_count"] == before and time.monotonic() < patience:
        time.sleep(0.01)
    assert entry["name"] == "echo"
    assert entry["version"] == "1"
    assert entry["inference_count"] == before + 1
    assert entry["inference_stats"]["success"]["count"] == before + 1
    assert entry["inference_stats"]["fail"]["count"] == 0
    assert entry["batch_stats"][0]["batch_size"] == 1
    assert entry["batch_stats"][0]["compute_infer"]["ns"] > 0


def test_runs_on_its_cores_with_this_python(server: LocalTriton, core: int) -> None:
    own = family(server.pid)
    assert len(own) == 2, "the server and the stub of one instance"
    for pid in own:
        assert os.sched_getaffinity(pid) == {core}
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        assert "OMP_NUM_THREADS=1" in environment
    stub = max(own - {server.pid})
    assert str(Path(psutil.__file__).parent) in Path(f"/proc/{stub}/maps").read_text(), "the model imports it, too"


def test_listens_on_loopback_only(server: LocalTriton) -> None:
    wanted = {server.endpoint.grpc_port, server.endpoint.http_port, server.endpoint.metrics_port}
    assert ports.listening_ports(server.pid) == wanted
    for port in wanted:
        for address in ("127.0.0.2", "::1"):
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(kind) as probe:
                assert probe.connect_ex((address, port)) != 0


def test_tells_version_and_log(server: LocalTriton) -> None:
    assert server.server_version.count(".") == 2
    assert len(server.log_tail(3).splitlines()) == 3
    assert "echo" in server.log_tail(20)


def test_a_model_that_does_not_load(server: LocalTriton) -> None:
    with pytest.raises(TritonRefused, match=r"syntax_error.*invalid syntax") as caught:
        server.load("syntax_error")
    assert "syntax_error" in str(caught.value.log_tail)
    with pytest.raises(TritonRefused, match="nobody"):
        server.load("nobody")
    with pytest.raises(TritonRefused, match="nobody"):
        server.statistics("nobody")
    assert infer(server, 1) == [2.0, 2.0], "the others go on"


def test_two_servers_side_by_side(server: LocalTriton, start: Callable[..., LocalTriton]) -> None:
    with start(load=["echo"]) as second:
        assert infer(second, 2) == [4.0, 4.0]
        assert infer(server, 3) == [6.0, 6.0]
        second.unload("echo")
        with pytest.raises(TritonRefused, match="echo"):
            second.statistics("echo")
        regions = shm_regions_of(family(server.pid))
    assert regions <= shm_regions(), "closing one leaves the other's memory alone"
    assert infer(server, 4) == [8.0, 8.0]


def test_an_occupied_port_is_named(start: Callable[..., LocalTriton]) -> None:
    free = ports.free_endpoint()
    with socket.socket() as occupier:
        occupier.bind((ports.LOOPBACK, 0))
        occupier.listen()
        taken = occupier.getsockname()[1]
        with pytest.raises(InputError, match=f"port {taken} for HTTP is already in use"):
            start(ports=Endpoint(free.host, free.grpc_port, taken, free.metrics_port))
    with pytest.raises(InputError, match="differ"):
        start(ports=Endpoint(free.host, free.grpc_port, free.grpc_port, free.metrics_port))


@pytest.mark.parametrize("chosen_by", ["us", "the caller"])
def test_a_port_lost_after_the_check(
    chosen_by: str, start: Callable[..., LocalTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the metrics port between the check and Triton's own bind."""
    with socket.socket() as occupier:
        occupier.bind((ports.LOOPBACK, 0))
        occupier.listen()
        good = ports.free_endpoint()
        bad = Endpoint(good.host, good.grpc_port, good.http_port, occupier.getsockname()[1])
        endpoints = iter([bad, good])
        monkeypatch.setattr(ports, "free_endpoint", lambda: next(endpoints))
        if chosen_by == "us":
            with start() as server:
                assert server.endpoint == good
        else:
            honest = ports.require_free
            checks = iter([lambda _: None, honest])
            monkeypatch.setattr(ports, "require_free", lambda endpoint: next(checks)(endpoint))
            with pytest.raises(InputError, match=f"port {bad.metrics_port} for metrics"):
                start(ports=bad)


def test_a_server_that_exits_at_once(start: Callable[..., LocalTriton]) -> None:
    begin = time.monotonic()
    with pytest.raises(TritonExited, match="exit code 1") as caught:
        start(extra_args=["--no-such-option"])
    assert time.monotonic() - begin < 10
    assert "--" in str(caught.value.log_tail)


def test_a_binary_that_cannot_run(start: Callable[..., LocalTriton], tmp_path: Path) -> None:
    broken = tmp_path / "tritonserver"
    broken.write_text("not a program")
    broken.chmod(0o755)
    with pytest.raises(TritonExited, match="exit code 127") as caught:
        start(installation=TritonInstallation(broken, None, (), "a test"))
    assert "Exec format error" in str(caught.value.log_tail)


def test_a_server_that_never_answers(start: Callable[..., LocalTriton], tmp_path: Path) -> None:
    silent = tmp_path / "tritonserver"
    silent.write_text("#!/bin/sh\necho still thinking\nexec sleep 600\n")
    silent.chmod(0o755)
    with pytest.raises(TritonUnreachable, match=r"not ready within 0\.5 s") as caught:
        start(installation=TritonInstallation(silent, None, (), "a test"), ready_timeout_s=0.5)
    assert caught.value.log_tail == "still thinking"


def test_wrong_cores_and_repository(
    start: Callable[..., LocalTriton], triton: TritonInstallation, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cores"):
        start(cores=[4096])
    with pytest.raises(InputError, match="not a directory"):
        LocalTriton.start(triton, tmp_path / "none", cores=None, log_path=tmp_path / "log")


def test_a_load_that_hangs_keeps_its_deadline(start: Callable[..., LocalTriton]) -> None:
    with start() as server:
        begin = time.monotonic()
        with pytest.raises(TritonUnreachable, match="within 1 s") as caught:
            server.load("hangs", timeout_s=1)
        assert time.monotonic() - begin < 10
        assert "loading: hangs" in str(caught.value.log_tail)
        own = family(server.pid)
    assert len(own) > 1
    assert not [pid for pid in own if is_alive(pid)]
    assert time.monotonic() - begin < 25


def test_a_server_that_dies_is_not_waited_for(start: Callable[..., LocalTriton]) -> None:
    with start() as server:
        begin = time.monotonic()
        with pytest.raises(TritonExited, match="SIGKILL") as caught:
            server.load("kills_its_server", timeout_s=60)
        assert time.monotonic() - begin < 10
        assert "kills_its_server" in str(caught.value.log_tail)
        with pytest.raises(TritonExited):
            server.statistics("echo")


def test_a_broken_connection_may_be_seen_before_the_death(
    start: Callable[..., LocalTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    still_running = iter([True] * 3)
    really = local._is_running
    monkeypatch.setattr(local, "_is_running", lambda pid: next(still_running, False) or really(pid))
    with start() as server, pytest.raises(TritonExited, match="SIGKILL"):
        server.load("kills_its_server", timeout_s=60)


def test_close_leaves_nothing_and_may_be_called_twice(start: Callable[..., LocalTriton], repository: Path) -> None:
    finalized = repository / "leaves_a_child" / "1" / "model.py.finalized"
    finalized.unlink(missing_ok=True)
    server = start(load=["leaves_a_child"])
    own = family(server.pid)
    regions = shm_regions_of(own)
    assert len(own) == 3, "server, stub, and the child that left their group"
    assert len(regions) == 1
    server.close()
    assert finalized.exists(), "models end in peace, though the emptied server is killed"
    assert not [pid for pid in own if is_alive(pid)]
    assert not regions & shm_regions()
    server.close()
    with pytest.raises(TritonExited, match="was closed"):
        server.load("echo")


def test_a_load_at_the_start_that_fails_leaves_nothing(start: Callable[..., LocalTriton]) -> None:
    with pytest.raises(TritonRefused, match="syntax_error"):
        start(load=["echo", "syntax_error"])
    assert family(os.getpid()) >= {os.getpid()}
    keepers = [pid for pid in family(os.getpid()) if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(keepers) <= 1, "at most the shared server's"


def test_outlives_the_thread_that_started_it(start: Callable[..., LocalTriton]) -> None:
    started: list[LocalTriton] = []
    thread = threading.Thread(target=lambda: started.append(start(load=["echo"])))
    thread.start()
    thread.join()
    with started[0] as server:
        time.sleep(1)
        assert infer(server, 1) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("then", "end"),
    [
        ("time.sleep(600)", signal.SIGKILL),
        ("time.sleep(600)", signal.SIGTERM),
        ("time.sleep(600)", signal.SIGINT),
        ("raise RuntimeError", None),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT", "exception"],
)
def test_nothing_outlives_its_parent(
    then: str, end: signal.Signals | None, triton: TritonInstallation, repository: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT.format(then=then), str(triton.binary), str(repository)]
    with subprocess.Popen(
        [*command, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        own = family(pid) | family(parent.pid) - {parent.pid}
        regions = shm_regions_of(family(pid))
        if end is not None:
            parent.send_signal(end)
        parent.wait(30)
    patience = time.monotonic() + 15
    while [pid for pid in own if is_alive(pid)] and time.monotonic() < patience:
        time.sleep(0.05)
    assert not [pid for pid in own if is_alive(pid)]
    assert not regions & shm_regions()


def test_the_keeper_s_own_death_takes_the_server_along(start: Callable[..., LocalTriton]) -> None:
    """The stubs of a server that was killed live on: close() finds them without the keeper's help."""
    server = start(load=["echo"])
    own = family(server.pid)
    regions = shm_regions_of(own)
    os.kill(server._keeper.pid, signal.SIGKILL)
    patience = time.monotonic() + 5
    while is_alive(server.pid) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not is_alive(server.pid)
    with pytest.raises(TritonExited, match="SIGKILL"):
        server.statistics("echo")
    server.close()
    patience = time.monotonic() + 5
    while [pid for pid in own if is_alive(pid)] and time.monotonic() < patience:
        time.sleep(0.02)
    assert not [pid for pid in own if is_alive(pid)]
    assert not regions & shm_regions()


def test_remote(server: LocalTriton) -> None:
    for scheme, port in (("grpc", server.endpoint.grpc_port), ("http", server.endpoint.http_port)):
        with RemoteHost(parse_url(f"{scheme}://127.0.0.1:{port}")) as host:
            remote = RemoteTriton(host)
            remote.load("echo")
            assert remote.pid is None
            assert host.server_version == server.server_version
            assert host.allows_loading
            assert remote.statistics("echo")["model_stats"][0]["name"] == "echo"  # type: ignore[index]
            assert remote.log_tail() == ""
            with pytest.raises(TritonRefused, match="nobody"):
                remote.load("nobody")
    with pytest.raises(TritonUnreachable):
        RemoteHost(parse_url(f"127.0.0.1:{ports.free_endpoint().grpc_port}"))
