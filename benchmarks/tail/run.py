"""How well the tail of latencies follows from its lower percentiles: p99 estimated as ensembles need it, and measured.

    python benchmarks/tail/run.py [--checkpoint FILE] [STORE...]

STORE is a profiles.db; FILE a checkpoint of Triton Model Analyzer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.domain.tail import tail_ms
from planner.inputs.model_analyzer import read_checkpoint
from planner.store.database import open_store


def ratios(rows: Iterable[ProfileRow]) -> list[float]:
    """The p99 estimated from p50, p90 and p95 over the measured one, in ascending order."""
    found = []
    for row in rows:
        known = {50: row.latency_p50_ms, 90: row.latency_p90_ms, 95: row.latency_p95_ms}
        estimated = tail_ms({p: ms for p, ms in known.items() if ms}, 99)
        if estimated is not None and row.latency_p99_ms and row.is_planned:
            found.append(estimated / row.latency_p99_ms)
    return sorted(found)


def line(what: str, found: Sequence[float]) -> str:
    if not found:
        return f"| {what} | 0 | - | - | - | - |"
    short, tenth = sum(ratio < 1 for ratio in found), found[len(found) // 10]
    return f"| {what} | {len(found)} | {short} | {found[0]:.2f} | {tenth:.2f} | {median(found):.2f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args(arguments)
    print("| points | number | estimated too short | smallest ratio | a tenth below | median |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    rows = [row for path in options.stores for row in open_store(f"sqlite:///{path}", must_exist=True).rows()]
    for load in (LoadMode.OPEN, LoadMode.CLOSED) if options.stores else ():
        print(line(f"stores, {load} loop", ratios(row for row in rows if row.load is load)))
    if options.checkpoint is not None:
        print(line("checkpoint", ratios(point.row for point in read_checkpoint(options.checkpoint).points)))


if __name__ == "__main__":
    main()
