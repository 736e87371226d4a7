"""Faults injected into `planner measure` on a real Triton, one after another.

    python benchmarks/faults/run.py [--only hang disk ...] [--list]

Prints one table and ends with 1 where a fault cost more than its own point.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cases import FAULTS, Fault
from project import (
    FAULTY,
    ROWS_PER_MODEL,
    STEADY,
    CannotBeTriedHere,
    FaultMissed,
    Outcome,
    Project,
    Row,
    become_subreaper,
)

from profiler.cache import cache_directory

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
EARLIER = ("earlier", "older")
CAUSE_SHOWN = 70
VERDICT = r"\| (survived|not tried|MISS)[^|]*\|$"
COLUMNS = ("kind", "fault", "exit", "cause", "finished before, after, rerun", "left", "s", "verdict")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="words of a fault's kind or name")
    parser.add_argument("--jobs", type=int, default=3, help="faults at the same time; most of a sweep is waiting")
    parser.add_argument("--list", action="store_true", help="print the faults")
    parser.add_argument("--one", nargs=3, metavar=("FAULT", "FOLDER", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        name, folder, store = options.one
        become_subreaper()
        print(_try(next(fault for fault in FAULTS if fault.name == name), Path(folder), Path(store)))
        return 0
    chosen = [fault for fault in FAULTS if _is_chosen(fault, options.only)]
    if options.list:
        print("\n".join(f"{fault.kind}: {fault.name}" for fault in chosen))
        return 0
    models = cache_directory() / "example-models"
    subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(models)], check=True, stdout=sys.stderr)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planner-faults-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        store = _earlier_store(Path(folder, "earlier"))
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        verdicts = list(pool.map(partial(_try_apart, folder=Path(folder), store=store), chosen))
    counts = {verdict: verdicts.count(verdict) for verdict in ("survived", "not tried", "MISS")}
    print(f"\n{len(chosen)} faults in {time.monotonic() - begin:.0f} s:", end=" ")
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return 1 if counts["MISS"] or not counts["survived"] else 0


def _is_chosen(fault: Fault, words: Sequence[str] | None) -> bool:
    return words is None or any(word in f"{fault.kind}: {fault.name}" for word in words)


def _try_apart(fault: Fault, folder: Path, store: Path) -> str:
    """In a process of its own, which inherits whatever the fault leaves behind."""
    own = folder / re.sub(r"\W", "-", fault.name)
    command = [sys.executable, __file__, "--one", fault.name, str(own), str(store)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    row = done.stdout.strip() if done.returncode == 0 else _row(fault, f"MISS: ended with {done.returncode}")
    print(row, flush=True)
    return re.search(VERDICT, row)[1]


def _earlier_store(folder: Path) -> Path:
    """A store with what earlier sweeps finished, which no fault may touch: two models, and what they share."""
    project = Project(folder)
    for name in EARLIER:
        project.add_model(name)
    outcome = project.run()
    if outcome.exit_code != 0 or len(outcome.finished) != ROWS_PER_MODEL * len(EARLIER) + 2:
        raise SystemExit(f"the sweep without a fault failed:\n{outcome.said}")
    return project.store


def _try(fault: Fault, folder: Path, earlier: Path) -> str:
    project = Project(folder)
    shutil.copy(earlier, project.store)
    for name in (FAULTY, STEADY):
        project.add_model(name)
    before = project.rows()
    with project.cleanup:
        try:
            with ExitStack() as undo:
                if fault.prepare is not None:
                    fault.prepare(project, undo)
                outcome = project.run(
                    *fault.arguments,
                    command=fault.command,
                    strike=None if fault.strike is None else lambda run: fault.strike(run, undo),
                    reader_leaves=fault.reader_leaves,
                )
                project.order_file.unlink(missing_ok=True)
            again = project.run()
        except CannotBeTriedHere as reason:
            return _row(fault, f"not tried: {reason}")
        except FaultMissed as error:
            return _row(fault, f"MISS: {error}")
    misses = _misses(fault, before, outcome, again)
    return _row(fault, "MISS: " + "; ".join(misses) if misses else "survived", before, outcome, again)


def _misses(fault: Fault, before: dict[str, Row], outcome: Outcome, again: Outcome) -> list[str]:
    steady, faulty = _count(outcome, STEADY), _count(outcome, FAULTY)
    checks = {
        f"exit code {outcome.exit_code}, not {fault.exit_code}": outcome.exit_code == fault.exit_code,
        f"cause not told: {_cause(fault, outcome)}": re.search(fault.cause, _whole_cause(fault, outcome)) is not None,
        "a traceback": "Traceback (most recent" not in outcome.said or fault.is_recorded,
        f"only {faulty} points of the faulty model": faulty >= fault.points,
        f"{steady} points of the other model": steady == ROWS_PER_MODEL or not fault.goes_on,
        "a point of earlier sweeps changed": before.items() <= outcome.rows.items(),
        "a finished point did not stay": outcome.finished.items() <= again.finished.items(),
        f"left behind: {', '.join(outcome.left + again.left)}": not outcome.left + again.left,
        f"the rerun ended with {again.exit_code}: {again.said[-300:]}": again.exit_code == 0,
        "the rerun is not complete": min(_count(again, FAULTY), _count(again, STEADY)) >= ROWS_PER_MODEL,
    }
    return [what.replace("|", "/") for what, holds in checks.items() if not holds]


def _count(outcome: Outcome, model: str) -> int:
    return sum(row.model == model for row in outcome.finished.values())


def _whole_cause(fault: Fault, outcome: Outcome) -> str:
    return "\n\n".join(outcome.causes) if fault.is_recorded else outcome.said


def _cause(fault: Fault, outcome: Outcome) -> str:
    """Its telling line, short enough for a table."""
    lines = _whole_cause(fault, outcome).splitlines() or ["-"]
    found = next(
        (line for line in lines if fault.cause and re.search(fault.cause, line)), lines[0 if fault.is_recorded else -1]
    )
    text = found.strip().replace("|", "/")
    return text if len(text) <= CAUSE_SHOWN else text[: CAUSE_SHOWN - 3] + "..."


def _row(
    fault: Fault,
    verdict: str,
    before: dict[str, Row] | None = None,
    outcome: Outcome | None = None,
    again: Outcome | None = None,
) -> str:
    cells = [fault.kind, fault.name]
    if before is None or outcome is None or again is None:
        cells += ["-"] * 5
    else:
        finished = f"{len(before)}, {len(outcome.finished)}, {len(again.finished)}"
        left = len(outcome.left) + len(again.left)
        cells += [
            str(outcome.exit_code),
            _cause(fault, outcome),
            finished,
            str(left),
            f"{outcome.seconds + again.seconds:.0f}",
        ]
    return f"| {' | '.join([*cells, ' '.join(verdict.split())])} |"


if __name__ == "__main__":
    sys.exit(main())
