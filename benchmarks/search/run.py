"""How few measurements does `planner measure --search auto` need, and what does it miss of an exhaustive grid?

Three real models of examples/cpu, instances 1 to 4, batches 1 to 16, on one core: the grid measures every
configuration in closed and open loop, auto decides for itself. Both start from an empty store, on the same cores,
with the same windows. `--peer` lets NVIDIA's Triton Model Analyzer search the same space on the same server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import peer

from planner.domain.profile import ProfileRow, by_configuration
from planner.domain.serving import LoadMode
from planner.emit import config_pbtxt
from planner.store.database import open_store
from planner.workflow.measured_models import facts
from planner.workflow.measured_server import write_configured
from planner.workflow.measuring import choose_load_generator
from profiler.cache import cache_directory
from profiler.devices.cpu import CpuDevice
from profiler.measure import measure
from profiler.points import Configuration, MeasureRequest, ModelFacts
from profiler.precision import Precision
from profiler.progress import MeasureReporter
from profiler.running import Tools
from profiler.server.find import find_triton
from profiler.server.local import LocalTriton

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
MODELS = ("text_direction", "file_type", "text_recognition")
INSTANCES = (1, 2, 3, 4)
BATCHES = (1, 2, 4, 8, 16)
SHARE_GOAL, BEST_GOAL = 0.20, 0.97
ANSWER_S = 10.0


@dataclass(frozen=True)
class Search:
    """What a search took and found. `best_rps` is its best stable closed-loop rate."""

    points: int
    configurations: int
    seconds: float
    best_rps: float
    best: str
    fitted: int
    failed: int


class Line(MeasureReporter):
    """One line per configuration on standard error, with the time since the start."""

    def __init__(self, what: str) -> None:
        self._what, self._start = what, time.monotonic()

    def configuration(self, model: str, configuration: Configuration, number: int, total: int) -> None:
        elapsed = time.monotonic() - self._start
        print(f"{elapsed:6.0f} s  {self._what}: [{number}/{total}] {configuration}", file=sys.stderr, flush=True)


def prepared(names: Sequence[str], batches: Sequence[int], folder: Path) -> list[ModelFacts]:
    """The example models with a largest batch of the study's."""
    source = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(source)], check=True, stdout=subprocess.DEVNULL)
    found = []
    for name in names:
        config = config_pbtxt.read_config(source / name / config_pbtxt.CONFIG_NAME)
        config.max_batch_size = max(batches)
        config_pbtxt.write_model(source / name, folder / name, config)
        found.append(facts(folder / name))
    return found


class Bench:
    """A server on the first core, the load generator on the others."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.cores = sorted(os.sched_getaffinity(0))
        self.installation = find_triton()

    def start(self, repository: Path, *more: Path) -> LocalTriton:
        return LocalTriton.start(
            self.installation,
            repository,
            cores=self.cores[:1],
            gpu_uuid="",
            log_path=self.scratch / "triton.log",
            extra_args=[f"--model-repository={path}" for path in more],
        )

    def search(self, how: str, model: ModelFacts) -> tuple[Search, list[ProfileRow]]:
        options = self.options
        request = MeasureRequest(
            models=[model],
            device="cpu-1",
            server_version="benchmark",
            search="auto" if how == "auto" else "grid",
            instances=options.instances,
            max_batch_sizes=options.batches,
            min_window_s=options.window[0],
            max_window_s=options.window[1],
            percentiles={model.name: options.percentile},
            precision=Precision(max_windows=options.windows),
        )
        generator = self.cores[1:] or self.cores
        load = choose_load_generator(options.load_generator, generator, MeasureReporter(), ANSWER_S)
        device = CpuDevice(1, frozenset(generator), frozenset(self.cores[:1]))
        store = open_store(f"sqlite:///{self.scratch}/{how}-{model.name}.db")
        summary = measure(
            request, store, Tools(self.start, load, write_configured, device), Line(f"{model.name}, {how}")
        )
        rows = store.rows(model=model.name)
        store.close()
        measured = [row for row in rows if not row.is_fitted]
        best = max(_closed(measured), key=lambda row: row.rate_rps or 0.0)
        found = Search(
            points=summary.measured,
            configurations=len(by_configuration(measured)),
            seconds=summary.seconds,
            best_rps=best.rate_rps or 0.0,
            best=best.label,
            fitted=summary.fitted,
            failed=len(summary.failed),
        )
        return found, rows


def _closed(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    return [row for row in rows if row.load is LoadMode.CLOSED and row.stable]


def _capacities(rows: Sequence[ProfileRow]) -> dict[object, float]:
    """The best closed-loop rate of every configuration."""
    return {
        group[0].configuration: max((row.rate_rps or 0.0 for row in _closed(group)), default=0.0)
        for group in by_configuration(rows)
    }


def compared(model: str, auto: Search, grid: Search, told: list[ProfileRow], truth: list[ProfileRow]) -> dict[str, Any]:
    """`best`: what auto found over the grid's best; `best_in_grid`: the same configuration's rate in the grid, which no
    drift between the two runs can change. `errors`: fitted rate over that of the grid, less 1."""
    known = _capacities(truth)
    chosen = max(_closed([r for r in told if not r.is_fitted]), key=lambda row: row.rate_rps or 0.0)
    errors = [(row.rate_rps or 0.0) / known[row.configuration] - 1 for row in told if row.is_fitted]
    return {
        "model": model,
        "auto": asdict(auto),
        "grid": asdict(grid),
        "share_of_points": auto.points / grid.points,
        "best": auto.best_rps / grid.best_rps,
        "best_in_grid": known[chosen.configuration] / grid.best_rps,
        "time": auto.seconds / grid.seconds,
        "errors": errors,
    }


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    heads = [
        *("model", "points auto", "grid", "share", "best req/s auto", "grid", "ratio", "in the grid"),
        *("minutes auto", "grid", "ratio", "fitted", "off, median", "worst"),
    ]
    print(f"| {' | '.join(heads)} |")
    print(f"|---|{'---:|' * (len(heads) - 1)}")
    for run in runs:
        auto, grid, errors = run["auto"], run["grid"], [abs(error) for error in run["errors"]]
        off = (f"{median(errors):.1%}", f"{max(errors):.1%}") if errors else ("-", "-")
        cells = [
            *(run["model"], auto["points"], grid["points"], f"{run['share_of_points']:.1%}"),
            *(f"{auto['best_rps']:.0f} ({auto['best']})", f"{grid['best_rps']:.0f} ({grid['best']})"),
            *(f"{run['best']:.1%}", f"{run['best_in_grid']:.1%}"),
            *(f"{auto['seconds'] / 60:.1f}", f"{grid['seconds'] / 60:.1f}", f"{run['time']:.1%}"),
            *(auto["fitted"], *off),
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    kept = sum(run["share_of_points"] <= SHARE_GOAL for run in runs)
    best = sum(min(run["best"], run["best_in_grid"]) >= BEST_GOAL for run in runs)
    print(f"\nat most {SHARE_GOAL:.0%} of the grid's points: {kept} of {len(runs)} models; "
          f"at least {BEST_GOAL:.0%} of its best rate: {best} of {len(runs)}")  # fmt: skip


def main() -> None:
    options = _options()
    begin = time.monotonic()
    runs: list[dict[str, Any]] = []
    peers: list[peer.PeerRun] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        for model in prepared(options.models[: options.first], options.batches, Path(scratch, "models")):
            auto, told = bench.search("auto", model)
            grid, truth = bench.search("grid", model)
            runs.append(compared(model.name, auto, grid, told, truth))
            if options.peer:
                peers.append(peer.run(options.peer, options.peer_search, model, bench, Path(scratch)))
            if options.json:
                options.json.write_text(json.dumps({"runs": runs, "peers": [asdict(p) for p in peers]}, indent=1))
    print_table(runs)
    if peers:
        peer.print_table(peers, [(run["auto"], run["grid"]) for run in runs])
    print(f"\n{(time.monotonic() - begin) / 60:.1f} minutes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--first", type=int, default=len(MODELS), metavar="N", help="only the first N of the models")
    parser.add_argument("--instances", nargs="+", type=int, default=list(INSTANCES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--window", nargs=2, type=float, default=[2.0, 8.0], metavar=("MIN", "MAX"), help="in seconds")
    parser.add_argument("--windows", type=int, default=1, help="windows per point, where one is not sure enough")
    parser.add_argument("--percentile", type=float, default=95, help="what the open loop's windows must support")
    parser.add_argument("--load-generator", choices=["auto", "perf_analyzer", "builtin"], default="auto")
    parser.add_argument("--peer", metavar="PROGRAM", type=_program, help="model-analyzer, of an environment of its own")
    parser.add_argument("--peer-search", choices=["brute", "quick"], default="quick")
    parser.add_argument("--json", type=Path, help="write every figure there too")
    return parser.parse_args()


def _program(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: no such program")
    return Path(found).absolute()


if __name__ == "__main__":
    main()
