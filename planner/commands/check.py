"""planner check: recompute every rule and figure of a plan, without any solver."""

from __future__ import annotations

from pathlib import Path

import click

from planner.commands.output import print_json
from planner.errors import CheckFailed


@click.command("check", short_help="Recompute every rule and figure of a plan, without any solver.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("--json", "as_json", is_flag=True, help="Print the violations as JSON.")
def command(plan: Path, as_json: bool) -> None:
    """Recompute every rule and every figure of PLAN (a folder or its plan.json) from its problem.json.

    Exit code 0: every rule holds. 4: at least one does not; each is printed with its name.
    """
    from planner.domain.check import check
    from planner.domain.rules import RULES
    from planner.plan_files import read_plan

    problem, found = read_plan(plan)
    violations = check(problem, found)
    if as_json:
        print_json({"violations": violations})
    for violation in violations if not as_json else ():
        click.echo(str(violation))
    if violations:
        raise CheckFailed(f"{plan}: {len(violations)} violation{'s' if len(violations) > 1 else ''}")
    if not as_json:
        names = ", ".join(rule.__name__.replace("_", "-") for rule in RULES)
        click.echo(f"{plan}: holds. {len(found.replicas)} replicas on {found.summary.gpus_used} GPUs keep {names};")
        click.echo("every figure of plan.json follows from its placements.")
