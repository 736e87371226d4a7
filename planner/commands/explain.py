"""planner explain: which rules bind a plan, and what else could have been."""

from __future__ import annotations

from pathlib import Path

import click

from planner.commands.output import print_json


@click.command("explain", short_help="Which rules bind a plan, in amounts, and what would change it.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("--why", multiple=True, metavar="MODEL", help="Why it is where it is, and its next best place; repeat.")
@click.option("--time-limit", type=click.FloatRange(min=0), default=30, show_default=True,
              help="Seconds for what one more GPU or one objective less would change; 0 leaves that out.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the sentences as JSON.")
def command(plan: Path, why: tuple[str, ...], time_limit: float, as_json: bool) -> None:
    """Say in amounts which rules bind PLAN, what it rests on, and what would change it."""
    from planner.workflow.explaining import explain

    found = explain(plan, why, time_limit)
    if as_json:
        print_json(found)
        return
    for lines in (found.binding, found.gpus, found.what_if, found.why, found.notes):
        for line in lines:
            click.echo(line)
