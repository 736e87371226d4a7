"""The values of a model's inputs: their shapes, their types, and their bytes as Triton takes them."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator

INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
FLOATS = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}
_SIZES = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8} | {
    name: int(name.removeprefix("U").removeprefix("INT")) // 8 for name in INTEGERS
}


@dataclass(frozen=True, slots=True)
class InputTensor:
    """`raw` holds the values as Triton's raw_input_contents does. `shape` has a batch dimension where asked for."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def datatype_of(tensor: Any) -> str:
    from tritonclient.grpc.model_config_pb2 import DataType

    name = DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def value_bytes(datatype: str) -> int | None:
    """The size of one value; None for BYTES, whose values have each their own."""
    return _SIZES.get(datatype)


def input_shape(config: Any, tensor: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """An input's dimensions without the batch: as given, else of the configuration, with what it leaves
    open (-1) taken from its model_warmup."""
    declared = tuple(tensor.dims)
    given = shapes.get(tensor.name)
    where = f"model {config.name!r}, input {tensor.name!r}"
    if given is not None:
        if not fits(given, declared):
            raise InputError(f"{where}: shape {list(given)} does not fit its dims {list(declared)}")
        return tuple(given)
    if -1 in declared:
        declared = _shape_in_warmup(config, tensor) or declared
    if -1 in declared:
        sizes = ["1" if size == -1 else str(size) for size in declared]
        raise InputError(
            f"{where}: its dims {list(declared)} leave a size open",
            hint=f"give it with --shape {config.name}:{tensor.name}:{','.join(sizes)}, or in measure.yaml: "
            f"shapes: {{{config.name}: {{{tensor.name}: [{', '.join(sizes)}]}}}}",
        )
    return declared


def fits(given: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether dimensions are what a configuration declares, with any size of at least 1 where it says -1."""
    return len(given) == len(declared) and all(
        got >= 1 and want in (-1, got) for want, got in zip(declared, given, strict=True)
    )


def _shape_in_warmup(config: Any, tensor: Any) -> tuple[int, ...] | None:
    for warmup in config.model_warmup:
        dims = tuple(warmup.inputs[tensor.name].dims) if tensor.name in warmup.inputs else ()
        if len(dims) == len(tensor.dims) and all(size > 0 for size in dims):
            return dims
    return None


def random_values(datatype: str, shape: tuple[int, ...], zero: bool, rng: Generator) -> bytes:
    import numpy as np

    if datatype == "BYTES":
        return serialised(b"" if zero else f"text {rng.integers(1000)}".encode() for _ in range(math.prod(shape)))
    if datatype == "BF16":
        return _bfloat16(np.zeros(shape, np.float32) if zero else rng.random(shape, dtype=np.float32))
    return _random_numbers(datatype, shape, zero, rng).tobytes()


def _random_numbers(datatype: str, shape: tuple[int, ...], zero: bool, rng: Generator) -> np.ndarray[Any, Any]:
    import numpy as np

    if datatype in FLOATS:
        return np.zeros(shape, FLOATS[datatype]) if zero else rng.random(shape).astype(FLOATS[datatype])
    if datatype in INTEGERS:
        largest = 127 if datatype == "INT8" else 255
        integers = rng.integers(0, 1 if zero else largest + 1, shape)
        return integers.astype(datatype.lower())
    if datatype == "BOOL":
        return rng.integers(0, 1 if zero else 2, shape).astype(bool)
    raise InputError(f"inputs of type {datatype} are not supported")


def given_values(datatype: str, values: Sequence[Any]) -> bytes:
    """Listed values in the bytes of a type; ValueError says which value does not fit and what would."""
    import numpy as np

    if datatype == "BYTES":
        return serialised(_text(value) for value in values)
    if datatype == "BOOL":
        return bytes(bool(_number(value, (bool, int), "true or false", 0, 1)) for value in values)
    if datatype in INTEGERS:
        limits = np.iinfo(datatype.lower())
        low, high = int(limits.min), int(limits.max)
        allowed = f"a whole number from {low} to {high}"
        return np.array([_number(v, (int,), allowed, low, high) for v in values], datatype.lower()).tobytes()
    if datatype not in (*FLOATS, "BF16"):
        raise ValueError(f"inputs of type {datatype} are not supported")
    kept_as = FLOATS.get(datatype, "float32")
    largest = float(np.finfo(kept_as).max)
    allowed = f"a number from {-largest:g} to {largest:g}"
    numbers = np.array([_number(v, (int, float), allowed, -largest, largest) for v in values], kept_as)
    return _bfloat16(numbers) if datatype == "BF16" else numbers.tobytes()


def _number(
    value: Any, kinds: tuple[type, ...], allowed: str, low: float = -math.inf, high: float = math.inf
) -> int | float:
    right_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not right_kind or not low <= value <= high:
        raise ValueError(f"{value!r} is not {allowed}")
    number: int | float = value
    return number


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")  # noqa: TRY004 - the callers' protocol
    return value.encode()


def serialised(texts: Iterable[bytes]) -> bytes:
    """BYTES values as Triton takes them: each behind its length in four bytes."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def texts_of(raw: bytes) -> Iterator[bytes]:
    """The values of a BYTES tensor; ValueError where the bytes are no such values."""
    start = 0
    while start < len(raw):
        if start + 4 > len(raw):
            raise ValueError("ends within a length")
        (size,) = struct.unpack_from("<I", raw, start)
        start += 4 + size
        if start > len(raw):
            raise ValueError(f"ends within a text of {size} bytes")
        yield raw[start - size : start]


def _bfloat16(single: np.ndarray[Any, Any]) -> bytes:
    import numpy as np

    return (single.view(np.uint32) >> 16).astype(np.uint16).tobytes()
