"""planner measure: run models on a real Triton and keep what they take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from planner.commands.output import note, print_json
from planner.domain.units import counted
from planner.errors import Incomplete, InputError

if TYPE_CHECKING:
    from planner.domain.serving import Access
    from planner.workflow.measuring import Measured, SweepRequest
    from profiler.progress import MeasureReporter

FAILURES_SHOWN = 10
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ONLY_REMOTE = ("metrics_url", "tls_ca", "tls_certificate", "tls_key", "headers")
_ONLY_LOCAL = ("exclusive", "cores", "triton_server")


@click.command("measure", short_help="Measure models on a real Triton server.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--model-repository", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--device",
              help="What to measure on: cpu-N (N cores), gpu:0, gpu:0:1 (a MIG device), or a GPU's UUID; with "
                   "--server the type that it runs on.  [default: cpu-1]")  # fmt: skip
@click.option("--exclusive", is_flag=True, help="Refuse to measure while other processes are on the GPU.")
@click.option("--cores", metavar="LIST",
              help="Cores of the server, e.g. 0 or 0,2-3.  [default: the first ones; all beside a GPU]")  # fmt: skip
@click.option("--search", type=click.Choice(["auto", "grid"]),
              help="auto: what a plan may need; grid: all.  [default: measure.yaml's, else auto]")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path), help="What to sweep.  [default: measure.yaml]")
@click.option("--workload", type=click.Path(path_type=Path),
              help="Rates and percentiles to measure for.  [default: workload.yaml]")  # fmt: skip
@click.option("--shape", "shapes", multiple=True, metavar="[MODEL:]INPUT:SIZES",
              help="Sizes that a configuration leaves open, without the batch: ranker:x:1,128.")  # fmt: skip
@click.option(
    "--input-data", multiple=True, metavar="[MODEL:]FILE", help="Real inputs, in perf_analyzer's JSON format."
)
@click.option("--server", default="local", show_default=True, metavar="local|URL",
              help="A server that runs already: grpc://HOST:PORT, grpcs://, http:// or https://.")  # fmt: skip
@click.option("--metrics-url", metavar="URL",
              help="Where that server tells its metrics.  [default: http, the port after gRPC's]")  # fmt: skip
@click.option("--tls-ca", type=_FILE, help="PEM file of the authorities that may sign the server's certificate.")
@click.option("--tls-certificate", type=_FILE, help="PEM file of our own certificate.")
@click.option("--tls-key", type=_FILE, help="PEM file of its key.")
@click.option("--header", "headers", multiple=True, metavar="NAME=env:VARIABLE|NAME=file:PATH",
              help="Sent with every call to the server; its value is never shown or stored.")  # fmt: skip
@click.option("--triton-server", type=click.Path(path_type=Path), help="The tritonserver binary.")
@click.option("--load-generator", type=click.Choice(["auto", "perf_analyzer", "builtin"]), default="auto",
              show_default=True, help="auto: perf_analyzer where it runs, and the built-in one elsewhere.")  # fmt: skip
@click.option("--budget", metavar="DURATION", help="Time for the whole sweep, e.g. 10m.  [default: measure.yaml's]")
@click.option("--fresh", is_flag=True, help="Measure anew what the store has already.")
@click.option("--store", default="sqlite:///profiles.db", show_default=True, help="Profile store.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(as_json: bool, **options: Any) -> None:
    """Measure MODELs (all of the repository without any) over instances, batch sizes and load.

    The search measures the corners of what measure.yaml gives, fits laws to them, and goes on where these are not
    sure; what they tell closely enough is kept as fitted, never as measured.

    Goes on where an earlier run stopped: a point that is in the store is not measured again.
    Exit code 5: some points failed or the budget ended first; what is finished is stored.
    """
    from planner.workflow.measuring import measure_models

    request = _request(options)
    with _Progress() as progress:
        measured = measure_models(request, progress.reporter)
    if as_json:
        print_json(_outcome(measured))
    else:
        _print(measured, request)
    _raise_unless_complete(measured)


def _request(options: dict[str, Any]) -> SweepRequest:
    from planner.inputs.measure_config import parse_duration
    from planner.workflow.cores import parse_cores
    from planner.workflow.measuring import SweepRequest

    _require_supported(options)
    budget = options["budget"]
    return SweepRequest(
        models=options["models"],
        cores=parse_cores(options["cores"]) if options["cores"] else (),
        budget_s=None if budget is None else parse_duration(budget, where="--budget"),
        server=None if options["server"] == "local" else options["server"],
        access=_access(options),
        **{name: options[name] for name in
           ("model_repository", "device", "exclusive", "search", "config", "workload", "fresh", "store",
            "triton_server", "load_generator", "shapes", "input_data", "metrics_url")},
    )  # fmt: skip


def _require_supported(options: dict[str, Any]) -> None:
    """What the interface promises and this version does not have yet is refused, never ignored."""
    local = options["server"] == "local"
    for name in _ONLY_REMOTE if local else _ONLY_LOCAL:
        if options[name]:
            option = "--header" if name == "headers" else "--" + name.replace("_", "-")
            where = "a server that runs already (--server URL)" if local else "a server that is started here"
            raise InputError(f"{option} is for {where}")
    if options["headers"] and options["load_generator"] == "perf_analyzer":
        raise InputError(
            "--header: perf_analyzer takes headers on its command line, where every user of a machine reads them",
            hint="--load-generator auto",
        )


def _access(options: dict[str, Any]) -> Access:
    from planner.domain.serving import Access
    from planner.workflow.secrets import read_headers

    if (options["tls_key"] is None) != (options["tls_certificate"] is None):
        raise InputError("--tls-key and --tls-certificate go together")
    return Access(
        ca=options["tls_ca"],
        certificate=options["tls_certificate"],
        key=options["tls_key"],
        headers=read_headers(options["headers"]),
    )


class _Progress:
    """A bar on a terminal; elsewhere a line per configuration. Both on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._is_terminal = sys.stderr.isatty()
        self._bar = Progress(
            BarColumn(bar_width=16), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True), transient=True, disable=not self._is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting Triton", total=1)

    @property
    def reporter(self) -> MeasureReporter:
        from profiler.progress import MeasureReporter

        progress = self

        class Reporter(MeasureReporter):
            def configuration(self, model: str, configuration: object, number: int, total: int) -> None:
                progress.begin(f"{model}: {configuration}", number, total)

            def point(self, model: str, point: Any, seconds: float) -> None:
                progress.show(f"{model}: {point.name}, {seconds:.0f} s")

            def note(self, text: str) -> None:
                progress.note(text)

        return Reporter()

    def begin(self, text: str, number: int, total: int) -> None:
        self._bar.update(self._task, completed=number - 1, total=total, description=text)
        if not self._is_terminal:
            with _unheard():
                click.echo(f"[{number}/{total}] {text}", err=True)

    def show(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def note(self, text: str) -> None:
        with _unheard():
            if self._is_terminal:
                self._bar.console.print(f"note: {text}", highlight=False, markup=False)
            else:
                note(text)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


@contextmanager
def _unheard() -> Iterator[None]:
    """The reader of the progress may leave; a sweep of hours does not end for that. What stays in the buffer of
    standard error would be tried once more at the end, so it goes to nobody from here on."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _outcome(measured: Measured) -> dict[str, Any]:
    summary = measured.summary
    return {
        "complete": summary.complete,
        "measured": summary.measured,
        "reused": summary.reused,
        "fitted": summary.fitted,
        "failed": summary.failed,
        "left_out": summary.left_out,
        "pruned": summary.pruned,
        "notes": summary.notes,
        "seconds": summary.seconds,
        "profiles": measured.rows,
    }


def _print(measured: Measured, request: SweepRequest) -> None:
    from planner.commands.profiles import print_summaries

    print_summaries(measured.rows, every=True)
    summary = measured.summary
    reused = f", {summary.reused} were in the store already" if summary.reused else ""
    click.echo(
        f"{counted(summary.measured, 'point')} measured in {summary.seconds:.0f} s{reused}; store: {request.store}"
    )
    if summary.fitted:
        click.echo(f"{counted(summary.fitted, 'configuration')} fitted to these, not measured")
    _print_some("not needed", summary.pruned)
    _print_some("failed", summary.failed)
    _print_some("left out, the budget ended first", summary.left_out)


def _print_some(what: str, items: list[str]) -> None:
    for item in items[:FAILURES_SHOWN]:
        click.echo(f"{what}: {item}")
    if len(items) > FAILURES_SHOWN:
        click.echo(f"{what}: {len(items) - FAILURES_SHOWN} more")


def _raise_unless_complete(measured: Measured) -> None:
    summary = measured.summary
    if summary.complete:
        return
    parts = [
        f"{len(items)} {what}" for items, what in
        ((summary.failed, "points failed"), (summary.left_out, "configurations were left out when the budget ended"))
        if items
    ]  # fmt: skip
    raise Incomplete(" and ".join(parts), hint="run the command again: it goes on where it stopped")
