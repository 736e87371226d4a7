"""planner emit: a plan as folders to deploy."""

from __future__ import annotations

from pathlib import Path

import click

from planner.commands.output import print_json


@click.command("emit", short_help="Write a plan as Triton model repositories and launch files.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--target", "targets", multiple=True, metavar="NAME",
              help="repository, mig-parted (how GPUs are split).  [default: repository]")  # fmt: skip
@click.option("--model-repository", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--copy", is_flag=True, help="Copy the models' files; by default they are links to where they are now.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(plan: Path, out: Path, targets: tuple[str, ...], model_repository: Path, copy: bool, as_json: bool) -> None:
    """Write one Triton model repository per device of PLAN, a launch.sh per node, and routing.json.

    Other targets come beside them: mig-parted.yaml says how GPUs are split, for NVIDIA's MIG partition editor.

    OUT appears whole or not at all; one that an earlier emit wrote is replaced as a whole.
    """
    from planner.domain.units import counted
    from planner.emit.repository import repository_of
    from planner.workflow.serving import emit_plan

    found = emit_plan(plan, model_repository, out, targets=targets or ("repository",), copy=copy)
    nodes = sorted({place.node for place in found})
    if as_json:
        servers = [
            {
                "device": place.device.device,
                "repository": str(repository_of(place, out)),
                "launch": str(out / place.node / "launch.sh"),
                "models": place.models,
            }
            for place in found
        ]
        print_json({"out": str(out), "servers": servers})
        return
    models = sum(len(place.models) for place in found)
    counts = f"{counted(len(found), 'server')} on {counted(len(nodes), 'node')}, {counted(models, 'model')}"
    click.echo(f"{out}: {counts}; routing.json has the weights")
    if nodes:
        click.echo(f"start a node's servers with its launch.sh, e.g. {out / nodes[0] / 'launch.sh'}")
        click.echo("they listen on 127.0.0.1; TRITON_ADDRESS=0.0.0.0 opens them to other hosts")
    if not copy:
        click.echo(f"models are links into {model_repository}; --copy makes the folder stand alone")
