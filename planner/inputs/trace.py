"""A trace of requests as CSV: the columns `timestamp` and `model`, one row a request."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Collection
from pathlib import Path

from planner.domain.trace import Trace
from planner.errors import InputError
from planner.inputs.observed_rates import seconds_of
from planner.inputs.yaml_file import nearest, read_text

TIMESTAMP, MODEL = "timestamp", "model"


def read_trace(path: Path, known: Collection[str]) -> Trace:
    """Rows in any order; other columns are ignored. `known`: the models that may have requests."""
    rows = csv.reader(io.StringIO(read_text(path)))
    head = [name.strip() for name in next(rows, [])]
    if TIMESTAMP not in head or MODEL not in head:
        found = ", ".join(head) or "nothing"
        raise InputError(f"{path}:1: the columns {TIMESTAMP} and {MODEL} are needed, got {found}")
    when, who = head.index(TIMESTAMP), head.index(MODEL)
    times_s = {name: array("d") for name in known}
    for row in filter(None, rows):
        if len(row) != len(head):
            raise InputError(f"{path}:{rows.line_num}: {len(head)} columns are needed, got {len(row)}")
        model = row[who].strip()
        if model not in times_s:
            guess = nearest(model, known)
            maybe = f"; did you mean {guess[0]}?" if guess else ""
            raise InputError(f"{path}:{rows.line_num}: {MODEL}: {model!r} is not in the plan{maybe}")
        times_s[model].append(seconds_of(row[when], path, rows.line_num, TIMESTAMP))
    every = [own for own in times_s.values() if own]
    first, last = min(map(min, every), default=0.0), max(map(max, every), default=0.0)
    if last <= first:
        raise InputError(f"{path}: two requests at different times are the least, so that the trace has rates")
    ordered = {name: array("d", sorted(time - first for time in own)) for name, own in times_s.items()}
    return Trace(str(path), ordered, last - first)
