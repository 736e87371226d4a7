"""What a Triton tells of its machine on its metrics port, in Prometheus' text format."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException

from planner.domain.serving import Endpoint

_TIMEOUT_S = 2.0
_MOST_BYTES = 16 * 2**20
_GPU = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_gpu_power_usage": "power_watts",
}
_CPU = {
    "nv_cpu_utilization": "utilization",
    "nv_cpu_memory_used_bytes": "memory_used_bytes",
    "nv_cpu_memory_total_bytes": "memory_total_bytes",
}
_LINE = re.compile(r"(?P<name>nv_[cg]pu_\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: -?\d+)?")
_UUID = re.compile(r'gpu_uuid="(?P<uuid>[^"]+)"')


@dataclass(frozen=True, slots=True)
class MachineMetrics:
    """By the names of `_GPU` and `_CPU`: utilization in [0, 1] of the whole device, whoever uses it. What a server does
    not tell is absent; of a MIG device Triton tells nothing."""

    gpus: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)


def metrics_url(endpoint: Endpoint) -> str:
    """Where a server with its ports side by side has them."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"http://{host}:{endpoint.metrics_port}/metrics"


def read_metrics(url: str) -> MachineMetrics:
    """OSError where nobody answers there, ValueError where it is no Triton that does."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_MOST_BYTES).decode(errors="replace")
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except HTTPException as error:
        raise ValueError(f"no HTTP answer: {error!r}") from error
    if "nv_" not in text:
        raise ValueError("the answer has no metrics of a Triton server")
    return parse_metrics(text)


def parse_metrics(text: str) -> MachineMetrics:
    gpus: dict[str, dict[str, float]] = {}
    cpu: dict[str, float] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            value = float(found["value"])
        except ValueError:
            continue
        uuid = _UUID.search(found["labels"] or "")
        if uuid is not None and found["name"] in _GPU:
            gpus.setdefault(uuid["uuid"], {})[_GPU[found["name"]]] = value
        elif found["name"] in _CPU:
            cpu[_CPU[found["name"]]] = value
    return MachineMetrics(gpus, cpu)
