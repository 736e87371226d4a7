"""A report that perf_analyzer wrote (`-f FILE`, with or without `--verbose-csv`) as profile rows.

It tells rates, latencies and Triton's times, in microseconds; what ran and where stands nowhere in it and is
asked of the user. Memory in it is that of the whole GPU with server and backend, so a replica's is not known.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.errors import InputError
from planner.inputs.imported import ImportedPoint, is_overloaded, knee_note, mark_past_the_knee
from planner.inputs.yaml_file import read_text

CONCURRENCY, REQUEST_RATE, THROUGHPUT = "Concurrency", "Request Rate", "Inferences/Second"
MEAN_COLUMN = "Avg latency"
PERCENTILES = (50, 90, 95, 99)

_STATISTICS = {
    "queue_ms": "Server Queue",
    "compute_input_ms": "Server Compute Input",
    "compute_infer_ms": "Server Compute Infer",
    "compute_output_ms": "Server Compute Output",
}
_GPU = {
    "gpu_utilization": "Avg GPU Utilization",
    "power_watts": "Avg GPU Power Usage",
    "device_memory_bytes": "Max GPU Memory Usage",
}
_OTHERS = frozenset(
    {"Client Send", "Client Recv", "Network+Server Send/Recv", "Server Cache Hit", "Server Cache Miss",
     "request/response", "response wait", "Total GPU Memory"}
)  # fmt: skip
_PERCENTILE = re.compile(r"p(\d+) latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedReport:
    points: tuple[ImportedPoint, ...]
    notes: tuple[str, ...]


def looks_like_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.read(256).lstrip(b"\xef\xbb\xbf")
    except OSError:
        return False
    return first.startswith((f"{CONCURRENCY},{THROUGHPUT}".encode(), f"{REQUEST_RATE},{THROUGHPUT}".encode()))


def read_report(path: Path, shape: ProfileRow) -> ImportedReport:
    """`shape` says what ran: model, device, instances, batch sizes, queue delay; its load is overwritten."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns = next(_lines(path, reader), (0, []))[1]
    _require_known(path, columns)
    found: list[ImportedPoint] = []
    for line, cells in _lines(path, reader):
        if len(cells) != len(columns):
            raise InputError(f"{path}:{line}: {len(cells)} cells, but the first line names {len(columns)} columns")
        found.append(_point(_Line(f"{path}:{line}", dict(zip(columns, cells, strict=True))), shape))
    if not found:
        raise InputError(f"{path}: there is no measurement in it")
    points, past = mark_past_the_knee(found)
    return ImportedReport(points=tuple(points), notes=tuple(_notes(points, past, columns)))


def _notes(points: Sequence[ImportedPoint], past: int, columns: Sequence[str]) -> Iterator[str]:
    yield "perf_analyzer tells the memory of a whole GPU at most: a replica's is not known, it will take a whole device"
    if past:
        yield knee_note(past, len(points))
    if REQUEST_RATE in columns:
        yield "latency at a request rate counts from when a request was sent, which hides the wait of late ones"
    if MEAN_COLUMN not in columns:
        yield f"no {MEAN_COLUMN!r} in it: mean latency is not known (--verbose-csv writes it)"
    missing = [f"p{p}" for p in PERCENTILES if f"p{p} latency" not in columns]
    if missing:
        yield f"no {', '.join(missing)} in it: not known"


def _lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of csv.reader, without empty lines."""
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _require_known(path: Path, columns: Sequence[str]) -> None:
    known = {CONCURRENCY, REQUEST_RATE, THROUGHPUT, MEAN_COLUMN, *_STATISTICS.values(), *_GPU.values(), *_OTHERS}
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"{path}:1: column {column!r} is given twice")
        if column == "Response Throughput":
            raise InputError(f"{path}:1: a report on a decoupled model; a profile needs one answer per request")
        if column not in known and not _PERCENTILE.fullmatch(column):
            raise InputError(
                f"{path}:1: unknown column {column!r}", hint=f"perf_analyzer has {', '.join(sorted(known))}"
            )
    if not any(_PERCENTILE.fullmatch(column) for column in columns):
        raise InputError(f"{path}:1: no latency percentile; this is perf_analyzer's report on a member of an ensemble")


@dataclass(frozen=True, slots=True)
class _Line:
    where: str
    cells: Mapping[str, str]

    def number(self, column: str) -> float | None:
        """None where there is no such column."""
        if column not in self.cells:
            return None
        return self._parsed(column, self.cells[column])

    def milliseconds(self, column: str) -> float | None:
        microseconds = self.number(column)
        return None if microseconds is None else microseconds / 1000

    def of_one_gpu(self, column: str) -> float | None:
        """ "GPU-…:0.3;" -> 0.3; None where there is no such column or no GPU in it."""
        readings = [reading for reading in self.cells.get(column, "").split(";") if reading]
        if len(readings) > 1:
            raise InputError(f"{self.where}: {column}: measured over {len(readings)} GPUs; a profile is of one device")
        return self._parsed(column, readings[0].rpartition(":")[2]) if readings else None

    def _parsed(self, column: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise InputError(f"{self.where}: column {column}: a number >= 0 is needed, got {text!r}")
        return value


def _point(line: _Line, shape: ProfileRow) -> ImportedPoint:
    inferences, concurrency, offered = (line.number(name) for name in (THROUGHPUT, CONCURRENCY, REQUEST_RATE))
    rate_rps = (inferences or 0.0) / shape.request_batch_size
    if concurrency is not None and not (concurrency >= 1 and concurrency.is_integer()):
        raise InputError(f"{line.where}: column {CONCURRENCY}: a whole number >= 1 is needed, got {concurrency:g}")
    row = replace(
        shape,
        load=LoadMode.CLOSED if offered is None else LoadMode.OPEN,
        concurrency=None if concurrency is None else int(concurrency),
        offered_rps=offered,
        rate_rps=rate_rps,
        latency_mean_ms=line.milliseconds(MEAN_COLUMN),
        latency_p50_ms=line.milliseconds("p50 latency"),
        latency_p90_ms=line.milliseconds("p90 latency"),
        latency_p95_ms=line.milliseconds("p95 latency"),
        latency_p99_ms=line.milliseconds("p99 latency"),
        power_watts=line.of_one_gpu(_GPU["power_watts"]),
        stable=not is_overloaded(offered, rate_rps),
        load_generator="perf_analyzer",
    )
    statistics = {name: line.milliseconds(column) for name, column in _STATISTICS.items()}
    statistics |= {name: line.of_one_gpu(_GPU[name]) for name in ("gpu_utilization", "device_memory_bytes")}
    return ImportedPoint(row, {name: value for name, value in statistics.items() if value is not None})
