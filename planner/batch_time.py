"""How long a batch takes, from a configuration's busy time at several loads, and what a request takes besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.domain.problem import BatchTime
from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode

# Executed batches that differ by less say nothing of what one more inference takes.
LEAST_SPREAD = 1.2
# Busier than this, latency says more of the queue than of what is besides.
LIGHT = 0.3
_NS = 1e9


def batch_time(rows: Sequence[ProfileRow], *, batches: bool) -> BatchTime | None:
    """The law of BatchTime, by least squares of relative errors; None where the rows do not tell it.

    At every load the mean execution takes `fixed + each * mean executed batch`, whatever the batches between: busy
    time over executions is that mean. So points whose executed batches differ give both. Where nothing is
    batched the saturated rate alone would do: there the device is busy all the time.
    """
    usable = [row for row in rows if row.is_planned and row.rate_rps]
    points = sorted(_points(usable, batches=batches))
    if not points:
        return None
    if not batches:
        fixed_s, each_s = len(points) / sum(1 / seconds for _, seconds in points), 0.0
    elif points[-1][0] < LEAST_SPREAD * points[0][0]:
        return None
    else:
        fixed_s, each_s = _fitted(points)
    light = [row for row in usable if row.load is LoadMode.OPEN and (row.busy or 1.0) <= LIGHT]
    first = min(light, key=lambda row: row.rate_rps or 0.0, default=None)
    besides = () if first is None else _besides_ns(first, fixed_s, each_s, batches=batches)
    return BatchTime(round(fixed_s * _NS), round(each_s * _NS), besides)


def _besides_ns(row: ProfileRow, fixed_s: float, each_s: float, *, batches: bool) -> tuple[tuple[int, int], ...]:
    """What a lightly loaded point's latency is above its execution, the queue delay and what M/D/1 waits there."""
    execution_s = fixed_s + each_s * ((row.executed_batch_mean if batches else None) or row.request_batch_size)
    delay_s = (row.queue_delay_us or 0) / 1e6 if batches else 0.0
    found: list[tuple[int, int]] = []
    for percentile in (50, 90, 95, 99):
        latency_ms: float | None = getattr(row, f"latency_p{percentile}_ms")
        if latency_ms is not None:
            beyond, busy = 1 - percentile / 100, row.busy or 0.0
            # Of few that wait, the share `busy` does, each for what is left of one execution.
            waited_s = execution_s * (1 - beyond / busy) if row.instances == 1 and beyond < busy else 0.0
            above_ns = round((latency_ms / 1e3 - execution_s - delay_s - waited_s) * _NS)
            found.append((percentile, max(above_ns, found[-1][1] if found else 0)))
    return tuple(found)


def _points(rows: Sequence[ProfileRow], *, batches: bool) -> Iterator[tuple[float, float]]:
    """(mean executed batch, device's seconds per execution) of every load point that tells both."""
    saturated = max((row.rate_rps or 0.0 for row in rows), default=0.0)
    known = any(row.busy is not None for row in rows)
    for row in rows:
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
