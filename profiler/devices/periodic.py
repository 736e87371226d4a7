"""Something done again and again beside a measurement."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Set


class PeriodicThread:
    """Calls `work` `hz` times a second of `clock`, late calls not made up for, on `cores` alone where given."""

    def __init__(
        self, name: str, work: Callable[[], object], hz: float, cores: Set[int] | None, clock: Callable[[], float]
    ) -> None:
        self._work = work
        self._period_s = 1 / hz
        self._cores = cores
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Ends when the call under way has ended, or after the timeout."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # of this thread alone
        due = self._clock()
        while not self._stop.is_set():
            due = max(due + self._period_s, self._clock())
            self._stop.wait(due - self._clock())
            self._work()
