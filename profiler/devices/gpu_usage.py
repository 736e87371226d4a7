"""From samples of a GPU to what a server took of it in a window. Pure.

Memory is what NVML names for the server's processes; where it does not, what the device has in use above what
it had before the server started. Busy is the share of time in which the server's processes had a kernel
running, by NVML's samples per process: the device's own utilization counts everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from profiler.devices.gpu_reading import Reading

MIB = 2**20
_SHOWN_GAP_S = 1.0
_THROTTLED_SHARE = 0.1
# at full load every GPU runs into its power cap, and clocks move together with others'
_EXPECTED_REASONS = frozenset({"power-cap", "sync-boost"})

Series = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A process on the device that is not the server's."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading, and what of it is the server's. `server_busy` is the share of the time since the last point
    of it; None where there is no new one."""

    time_s: float
    reading: Reading
    server_bytes: int | None
    server_busy: float | None
    others: tuple[Other, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """The device before the server started: memory in use (None: unknown), and who was on it."""

    used_bytes: int | None = None
    others: tuple[Other, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """Implements `profiler.devices.base.Usage`. `memory_source` is process, difference or unknown."""

    peak_bytes: int | None
    lowest_bytes: int | None
    busy: float | None
    power_watts: float | None
    memory_source: str
    series: Mapping[str, Series]
    gpu: Mapping[str, Any]
    alarms: tuple[str, ...]

    def samples(self) -> dict[str, tuple[float, ...]]:
        found: dict[str, tuple[float, ...]] = {}
        for name, series in self.series.items():
            if series:
                found[f"{name.removesuffix('_bytes')}_time_s"] = tuple(time_s - series[0][0] for time_s, _ in series)
                found[name] = tuple(value for _, value in series)
        return found

    def remarks(self) -> dict[str, object]:
        return {"gpu": dict(self.gpu)}

    def warnings(self) -> tuple[str, ...]:
        return self.alarms


def usage(samples: Sequence[Sample], before: Before, unknown: Mapping[str, str], *, is_mig: bool) -> GpuUsage:
    """`samples` of the window with one more on each side, in order; `unknown` gives NVML's reasons."""
    reasons = dict(unknown)
    memory, source = _memory(samples, before, reasons)
    busy = _busy(samples, reasons)
    series = {
        "memory_bytes": memory,
        **{name: _series(samples, name) for name in ("utilization", "power_watts", "sm_clock_mhz")},
    }
    power, energy_j = _power(samples, series["power_watts"])
    remarks = {
        "memory_source": source,
        "used_bytes": _most(_series(samples, "used_bytes")),
        "utilization": _mean(series["utilization"]),
        "busy": busy,
        "board_power_watts": power,
        "board_energy_j": energy_j,
        "sm_clock_mhz": _mean(series["sm_clock_mhz"]),
        "memory_clock_mhz": _mean(_series(samples, "memory_clock_mhz")),
        "throttled": _throttled(samples),
        "other_processes": _others(samples),
        "samples": len(samples),
        "longest_gap_s": round(max((b.time_s - a.time_s for a, b in pairwise(samples)), default=0.0), 3),
    }
    if is_mig:
        reasons["power_watts"] = "a MIG device has no power reading of its own, board_power_watts is the whole GPU's"
    sizes = [int(size) for _, size in memory]
    return GpuUsage(
        peak_bytes=max(sizes, default=None),
        lowest_bytes=min(sizes, default=None),
        busy=busy,
        power_watts=None if is_mig else power,
        memory_source=source,
        series=series,
        gpu={**remarks, "unknown": _reasons(remarks, reasons, is_mig)},
        alarms=tuple(_alarms(remarks, reasons)),
    )


def _memory(samples: Sequence[Sample], before: Before, reasons: dict[str, str]) -> tuple[Series, str]:
    by_process = tuple((s.time_s, float(s.server_bytes)) for s in samples if s.server_bytes is not None)
    if by_process:
        return by_process, "process"
    reasons.setdefault("processes", "NVML names no process of the server with its memory")
    used = _series(samples, "used_bytes")
    if before.used_bytes is None or not used:
        reasons.setdefault("used_bytes", "what was in use before the server started is not known")
        return (), "unknown"
    return tuple((time_s, max(0.0, value - before.used_bytes)) for time_s, value in used), "difference"


def _busy(samples: Sequence[Sample], reasons: dict[str, str]) -> float | None:
    """The mean of the shares, each weighted by the time since the point before it."""
    points = [(s.time_s, s.server_busy) for s in samples if s.server_busy is not None]
    weighted = [(after[0] - before[0], after[1]) for before, after in pairwise(points)]
    total_s = sum(seconds for seconds, _ in weighted)
    if total_s <= 0:
        reasons.setdefault("process_busy", "NVML has no samples of the server's processes in this window")
        return None
    return min(1.0, sum(seconds * share for seconds, share in weighted) / total_s)


def _power(samples: Sequence[Sample], power: Series) -> tuple[float | None, float | None]:
    """Mean watts, from the energy counter where there is one, and the joules that it counted."""
    energy = _series(samples, "energy_j")
    if len(energy) > 1 and energy[-1][0] > energy[0][0] and energy[-1][1] > energy[0][1]:
        joules = energy[-1][1] - energy[0][1]
        return joules / (energy[-1][0] - energy[0][0]), joules
    return _mean(power), None


def _throttled(samples: Sequence[Sample]) -> dict[str, float] | None:
    """The share of the samples in which each reason lowered the clocks."""
    known = [sample.reading.throttle for sample in samples if sample.reading.throttle is not None]
    if not known:
        return None
    names = sorted({name for reasons in known for name in reasons})
    return {name: sum(name in reasons for reasons in known) / len(known) for name in names}


def _others(samples: Sequence[Sample]) -> list[dict[str, object]] | None:
    """Who else was on the device, with its largest memory and the share of the samples; None: unknown."""
    told = [sample for sample in samples if sample.reading.processes is not None]
    if not told:
        return None
    seen: dict[int, list[Other]] = {}
    for sample in told:
        for other in sample.others:
            seen.setdefault(other.pid, []).append(other)
    return [
        {
            "pid": pid,
            "name": found[0].name,
            "memory_bytes": max((o.memory_bytes for o in found if o.memory_bytes is not None), default=None),
            "share_of_samples": len(found) / len(told),
        }
        for pid, found in sorted(seen.items())
    ]


_FIELD_OF_REMARK = {
    "used_bytes": "used_bytes",
    "utilization": "utilization",
    "busy": "process_busy",
    "board_power_watts": "power_watts",
    "board_energy_j": "energy_j",
    "sm_clock_mhz": "sm_clock_mhz",
    "memory_clock_mhz": "memory_clock_mhz",
    "throttled": "throttle",
    "other_processes": "processes",
}


def _reasons(remarks: Mapping[str, Any], reasons: Mapping[str, str], is_mig: bool) -> dict[str, str]:
    """For every figure that is unknown, why."""
    nothing = "NVML gave no sample in this window"
    found = {name: reasons.get(field, nothing) for name, field in _FIELD_OF_REMARK.items() if remarks[name] is None}
    if remarks["memory_source"] != "process":
        found["memory_by_process"] = reasons["processes"]
    if is_mig:
        found["power_watts"] = reasons["power_watts"]
    return found


def _alarms(remarks: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    found = []
    if remarks["memory_source"] == "unknown":
        why = reasons.get("used_bytes", "NVML gave no sample")
        found.append(f"GPU memory is unknown, it will be planned as the whole device ({why})")
    others = remarks["other_processes"]
    if others:
        found.append(f"other processes were on the GPU: {', '.join(_named(o) for o in others)}")
        if remarks["memory_source"] == "difference":
            found.append("GPU memory is the device's difference, which those processes may have moved")
    slowed = [
        name for name, share in (remarks["throttled"] or {}).items()
        if share >= _THROTTLED_SHARE and name not in _EXPECTED_REASONS
    ]  # fmt: skip
    if slowed:
        found.append(f"the GPU lowered its clocks: {', '.join(slowed)}")
    if remarks["longest_gap_s"] > _SHOWN_GAP_S:
        found.append("NVML did not answer for more than a second: a short peak of memory may be missing")
    return found


def _named(other: Mapping[str, Any]) -> str:
    return f"{other['name']} (pid {other['pid']})"


def _series(samples: Sequence[Sample], name: str) -> Series:
    values = ((sample.time_s, getattr(sample.reading, name)) for sample in samples)
    return tuple((time_s, float(value)) for time_s, value in values if value is not None)


def _mean(series: Series) -> float | None:
    return fmean(value for _, value in series) if series else None


def _most(series: Series) -> int | None:
    return int(max(value for _, value in series)) if series else None


def busiest_start(samples: Sequence[Sample], seconds: float) -> float | None:
    """When the window of that length with the most work begins: by the server's busy share, else by the
    device's utilization, else by its power; None where nothing tells."""
    told: Sequence[Callable[[Sample], float | None]] = (
        lambda s: s.server_busy, lambda s: s.reading.utilization, lambda s: s.reading.power_watts,
    )  # fmt: skip
    for figure in told:
        points = [(s.time_s, value) for s in samples if (value := figure(s)) is not None]
        work = {
            start: sum(value for time_s, value in points if start <= time_s <= start + seconds)
            for start, _ in points
            if start + seconds <= points[-1][0]
        }
        if work and max(work.values()) > 0:
            return max(work, key=lambda start: work[start])
    return None
