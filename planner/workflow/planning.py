"""From profiles, a workload and a fleet to a checked plan on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from planner.basis import basis_notes
from planner.build import BuildSettings, Built, build
from planner.domain.certificate import Certificate
from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.fleet import Fleet
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import SCHEMA_VERSION, Objective, Problem, Running
from planner.domain.profile import ProfileRow
from planner.domain.workload import ModelDemand, Workload
from planner.errors import NoPlanError, NotFoundError, PlannerError
from solvers.base import Bound, Progress, SolveOptions, SolveResult

DEFAULT_WORKLOAD = Path("workload.yaml")
DEFAULT_FLEET = Path("fleet.yaml")
DEFAULT_STORE = "sqlite:///profiles.db"
EXPLAIN_SECONDS = 30.0
EXPLAIN_SECONDS_EACH = 10.0
RATELESS = frozenset({Objective.MODELS, Objective.THROUGHPUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveRequest:
    """What the user asked for. `headroom` None: as the workload says. `current`: the plan that runs now."""

    build: BuildSettings
    solve: SolveOptions = field(default_factory=SolveOptions)
    solver: str = "auto"
    gpus: tuple[str, ...] = ()
    fleet: Path | None = None
    workload: Path | None = None
    profiles: Path | None = None
    store: str = DEFAULT_STORE
    headroom: float | None = None
    current: Path | None = None
    out: Path = Path("plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    problem: Problem
    plan: Plan
    notes: tuple[str, ...]
    interrupted: bool


def solve(request: SolveRequest, progress: Progress) -> Solved:
    """Build, solve, check and write; NoPlanError where there is no plan, and then nothing is written."""
    from planner.plan_files import read_plan, write_plan
    from solvers import registry

    rows = _profiles(request)
    fleet, notes = _fleet(request)
    workload = _workload(request, rows)
    name = str(request.workload or DEFAULT_WORKLOAD)
    choice = _with_headroom(request.build, workload)
    if request.current is not None:
        choice = replace(choice, current=running_replicas(read_plan(request.current)[1]))
    built = build(workload, fleet, rows, choice, workload_name=name)
    result = registry.solve(built.problem, request.solve, progress, name=request.solver)
    if result.placements is None:
        raise _no_plan(built, result, request, progress)
    plan = _checked_plan(built.problem, result, result.placements, request.solve.seed)
    write_plan(request.out, built.problem, plan, _certificate(plan, result))
    used = [built.problem.option_by_id[p.option] for p in result.placements]
    return Solved(
        problem=built.problem,
        plan=plan,
        notes=(*notes, *built.without_option, *built.notes, *basis_notes(built.problem, used)),
        interrupted=result.interrupted,
    )


def running_replicas(plan: Plan) -> tuple[Running, ...]:
    """What runs where while a plan is deployed."""
    return tuple(
        Running(
            replica=replica.id,
            model=replica.model,
            device=device,
            instances=replica.instances,
            max_batch_size=replica.max_batch_size,
            queue_delay_us=replica.queue_delay_us,
            more_devices=replica.devices[1:],
        )
        for replica in plan.replicas
        for device in replica.devices[:1]
    )


def _profiles(request: SolveRequest) -> list[ProfileRow]:
    """Rows of a CSV or Parquet file where one is named, else of the store."""
    if request.profiles is not None:
        from planner.inputs.profiles_csv import read_profiles

        return read_profiles(request.profiles)
    from planner.store.database import open_store

    store = open_store(request.store, must_exist=True)
    try:
        return store.rows()
    finally:
        store.close()


def _fleet(request: SolveRequest) -> tuple[Fleet, list[str]]:
    """`--gpus` gives counts, a named fleet file the types; without `--gpus` the file gives both."""
    from planner.inputs import fleet as fleets

    path = request.fleet or DEFAULT_FLEET
    if request.gpus:
        types = fleets.read_types(request.fleet) if request.fleet else fleets.known_types()
        return fleets.fleet_from_counts(request.gpus, types)
    if request.fleet is None and not path.exists():
        raise NotFoundError(f"{path}: no such file, and no --gpus was given", hint="planner solve --gpus 8xA100")
    return fleets.read_fleet(path), []


def _workload(request: SolveRequest, rows: Sequence[ProfileRow]) -> Workload:
    from planner.inputs.workload import read_workload

    path = request.workload or DEFAULT_WORKLOAD
    profiled = sorted({row.model for row in rows if not row.is_overhead and not row.variant})
    if request.workload is not None or path.exists():
        workload = read_workload(path)
    elif profiled and RATELESS & set(request.build.objectives):
        workload = Workload(models=tuple(ModelDemand(name=name) for name in profiled))
    else:
        raise NotFoundError(
            f"{path}: no such file; models with profiles: {', '.join(profiled) or 'none'}",
            hint="planner init writes one; planner solve --minimize throughput needs no rates",
        )
    if request.headroom is None:
        return workload
    return replace(workload, models=tuple(replace(m, headroom=request.headroom) for m in workload.models))


def _checked_plan(problem: Problem, result: SolveResult, placements: tuple[Placement, ...], seed: int) -> Plan:
    origin = Origin(
        status=result.status,
        solver=result.solver,
        seed=seed,
        runtime_s=round(result.runtime_s, 3),
        bounds=[(bound.value, bound.method) for bound in result.bounds],
        certified=[(bound.certified, bound.uncertified or _uncertified(bound)) for bound in result.bounds],
    )
    plan = derive_plan(problem, placements, origin)
    violations = check(problem, plan)
    if violations:
        raise PlannerError(f"solver {result.solver} gave a plan that breaks rules: {violations[0]}")
    return plan


def _no_plan(built: Built, result: SolveResult, request: SolveRequest, progress: Progress) -> NoPlanError:
    if result.status is not Status.INFEASIBLE:
        text = f"no plan was found in {request.solve.time_limit_s:g} s; whether there is one is not known"
        return NoPlanError(text, status=result.status.value, reasons=built.without_option)
    reasons = built.without_option
    text = f"infeasible: no placement on {_offer(built.problem)} keeps every rule"
    if not reasons:
        progress.message("infeasible; looking for what would be enough")
        try:
            reasons = tuple(_reasons(built.problem, request))
        except KeyboardInterrupt:
            text += " (stopped while looking for what would be enough)"
    return NoPlanError(text, status=result.status.value, reasons=reasons)


def _uncertified(bound: Bound) -> str | None:
    """Why there is no certificate, where the solver itself gives no reason."""
    if bound.certified is not None:
        return None
    return f"the bound of {bound.method} comes without a proof" if bound.value is not None else "there is no bound"


def _certificate(plan: Plan, result: SolveResult) -> Certificate | None:
    if not result.proofs:
        return None
    return Certificate(schema_version=SCHEMA_VERSION, problem_digest=plan.problem_digest, proofs=result.proofs)


def _reasons(problem: Problem, request: SolveRequest) -> list[str]:
    """Each relaxation is a solve of its own: after a time in all, the rest is left unanswered."""
    from planner.explain import explain_infeasible
    from solvers import registry

    deadline = time.monotonic() + min(EXPLAIN_SECONDS, request.solve.time_limit_s)

    def answer(relaxed: Problem) -> SolveResult:
        seconds = min(EXPLAIN_SECONDS_EACH, deadline - time.monotonic())
        if seconds <= 0:
            return SolveResult(
                status=Status.NOT_FOUND, solver=request.solver, placements=None, bounds=(), runtime_s=0.0
            )
        options = replace(request.solve, time_limit_s=seconds)
        return registry.solve(relaxed, options, Progress(), name=request.solver)

    return explain_infeasible(problem, answer)


def _offer(problem: Problem) -> str:
    """The GPUs that may be used, by type: "8 A100-80 and 4 L4"."""
    gpus: dict[str, set[str]] = {}
    for device in problem.devices:
        if not device.cordoned:
            gpus.setdefault(problem.kind_by_name[device.kind].type, set()).add(device.gpu)
    return " and ".join(f"{len(found)} {name}" for name, found in gpus.items())


def _with_headroom(choice: BuildSettings, workload: Workload) -> BuildSettings:
    """The settings of a problem name the largest headroom that a model is planned with."""
    largest = max((model.headroom for model in workload.models), default=0.0)
    return replace(choice, settings=replace(choice.settings, headroom=largest))
