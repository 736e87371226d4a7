"""A plan's devices on this machine: real servers over the emitted folder, real load, and an eye on both."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from planner.domain.plan import PlannedDevice
from planner.domain.serving import LoadResult, LoadSpec, Server
from planner.emit.places import Place
from planner.emit.repository import repository_of
from planner.errors import ServerError, SetupError
from planner.verify_judge import Usage
from planner.workflow.cores import CoreShare
from profiler.devices.base import Device, Sampler
from profiler.devices.cpu import CpuDevice, ProcessTreeSampler
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton

STUB_NAME = "triton_python_backend_stub"
SAMPLES_PER_SECOND_AND_MODEL = 2.0


@dataclass(slots=True)
class _Running:
    server: LocalTriton
    share: CoreShare
    models: tuple[str, ...]
    # None on a GPU of a machine without NVML.
    sampler: Sampler | None


class LocalBench:
    """Implements `planner.verify.Bench` for the devices of an emitted folder. A GPU is that of the same index."""

    load_generator = BuiltinLoadGenerator.name

    def __init__(
        self,
        installation: TritonInstallation,
        emitted: Path,
        places: Sequence[Place],
        shares: Mapping[str, CoreShare],
        log_folder: Path,
    ) -> None:
        self._installation = installation
        self._emitted = emitted
        self._places = {place.device.device: place for place in places}
        self._shares = shares
        self._log_folder = log_folder
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._aborted = False

    @contextmanager
    def start(self, device: PlannedDevice) -> Iterator[Server]:
        place, share = self._places[device.device], self._shares[device.device]
        eyes, gpu_uuid = _device(place, share)
        with ExitStack() as stack:
            if eyes is not None:
                eyes.prepare()
            server = stack.enter_context(self._server(place, share, gpu_uuid))
            sampler = None if eyes is None else stack.enter_context(eyes.sampler(server))
            with self._lock:
                self._running[id(server)] = _Running(server, share, place.models, sampler)
            stack.callback(self._running.pop, id(server))
            self._raise_if_aborted()
            for model in (*place.models, *place.ensembles):
                server.load(model)
            yield server

    def drive(self, server: Server, specs: Sequence[LoadSpec]) -> tuple[list[LoadResult], Usage]:
        running = self._running[id(server)]
        generator = BuiltinLoadGenerator(running.share.generator)
        with ExitStack() as stack:
            by_model = self._samplers_by_model(running, stack)
            results = generator.run(server, specs)
        self._raise_if_aborted()
        return results, _usage(running.sampler, by_model, results[0].window)

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            running = list(self._running.values())
        for one in running:
            one.server.close()

    def _server(self, place: Place, share: CoreShare, gpu_uuid: str) -> LocalTriton:
        self._raise_if_aborted()
        return LocalTriton.start(
            self._installation,
            repository_of(place, self._emitted),
            cores=share.device,
            gpu_uuid=gpu_uuid,
            log_path=self._log_folder / f"{place.node}-{place.folder}.log",
        )

    def _samplers_by_model(self, running: _Running, stack: ExitStack) -> dict[str, list[ProcessTreeSampler]]:
        """One per process of a model; only the Python backend on the CPU runs models as processes."""
        if running.share.device is None:
            return {}
        found: dict[str, list[ProcessTreeSampler]] = {}
        cores, own = len(running.share.device), set(running.share.generator)
        for pid, model in _stubs(running.server.pid):
            if model in running.models:
                sampler = ProcessTreeSampler(pid, cores, SAMPLES_PER_SECOND_AND_MODEL, own_cores=own)
                found.setdefault(model, []).append(stack.enter_context(sampler))
        return found

    def _raise_if_aborted(self) -> None:
        if self._aborted:
            raise ServerError("the verification was interrupted")


def _device(place: Place, share: CoreShare) -> tuple[Device | None, str]:
    """The device of a place, and what of the machine's GPUs its server may see; a GPU is that of its index.

    Of several GPUs the first one is looked at, as the plan counts memory and busy time on each.
    """
    if place.cores is not None:
        return CpuDevice(len(place.cores), frozenset(share.generator)), ""
    from profiler.devices.gpu import GpuDevice
    from profiler.devices.gpu_list import find_gpu
    from profiler.devices.nvml import Nvml

    nvml = Nvml()
    try:
        nvml.open()
    except SetupError:
        return None, ",".join(map(str, place.gpus))
    gpus = [find_gpu(nvml, f"gpu:{index}") for index in place.gpus]
    return GpuDevice(nvml, gpus[0]), ",".join(gpu.uuid for gpu in gpus)


def _usage(
    sampler: Sampler | None,
    by_model: Mapping[str, Sequence[ProcessTreeSampler]],
    window: tuple[float, float] | None,
) -> Usage:
    """Memory is the peak since the server's start, as in a profile; busy time that of the window."""
    if sampler is None or window is None:
        return Usage()
    return Usage(
        memory_bytes=sampler.window().peak_bytes,
        busy=sampler.window(*window).busy,
        memory_bytes_by_model={m: sum(s.window().peak_bytes for s in own) for m, own in by_model.items()},
        busy_by_model={m: sum(s.window(*window).busy for s in own) for m, own in by_model.items()},
    )


def _stubs(server_pid: int) -> Iterator[tuple[int, str]]:
    """Processes of the Python backend and their models; the command line names <model>/<version>/model.py."""
    import psutil

    # Either may end at any moment; whoever drives the server finds out.
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(server_pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = child.cmdline()
                if len(words) > 1 and Path(words[0]).name == STUB_NAME:
                    yield child.pid, Path(words[1]).parent.parent.name
