"""The tables that Model Analyzer prints from a checkpoint, as CSV: the same columns, order and rounding.

No constraint stands in a checkpoint, so every measurement satisfies all there are. Configurations come best
throughput first, and so do the measurements of each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from planner.errors import InputError
from planner.inputs.checkpoint_file import Checkpoint, Client, Measured, Metrics, ModelConfig, Variant

INFERENCE_FILE = "metrics-model-inference.csv"
GPU_FILE = "metrics-model-gpu.csv"
SERVER_FILE = "metrics-server-only.csv"

_GPU_COLUMNS = {
    "gpu_used_memory": "GPU Memory Usage (MB)",
    "gpu_utilization": "GPU Utilization (%)",
    "gpu_power_usage": "GPU Power Usage (W)",
}
_CLIENT_COLUMNS = {"perf_throughput": "Throughput (infer/sec)", "perf_latency_p99": "p99 Latency (ms)"}


def tables(checkpoint: Checkpoint) -> dict[str, str]:
    """CSV text by file name; InputError for models that were measured together."""
    variants = list(_sorted(checkpoint))
    load, gpus = _load_column(checkpoint, variants), len(checkpoint.server_only)
    server_only = checkpoint.server_only.items()
    return {
        INFERENCE_FILE: _inference_table(variants, load, gpus),
        GPU_FILE: _gpu_table(variants, load, gpus),
        SERVER_FILE: _text(
            ["Model", "GPU UUID", *_GPU_COLUMNS.values()],
            (["triton-server", uuid, *_figures(values, _GPU_COLUMNS)] for uuid, values in server_only),
        ),
    }


Tabled = tuple[Variant, list[tuple[Measured, Client]]]
"""A configuration and its measurements, best throughput first."""


def _sorted(checkpoint: Checkpoint) -> Iterator[Tabled]:
    for model in dict.fromkeys(variant.model for variant in checkpoint.variants):
        own = [_tabled(checkpoint, v) for v in checkpoint.variants if v.model == model and v.measured]
        # Sorting keeps the order of equals, as Model Analyzer does.
        yield from sorted(own, key=lambda tabled: -_throughput(tabled[1][0]))


def _tabled(checkpoint: Checkpoint, variant: Variant) -> Tabled:
    pairs = [(measured, client) for measured in variant.measured for client in measured.clients]
    if len(variant.configs) != 1 or len(pairs) != len(variant.measured):
        raise InputError(
            f"{checkpoint.path}: {variant.model}: models measured together have no table here",
            hint="import it without --csv",
        )
    return variant, sorted(pairs, key=lambda pair: -_throughput(pair))


def _throughput(pair: tuple[Measured, Client]) -> float:
    return pair[1].metrics.get("perf_throughput", 0.0)


def _load_column(checkpoint: Checkpoint, variants: Iterable[Tabled]) -> str:
    kinds = {client.concurrency is None for _, pairs in variants for _, client in pairs}
    if len(kinds) > 1:
        raise InputError(f"{checkpoint.path}: it holds concurrencies and request rates; a table has one of them")
    return "Request Rate" if kinds == {True} else "Concurrency"


def _inference_table(variants: Iterable[Tabled], load: str, gpus: int) -> str:
    heads = ["Model", "Batch", load, "Model Config Path", "Instance Group", "Max Batch Size", "Satisfies Constraints"]
    rows = (
        [
            variant.model,
            client.batch_size,
            _level(client),
            _path(variant, measured),
            _groups(variant, gpus=gpus),
            ",".join(str(config.max_batch_size) for config in _configs(variant)),
            "Yes",
            *_figures(client.metrics, _CLIENT_COLUMNS),
        ]
        for variant, pairs in variants
        for measured, client in pairs
    )
    return _text([*heads, *_CLIENT_COLUMNS.values()], rows)


def _gpu_table(variants: Iterable[Tabled], load: str, gpus: int) -> str:
    heads = ["Model", "GPU UUID", "Batch", load, "Model Config Path", "Instance Group", "Satisfies Constraints"]
    rows = (
        [
            variant.model,
            uuid,
            client.batch_size,
            _level(client),
            _path(variant, measured),
            _groups(variant, gpus=gpus),
            "Yes",
            *_figures(values, _GPU_COLUMNS),
        ]
        for variant, pairs in variants
        if not any(config.cpu_only for config in variant.configs)
        for measured, client in pairs
        for uuid, values in measured.gpus.items()
    )
    return _text([*heads, *_GPU_COLUMNS.values()], rows)


def _configs(variant: Variant) -> Sequence[ModelConfig]:
    """An ensemble has no instances of its own: its members stand in the tables."""
    return variant.members if variant.is_ensemble else variant.configs


def _path(variant: Variant, measured: Measured) -> str:
    members = ", ".join(member.variant_name for member in variant.members) if variant.is_ensemble else ""
    return f"{measured.variant_name}: {members}" if members else measured.variant_name


def _groups(variant: Variant, *, gpus: int) -> str:
    return ",".join(_group(config, gpus) for config in _configs(variant))


def _group(config: ModelConfig, gpus: int) -> str:
    """ "2:GPU + 1:CPU"; a group of KIND_GPU has its count on each of its GPUs."""
    counts: dict[str, int] = {}
    for group in config.groups:
        kind = "GPU" if group.kind is None else group.kind.removeprefix("KIND_")
        each = (gpus if group.gpus is None else group.gpus) if kind == "GPU" else 1
        counts[kind] = counts.get(kind, 0) + group.count * each
    return " + ".join(f"{count}:{kind}" for kind, count in counts.items())


def _level(client: Client) -> str:
    level = client.concurrency if client.concurrency is not None else client.request_rate
    return f"{level:g}" if isinstance(level, float) else str(level)


def _figures(values: Metrics, columns: Iterable[str]) -> list[str]:
    """Model Analyzer rounds as Python does; what was not measured stays empty."""
    return [str(round(values[tag], 1)) if tag in values else "" for tag in columns]


def _text(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()
