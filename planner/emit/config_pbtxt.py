"""A model's config.pbtxt: read with Triton's own schema, changed as a message, printed.

The user's file is never edited as text, and nothing is changed in it that the plan does not decide.
"""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planner.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from google.protobuf.text_format import ParseError
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_NAME = "config.pbtxt"
Kind = Literal["KIND_CPU", "KIND_GPU"]

_BACKEND_OF_PLATFORM = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}


def read_config(path: Path) -> ModelConfig:
    """Parse a config.pbtxt; its name is that of its folder where the file gives none.

    InputError names file, line and column of a mistake and what is allowed there.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist", hint="every model needs a config.pbtxt") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        config: ModelConfig = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise InputError(_located(path, error), hint=_allowed(str(error))) from None
    config.name = config.name or path.parent.name
    return config


def configure(
    config: ModelConfig,
    *,
    instances: int,
    max_batch_size: int,
    queue_delay_us: int | None,
    kind: Kind,
    gpus: tuple[int, ...] = (),
) -> ModelConfig:
    """A copy with the plan's instances, batch size and dynamic batching (`queue_delay_us` None: off).

    A model without batching (max_batch_size 0) stays so. Sequence batching and ensemble scheduling keep
    their scheduler word for word; an ensemble has no instances of its own. Of several instance groups the
    first one stays, with the whole count. With KIND_GPU the group always names its GPU: empty means all. A
    model that chooses its device itself (KIND_MODEL) goes on doing so on a GPU, among those that the server sees.

    `gpus`: ordinals of the process. KIND_GPU puts an instance on each of several GPUs, never one across them: there
    the model chooses (KIND_MODEL), unless its own file says KIND_CPU, as TensorRT-LLM wants it, or names several GPUs.
    """
    if max_batch_size < 1 and config.max_batch_size > 0:
        raise InputError(
            f"model {config.name!r}: max_batch_size {max_batch_size} would change the shape of its inputs; "
            f"it is {config.max_batch_size} in config.pbtxt"
        )
    if (kind == "KIND_GPU") != bool(gpus):
        raise InputError(f"model {config.name!r}: {kind} with gpus {list(gpus)}")
    changed = type(config)()
    changed.CopyFrom(config)
    if config.max_batch_size > 0:
        changed.max_batch_size = max_batch_size
        for warmup in changed.model_warmup:
            warmup.batch_size = min(warmup.batch_size, max_batch_size)
    if not config.HasField("ensemble_scheduling"):
        _set_instances(changed, instances, kind, gpus)
    if config.WhichOneof("scheduling_choice") in (None, "dynamic_batching"):
        _set_dynamic_batching(changed, queue_delay_us)
    return changed


def override(config: ModelConfig, path: str, value: Any) -> ModelConfig:
    """A copy with one more field set: `path` is dotted, as in "dynamic_batching.preferred_batch_size", and
    "parameters.NAME" is one of the backend's parameters. InputError where there is no such field, where the value
    does not fit, and for what has a way of its own."""
    from google.protobuf import json_format

    first, _, rest = path.partition(".")
    if path in _DECIDED or first in _DECIDED:
        raise InputError(f"{path} is not set here, {_DECIDED.get(path) or _DECIDED[first]} is what sets it")
    changed = type(config)()
    changed.CopyFrom(config)
    if first == "parameters":
        if not rest or isinstance(value, list | dict) or value is None:
            raise InputError(f"{path}: write parameters.NAME and a text or a number, got {value!r}")
        changed.parameters[rest].string_value = str(value).lower() if isinstance(value, bool) else str(value)
        return changed
    nested = value
    for step in reversed(path.split(".")):
        nested = {step: nested}
    try:
        json_format.ParseDict(nested, changed)
    except json_format.ParseError as error:
        raise InputError(f"{path}: {value!r} does not fit: {error}") from None
    return changed


_DECIDED = {
    "name": "the folder of the model",
    "instance_group": "instances",
    "max_batch_size": "max_batch_sizes",
    "dynamic_batching.max_queue_delay_microseconds": "queue_delays_us",
}


def _set_instances(config: ModelConfig, instances: int, kind: Kind, gpus: tuple[int, ...]) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    group = ModelInstanceGroup()
    if config.instance_group:
        group.CopyFrom(config.instance_group[0])
    group.count = instances
    if len(gpus) > 1 and group.kind == ModelInstanceGroup.Kind.KIND_CPU:
        kind, gpus = "KIND_CPU", ()
    elif len(gpus) > 1 and len(group.gpus) < 2:
        group.kind = ModelInstanceGroup.Kind.KIND_MODEL
    del group.gpus[:]
    if kind == "KIND_CPU" or group.kind != ModelInstanceGroup.Kind.KIND_MODEL:
        group.kind = ModelInstanceGroup.Kind.Value(kind)
        group.gpus.extend(gpus)
    del config.instance_group[:]
    config.instance_group.append(group)


def _set_dynamic_batching(config: ModelConfig, queue_delay_us: int | None) -> None:
    if queue_delay_us is None or config.max_batch_size == 0:
        config.ClearField("dynamic_batching")
        return
    batching = config.dynamic_batching
    batching.SetInParent()
    batching.max_queue_delay_microseconds = queue_delay_us
    fitting = [size for size in batching.preferred_batch_size if size <= config.max_batch_size]
    del batching.preferred_batch_size[:]
    batching.preferred_batch_size.extend(fitting)


def write_config(config: ModelConfig, path: Path) -> None:
    """Print the message to `path`; what is there appears whole or not at all."""
    from google.protobuf import text_format

    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text_format.MessageToString(config), encoding="utf-8")
    unfinished.replace(path)


def write_model(source: Path, target: Path, config: ModelConfig, *, copy: bool = False) -> None:
    """A model folder with `config`, and links to everything else in `source`, or copies of it."""
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if entry.name != CONFIG_NAME:
            _place(entry, target / entry.name, copy=copy)
    write_config(config, target / CONFIG_NAME)


def _place(entry: Path, target: Path, *, copy: bool) -> None:
    if not copy:
        target.symlink_to(entry.resolve())
    elif entry.is_dir():
        shutil.copytree(entry, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(entry, target)


def queue_delay_us(config: ModelConfig) -> int | None:
    """The delay of its dynamic batching in microseconds; None where that is off."""
    if not config.HasField("dynamic_batching"):
        return None
    return int(config.dynamic_batching.max_queue_delay_microseconds)


def backend_name(config: ModelConfig) -> str:
    """The backend that runs it, also where the file names an old-style platform; "ensemble" for ensembles."""
    if config.HasField("ensemble_scheduling"):
        return "ensemble"
    return str(config.backend or _BACKEND_OF_PLATFORM.get(config.platform, config.platform))


def ensemble_members(config: ModelConfig) -> tuple[str, ...]:
    """The models that an ensemble calls, each once, in the order of its steps; empty for other models."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def _located(path: Path, error: ParseError) -> str:
    text = re.sub(r"^\d+:\d+ : ", "", str(error))
    return f"{path}, line {error.GetLine()}, column {error.GetColumn()}: {text}"


def _allowed(text: str) -> str | None:
    """What may stand where a field or an enum value is unknown: the nearest names first."""
    from tritonclient.grpc import model_config_pb2

    unknown = re.search(r'(Message|Enum) type "inference\.([\w.]+)" has no (?:field|value) named "?(\w+)', text)
    if unknown is None:
        return None
    kind, type_name, name = unknown.groups()
    found = model_config_pb2
    for part in type_name.split("."):
        found = getattr(found, part)
    descriptor = found.DESCRIPTOR
    names = [entry.name for entry in (descriptor.fields if kind == "Message" else descriptor.values)]
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed here: {', '.join(names)}"
