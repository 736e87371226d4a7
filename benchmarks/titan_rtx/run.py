"""GPUs for two real models: GPUs of their own as Model Analyzer's answer suggests, against one shared plan.

    python benchmarks/titan_rtx/run.py [CHECKPOINT] [--svg FILE]

CHECKPOINT is Model Analyzer's own `examples/resnet50_libtorch` checkpoint; without it the file below
PLANNER_SHARED is read. Prints the tables; --svg draws the shared plan for eight services.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path
from statistics import median

from planner.build import BuildSettings, build
from planner.domain.derive import Origin, derive_plan
from planner.domain.problem import Objective, Problem, Settings
from planner.domain.profile import ProfileRow
from planner.domain.workload import ModelDemand, Workload
from planner.inputs.fleet import fleet_from_counts
from planner.inputs.memory_law import MemoryLaw
from planner.inputs.model_analyzer import ImportedCheckpoint, read_checkpoint
from planner.report.fleet_map import standalone_svg
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult

CHECKPOINT = Path("data/model_analyzer/resnet50_libtorch/0.ckpt")
RESNET, VGG = "resnet50_libtorch", "vgg19_libtorch"
SHORT = {RESNET: "resnet50", VGG: "vgg19"}
BOUND_MS = 50.0
RATES = list(product((100, 250, 400, 550), (60, 180, 300)))
SERVICES = (1, 2, 4, 8)
SERVICES_DRAWN = 4
RATE_OF_A_SERVICE = {RESNET: 40.0, VGG: 20.0}
FLEET = "16xTITAN-RTX"
SECONDS = 10.0
MB = 1_000_000


def best_throughput(rows: Iterable[ProfileRow], model: str, bound_ms: float) -> float:
    """What Model Analyzer answers: the largest measured rate of one model on one GPU within the bound."""
    return max(
        row.rate_rps or 0.0
        for row in rows
        if row.model == model and row.latency_p99_ms is not None and row.latency_p99_ms <= bound_ms
    )


def gpus_of_their_own(rates: Mapping[str, float], best: Mapping[str, float]) -> int:
    return sum(ceil(rate / best[model]) for model, rate in rates.items())


def shared_problem(
    rates: Mapping[str, float], rows: Sequence[ProfileRow], *, optimistic: bool, objectives: tuple[Objective, ...]
) -> Problem:
    """All models on one fleet with the defaults of `planner solve`."""
    demands = tuple(ModelDemand(name=m, rates_rps={"all": r}, latency_bound_ms=BOUND_MS) for m, r in rates.items())
    fleet, _ = fleet_from_counts([FLEET])
    choice = BuildSettings(settings=Settings(optimistic_latency=optimistic), objectives=objectives)
    return build(Workload(models=demands), fleet, rows, choice).problem


def solved(problem: Problem) -> SolveResult:
    return registry.solve(problem, SolveOptions(time_limit_s=SECONDS), Progress())


def gpus_used(result: SolveResult) -> int:
    return len({placement.device for placement in result.placements or ()})


def two_models(rows: Sequence[ProfileRow], best: Mapping[str, float]) -> list[list[str]]:
    cases = []
    for pair in RATES:
        rates = dict(zip((RESNET, VGG), map(float, pair), strict=True))
        cases.append(_case(rates, rows, best))
    return [*([*map(str, pair), *case] for pair, case in zip(RATES, cases, strict=True)), ["sum", "", *_sums(cases)]]


def many_services(rows: Sequence[ProfileRow], best: Mapping[str, float]) -> list[list[str]]:
    """Models that were trained on from the same two networks: each with a name and a rate of its own."""
    table = []
    for count in SERVICES:
        networks, rates, copies = services(rows, count)
        table.append([str(len(rates)), *_case(rates, copies, {name: best[n] for name, n in networks.items()})])
    return [*table, ["sum", *_sums([row[1:] for row in table])]]


def services(rows: Sequence[ProfileRow], count: int) -> tuple[Mapping[str, str], Mapping[str, float], list[ProfileRow]]:
    """`count` services of each network: their network, their rate, and the network's measurements for each."""
    networks = {f"{SHORT[network]}-{i + 1}": network for network in (RESNET, VGG) for i in range(count)}
    copies = [replace(row, model=name) for name, network in networks.items() for row in rows if row.model == network]
    copies += [row for row in rows if row.is_overhead]
    return networks, {name: RATE_OF_A_SERVICE[network] for name, network in networks.items()}, copies


def drawing(rows: Sequence[ProfileRow]) -> str:
    """The fleet map of the shared plan for eight services, as SVG."""
    _, rates, copies = services(rows, SERVICES_DRAWN)
    problem = shared_problem(rates, copies, optimistic=False, objectives=(Objective.GPUS, Objective.BALANCE))
    result = solved(problem)
    bounds = [(bound.value, bound.method) for bound in result.bounds]
    origin = Origin(status=result.status, solver=result.solver, seed=0, runtime_s=result.runtime_s, bounds=bounds)
    return standalone_svg(problem, derive_plan(problem, result.placements or (), origin))


def _case(rates: Mapping[str, float], rows: Sequence[ProfileRow], best: Mapping[str, float]) -> list[str]:
    own = gpus_of_their_own(rates, best)
    started = time.monotonic()
    fewest = (Objective.GPUS,)
    plans = [solved(shared_problem(rates, rows, optimistic=fast, objectives=fewest)) for fast in (False, True)]
    seconds = time.monotonic() - started
    cells = [cell for plan in plans for cell in _plan_cells(plan, own)]
    return [str(own), *cells, f"{seconds:.1f}"]


def _plan_cells(result: SolveResult, own: int) -> list[str]:
    return [str(gpus_used(result)), f"{result.bounds[0].value:g}", f"{gpus_used(result) / own:.2f}"]


def _sums(cases: Sequence[Sequence[str]]) -> list[str]:
    """GPUs in sum, the median of the ratios."""
    own, *columns = (list(map(float, column)) for column in zip(*cases, strict=True))
    cells = [f"{sum(own):.0f}"]
    for used, _, ratios in (columns[0:3], columns[3:6]):
        cells += [f"{sum(used):.0f}", "", f"median {median(ratios):.2f}"]
    return [*cells, f"{sum(columns[6]):.1f}"]


def memory(checkpoint: ImportedCheckpoint) -> list[list[str]]:
    """Both models on one server, with as many instances each: readings added up, and what the law says."""
    laws = {law.model: law for law in checkpoint.laws}
    resnet, vgg = laws[RESNET], laws[VGG]
    overhead = max(o.overhead_bytes for o in checkpoint.overheads)
    table = []
    for instances in sorted(resnet.residuals_bytes):
        used = [_reading(law, instances) for law in (resnet, vgg)]
        base = resnet.base_bytes
        added = base + sum(reading - base for reading in used)
        law = added - overhead  # the backend is paid once, and each reading holds it
        over = added - law
        amounts = (*used, added, law, over)
        table.append([str(instances), *(f"{amount / MB:,.0f}" for amount in amounts), f"{over / law:.0%}"])
    return table


def _reading(law: MemoryLaw, instances: int) -> float:
    return law.used_bytes(instances) + law.residuals_bytes[instances]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---:|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def parsed(arguments: Sequence[str]) -> tuple[Path, Path | None]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, help="Model Analyzer's checkpoint")
    parser.add_argument("--svg", type=Path, help="draw the shared plan for eight services, and print no tables")
    options = parser.parse_args(arguments)
    if options.checkpoint is None and "PLANNER_SHARED" not in os.environ:
        parser.error("name the checkpoint, or set PLANNER_SHARED")
    return options.checkpoint or Path(os.environ["PLANNER_SHARED"]) / CHECKPOINT, options.svg


def main(arguments: Sequence[str]) -> None:
    path, svg = parsed(arguments)
    checkpoint = read_checkpoint(path)
    if svg is not None:
        svg.write_text(drawing(checkpoint.rows), encoding="utf-8")
        return
    best = {model: best_throughput(checkpoint.rows, model, BOUND_MS) for model in (RESNET, VGG)}
    print(f"Model Analyzer's best within {BOUND_MS:g} ms: ", end="")
    print(", ".join(f"{model} {rate:.0f} req/s per GPU" for model, rate in best.items()), end="\n\n")
    columns = ["own GPUs", "shared", "bound", "ratio", "shared, fast limit", "bound", "ratio", "seconds"]
    print_table(["resnet50 req/s", "vgg19 req/s", *columns], two_models(checkpoint.rows, best))
    rates = ", ".join(f"{model} {rate:g} req/s" for model, rate in RATE_OF_A_SERVICE.items())
    print(f"many services of the two networks, each {rates}\n")
    print_table(["services", *columns], many_services(checkpoint.rows, best))
    print("memory of both models in one server, MB\n")
    columns = ["instances each", "resnet50 alone", "vgg19 alone", "added up", "law", "too much", "error"]
    print_table(columns, memory(checkpoint))


if __name__ == "__main__":
    main(sys.argv[1:])
