"""Import of a Triton Model Analyzer checkpoint (JSON) as profile rows.

What its numbers mean, checked against the CSV files that Model Analyzer printed from the same checkpoints:
`perf_throughput` counts inferences per second (batch 2 at 32 requests/s gives 64), latencies are in
milliseconds, memory is that of the whole GPU in MB of 1e6 bytes, power in watts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.domain.profile import BACKEND_ROW_PREFIX, SERVER_ROW, ProfileRow, Source
from planner.domain.serving import LoadMode
from planner.errors import InputError, NotFoundError
from planner.inputs.catalogue import catalogue, resolve_type
from planner.inputs.memory_law import BackendOverhead, MemoryLaw, backend_overhead, fit, replica_bytes
from planner.inputs.yaml_file import read_text

MB = 1_000_000
OVERLOADED_BELOW = 0.95

_RESULTS = "ResultManager.results"
_SERVER_ONLY = "ResultManager.server_only_data"
_GPUS = "MetricsManager.gpus"
_BACKEND_OF_PLATFORM = {
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCheckpoint:
    """`laws` and `overheads` say how memory was derived; `notes` what a reader should know."""

    rows: tuple[ProfileRow, ...]
    laws: tuple[MemoryLaw, ...]
    overheads: tuple[BackendOverhead, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Point:
    """One measurement; `row` has no memory yet, `used_bytes` is the whole GPU's."""

    row: ProfileRow
    used_bytes: float


def looks_like_checkpoint(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def read_checkpoint(path: Path) -> ImportedCheckpoint:
    data = _load(path)
    try:
        device, base_bytes = _device(path, data), _server_base_bytes(data)
        points, skipped = _points(path, data, device)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: a Model Analyzer checkpoint of a form that is not known ({error!r})",
            hint="please report it with the version of Model Analyzer that wrote the file",
        ) from error
    if not points:
        reasons = "; ".join(skipped) or "it holds no measurement"
        raise InputError(f"{path}: nothing can be imported: {reasons}")
    return _with_memory(points, device, base_bytes, skipped)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    if not isinstance(data, dict) or _RESULTS not in data:
        raise InputError(f"{path}: not a Model Analyzer checkpoint: {_RESULTS!r} is missing")
    return data


def _device(path: Path, data: Mapping[str, Any]) -> str:
    gpus = data.get(_GPUS) or {}
    names = sorted({str(gpu["name"]) for gpu in gpus.values()})
    if not names:
        raise InputError(f"{path}: it names no GPU; only measurements on a GPU can be imported")
    if len(gpus) > 1:
        raise InputError(
            f"{path}: measured over {len(gpus)} GPUs at once ({', '.join(names)}); a profile is of one device",
            hint="run Model Analyzer with --gpus and one GPU",
        )
    try:
        return resolve_type(names[0], catalogue()).name
    except NotFoundError as error:
        raise NotFoundError(f"{path}: {error.message}", hint=error.hint) from error


def _server_base_bytes(data: Mapping[str, Any]) -> float | None:
    readings = [dict(values) for values in (data.get(_SERVER_ONLY) or {}).values()]
    used = [r["gpu_used_memory"]["_value"] * MB for r in readings if "gpu_used_memory" in r]
    return max(used, default=None)


def _points(path: Path, data: Mapping[str, Any], device: str) -> tuple[list[_Point], list[str]]:
    points: list[_Point] = []
    skipped: list[str] = []
    for model, variants in data[_RESULTS]["_results"].items():
        for variant, (run, measurements) in variants.items():
            why = _refusal(run)
            if why is not None:
                text = f"{model}: {why}"
                if text not in skipped:
                    skipped.append(text)
                continue
            shape = _shape(model, device, run)
            points.extend(_point(f"{path}: {variant}", shape, m) for m in measurements.values())
    return points, skipped


def _refusal(run: Mapping[str, Any]) -> str | None:
    """Why a configuration is no profile of one model on one GPU."""
    configs = run["_model_run_configs"]
    if len(configs) != 1:
        return f"{len(configs)} models were measured together; only a model measured alone is a profile"
    config, cpu_only = _model_config(configs[0])
    if config.get("platform") == "ensemble" or configs[0].get("_composing_config_variants"):
        return "an ensemble; profiles are of its members, measure or import each of them"
    kinds = {group.get("kind", "KIND_AUTO") for group in config.get("instanceGroup", [])}
    if cpu_only or "KIND_CPU" in kinds:
        return "it ran on the CPU, and the checkpoint does not say on how many cores"
    return None


def _model_config(run_config: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Older checkpoints carry the configuration itself, newer ones a variant around it."""
    if "_model_config_variant" in run_config:
        variant = run_config["_model_config_variant"]
        return variant["model_config"], bool(variant.get("cpu_only"))
    config = run_config["_model_config"]
    return config, bool(config.get("cpu_only"))


def _shape(model: str, device: str, run: Mapping[str, Any]) -> ProfileRow:
    """The row's configuration; the load point comes from each measurement."""
    config, _ = _model_config(run["_model_run_configs"][0])
    platform = config.get("platform", "")
    batching = config.get("dynamicBatching")
    groups = config.get("instanceGroup") or [{}]
    return ProfileRow(
        model=model,
        device=device,
        backend=config.get("backend") or _BACKEND_OF_PLATFORM.get(platform, platform),
        instances=sum(int(group.get("count", 1)) for group in groups),
        max_batch_size=int(config.get("maxBatchSize", 0)),
        queue_delay_us=None if batching is None else int(batching.get("maxQueueDelayMicroseconds", 0)),
        load_generator="perf_analyzer",
        source=Source.IMPORTED.value,
    )


def _point(where: str, shape: ProfileRow, measurement: Mapping[str, Any]) -> _Point:
    (own,) = measurement["_model_config_measurements"]
    load, client = own["_model_specific_pa_params"], _values(own["_non_gpu_data"])
    (gpu,) = (_values(values) for values in measurement["_gpu_data"].values())
    batch = int(load["batch-size"])
    concurrency, offered = load.get("concurrency-range"), load.get("request-rate-range")
    if (concurrency is None) == (offered is None):
        raise InputError(f"{where}: a measurement needs either a concurrency or a request rate, got {dict(load)}")
    rate_rps = client["perf_throughput"] / batch
    row = replace(
        shape,
        load=LoadMode.CLOSED if offered is None else LoadMode.OPEN,
        request_batch_size=batch,
        concurrency=None if concurrency is None else int(concurrency),
        offered_rps=None if offered is None else float(offered),
        rate_rps=rate_rps,
        latency_mean_ms=client.get("perf_latency_avg"),
        latency_p50_ms=client.get("perf_latency_p50"),
        latency_p90_ms=client.get("perf_latency_p90"),
        latency_p95_ms=client.get("perf_latency_p95"),
        latency_p99_ms=client.get("perf_latency_p99"),
        power_watts=gpu.get("gpu_power_usage"),
        stable=offered is None or rate_rps >= OVERLOADED_BELOW * float(offered),
    )
    return _Point(row, gpu["gpu_used_memory"] * MB)


def _values(tagged: Iterable[Sequence[Any]]) -> dict[str, float]:
    return {tag: float(record["_value"]) for tag, record in tagged}


def _with_memory(
    points: Sequence[_Point], device: str, base_bytes: float | None, skipped: Sequence[str]
) -> ImportedCheckpoint:
    notes = [f"skipped {text}" for text in skipped]
    laws: list[MemoryLaw] = []
    if base_bytes is None:
        notes.append("no server-only reading: memory is not known, each replica will take a whole device")
        rows = [p.row for p in points]
        overheads: list[BackendOverhead] = []
    else:
        laws = [law for law in _laws(points, base_bytes) if law is not None]
        overheads = [backend_overhead(name, laws) for name in sorted({p.row.backend for p in points if p.row.backend})]
        rows = [*_overhead_rows(device, base_bytes, overheads), *_replica_rows(points, base_bytes, laws, overheads)]
    rows, past = _mark_past_the_knee(rows)
    if past:
        notes.append(
            f"{past} of {len(points)} points lie past the knee (less rate at more load): kept, never planned with"
        )
    if all(p.row.request_batch_size == 1 and p.row.queue_delay_us is None for p in points):
        notes.append(
            "all requests had batch size 1 without dynamic batching: memory at larger batches is not in these readings"
        )
    return ImportedCheckpoint(rows=tuple(rows), laws=tuple(laws), overheads=tuple(overheads), notes=tuple(notes))


def _laws(points: Sequence[_Point], base_bytes: float) -> Iterator[MemoryLaw | None]:
    """One law per model, on the highest reading of each instance count: hot memory."""
    readings: dict[tuple[str, str], dict[int, float]] = {}
    for point in points:
        row = point.row
        hot = readings.setdefault((row.model, row.backend), {})
        hot[row.instances] = max(hot.get(row.instances, 0.0), point.used_bytes)
    for (model, backend), hot in readings.items():
        yield fit(model, backend, base_bytes, hot)


def _overhead_rows(device: str, base_bytes: float, overheads: Iterable[BackendOverhead]) -> Iterator[ProfileRow]:
    yield ProfileRow(model=SERVER_ROW, device=device, memory_bytes=int(base_bytes), source=Source.IMPORTED.value)
    for overhead in overheads:
        basis = (
            f"inferred from {' and '.join(overhead.inferred_from)}"
            if overhead.inferred_from
            else "not known: left in the replicas"
        )
        yield ProfileRow(
            model=f"{BACKEND_ROW_PREFIX}{overhead.backend}",
            device=device,
            memory_bytes=overhead.overhead_bytes,
            source=f"{Source.IMPORTED.value}: {basis}",
        )


def _replica_rows(
    points: Sequence[_Point], base_bytes: float, laws: Sequence[MemoryLaw], overheads: Sequence[BackendOverhead]
) -> Iterator[ProfileRow]:
    law_of = {law.model: law for law in laws}
    overhead_of = {overhead.backend: overhead.overhead_bytes for overhead in overheads}
    hottest: dict[object, float] = {}
    for point in points:
        key = point.row.configuration
        hottest[key] = max(hottest.get(key, 0.0), point.used_bytes)
    for point in points:
        row = point.row
        overhead = overhead_of.get(row.backend, 0)
        reading = hottest[row.configuration]
        memory = replica_bytes(law_of.get(row.model), row.instances, reading, base_bytes, overhead)
        yield replace(row, memory_bytes=memory)


def _mark_past_the_knee(rows: Sequence[ProfileRow]) -> tuple[list[ProfileRow], int]:
    """Points with less rate than a point of the same configuration at less load are not stable."""
    groups: dict[object, list[ProfileRow]] = {}
    for row in rows:
        groups.setdefault((row.configuration, row.load), []).append(row)
    marked: list[ProfileRow] = []
    for group in groups.values():
        for row in sorted(group, key=_load_level):
            past = any(
                _load_level(other) < _load_level(row) and (other.rate_rps or 0.0) > (row.rate_rps or 0.0)
                for other in group
            )
            marked.append(replace(row, stable=row.stable and not past))
    return marked, sum(not row.stable for row in marked)


def _load_level(row: ProfileRow) -> float:
    return row.concurrency or row.offered_rps or 0.0
