"""What every solver takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from planner.domain.certificate import Proof
from planner.domain.plan import ObjectiveValue, Placement, Status
from planner.domain.problem import Problem
from planner.errors import PlannerError


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveOptions:
    """`gap`: stop when an objective is proven within this share of its bound.

    `iterations`: a limit of the search in steps instead of seconds, so that the same seed gives the same plan.
    """

    time_limit_s: float = 60.0
    seed: int = 0
    gap: float = 0.0
    workers: int = 2
    iterations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A proven bound of one objective in its natural unit, and how it was proved.

    `certified`: what the proof of the same objective shows, None where there is none; `uncertified` says why.
    """

    value: float | None
    method: str
    certified: float | None = None
    uncertified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveResult:
    """`placements` is None exactly where the status says that there is no plan.

    `bounds` has one entry per objective of the problem, each valid with the earlier objectives fixed at
    the values that the plan reaches. `proofs` are those of the bounds that can be checked without a solver.
    `interrupted`: the user stopped the search, and this is the best so far. `compile_s`: seconds of the runtime
    that went into compiling the search for this machine, or loading it.
    """

    status: Status
    solver: str
    placements: tuple[Placement, ...] | None
    bounds: tuple[Bound, ...]
    runtime_s: float
    interrupted: bool = False
    proofs: tuple[Proof, ...] = ()
    compile_s: float = 0.0

    def __post_init__(self) -> None:
        if self.status.has_plan != (self.placements is not None):
            raise PlannerError(f"solver {self.solver}: status {self.status} contradicts its plan")


class Progress:
    """Receives progress; every method does nothing unless a caller overrides it.

    `improved` is called with each better plan, so that an interruption keeps the best one.
    """

    def improved(self, placements: tuple[Placement, ...], objectives: tuple[ObjectiveValue, ...]) -> None:
        pass

    def message(self, text: str) -> None:
        pass


class Solver(Protocol):
    name: str

    def solve(self, problem: Problem, options: SolveOptions, progress: Progress) -> SolveResult: ...


SolverFactory = Callable[[], Solver]
