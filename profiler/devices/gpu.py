"""A GPU or MIG device as what a sweep measures on: pinned by UUID, sampled through NVML, watched for others."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from planner.domain.serving import Server
from planner.errors import DeviceError, InputError
from profiler.devices.cpu import descendants
from profiler.devices.gpu_list import GpuFacts
from profiler.devices.gpu_reading import GpuReader, Reading
from profiler.devices.gpu_usage import MIB, Before, GpuUsage, Other, Sample, busiest_start, usage
from profiler.devices.nvml import Nvml
from profiler.devices.periodic import PeriodicThread

HZ = 20.0
_SETTLE_STEP_S = 0.1
_SETTLE_STEPS = 20
_JOIN_S = 5.0
# NVML takes its samples per process at least once a second: no news for longer means that nothing ran
_BUSY_SAMPLE_S = 1.0
_UNNAMED_BYTES = 256 * MIB


class GpuDevice:
    """Implements `profiler.devices.base.Device`. With `exclusive`, anybody else on the device is a DeviceError.

    `own_cores` are where the sampling thread may run (None: anywhere).
    """

    def __init__(
        self, nvml: Nvml, gpu: GpuFacts, *, exclusive: bool = False, own_cores: frozenset[int] | None = None
    ) -> None:
        self.gpu = gpu
        self._exclusive = exclusive
        self._own_cores = own_cores
        self._before = Before()
        self._reader = GpuReader(nvml, gpu.uuid)

    def facts(self) -> dict[str, object]:
        return {"gpu": {name: value for name, value in asdict(self.gpu).items() if value not in ((), {})}}

    def prepare(self) -> None:
        """Note what is in use, once that has settled: a server that just ended gives its memory back late."""
        if self.gpu.compute_mode == "prohibited":
            hint = f"nvidia-smi -i {self.gpu.parent_uuid or self.gpu.uuid} -c DEFAULT"
            raise DeviceError(f"{self.gpu.spec}: its compute mode is prohibited, no server can run on it", hint=hint)
        reading = self._reader.read()
        for _ in range(_SETTLE_STEPS):
            time.sleep(_SETTLE_STEP_S)
            last, reading = reading, self._reader.read()
            if abs((reading.used_bytes or 0) - (last.used_bytes or 0)) < MIB:
                break
        others = tuple(_other(pid, size) for pid, size in (reading.processes or {}).items())
        self._before = Before(reading.used_bytes, others)
        if self._exclusive:
            self._require_nobody(reading)

    def sampler(self, server: Server) -> GpuSampler:
        if server.pid is None:
            raise InputError("a GPU is measured with a server on this machine, not a remote one")
        return GpuSampler(
            self._reader, self.gpu, self._before, server.pid, exclusive=self._exclusive, own_cores=self._own_cores
        )

    def _require_nobody(self, reading: Reading) -> None:
        subject, hint = f"{self.gpu.spec} is not ours alone", "end them, or measure without --exclusive"
        if reading.processes is None:
            raise DeviceError(f"{subject}, or NVML does not tell: {self._reader.unknown.get('processes')}", hint=hint)
        if self._before.others:
            raise DeviceError(f"{subject}: {_listed(self._before.others)}", hint=hint)
        if (reading.used_bytes or 0) > _UNNAMED_BYTES:
            unnamed = f"{(reading.used_bytes or 0) / MIB:,.0f} MiB are in use by processes that NVML does not name"
            raise DeviceError(f"{subject}: {unnamed}", hint=hint)


class GpuSampler:
    """Samples the device `hz` times a second while the server `pid` runs; implements `Sampler`.

    A call that hangs or fails in the library leaves a gap; it holds nobody up for longer than NVML's deadline.
    """

    def __init__(
        self,
        reader: GpuReader,
        gpu: GpuFacts,
        before: Before,
        pid: int,
        *,
        exclusive: bool = False,
        own_cores: frozenset[int] | None = None,
        hz: float = HZ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._gpu = gpu
        self._before = before
        self._pid = pid
        self._exclusive = exclusive
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = PeriodicThread("gpu-sampler", self._sample_again, hz, own_cores, clock)
        self._samples: list[Sample] = []
        self._own: set[int] = set()
        self._names: dict[int, str] = {other.pid: other.name for other in before.others}
        self._own_named = False
        self._own_was_busy = False
        self._busy_at: float | None = None
        self._lost: DeviceError | None = None
        self._intruders: dict[int, Other] = {}

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop(_JOIN_S)

    def sample(self) -> float:
        try:
            reading = self._reader.read()
        except DeviceError as error:
            self._lost = self._lost or error
            return self._clock()
        with self._lock:
            now = self._clock()
            others = self._others(reading.processes or {})
            self._intruders |= {other.pid: other for other in others}
            server_bytes = self._server_bytes(reading.processes or {})
            self._samples.append(Sample(now, reading, server_bytes, self._server_busy(now, reading), others))
            return now

    def window(self, start: float | None = None, end: float | None = None) -> GpuUsage:
        with self._lock:
            times = [sample.time_s for sample in self._samples]
            first = 0 if start is None else max(0, bisect_right(times, start) - 1)
            last = len(times) - 1 if end is None else min(len(times) - 1, bisect_left(times, end))
            samples = self._samples[first : max(first, last) + 1]
            unknown = dict(self._reader.unknown)
        if not self._own_was_busy:
            # an idle server and one whose process ids NVML counts otherwise look the same: that is not 0
            unknown.setdefault("process_busy", "no sample of NVML names a process of the server")
            samples = [Sample(s.time_s, s.reading, s.server_bytes, None, s.others) for s in samples]
        return usage(samples, self._before, unknown, is_mig=self._gpu.mig_profile is not None)

    def busiest(self, seconds: float) -> GpuUsage:
        with self._lock:
            samples = list(self._samples)
        start = busiest_start(samples, seconds)
        return self.window() if start is None else self.window(start, start + seconds)

    def check(self) -> None:
        if self._lost is not None:
            raise DeviceError(f"{self._gpu.spec} {self._gpu.uuid}: {self._lost.message}", hint=self._lost.hint)
        if self._exclusive and self._intruders:
            raise DeviceError(f"{self._gpu.spec} is not ours alone: {_listed(tuple(self._intruders.values()))}")

    def _server_bytes(self, processes: Mapping[int, int | None]) -> int | None:
        """What NVML names for the server's processes; None where it misses one of those it names."""
        sizes = [size for pid, size in processes.items() if pid in self._own]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def _others(self, processes: Mapping[int, int | None]) -> tuple[Other, ...]:
        if any(pid not in self._own and pid not in self._names for pid in processes):
            self._own.update(descendants(self._pid))
        self._own_named = self._own_named or any(pid in self._own for pid in processes)
        found = []
        for pid, size in processes.items():
            if pid not in self._own and self._is_other(pid):
                name = self._names.setdefault(pid, _process_name(pid))
                found.append(Other(pid, name, size))
        return tuple(found)

    def _is_other(self, pid: int) -> bool:
        """Within a container NVML may count processes as the host does: a number that came with our server
        and that nobody has here may be one of its own."""
        return pid in self._names or self._own_named or Path(f"/proc/{pid}").exists()

    def _server_busy(self, now: float, reading: Reading) -> float | None:
        if reading.process_busy is None:
            return None
        if reading.process_busy:
            self._busy_at = now
            own = [share for pid, share in reading.process_busy.items() if pid in self._own]
            self._own_was_busy = self._own_was_busy or bool(own)
            return min(1.0, sum(own))
        if self._busy_at is None or now - self._busy_at > _BUSY_SAMPLE_S:
            self._busy_at = now
            return 0.0
        return None

    def _sample_again(self) -> None:
        if self._lost is None:
            self.sample()


def _other(pid: int, size: int | None) -> Other:
    return Other(pid, _process_name(pid), size)


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process not visible here"


def _listed(others: tuple[Other, ...]) -> str:
    sizes = ("memory unknown" if o.memory_bytes is None else f"{o.memory_bytes / MIB:,.0f} MiB" for o in others)
    return ", ".join(f"{other.name} (pid {other.pid}, {size})" for other, size in zip(others, sizes, strict=True))
