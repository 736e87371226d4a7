"""Who else was busy on the cores that a server is pinned to, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOOK_AGAIN_S = 1.0
_NAMED = 3
_WORTH_NAMING_S = 0.02
_COMMAND_END, _UTIME, _STIME, _STARTTIME = b")", 11, 12, 19


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """CPU seconds so far, over all watched cores: what their processes used, and what the machine below took away."""

    used_s: float
    stolen_s: float


@dataclass(frozen=True, slots=True)
class Busy:
    """A process that is not ours: its CPU seconds so far."""

    pid: int
    name: str
    started_ticks: int
    cpu_s: float


@dataclass(slots=True)
class Neighbours:
    """Other processes that may run on `cores`. They are listed once a second: that costs as much as the rest."""

    cores: frozenset[int]
    clock: Callable[[], float] = time.monotonic
    _looked_at: float | None = None
    _seen: dict[tuple[int, int], Busy] = field(default_factory=dict)

    def times(self) -> CoreTimes:
        used = stolen = 0
        for line in Path("/proc/stat").read_bytes().splitlines():
            name, *ticks = line.split()
            if name.startswith(b"cpu") and name[3:].isdigit() and int(name[3:]) in self.cores:
                # user, nice, system; interrupts are the server's own traffic as much as anybody's
                used += sum(map(int, ticks[:3]))
                stolen += int(ticks[7]) if len(ticks) > 7 else 0
        return CoreTimes(used / _TICKS_PER_S, stolen / _TICKS_PER_S)

    def look(self, own: Collection[int]) -> dict[tuple[int, int], Busy] | None:
        """The others by pid and start, all but `own`; None where the last look is less than a second ago."""
        now = self.clock()
        if self._looked_at is not None and now - self._looked_at < _LOOK_AGAIN_S:
            return None
        self._looked_at = now
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) not in own:
                busy = _busy(int(entry.name))
                if busy is not None and self._may_run_here(busy):
                    found[busy.pid, busy.started_ticks] = busy
        self._seen = found
        return found

    def _may_run_here(self, busy: Busy) -> bool:
        known = self._seen.get((busy.pid, busy.started_ticks))
        if known is not None and known.cpu_s == busy.cpu_s:
            return True  # idle since: not worth a call
        try:
            return not self.cores.isdisjoint(os.sched_getaffinity(busy.pid))
        except OSError:
            return False


def busiest(before: dict[tuple[int, int], Busy], after: dict[tuple[int, int], Busy]) -> tuple[str, ...]:
    """The names of those that used most CPU time between two looks, most first."""
    used = {}
    for key, busy in after.items():
        earlier = before.get(key)
        used[busy] = busy.cpu_s - (earlier.cpu_s if earlier is not None else 0.0)
    most = sorted((busy for busy in used if used[busy] > _WORTH_NAMING_S), key=lambda busy: -used[busy])
    return tuple(f"{busy.name} (pid {busy.pid})" for busy in most[:_NAMED])


def _busy(pid: int) -> Busy | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    command, _, rest = text.rpartition(_COMMAND_END)
    fields = rest.split()
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S
    return Busy(pid, command.partition(b"(")[2].decode(errors="replace"), int(fields[_STARTTIME]), cpu_s)
