"""One look at a GPU or MIG device: every figure that NVML has of it, and why it has not the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from planner.errors import DeviceError
from profiler.devices.gpu_list import memory_questions
from profiler.devices.nvml import Nvml, NvmlSilent, Question, Unknown

THROTTLE_REASONS: Mapping[int, str] = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power-cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware-slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync-boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "thermal-slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware-thermal-slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power-brake",
}


@dataclass(slots=True)
class Reading:
    """None: unknown. A reading that was cut off keeps what it had.

    `processes` gives bytes by process id, None where NVML names the process but not its memory.
    `process_busy` gives shares of the device's time since the last reading, empty where NVML has nothing
    new. Power, energy, clocks and throttling are those of the whole GPU, also for a MIG device.
    """

    used_bytes: int | None = None
    processes: Mapping[int, int | None] | None = None
    utilization: float | None = None
    process_busy: Mapping[int, float] | None = None
    power_watts: float | None = None
    energy_j: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle: tuple[str, ...] | None = None


class GpuReader:
    """Reads the device with this UUID; DeviceError where NVML does not know it.

    `unknown` has the latest reason for each field that is not known.
    """

    def __init__(self, nvml: Nvml, uuid: str) -> None:
        self._nvml = nvml
        try:
            self._handle, self._board = nvml.run(lambda: _handles(nvml, uuid))
        except (Unknown, NvmlSilent) as error:
            raise DeviceError(f"GPU {uuid}: {error}") from error
        self._seen_us = 0
        self.unknown: dict[str, str] = {}

    def read(self) -> Reading:
        """Never waits longer than NVML's deadline; DeviceError where the GPU is lost."""
        filled = reading = Reading()
        try:
            self._nvml.run(lambda: self._fill(filled))
        except NvmlSilent as silence:
            reading = replace(filled)  # an answer that still comes is not of now
            for name in Reading.__slots__:
                if getattr(reading, name) is None:
                    self.unknown[name] = str(silence)
        return reading

    def _fill(self, reading: Reading) -> None:
        """What planning needs most comes first: a call that hangs leaves the rest unknown."""
        handle, board = self._handle, self._board
        memory = self._ask("used_bytes", *memory_questions(handle))
        reading.used_bytes = None if memory is None else memory.used
        reading.processes = self._processes()
        rates = self._ask("utilization", (pynvml.nvmlDeviceGetUtilizationRates, handle))
        reading.utilization = None if rates is None else rates.gpu / 100
        reading.process_busy = self._process_busy()
        milliwatts = self._ask("power_watts", (pynvml.nvmlDeviceGetPowerUsage, board))
        reading.power_watts = None if milliwatts is None else milliwatts / 1000
        millijoules = self._ask("energy_j", (pynvml.nvmlDeviceGetTotalEnergyConsumption, board))
        reading.energy_j = None if millijoules is None else millijoules / 1000
        reading.sm_clock_mhz = self._ask("sm_clock_mhz", (pynvml.nvmlDeviceGetClockInfo, board, pynvml.NVML_CLOCK_SM))
        reading.memory_clock_mhz = self._ask(
            "memory_clock_mhz", (pynvml.nvmlDeviceGetClockInfo, board, pynvml.NVML_CLOCK_MEM)
        )
        reading.throttle = self._throttle()

    def _processes(self) -> Mapping[int, int | None] | None:
        compute = self._ask(
            "processes",
            (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, self._handle),
            (pynvml.nvmlDeviceGetComputeRunningProcesses_v2, self._handle),
        )
        if compute is None:
            return None
        # a library without this one, or a MIG device, has no graphics to tell of
        graphics = self._ask("graphics", (pynvml.nvmlDeviceGetGraphicsRunningProcesses, self._handle)) or []
        self.unknown.pop("graphics", None)
        return {process.pid: process.usedGpuMemory for process in [*graphics, *compute]}

    def _process_busy(self) -> Mapping[int, float] | None:
        question: Question = (pynvml.nvmlDeviceGetProcessUtilization, self._handle, self._seen_us)
        found = self._ask("process_busy", question, nothing=(pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND))
        if found is None:
            return None
        # the buffer may hold places that were not filled
        new = [sample for sample in found if sample.timeStamp > self._seen_us]
        self._seen_us = max((sample.timeStamp for sample in new), default=self._seen_us)
        by_pid: dict[int, list[float]] = {}
        for sample in new:
            by_pid.setdefault(sample.pid, []).append(sample.smUtil / 100)
        return {pid: sum(shares) / len(shares) for pid, shares in by_pid.items()}

    def _throttle(self) -> tuple[str, ...] | None:
        mask = self._ask(
            "throttle",
            (pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._board),
            (pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._board),
        )
        return None if mask is None else tuple(name for bit, name in THROTTLE_REASONS.items() if mask & bit)

    def _ask(self, what: str, *questions: Question, nothing: tuple[int, ...] = ()) -> Any | None:
        """None: unknown. `nothing` are the codes that mean an empty list."""
        try:
            answer = self._nvml.ask(*questions, nothing=nothing)
        except Unknown as reason:
            self.unknown[what] = str(reason)
            return None
        self.unknown.pop(what, None)
        return answer


def _handles(nvml: Nvml, uuid: str) -> tuple[Any, Any]:
    """The device's own handle, and that of its GPU."""
    handle = nvml.ask((pynvml.nvmlDeviceGetHandleByUUID, uuid))
    if not uuid.upper().startswith("MIG-"):
        return handle, handle
    return handle, nvml.ask((pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle))
