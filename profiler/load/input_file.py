"""A request file in perf_analyzer's JSON format: the inputs of single inferences, without a batch dimension.

    {"data": [{"x": [1, 2]}, {"x": {"content": [1, 2, 3], "shape": [3]}}, {"x": {"b64": "..."}}]}

`data` may hold lists of such requests instead: streams, each the requests of one sequence. `validation_data` is
perf_analyzer's own affair and left alone. Unlike perf_analyzer, a single open size (-1) is found by counting.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import InputError, NotFoundError, PlannerError
from profiler.load.tensors import (
    InputTensor,
    datatype_of,
    fits,
    given_values,
    input_shape,
    texts_of,
    value_bytes,
)

Inference = tuple[InputTensor, ...]
_KEYS = ("data", "validation_data")
_SHOWN = 60


def read_input_file(path: Path, config: Any, shapes: Mapping[str, Sequence[int]]) -> list[list[Inference]]:
    """The file's streams, checked against a model's configuration; `shapes` are for values without one.

    InputError names file, stream and request (from 1), input, the value, and what is expected.
    """
    streams = _streams(path)
    many = len(streams) > 1
    return [
        [
            _Request(f"{path}: {f'stream {s}, ' if many else ''}request {r}", config, shapes).read(entry)
            for r, entry in enumerate(stream, start=1)
        ]
        for s, stream in enumerate(streams, start=1)
    ]


def _streams(path: Path) -> list[list[Any]]:
    file = _json(path)
    if not isinstance(file, dict) or "data" not in file:
        raise InputError(f'{path}: must hold {{"data": [...]}}, got {_shown(file)}')
    if unknown := sorted(set(file) - set(_KEYS)):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; allowed are {', '.join(_KEYS)}")
    data = file["data"]
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: data must be a list of requests, or of lists of them, got {_shown(data)}")
    if not any(isinstance(entry, list) for entry in data):
        return [data]
    for number, stream in enumerate(data, start=1):
        if not isinstance(stream, list) or not stream:
            raise InputError(
                f"{path}: stream {number}: must be a list of requests, as others are, got {_shown(stream)}"
            )
    return data


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such request file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error


@dataclass(frozen=True, slots=True)
class _Request:
    where: str
    config: Any
    shapes: Mapping[str, Sequence[int]]

    def read(self, entry: Any) -> Inference:
        if not isinstance(entry, dict):
            raise InputError(f"{self.where}: must be inputs with their values, got {_shown(entry)}")
        known = {tensor.name: tensor for tensor in self.config.input}
        for name in entry:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                maybe = f" did you mean {near[0]}?" if near else ""
                inputs = ", ".join(known)
                raise InputError(
                    f"{self.where}: model {self.config.name!r} has no input {name!r};{maybe} it has {inputs}"
                )
        for name, tensor in known.items():
            if name not in entry and not tensor.optional:
                raise InputError(f"{self.where}: input {name!r} of model {self.config.name!r} is missing")
        return tuple(self._tensor(tensor, entry[name]) for name, tensor in known.items() if name in entry)

    def _tensor(self, tensor: Any, value: Any) -> InputTensor:
        where = f"{self.where}: input {tensor.name!r}"
        content, given = _content_and_shape(where, value)
        datatype = datatype_of(tensor)
        try:
            raw, count = _raw(datatype, content)
        except ValueError as error:
            raise InputError(f"{where}, of type {datatype}: {error}") from error
        shape = self._shape(where, tensor, given, count)
        if math.prod(shape) != count:
            expected = f"shape {list(shape)} takes {math.prod(shape)}"
            raise InputError(f"{where}, of type {datatype}: {count} values, and {expected}")
        return InputTensor(tensor.name, datatype, shape, raw)

    def _shape(self, where: str, tensor: Any, given: Any, count: int) -> tuple[int, ...]:
        declared = tuple(tensor.dims)
        if given is not None:
            if not _is_shape(given) or not fits(given, declared):
                raise InputError(f"{where}: shape {_shown(given)} does not fit its dims {list(declared)}")
            return tuple(given)
        if tensor.name not in self.shapes and declared.count(-1) == 1:
            others = -math.prod(declared)
            if count and count % others == 0:
                return tuple(count // others if size == -1 else size for size in declared)
        try:
            return input_shape(self.config, tensor, self.shapes)
        except PlannerError as error:
            raise InputError(
                f"{self.where}: {error.message}", hint='or write {"content": [...], "shape": [...]}'
            ) from error


def _content_and_shape(where: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, dict) or set(value) == {"b64"}:
        return value, None
    if "content" not in value or set(value) - {"content", "shape"}:
        raise InputError(
            f'{where}: expected values, {{"b64": ...}} or {{"content": ..., "shape": ...}}, got {_shown(value)}'
        )
    return value["content"], value.get("shape")


def _raw(datatype: str, content: Any) -> tuple[bytes, int]:
    """The bytes of an input, and how many values they hold."""
    if isinstance(content, list):
        values = _flat(content)
        return given_values(datatype, values), len(values)
    if not isinstance(content, dict) or set(content) != {"b64"} or not isinstance(content["b64"], str):
        raise ValueError(f'expected a list of values or {{"b64": "..."}}, got {_shown(content)}')
    try:
        raw = base64.b64decode(content["b64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"b64 is not valid Base64: {error}") from error
    size = value_bytes(datatype)
    if size is None:
        try:
            return raw, sum(1 for _ in texts_of(raw))
        except ValueError as error:
            raise ValueError(f"b64 must hold texts, each behind its length in four bytes, but {error}") from error
    if len(raw) % size:
        raise ValueError(f"b64 holds {len(raw)} bytes, and a value takes {size}")
    return raw, len(raw) // size


def _flat(values: list[Any]) -> list[Any]:
    if not any(isinstance(value, list) for value in values):
        return values
    return [one for value in values for one in (_flat(value) if isinstance(value, list) else [value])]


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in shape)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
