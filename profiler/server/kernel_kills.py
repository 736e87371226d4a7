"""Whether the kernel killed processes for lack of memory: it tells nobody but its log, and counts them."""

from __future__ import annotations

import re
from pathlib import Path

_COUNTERS = Path("/proc/vmstat")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.M)


class KernelKills:
    """Counts from its making on, over the whole machine; a kernel older than 4.13 counts none."""

    def __init__(self, counters: Path = _COUNTERS) -> None:
        self._counters = counters
        self._before = self._count()

    def words(self) -> str:
        """To be put behind what failed meanwhile; empty where there were none."""
        kills = self._count() - self._before
        if kills < 1:
            return ""
        what = f"{kills} process{'es' if kills > 1 else ''} of this machine"
        return f"; meanwhile the kernel killed {what} for lack of memory"

    def _count(self) -> int:
        try:
            found = _COUNT.search(self._counters.read_text())
        except OSError:
            return 0
        return int(found[1]) if found else 0
