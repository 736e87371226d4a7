"""Planner's solvers and plain peers on the same stored instances: objective, proven bound, gap, seconds.

    python benchmarks/solver/run.py [--seconds 5] [INSTANCE...]

Prints the tables of the README. Every plan goes through the check, a peer's too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from peers import first_fit_decreasing, model_by_model, textbook_program

from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value, natural
from planner.domain.plan import Placement
from planner.domain.problem import Problem, problem_from_json
from planner.plan_files import read_json
from solvers import registry
from solvers.base import Progress, SolveOptions

INSTANCES = Path(__file__).parent / "instances"


@dataclass(frozen=True)
class Run:
    """`value` and `bound` of the first objective in its natural unit; None where there is none."""

    value: float | None
    bound: float | None
    seconds: float

    @property
    def gap(self) -> float | None:
        if self.value is None or self.bound is None:
            return None
        return (self.value - self.bound) / self.value


Answer = tuple[Sequence[Placement] | None, float | None]
Method = Callable[[Problem, float], Answer]


def _planner(name: str) -> Method:
    def solve(problem: Problem, seconds: float) -> Answer:
        result = registry.solve(problem, SolveOptions(time_limit_s=seconds), Progress(), name=name)
        return result.placements, result.bounds[0].value

    return solve


METHODS: dict[str, Method] = {
    "own GPUs": lambda problem, _: (model_by_model(problem), None),
    "first fit": lambda problem, _: (first_fit_decreasing(problem), None),
    "greedy": _planner("greedy"),
    "cpsat": _planner("cpsat"),
    "SCIP": textbook_program,
}


def timed(method: Method, problem: Problem, seconds: float) -> Run:
    started = time.monotonic()
    placements, bound = method(problem, seconds)
    took = time.monotonic() - started
    if placements is None:
        return Run(None, bound, took)
    violations = check_placements(problem, tuple(placements))
    if violations:
        raise SystemExit(f"a plan breaks a rule: {violations[0]}")
    objective = problem.objectives[0]
    value = natural(objective, integer_value(Layout(problem, placements), objective))
    return Run(value, bound, took)


def report(names: Sequence[str], runs: Sequence[dict[str, Run]]) -> None:
    rows = []
    for name, found in zip(names, runs, strict=True):
        exact, scip = found["cpsat"], found["SCIP"]
        rows.append(
            [name, *(_number(found[method].value) for method in METHODS), _number(exact.bound), _share(exact.gap),
             f"{found['greedy'].seconds:.2f}", f"{exact.seconds:.2f}", _share(scip.gap), f"{scip.seconds:.2f}"]
        )  # fmt: skip
    print_table(
        ["instance", *METHODS, "bound", "gap", "greedy s", "cpsat s", "SCIP gap", "SCIP s"],
        rows,
    )
    summary = []
    for method in METHODS:
        values = [found[method].value for found in runs]
        ratios = [v / f["cpsat"].value for v, f in zip(values, runs, strict=True) if v and f["cpsat"].value]
        gaps = [gap for found in runs if (gap := found[method].gap) is not None]
        proven = f"{sum(gap == 0 for gap in gaps)} of {len(runs)}"
        seconds = median(found[method].seconds for found in runs)
        summary.append(
            [method, f"{sum(v is not None for v in values)}", f"{median(ratios):.3f}", f"{max(ratios):.3f}", proven,
             _share(median(gaps)) if gaps else "-", f"{seconds:.3f}"]
        )  # fmt: skip
    columns = ["method", "plans", "median ratio to cpsat", "worst", "proven optimal", "median gap", "median s"]
    print_table(columns, summary)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of cpsat and of SCIP per instance")
    parser.add_argument("instances", nargs="*", type=Path, help="problem.json files instead of the stored ones")
    options = parser.parse_args(arguments)
    paths: list[Path] = options.instances or sorted(INSTANCES.glob("*.json"))
    runs = []
    for path in paths:
        problem = problem_from_json(read_json(path), str(path))
        runs.append({name: timed(method, problem, options.seconds) for name, method in METHODS.items()})
        print(f"{path.stem} done", file=sys.stderr)
    report([path.stem for path in paths], runs)


if __name__ == "__main__":
    main(sys.argv[1:])
