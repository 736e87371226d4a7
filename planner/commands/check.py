"""planner check: recompute every rule and figure of a plan, and prove its bounds again, without any solver."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.commands.output import print_json
from planner.errors import CheckFailed

if TYPE_CHECKING:
    from planner.domain.observed import Replay
    from planner.domain.plan import ObjectiveValue, Plan
    from planner.domain.proof import Examination

WIDTH = 80
BROKEN_SHOWN = 5
NO_REASON = "the solver gave none"


@click.command("check", short_help="Recompute every rule and figure of a plan, without any solver.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("--bound", "with_bounds", is_flag=True, help="Prove every certified bound again, in whole numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print the violations, and the bounds, as JSON.")
def command(plan: Path, with_bounds: bool, as_json: bool) -> None:
    """Recompute every rule and every figure of PLAN (a folder or its plan.json) from its problem.json.

    With --bound also prove what certificate.json says: that no plan can be better than the certified bounds.
    No solver and no floating point takes part in that.

    Exit code 0: every rule and every certified bound holds. 4: at least one does not, or a bound could not be
    verified; each is printed with its name.
    """
    from planner.domain.check import check
    from planner.domain.layout import Layout
    from planner.domain.proof import examine
    from planner.domain.replay import replay
    from planner.plan_files import read_certificate, read_plan

    problem, found = read_plan(plan)
    certificate = read_certificate(plan) if with_bounds else None
    violations = check(problem, found)
    seen = (
        None
        if violations or problem.observed is None
        else replay(Layout(problem, found.placements()), problem.observed)
    )
    # What a bound is compared with must be right first.
    examined = examine(problem, found, certificate) if with_bounds and not violations else None
    if examined is not None:
        violations = [*violations, *examined.violations]
    if as_json:
        bounds = {} if examined is None else {"bounds": list(_bounds(found, examined))}
        observed = {} if seen is None else {"observed": _observed(seen, problem.settings.service_level)}
        print_json({"violations": violations, **bounds, **observed})
    for violation in violations if not as_json else ():
        click.echo(str(violation))
    if violations:
        raise CheckFailed(f"{plan}: {len(violations)} violation{'s' if len(violations) > 1 else ''}")
    if not as_json:
        _print_success(plan, found, examined)
        for line in () if seen is None else _replayed(seen, problem.settings.service_level):
            click.echo(line)
    if seen is not None and seen.share < (problem.settings.service_level or 0):
        raise CheckFailed(f"{plan}: every rule held in {seen.share:.2%} of the observed time only")


def _print_success(path: Path, plan: Plan, examined: Examination | None) -> None:
    from planner.domain.rules import RULES
    from planner.domain.units import counted

    names = ", ".join(rule.__name__.replace("_", "-") for rule in RULES)
    what = f"{counted(len(plan.replicas), 'replica')} on {counted(plan.summary.gpus_used, 'GPU')}"
    click.echo(textwrap.fill(f"{path}: holds. Kept by {what}: {names};", WIDTH, break_on_hyphens=False))
    click.echo("every figure of plan.json follows from its placements.")
    for line in () if examined is None else _proved(plan, examined):
        click.echo(line)


def _observed(seen: Replay, level: float | None) -> dict[str, object]:
    broken = [{"rule": rule, "subject": subject, "seconds": s} for (rule, subject), s in seen.broken_s.items()]
    return {"total_s": seen.total_s, "held_s": seen.held_s, "share": seen.share, "planned": level, "broken": broken}


def _replayed(seen: Replay, level: float | None) -> Iterator[str]:
    planned = "" if level is None else f"; planned for {level:.5g}"
    yield f"Replayed: every rule held in {seen.share:.2%} of {seen.total_s / 3600:,.4g} observed hours{planned}."
    worst = sorted(seen.broken_s.items(), key=lambda entry: -entry[1])
    for (rule, subject), seconds in worst[:BROKEN_SHOWN]:
        yield f"  not {rule} of {subject}: {seconds / seen.total_s:.2%}"


def _bounds(plan: Plan, examined: Examination) -> Iterator[dict[str, object]]:
    """Per objective what was proved, or why nothing is."""
    proven = {bound.objective: bound for bound in examined.proven}
    for objective in plan.objectives:
        bound = proven.get(objective.name)
        yield {
            "objective": objective.name,
            "value": objective.value,
            "certified_bound": objective.certified_bound,
            "proven_bound": None if bound is None else bound.bound,
            "leaves": None if bound is None else bound.leaves,
            "nodes": None if bound is None else bound.nodes,
            "uncertified": objective.uncertified,
        }


def _proved(plan: Plan, examined: Examination) -> Iterator[str]:
    """One paragraph per objective, no wider than a terminal."""
    from planner.domain.units import counted

    proven = {bound.objective: bound for bound in examined.proven}
    if proven:
        yield "Proved again, in whole numbers and without a solver:"
    for objective in plan.objectives:
        bound = proven.get(objective.name)
        if bound is None:
            text = f"no certified bound: {objective.uncertified or NO_REASON}"
        else:
            effort = f"{counted(bound.leaves, 'leaf', 'leaves')}, {counted(bound.nodes, 'node')}"
            text = f"{_compared(objective, bound.bound)} ({effort})"
        start = f"  {objective.name.value:10} "
        yield textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _compared(objective: ObjectiveValue, bound: float) -> str:
    if bound == objective.value:
        return f"no plan is below {bound:,.12g}, and this one reaches it"
    return f"no plan is below {bound:,.12g}; this one has {objective.value:,.12g}"
