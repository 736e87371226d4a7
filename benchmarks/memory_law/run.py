"""The memory of models together in one server: what profiles measured alone predict, beside what is measured.

    python benchmarks/memory_law/run.py [--json cases.json]

Needs what `planner doctor --install-triton` sets up. Prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from planner.domain.profile import SERVER_ROW
from planner.domain.serving import LoadMode, LoadSpec
from planner.emit import config_pbtxt
from planner.store.database import open_store
from planner.workflow.measured_models import facts
from planner.workflow.measured_server import write_configured
from profiler.cache import cache_directory
from profiler.devices.cpu import CpuDevice
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.measure import measure
from profiler.overheads import backend_row_name
from profiler.points import Configuration, MeasureRequest, ModelFacts
from profiler.precision import Precision
from profiler.running import RunningModels, Tools
from profiler.server.find import find_triton
from profiler.server.local import LocalTriton

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
DEVICE = "cpu-1"
CONCURRENCY = 4
HOT_S, WARMUP_S, SECONDS = 1.5, 0.5, 2.0
GOAL = 0.05
MIB = 1024 * 1024
Together = tuple[ModelFacts, ...]


@dataclass(frozen=True)
class Profile:
    """The memory of the server, of its backend, and by model."""

    base_bytes: int
    backend_bytes: int
    hot_bytes: Mapping[str, int]

    def law_bytes(self, names: Sequence[str]) -> int:
        return self.base_bytes + self.backend_bytes + sum(self.hot_bytes[name] for name in names)


@dataclass(frozen=True)
class Case:
    names: str
    predicted_bytes: int
    added_bytes: int
    rounds_bytes: tuple[int, ...]

    @property
    def error(self) -> float:
        return self.predicted_bytes / max(self.rounds_bytes) - 1

    def line(self) -> str:
        measured_bytes = max(self.rounds_bytes)
        added = self.added_bytes / measured_bytes - 1
        return (
            f"| {self.names} | {self.predicted_bytes / MIB:.1f} | {measured_bytes / MIB:.1f} "
            f"| {self.error:+.1%} | {added:+.0%} |"
        )


class Bench:
    def __init__(self, models: Sequence[ModelFacts], scratch: Path) -> None:
        self.models = models
        self.scratch = scratch
        cores = sorted(os.sched_getaffinity(0))
        self._server_cores, others = cores[:1], cores[1:] or cores
        self._installation = find_triton()
        self.load = BuiltinLoadGenerator(others)
        self.tools = Tools(self._start, self.load, write_configured, CpuDevice(1, frozenset(others)))

    def _start(self, repository: Path) -> LocalTriton:
        log = self.scratch / "triton.log"
        return LocalTriton.start(self._installation, repository, cores=self._server_cores, gpu_uuid="", log_path=log)

    def profile(self) -> Profile:
        """By a sweep as `planner measure` makes it, every model alone."""
        request = MeasureRequest(
            models=self.models,
            device=DEVICE,
            server_version="",
            instances=(1,),
            max_batch_sizes=(max(model.max_batch_size for model in self.models),),
            concurrency=(CONCURRENCY,),
            load_fractions=(),
            min_window_s=SECONDS,
            max_window_s=SECONDS,
            precision=Precision(max_windows=1),
        )
        store = open_store("sqlite://")
        summary = measure(request, store, self.tools)
        hot_bytes = {row.model: row.memory_bytes or 0 for row in store.rows()}
        store.close()
        if not summary.complete:
            raise SystemExit(f"the sweep is not complete: {summary.failed}")
        return Profile(hot_bytes[SERVER_ROW], hot_bytes[backend_row_name("python")], hot_bytes)

    def hot_bytes(self, together: Together) -> int:
        """The server's peak with every model under the loads of its profile, at the same time; they last longer in
        proportion, so that each model serves about as much as alone."""
        count = len(together)
        with RunningModels(self.tools, {model: _own(model) for model in together}) as running:
            for batch_size, seconds, concurrency in ((None, HOT_S, 2), (1, WARMUP_S + SECONDS, CONCURRENCY)):
                specs = [
                    LoadSpec(
                        model.name,
                        LoadMode.CLOSED,
                        seconds * count,
                        concurrency=concurrency,
                        request_batch_size=batch_size or max(1, model.max_batch_size),
                    )
                    for model in together
                ]
                self.load.run(running.server, specs)
            return running.peak_bytes() or 0


def cases_of(models: Sequence[ModelFacts]) -> list[Together]:
    """Every two and every three models."""
    return [chosen for count in (2, 3) for chosen in combinations(models, count)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times that everything is measured; the larger counts")
    parser.add_argument("--json", type=Path, help="also write every case here")
    options = parser.parse_args(arguments)
    repository = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(repository)], check=True, stdout=sys.stderr)
    models = [facts(path.parent) for path in sorted(repository.glob(f"*/{config_pbtxt.CONFIG_NAME}"))]
    with tempfile.TemporaryDirectory(prefix="planner-memory-law-") as scratch:
        bench = Bench(models, Path(scratch))
        profiles = [bench.profile() for _ in range(options.rounds)]
        _print_profiles(models, profiles)
        print("\n| together | predicted MiB | measured MiB | error | each alone, added up |\n|---|---:|---:|---:|---:|")
        cases = []
        for together in cases_of(models):
            cases.append(_case(together, profiles, [bench.hot_bytes(together) for _ in range(options.rounds)]))
            print(cases[-1].line(), flush=True)
    errors = [abs(case.error) for case in cases]
    within = sum(error <= GOAL for error in errors)
    print(f"\n{within} of {len(cases)} within {GOAL:.0%}; median {median(errors):.1%}, largest {max(errors):.1%}")
    if options.rounds > 1:
        spread = median(max(case.rounds_bytes) / min(case.rounds_bytes) - 1 for case in cases)
        widest = max(max(case.rounds_bytes) / min(case.rounds_bytes) - 1 for case in cases)
        print(f"the same case measured again: {spread:.1%} apart (median), {widest:.1%} (largest)")
    if options.json is not None:
        options.json.write_text(json.dumps([{**asdict(case), "error": case.error} for case in cases], indent=1))


def _case(together: Together, profiles: Sequence[Profile], rounds_bytes: Sequence[int]) -> Case:
    names = [model.name for model in together]
    return Case(
        names=", ".join(names),
        predicted_bytes=max(profile.law_bytes(names) for profile in profiles),
        added_bytes=max(sum(profile.law_bytes([name]) for name in names) for profile in profiles),
        rounds_bytes=tuple(rounds_bytes),
    )


def _print_profiles(models: Sequence[ModelFacts], profiles: Sequence[Profile]) -> None:
    rounds = "|".join(["---:"] * len(profiles))
    print(
        f"| MiB, of which | {' | '.join(f'round {number}' for number in range(1, len(profiles) + 1))} |\n|---|{rounds}|"
    )
    print(f"| server | {' | '.join(f'{profile.base_bytes / MIB:.1f}' for profile in profiles)} |")
    print(f"| backend python | {' | '.join(f'{profile.backend_bytes / MIB:.1f}' for profile in profiles)} |")
    for model in models:
        print(f"| {model.name} | {' | '.join(f'{profile.hot_bytes[model.name] / MIB:.1f}' for profile in profiles)} |")


def _own(model: ModelFacts) -> Configuration:
    """One instance, its largest batch."""
    return Configuration(1, model.max_batch_size, model.queue_delay_us)


if __name__ == "__main__":
    main()
