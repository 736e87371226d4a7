"""Vector packing instances of the Vectorpack paper, read where they lie: $PLANNER_SHARED/data/vectorpack.

`.vbp`: the number of dimensions, the capacities, the number of kinds, then per kind its demands and its count.
The first dimension becomes memory, each further one the busy time of a period. Source: github.com/Vectorpack/
experiments_vector_paper (MIT).
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from instances import Instance, Kind, Models, Options, problem_of

from planner.domain.problem import Problem
from planner.domain.units import PPM
from planner.errors import InputError

FAMILIES = ("panigrahy", "triplet")
UNKNOWN = "-1"


@dataclass(frozen=True)
class Known:
    """Bins: the best lower bound, the optimum where it is known, and the best of the paper's heuristics."""

    lower_bound: int
    optimum: int | None
    best_heuristic: int


def folder() -> Path | None:
    """None where PLANNER_SHARED is not set or has no such folder."""
    shared = os.environ.get("PLANNER_SHARED")
    path = Path(shared) / "data" / "vectorpack" if shared else None
    return path if path is not None and path.is_dir() else None


def load(path: Path) -> Problem:
    return problem_of(parse(path.read_text(), path.stem))


def parse(text: str, name: str) -> Instance:
    """InputError where a demand is negative, as in a third of the files classC: no GPU gains memory by a replica.

    Busy time is scaled by floor(PPM / capacity) and so is the limit: whole numbers, and nothing is rounded.
    """
    numbers = list(map(int, text.split()))
    dimensions = numbers[0]
    capacity, count = numbers[1 : dimensions + 1], numbers[dimensions + 1]
    rows = [numbers[i : i + dimensions + 1] for i in range(dimensions + 2, len(numbers), dimensions + 1)]
    if len(rows) != count or any(len(row) != dimensions + 1 for row in rows):
        raise InputError(f"{name}: {count} kinds with {dimensions} demands and a count are announced, but not there")
    if min(map(min, rows)) < 0:
        raise InputError(f"{name}: a demand is negative, which memory and busy time cannot be")
    if len(set(capacity[1:])) > 1:
        raise InputError(f"{name}: the capacities of the periods differ, but a GPU has one limit for all")
    *demands, counts = (list(column) for column in zip(*rows, strict=True))
    if max(capacity[1:], default=1) > PPM:
        raise InputError(f"{name}: a capacity above {PPM} cannot be busy time in parts per million")
    scale = PPM // capacity[-1]
    busy = [[amount * scale for amount in column] for column in demands[1:]]
    return Instance(
        name=name,
        periods=[f"dimension-{d}" for d in range(2, dimensions + 1)] or ["all"],
        memory_unit_bytes=1,
        kinds=[
            Kind(
                name="bin",
                count=sum(counts),
                memory=capacity[0],
                utilization_ppm=capacity[-1] * scale if busy else PPM,
            )
        ],
        models=Models(count=count, demand_mrps=[n * 1000 for n in counts], replicas_min=counts, replicas_max=counts),
        options=Options(model=list(range(count)), kind=0, memory=demands[0], busy_ppm=busy or [0]),
    )


def known(path: Path) -> Known:
    return _table(path.parent)[path.stem]


@cache
def _table(family: Path) -> dict[str, Known]:
    with family.with_name(f"{family.name}_known.csv").open(newline="") as file:
        return {
            row["instance_name"]: Known(
                int(row["LB"]), None if row["OPT"] == UNKNOWN else int(row["OPT"]), int(row["best_overall"])
            )
            for row in csv.DictReader(file)
        }
