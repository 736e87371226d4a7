"""Emit, verify and report: from a plan on disk to folders, a run on a real Triton, and a page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner.domain.check import check
from planner.domain.codec import to_json
from planner.domain.plan import Plan
from planner.domain.problem import Problem
from planner.domain.verification import Verification, verification_from_json
from planner.emit.places import Place
from planner.emit.repository import emit
from planner.errors import CheckFailed, InputError
from planner.files import write_all
from planner.plan_files import json_text, plan_digest, plan_folder, read_json, read_plan
from planner.verify import VerifyReporter, VerifySettings, verify
from planner.workflow.cores import CoreShares, share_cores

DEFAULT_REPOSITORY = Path("models")
VERIFICATION_FILE = "verification.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """`devices` empty: all of the plan. `cores` empty: the first ones. `triton_server` None: the one found."""

    plan: Path
    model_repository: Path = DEFAULT_REPOSITORY
    settings: VerifySettings = field(default_factory=VerifySettings)
    devices: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    triton_server: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateRequest:
    """`devices` empty: all of the plan. `requests` on each device, unless a `trace` has them."""

    plan: Path
    settings: VerifySettings = field(default_factory=VerifySettings)
    devices: tuple[str, ...] = ()
    requests: int
    trace: Path | None = None


def emit_plan(plan_path: Path, model_repository: Path, out: Path, *, targets: Sequence[str], copy: bool) -> list[Place]:
    """Write the folder to deploy; CheckFailed where the plan breaks a rule."""
    problem, plan = _checked(plan_path)
    return emit(problem, plan, model_repository, out, targets=targets, copy=copy)


def verify_plan(request: VerifyRequest, reporter: VerifyReporter) -> tuple[Verification, Path]:
    """Run the plan on this machine; the verification, and the file beside the plan that it is in."""
    from planner.workflow.bench import LocalBench
    from profiler.server.find import find_triton

    problem, plan = _checked(request.plan)
    shares = _shares(problem, plan, request)
    installation = find_triton(request.triton_server)
    with tempfile.TemporaryDirectory(prefix="planner-verify-") as scratch:
        emitted = Path(scratch) / "emitted"
        places = emit(problem, plan, request.model_repository, emitted, targets=("repository",), copy=False)
        bench = LocalBench(installation, emitted, places, shares.by_device, Path(scratch) / "logs")
        found = verify(
            problem, plan, bench, request.settings, waves=shares.waves, notes=shares.notes, reporter=reporter
        )
    return found, _written(request.plan, found)


def simulate_plan(request: SimulateRequest, reporter: VerifyReporter) -> tuple[Verification, Path]:
    """The same without servers, from the measurements behind the plan."""
    from planner.inputs.trace import read_trace
    from planner.simulator.replay import ReplaySettings, replay

    problem, plan = _checked(request.plan)
    _require_known(request.devices, _core_counts(problem, plan))
    served = {replica.model for replica in plan.replicas}
    settings = ReplaySettings(
        rates=request.settings.rates if request.trace is None else "trace",
        factor=request.settings.factor,
        requests=request.requests,
        seed=request.settings.seed,
        trace=None if request.trace is None else read_trace(request.trace, served),
    )
    found = replay(problem, plan, settings, devices=request.devices, simulated=reporter.verified)
    return found, _written(request.plan, found)


def _written(plan_path: Path, found: Verification) -> Path:
    path = plan_folder(plan_path) / VERIFICATION_FILE
    write_all({path: json_text(to_json(found))})
    return path


def report_plan(plan_path: Path, *, html: Path | None, svg: Path | None) -> list[str]:
    """Write the page, the picture, or both; notes for the reader."""
    from planner.report.fleet_map import standalone_svg
    from planner.report.page import page

    problem, plan = read_plan(plan_path)
    violations = [str(violation) for violation in check(problem, plan)]
    verification, notes = _verification(plan_path, plan)
    texts = {}
    if html is not None:
        texts[html] = page(problem, plan, verification, violations)
    if svg is not None:
        texts[svg] = standalone_svg(problem, plan)
    write_all(texts)
    if violations:
        notes.append(f"the plan breaks {len(violations)} rules or figures; `planner check` lists them")
    return notes


def _checked(plan_path: Path) -> tuple[Problem, Plan]:
    problem, plan = read_plan(plan_path)
    violations = check(problem, plan)
    if violations:
        raise CheckFailed(
            f"{plan_path} is not a valid plan: {violations[0]}"
            + (f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""),
            hint="`planner check` lists everything; `planner solve` makes a new plan",
        )
    return problem, plan


def _shares(problem: Problem, plan: Plan, request: VerifyRequest) -> CoreShares:
    counts = _core_counts(problem, plan)
    _require_known(request.devices, counts)
    chosen = {name: count for name, count in counts.items() if not request.devices or name in request.devices}
    return share_cores(chosen, sorted(os.sched_getaffinity(0)), request.cores)


def _require_known(devices: Sequence[str], used: Collection[str]) -> None:
    unknown = [name for name in devices if name not in used]
    if unknown:
        raise InputError(f"device {unknown[0]!r} carries nothing in this plan; it uses {', '.join(list(used)[:20])}")


def _core_counts(problem: Problem, plan: Plan) -> Mapping[str, int | None]:
    cores = {device.id: problem.kind_by_name[device.kind].cores for device in problem.devices}
    return {device.device: cores[device.device] for device in plan.servers}


def _verification(plan_path: Path, plan: Plan) -> tuple[Verification | None, list[str]]:
    """The verification beside the plan, where it is of this very plan."""
    path = plan_folder(plan_path) / VERIFICATION_FILE
    if not path.exists():
        return None, []
    found = verification_from_json(read_json(path), f"{path}: verification")
    if found.plan_digest != plan_digest(plan):
        return None, [f"{path} is of another plan and was left out; run `planner verify` again"]
    return found, []
