"""Files of profiles of any kind that can be imported, as measurements for a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.domain.profile import Measurement, ProfileRow
from planner.inputs.memory_law import BackendOverhead, MemoryLaw
from planner.inputs.model_analyzer import looks_like_checkpoint, read_checkpoint
from planner.inputs.profiles_csv import is_parquet, read_profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`form` names what the file was taken for; laws and overheads are there for a checkpoint only."""

    form: str
    rows: tuple[ProfileRow, ...]
    laws: tuple[MemoryLaw, ...] = ()
    overheads: tuple[BackendOverhead, ...] = ()
    notes: tuple[str, ...] = ()


def read_profile_file(path: Path) -> Imported:
    """CSV, Parquet or a Model Analyzer checkpoint, told apart by content."""
    if looks_like_checkpoint(path):
        found = read_checkpoint(path)
        return Imported(
            form="Model Analyzer checkpoint",
            rows=found.rows,
            laws=found.laws,
            overheads=found.overheads,
            notes=found.notes,
        )
    form = "Parquet" if is_parquet(path) else "CSV"
    return Imported(form=form, rows=tuple(read_profiles(path)))


def as_measurements(rows: Iterable[ProfileRow], *, origin: str, imported_at: str) -> list[Measurement]:
    """Measurements whose keys follow from their load points: importing a file again replaces them.

    Points of a file that differ in nothing but their results are told apart by their order.
    """
    seen: dict[str, int] = {}
    found: list[Measurement] = []
    for row in rows:
        digest = _point_digest(row)
        seen[digest] = seen.get(digest, 0) + 1
        found.append(
            Measurement(
                key=f"import:{digest}:{seen[digest]}",
                row=row,
                environment={"imported_from": origin},
                measured_at=imported_at,
            )
        )
    return found


def _point_digest(row: ProfileRow) -> str:
    point = [*row.configuration, row.load, row.concurrency, row.offered_rps, row.model_digest]
    if row.concurrency is None and row.offered_rps is None:
        point.append(row.rate_rps)  # nothing else tells the points of such a configuration apart
    return hashlib.sha256(json.dumps(point).encode()).hexdigest()[:24]
