"""planner doctor: what this machine offers, and how to get what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.commands.output import print_json

if TYPE_CHECKING:
    from profiler.server import doctor


@click.command("doctor", short_help="What is found here, and how to get what is missing.")
@click.option("--triton-server", type=click.Path(path_type=Path), help="The tritonserver binary to look at.")
@click.option("--install-triton", is_flag=True, help="Unpack a real tritonserver for CPUs into Planner's cache.")
@click.option("--install-perf-analyzer", is_flag=True,
              help="Set up NVIDIA's perf_analyzer in Planner's cache, with the C library that it needs.")  # fmt: skip
@click.option("--store", default="sqlite:///profiles.db", show_default=True, help="Profile store to look at.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    triton_server: Path | None, install_triton: bool, install_perf_analyzer: bool, store: str, as_json: bool
) -> None:
    """Say what was found of what measuring and verifying need. Always exits with 0: it only tells.

    A trial server is started, and a trial model loaded: nothing else shows that they work.
    """
    from profiler.load import perf_analyzer_binary
    from profiler.server import doctor, find

    if install_triton:
        found = find.install_wheel()
        click.echo(f"installed: {found.binary}", err=True)
    if install_perf_analyzer:
        installed = perf_analyzer_binary.install_perf_analyzer()
        click.echo(f"installed: perf_analyzer {installed.version}, {installed.command[-1]}", err=True)
    checks = [*doctor.checks(triton_server), _store(store)]
    if as_json:
        print_json({"checks": checks})
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok     " if check.ok else "missing"
        click.echo(f"{mark}  {check.name:<{width}}  {check.found}")
        if check.hint:
            click.echo(f"{'':{width + 11}}{check.hint}")


def _store(url: str) -> doctor.Check:
    from planner.errors import PlannerError
    from planner.store.database import open_store
    from profiler.server import doctor

    try:
        store = open_store(url, must_exist=True)
    except PlannerError as error:
        return doctor.Check("store", False, error.message, error.hint)
    try:
        rows = store.rows()
    except PlannerError as error:
        return doctor.Check("store", False, error.message, error.hint)
    finally:
        store.close()
    models = {row.model for row in rows if not row.is_overhead}
    return doctor.Check("store", True, f"{len(rows)} points of {len(models)} models")
