"""planner explain: which rules bind a plan."""

from __future__ import annotations

from pathlib import Path

import click

from planner.commands.output import print_json


@click.command("explain", short_help="Which rules bind a plan, in amounts.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("--json", "as_json", is_flag=True, help="Print the sentences as JSON.")
def command(plan: Path, as_json: bool) -> None:
    """Say in amounts which rules bind PLAN, and what it rests on."""
    from planner.build import basis_notes
    from planner.explain import explain_plan
    from planner.plan_files import read_plan

    problem, found = read_plan(plan)
    lines = explain_plan(problem, found)
    notes = basis_notes(problem, [problem.option_by_id[r.option] for r in found.replicas])
    if as_json:
        print_json({"binding": lines, "notes": notes})
        return
    for line in (*lines, *notes):
        click.echo(line)
