"""From models to profiles in the store: one sweep on a device of this machine, or on a server that runs elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from planner.domain.profile import ProfileRow
from planner.domain.serving import Access, LoadGenerator
from planner.domain.workload import Workload
from planner.errors import NotFoundError, SetupError
from planner.inputs.measure_config import CAPACITY_LEVELS, PLANNED_LEVELS, MeasureConfig, read_measure_config
from planner.inputs.workload import read_workload
from planner.store.database import open_store
from planner.workflow.devices import measured_device
from planner.workflow.manual import listed_configurations
from planner.workflow.measured_models import (
    check_inputs,
    model_names,
    models_to_measure,
    parse_shapes,
    require_model,
    with_model,
)
from planner.workflow.measured_server import REMOTE_REPOSITORY, LocalServers, MeasuredServer, remote_server
from planner.workflow.model_files import ModelFiles
from profiler.constraints import Constraints
from profiler.environment import environment
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.load.perf_analyzer_binary import find_perf_analyzer
from profiler.load.preferred import PreferredLoadGenerator
from profiler.load.strict import StrictLoadGenerator
from profiler.measure import measure
from profiler.points import Configuration, MeasureRequest, ModelFacts
from profiler.precision import Precision
from profiler.progress import MeasureReporter, MeasureSummary
from profiler.running import Tools
from profiler.server.find import find_triton
from profiler.server.remote import RemoteHost

DEFAULT_CONFIG = Path("measure.yaml")
DEFAULT_WORKLOAD = Path("workload.yaml")
DEFAULT_FLEET = Path("fleet.yaml")
DEFAULT_DEVICE = "cpu-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """What the user asked for. `models` empty: those of the configuration, else all. `config`, `workload`
    None: the usual file where there is one. `budget_s`, `search` None: the configuration's; without one the search is
    auto. `cores` empty: the first ones of a CPU device, all for a GPU's server. `exclusive`: nobody else may be on
    the GPU. `load_generator`: perf_analyzer, builtin, or auto for the first where it runs and the other one elsewhere.
    `device` None: cpu-1.

    `shapes` ("[MODEL:]INPUT:1,128") and `input_data` ("[MODEL:]FILE") come before the configuration's. `server`: its
    URL where it runs already, reached with `access`; the model repository is its own then, and so is the device.
    `metrics_url` None: beside its port.
    """

    model_repository: Path
    models: tuple[str, ...] = ()
    device: str | None = None
    exclusive: bool = False
    cores: tuple[int, ...] = ()
    search: Literal["auto", "grid"] | None = None
    config: Path | None = None
    workload: Path | None = None
    budget_s: float | None = None
    fresh: bool = False
    store: str = "sqlite:///profiles.db"
    triton_server: Path | None = None
    load_generator: str = "auto"
    shapes: tuple[str, ...] = ()
    input_data: tuple[str, ...] = ()
    server: str | None = None
    access: Access = field(default_factory=Access)
    metrics_url: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """`rows`: what the store now has of the swept models on the device, and of its server."""

    summary: MeasureSummary
    rows: tuple[ProfileRow, ...]


@dataclass(frozen=True, slots=True)
class _There:
    """The models of a repository, and how errors call it."""

    repository: str
    names: Sequence[str]

    def require(self, names: Iterable[str], where: str) -> None:
        for name in names:
            require_model(name, self.names, self.repository, asked_by=where)


def measure_models(asked: SweepRequest, reporter: MeasureReporter) -> Measured:
    """Measure what the store does not have yet. Each point is stored when it is done, whatever comes after."""
    config = _config(asked.config)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="planner-measure-")))
        if asked.server is None:
            return _measure_local(asked, config, scratch, reporter)
        server, notes = remote_server(
            asked.server, asked.access, asked.metrics_url, asked.device, DEFAULT_FLEET, scratch / "described"
        )
        stack.callback(_close, server.host, reporter)
        for text in notes:
            reporter.note(text)
        there = _There(REMOTE_REPOSITORY, sorted(server.host.control.models()))
        models = server.models(asked.models or config.models, reporter)
        return _measure(asked, config, server, models, there, reporter)


def _close(host: RemoteHost, reporter: MeasureReporter) -> None:
    host.close()
    for model in host.changed:
        reporter.note(f"{model} could not be put back as it was loaded before: look at the server")


def _measure_local(asked: SweepRequest, config: MeasureConfig, scratch: Path, reporter: MeasureReporter) -> Measured:
    target = measured_device(asked.device or DEFAULT_DEVICE, asked.cores, DEFAULT_FLEET, exclusive=asked.exclusive)
    for text in target.notes:
        reporter.note(text)
    repository, names = asked.model_repository, asked.models or config.models
    models = models_to_measure(repository, names, reporter, str(repository))
    server = LocalServers(
        target, find_triton(asked.triton_server), scratch, ModelFiles(models), start_deadline_s=config.start_deadline_s
    )
    return _measure(asked, config, server, models, _There(str(repository), model_names(repository)), reporter)


def _measure(
    asked: SweepRequest,
    config: MeasureConfig,
    server: MeasuredServer,
    models: Sequence[ModelFacts],
    there: _There,
    reporter: MeasureReporter,
) -> Measured:
    target = server.target
    inputs = _inputs(asked, config, models)
    workload = _workload(asked.workload, config)
    deadline_s = config.answer_deadline_s
    load_generator = choose_load_generator(asked.load_generator, target.share.generator, reporter, deadline_s)
    target.device.prepare()
    version = server.version()
    request = MeasureRequest(
        models=models,
        device=target.type_name,
        server_version=version,
        budget_s=config.budget_s if asked.budget_s is None else asked.budget_s,
        fresh=asked.fresh,
        environment={
            **environment(server_version=version, server_cores=target.share.device),
            **target.device.facts(),
        },
        search=asked.search or config.search or "auto",
        manual=_manual(config, models, asked, there),
        constraints=_constraints(config, models, workload, asked, there),
        **inputs,
        **_sweep(config, workload),
    )
    tools = Tools(
        server.start,
        StrictLoadGenerator(load_generator, deadline_s=deadline_s),
        server.write,
        target.device,
        load_deadline_s=config.load_deadline_s,
    )
    store = open_store(asked.store)
    try:
        summary = measure(request, store, tools, reporter)
        rows = store.rows(device=target.type_name)
    finally:
        store.close()
    names = {model.name for model in models}
    return Measured(summary, tuple(row for row in rows if row.is_overhead or row.model in names))


def _inputs(asked: SweepRequest, config: MeasureConfig, models: Sequence[ModelFacts]) -> dict[str, Any]:
    """The fields of a MeasureRequest that say what is sent."""
    given = parse_shapes(asked.shapes, models)
    shapes = {name: {**config.shapes.get(name, {}), **given.get(name, {})} for name in {*config.shapes, *given}}
    paths = dict(config.input_data)
    for text in asked.input_data:
        name, path = with_model(text, models, "--input-data")
        paths[name] = Path(path)
    return {
        "shapes": shapes,
        "input_files": check_inputs(models, paths, shapes, config.request_batch_sizes),
        "sequences": config.sequences,
        "request_batch_sizes": config.request_batch_sizes,
    }


def choose_load_generator(
    choice: str, cores: Sequence[int], reporter: MeasureReporter, deadline_s: float
) -> LoadGenerator:
    """The generator of that name on these cores. SetupError where perf_analyzer was asked for and does not run.

    Its requests fail when they are not answered within `deadline_s`.
    """
    builtin = BuiltinLoadGenerator(cores, deadline_s=deadline_s)
    if choice == builtin.name:
        return builtin
    try:
        perf_analyzer = PerfAnalyzerLoadGenerator(find_perf_analyzer(), cores, deadline_s=deadline_s)
    except SetupError as error:
        if choice == PerfAnalyzerLoadGenerator.name:
            raise
        reporter.note(f"load by the built-in generator: {error.message}; {error.hint}")
        return builtin
    return perf_analyzer if choice == perf_analyzer.name else PreferredLoadGenerator(perf_analyzer, builtin)


def _config(path: Path | None) -> MeasureConfig:
    if path is None and not DEFAULT_CONFIG.exists():
        return MeasureConfig()
    return read_measure_config(path or DEFAULT_CONFIG)


def _workload(path: Path | None, config: MeasureConfig) -> Workload | None:
    if path is not None or DEFAULT_WORKLOAD.exists():
        return read_workload(path or DEFAULT_WORKLOAD)
    if config.open_of == "planned":
        raise NotFoundError(
            f"{DEFAULT_WORKLOAD}: no such file, and open_loop.of: planned takes its rates from there",
            hint="name the file with --workload, or set open_loop.of: capacity",
        )
    return None


def _sweep(config: MeasureConfig, workload: Workload | None) -> dict[str, Any]:
    """The fields of a MeasureRequest that measure.yaml and the workload decide."""
    planned = config.open_of == "planned"
    return {
        "instances": config.instances,
        "max_batch_sizes": config.max_batch_sizes,
        "queue_delays_us": config.queue_delays_us,
        "concurrency": config.concurrency,
        "load_fractions": CAPACITY_LEVELS if planned else config.open_levels,
        "planned_rps": _planned_rps(workload) if planned and workload is not None else {},
        "rate_multiples": config.open_levels if planned else PLANNED_LEVELS,
        "percentiles": {} if workload is None else {model.name: model.percentile for model in workload.models},
        "precision": Precision(rate=config.rate_within, latency=config.latency_within, max_windows=config.max_windows),
        "min_window_s": config.min_window_s,
        "max_window_s": config.max_window_s,
    }


def _manual(
    config: MeasureConfig, models: Sequence[ModelFacts], asked: SweepRequest, there: _There
) -> Mapping[str, Sequence[Configuration]]:
    where = str(asked.config or DEFAULT_CONFIG)
    there.require(config.manual, f"{where}: manual")
    return {
        model.name: listed_configurations(model, config.manual[model.name], f"{where}: manual.{model.name}")
        for model in models
        if model.name in config.manual
    }


def _constraints(
    config: MeasureConfig,
    models: Sequence[ModelFacts],
    workload: Workload | None,
    asked: SweepRequest,
    there: _There,
) -> Mapping[str, Constraints]:
    """The file's; where it has no latency bound, auto takes the workload's: no plan uses what is slower."""
    where = f"{asked.config or DEFAULT_CONFIG}: constraints.models"
    there.require(config.constraints, where)
    found = {m.name: Constraints(**asdict(config.constraints.get(m.name, config.constraint))) for m in models}
    if (asked.search or config.search) != "grid":
        for demand in workload.models if workload is not None else ():
            own = found.get(demand.name)
            if own is not None and own.latency_ms is None:
                bound_ms = demand.latency_bound_ms
                found[demand.name] = replace(own, percentile=demand.percentile, latency_ms=bound_ms)
    return found


def _planned_rps(workload: Workload) -> Mapping[str, float]:
    """Each model's highest rate over the periods, with its headroom, as solve plans it."""
    peaks = {model.name: max((model.rates_rps or {}).values(), default=0.0) for model in workload.models}
    headroom = {model.name: 1 + model.headroom for model in workload.models}
    return {name: peak * headroom[name] for name, peak in peaks.items() if peak > 0}
