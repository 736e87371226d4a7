"""Requests for a model that is known by its configuration: made once, sent many times."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.domain.serving import SEQUENCE_LENGTH, LoadSpec
from planner.errors import InputError
from profiler.load.input_file import Inference, read_input_file
from profiler.load.tensors import InputTensor, datatype_of, input_shape, random_values

if TYPE_CHECKING:
    from numpy.random import Generator

_BYTES_OF_ALL_VARIANTS = 16 * 1024**2
_VARIANTS = 8
_SLOTS_MAX = 1024


def inferences(config: Any, spec: LoadSpec, rng: Generator) -> list[list[Inference]]:
    """What to send, as streams of single inferences without a batch dimension: those of the request file, else
    one stream of up to 8 with random values that are valid for their types.

    `config` is Triton's ModelConfig message. InputError where a shape stays open, where a value does not fit, or
    where the model cannot take such requests.
    """
    _check_model(config, spec)
    if spec.input_file is not None:
        return read_input_file(spec.input_file, config, spec.shapes)
    first = _random_inference(config, spec.shapes, rng)
    size_bytes = spec.request_batch_size * sum(len(tensor.raw) for tensor in first)
    count = max(1, min(_VARIANTS, _BYTES_OF_ALL_VARIANTS // max(1, size_bytes))) * spec.request_batch_size
    return [[first, *(_random_inference(config, spec.shapes, rng) for _ in range(count - 1))]]


def requests_of(config: Any, spec: LoadSpec, streams: Sequence[Sequence[Inference]]) -> list[list[Inference]]:
    """The streams' requests as they are sent, with a batch dimension where the model has one.

    A request of several inferences takes the next ones in turn, as perf_analyzer's do; without sequences, all
    streams are one. InputError where inferences of one request differ in shape.
    """
    size = spec.request_batch_size
    if is_stateful(config):
        return [[_batched(config, spec, [one]) for one in stream] for stream in streams]
    flat = [one for stream in streams for one in stream]
    count = len(flat) // math.gcd(len(flat), size)
    turns = [[flat[(turn * size + index) % len(flat)] for index in range(size)] for turn in range(count)]
    return [[_batched(config, spec, together) for together in turns]]


def _batched(config: Any, spec: LoadSpec, together: Sequence[Inference]) -> Inference:
    first = together[0]
    shapes = [[(tensor.name, tensor.shape) for tensor in one] for one in together]
    if any(shape != shapes[0] for shape in shapes):
        differ = next(shape for shape in shapes if shape != shapes[0])
        raise InputError(
            f"{spec.input_file}: a request of {spec.request_batch_size} inferences for {config.name!r} would hold "
            f"{_shapes_text(shapes[0])} and {_shapes_text(differ)}: inferences of one request must be equal in shape",
            hint="request_batch_size 1 sends each by itself",
        )
    if config.max_batch_size == 0:
        return first
    return tuple(
        InputTensor(
            tensor.name, tensor.datatype, (len(together), *tensor.shape), b"".join(one[i].raw for one in together)
        )
        for i, tensor in enumerate(first)
    )


def _shapes_text(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes)


def input_data_file(streams: Sequence[Sequence[Inference]], *, stateful: bool) -> str:
    """The streams in perf_analyzer's `--input-data` JSON. Without sequences it reads the first stream alone, so
    that all become one."""
    data: list[Any] = [[{tensor.name: _as_json(tensor) for tensor in one} for one in stream] for stream in streams]
    return json.dumps({"data": data if stateful else [one for stream in data for one in stream]})


def _as_json(tensor: InputTensor) -> dict[str, Any]:
    return {"content": {"b64": base64.b64encode(tensor.raw).decode()}, "shape": list(tensor.shape)}


def values_per_request(config: Any, batch_size: int, streams: Sequence[Sequence[Inference]]) -> int | None:
    """How many values the largest request and its answer hold together; None where an output's size is not
    declared."""
    outputs = [tuple(tensor.dims) for tensor in config.output]
    if any(size < 1 for dims in outputs for size in dims):
        return None
    largest = max(sum(_weight(tensor) for tensor in one) for stream in streams for one in stream)
    per_inference: int = largest + sum(math.prod(dims) for dims in outputs)
    return batch_size * per_inference


def _weight(tensor: InputTensor) -> int:
    """Texts count by their length: they are written out, too."""
    return max(math.prod(tensor.shape), len(tensor.raw) // 8 if tensor.datatype == "BYTES" else 0)


def is_stateful(config: Any) -> bool:
    return bool(config.HasField("sequence_batching"))


def sequence_length(spec: LoadSpec, stream: Sequence[Inference]) -> int:
    """How many requests a sequence over that stream has."""
    return spec.sequences.length or (len(stream) if spec.input_file is not None else SEQUENCE_LENGTH)


def sequence_slots(config: Any) -> int:
    """How many sequences the server serves at the same time; more wait until one of them ends."""
    instances = sum(group.count * max(1, len(group.gpus)) for group in config.instance_group) or 1
    if config.sequence_batching.HasField("oldest"):
        per_instance = config.sequence_batching.oldest.max_candidate_sequences
    else:
        per_instance = config.max_batch_size
    return int(min(_SLOTS_MAX, instances * max(1, per_instance)))


def has_text_ids(config: Any) -> bool:
    """Whether the model takes its correlation ids as texts."""
    return any(
        control.kind == control.CONTROL_SEQUENCE_CORRID and datatype_of(control) == "BYTES"
        for control_input in config.sequence_batching.control_input
        for control in control_input.control
    )


def sequence_ids(first: int, *, text: bool) -> Iterator[int | str]:
    """Correlation ids from `first` on, which should be far from those of other runs."""
    return (f"planner-{number}" if text else number for number in itertools.count(first))


def _check_model(config: Any, spec: LoadSpec) -> None:
    refuse_decoupled(config)
    if spec.request_batch_size > max(1, config.max_batch_size):
        largest = f"max_batch_size is {config.max_batch_size}"
        raise InputError(
            f"model {config.name!r}: a request cannot carry {spec.request_batch_size} inferences, {largest}"
        )
    if is_stateful(config) and spec.request_batch_size > 1:
        raise InputError(
            f"model {config.name!r} is stateful: a request of a sequence carries 1 inference, "
            f"not {spec.request_batch_size}"
        )
    unknown = sorted(set(spec.shapes) - {tensor.name for tensor in config.input})
    if unknown:
        known = ", ".join(tensor.name for tensor in config.input)
        raise InputError(f"model {config.name!r} has no input {unknown[0]!r}; its inputs are {known}")


def refuse_decoupled(config: Any) -> None:
    """InputError for a model that may answer a request several times, or not at all."""
    if config.model_transaction_policy.decoupled:
        raise InputError(
            f"model {config.name!r} is decoupled (model_transaction_policy): it may answer a request any number of "
            "times, and load is measured by one answer per request",
            hint="leave it out; a version of it without `decoupled: true` can be measured",
        )


def _random_inference(config: Any, shapes: Mapping[str, Sequence[int]], rng: Generator) -> Inference:
    tensors = []
    for tensor in config.input:
        if tensor.optional and tensor.name not in shapes:
            continue
        shape, datatype = input_shape(config, tensor, shapes), datatype_of(tensor)
        zero = _is_zero_in_warmup(config, tensor.name)
        tensors.append(InputTensor(tensor.name, datatype, shape, random_values(datatype, shape, zero, rng)))
    return tuple(tensors)


def _is_zero_in_warmup(config: Any, name: str) -> bool:
    return any(name in warmup.inputs and warmup.inputs[name].zero_data for warmup in config.model_warmup)
