"""What an importer hands on of each load point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.domain.profile import ProfileRow

OVERLOADED_BELOW = 0.95


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """`statistics`: mean times per request in milliseconds (queue_ms, compute_input_ms, compute_infer_ms,
    compute_output_ms) and what else the file tells, under the names that a measurement has for them."""

    row: ProfileRow
    statistics: Mapping[str, object] = field(default_factory=dict)


def is_overloaded(offered_rps: float | None, rate_rps: float) -> bool:
    """Whether an open loop got clearly less than it offered."""
    return offered_rps is not None and rate_rps < OVERLOADED_BELOW * offered_rps


def mark_past_the_knee(points: Sequence[ImportedPoint]) -> tuple[list[ImportedPoint], int]:
    """Points with less rate than a point of the same configuration at less load are not stable.

    By configuration and load; and how many points of all are not stable.
    """
    groups: dict[object, list[ImportedPoint]] = {}
    for point in points:
        groups.setdefault((point.row.configuration, point.row.load), []).append(point)
    marked: list[ImportedPoint] = []
    for group in groups.values():
        for point in sorted(group, key=lambda p: _load_level(p.row)):
            row = point.row
            past = any(
                _load_level(other.row) < _load_level(row) and (other.row.rate_rps or 0.0) > (row.rate_rps or 0.0)
                for other in group
            )
            marked.append(replace(point, row=replace(row, stable=row.stable and not past)))
    return marked, sum(not point.row.stable for point in marked)


def knee_note(past: int, total: int) -> str:
    return f"{past} of {total} points lie past the knee (less rate at more load): kept, never planned with"


def _load_level(row: ProfileRow) -> float:
    return row.concurrency or row.offered_rps or 0.0
