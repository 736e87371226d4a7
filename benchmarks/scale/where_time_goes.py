"""Where the seconds of one solve go, stage by stage, and what the parts of column generation take of them.

python benchmarks/scale/where_time_goes.py FILE... [--time-limit 60]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import instances

from planner.domain.problem import Problem
from solvers.base import Progress, SolveOptions
from solvers.columns.solver import ColumnsSolver

# (label, file, function): seconds in it and in what it calls. The parts are called in several of the stages.
STAGES = (
    ("compile", "compiled.py", "compiled"),
    ("fills", "search.py", "_fills"),
    ("relaxation", "search.py", "_relax"),
    ("dives", "search.py", "_dives"),
    ("selection", "search.py", "_select"),
    ("neighbourhoods", "search.py", "_neighbourhoods"),
)
PARTS = (
    ("master LP", "master.py", "solve"),
    ("pricing", "pricing.py", "price"),
    ("filling", "filling.py", "fill"),
)


def seconds_of(problem: Problem, limit: float) -> tuple[float, dict[str, float]]:
    """Wall time of the solve, and of each stage and part in it."""
    profile = cProfile.Profile(time.perf_counter)
    started = time.perf_counter()
    profile.runcall(ColumnsSolver().solve, problem, SolveOptions(time_limit_s=limit), Progress())
    whole = time.perf_counter() - started
    found: dict[str, float] = {}
    for (path, _, function), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for label, file, name in (*STAGES, *PARTS):
            if function == name and path.endswith(f"columns/{file}"):
                found[label] = row[3]
    return whole, found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="S")
    arguments = parser.parse_args()
    labels = [label for label, _, _ in (*STAGES, *PARTS)]
    print(f"| instance | seconds | {' | '.join(labels)} |")
    print("|---" * (len(labels) + 2) + "|")
    for file in arguments.files:
        whole, found = seconds_of(instances.load(file), arguments.time_limit)
        cells = [f"{found[label]:.1f}" if label in found else "-" for label in labels]
        print(f"| {file.name.removesuffix(instances.SUFFIX)} | {whole:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
