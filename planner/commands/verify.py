"""planner verify: run a plan on a real Triton, or simulate it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from planner.commands.output import print_json
from planner.domain.units import counted
from planner.errors import CheckFailed, Incomplete

if TYPE_CHECKING:
    from planner.domain.verification import Verification
    from planner.workflow.serving import SimulateRequest, VerifyRequest

DEFAULT_CONFIG = Path("measure.yaml")


@click.command("verify", short_help="Run a plan on a real Triton: predicted beside measured.")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("plan"))
@click.option("--rates", default="planned", show_default=True, metavar="planned|full|FACTOR",
              help="Traffic: the rates of the workload, whole capacities, or a factor of the rates.")  # fmt: skip
@click.option("--model-repository", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--device", "devices", multiple=True, metavar="NODE/INDEX", help="Only this device; may be repeated.")
@click.option(
    "--cores", metavar="LIST", help="Cores for the plan's CPU devices, e.g. 0 or 0,2-3.  [default: the first]"
)
@click.option("--triton-server", type=click.Path(path_type=Path), help="The tritonserver binary.")
@click.option("--config", type=click.Path(path_type=Path),
              help="Its shapes are the sizes that a model leaves open.  [default: measure.yaml]")  # fmt: skip
@click.option("--max-seconds", type=click.FloatRange(min=10), default=300, show_default=True,
              help="Longest window of a device; a p99 needs 2,000 requests, else its verdict is unclear.")  # fmt: skip
@click.option(
    "--simulate", is_flag=True, help="No server: simulate the devices from what was measured of models alone."
)
@click.option("--requests", type=click.IntRange(min=1), default=200_000, show_default=True, metavar="N",
              help="With --simulate: requests on each device, up to ten times as many for a rare model.")  # fmt: skip
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE",
              help="With --simulate: requests as CSV (timestamp, model) in place of Poisson arrivals.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the verification as JSON.")
def command(as_json: bool, **options: Any) -> None:
    """Start the servers of PLAN on this machine, send every model its traffic at the same time, and compare.

    Writes verification.json beside the plan. Exit code 4: a model missed its bound. 5: a server failed.
    """
    from planner.domain.codec import to_json
    from planner.verify_table import verification_table
    from planner.workflow.serving import simulate_plan, verify_plan

    _require_used(options)
    try:
        if options["simulate"]:
            found, path = simulate_plan(_simulation(options), _reporter())
        else:
            found, path = verify_plan(_request(options), _reporter())
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no verification was written") from None
    if as_json:
        print_json({**to_json(found), "complete": found.complete})
    else:
        click.echo(verification_table(found))
        click.echo(f"\nwritten: {path}")
    if found.interrupted:
        raise KeyboardInterrupt(f"verified so far: {counted(len(found.devices), 'device')}, in {path}")
    _raise_unless_good(found)


def _raise_unless_good(found: Verification) -> None:
    from planner.domain.verification import Verdict

    missed = [f"{m.model} ({m.replica})" for m in found.models() if m.verdict is Verdict.MISSED]
    if missed:
        raise CheckFailed(
            f"{len(missed)} of {len(list(found.models()))} replicas missed their bound: {', '.join(missed)}"
        )
    broken = [device for device in found.devices if device.failure is not None]
    if broken and broken[0].failure is not None:
        first = broken[0].failure
        raise Incomplete(
            f"{len(broken)} of {len(found.devices)} servers failed; {broken[0].device}: {first.message}",
            log_tail=first.log_tail,
        )


_OF_A_SERVER = ("model_repository", "cores", "triton_server", "config", "max_seconds")
_OF_A_SIMULATION = ("requests", "trace")


def _require_used(options: Mapping[str, Any]) -> None:
    """An option that would change nothing is a mistake."""

    def given(names: Iterable[str]) -> list[str]:
        source, default = click.get_current_context().get_parameter_source, ParameterSource.DEFAULT
        return ["--" + name.replace("_", "-") for name in names if source(name) is not default]

    if options["simulate"]:
        if idle := given(_OF_A_SERVER):
            raise click.UsageError(f"{idle[0]} is for a real server, --simulate starts none")
        if options["trace"] is not None and (idle := given(("rates", "requests"))):
            raise click.UsageError(f"{idle[0]} and --trace exclude each other: the trace says what is asked for")
    elif idle := given(_OF_A_SIMULATION):
        raise click.UsageError(f"{idle[0]} needs --simulate")


def _simulation(options: Mapping[str, Any]) -> SimulateRequest:
    from planner.verify import VerifySettings
    from planner.workflow.serving import SimulateRequest

    return SimulateRequest(
        plan=options["plan"],
        settings=VerifySettings(rates=options["rates"], seed=options["seed"]),
        devices=options["devices"],
        requests=options["requests"],
        trace=options["trace"],
    )


def _request(options: Mapping[str, Any]) -> VerifyRequest:
    from planner.verify import VerifySettings
    from planner.workflow.cores import parse_cores
    from planner.workflow.serving import VerifyRequest

    return VerifyRequest(
        plan=options["plan"],
        model_repository=options["model_repository"],
        settings=VerifySettings(
            rates=options["rates"],
            max_seconds=options["max_seconds"],
            seed=options["seed"],
            shapes=_shapes(options["config"]),
        ),
        devices=options["devices"],
        cores=parse_cores(options["cores"]) if options["cores"] else (),
        triton_server=options["triton_server"],
    )


def _shapes(config: Path | None) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
    from planner.inputs.measure_config import read_measure_config

    if config is None and not DEFAULT_CONFIG.exists():
        return {}
    return read_measure_config(config or DEFAULT_CONFIG).shapes


def _reporter() -> Any:
    from planner.verify import VerifyReporter

    class Reporter(VerifyReporter):
        """Progress on standard error, on a terminal only."""

        def device(self, device: str, seconds: float, number: int, total: int) -> None:
            if sys.stderr.isatty():
                click.echo(f"  {device} ({number} of {total}): traffic for {seconds:g} s", err=True)

    return Reporter()
