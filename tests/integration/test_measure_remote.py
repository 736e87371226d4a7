"""`planner measure --server` on a real Triton that was started before, by somebody else as far as it can tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from planner.domain.serving import Endpoint
from planner.store.database import open_store
from profiler.server import ports
from profiler.server.client import ControlClient
from profiler.server.find import TritonInstallation
from profiler.server.local import LaunchSpec, LocalTriton
from tests.small_models import ONE_INPUT, write_model

QUICK = """\
schema_version: 1
search: grid
stability: {max_windows: 1}
instances: [2]
max_batch_sizes: [4]
closed_loop: {concurrency: [2]}
open_loop: {of: capacity, levels: [0.3]}
window: {min_seconds: 0.5, max_seconds: 0.5}
"""
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
SECRET = "not-for-other-eyes"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    models = tmp_path / "server" / "models"
    answer = "np.zeros((tensors[0].shape[0], 1), np.float32)"
    for name in ("loaded", "asleep"):
        batching = "max_batch_size: 4\ndynamic_batching { max_queue_delay_microseconds: 100 }\n"
        write_model(models, name, batching + ONE_INPUT, seconds=0.002, answer=answer)
    (tmp_path / "measure.yaml").write_text(QUICK)
    return tmp_path


@pytest.fixture
def somebody_s(triton: TritonInstallation, project: Path) -> Any:
    @contextmanager
    def start(*arguments: str, load: tuple[str, ...] = ("loaded",)) -> Iterator[LocalTriton]:
        models, log = project / "server" / "models", project / "server" / "log"
        with LocalTriton.start(triton, models, cores=None, log_path=log, load=load, extra_args=arguments) as server:
            yield server

    return start


@pytest.fixture
def run(planner: Run, project: Path) -> Run:
    """`planner measure --server`."""
    return lambda url, *arguments, **changes: planner(project, "measure", "--server", url, *arguments, **changes)


def rows_of(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["profiles"]
    return rows


def check_unknown(rows: list[dict[str, Any]], device: str = "L4") -> None:
    assert rows
    for row in rows:
        assert row["device"] == device
        assert row["rate_rps"] > 0
        assert row["latency_mean_ms"] > 0
        assert row["executed_batch_mean"] >= 1
        unknown = [row[name] for name in ("memory_bytes", "memory_cold_bytes", "busy", "power_watts")]
        assert unknown == [None, None, None, None]


def server_metrics(project: Path) -> list[dict[str, Any]]:
    """What stands of the server's machine in every record."""
    store = open_store(f"sqlite:///{project}/profiles.db")
    try:
        found: list[Any] = [m.statistics["server_metrics"] for m in store.measurements() if not m.row.is_overhead]
    finally:
        store.close()
    assert found
    return found


@pytest.mark.parametrize("scheme", ["grpc", pytest.param("http", marks=pytest.mark.slow)])
def test_models_are_loaded_with_each_configuration_and_put_back(
    project: Path, run: Run, somebody_s: Any, scheme: str
) -> None:
    with somebody_s() as server:
        control = ControlClient(server.endpoint, local=True)
        before = control.model_config("loaded")
        port = server.endpoint.grpc_port if scheme == "grpc" else server.endpoint.http_port
        url = f"{scheme}://127.0.0.1:{port}"
        metrics = ("--metrics-url", f"http://127.0.0.1:{server.endpoint.metrics_port}/metrics")
        done = run(url, "loaded", "asleep", "--device", "L4", "--json", "--load-generator", "builtin", *metrics)
        rows = rows_of(done)
        check_unknown(rows)
        assert {(row["model"], row["instances"], row["max_batch_size"]) for row in rows} == {
            ("loaded", 2, 4),
            ("asleep", 2, 4),
        }
        assert {row["queue_delay_us"] for row in rows} == {100}
        assert all(row["model_digest"].startswith("config-") for row in rows)
        assert "memory and busy time are unknown" in done.stderr
        assert "cannot be read" not in done.stderr
        for told in server_metrics(project):
            assert told["gpus"] == {}
            assert 0 < told["cpu"]["memory_used_bytes"] < told["cpu"]["memory_total_bytes"]
            assert 0 <= told["cpu"]["utilization"] <= 1
        assert control.models() == {"asleep": False, "loaded": True}
        assert control.model_config("loaded") == before
        assert "127.0.0.1" not in json.dumps(rows)
        again = run(url, "loaded", "asleep", "--device", "L4", "--load-generator", "builtin")
        assert f"{len(rows)} were in the store already" in again.stdout, again.stderr
        control.close()


def test_a_server_that_loads_nothing_is_measured_as_it_is(project: Path, run: Run, somebody_s: Any) -> None:
    with somebody_s("--model-control-mode=none", load=()) as server:
        url = f"127.0.0.1:{server.endpoint.grpc_port}"
        nowhere = ("--metrics-url", f"http://127.0.0.1:{server.endpoint.http_port}/metrics")
        done = run(url, "--device", "cpu-8", "--json", "--load-generator", "builtin", *nowhere)
        rows = rows_of(done)
        check_unknown(rows, "cpu-8")
        assert {(row["model"], row["instances"]) for row in rows} == {("asleep", 1), ("loaded", 1)}
        assert "the server loads no models on request" in done.stderr
        assert "/metrics cannot be read (Not Found)" in done.stderr
        assert {told["unknown"] for told in server_metrics(project)} == {"Not Found"}


ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "a" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling {
  step [
    { model_name: "loaded" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "a" } },
    { model_name: "asleep" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }
  ]
}
"""


def test_an_ensemble_is_measured_as_its_members_are_there(project: Path, run: Run, somebody_s: Any) -> None:
    models = project / "server" / "models"
    (models / "both" / "1").mkdir(parents=True)
    (models / "both" / "config.pbtxt").write_text(ENSEMBLE)
    config = models / "asleep" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with somebody_s() as server:
        url = f"127.0.0.1:{server.endpoint.grpc_port}"
        rows = rows_of(run(url, "both", "--device", "L4", "--json", "--load-generator", "builtin"))
        check_unknown([{**row, "executed_batch_mean": row["executed_batch_mean"] or 1} for row in rows])
        assert {row["variant"] for row in rows} == {"loaded 1, asleep 2"}
        control = ControlClient(server.endpoint, local=True)
        ready = control.models()
        control.close()
        assert (ready["both"], ready["loaded"]) == (False, True)


def certificates(folder: Path) -> Path:
    """A CA, and a server and a client certificate that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; apt-get install -y openssl")
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


@contextmanager
def behind_tls(server: LocalTriton, pem: Path) -> Iterator[int]:
    """Triton's HTTP has no TLS of its own: what stands before it in practice. Yields the port."""
    import socketserver
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler

    upstream = server.endpoint.http_port

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = HTTPConnection("127.0.0.1", upstream)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            said = answer.read()
            connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = _forward  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up, or does not trust us, is what some tests want."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem / "server.pem", pem / "server.key")
    context.load_verify_locations(pem / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with Threaded(("127.0.0.1", 0), Forward) as front:
        front.socket = context.wrap_socket(front.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=front.serve_forever)
        thread.start()
        try:
            yield front.server_address[1]
        finally:
            front.shutdown()
            thread.join()


@contextmanager
def started_apart(triton: TritonInstallation, project: Path, *arguments: str) -> Iterator[Endpoint]:
    """A server whose gRPC asks for what ours does not have; it is waited for over HTTP."""
    endpoint = ports.free_endpoint()
    models, log = project / "server" / "models", project / "server" / "log"
    spec = LaunchSpec(triton, models, None, "", log, ("--load-model=loaded", *arguments))
    with log.open("wb") as output:
        process = subprocess.Popen(
            spec.command(endpoint, f"apart{os.getpid()}"), env=spec.environment(), cwd=triton.working_directory,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not is_ready(endpoint):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
            yield endpoint
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_ready(endpoint: Endpoint) -> bool:
    connection = HTTPConnection("127.0.0.1", endpoint.http_port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def tls_options(pem: Path) -> tuple[str, ...]:
    own = ("--tls-certificate", str(pem / "client.pem"), "--tls-key", str(pem / "client.key"))
    return ("--tls-ca", str(pem / "ca.pem"), *own)


@pytest.mark.parametrize("generator", ["builtin", pytest.param("perf_analyzer", marks=pytest.mark.slow)])
def test_mutual_tls_over_grpc(
    project: Path, run: Run, triton: TritonInstallation, generator: str, request: pytest.FixtureRequest
) -> None:
    if generator == "perf_analyzer":
        request.getfixturevalue("perf_analyzer")
    pem = certificates(project / "pem")
    server_options = (
        "--grpc-use-ssl-mutual=true", f"--grpc-server-cert={pem / 'server.pem'}",
        f"--grpc-server-key={pem / 'server.key'}", f"--grpc-root-cert={pem / 'ca.pem'}",
    )  # fmt: skip
    with started_apart(triton, project, *server_options) as endpoint:
        asked = ("loaded", "--device", "L4", "--load-generator", generator)
        done = run(f"grpcs://localhost:{endpoint.grpc_port}", *asked, *tls_options(pem), "--json")
        rows = rows_of(done)
        check_unknown(rows)
        assert {row["load_generator"] for row in rows} == {generator}
        if generator == "builtin":
            nobody = run(f"grpcs://localhost:{endpoint.grpc_port}", *asked, "--tls-ca", str(pem / "ca.pem"))
            assert nobody.returncode == 5
            assert "error: no Triton server answers" in nobody.stderr


@pytest.mark.parametrize("generator", ["builtin", pytest.param("perf_analyzer", marks=pytest.mark.slow)])
def test_mutual_tls_over_http(
    project: Path, run: Run, somebody_s: Any, generator: str, request: pytest.FixtureRequest
) -> None:
    if generator == "perf_analyzer":
        request.getfixturevalue("perf_analyzer")
    pem = certificates(project / "pem")
    with somebody_s() as server, behind_tls(server, pem) as port:
        asked = ("loaded", "--device", "L4", "--load-generator", generator)
        rows = rows_of(run(f"https://localhost:{port}", *asked, *tls_options(pem), "--json"))
        check_unknown(rows)
        assert {row["load_generator"] for row in rows} == {generator}
        if generator == "builtin":
            distrusted = run(f"https://localhost:{port}", *asked)
            assert distrusted.returncode == 5
            assert "certificate verify failed" in distrusted.stderr


RESTRICTED = "model-repository,model-config,inference,statistics"


@pytest.mark.parametrize("transport", ["grpc", pytest.param("http", marks=pytest.mark.slow)])
def test_headers_are_sent_with_every_call_and_never_shown(
    project: Path, run: Run, triton: TritonInstallation, transport: str
) -> None:
    if transport == "grpc":
        option, name = f"--grpc-restricted-protocol={RESTRICTED}:key={SECRET}", "triton-grpc-protocol-key"
    else:
        option, name = f"--http-restricted-api={RESTRICTED}:key={SECRET}", "key"
    with started_apart(triton, project, option) as endpoint:
        port = endpoint.grpc_port if transport == "grpc" else endpoint.http_port
        url = f"{transport}://127.0.0.1:{port}"
        asked = ("loaded", "--device", "L4", "--json")
        header = ("--header", f"{name}=env:OUR_KEY")
        done = run(url, *asked, *header, environment={"OUR_KEY": SECRET})
        rows = rows_of(done)
        check_unknown(rows)
        # perf_analyzer would show them to everyone on this machine
        assert {row["load_generator"] for row in rows} == {"builtin"}
        (project / "key").write_text(f"{SECRET}\n")
        again = run(url, *asked, "--header", f"{name}=file:key")
        assert json.loads(again.stdout)["measured"] == 0, again.stderr
        refused = run(url, *asked)
        assert refused.returncode == 5
        assert "This protocol is restricted" in refused.stderr or "This API is restricted" in refused.stderr
        wrong = run(url, *asked, *header, environment={"OUR_KEY": "wrong-" + SECRET})
        assert wrong.returncode == 5
    for one in (done, again, refused, wrong):
        assert SECRET not in one.stdout + one.stderr
    for file in project.glob("profiles.db*"):
        assert SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--server", "ftp://x:1"], "server 'ftp://x:1' must be host:port, with grpc://, grpcs://"),
        (["--server", "http://user:hunter2@x:8000"], "a server's URL has no user and no password"),
        (["--server", "x:8001", "--cores", "0"], "--cores is for a server that is started here"),
        (["--header", "a=env:B"], "--header is for a server that runs already (--server URL)"),
        (["--server", "x:8001", "--header", "a=hunter2"], "--header a: a value is secret, and others can read"),
        (["--server", "x:8001", "--header", "a=env:NOT_SET_HERE"], "--header a: the environment has no variable NOT_"),
        (["--server", "x:8001", "--header", "a=file:gone"], "--header a: gone: No such file"),
        (
            ["--server", "x:8001", "--header", "a=env:B", "--load-generator", "perf_analyzer"],
            "--header: perf_analyzer ta",
        ),
        (["--server", "x:8001", "--metrics-url", "file:///etc/hostname"], "--metrics-url file:///etc/hostname: http"),
        (["--metrics-url", "http://x:8002/metrics"], "--metrics-url is for a server that runs already"),
        (["--server", "x:8001", "--tls-key", "measure.yaml"], "--tls-key and --tls-certificate go together"),
    ],
)
def test_bad_input_is_one_clear_error(project: Path, planner: Run, arguments: list[str], text: str) -> None:
    done = planner(project, "measure", "--device", "L4", *arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "hunter2" not in done.stderr


def test_the_device_of_another_machine_must_be_named(project: Path, run: Run) -> None:
    done = run("x:8001")
    assert done.returncode == 2
    assert "which type of device it runs on is not known here" in done.stderr
