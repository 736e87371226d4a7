"""The built-in load generator, perf_analyzer alone, and Planner's measurement, on one running server.

    python benchmarks/load_generators/run.py [--rounds 3] [--models file_type ...] [--json runs.json]

Needs what `planner doctor --install-triton --install-perf-analyzer` sets up. Prints the tables of the README.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from planner.domain.serving import Endpoint, LoadMode, LoadSpec
from planner.domain.statistics import percentile, samples_needed
from planner.store.database import open_store
from planner.workflow.measured_models import facts
from profiler.cache import cache_directory
from profiler.devices.cpu import CpuDevice
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary, find_perf_analyzer
from profiler.load.preferred import PreferredLoadGenerator
from profiler.load.requests import inferences, input_data_file
from profiler.measure import measure
from profiler.points import MeasureRequest
from profiler.precision import Precision
from profiler.running import Tools
from profiler.server.client import ControlClient
from profiler.server.find import find_triton
from profiler.server.local import LocalTriton

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
MODELS = ("text_direction", "file_type", "speech_activity")
CONCURRENCIES = (2, 8)
SHARE_OF_CAPACITY = 0.4
PROBE_S = 3.0
SECONDS = (6.0, 65.0)
WARMUP_S = 1.0
FIGURES = ("rate_rps", "p99_ms")
RATE_GOAL, P99_GOAL = 0.10, 0.25
ALONE, MEASURE, BUILTIN = "perf_analyzer alone", "planner measure", "built-in"


@dataclass(frozen=True)
class Seen:
    """`requests` is how many the figures rest on; `p99_ms` is None where they are too few for it."""

    rate_rps: float
    p99_ms: float | None
    requests: int
    client_bound: bool = False


@dataclass(frozen=True)
class Point:
    """A load and how long it lasts; one of `concurrency` and `rate_rps`."""

    seconds: float
    concurrency: int | None = None
    rate_rps: float | None = None

    @property
    def name(self) -> str:
        return f"closed, {self.concurrency}" if self.rate_rps is None else f"Poisson, {self.rate_rps:.0f}/s"

    def spec(self, model: str) -> LoadSpec:
        mode = LoadMode.CLOSED if self.rate_rps is None else LoadMode.OPEN
        return LoadSpec(model, mode, self.seconds, self.concurrency, self.rate_rps, warmup_seconds=WARMUP_S)


class SharedServer:
    """The running server for a sweep that would start one of its own, with the configuration that it has."""

    def __init__(self, server: LocalTriton) -> None:
        self._server = server
        self.pid = server.pid

    @property
    def endpoint(self) -> Endpoint:
        return self._server.endpoint

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """It is loaded."""

    def statistics(self, model: str) -> Mapping[str, object]:
        return self._server.statistics(model)

    def raise_if_ended(self) -> None:
        self._server.raise_if_ended()

    def log_tail(self, lines: int = 20) -> str:
        return self._server.log_tail(lines)

    def close(self) -> None:
        """It stays."""


class Bench:
    def __init__(self, server: LocalTriton, repository: Path, binary: PerfAnalyzerBinary, cores: Sequence[int]) -> None:
        self.server = server
        self.repository = repository
        self.binary = binary
        self.cores = tuple(cores)

    def points(self, model: str) -> list[Point]:
        """As long as a p99 needs, from a short probe."""
        probes = [Point(PROBE_S, concurrency=concurrency) for concurrency in CONCURRENCIES]
        capacities = [self.builtin(model, probe).rate_rps for probe in probes]
        open_rps = float(math.floor(SHARE_OF_CAPACITY * max(capacities)))
        closed = [Point(_seconds(rate), concurrency=c) for c, rate in zip(CONCURRENCIES, capacities, strict=True)]
        return [*closed, Point(_seconds(open_rps), rate_rps=open_rps)]

    def builtin(self, model: str, point: Point) -> Seen:
        [result] = BuiltinLoadGenerator(self.cores).run(self.server, [point.spec(model)])
        p99_ms = percentile(result.latency_s, 99) * 1e3
        return Seen(result.answered / result.seconds, p99_ms, result.answered, result.client_bound)

    def alone(self, model: str, point: Point) -> Seen:
        """perf_analyzer as it is typed: three windows, its own report, its own Poisson arrivals."""
        client = ControlClient(self.server.endpoint, local=True)
        config = client.model_config(model)
        client.close()
        with tempfile.TemporaryDirectory() as scratch:
            data, report = Path(scratch, "requests.json"), Path(scratch, "report.csv")
            streams = inferences(config, point.spec(model), np.random.default_rng(0))
            data.write_text(input_data_file(streams, stateful=False))
            load = ["--concurrency-range", f"{point.concurrency}:{point.concurrency}:1"]
            if point.rate_rps is not None:
                load = ["--request-rate-range", f"{point.rate_rps}", "--request-distribution", "poisson"]
            command = [
                *("taskset", "-c", ",".join(map(str, self.cores)), *self.binary.command),
                *("-m", model, "-i", "grpc", "-u", f"127.0.0.1:{self.server.endpoint.grpc_port}", "--async"),
                *("--input-data", str(data), "--warmup-request-count", "50", *load, "-f", str(report)),
                *("--measurement-interval", str(round(point.seconds * 1000 / 3.6)), "--max-trials", "3"),
                *("--stability-percentage", "1000000", "--verbose-csv"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            [row] = csv.DictReader(report.open())
        count = int(done.stdout.partition("Request count:")[2].split()[0])
        return Seen(float(row["Inferences/Second"]), float(row["p99 latency"]) / 1e3, count)

    def measured(self, model: str, point: Point) -> Seen:
        """A sweep with this one point, as `planner measure` makes it; before an open loop it finds the capacity."""
        one = facts(self.repository / model)
        request = MeasureRequest(
            models=[one],
            device="cpu-1",
            server_version=self.server.server_version,
            instances=(1,),
            max_batch_sizes=(max(1, one.max_batch_size),),
            concurrency=(point.concurrency or CONCURRENCIES[-1],),
            planned_rps={} if point.rate_rps is None else {model: point.rate_rps},
            rate_multiples=(1.0,),
            load_fractions=(),
            min_window_s=point.seconds if point.rate_rps is None else PROBE_S,
            max_window_s=point.seconds,
            precision=Precision(max_windows=1),
        )
        load = PreferredLoadGenerator(
            PerfAnalyzerLoadGenerator(self.binary, self.cores), BuiltinLoadGenerator(self.cores)
        )
        with tempfile.TemporaryDirectory() as scratch:
            store = open_store(f"sqlite:///{scratch}/profiles.db")
            device = CpuDevice(1, frozenset(self.cores))
            tools = Tools(lambda _: SharedServer(self.server), load, lambda *_: None, device)
            summary = measure(request, store, tools)
            rows = [row for row in store.rows(model=model) if row.load is point.spec(model).mode]
            store.close()
        if not summary.complete or len(rows) != 1 or rows[0].load_generator != load.name:
            raise SystemExit(f"{model}, {point.name}: the sweep is not complete: {summary}")
        rate_rps = rows[0].rate_rps or 0.0
        named = "planned" if point.rate_rps is not None else f"concurrency {point.concurrency}:"
        bound = any("too slow" in note and named in note for note in summary.notes)
        return Seen(rate_rps, rows[0].latency_p99_ms, round(rate_rps * point.seconds), bound)


def _seconds(rate_rps: float) -> float:
    return min(SECONDS[1], max(SECONDS[0], 1.2 * samples_needed(99) / rate_rps))


@contextmanager
def running(models: Sequence[str]) -> Iterator[Bench]:
    """A server on the first core with all models loaded, the load on the other cores."""
    cores = sorted(os.sched_getaffinity(0))
    repository = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(repository)], check=True, stdout=subprocess.DEVNULL)
    binary, installation = find_perf_analyzer(), find_triton()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        with LocalTriton.start(
            installation, repository, cores=cores[:1], gpu_uuid="", log_path=log, load=models
        ) as server:
            yield Bench(server, repository, binary, cores[1:] or cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, in turn; the best is printed")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--json", type=Path, help="write every run there too")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with running(options.models) as bench:
        for model in options.models:
            for point in bench.points(model):
                for number in range(options.rounds):
                    seen = _turn(bench, model, point, number)
                    figures = {method: asdict(one) for method, one in seen.items()}
                    runs.append({"model": model, "load": point.name, "round": number, **figures})
                    if options.json:
                        options.json.write_text(json.dumps(runs, indent=1))
    print_table(runs)


def _turn(bench: Bench, model: str, point: Point, number: int) -> dict[str, Seen]:
    """Every method once; in the next round in another order, so that no drift favours one."""
    methods = {ALONE: bench.alone, MEASURE: bench.measured, BUILTIN: bench.builtin}
    names = list(methods)
    print(f"{model}, {point.name}, round {number + 1}", file=sys.stderr, flush=True)
    return {name: methods[name](model, point) for name in names[number % 3 :] + names[: number % 3]}


def print_table(runs: Sequence[Mapping[str, Any]]) -> None:
    """The best of the rounds, of every method: whatever else runs on the machine only ever slows it down."""
    print("| model | load | req/s alone | measure | built-in | p99 ms alone | measure | built-in | |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    kept = {MEASURE: 0, BUILTIN: 0}
    loads = list(dict.fromkeys((run["model"], run["load"]) for run in runs))
    for model, load in loads:
        same = [run for run in runs if (run["model"], run["load"]) == (model, load)]
        words = []
        for method in kept:
            rate, p99 = (_ratio(same, method, figure) for figure in FIGURES)
            close = abs(rate - 1) <= RATE_GOAL and abs(p99 - 1) <= P99_GOAL
            bound = any(run[method]["client_bound"] for run in same)
            kept[method] += close or bound
            if not close:
                words.append(f"{method} {'client-bound' if bound else 'apart'}")
        cells = [_cell(same, method, figure) for figure in FIGURES for method in (ALONE, *kept)]
        print(f"| {model} | {load} | {' | '.join(cells)} | {', '.join(words)} |")
    for method, count in kept.items():
        print(f"\n{method}: {count} of {len(loads)} within {RATE_GOAL:.0%} of the rate and {P99_GOAL:.0%} of the p99")
    for figure in FIGURES:
        spread = _own_spread(runs, loads, figure)
        print(f"\nperf_analyzer alone, {figure}: its rounds differ by a factor of {spread:.2f} (median over the loads)")


def _best(runs: Sequence[Mapping[str, Any]], method: str, figure: str) -> float:
    """NaN where no round has the figure."""
    known = [run[method][figure] for run in runs if run[method][figure] is not None]
    best = max if figure == "rate_rps" else min
    return float(best(known)) if known else math.nan


def _ratio(runs: Sequence[Mapping[str, Any]], method: str, figure: str) -> float:
    return _best(runs, method, figure) / _best(runs, ALONE, figure)


def _cell(runs: Sequence[Mapping[str, Any]], method: str, figure: str) -> str:
    value = f"{_best(runs, method, figure):.{1 if figure == 'rate_rps' else 2}f}"
    return value if method == ALONE else f"{value} ({_ratio(runs, method, figure):.2f})"


def _own_spread(runs: Sequence[Mapping[str, Any]], loads: Sequence[tuple[str, str]], figure: str) -> float:
    """How far apart the rounds of one and the same method are: what no comparison here can resolve."""
    spreads = []
    for load in loads:
        values = [run[ALONE][figure] for run in runs if (run["model"], run["load"]) == load]
        spreads.append(max(values) / min(values))
    return median(spreads)


if __name__ == "__main__":
    main()
