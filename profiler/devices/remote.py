"""A device of another machine: what its Triton tells of it on the metrics port, and the rest recorded as unknown.

These metrics are of whole devices, whoever uses them, and lag by seconds. So they stand beside a measurement; the
memory and the busy time of a replica stay unknown. Power is the board's on our own GPUs, too: of a server with one GPU
it is taken over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType
from typing import Self

from planner.domain.serving import Server
from profiler.devices.periodic import PeriodicThread
from profiler.server.metrics import MachineMetrics, read_metrics

_HZ = 1.0
_JOIN_S = 3.0
_UNKNOWN = "memory and busy time of the model: the server runs on another machine"


@dataclass(frozen=True, slots=True)
class RemoteUsage:
    """Implements `profiler.devices.base.Usage`. `failure`: why the last reading failed, where it did."""

    readings: tuple[MachineMetrics, ...]
    failure: str | None
    peak_bytes: None = None
    busy: None = None

    @property
    def power_watts(self) -> float | None:
        gpus = self._gpus()
        return next(iter(gpus.values())).get("power_watts") if len(gpus) == 1 else None

    def samples(self) -> dict[str, tuple[float, ...]]:
        return {}

    def remarks(self) -> dict[str, object]:
        told: dict[str, object] = {"unknown": self.failure or "they were not read by then"}
        if self.readings:
            cpu = _together([reading.cpu for reading in self.readings])
            told = {"readings": len(self.readings), "gpus": self._gpus(), "cpu": cpu}
        return {"device_unknown": _UNKNOWN, "server_metrics": told}

    def warnings(self) -> tuple[str, ...]:
        return ()

    def _gpus(self) -> dict[str, dict[str, float]]:
        uuids = dict.fromkeys(uuid for reading in self.readings for uuid in reading.gpus)
        return {uuid: _together([reading.gpus.get(uuid, {}) for reading in self.readings]) for uuid in uuids}


class RemoteSampler:
    """Implements `profiler.devices.base.Sampler`. `read` raises OSError or ValueError: that leaves a gap."""

    def __init__(
        self,
        url: str,
        read: Callable[[str], MachineMetrics] = read_metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._readings: list[tuple[float, MachineMetrics]] = []
        self._failure: str | None = None
        self._thread = PeriodicThread("server-metrics", self.read_now, _HZ, None, clock)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop(_JOIN_S)

    def read_now(self) -> None:
        try:
            found = self._read(self._url)
        except (OSError, ValueError) as error:
            with self._lock:
                self._failure = str(error)
            return
        with self._lock:
            self._readings.append((self._clock(), found))

    def sample(self) -> float:
        """A mark alone: nobody waits here for another machine."""
        return self._clock()

    def window(self, start: float | None = None, end: float | None = None) -> RemoteUsage:
        with self._lock:
            until = [(time_s, reading) for time_s, reading in self._readings if end is None or time_s <= end]
            within = tuple(reading for time_s, reading in until if start is None or start <= time_s)
            # a window may be shorter than the time between two readings
            return RemoteUsage(within or tuple(reading for _, reading in until[-1:]), self._failure)

    def busiest(self, seconds: float) -> RemoteUsage:
        """The last one: the load has just ended."""
        now = self._clock()
        return self.window(now - seconds, now)

    def check(self) -> None:
        """Nothing of what can be seen spoils a measurement."""


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """Implements `profiler.devices.base.Device`. `url`: of the server's metrics."""

    url: str

    def facts(self) -> dict[str, object]:
        return {"server_machine": "another one; machine, CPU and cores are the load generator's"}

    def prepare(self) -> None:
        """Nothing: it is somebody else's."""

    def sampler(self, server: Server) -> RemoteSampler:
        return RemoteSampler(self.url)


def _together(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The most memory, the mean of all else."""
    names = dict.fromkeys(name for reading in readings for name in reading)
    return {name: _most_or_mean(name, (r[name] for r in readings if name in r)) for name in names}


def _most_or_mean(name: str, values: Iterable[float]) -> float:
    return max(values) if name.endswith("_bytes") else fmean(values)
