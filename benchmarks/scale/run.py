"""Planner at scale, beside its peers: GPUs or cost, proven bounds, seconds and memory, from 50 to 100,000 replicas.

    python benchmarks/scale/run.py [--only CLASS...] [--sizes N...] [--seeds K] [--time-limit S] [--no-peers]

Every solve is a process of its own; every plan passes the check. Prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from cases import Case, cases
from tables import PLANNER, Run, print_tables

SOLVE_ONE = Path(__file__).with_name("solve_one.py")
PEERS = ("heuristics", "cpsat", "arc-flow")
# Reading, checking and verifying come on top of the time limit; a solver far beyond it is stopped.
GRACE_S = 900


def run_one(case: Case, method: str, solver: str, seconds: float) -> Run:
    command = [sys.executable, str(SOLVE_ONE), method, str(case.path), "--solver", solver, "--time-limit", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
    except subprocess.TimeoutExpired:
        return Run(case, method, {"status": "stopped", "note": f"no answer {GRACE_S} s after its time limit"})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Run(case, method, {"status": "failed", "note": lines[-1]})
    return Run(case, method, json.loads(done.stdout.splitlines()[-1]))


def runs(chosen: Sequence[Case], peers: Sequence[str], solver: str, seconds: float) -> Iterator[Run]:
    for case in chosen:
        for method in (PLANNER, *(peers if case.one_gpu_type else ())):
            run = run_one(case, method, solver, seconds)
            print(run.line, file=sys.stderr, flush=True)
            yield run
            if run.outcome["status"] == "left out":
                break


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="CLASS", help="small, hard-3, types, panigrahy, ...")
    parser.add_argument("--sizes", nargs="+", type=int, default=[], metavar="N", help="replicas")
    parser.add_argument("--seeds", type=int, metavar="K", help="the first K of each class and size")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="S", help="seconds for each solve")
    parser.add_argument("--solver", default="auto", help="which of Planner's")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="these alone")
    parser.add_argument("--no-peers", dest="peers", action="store_const", const=())
    parser.add_argument("--json", type=Path, metavar="FILE", help="all runs, written after each one")
    return parser


def main(arguments: Sequence[str]) -> None:
    given = _parser().parse_args(arguments)
    chosen = cases(given.only, given.sizes, given.seeds)
    if not chosen:
        raise SystemExit("no instance is so called; Vectorpack's need PLANNER_SHARED")
    # `--peers` without a name means all of them.
    peers = PEERS if given.peers == [] else given.peers
    done: list[Run] = []
    for run in runs(chosen, peers, given.solver, given.time_limit):
        done.append(run)
        if given.json:
            rows = [asdict(run.case) | {"path": run.case.path.name, "method": run.method} | run.outcome for run in done]
            given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print_tables(done, peers)


if __name__ == "__main__":
    main(sys.argv[1:])
