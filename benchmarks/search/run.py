"""How few measurements does `planner measure --search auto` need, and what does it miss of an exhaustive grid?

Three real models of examples/cpu, instances 1 to 4, batches 1 to 16, on one core: the grid measures every
configuration in closed and open loop, auto decides for itself. Both start from an empty store, on the same cores,
with the same windows. `--peer` lets NVIDIA's Triton Model Analyzer search the same space on the same server. What each
of them names best is then measured again, in turns. `--keep FOLDER --minutes N` does it in slices.
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

import again
import peer

from planner.domain.profile import Measurement, ProfileRow, by_configuration
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
    """What a search took and found. `best_rps` is its best stable closed-loop rate, `winner` where it was measured."""

    points: int
    configurations: int
    seconds: float
    best_rps: float
    best: str
    winner: again.Winner
    fitted: int
    failed: int


class OutOfTime(Exception):
    """The slice ended; the same command goes on."""


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
    """A server on the first core, the load generator on the others. What was measured stays in `folder`."""

    def __init__(self, options: argparse.Namespace, folder: Path, scratch: Path) -> None:
        self.options = options
        self.cores = sorted(os.sched_getaffinity(0))
        self._folder = folder
        self._scratch = scratch
        self._installation = find_triton()
        self._end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
        generator = self.cores[1:] or self.cores
        load = choose_load_generator(options.load_generator, generator, MeasureReporter(), ANSWER_S)
        device = CpuDevice(1, frozenset(generator), frozenset(self.cores[:1]))
        self._tools = Tools(self.start, load, write_configured, device)

    def start(self, repository: Path, *more: Path) -> LocalTriton:
        return LocalTriton.start(
            self._installation,
            repository,
            cores=self.cores[:1],
            gpu_uuid="",
            log_path=self._scratch / "triton.log",
            extra_args=[f"--model-repository={path}" for path in more],
        )

    def search(self, how: str, model: ModelFacts) -> tuple[Search, list[ProfileRow]]:
        """Raises OutOfTime with what was measured so far in the store."""
        kept = self._folder / f"{how}-{model.name}.json"
        before: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"seconds": 0.0, "done": False}
        store = open_store(f"sqlite:///{self._folder}/{how}-{model.name}.db")
        try:
            if not before["done"]:
                line = Line(f"{model.name}, {how}")
                summary = measure(self._request(how, model, self._left_s()), store, self._tools, line)
                before = {"seconds": before["seconds"] + summary.seconds, "done": not summary.left_out}
                kept.write_text(json.dumps(before))
            if not before["done"]:
                raise OutOfTime
            return _found(store.measurements(model=model.name), before["seconds"]), store.rows(model=model.name)
        finally:
            store.close()

    def peer(self, model: ModelFacts) -> peer.PeerRun:
        kept = self._folder / f"peer-{model.name}.json"
        if not kept.exists():
            self._left_s()
            found = peer.run(self.options.peer, self.options.peer_search, model, self, self._scratch)
            kept.write_text(json.dumps(asdict(found)))
        return peer.read(kept)

    def again(self, model: ModelFacts, winners: Sequence[again.Winner]) -> list[float]:
        """Their rates, measured beside each other."""
        kept = self._folder / f"again-{model.name}.json"
        if not kept.exists():
            self._left_s()
            request = self._request("grid", model, None)
            kept.write_text(json.dumps(again.rates_rps(request, self._tools, model, winners)))
        found: list[float] = json.loads(kept.read_text())
        return found

    def _left_s(self) -> float | None:
        if self._end is None:
            return None
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise OutOfTime
        return left_s

    def _request(self, how: str, model: ModelFacts, budget_s: float | None) -> MeasureRequest:
        options = self.options
        return MeasureRequest(
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
            budget_s=budget_s,
        )


def _found(points: Sequence[Measurement], seconds: float) -> Search:
    worked = [point.row for point in points if point.failure is None]
    measured = [row for row in worked if not row.is_fitted]
    best = max(_closed(measured), key=lambda row: row.rate_rps or 0.0)
    return Search(
        points=len(measured),
        configurations=len(by_configuration(measured)),
        seconds=seconds,
        best_rps=best.rate_rps or 0.0,
        best=best.label,
        winner=again.Winner(best.instances, best.max_batch_size, best.queue_delay_us, best.concurrency or 1),
        fitted=len(worked) - len(measured),
        failed=len(points) - len(worked),
    )


def _closed(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    return [row for row in rows if row.load is LoadMode.CLOSED and row.stable]


def _capacities(rows: Sequence[ProfileRow]) -> dict[object, float]:
    """The best closed-loop rate of every configuration."""
    return {
        group[0].configuration: max((row.rate_rps or 0.0 for row in _closed(group)), default=0.0)
        for group in by_configuration(rows)
    }


def compared(
    model: str, auto: Search, grid: Search, again_rps: Sequence[float], told: list[ProfileRow], truth: list[ProfileRow]
) -> dict[str, Any]:
    """`best`: auto's best rate over the grid's, as each found it; `again`: of the two configurations, measured beside
    each other. `errors`: fitted rate over that of the grid, less 1."""
    known = _capacities(truth)
    return {
        "model": model,
        "auto": asdict(auto),
        "grid": asdict(grid),
        "share_of_points": auto.points / grid.points,
        "best": auto.best_rps / grid.best_rps,
        "again_rps": list(again_rps),
        "again": again_rps[0] / again_rps[1],
        "time": auto.seconds / grid.seconds,
        "errors": [(row.rate_rps or 0.0) / known[row.configuration] - 1 for row in told if row.is_fitted],
    }


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    heads = [
        *("model", "points auto", "grid", "share", "best req/s auto", "grid", "ratio", "again"),
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
            *(f"{run['best']:.1%}", f"{run['again']:.1%}"),
            *(f"{auto['seconds'] / 60:.1f}", f"{grid['seconds'] / 60:.1f}", f"{run['time']:.1%}"),
            *(auto["fitted"], *off),
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    kept = sum(run["share_of_points"] <= SHARE_GOAL for run in runs)
    best = sum(run["again"] >= BEST_GOAL for run in runs)
    print(f"\nat most {SHARE_GOAL:.0%} of the grid's points: {kept} of {len(runs)} models; "
          f"at least {BEST_GOAL:.0%} of its best rate, measured again: {best} of {len(runs)}")  # fmt: skip


def main() -> None:
    options = _options()
    runs: list[dict[str, Any]] = []
    peers: list[peer.PeerRun] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, folder, Path(scratch))
        try:
            for model in prepared(options.models[: options.first], options.batches, Path(scratch, "models")):
                auto, told = bench.search("auto", model)
                grid, truth = bench.search("grid", model)
                winners = [auto.winner, grid.winner]
                if options.peer:
                    peers.append(bench.peer(model))
                    winners += [peers[-1].winner] if peers[-1].winner else []
                runs.append(compared(model.name, auto, grid, bench.again(model, winners), told, truth))
        except OutOfTime:
            sys.exit(f"{options.minutes:g} minutes are over: the same command goes on")
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "peers": [asdict(p) for p in peers]}, indent=1))
    print_table(runs)
    if peers:
        peer.print_table(peers, runs)


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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="what is measured stays there; the same command "
                        "goes on from it")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="begin nothing more after these (with --keep)")
    options = parser.parse_args()
    if options.minutes is not None and options.keep is None:
        parser.error("--minutes needs --keep: else what was measured is lost")
    return options


def _program(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: no such program")
    return Path(found).absolute()


if __name__ == "__main__":
    main()
