"""Load the compiled search, which takes seconds on the first run on a machine, without missing a time limit."""

from __future__ import annotations

import threading
import time

from solvers.stopping import WAKE_EVERY_S, stop_if_asked

_done = threading.Event()
_seconds: list[float] = []


def compiled(limit_s: float) -> float | None:
    """Seconds that compiling or loading took; None where it did not end within the limit and goes on behind."""
    if not _seconds and not _done.is_set():
        thread = threading.Thread(target=_compile, daemon=True)
        thread.start()
        ends = time.monotonic() + limit_s
        while thread.is_alive() and (left := ends - time.monotonic()) > 0:
            stop_if_asked()
            thread.join(min(left, WAKE_EVERY_S))
    return _seconds[0] if _seconds else None


def _compile() -> None:
    """Search a device with one item, for the types of the arguments."""
    started = time.monotonic()
    import numpy as np

    from solvers.columns.cases import relax
    from solvers.columns.covers import least_cover
    from solvers.columns.device import DEEPEST, IMPROVEMENTS_KEPT, search
    from solvers.columns.ranking import rank

    one, ints = np.ones(1), np.ones(1, np.int64)
    none = np.zeros(1, np.int64)
    by = rank(none, none, ints, one, one)
    pair = np.zeros(2, np.int64)
    rank(np.arange(2), pair, np.ones(2, np.int64), np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    least_cover(ints, one, 1, 0, 1, none)
    found, worth = np.empty((IMPROVEMENTS_KEPT, DEEPEST), np.int64), np.empty(IMPROVEMENTS_KEPT)
    search(
        np.ones((1, 1), np.int64), np.ones((1, 1), np.int64), ints, none, none, none, ints, 1, one, one,
        by.first, by.options, by.rank, by.step_value, by.step_weight, by.copies, by.item, by.places,
        np.zeros(0, np.int64), 1, 0, 0.0, 0.0, found, worth,
    )  # fmt: skip
    relax(none, none, ints, 1, one, np.ones((1, 1)), one, one, 0.0, 1, np.empty(1), np.empty(1))
    _seconds.append(time.monotonic() - started)
    _done.set()
