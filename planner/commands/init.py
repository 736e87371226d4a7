"""planner init: commented files to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.domain.fleet import Fleet

NAMES = ("workload.yaml", "fleet.yaml", "measure.yaml")


@click.command("init", short_help="Write commented workload.yaml, fleet.yaml and measure.yaml.")
@click.option("--model-repository", type=click.Path(path_type=Path), help="Take the models' names from here.")
@click.option("--gpus", multiple=True, metavar="NxTYPE", help="The fleet to write.  [default: this host's cores]")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(), help="Folder.  [default: this one]")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def command(model_repository: Path | None, gpus: tuple[str, ...], out: Path, force: bool) -> None:
    """Write workload.yaml, fleet.yaml and measure.yaml with comments, ready to edit.

    Models come from the model repository, devices from this host: one device of one core per usable core
    but one, which the load generator needs.
    """
    from planner.files import write_all
    from planner.inputs import fleet, templates

    existing = [name for name in NAMES if (out / name).exists()]
    if existing and not force:
        raise InputError(f"{out / existing[0]} exists already", hint="--force replaces it, -o names another folder")
    models = _models(model_repository)
    cores = max(1, len(os.sched_getaffinity(0)) - 1)
    counts = gpus or (f"{cores}xcpu-1",)
    parsed, notes = fleet.fleet_from_counts(counts, fleet.known_types())
    texts = {
        "workload.yaml": templates.workload(models),
        "fleet.yaml": templates.fleet([(gpu_type, count) for gpu_type, count in _counts(parsed)]),
        "measure.yaml": templates.measure(models),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_all({out / name: text for name, text in texts.items()})
    for line in notes:
        click.echo(f"note: {line}", err=True)
    for name in texts:
        click.echo(f"written: {out / name}")
    click.echo("next: put rates and latency objectives into workload.yaml, then")
    click.echo("  planner measure --model-repository DIR --device cpu-1")
    click.echo("  planner solve")


def _models(repository: Path | None) -> list[str]:
    if repository is None:
        return []
    if not repository.is_dir():
        raise InputError(f"--model-repository {repository}: not a directory")
    found = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not found:
        raise InputError(f"--model-repository {repository}: no folder in it has a config.pbtxt")
    return found


def _counts(fleet: Fleet) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for gpu in fleet.gpus:
        counts[gpu.type] = counts.get(gpu.type, 0) + 1
    return list(counts.items())
