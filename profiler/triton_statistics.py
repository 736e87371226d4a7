"""What Triton's statistics extension counted over a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.errors import ServerError

_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
_FIELDS = (
    *("inference_count", "execution_count", "executed_batch_mean", "batches"),
    *(f"{part}_ms" for part in _PARTS),
)


def statistics_delta(before: Mapping[str, Any] | ServerError, after: Mapping[str, Any] | ServerError) -> dict[str, Any]:
    """What Triton counted between two readings of the statistics extension, over all versions.

    Mean times per request in milliseconds (queue and the three parts of compute), `batches` executed by size,
    and their mean. The run's own warm-up is part of it. Where a reading failed all is None, and `unknown` says why.
    """
    if isinstance(before, ServerError):
        return _unknown(before)
    if isinstance(after, ServerError):
        return _unknown(after)
    old, new = _totals(before), _totals(after)
    delta = {name: new[name] - old.get(name, 0) for name in new}
    batches = {name.removeprefix("batch_"): count for name, count in delta.items() if name.startswith("batch_")}
    executions = delta["execution_count"]
    return {
        "inference_count": delta["inference_count"],
        "execution_count": executions,
        "executed_batch_mean": delta["inference_count"] / executions if executions > 0 else None,
        "batches": {size: count for size, count in batches.items() if count > 0},
        **{f"{part}_ms": _mean_ms(delta, part) for part in _PARTS},
    }


def _unknown(error: ServerError) -> dict[str, Any]:
    return dict.fromkeys(_FIELDS) | {"unknown": error.message}


def _totals(statistics: Mapping[str, Any]) -> dict[str, int]:
    totals: dict[str, int] = {"inference_count": 0, "execution_count": 0}

    def add(name: str, value: Any) -> None:
        totals[name] = totals.get(name, 0) + int(value)

    for version in statistics["model_stats"]:
        add("inference_count", version.get("inference_count", 0))
        add("execution_count", version.get("execution_count", 0))
        for part in _PARTS:
            duration = version.get("inference_stats", {}).get(part, {})
            add(f"{part}_count", duration.get("count", 0))
            add(f"{part}_ns", duration.get("ns", 0))
        for batch in version.get("batch_stats", []):
            add(f"batch_{batch['batch_size']}", batch["compute_infer"]["count"])
    return totals


def _mean_ms(delta: Mapping[str, int], part: str) -> float | None:
    count = delta.get(f"{part}_count", 0)
    return delta[f"{part}_ns"] / count / 1e6 if count > 0 else None
