"""Observed rates as CSV: a column `time`, and one of requests per second for each model or ensemble."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from pathlib import Path

from planner.domain.observed import ObservedRates
from planner.errors import InputError
from planner.inputs.yaml_file import nearest, read_text

TIME = "time"


def read_observed_rates(path: Path, known: Sequence[str]) -> ObservedRates:
    """`known`: models and ensembles that may have a column. InputError names line and column."""
    rows = list(csv.reader(io.StringIO(read_text(path))))
    head = [name.strip() for name in rows[0]] if rows else []
    if head[:1] != [TIME] or len(head) < 2:
        found = ", ".join(head) or "nothing"
        raise InputError(f"{path}:1: the first column must be {TIME}, the others models or ensembles; got {found}")
    for name in head[1:]:
        if head.count(name) > 1:
            raise InputError(f"{path}:1: column {name!r} stands twice")
        if name not in known:
            guess = nearest(name, known)
            maybe = f"; did you mean {guess[0]}?" if guess else ""
            raise InputError(f"{path}:1: column {name!r} is no model or ensemble of the workload{maybe}")
    steps = [(line, row) for line, row in enumerate(rows[1:], start=2) if row]
    if len(steps) < 2:
        raise InputError(f"{path}: two rows of rates are the least, so that a step has a length; got {len(steps)}")
    for line, row in steps:
        if len(row) != len(head):
            raise InputError(f"{path}:{line}: {len(head)} columns are needed, got {len(row)}")
    times = [seconds_of(row[0], path, line, TIME) for line, row in steps]
    for (line, row), (before, after) in zip(steps[1:], pairwise(times), strict=True):
        if after <= before:
            raise InputError(f"{path}:{line}: time {row[0]} is not after the one before it")
    lengths = [after - before for before, after in pairwise(times)]
    return ObservedRates(
        starts=tuple(row[0].strip() for _, row in steps),
        seconds=(*lengths, lengths[-1]),
        names=tuple(head[1:]),
        rates_rps=tuple(
            tuple(_rate(path, line, name, text) for name, text in zip(head[1:], row[1:], strict=True))
            for line, row in steps
        ),
    )


def seconds_of(text: str, path: Path, line: int, column: str) -> float:
    """A time of a column, in seconds or as a date, in seconds."""
    with suppress(ValueError):
        seconds = float(text)
        if isfinite(seconds):
            return seconds
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        allowed = "write 2026-05-01T14:00 or a number of seconds"
        raise InputError(f"{path}:{line}: {column}: {text!r} is no time; {allowed}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _rate(path: Path, line: int, name: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not (isfinite(rate) and rate >= 0):
        raise InputError(f"{path}:{line}: {name}: must be requests per second >= 0, got {text!r}")
    return rate
