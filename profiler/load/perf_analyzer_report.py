"""What perf_analyzer left behind, as what a load generator tells. Pure but for reading its files.

Its profile export has every request's times, together with every value that was sent and received. Its CSV
has a few figures over all requests. Times of the export are nanoseconds of the system's clock.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.domain.serving import LoadSummary
from planner.errors import LoadError

# Input names come after "request_inputs": a request's own time cannot be mistaken for a value.
_SENT = re.compile(rb'\{"timestamp":(\d+),(?:"sequence_id":\d+,)?"request_inputs":')
_ANSWERED = re.compile(rb'"response_timestamps":\[(\d+)\],"response_outputs":')
_BOUNDARIES = re.compile(rb'"window_boundaries":\[([\d,]+)\]')
_PASS = re.compile(r"Pass \[(\d+)\] throughput: ([\d.e+]+) infer/sec\. Avg latency: (\d+) usec")
_COUNT = re.compile(r"^ +Request count: (\d+)$", re.M)
_THREAD_ERROR = re.compile(r"^Thread \[\d+\] had error: (.+)$", re.M)
_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")
_PERCENTILES = (50, 90, 95, 99)
_NS = 1e-9


class ExportCutOff(LoadError):
    """perf_analyzer stops writing where a value is one that JSON does not have."""


@dataclass(frozen=True, slots=True)
class Export:
    """Seconds of the system's clock; one entry per answered request, in order of completion."""

    start: float
    end: float
    sent: tuple[float, ...]
    answered: tuple[float, ...]


def read_export(text: bytes) -> Export:
    """ExportCutOff where the file is not whole."""
    boundaries = _BOUNDARIES.search(text)
    sent = [int(time_ns) for time_ns in _SENT.findall(text)]
    answered = [int(time_ns) for time_ns in _ANSWERED.findall(text)]
    if boundaries is None or len(sent) != len(answered):
        raise ExportCutOff("perf_analyzer's profile export is cut off: an answer holds NaN or infinity")
    pairs = sorted(zip(answered, sent, strict=True))
    edges = [int(edge) for edge in boundaries[1].split(b",")]
    return Export(
        edges[0] * _NS,
        edges[-1] * _NS,
        tuple(time_ns * _NS for _, time_ns in pairs),
        tuple(time_ns * _NS for time_ns, _ in pairs),
    )


@dataclass(frozen=True, slots=True)
class CountedWindow:
    """As in LoadResult. `start` as in Export; `lag_s` is how much later than intended each request left."""

    start: float
    sent_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    lag_s: tuple[float, ...] = ()


def closed_window(export: Export, seconds: float) -> CountedWindow:
    """What was answered in the last `seconds`; what was sent before them has sent_s < 0."""
    start = export.end - seconds
    counted = [
        (sent - start, answered - sent)
        for sent, answered in zip(export.sent, export.answered, strict=True)
        if answered >= start
    ]
    return CountedWindow(start, tuple(sent for sent, _ in counted), tuple(latency for _, latency in counted))


def open_window(export: Export, arrivals_s: Sequence[float], seconds: float) -> CountedWindow:
    """What was intended to be sent in [0, seconds) of `arrivals_s`.

    Requests leave in the order of their arrivals, and none but the last can be without an answer. When the
    schedule began is not told: the request that left with the least delay shows it.
    """
    in_order = sorted(range(len(export.sent)), key=lambda index: export.sent[index])
    intended = dict(zip(in_order, arrivals_s, strict=False))
    if not intended:
        raise LoadError("perf_analyzer's profile export has no request")
    start = min(export.sent[index] - arrival for index, arrival in intended.items())
    counted = [
        (arrival, export.answered[index] - start - arrival, export.sent[index] - start - arrival)
        for index, arrival in sorted(intended.items())  # the export's order: that of completion
        if 0 <= arrival < seconds
    ]
    sent_s, latency_s, lag_s = zip(*counted, strict=True) if counted else ((), (), ())
    return CountedWindow(start, sent_s, latency_s, lag_s)


def read_summary(csv_text: str, said: str, request_batch_size: int) -> LoadSummary:
    """From the report (`-f`, `--verbose-csv`) and what was printed (`-v`); LoadError where they hold no result."""
    rows = list(csv.DictReader(io.StringIO(csv_text)))
    count = _COUNT.search(said)
    passes = passes_of(said)
    if len(rows) != 1 or count is None or not passes:
        raise LoadError("perf_analyzer printed no result")
    return LoadSummary(
        answered=int(count[1]),
        mean_s=_seconds(rows[0], "Avg latency"),
        percentiles_s={percent: _seconds(rows[0], f"p{percent} latency") for percent in _PERCENTILES},
        part_rates_rps=tuple(rate / request_batch_size for rate, _ in passes),
        part_means_s=tuple(mean_s for _, mean_s in passes),
    )


def passes_of(said: str) -> list[tuple[float, float]]:
    """Inferences per second and mean latency in seconds of each measurement window that ended."""
    return [(float(rate), int(latency_us) / 1e6) for _, rate, latency_us in _PASS.findall(said)]


def failed_request(said: str) -> str | None:
    """The server's words on the first request that failed."""
    found = _THREAD_ERROR.search(said)
    return None if found is None else found[1].strip()


def delayed_share(said: str) -> float:
    """The share of requests that left late, where there were enough for perf_analyzer to warn; else 0."""
    found = _DELAYED.search(said)
    return 0.0 if found is None else float(found[1]) / 100


def _seconds(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column]) / 1e6
    except (KeyError, ValueError):
        raise LoadError(f"perf_analyzer's report has no {column!r}") from None
