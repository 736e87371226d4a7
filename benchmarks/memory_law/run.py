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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from planner.domain.profile import SERVER_ROW
from planner.domain.serving import LoadMode, LoadSpec
from planner.emit import config_pbtxt
from planner.store.database import open_store
from profiler.cache import cache_directory
from profiler.devices.cpu import CpuDevice
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.measure import measure
from profiler.overheads import backend_row_name
from profiler.points import Configuration, MeasureRequest, ModelFacts, model_digest
from profiler.running import RunningModels, Tools
from profiler.server.find import find_triton
from profiler.server.local import LocalTriton

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
DEVICE = "cpu-1"
CONCURRENCY = 4
HOT_S, WARMUP_S, SECONDS = 1.5, 0.5, 2.0
GOAL = 0.05
MIB = 1024 * 1024
Together = tuple[tuple[ModelFacts, Configuration], ...]


@dataclass(frozen=True)
class Case:
    names: str
    predicted_bytes: int
    measured_bytes: int
    added_bytes: int

    @property
    def error(self) -> float:
        return self.predicted_bytes / self.measured_bytes - 1


class Bench:
    def __init__(self, models: Sequence[ModelFacts], scratch: Path) -> None:
        self.models = models
        self.scratch = scratch
        cores = sorted(os.sched_getaffinity(0))
        self._server_cores, others = cores[:1], cores[1:] or cores
        self._installation = find_triton()
        self.load = BuiltinLoadGenerator(others)
        self.tools = Tools(self._start, self.load, _write_repository, CpuDevice(1, frozenset(others)))

    def _start(self, repository: Path) -> LocalTriton:
        log = self.scratch / "triton.log"
        return LocalTriton.start(self._installation, repository, cores=self._server_cores, gpu_uuid="", log_path=log)

    def profiles(self) -> tuple[int, int, Mapping[tuple[str, int, int], int]]:
        """By a sweep as `planner measure` makes it, every model alone: the memory of the server, of its backend, and
        hot of each model by instances and batch size."""
        request = MeasureRequest(
            models=self.models,
            device=DEVICE,
            server_version="",
            instances=(1, 2),
            max_batch_sizes=(1, 4),
            concurrency=(CONCURRENCY,),
            load_fractions=(),
            min_window_s=SECONDS,
            max_window_s=SECONDS,
        )
        store = open_store(f"sqlite:///{self.scratch}/profiles.db")
        summary = measure(request, store, self.tools)
        rows = store.rows()
        store.close()
        if not summary.complete:
            raise SystemExit(f"the sweep is not complete: {summary.failed}")
        memory = {(row.model, row.instances, row.max_batch_size): row.memory_bytes or 0 for row in rows}
        backend = backend_row_name("python")
        return memory[SERVER_ROW, 1, 0], memory[backend, 1, 0], memory

    def hot_bytes(self, together: Together) -> int:
        """The server's peak with every model under the loads of its profile, at the same time; they last longer in
        proportion, so that each model serves about as much as alone."""
        count = len(together)
        with RunningModels(self.tools, dict(together)) as running:
            for batch_size, seconds, concurrency in ((None, HOT_S, None), (1, WARMUP_S + SECONDS, CONCURRENCY)):
                specs = [
                    LoadSpec(
                        model.name,
                        LoadMode.CLOSED,
                        seconds * count,
                        concurrency=concurrency or 2 * configuration.instances,
                        request_batch_size=batch_size or max(1, configuration.max_batch_size),
                    )
                    for model, configuration in together
                ]
                self.load.run(running.server, specs)
            return running.peak_bytes() or 0


def cases_of(models: Sequence[ModelFacts]) -> Iterator[Together]:
    """Every two and every three models with one instance and their largest batch; then two neighbours each, with two
    instances of the first and no batches."""
    for count in (2, 3):
        for chosen in combinations(models, count):
            yield tuple((model, _configuration(model, 1, 4)) for model in chosen)
    for first, second in zip(models, [*models[1:], models[0]], strict=True):
        yield (first, _configuration(first, 2, 1)), (second, _configuration(second, 1, 1))


def _configuration(model: ModelFacts, instances: int, batch: int) -> Configuration:
    size = min(batch, model.max_batch_size)
    return Configuration(instances, size, model.queue_delay_us if size > 1 else None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write every case here")
    options = parser.parse_args(arguments)
    repository = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(repository)], check=True, stdout=sys.stderr)
    models = [_facts(path.parent) for path in sorted(repository.glob(f"*/{config_pbtxt.CONFIG_NAME}"))]
    with tempfile.TemporaryDirectory(prefix="planner-memory-law-") as scratch:
        bench = Bench(models, Path(scratch))
        base_bytes, backend_bytes, alone = bench.profiles()
        print(f"server {base_bytes / MIB:.1f} MiB, backend python {backend_bytes / MIB:.1f} MiB\n")
        print("| model | instances | max batch | hot MiB |\n|---|---:|---:|---:|")
        for (name, instances, batch), size in sorted(alone.items()):
            if not name.startswith("@"):
                print(f"| {name} | {instances} | {batch} | {size / MIB:.1f} |")
        print("\n| together | predicted MiB | measured MiB | error | each alone, added up |\n|---|---:|---:|---:|---:|")
        cases = []
        for together in cases_of(models):
            own_bytes = [alone[model.name, c.instances, c.max_batch_size] for model, c in together]
            case = Case(
                ", ".join(_name(model, c) for model, c in together),
                base_bytes + backend_bytes + sum(own_bytes),
                bench.hot_bytes(together),
                sum(own + base_bytes + backend_bytes for own in own_bytes),
            )
            added = case.added_bytes / case.measured_bytes - 1
            print(
                f"| {case.names} | {case.predicted_bytes / MIB:.1f} | {case.measured_bytes / MIB:.1f} "
                f"| {case.error:+.1%} | {added:+.0%} |",
                flush=True,
            )
            cases.append(case)
    errors = [abs(case.error) for case in cases]
    within = sum(error <= GOAL for error in errors)
    print(f"\n{within} of {len(cases)} within {GOAL:.0%}; median {median(errors):.1%}, largest {max(errors):.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps([{**vars(case), "error": case.error} for case in cases], indent=1))


def _name(model: ModelFacts, configuration: Configuration) -> str:
    return model.name if configuration.instances == 1 else f"{configuration.instances} x {model.name}"


def _facts(path: Path) -> ModelFacts:
    config = config_pbtxt.read_config(path / config_pbtxt.CONFIG_NAME)
    return ModelFacts(
        name=path.name,
        path=path,
        backend=config_pbtxt.backend_name(config),
        max_batch_size=config.max_batch_size,
        queue_delay_us=config_pbtxt.queue_delay_us(config),
        digest=model_digest(path),
    )


def _write_repository(model: ModelFacts, configuration: Configuration, target: Path) -> None:
    config = config_pbtxt.configure(
        config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME),
        instances=configuration.instances,
        max_batch_size=configuration.max_batch_size,
        queue_delay_us=configuration.queue_delay_us,
        kind="KIND_CPU",
    )
    config_pbtxt.write_model(model.path, target / model.name, config)


if __name__ == "__main__":
    main()
