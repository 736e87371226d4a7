"""ParvaGPU's four scenarios (Lee et al., SC 2024): the fewest A100-80 that MIG layouts serve them with, and the proof.

    python benchmarks/parvagpu/run.py [--folder FOLDER] [--seconds 5] [--times 10] [S1 S2 ...]

FOLDER holds the authors' profiles, a CSV file per network; without it data/parvagpu below PLANNER_SHARED is read.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.build import BuildSettings, build
from planner.domain.certificate import Certificate
from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Plan
from planner.domain.problem import SCHEMA_VERSION, Objective, Problem, Settings
from planner.domain.profile import ProfileRow
from planner.domain.proof import verify
from planner.domain.workload import ModelDemand, Workload
from planner.inputs.fleet import fleet_from_counts
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult

FOLDER = Path("data/parvagpu")
GPU = "A100-80"
GPUS = 10
SLICES = {1: "1g.10gb", 2: "2g.20gb", 3: "3g.40gb", 4: "4g.40gb", 7: "7g.80gb"}
SECONDS = 5.0
SETTINGS = Settings(utilization=1.0, reserve=0.0, mig_margin=0.0)

# The authors let a batch take half of the bound, the other half being for waiting, and keep a tenth of it free.
SHARE_OF_BOUND = 0.9 / 2


@dataclass(frozen=True, slots=True)
class Scenario:
    """Requests per second and latency bounds in ms by network; `published` GPUs of the paper's own planner."""

    rates_rps: Mapping[str, float]
    bounds_ms: Mapping[str, float]
    published: int | None

    def grown(self, times: int) -> Scenario:
        """With so many times the traffic, for which nothing was published."""
        rates = {name: rate * times for name, rate in self.rates_rps.items()}
        return Scenario(rates, self.bounds_ms, self.published if times == 1 else None)


_FIRST = {"bert": 6434, "densenet121": 183, "densenet169": 216, "densenet201": 168, "inceptionv3": 418,
          "mobilenetv2": 167, "resnet101": 211, "resnet152": 212, "resnet50": 204, "vgg16": 399,
          "vgg19": 396}  # fmt: skip
_SECOND = {"bert": 4294, "densenet121": 126, "densenet169": 150, "densenet201": 119, "inceptionv3": 282,
           "mobilenetv2": 113, "resnet101": 144, "resnet152": 146, "resnet50": 138, "vgg16": 227,
           "vgg19": 265}  # fmt: skip
SCENARIOS = {
    "S1": Scenario({"bert": 19, "densenet121": 353, "inceptionv3": 460, "mobilenetv2": 677, "resnet50": 829,
                    "vgg19": 354}, _FIRST, 2),
    "S2": Scenario({"bert": 19, "densenet121": 353, "densenet169": 308, "densenet201": 276, "inceptionv3": 460,
                    "mobilenetv2": 677, "resnet101": 393, "resnet152": 281, "resnet50": 829, "vgg16": 410,
                    "vgg19": 354}, _FIRST, 3),
    "S3": Scenario({"bert": 46, "densenet121": 728, "densenet169": 633, "densenet201": 493, "inceptionv3": 1051,
                    "mobilenetv2": 1546, "resnet101": 760, "resnet152": 543, "resnet50": 1463, "vgg16": 780,
                    "vgg19": 673}, _SECOND, 5),
    "S4": Scenario({"bert": 69, "densenet121": 1091, "densenet169": 949, "densenet201": 739, "inceptionv3": 1576,
                    "mobilenetv2": 2318, "resnet101": 1140, "resnet152": 815, "resnet50": 2195, "vgg16": 1169,
                    "vgg19": 1010}, _SECOND, 7),
}  # fmt: skip


def profiles(folder: Path) -> list[ProfileRow]:
    """One row per network, slice, batch size and number of processes. Memory is not known: a replica has its slice."""
    return [row for path in sorted(folder.glob("*.csv")) for row in _rows(path)]


def _rows(path: Path) -> Iterator[ProfileRow]:
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            processes, per_process = int(line["Workload Number"]), float(line["Throughput"])
            if per_process == 0:  # out of memory, or not measured
                continue
            yield ProfileRow(
                model=path.stem,
                device=f"{GPU}/{SLICES[int(line['Mig instance'])]}",
                instances=processes,
                max_batch_size=int(line["Batch size"]),
                rate_rps=processes * per_process,
                latency_p99_ms=float(line["Latency"]) * 1000 / SHARE_OF_BOUND,
                source="published: ParvaGPU, SC 2024",
            )


def problem_of(scenario: Scenario, rows: Sequence[ProfileRow], gpus: int) -> Problem:
    demands = tuple(
        ModelDemand(name=name, rates_rps={"all": float(rate)}, latency_bound_ms=float(scenario.bounds_ms[name]))
        for name, rate in scenario.rates_rps.items()
    )
    fleet, _ = fleet_from_counts([f"{gpus}x{GPU}"])
    choice = BuildSettings(settings=SETTINGS, objectives=(Objective.GPUS,), mig=True)
    return build(Workload(models=demands), fleet, rows, choice).problem


def planned(problem: Problem, seconds: float) -> tuple[Plan, SolveResult, float]:
    """A checked plan, and the seconds from problem to plan."""
    started = time.monotonic()
    result = registry.solve(problem, SolveOptions(time_limit_s=seconds), Progress())
    taken = time.monotonic() - started
    origin = Origin(
        status=result.status,
        solver=result.solver,
        seed=0,
        runtime_s=taken,
        bounds=[(bound.value, bound.method) for bound in result.bounds],
        certified=[(bound.certified, bound.uncertified) for bound in result.bounds],
    )
    plan = derive_plan(problem, result.placements or (), origin)
    violations = check(problem, plan)
    if violations:
        raise SystemExit(f"the plan breaks rules: {violations[0]}")
    return plan, result, taken


def certified(problem: Problem, plan: Plan, result: SolveResult) -> str:
    """The bound that the checker proves again without a solver, "-" where there is none."""
    bound = plan.objectives[0].certified_bound
    if bound is None:
        return "-"
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=problem.digest, proofs=result.proofs)
    violations = verify(problem, plan, certificate)
    if violations:
        raise SystemExit(f"the bound is not proved: {violations[0]}")
    return f"{bound:g}"


def row_of(name: str, rows: Sequence[ProfileRow], seconds: float, times: int) -> list[str]:
    scenario = SCENARIOS[name].grown(times)
    problem = problem_of(scenario, rows, GPUS * times)
    plan, result, taken = planned(problem, seconds)
    fewest = plan.objectives[0]
    bound = "-" if fewest.bound is None else f"{fewest.bound:g}"
    return [
        name if times == 1 else f"{name} x {times}",
        str(len(scenario.rates_rps)),
        str(plan.summary.gpus_used),
        "-" if scenario.published is None else str(scenario.published),
        bound,
        certified(problem, plan, result),
        f"{taken:.1f}",
    ]


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; all of them where none is named")
    parser.add_argument("--folder", type=Path, help="the authors' profiles")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the time limit of each")
    parser.add_argument("--times", type=int, default=1, help="so many times the traffic, on as many times the GPUs")
    options = parser.parse_args(arguments)
    if options.times < 1:
        parser.error(f"--times: at least 1, got {options.times}")
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    if options.folder is None:
        if "PLANNER_SHARED" not in os.environ:
            parser.error("name the folder, or set PLANNER_SHARED")
        options.folder = Path(os.environ["PLANNER_SHARED"]) / FOLDER
    return options


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    rows = profiles(options.folder)
    print("| scenario | networks | GPUs | published | bound | certified | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.scenarios or SCENARIOS:
        print(f"| {' | '.join(row_of(name, rows, options.seconds, options.times))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
