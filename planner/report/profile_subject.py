"""What a page of profiles is about: one model on one device; and how its figures are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.domain.units import counted, format_bytes
from planner.profile_views.points import Point
from planner.profile_views.ranking import LatencyBound, Ranked, recommended
from planner.report.markup import number


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOn:
    """A model on a device: all its points, its configurations with the fastest first, and its objective."""

    anchor: str
    model: str
    device: str
    points: tuple[Point, ...]
    ranked: tuple[Ranked, ...]
    bound: LatencyBound | None

    @property
    def best(self) -> Ranked | None:
        return recommended(self.ranked)

    @property
    def finished(self) -> list[Point]:
        return [point for point in self.points if point.failure is None]

    def of(self, configuration: Ranked) -> list[Point]:
        """A configuration's points by load: closed loop first."""
        return [point for point in self.finished if configuration.has(point.row)]

    @property
    def nearest(self) -> tuple[float, ProfileRow] | None:
        """The stable point that comes nearest to the objective, and its latency in ms."""
        if self.bound is None:
            return None
        known = [
            (latency, p.row)
            for p in self.finished
            if p.row.stable and not p.row.failed and (latency := p.row.percentile_ms(self.bound.percentile)) is not None
        ]
        opened = [pair for pair in known if pair[1].load is LoadMode.OPEN]
        return min(opened or known, key=lambda pair: pair[0], default=None)

    @property
    def focus(self) -> Ranked | None:
        """What the pictures are about: the recommended configuration, else the one that comes nearest."""
        if self.best is not None or not self.finished:
            return self.best
        nearest = self.nearest
        return next((r for r in self.ranked if nearest is not None and r.has(nearest[1])), self.ranked[0])

    def mean_curve(self, configuration: Ranked) -> list[tuple[float, float, str]]:
        """Inferences per second, mean latency in ms, and words, of stable points: of the loop that has more."""
        curves = (self._mean_curve(configuration, mode) for mode in LoadMode)
        return max(curves, key=len)

    def _mean_curve(self, configuration: Ranked, mode: LoadMode) -> list[tuple[float, float, str]]:
        rows = [p.row for p in self.of(configuration) if p.row.load is mode and p.row.stable and not p.row.failed]
        return [
            (x, y, f"{self.model}, {load_text(row)}: {number(x)}/s, {number(y)} ms")
            for row in sorted(rows, key=lambda row: row.rate_rps or 0.0)
            if (x := row.inferences_per_s) and (y := row.latency_mean_ms)
        ]

    def doubts(self) -> Iterator[str]:
        finished = self.finished
        unstable = sum(not point.row.stable or point.row.failed > 0 for point in finished)
        if unstable:
            yield f"{unstable} of {counted(len(finished), 'point')} unstable, past the knee or with failed requests"
        bound = sum(point.client_bound for point in finished)
        if bound:
            yield f"at {counted(bound, 'point')} the load generator was too slow, not the server"
        failed = len(self.points) - len(finished)
        if failed:
            yield f"{counted(failed, 'point')} failed"


def amount(memory_bytes: int | None) -> str:
    if memory_bytes is None:
        return "-"
    return f"{memory_bytes / 2**20:.1f} MiB" if memory_bytes < 2**20 else format_bytes(memory_bytes)


def latency_text(ranked: Ranked) -> str:
    return f"p{ranked.percentile} {number(ranked.latency_ms)} ms" if ranked.latency_ms is not None else "not known"


def load_text(row: ProfileRow) -> str:
    """ "concurrency 4" is a closed loop, "200 req/s" an open one."""
    if row.concurrency is not None:
        return f"concurrency {row.concurrency}"
    return f"{row.load.value} loop" if row.offered_rps is None else f"{number(row.offered_rps)} req/s"
