"""How much of a production fleet an offline planner allocates, beside published online schedulers, and the bound.

    python benchmarks/openb/run.py [--folder FOLDER] [--list default] [--seconds 60] [--arriving 1.3] [--seed 0]

FOLDER holds Alibaba's fleet and task lists; without it data/openb below PLANNER_SHARED is read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instance import GPU, Task, allocated_millis, arriving, problem_of, read_nodes, read_tasks

from planner.domain.check import check_placements
from solvers import registry
from solvers.base import Progress, SolveOptions

FOLDER = Path("data/openb")
# Share of GPU capacity allocated when tasks that ask for 130 % of it have arrived (Weng et al., USENIX ATC 2023).
PUBLISHED = {
    "random": 87.5, "dot product": 90.9, "clustering": 91.9, "packing": 92.0, "best fit": 93.1, "FGD": 95.4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all GPUs the share that the tasks ask for, that is allocated, and that no plan exceeds."""

    asked: float
    allocated: float
    most: float
    tasks: int
    placed: int
    violations: int
    seconds: float


def outcome(nodes: Sequence[dict[str, str]], tasks: Sequence[Task], seconds: float) -> Outcome:
    problem = problem_of(nodes, tasks)
    started = time.monotonic()
    result = registry.solve(problem, SolveOptions(time_limit_s=seconds), Progress())
    took = time.monotonic() - started
    placements = result.placements or ()
    whole = GPU * sum(int(row["gpu"]) for row in nodes)
    asked = sum(task.total_gpu_millis for task in tasks)
    # Kinds of tasks without a GPU count 1 each in the objective: so much of the bound may be theirs.
    left_out = (result.bounds[0].value or 0.0) - sum(1 for task in set(tasks) if not task.gpus)
    return Outcome(
        asked=asked / whole,
        allocated=allocated_millis(problem, placements) / whole,
        most=min(1.0, (asked - max(0.0, left_out)) / whole),
        tasks=len(tasks),
        placed=len(placements),
        violations=len(check_placements(problem, placements)),
        seconds=took,
    )


def print_outcome(name: str, found: Outcome) -> None:
    shares = (f"{100 * share:.2f} %" for share in (found.asked, found.allocated, found.most))
    counts = f"{found.placed:,} of {found.tasks:,} | {found.violations} | {found.seconds:.1f}"
    print(f"| {name} | {' | '.join(shares)} | {counts} |", flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="Alibaba's fleet and lists")
    parser.add_argument("--list", default="default", help="the list of tasks: default, cpu100, gpuspec10")
    parser.add_argument("--seconds", type=float, default=60.0, help="the time limit of each problem")
    parser.add_argument("--arriving", type=float, default=1.3, help="tasks drawn at random ask for this share of GPUs")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    options = parser.parse_args(arguments)
    if options.folder is None:
        if "PLANNER_SHARED" not in os.environ:
            parser.error("name the folder, or set PLANNER_SHARED")
        options.folder = Path(os.environ["PLANNER_SHARED"]) / FOLDER
    return options


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    nodes, tasks = read_nodes(options.folder), read_tasks(options.folder, options.list)
    gpus = sum(int(row["gpu"]) for row in nodes)
    print(f"{len(nodes):,} nodes, {gpus:,} GPUs; {len(tasks):,} tasks, {len(set(tasks))} kinds of them\n")
    print("| tasks | ask for | allocated, offline | at most | placed | violations | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print_outcome(f"the list {options.list}", outcome(nodes, tasks, options.seconds))
    drawn = arriving(tasks, gpus, options.arriving, options.seed)
    name = f"drawn from it, {100 * options.arriving:.0f} %, seed {options.seed}"
    print_outcome(name, outcome(nodes, drawn, options.seconds))
    print("\nPublished, online, on `default` with 130 % arriving: ", end="")
    print(", ".join(f"{name} {share} %" for name, share in PUBLISHED.items()))
    print("Online schedulers see one task after another and move none; this plan saw the whole list at once.")


if __name__ == "__main__":
    main(sys.argv[1:])
