"""planner report: a plan as one page to read and to print."""

from __future__ import annotations

from pathlib import Path

import click

from planner.commands.output import note, print_json
from planner.errors import InputError


@click.command("report", short_help="Write a plan as one HTML page, or its fleet map as a picture.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The HTML file to write; it needs no network.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the map of the fleet alone, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(plan: Path, out: Path | None, svg: Path | None, as_json: bool) -> None:
    """Show PLAN: the answer, a map of the fleet, every replica, and what verification measured."""
    from planner.workflow.serving import report_plan

    if out is None and svg is None:
        raise InputError("nothing to write", hint="planner report PLAN -o report.html")
    notes = report_plan(plan, html=out, svg=svg)
    written = [str(path) for path in (out, svg) if path is not None]
    if as_json:
        print_json({"written": written, "notes": notes})
        return
    for text in notes:
        note(text)
    click.echo(f"written: {', '.join(written)}")
