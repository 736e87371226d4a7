"""Memory and CPU time of a server and all its descendants, read from /proc.

Anonymous and shared memory is the proportional set size (PSS): what the tree's processes share is counted
once among them. PSS would not do for the pages of files: it shrinks whenever another server on this machine
maps the same libraries, and a plan made from it would be short. Of these the tree is charged, per mapping,
with the most that one of its processes holds, whoever else holds it too.
"""

from __future__ import annotations

import os
import re
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from planner.domain.serving import Server
from planner.errors import DeviceError, InputError
from profiler.devices.neighbours import Busy, CoreTimes, Neighbours, busiest
from profiler.devices.periodic import PeriodicThread

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOOK_FOR_NEW_S = 1.0
_NOISE = 0.05
_PSS_WITHOUT_FILES = re.compile(rb"^Pss_(?:Anon|Shmem): +(\d+)", re.M)
_FILE_MAPPING = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) (\S+) ([1-9]\d*) +(\S.*)\n"
    rb"(?:[A-Z][^\n]*\n)*?Rss: +(\d+)[^\n]*\n(?:[A-Z][^\n]*\n)*?Anonymous: +(\d+)",
    re.M,
)
_SHARED_MEMORY = (b"/dev/shm/", b"/memfd:", b"/SYSV", b"/dev/zero")
_UTIME, _STIME, _STARTTIME = 11, 12, 19  # fields of /proc/PID/stat after the command's name


@dataclass(frozen=True, slots=True)
class Usage:
    """What the tree took in a window. `busy` is the share of its cores; raw series as (seconds on the
    sampler's clock, value). `cpu_s` only ever grows, also when processes end.

    `others_busy` is the share of the cores' time that processes outside the tree used, `stolen` what the machine
    below this one took away; None where the cores are not known. `neighbours` names the busiest of the others.
    """

    peak_bytes: int
    lowest_bytes: int
    busy: float
    memory_bytes: tuple[tuple[float, int], ...]
    cpu_s: tuple[tuple[float, float], ...]
    power_watts: float | None = None
    others_busy: float | None = None
    stolen: float | None = None
    neighbours: tuple[str, ...] = ()
    cores: int | None = None

    def samples(self) -> dict[str, tuple[float, ...]]:
        memory, cpu = self.memory_bytes, self.cpu_s
        return {
            "memory_time_s": tuple(time_s - memory[0][0] for time_s, _ in memory),
            "memory_bytes": tuple(float(size) for _, size in memory),
            "cpu_time_s": tuple(time_s - cpu[0][0] for time_s, _ in cpu),
            "cpu_s": tuple(cpu_s - cpu[0][1] for _, cpu_s in cpu),
        }

    def remarks(self) -> dict[str, object]:
        if self.others_busy is None:
            return {}
        others = {"others_busy": self.others_busy, "stolen": self.stolen, "neighbours": list(self.neighbours)}
        return {"cpu": {"cores": self.cores, **others}}

    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.others_busy is not None and self.others_busy > _NOISE:
            named = f", most of it {', '.join(self.neighbours)}" if self.neighbours else ""
            found.append(f"other processes ran on the device's cores: {self.others_busy:.0%} of its time{named}")
        if self.stolen is not None and self.stolen > _NOISE:
            found.append(f"the machine below this one took CPU time away: {self.stolen:.0%} of the device's time")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CpuDevice:
    """`cores` of this machine; implements `profiler.devices.base.Device`. `sampler_cores` keeps the sampler
    off them. `pinned` says which cores they are, where that is known: then others on them are noticed."""

    cores: int
    sampler_cores: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise InputError(f"a CPU device needs at least 1 core, got {self.cores}")

    def facts(self) -> dict[str, object]:
        return {}

    def prepare(self) -> None:
        """Nothing: its cores are always there."""

    def sampler(self, server: Server) -> ProcessTreeSampler:
        if server.pid is None:
            raise InputError("a CPU device is measured with a server on this machine, not a remote one")
        neighbours = Neighbours(self.pinned) if self.pinned else None
        own_cores = set(self.sampler_cores) or None
        return ProcessTreeSampler(server.pid, self.cores, own_cores=own_cores, neighbours=neighbours)


class ProcessTree:
    """The process `pid` and its descendants. Processes may vanish at any moment; new ones are looked for
    every second, because that costs as much as all the rest. `refresh` looks now."""

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.pid = pid
        self._clock = clock
        self._known: tuple[int, ...] = ()
        self._looked_at: float | None = None
        self._file_bytes = 0
        self._cpu_of_seen: dict[tuple[int, int], float] = {}

    def refresh(self) -> None:
        self._looked_at = None

    def pids(self) -> tuple[int, ...]:
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= _LOOK_FOR_NEW_S:
            self._known, self._looked_at = descendants(self.pid), now
            self._file_bytes = _file_bytes(self._known)
        return self._known

    def memory_bytes(self) -> int:
        """As the module says; the pages of files are looked at every second too, they come with a load."""
        own_bytes = sum(map(_pss_without_files_bytes, self.pids()))
        return own_bytes + self._file_bytes if own_bytes > 0 else 0

    def cpu_s(self) -> float:
        """CPU time so far, with that of processes that ended since (as last seen)."""
        for pid in self.pids():
            seen = _cpu(pid)
            if seen is not None:
                start_ticks, cpu_s = seen
                self._cpu_of_seen[pid, start_ticks] = cpu_s
        return sum(self._cpu_of_seen.values())


class ProcessTreeSampler:
    """Samples a process tree's memory and CPU time `hz` times a second in a thread, as a context manager.

    `cores` is how many cores the tree may use. `own_cores` keeps the sampling thread off the tree's cores.
    `neighbours` watches who else is on them.
    """

    def __init__(
        self,
        pid: int,
        cores: int,
        hz: float = 10.0,
        *,
        own_cores: set[int] | None = None,
        neighbours: Neighbours | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._neighbours = neighbours
        self._core_times: list[CoreTimes] = []
        self._looks: list[tuple[float, dict[tuple[int, int], Busy]]] = []
        self._tree = ProcessTree(pid, clock)
        self._cores = cores
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = PeriodicThread("process-tree-sampler", self._sample_again, hz, own_cores, clock)
        self._times_s: list[float] = []
        self._memory_bytes: list[int] = []
        self._cpu_s: list[float] = []
        self.own_cpu_s = 0.0

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop()

    def sample(self) -> float:
        """Take one sample now, with new processes looked for, and return its time: a mark for `window`."""
        self._tree.refresh()
        return self._sample()

    def _sample(self) -> float:
        with self._lock:
            cpu_s = self._tree.cpu_s()
            core_times = None if self._neighbours is None else self._neighbours.times()
            now = self._clock()
            memory_bytes = self._tree.memory_bytes()
            # a tree that is gone reads as nothing; that is no low of its memory
            if memory_bytes > 0:
                self._times_s.append(now)
                self._cpu_s.append(cpu_s)
                self._memory_bytes.append(memory_bytes)
                if core_times is not None:
                    self._core_times.append(core_times)
                    self._look(now)
            return now

    def _look(self, now: float) -> None:
        if self._neighbours is not None:
            found = self._neighbours.look(self._tree.pids())
            if found is not None:
                self._looks.append((now, found))

    def check(self) -> None:
        """Nothing: a process tree that is gone is the server's own trouble."""

    def window(self, start: float | None = None, end: float | None = None) -> Usage:
        """Usage between two times of the sampler's clock (all samples by default).

        Busy is taken between the samples just outside the window; DeviceError where nothing was sampled.
        """
        with self._lock:
            times = self._times_s
            if not times:
                raise DeviceError("the server's processes ended before their memory could be read")
            first = 0 if start is None else max(0, bisect_right(times, start) - 1)
            last = len(times) - 1 if end is None else min(len(times) - 1, bisect_left(times, end))
            last = max(first, last)
            memory = tuple(zip(times[first : last + 1], self._memory_bytes[first : last + 1], strict=True))
            cpu = tuple(zip(times[first : last + 1], self._cpu_s[first : last + 1], strict=True))
            core_times = self._core_times[first : last + 1]
            looks = list(self._looks)
        sizes = [size for _, size in memory]
        found = Usage(max(sizes), min(sizes), self._busy(cpu), memory, cpu)
        return replace(found, **self._others(cpu, core_times, looks)) if core_times else found

    def busiest(self, seconds: float) -> Usage:
        """The window of that length with the most CPU time, where nobody knows when the load ran."""
        with self._lock:
            times, cpu_s = list(self._times_s), list(self._cpu_s)
        spans = [
            (cpu_s[bisect_left(times, start + seconds)] - cpu_s[first], start)
            for first, start in enumerate(times)
            if start + seconds <= times[-1]
        ]
        if not spans:
            return self.window()
        start = max(spans)[1]
        return self.window(start, start + seconds)

    def _others(
        self,
        cpu: tuple[tuple[float, float], ...],
        core_times: list[CoreTimes],
        looks: list[tuple[float, dict[tuple[int, int], Busy]]],
    ) -> dict[str, Any]:
        (start, own_before), (end, own_after) = cpu[0], cpu[-1]
        whole_s = (end - start) * self._cores
        if whole_s <= 0:
            return {}
        others_s = core_times[-1].used_s - core_times[0].used_s - (own_after - own_before)
        before = [found for at, found in looks if at <= start] or [found for _, found in looks[:1]]
        after = [found for at, found in looks if at >= end] or [found for _, found in looks[-1:]]
        return {
            "others_busy": round(max(0.0, others_s / whole_s), 4),
            "stolen": round((core_times[-1].stolen_s - core_times[0].stolen_s) / whole_s, 4),
            "neighbours": busiest(before[-1], after[0]) if before and after else (),
            "cores": self._cores,
        }

    def _busy(self, cpu: tuple[tuple[float, float], ...]) -> float:
        (start, cpu_before), (end, cpu_after) = cpu[0], cpu[-1]
        if end <= start:
            return 0.0
        return min(1.0, (cpu_after - cpu_before) / (end - start) / self._cores)

    def _sample_again(self) -> None:
        self._sample()
        self.own_cpu_s = time.thread_time()


def descendants(pid: int) -> tuple[int, ...]:
    """The process itself and all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting.extend(_children(found[-1]))
    return tuple(found)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.scandir(f"/proc/{pid}/task"):
            children.extend(map(int, _read(f"{task.path}/children").split()))
    except (FileNotFoundError, ProcessLookupError):
        pass  # the process, or one of its threads, ended meanwhile
    return children


def _pss_without_files_bytes(pid: int) -> int:
    try:
        text = _read(f"/proc/{pid}/smaps_rollup")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(size) for size in _PSS_WITHOUT_FILES.findall(text)) * 1024


def _file_bytes(pids: tuple[int, ...]) -> int:
    most_bytes: dict[tuple[bytes, ...], int] = {}
    for pid in pids:
        for mapping, size_bytes in _file_mappings(pid).items():
            most_bytes[mapping] = max(size_bytes, most_bytes.get(mapping, 0))
    return sum(most_bytes.values())


def _file_mappings(pid: int) -> dict[tuple[bytes, ...], int]:
    """Resident bytes of one process by (offset, device, inode), without pages that it changed for itself."""
    try:
        text = _read(f"/proc/{pid}/smaps")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    sizes: dict[tuple[bytes, ...], int] = {}
    for *mapping, path, rss, anonymous in _FILE_MAPPING.findall(text):
        if not path.startswith(_SHARED_MEMORY):
            sizes[tuple(mapping)] = (int(rss) - int(anonymous)) * 1024
    return sizes


def _cpu(pid: int) -> tuple[int, float] | None:
    """Start time in ticks (an id together with the pid) and CPU seconds."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[_STARTTIME]), (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S


def _read(path: str) -> bytes:
    # unbuffered on purpose: pathlib and text mode cost more than the kernel's own work here
    file = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(file, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(file)
