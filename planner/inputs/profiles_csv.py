"""Profiles as CSV or Parquet, one row per load point (interfaces.md, "Profiles as CSV").

An empty cell is an unknown value; where the record has a default (gpus 1, load closed, …) it takes that.
The columns rate_rps and latency_p99_ms are needed, but a point may leave them empty: it is kept, and never
planned with.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.errors import InputError, SetupError
from planner.inputs.yaml_file import nearest, read_text

COLUMNS = tuple(f.name for f in fields(ProfileRow))
NEEDED = ("model", "device", "instances", "max_batch_size", "rate_rps", "latency_p99_ms")
NEEDED_OVERHEAD = ("model", "device", "memory_bytes")
MAY_BE_EMPTY = frozenset({"rate_rps", "latency_p99_ms"})
PARQUET_MAGIC = b"PAR1"

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})


def read_profiles(path: Path) -> list[ProfileRow]:
    """Rows of a CSV or Parquet file, told apart by their content."""
    if is_parquet(path):
        columns, records = _parquet_records(path)
    else:
        columns, records = _csv_records(path)
    return _rows(path, columns, records)


def write_profiles(rows: Iterable[ProfileRow], path: Path) -> None:
    """Write Parquet where the name ends in .parquet, else CSV."""
    if path.suffix == ".parquet":
        path.write_bytes(parquet_bytes(rows))
    else:
        path.write_text(csv_text(rows), encoding="utf-8", newline="")


def is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError:
        return False  # reading it as text names the cause


def csv_text(rows: Iterable[ProfileRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row, column) for column in COLUMNS])
    return buffer.getvalue()


def parquet_bytes(rows: Iterable[ProfileRow]) -> bytes:
    pandas = _pandas_with_pyarrow()
    values = [{column: getattr(row, column) for column in COLUMNS} for row in rows]
    for value in values:
        value["load"] = str(value["load"])
    frame = pandas.DataFrame(values, columns=list(COLUMNS)).astype(_DTYPES)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _cell(row: ProfileRow, column: str) -> str:
    value = getattr(row, column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and (value != value.strip() or "\r" in value):
        why = "begins or ends with a space, or holds a carriage return"
        raise InputError(f"profile of {row.model!r}: {column} {value!r} {why}")
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


Record = tuple[str, Sequence[Any]]
"""Where a record stands ("profiles.csv:12"), and its cells."""


def _csv_records(path: Path) -> tuple[list[str], Iterator[Record]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns = next(_lines(reader, path), ("", []))[1]
    if not columns:
        raise InputError(f"{path}: the file is empty; the first line names the columns")
    return [str(column).strip() for column in columns], _lines(reader, path)


def _lines(reader: Any, path: Path) -> Iterator[Record]:
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
        if any(cell.strip() for cell in cells):
            yield f"{path}:{reader.line_num}", cells


def _parquet_records(path: Path) -> tuple[list[str], Iterator[Record]]:
    pandas = _pandas_with_pyarrow()
    try:
        frame = pandas.read_parquet(path, dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        raise InputError(f"{path}: not a readable Parquet file: {first}") from error
    values = frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)
    return [str(c) for c in frame.columns], ((f"{path}: row {n}", cells) for n, cells in enumerate(values, 1))


def _pandas_with_pyarrow() -> Any:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise SetupError("Parquet needs pyarrow", hint="pip install 'planner[parquet]', or use CSV") from error
    import pandas

    return pandas


def _rows(path: Path, columns: list[str], records: Iterable[Record]) -> list[ProfileRow]:
    _require_known(path, columns)
    found: list[ProfileRow] = []
    needed_columns = False
    for where, cells in records:
        if len(cells) > len(columns):
            raise InputError(f"{where}: {len(cells)} cells, but the first line names {len(columns)} columns")
        texts = {c: _text(cell) for c, cell in zip(columns, cells, strict=False)}
        if not needed_columns and not _is_overhead(texts):
            _require_columns(path, columns)
            needed_columns = True
        found.append(_row(where, {c: text for c, text in texts.items() if text}))
    if not found:
        raise InputError(f"{path}: there is no profile in it")
    return found


def _require_known(path: Path, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in COLUMNS:
            guess = nearest(column, COLUMNS)
            maybe = f"; did you mean {guess[0]}?" if guess else ""
            raise InputError(f"{path}:1: unknown column {column!r}{maybe}", hint=f"allowed: {', '.join(COLUMNS)}")
        if columns.count(column) > 1:
            raise InputError(f"{path}:1: column {column!r} is given twice")
    missing = [column for column in NEEDED_OVERHEAD[:2] if column not in columns]
    if missing:
        raise InputError(f"{path}:1: column {missing[0]!r} is missing", hint=f"needed: {', '.join(NEEDED)}")


def _require_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        names = ", ".join(missing)
        raise InputError(f"{path}:1: columns are missing: {names}", hint=f"needed: {', '.join(NEEDED)}")


def _row(where: str, cells: Mapping[str, str]) -> ProfileRow:
    needed = NEEDED_OVERHEAD if _is_overhead(cells) else NEEDED
    for column in needed:
        if column not in cells and column not in MAY_BE_EMPTY:
            raise InputError(f"{where}: column {column}: a value is needed")
    values: dict[str, Any] = {}
    for column, text in cells.items():
        try:
            values[column] = _CONVERT[column](text)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{where}: column {column}: {text!r} is not {_NAMES[_CONVERT[column]]}") from error
    try:
        return ProfileRow(**values)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", hint=error.hint) from error


def _is_overhead(cells: Mapping[str, str]) -> bool:
    return cells.get("model", "").startswith("@")


def _text(value: Any) -> str:
    """A CSV cell, or a Parquet value in the same spelling; NaN and nothing are empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() == "nan" else text


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = float(text)  # pandas writes 4.0 into a column that also has empty cells
        if not value.is_integer():
            raise
        return int(value)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


_NAMES: Mapping[Callable[[str], Any], str] = {
    str: "text",
    _integer: "a whole number",
    _number: "a finite number",
    _boolean: "true or false",
    LoadMode: f"one of {', '.join(LoadMode)}",
}
_BY_TYPE: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "string"),
    "int": (_integer, "Int64"),
    "int | None": (_integer, "Int64"),
    "float | None": (_number, "Float64"),
    "bool": (_boolean, "bool"),
    "LoadMode": (LoadMode, "string"),
}
_CONVERT = {f.name: _BY_TYPE[str(f.type)][0] for f in fields(ProfileRow)}
_DTYPES = {f.name: _BY_TYPE[str(f.type)][1] for f in fields(ProfileRow)}
