"""Requests for a model that is known by its configuration only: made once, sent many times."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator

_BYTES_OF_ALL_VARIANTS = 16 * 1024**2
_VARIANTS = 8
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}


@dataclass(frozen=True, slots=True)
class InputTensor:
    """`raw` holds the values as Triton's raw_input_contents does. `shape` has a batch dimension where asked for."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def prepare_requests(
    config: Any, *, batch_size: int, shapes: Mapping[str, Sequence[int]], rng: Generator
) -> list[bytes]:
    """Up to 8 serialised ModelInferRequests with different random values that are valid for their types.

    `config` is Triton's ModelConfig message. InputError where a shape stays open, or where the model cannot
    take such requests.
    """
    variants = _variants(config, batch_size, shapes, rng, batched=config.max_batch_size > 0)
    return [_request(config.name, tensors) for tensors in variants]


def input_data_file(config: Any, *, batch_size: int, shapes: Mapping[str, Sequence[int]], rng: Generator) -> str:
    """The same values as perf_analyzer's `--input-data` JSON, whose entries are single inferences.

    InputError as in `prepare_requests`.
    """
    variants = _variants(config, batch_size, shapes, rng, batched=False)
    return json.dumps({"data": [{tensor.name: _as_json(tensor) for tensor in tensors} for tensors in variants]})


def _as_json(tensor: InputTensor) -> dict[str, Any]:
    shape = list(tensor.shape)
    if tensor.datatype == "BYTES":
        return {"content": list(_texts(tensor.raw)), "shape": shape}
    return {"content": {"b64": base64.b64encode(tensor.raw).decode()}, "shape": shape}


def _texts(raw: bytes) -> Iterator[str]:
    start = 0
    while start < len(raw):
        (size,) = struct.unpack_from("<I", raw, start)
        yield raw[start + 4 : start + 4 + size].decode()
        start += 4 + size


def values_per_request(config: Any, batch_size: int, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """How many values a request and its answer hold together; None where an output's size is not declared."""
    outputs = [tuple(tensor.dims) for tensor in config.output]
    if any(size < 1 for dims in outputs for size in dims):
        return None
    inputs = [input_shape(config, tensor, shapes) for tensor in config.input if _is_sent(tensor, shapes)]
    per_inference: int = sum(math.prod(dims) for dims in [*inputs, *outputs])
    return batch_size * per_inference


def is_stateful(config: Any) -> bool:
    return bool(config.HasField("sequence_batching"))


def sequence_suffixes(rng: Generator) -> Iterator[bytes]:
    """What makes a request a whole sequence of its own, appended to a serialised request.

    Protobuf merges concatenated messages, so the request itself need not be serialised again. One request
    per sequence never holds a sequence slot while nothing is sent.
    """
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    sequence_id = int(rng.integers(1, 2**40))
    while True:
        suffix = ModelInferRequest()
        suffix.parameters["sequence_id"].int64_param = sequence_id
        suffix.parameters["sequence_start"].bool_param = True
        suffix.parameters["sequence_end"].bool_param = True
        yield suffix.SerializeToString()
        sequence_id += 1


def _check_model(config: Any, batch_size: int, shapes: Mapping[str, Sequence[int]]) -> None:
    if config.model_transaction_policy.decoupled:
        raise InputError(f"model {config.name!r} is decoupled; a load generator needs one answer per request")
    if batch_size > max(1, config.max_batch_size):
        largest = f"max_batch_size is {config.max_batch_size}"
        raise InputError(f"model {config.name!r}: a request cannot carry {batch_size} inferences, {largest}")
    unknown = sorted(set(shapes) - {tensor.name for tensor in config.input})
    if unknown:
        known = ", ".join(tensor.name for tensor in config.input)
        raise InputError(f"model {config.name!r} has no input {unknown[0]!r}; its inputs are {known}")


def _variants(
    config: Any, batch_size: int, shapes: Mapping[str, Sequence[int]], rng: Generator, *, batched: bool
) -> list[list[InputTensor]]:
    _check_model(config, batch_size, shapes)
    first = _tensors(config, batch_size, shapes, rng, batched)
    size_bytes = sum(len(tensor.raw) for tensor in first)
    count = max(1, min(_VARIANTS, _BYTES_OF_ALL_VARIANTS // max(1, size_bytes)))
    return [first, *(_tensors(config, batch_size, shapes, rng, batched) for _ in range(count - 1))]


def _tensors(
    config: Any, batch_size: int, shapes: Mapping[str, Sequence[int]], rng: Generator, batched: bool
) -> list[InputTensor]:
    tensors = []
    for tensor in config.input:
        if not _is_sent(tensor, shapes):
            continue
        shape = input_shape(config, tensor, shapes)
        if batched:
            shape = (batch_size, *shape)
        datatype = _datatype(tensor)
        zero = _is_zero_in_warmup(config, tensor.name)
        tensors.append(InputTensor(tensor.name, datatype, shape, _values(datatype, shape, zero, rng)))
    return tensors


def _is_sent(tensor: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    return not tensor.optional or tensor.name in shapes


def _request(model: str, tensors: Sequence[InputTensor]) -> bytes:
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    request = ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    return bytes(request.SerializeToString())


def input_shape(config: Any, tensor: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """An input's dimensions without the batch: as given, else of the configuration, with what it leaves
    open (-1) taken from its model_warmup."""
    declared = tuple(tensor.dims)
    given = shapes.get(tensor.name)
    where = f"model {config.name!r}, input {tensor.name!r}"
    if given is not None:
        fits = len(given) == len(declared) and all(want in (-1, got) for want, got in zip(declared, given, strict=True))
        if not fits or any(size < 1 for size in given):
            raise InputError(f"{where}: shape {list(given)} does not fit its dims {list(declared)}")
        return tuple(given)
    if -1 in declared:
        declared = _shape_in_warmup(config, tensor) or declared
    if -1 in declared:
        sizes = ", ".join("1" if size == -1 else str(size) for size in declared)
        raise InputError(
            f"{where}: its dims {list(declared)} leave a size open",
            hint=f"give it in measure.yaml: shapes: {{{config.name}: {{{tensor.name}: [{sizes}]}}}}",
        )
    return declared


def _shape_in_warmup(config: Any, tensor: Any) -> tuple[int, ...] | None:
    for warmup in config.model_warmup:
        dims = tuple(warmup.inputs[tensor.name].dims) if tensor.name in warmup.inputs else ()
        if len(dims) == len(tensor.dims) and all(size > 0 for size in dims):
            return dims
    return None


def _is_zero_in_warmup(config: Any, name: str) -> bool:
    return any(name in warmup.inputs and warmup.inputs[name].zero_data for warmup in config.model_warmup)


def _datatype(tensor: Any) -> str:
    from tritonclient.grpc.model_config_pb2 import DataType

    name = DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _values(datatype: str, shape: tuple[int, ...], zero: bool, rng: Generator) -> bytes:
    import numpy as np

    if datatype == "BYTES":
        texts = [b"" if zero else f"text {rng.integers(1000)}".encode() for _ in range(int(np.prod(shape)))]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if datatype == "BF16":
        single = np.zeros(shape, np.float32) if zero else rng.random(shape, dtype=np.float32)
        return (single.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return _numbers(datatype, shape, zero, rng).tobytes()


def _numbers(datatype: str, shape: tuple[int, ...], zero: bool, rng: Generator) -> np.ndarray[Any, Any]:
    import numpy as np

    if datatype in _FLOATS:
        return np.zeros(shape, _FLOATS[datatype]) if zero else rng.random(shape).astype(_FLOATS[datatype])
    if datatype in _INTEGERS:
        largest = 127 if datatype == "INT8" else 255
        integers = rng.integers(0, 1 if zero else largest + 1, shape)
        return integers.astype(datatype.lower())
    if datatype == "BOOL":
        return rng.integers(0, 1 if zero else 2, shape).astype(bool)
    raise InputError(f"inputs of type {datatype} are not supported")
