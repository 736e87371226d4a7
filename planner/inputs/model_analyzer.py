"""A Triton Model Analyzer checkpoint as profile rows.

What its numbers mean was checked against the CSV files that Model Analyzer printed from the same checkpoints;
a rate here counts requests (batch 2 at 32 requests/s is 64 inferences/s there).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.domain.profile import BACKEND_ROW_PREFIX, SERVER_ROW, ProfileRow, Source
from planner.domain.serving import LoadMode
from planner.errors import InputError, NotFoundError
from planner.inputs.catalogue import catalogue, resolve_type
from planner.inputs.checkpoint_file import Checkpoint, Client, Measured, ModelConfig, Variant, read_checkpoint_file
from planner.inputs.imported import ImportedPoint, is_overloaded, knee_note, mark_past_the_knee
from planner.inputs.memory_law import BackendOverhead, MemoryLaw, backend_overhead, fit, replica_bytes

MB = 1_000_000
ENSEMBLE = "ensemble"

_BACKEND_OF_PLATFORM = {
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
_STATISTICS = {
    "queue_ms": "perf_server_queue",
    "compute_input_ms": "perf_server_compute_input",
    "compute_infer_ms": "perf_server_compute_infer",
    "compute_output_ms": "perf_server_compute_output",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCheckpoint:
    """`laws` and `overheads` say how memory was derived; `notes` what a reader should know."""

    points: tuple[ImportedPoint, ...]
    laws: tuple[MemoryLaw, ...]
    overheads: tuple[BackendOverhead, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[ProfileRow, ...]:
        return tuple(point.row for point in self.points)


@dataclass(frozen=True, slots=True)
class _Point:
    """One measurement; `row` has no memory yet, `used_bytes` is the whole GPU's, None where it is not told."""

    row: ProfileRow
    statistics: Mapping[str, object]
    used_bytes: float | None

    def imported(self, memory_bytes: int | None) -> ImportedPoint:
        return ImportedPoint(replace(self.row, memory_bytes=memory_bytes), self.statistics)


def looks_like_checkpoint(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def read_checkpoint(path: Path) -> ImportedCheckpoint:
    return import_checkpoint(read_checkpoint_file(path))


def import_checkpoint(checkpoint: Checkpoint) -> ImportedCheckpoint:
    device = _device(checkpoint)
    points, skipped = _points(checkpoint, device)
    if not points:
        reasons = "; ".join(skipped) or "it holds no measurement"
        raise InputError(f"{checkpoint.path}: nothing can be imported: {reasons}")
    return _with_memory(points, device, _server_base_bytes(checkpoint), skipped)


def _device(checkpoint: Checkpoint) -> str:
    path, names = checkpoint.path, sorted(set(checkpoint.gpus.values()))
    if not names:
        raise InputError(f"{path}: it names no GPU; only measurements on a GPU can be imported")
    if len(checkpoint.gpus) > 1:
        raise InputError(
            f"{path}: measured over {len(checkpoint.gpus)} GPUs at once ({', '.join(names)}); a profile is of one "
            "device",
            hint="run Model Analyzer with --gpus and one GPU",
        )
    try:
        return resolve_type(names[0], catalogue()).name
    except NotFoundError as error:
        raise NotFoundError(f"{path}: {error.message}", hint=error.hint) from error


def _server_base_bytes(checkpoint: Checkpoint) -> float | None:
    readings = checkpoint.server_only.values()
    return max((r["gpu_used_memory"] * MB for r in readings if "gpu_used_memory" in r), default=None)


def _points(checkpoint: Checkpoint, device: str) -> tuple[list[_Point], list[str]]:
    points: list[_Point] = []
    skipped: list[str] = []
    for variant in checkpoint.variants:
        why = _refusal(variant)
        if why is not None:
            text = f"{variant.model}: {why}"
            if text not in skipped:
                skipped.append(text)
            continue
        shape = _shape(variant, device)
        points.extend(_point(shape, measured, checkpoint.path) for measured in variant.measured)
    return points, skipped


def _refusal(variant: Variant) -> str | None:
    """Why a configuration is no profile of one model, or of one ensemble, on one GPU."""
    if len(variant.configs) != 1:
        return f"{len(variant.configs)} models were measured together; only a model measured alone is a profile"
    if any(config.on_cpu for config in (*variant.configs, *variant.members)):
        which = f"{variant.configs[0].variant_name}: " if variant.members else ""
        return f"{which}it ran on the CPU, and the checkpoint does not say on how many cores"
    return None


def _shape(variant: Variant, device: str) -> ProfileRow:
    """The row's configuration; the load point comes from each measurement."""
    (config,) = variant.configs
    members = ", ".join(f"{member.name} {member.instances}" for member in variant.members)
    return ProfileRow(
        model=variant.model,
        device=device,
        backend=ENSEMBLE if variant.is_ensemble else _backend(config),
        instances=config.instances,
        max_batch_size=config.max_batch_size,
        queue_delay_us=config.queue_delay_us,
        load_generator="perf_analyzer",
        source=Source.IMPORTED.value,
        variant=members,
    )


def _backend(config: ModelConfig) -> str:
    return config.backend or _BACKEND_OF_PLATFORM.get(config.platform, config.platform)


def _point(shape: ProfileRow, measured: Measured, path: Path) -> _Point:
    if len(measured.clients) != 1 or len(measured.gpus) > 1:
        found = f"{len(measured.clients)} models and {len(measured.gpus)} GPUs"
        raise InputError(f"{path}: {measured.variant_name}: a measurement is of one model on one GPU, got {found}")
    (client,) = measured.clients
    gpu = next(iter(measured.gpus.values()), {})
    used = gpu.get("gpu_used_memory")
    statistics: dict[str, object] = {
        name: client.metrics[tag] for name, tag in _STATISTICS.items() if tag in client.metrics
    }
    if "gpu_utilization" in gpu:
        statistics["gpu_utilization"] = gpu["gpu_utilization"] / 100
    row = _load(shape, client)
    row = replace(row, power_watts=gpu.get("gpu_power_usage"))
    return _Point(row, statistics, None if used is None else used * MB)


def _load(shape: ProfileRow, client: Client) -> ProfileRow:
    metrics, offered = client.metrics, client.request_rate
    if "perf_throughput" not in metrics:
        known = ", ".join(metrics) or "nothing"
        raise InputError(f"{client.where}._non_gpu_data: 'perf_throughput' is missing; there is {known}")
    rate_rps = metrics["perf_throughput"] / client.batch_size
    return replace(
        shape,
        load=LoadMode.CLOSED if offered is None else LoadMode.OPEN,
        request_batch_size=client.batch_size,
        concurrency=client.concurrency,
        offered_rps=offered,
        rate_rps=rate_rps,
        latency_mean_ms=metrics.get("perf_latency_avg"),
        latency_p50_ms=metrics.get("perf_latency_p50"),
        latency_p90_ms=metrics.get("perf_latency_p90"),
        latency_p95_ms=metrics.get("perf_latency_p95"),
        latency_p99_ms=metrics.get("perf_latency_p99"),
        stable=not is_overloaded(offered, rate_rps),
    )


def _with_memory(
    points: Sequence[_Point], device: str, base_bytes: float | None, skipped: Sequence[str]
) -> ImportedCheckpoint:
    notes = [f"skipped {text}" for text in skipped]
    notes += [
        f"{name}: an ensemble measured as a whole, with the memory of all its members: shown and compared, never "
        "planned with"
        for name in sorted({p.row.model for p in points if p.row.variant})
    ]
    laws: list[MemoryLaw] = []
    if base_bytes is None:
        notes.append("no server-only reading: memory is not known, each replica will take a whole device")
        found = [point.imported(None) for point in points]
        overheads: list[BackendOverhead] = []
    else:
        laws = [law for law in _laws(points, base_bytes) if law is not None]
        backends = sorted({p.row.backend for p in points if p.row.backend and not p.row.variant})
        overheads = [backend_overhead(name, laws) for name in backends]
        found = _with_replica_memory(points, base_bytes, laws, overheads)
        unknown = sum(p.row.memory_bytes is None for p in found)
        if unknown:
            notes.append(f"{unknown} of {len(points)} points have no memory reading: it is not known there")
    found, past = mark_past_the_knee(found)
    if past:
        notes.append(knee_note(past, len(points)))
    if all(p.row.request_batch_size == 1 and p.row.queue_delay_us is None for p in points):
        notes.append(
            "all requests had batch size 1 without dynamic batching: memory at larger batches is not in these readings"
        )
    once = [] if base_bytes is None else [ImportedPoint(row) for row in _overhead_rows(device, base_bytes, overheads)]
    return ImportedCheckpoint(points=(*once, *found), laws=tuple(laws), overheads=tuple(overheads), notes=tuple(notes))


def _laws(points: Sequence[_Point], base_bytes: float) -> Iterator[MemoryLaw | None]:
    """One law per model, on the highest reading of each instance count: hot memory."""
    readings: dict[tuple[str, str], dict[int, float]] = {}
    for point in points:
        row = point.row
        if row.variant or point.used_bytes is None:
            continue
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


def _with_replica_memory(
    points: Sequence[_Point], base_bytes: float, laws: Sequence[MemoryLaw], overheads: Sequence[BackendOverhead]
) -> list[ImportedPoint]:
    law_of = {law.model: law for law in laws}
    overhead_of = {overhead.backend: overhead.overhead_bytes for overhead in overheads}
    hottest: dict[object, float] = {}
    for point in points:
        if point.used_bytes is not None:
            key = point.row.configuration
            hottest[key] = max(hottest.get(key, 0.0), point.used_bytes)

    def memory_bytes(row: ProfileRow) -> int | None:
        reading = hottest.get(row.configuration)
        if reading is None:
            return None
        return replica_bytes(law_of.get(row.model), row.instances, reading, base_bytes, overhead_of.get(row.backend, 0))

    return [point.imported(memory_bytes(point.row)) for point in points]
