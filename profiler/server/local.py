"""A tritonserver on this machine, from its start to its last process.

`LocalTriton.start(...)` returns a server that answers; used in a `with` statement it is gone afterwards,
whatever happened: see `profiler.server.keeper`, which does the killing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from planner.domain.serving import Endpoint
from planner.errors import InputError, ServerError, TritonExited, TritonUnreachable
from profiler.server import keeper, ports
from profiler.server.client import ControlClient
from profiler.server.find import TritonInstallation
from profiler.server.kernel_kills import KernelKills

READY_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 120.0
STOP_GRACE_S = 5.0
EXIT_TIMEOUT_S = 2
KEEPER_TIMEOUT_S = 10.0
# A dying process closes its connections before it counts as ended.
LAST_BREATH_S = 1.0
READY_POLL_S = 0.05
PORT_ATTEMPTS = 5
LOG_TAIL_BYTES = 64 * 1024


class PortTaken(Exception):
    """Triton ended because a port that was free a moment ago is not any more."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything about a server but its ports.

    `gpu_uuid` becomes CUDA_VISIBLE_DEVICES: "" hides every GPU, None leaves the environment as it is.
    """

    installation: TritonInstallation
    repository: Path
    cores: tuple[int, ...] | None
    gpu_uuid: str | None
    log_path: Path
    extra_args: tuple[str, ...]

    def command(self, endpoint: Endpoint, shm_prefix: str) -> list[str]:
        command = [
            str(self.installation.binary),
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--grpc-address={ports.LOOPBACK}",
            f"--http-address={ports.LOOPBACK}",
            f"--metrics-address={ports.LOOPBACK}",
            f"--grpc-port={endpoint.grpc_port}",
            f"--http-port={endpoint.http_port}",
            f"--metrics-port={endpoint.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        ]
        if self.installation.backend_directory is not None:
            command.append(f"--backend-directory={self.installation.backend_directory}")
        return [*command, *self.extra_args]

    def environment(self) -> dict[str, str]:
        """The caller's environment with this Python first on PATH: models import from its packages."""
        environment = dict(os.environ)
        own_python = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([own_python, environment.get("PATH", os.defpath)])
        libraries = [*map(str, self.installation.library_path), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        if self.cores is not None:
            environment["OMP_NUM_THREADS"] = str(len(self.cores))
        if self.gpu_uuid is not None:
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu_uuid
        return environment


class LocalTriton:
    """A running server on this machine; implements `planner.domain.serving.Server`."""

    def __init__(self, spec: LaunchSpec, endpoint: Endpoint) -> None:
        """Launch the process; `start` also waits until it answers."""
        self._spec = spec
        self._endpoint = endpoint
        self._client: ControlClient | None = None
        self._pid = 0
        self._kills = KernelKills()
        self._log_begin = spec.log_path.stat().st_size if spec.log_path.exists() else 0
        # Of its own, so that what a killed server leaves in /dev/shm can be told from what others use.
        self._shm_prefix = f"triton_python_backend_shm_region_{uuid.uuid4().hex[:12]}_"
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self.close)
        try:
            self._pid = self._give_order()
        except BaseException:
            self.close()
            raise

    @classmethod
    def start(
        cls,
        installation: TritonInstallation,
        repository: Path,
        *,
        cores: Sequence[int] | None,
        log_path: Path,
        gpu_uuid: str | None = None,
        load: Sequence[str] = (),
        ready_timeout_s: float = READY_TIMEOUT_S,
        ports: Endpoint | None = None,
        extra_args: Sequence[str] = (),
    ) -> Self:
        """Start a server, wait until it answers, and load `load` one after another.

        `cores` are the CPUs it and its models may run on (None: all that we may use). The log is appended to
        `log_path`. Raises InputError for a port of the caller's that is taken, TritonExited where the process
        ends, TritonUnreachable where it does not answer in `ready_timeout_s`, TritonRefused for a model.
        """
        if not repository.is_dir():
            raise InputError(f"model repository {repository} is not a directory")
        log_path.parent.mkdir(parents=True, exist_ok=True)
        own_cores = None if cores is None else _usable(cores)
        spec = LaunchSpec(
            installation, repository.absolute(), own_cores, gpu_uuid, log_path.absolute(), tuple(extra_args)
        )
        server = cls._start_on(spec, ports, ready_timeout_s)
        try:
            for model in load:
                server.load(model)
        except BaseException:
            server.close()
            raise
        return server

    @classmethod
    def _start_on(cls, spec: LaunchSpec, given: Endpoint | None, ready_timeout_s: float) -> Self:
        for _ in range(PORT_ATTEMPTS):
            if given is not None:
                ports.require_free(given)
            server = cls(spec, given or ports.free_endpoint())
            try:
                server._wait_until_ready(ready_timeout_s)
            except PortTaken:
                # Of the caller's ports the next turn names the one that was taken.
                server.close()
            except BaseException:
                server.close()
                raise
            else:
                return server
        raise TritonUnreachable(f"no free ports for Triton after {PORT_ATTEMPTS} attempts")

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def server_version(self) -> str:
        with self._explained():
            return self._control().server_version()

    def load(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        with self._explained():
            self._control().load(model, timeout_s)

    def unload(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        with self._explained():
            self._control().unload(model, timeout_s)

    def statistics(self, model: str) -> Mapping[str, object]:
        with self._explained():
            return self._control().statistics(model)

    def infer_once(self, model: str, input_name: str, values: Sequence[float], output_name: str) -> list[float]:
        with self._explained():
            return self._control().infer_once(model, input_name, values, output_name)

    def raise_if_ended(self) -> None:
        if not _is_running(self._pid):
            # the keeper needs a moment to see it and to clean up
            self._raise_if_ended(KEEPER_TIMEOUT_S)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that this server (not an earlier one with the same log file) wrote."""
        try:
            with self._spec.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_begin, end - LOG_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Stop the server and wait until its last process is gone. A second call does nothing."""
        atexit.unregister(self.close)
        client, self._client = self._client, None
        word = keeper.STOP
        try:
            if client is not None:
                with contextlib.closing(client), contextlib.suppress(ServerError):
                    # Told to end, Triton looks once a second whether its models are gone, and then waits for
                    # another until its metrics are. We look more often, and kill what is empty.
                    if _is_running(self._pid):
                        client.unload_all(EXIT_TIMEOUT_S)
                        word = keeper.KILL
        finally:
            self._end(word)

    def _end(self, word: bytes) -> None:
        """Have the keeper end the server, and wait until its last process is gone."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        # A word, not only the end of the pipe: a forked child of ours may still hold its other end open.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._keeper.stdin.fileno(), word)
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(STOP_GRACE_S + KEEPER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if self._keeper.returncode < 0 and not self._keeper.stdout.closed:
            self._clean_up_without_keeper()
        self._keeper.stdout.close()

    def _clean_up_without_keeper(self) -> None:
        """Somebody killed the keeper: the server died with it, the stubs of its models did not."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        for region in keeper.SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_order(self) -> int:
        """Tell the keeper what to start; the server's pid."""
        directory = self._spec.installation.working_directory
        order = keeper.Order(
            command=self._spec.command(self._endpoint, self._shm_prefix),
            environment=self._spec.environment(),
            cores=None if self._spec.cores is None else list(self._spec.cores),
            working_directory=None if directory is None else str(directory),
            log_path=str(self._spec.log_path),
            shm_prefix=self._shm_prefix,
            grace_s=STOP_GRACE_S,
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        message = json.dumps({"parent": os.getpid(), "order": order})
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(message.encode() + b"\n")
            self._keeper.stdin.flush()
            answer = self._keeper.stdout.readline()
        if not answer:
            raise TritonExited("the process that keeps Triton ended before it started Triton")
        return int(answer)

    def _wait_until_ready(self, timeout_s: float) -> None:
        """Until our process, and no other one, listens on all three ports and calls itself ready."""
        wanted = set(ports.ports_of(self._endpoint).values())
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                self._raise_if_ended()
            except TritonExited as error:
                if "already in use" in self.log_tail(100) and ports.occupied(self._endpoint):
                    raise PortTaken from error
                raise
            if wanted <= ports.listening_ports(self._pid):
                if self._client is None:
                    self._client = ControlClient(self._endpoint, local=True)
                if self._client.is_ready():
                    return
            time.sleep(READY_POLL_S)
        raise TritonUnreachable(f"Triton was not ready within {timeout_s:g} s", log_tail=self.log_tail())

    def _raise_if_ended(self, wait_s: float = 0.0) -> None:
        try:
            code = self._keeper.wait(wait_s)
        except subprocess.TimeoutExpired:
            return
        raise TritonExited(f"Triton ended {_how(code)}{self._kills.words()}", log_tail=self.log_tail())

    def _control(self) -> ControlClient:
        if self._client is None:
            raise TritonExited("this Triton server was closed")
        return self._client

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Put the log's tail into every error, and the server's death in place of a broken connection."""
        try:
            yield
        except ServerError as error:
            if self._client is None:
                raise
            # The keeper needs a moment to see that the server is gone and to clean up behind it.
            if isinstance(error, TritonUnreachable) and _ends_within(self._pid, LAST_BREATH_S):
                self._raise_if_ended(KEEPER_TIMEOUT_S)
            error.log_tail = self.log_tail()
            error.message += self._kills.words()
            raise


def _usable(cores: Sequence[int]) -> tuple[int, ...]:
    allowed = os.sched_getaffinity(0)
    if not cores or not set(cores) <= allowed:
        raise InputError(f"cores {list(cores)} are not among the cores {sorted(allowed)} that we may use")
    return tuple(sorted(set(cores)))


def _how(exit_code: int) -> str:
    """An exit code of the keeper's, in words; negative where a signal ended the keeper itself."""
    signals = {number.value: number.name for number in signal.Signals}
    name = signals.get(-exit_code if exit_code < 0 else exit_code - 128)
    return f"by signal {name}" if name else f"with exit code {exit_code}"


def _ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _is_running(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(READY_POLL_S)
    return True


def _is_running(pid: int) -> bool:
    """False also for a process that ended and was not yet collected by its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
