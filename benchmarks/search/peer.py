"""Triton Model Analyzer on the same model, server and search space: what it takes and what it finds.

It runs as its users run it beside a server of their own: remote mode, over the repository API, with perf_analyzer.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import again

from profiler.load.perf_analyzer_binary import find_perf_analyzer
from profiler.points import ModelFacts

INFERENCE = "metrics-model-inference.csv"
CONCURRENCY = 128
_BEGUN = re.compile(r"Profiling .*concurrency=|Profiling \S+: client batch size")


@dataclass(frozen=True)
class PeerRun:
    """`points` it has figures of, of the `begun` ones. `said` is the end of its log where it ended with an error."""

    model: str
    seconds: float
    begun: int
    points: int
    best_rps: float
    best: str
    winner: again.Winner | None
    code: int
    said: str = ""

    @property
    def lost(self) -> int:
        return max(0, self.begun - self.points)


def read(kept: Path) -> PeerRun:
    """One that was written as JSON."""
    found = json.loads(kept.read_text())
    return PeerRun(**{**found, "winner": found["winner"] and again.Winner(**found["winner"])})


def run(program: Path, search: str, model: ModelFacts, bench: Any, scratch: Path) -> PeerRun:
    """A server over the repository that it writes its variants to, and one search with it."""
    variants, results = scratch / f"variants-{model.name}", scratch / f"results-{model.name}"
    variants.mkdir()
    results.mkdir()
    wrapper = scratch / "perf_analyzer"
    binary = find_perf_analyzer()
    cores = ",".join(map(str, bench.cores[1:] or bench.cores))
    wrapper.write_text(f'#!/bin/sh\nexec taskset -c {cores} {shlex.join(binary.command)} "$@"\n')
    wrapper.chmod(0o755)
    log = scratch / f"model-analyzer-{model.name}.log"
    # over gRPC it cannot read the index of an empty repository, so the server has that of the model, too
    with bench.start(variants, model.path.parent) as server:
        asked = _config(search, model, bench.options, server.endpoint, wrapper, variants, results)
        config = results / "config.yaml"
        config.write_text(json.dumps(asked))
        begin = time.monotonic()
        with log.open("w") as output:
            command = [str(program), "profile", "-f", str(config)]
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=results, check=False)
        seconds = time.monotonic() - begin
    said = log.read_text(errors="replace")
    table = next(results.rglob(INFERENCE), None)
    rows = [] if table is None else list(csv.DictReader(table.open()))
    best = max(rows, key=lambda row: float(row["Throughput (infer/sec)"]), default=None)
    return PeerRun(
        model=model.name,
        seconds=seconds,
        begun=len(_BEGUN.findall(said)),
        points=len(rows),
        best_rps=0.0 if best is None else float(best["Throughput (infer/sec)"]),
        best="" if best is None else f"{_count(best)} x {best['Max Batch Size']}, concurrency {best['Concurrency']}",
        winner=None if best is None else _winner(best),
        code=done.returncode,
        said="" if rows else "\n".join(said.splitlines()[-12:]),
    )


def _config(
    search: str, model: ModelFacts, options: Any, endpoint: Any, perf_analyzer: Path, variants: Path, results: Path
) -> dict[str, Any]:
    host = f"{endpoint.host}"
    return {
        "model_repository": str(model.path.parent),
        "output_model_repository_path": str(variants),
        "override_output_model_repository": True,
        "checkpoint_directory": str(results / "checkpoints"),
        "export_path": str(results),
        "triton_launch_mode": "remote",
        "triton_grpc_endpoint": f"{host}:{endpoint.grpc_port}",
        "triton_http_endpoint": f"{host}:{endpoint.http_port}",
        "triton_metrics_url": f"http://{host}:{endpoint.metrics_port}/metrics",
        "client_protocol": "grpc",
        "perf_analyzer_path": str(perf_analyzer),
        "run_config_search_mode": search,
        "run_config_search_min_instance_count": min(options.instances),
        "run_config_search_max_instance_count": max(options.instances),
        "run_config_search_min_model_batch_size": min(options.batches),
        "run_config_search_max_model_batch_size": max(options.batches),
        "run_config_search_min_concurrency": 1,
        "run_config_search_max_concurrency": CONCURRENCY,
        "skip_detailed_reports": True,
        "inference_output_fields": [
            *("model_name", "batch_size", "concurrency", "model_config_path", "instance_group", "max_batch_size"),
            *("perf_throughput", "perf_latency_p99"),
        ],
        "profile_models": {model.name: {"cpu_only": True, "perf_analyzer_flags": _shapes(model)}},
    }


def _shapes(model: ModelFacts) -> dict[str, Any]:
    """perf_analyzer knows no warm-up of the model's: a size that is left open has to be told."""
    from planner.emit import config_pbtxt
    from profiler.load.tensors import input_shape

    config = config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME)
    shapes = {tensor.name: input_shape(config, tensor, {}) for tensor in config.input if -1 in tensor.dims}
    return {"shape": [f"{name}:{','.join(map(str, dims))}" for name, dims in shapes.items()]} if shapes else {}


def _count(row: Mapping[str, str]) -> str:
    found = re.match(r"\d+", row["Instance Group"])
    return found[0] if found else "?"


def _winner(row: Mapping[str, str]) -> again.Winner:
    batch = int(row["Max Batch Size"])
    # it writes `dynamic_batching {}`, which waits for nothing
    return again.Winner(int(_count(row)), batch, 0 if batch > 1 else None, int(row["Concurrency"]))


def print_table(runs: Sequence[PeerRun], ours: Sequence[Mapping[str, Any]]) -> None:
    print("\n| model | search | minutes | points | lost | best req/s | again |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for peer, run in zip(runs, ours, strict=True):
        found = [
            ("Planner, auto", run["auto"]["seconds"], run["auto"]["points"], run["auto"]["failed"], run["auto"]),
            ("Planner, grid", run["grid"]["seconds"], run["grid"]["points"], run["grid"]["failed"], run["grid"]),
            ("Model Analyzer", peer.seconds, peer.points, peer.lost, asdict(peer)),
        ]
        for (name, seconds, points, lost, best), rate_rps in zip_longest(found, run["again_rps"]):
            cells = [name, f"{seconds / 60:.1f}", points, lost, f"{best['best_rps']:.0f} ({best['best']})"]
            print(
                f"| {peer.model} | {' | '.join(map(str, cells))} | {'-' if rate_rps is None else f'{rate_rps:.0f}'} |"
            )
    for peer in runs:
        if peer.said:
            print(f"\nModel Analyzer on {peer.model} ended with {peer.code}:\n{peer.said}")
