"""How long a batch takes, from a configuration's busy time at several loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.domain.problem import BatchTime
from planner.domain.profile import ProfileRow

# Executed batches that differ by less say nothing of what one more inference takes.
LEAST_SPREAD = 1.2
_NS = 1e9


def batch_time(rows: Sequence[ProfileRow], *, batches: bool) -> BatchTime | None:
    """The law of BatchTime, by least squares of relative errors; None where the rows do not tell it.

    At every load the mean execution takes `fixed + each * mean executed batch`, whatever the batches between: busy
    time over executions is that mean. So points whose executed batches differ give both. Where nothing is
    batched the saturated rate alone would do: there the device is busy all the time.
    """
    points = sorted(_points(rows, batches=batches))
    if not points:
        return None
    if not batches:
        mean = len(points) / sum(1 / seconds for _, seconds in points)
        return BatchTime(round(mean * _NS), 0)
    if points[-1][0] < LEAST_SPREAD * points[0][0]:
        return None
    fixed_s, each_s = _fitted(points)
    return BatchTime(round(fixed_s * _NS), round(each_s * _NS))


def _points(rows: Iterable[ProfileRow], *, batches: bool) -> Iterable[tuple[float, float]]:
    """(mean executed batch, device's seconds per execution) of every load point that tells both."""
    usable = [row for row in rows if row.is_planned and row.rate_rps]
    saturated = max((row.rate_rps or 0.0 for row in usable), default=0.0)
    known = any(row.busy is not None for row in usable)
    for row in usable:
        executed = row.executed_batch_mean if batches else float(row.request_batch_size)
        busy = row.busy if known else 1.0 if row.rate_rps == saturated else None
        if executed and busy and row.inferences_per_s:
            yield executed, busy * executed / row.inferences_per_s


def _fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Neither part is negative: where the best line's is, the best one without it."""
    # In relative errors: 1 ~ fixed * u + each * v, with u = 1 / seconds and v = batch / seconds.
    rows = [(1 / seconds, batch / seconds) for batch, seconds in points]
    uu, uv, vv = sum(u * u for u, _ in rows), sum(u * v for u, v in rows), sum(v * v for _, v in rows)
    su, sv = sum(u for u, _ in rows), sum(v for _, v in rows)
    determinant = uu * vv - uv * uv
    fixed, each = (su * vv - sv * uv) / determinant, (sv * uu - su * uv) / determinant
    if fixed < 0:
        return 0.0, sv / vv
    return (fixed, each) if each > 0 else (su / uu, 0.0)
