"""A device of another machine: nothing of it can be read, and everything is recorded as unknown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from planner.domain.serving import Server


@dataclass(frozen=True, slots=True)
class UnknownUsage:
    """Implements `profiler.devices.base.Usage`."""

    peak_bytes: None = None
    busy: None = None
    power_watts: None = None

    def samples(self) -> dict[str, tuple[float, ...]]:
        return {}

    def remarks(self) -> dict[str, object]:
        return {"device_unknown": "memory, busy time and power: the server runs on another machine"}

    def warnings(self) -> tuple[str, ...]:
        return ()


class UnknownSampler:
    """Implements `profiler.devices.base.Sampler`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was started."""

    def sample(self) -> float:
        return time.monotonic()

    def window(self, start: float | None = None, end: float | None = None) -> UnknownUsage:
        return UnknownUsage()

    def busiest(self, seconds: float) -> UnknownUsage:
        return UnknownUsage()

    def check(self) -> None:
        """Nothing can be seen of it."""


class RemoteDevice:
    """Implements `profiler.devices.base.Device`."""

    def facts(self) -> dict[str, object]:
        return {"server_machine": "another one; machine, CPU and cores are the load generator's"}

    def prepare(self) -> None:
        """Nothing: it is somebody else's."""

    def sampler(self, server: Server) -> UnknownSampler:
        return UnknownSampler()
