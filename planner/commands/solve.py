"""planner solve: place the models on a fleet."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.commands.output import note, print_json, print_table
from planner.errors import InputError, NoPlanError
from solvers.base import Progress

if TYPE_CHECKING:
    from planner.domain.plan import ObjectiveValue, Plan
    from planner.domain.problem import Objective, Problem
    from planner.workflow.planning import Solved, SolveRequest

GPUS_SHOWN = 20


@click.command("solve", short_help="Place the models on a fleet, with proof.")
@click.option("--gpus", multiple=True, metavar="NxTYPE", help="How many of which type, e.g. 8xA100; may be repeated.")
@click.option("--fleet", type=click.Path(path_type=Path), help="Fleet file.  [default: fleet.yaml]")
@click.option("--workload", type=click.Path(path_type=Path), help="Workload file.  [default: workload.yaml]")
@click.option(
    "--profiles", type=click.Path(path_type=Path), help="CSV or Parquet file of profiles instead of the store."
)
@click.option("--store", default="sqlite:///profiles.db", show_default=True, help="Profile store.")
@click.option("--current", type=click.Path(path_type=Path), metavar="PLAN",
              help="The plan that runs now: what stays as it is counts as no move.")  # fmt: skip
@click.option("--service-level", type=click.FloatRange(0.5, 1, max_open=True),
              help="How often uncertain demand is to be served.  [default: 0.99 where it is uncertain]")  # fmt: skip
@click.option("--max-moves", type=click.IntRange(min=0), help="At most so many replicas may differ from --current.")
@click.option("--minimize", help="Objectives in order: unserved, gpus, cost, power, moves, balance, models, "
              "throughput.")  # fmt: skip
@click.option("--allow-unserved", is_flag=True, help="Leave demand unserved where it does not fit.")
@click.option("--time-limit", type=click.FloatRange(min=0.1), default=60, show_default=True, help="Seconds.")
@click.option("--solver", type=click.Choice(["auto", "columns", "cpsat", "greedy"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--iterations", type=click.IntRange(min=0), help="A limit in steps: the same seed gives the same plan.")
@click.option("--gap", type=click.FloatRange(min=0), default=0, show_default=True, help="Stop at this proven gap.")
@click.option("--utilization", type=click.FloatRange(0, 1, min_open=True), default=0.8, show_default=True,
              help="Most busy time of a device that models share.")  # fmt: skip
@click.option("--reserve", type=click.FloatRange(0, 1, max_open=True), default=0.05, show_default=True,
              help="Share of each device's memory left free.")  # fmt: skip
@click.option(
    "--headroom", type=click.FloatRange(min=0), help="Plan for (1 + headroom) x rate.  [default: workload's, 0]"
)
@click.option("--mig-margin", type=click.FloatRange(0, 1, max_open=True), default=0.05, show_default=True,
              help="Busy time kept free on a MIG slice.")  # fmt: skip
@click.option("--server-base", metavar="BYTES", help="Memory of an empty server where no @server row gives it.")
@click.option("--optimistic-latency", is_flag=True, help="Uncalibrated latency by the fast limit alone.")
@click.option("--require-open-loop", is_flag=True, help="Refuse latency from closed-loop points.")
@click.option(
    "--mig", is_flag=True, help="Let the planner split GPUs into MIG slices; those with a mig_layout keep it."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("plan"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(as_json: bool, **options: Any) -> None:
    """Choose for every model its replicas, configurations and devices so that every rule holds.

    Writes plan.json and problem.json into the output folder. Exit code 3: there is no plan, and why.
    """
    from planner.workflow.planning import solve

    try:
        solved = solve(_request(options), _Reporter())
    except NoPlanError as error:
        if as_json:
            print_json({"status": error.status, "reasons": error.reasons})
        raise
    if as_json:
        print_json(solved.plan)
    else:
        _print(solved, options)
    if solved.interrupted:
        note(f"stopped early: the best plan found so far is in {options['out']}")
        raise KeyboardInterrupt


def _request(options: dict[str, Any]) -> SolveRequest:
    from planner.build import BuildSettings
    from planner.domain.problem import Settings
    from planner.domain.units import parse_bytes
    from planner.workflow.planning import SolveRequest
    from solvers.base import SolveOptions

    settings = Settings(
        headroom=options["headroom"] or 0.0,
        utilization=options["utilization"],
        reserve=options["reserve"],
        mig_margin=options["mig_margin"],
        optimistic_latency=options["optimistic_latency"],
        require_open_loop=options["require_open_loop"],
    )
    base = options["server_base"]
    build = BuildSettings(
        settings=settings,
        objectives=_objectives(options["minimize"]),
        allow_unserved=options["allow_unserved"],
        max_moves=options["max_moves"],
        service_level=options["service_level"],
        server_base_bytes=None if base is None else parse_bytes(base, where="--server-base"),
        mig=options["mig"],
    )
    return SolveRequest(
        build=build,
        solve=SolveOptions(time_limit_s=options["time_limit"], seed=options["seed"], gap=options["gap"],
                           iterations=options["iterations"]),
        **{name: options[name] for name in
           ("solver", "gpus", "fleet", "workload", "profiles", "store", "headroom", "current", "out")},
    )  # fmt: skip


def _objectives(text: str | None) -> tuple[Objective, ...]:
    from planner.domain.problem import Objective

    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in set(Objective):
            raise InputError(f"--minimize: unknown objective {name!r}; allowed are {', '.join(Objective)}")
    return tuple(Objective(name) for name in dict.fromkeys(names))


def _print(solved: Solved, options: dict[str, Any]) -> None:
    from planner.commands import plan_view

    plan, problem, out = solved.plan, solved.problem, options["out"]
    click.echo(plan_view.headline(plan, problem))
    for line in plan_view.figures(plan, problem, time_limit_s=options["time_limit"], gap=options["gap"]):
        click.echo(line)
    click.echo()
    _print_objectives(plan)
    _print_periods(plan, problem)
    if plan.gpus:
        click.echo("Placement: instances x largest batch, capacity, latency at it of its bound\n")
    for line in plan_view.placement(plan, problem, GPUS_SHOWN):
        click.echo(line)
    for line in plan_view.ensembles(plan):
        click.echo(line)
    for entry in plan.unserved:
        click.echo(f"unserved: {entry.model}: {entry.rate_rps:g} req/s, {entry.reason}")
    click.echo(f"\nwritten: {out / 'plan.json'}, {out / 'problem.json'}")
    for text in solved.notes:
        note(text)


def _print_objectives(plan: Plan) -> None:
    rows = [
        (o.name.value, f"{o.value:g}", "none" if o.bound is None else f"{o.bound:g}",
         "-" if gap is None else f"{gap:.2%}", o.method, "-" if o.certified_bound is None else f"{o.certified_bound:g}")
        for o, gap in zip(plan.objectives, plan.gap, strict=True)
    ]  # fmt: skip
    print_table("Objectives", ["objective", "value", "bound", "gap", "proved by", "certified"], rows)


def _print_periods(plan: Plan, problem: Problem) -> None:
    from planner.domain.period_loads import period_loads

    if len(problem.periods) < 2:
        return
    rows = [
        (load.period, f"{load.rate_rps:,.5g}", load.device or "-", f"{load.busy:.1%}", f"{load.binding:,}")
        for load in period_loads(problem, plan)
    ]
    print_table("Periods", ["period", "req/s", "busiest device", "busy", "binds there"], rows)


class _Reporter(Progress):
    """Progress on standard error, on a terminal only."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def improved(self, placements: object, objectives: Iterable[Any]) -> None:
        if self._shown:
            found = ", ".join(_so_far(o) for o in objectives)
            click.echo(f"  found: {found}", err=True)

    def message(self, text: str) -> None:
        if self._shown:
            click.echo(f"  {text}", err=True)


def _so_far(objective: ObjectiveValue) -> str:
    """One objective of a plan on the way: its value, and how far it may be from the best."""
    from planner.domain.objectives import gap

    text, open_gap = f"{objective.name} {objective.value:g}", gap(objective)
    return text if open_gap is None else f"{text} (bound {objective.bound:g}, gap {open_gap:.2%})"
