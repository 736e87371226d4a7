"""planner schema: the JSON Schema of each file."""

from __future__ import annotations

import click

from planner.commands.output import print_json


@click.command("schema", short_help="JSON Schema of a file: workload, fleet, measure, problem, plan, certificate.")
@click.argument("name", type=click.Choice(["workload", "fleet", "measure", "problem", "plan", "certificate"]))
def command(name: str) -> None:
    """Print the JSON Schema of a file, for editors and CI."""
    from planner.inputs.schemas import schema

    print_json(schema(name))
