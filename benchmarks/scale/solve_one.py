"""Solve one instance by one method and print what came of it as JSON: a process of its own, so that memory is too.

python benchmarks/scale/solve_one.py planner|heuristics|cpsat|arc-flow FILE [--solver auto] [--time-limit 60]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import instances
import vectorpack

from planner.domain.certificate import Certificate
from planner.domain.check import check_placements
from planner.domain.derive import Origin, derive_plan
from planner.domain.layout import Layout
from planner.domain.objectives import gap, integer_value, natural
from planner.domain.plan import ObjectiveValue, Placement, Status
from planner.domain.problem import SCHEMA_VERSION, Problem
from planner.errors import InputError
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult

PLANNER = "planner"
NO_PLAN = "no plan"
LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of the first objective, in its natural unit (GPUs, or USD per hour); None where there is none.

    `seconds` is the whole call, what the solver compiles included; `peak_mb` (MiB) also holds the instance.
    `verified`: whether the certificate proves its bound; None where there is no certificate or no checker.
    """

    status: str
    value: float | None = None
    bound: float | None = None
    certified_bound: float | None = None
    gap: float | None = None
    seconds: float | None = None
    first_plan_s: float | None = None
    compile_s: float | None = None
    verified: bool | None = None
    verify_s: float | None = None
    peak_mb: float | None = None
    parse_s: float | None = None
    optimum: int | None = None
    paper: int | None = None
    note: str = ""


class FirstPlan(Progress):
    """Notes when the first plan came."""

    def __init__(self, started: float) -> None:
        self._started = started
        self.seconds: float | None = None

    def improved(self, placements: tuple[Placement, ...], objectives: tuple[ObjectiveValue, ...]) -> None:
        if self.seconds is None:
            self.seconds = time.monotonic() - self._started


def by_planner(problem: Problem, solver: str, options: SolveOptions) -> Outcome:
    started = time.monotonic()
    progress = FirstPlan(started)
    result = registry.solve(problem, options, progress, name=solver)
    seconds = time.monotonic() - started
    peak = peak_mb()
    outcome = Outcome(
        status=result.status,
        bound=result.bounds[0].value,
        seconds=seconds,
        first_plan_s=progress.seconds or (seconds if result.placements else None),
        compile_s=getattr(result, "compile_s", None),
        peak_mb=peak,
        note=result.bounds[0].method,
    )
    certificate = _certificate(problem, result)
    if certificate is not None:
        outcome = replace(outcome, **_certified(problem, result, certificate))
    return _valued(problem, outcome, result.placements)


def _certificate(problem: Problem, result: SolveResult) -> Certificate | None:
    """A solver gives proofs, or a whole certificate, or nothing."""
    proofs = getattr(result, "proofs", ())
    if not proofs:
        return getattr(result, "certificate", None)
    return Certificate(schema_version=SCHEMA_VERSION, problem_digest=problem.digest, proofs=proofs)


def _certified(problem: Problem, result: SolveResult, certificate: Certificate) -> dict[str, Any]:
    """The certified bound of the first objective, and whether the checker finds the whole certificate proved."""
    bounds = {proof.objective: natural(proof.objective, proof.bound) for proof in certificate.proofs}
    found: dict[str, Any] = {"certified_bound": bounds.get(problem.objectives[0])}
    try:
        from planner.domain.proof import verify
    except ModuleNotFoundError as error:
        if error.name != "planner.domain.proof":
            raise
        return found
    if result.placements is None:
        return found
    origin = Origin(
        status=result.status,
        solver=result.solver,
        seed=0,
        runtime_s=result.runtime_s,
        bounds=[(bound.value, bound.method) for bound in result.bounds],
    )
    plan = derive_plan(problem, result.placements, origin)
    claimed = tuple(replace(objective, certified_bound=bounds.get(objective.name)) for objective in plan.objectives)
    plan = replace(plan, objectives=claimed)
    started = time.monotonic()
    violations = list(verify(problem, plan, certificate))
    found |= {"verified": not violations, "verify_s": time.monotonic() - started}
    return found | ({"note": f"not verified: {violations[0]}"} if violations else {})


def by_peer(name: str, problem: Problem, seconds: float) -> Outcome:
    from peers import PEERS

    started = time.monotonic()
    answer = PEERS[name](problem, seconds)
    took = time.monotonic() - started
    status = NO_PLAN if answer.placements is None else Status.FEASIBLE
    outcome = Outcome(status=status, bound=answer.bound, seconds=took, peak_mb=peak_mb(), note=answer.note)
    violations = check_placements(problem, answer.placements or ()) if answer.placements else []
    if violations:
        raise SystemExit(f"{name}: a plan breaks a rule: {violations[0]}")
    outcome = _valued(problem, outcome, answer.placements)
    return replace(outcome, status=Status.OPTIMAL) if outcome.gap == 0 else outcome


def _valued(problem: Problem, outcome: Outcome, placements: tuple[Placement, ...] | None) -> Outcome:
    if placements is None:
        return outcome
    name = problem.objectives[0]
    value = natural(name, integer_value(Layout(problem, placements), name))
    distance = gap(ObjectiveValue(name=name, value=value, bound=outcome.bound, method=""))
    return replace(outcome, value=value, gap=distance)


def peak_mb() -> float:
    """Of this process, or of the largest that it started (VPSolver builds its graph in one). Linux: in KiB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("file", type=Path)
    parser.add_argument("--solver", default=registry.AUTO)
    parser.add_argument("--time-limit", type=float, default=60.0)
    given = parser.parse_args(arguments)
    print(json.dumps(asdict(_outcome(given.method, given.file, given.solver, given.time_limit))))


def _outcome(method: str, path: Path, solver: str, seconds: float) -> Outcome:
    started = time.monotonic()
    optimum = paper = None
    try:
        if path.suffix == ".vbp":
            known = vectorpack.known(path)
            optimum, paper = known.optimum, known.best_heuristic
            problem = vectorpack.load(path)
        else:
            instance = instances.read(path)
            optimum, problem = instance.optimum, instances.problem_of(instance)
    except InputError as error:
        return Outcome(status=LEFT_OUT, note=str(error))
    parsed = time.monotonic() - started
    if method == PLANNER:
        outcome = by_planner(problem, solver, SolveOptions(time_limit_s=seconds))
    else:
        outcome = by_peer(method, problem, seconds)
    return replace(outcome, parse_s=parsed, optimum=optimum, paper=paper)


if __name__ == "__main__":
    main(sys.argv[1:])
