"""Files of profiles of any kind that can be imported, as measurements for a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from planner.domain.profile import Measurement, ProfileRow, Source
from planner.errors import InputError
from planner.inputs.checkpoint_file import read_checkpoint_file
from planner.inputs.imported import ImportedPoint
from planner.inputs.memory_law import BackendOverhead, MemoryLaw
from planner.inputs.model_analyzer import import_checkpoint, looks_like_checkpoint
from planner.inputs.model_analyzer_csv import tables
from planner.inputs.perf_analyzer_csv import looks_like_report, read_report
from planner.inputs.profiles_csv import is_parquet, read_profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`form` names what the file was taken for; laws, overheads and tables (CSV text by name) are a checkpoint's."""

    form: str
    points: tuple[ImportedPoint, ...]
    laws: tuple[MemoryLaw, ...] = ()
    overheads: tuple[BackendOverhead, ...] = ()
    notes: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[ProfileRow, ...]:
        return tuple(point.row for point in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a perf_analyzer report does not say of itself. `queue_delay` is "off" or microseconds."""

    model: str | None = None
    device: str | None = None
    instances: int | None = None
    max_batch_size: int | None = None
    request_batch_size: int | None = None
    queue_delay: str | None = None

    def given(self) -> list[str]:
        return [_option(name) for name in _TOLD if getattr(self, name) is not None]

    def shape(self, path: Path) -> ProfileRow:
        missing = [_option(name) for name in _TOLD if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"{path}: a perf_analyzer report does not say what ran: {', '.join(missing)} missing",
                hint=_TOLD_EXAMPLE,
            )
        values = {name: getattr(self, name) for name in _TOLD if name != "queue_delay"}
        return ProfileRow(
            **values, queue_delay_us=_queue_delay_us(self.queue_delay or ""), source=Source.IMPORTED.value
        )


_TOLD = ("model", "device", "instances", "max_batch_size", "request_batch_size", "queue_delay")
_TOLD_EXAMPLE = (
    "for example --model ranker --device L4 --instances 1 --max-batch-size 8 --request-batch-size 1 --queue-delay off"
)


def read_profile_file(path: Path, told: Told = Told(), *, with_tables: bool = False) -> Imported:
    """CSV, Parquet, a Model Analyzer checkpoint or a perf_analyzer report, told apart by content."""
    report, checkpoint = looks_like_report(path), looks_like_checkpoint(path)
    if told.given() and not report:
        raise InputError(f"{path}: {', '.join(told.given())}: only a perf_analyzer report needs to be told that")
    if with_tables and not checkpoint:
        raise InputError(f"{path}: --csv writes the tables of a Model Analyzer checkpoint, and this is none")
    if report:
        reported = read_report(path, told.shape(path))
        return Imported(form="perf_analyzer report", points=reported.points, notes=reported.notes)
    if checkpoint:
        return _checkpoint(path, with_tables)
    form = "Parquet" if is_parquet(path) else "CSV"
    return Imported(form=form, points=tuple(ImportedPoint(row) for row in read_profiles(path)))


def _checkpoint(path: Path, with_tables: bool) -> Imported:
    checkpoint = read_checkpoint_file(path)
    found = import_checkpoint(checkpoint)
    return Imported(
        form="Model Analyzer checkpoint",
        points=found.points,
        laws=found.laws,
        overheads=found.overheads,
        notes=found.notes,
        tables=tables(checkpoint) if with_tables else {},
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _queue_delay_us(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdecimal():
        raise InputError(f"--queue-delay: {text!r} is not allowed; it is off (no dynamic batching) or microseconds")
    return int(text)


def as_measurements(points: Iterable[ImportedPoint], *, origin: str, imported_at: str) -> list[Measurement]:
    """Measurements whose keys follow from their load points: importing a file again replaces them.

    Points of a file that differ in nothing but their results are told apart by their order.
    """
    seen: dict[str, int] = {}
    found: list[Measurement] = []
    for point in points:
        digest = _point_digest(point.row)
        seen[digest] = seen.get(digest, 0) + 1
        found.append(
            Measurement(
                key=f"import:{digest}:{seen[digest]}",
                row=point.row,
                statistics=point.statistics,
                environment={"imported_from": origin},
                measured_at=imported_at,
            )
        )
    return found


def _point_digest(row: ProfileRow) -> str:
    *configuration, variant, requests = row.configuration
    point = [*configuration, row.load, row.concurrency, row.offered_rps, row.model_digest]
    if row.concurrency is None and row.offered_rps is None:
        point.append(row.rate_rps)  # nothing else tells the points of such a configuration apart
    if variant:
        point.append(variant)  # only here: stores of version 1 have keys without it
    if requests:
        point.append(["requests", requests])  # the same of stores of versions 1 and 2
    return hashlib.sha256(json.dumps(point).encode()).hexdigest()[:24]
