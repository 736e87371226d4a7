"""What a Triton Model Analyzer checkpoint (JSON) holds, as records; nothing is converted or left out here.

Latencies are milliseconds, memory is that of the whole GPU in MB of 1e6 bytes, power is watts, utilization
per cent; `perf_throughput` counts inferences, not requests, per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import InputError
from planner.inputs.json_file import Field, read_json_file

RESULTS = "ResultManager.results"
_SERVER_ONLY = "ResultManager.server_only_data"
_GPUS = "MetricsManager.gpus"

Metrics = Mapping[str, float]
"""Figures by Model Analyzer's name for them, such as perf_latency_p99."""


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`kind` is None where the configuration leaves it to Triton; `gpus`: how many it lists, None: all."""

    kind: str | None
    count: int
    gpus: int | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The parts of config.pbtxt that profiles know. `queue_delay_us` None: dynamic batching is off."""

    name: str
    variant_name: str
    platform: str
    backend: str
    max_batch_size: int
    groups: tuple[InstanceGroup, ...]
    queue_delay_us: int | None
    cpu_only: bool

    @property
    def instances(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def on_cpu(self) -> bool:
        return self.cpu_only or any(group.kind == "KIND_CPU" for group in self.groups)


@dataclass(frozen=True, slots=True)
class Client:
    """What one model's perf_analyzer was asked for and saw; one of concurrency and request rate is None."""

    where: str
    batch_size: int
    concurrency: int | None
    request_rate: float | None
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement; `variant_name` names the configurations that ran, `gpus` the readings by UUID."""

    variant_name: str
    clients: tuple[Client, ...]
    gpus: Mapping[str, Metrics]


@dataclass(frozen=True, slots=True)
class Variant:
    """One configuration and its measurements. Several `configs`: models measured together; `members`: of an
    ensemble or of a model that calls others."""

    model: str
    configs: tuple[ModelConfig, ...]
    members: tuple[ModelConfig, ...]
    measured: tuple[Measured, ...]

    @property
    def is_ensemble(self) -> bool:
        return any(config.platform == "ensemble" for config in self.configs)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`gpus`: names by UUID; `server_only`: readings of an empty server by UUID."""

    path: Path
    gpus: Mapping[str, str]
    server_only: Mapping[str, Metrics]
    variants: tuple[Variant, ...]


def read_checkpoint_file(path: Path) -> Checkpoint:
    data = read_json_file(path)
    if not isinstance(data.value, dict) or RESULTS not in data.value:
        raise InputError(f"{path}: not a Model Analyzer checkpoint: {RESULTS!r} is missing")
    gpus, server_only = data.get(_GPUS), data.get(_SERVER_ONLY)
    return Checkpoint(
        path=path,
        gpus={uuid: gpu["name"].text() for uuid, gpu in gpus.entries()} if gpus else {},
        server_only={uuid: _metrics(values) for uuid, values in server_only.entries()} if server_only else {},
        variants=tuple(
            _variant(model, found)
            for model, variants in data[RESULTS]["_results"].entries()
            for _, found in variants.entries()
        ),
    )


def _variant(model: str, found: Field) -> Variant:
    run, measured = found.pair()
    runs = run["_model_run_configs"].items()
    if not runs:
        raise run.error("'_model_run_configs' is empty; a configuration is needed")
    return Variant(
        model=model,
        configs=tuple(_run_config(each) for each in runs),
        members=tuple(_model_config(m) for each in runs for m in _listed(each.get("_composing_config_variants"))),
        measured=tuple(_measured(each) for _, each in measured.entries()),
    )


def _run_config(run: Field) -> ModelConfig:
    """Older checkpoints carry the configuration itself, newer ones a variant around it."""
    newer = run.get("_model_config_variant")
    return _config(run["_model_config"], None) if newer is None else _model_config(newer)


def _model_config(variant: Field) -> ModelConfig:
    return _config(variant["model_config"], variant)


def _config(config: Field, variant: Field | None) -> ModelConfig:
    name = _text(config.get("name"))
    cpu_only = (config if variant is None else variant).get("cpu_only")
    size, batching = config.get("maxBatchSize"), config.get("dynamicBatching")
    delay = None if batching is None else batching.get("maxQueueDelayMicroseconds")
    return ModelConfig(
        name=name,
        variant_name=name if variant is None else _text(variant.get("variant_name")),
        platform=_text(config.get("platform")),
        backend=_text(config.get("backend")),
        max_batch_size=0 if size is None else size.whole(),
        groups=tuple(_group(group) for group in _listed(config.get("instanceGroup"))) or (_ANY_GROUP,),
        queue_delay_us=None if batching is None else 0 if delay is None else delay.whole(),
        cpu_only=cpu_only is not None and cpu_only.flag(),
    )


_ANY_GROUP = InstanceGroup(None, 1, None)


def _group(group: Field) -> InstanceGroup:
    kind, count, gpus = group.get("kind"), group.get("count"), group.get("gpus")
    return InstanceGroup(
        kind=None if kind is None else kind.text(),
        count=1 if count is None else count.whole(least=1),
        gpus=None if gpus is None else len(gpus.items()),
    )


def _measured(found: Field) -> Measured:
    return Measured(
        variant_name=_text(found.get("_model_variants_name")),
        clients=tuple(_client(each) for each in found["_model_config_measurements"].items()),
        gpus={uuid: _metrics(values) for uuid, values in found["_gpu_data"].entries()},
    )


def _client(found: Field) -> Client:
    load = found["_model_specific_pa_params"]
    concurrency, rate = load.get("concurrency-range"), load.get("request-rate-range")
    if (concurrency is None) == (rate is None):
        raise load.error("either concurrency-range or request-rate-range is needed")
    return Client(
        where=found.where,
        batch_size=load["batch-size"].whole(least=1),
        concurrency=None if concurrency is None else concurrency.whole(least=1),
        request_rate=None if rate is None else rate.number(),
        metrics=_metrics(found["_non_gpu_data"]),
    )


def _metrics(found: Field) -> Metrics:
    pairs = (each.pair() for each in found.items())
    return {tag.text(): record["_value"].number() for tag, record in pairs}


def _listed(found: Field | None) -> list[Field]:
    return [] if found is None else found.items()


def _text(found: Field | None) -> str:
    return "" if found is None else found.text()
