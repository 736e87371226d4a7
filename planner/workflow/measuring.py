"""From a model repository on disk to profiles in the store: one sweep on a device of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadGenerator
from planner.domain.workload import Workload
from planner.emit import config_pbtxt
from planner.errors import NotFoundError, SetupError
from planner.inputs.measure_config import CAPACITY_LEVELS, PLANNED_LEVELS, MeasureConfig, read_measure_config
from planner.inputs.workload import read_workload
from planner.inputs.yaml_file import nearest
from planner.store.database import open_store
from planner.workflow.devices import MeasuredDevice, measured_device
from planner.workflow.manual import listed_configurations, overridden
from profiler.constraints import Constraints
from profiler.environment import environment
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.load.perf_analyzer_binary import find_perf_analyzer
from profiler.load.preferred import PreferredLoadGenerator
from profiler.measure import MeasureReporter, MeasureSummary, measure
from profiler.points import Configuration, MeasureRequest, ModelFacts, model_digest
from profiler.precision import Precision
from profiler.running import Tools
from profiler.server.find import TritonInstallation, find_triton
from profiler.server.local import LocalTriton

DEFAULT_CONFIG = Path("measure.yaml")
DEFAULT_WORKLOAD = Path("workload.yaml")
DEFAULT_FLEET = Path("fleet.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """What the user asked for. `models` empty: those of the configuration, else all. `config`, `workload`
    None: the usual file where there is one. `budget_s`, `search` None: the configuration's; without one the search is
    auto. `cores` empty: the first ones of a CPU device, all for a GPU's server. `exclusive`: nobody else may be on
    the GPU. `load_generator`: perf_analyzer, builtin, or auto for the first where it runs and the other one elsewhere.
    """

    model_repository: Path
    models: tuple[str, ...] = ()
    device: str = "cpu-1"
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


@dataclass(frozen=True, slots=True)
class Measured:
    """`rows`: what the store now has of the swept models on the device, and of its server."""

    summary: MeasureSummary
    rows: tuple[ProfileRow, ...]


def measure_models(asked: SweepRequest, reporter: MeasureReporter) -> Measured:
    """Measure what the store does not have yet. Each point is stored when it is done, whatever comes after."""
    config = _config(asked.config)
    target = measured_device(asked.device, asked.cores, DEFAULT_FLEET, exclusive=asked.exclusive)
    for text in target.notes:
        reporter.note(text)
    models = _models(asked, config, reporter)
    workload = _workload(asked.workload, config)
    installation = find_triton(asked.triton_server)
    load_generator = choose_load_generator(asked.load_generator, target.share.generator, reporter)
    target.device.prepare()
    with tempfile.TemporaryDirectory(prefix="planner-measure-") as scratch:
        server = _LocalServer(installation, target, Path(scratch) / "triton.log")
        version = server.version(Path(scratch))
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
            manual=_manual(config, models, asked),
            constraints=_constraints(config, models, workload, asked),
            **_sweep(config, workload),
        )
        tools = Tools(server.start, load_generator, partial(_write_repository, target), target.device)
        store = open_store(asked.store)
        try:
            summary = measure(request, store, tools, reporter)
            rows = store.rows(device=target.type_name)
        finally:
            store.close()
    names = {model.name for model in models}
    return Measured(summary, tuple(row for row in rows if row.is_overhead or row.model in names))


def choose_load_generator(choice: str, cores: Sequence[int], reporter: MeasureReporter) -> LoadGenerator:
    """The generator of that name on these cores. SetupError where perf_analyzer was asked for and does not run."""
    builtin = BuiltinLoadGenerator(cores)
    if choice == builtin.name:
        return builtin
    try:
        perf_analyzer = PerfAnalyzerLoadGenerator(find_perf_analyzer(), cores)
    except SetupError as error:
        if choice == PerfAnalyzerLoadGenerator.name:
            raise
        reporter.note(f"load by the built-in generator: {error.message}; {error.hint}")
        return builtin
    return perf_analyzer if choice == perf_analyzer.name else PreferredLoadGenerator(perf_analyzer, builtin)


@dataclass(frozen=True, slots=True)
class _LocalServer:
    installation: TritonInstallation
    target: MeasuredDevice
    log_path: Path

    def start(self, repository: Path) -> LocalTriton:
        return LocalTriton.start(
            self.installation,
            repository,
            cores=self.target.share.device,
            gpu_uuid=self.target.gpu_uuid,
            log_path=self.log_path,
        )

    def version(self, scratch: Path) -> str:
        """From a server without models: where none starts, this says so before anything else is tried."""
        empty = scratch / "empty"
        empty.mkdir()
        with self.start(empty) as server:
            return server.server_version


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


def _models(asked: SweepRequest, config: MeasureConfig, reporter: MeasureReporter) -> list[ModelFacts]:
    repository = asked.model_repository
    if not repository.is_dir():
        raise NotFoundError(f"--model-repository {repository}: no such folder")
    there = sorted(path.parent.name for path in repository.glob(f"*/{config_pbtxt.CONFIG_NAME}"))
    if not there:
        raise NotFoundError(f"--model-repository {repository}: no folder in it has a {config_pbtxt.CONFIG_NAME}")
    named = asked.models or config.models
    for name in named or ():
        _require_model(name, there, repository)
    facts = [_facts(repository / name) for name in named or there]
    if named is None:
        for model in facts:
            if model.backend == "ensemble":
                reporter.note(f"{model.name} is an ensemble and was left out: its members are measured")
        facts = [model for model in facts if model.backend != "ensemble"]
    return facts


def _require_model(name: str, there: Sequence[str], repository: Path) -> None:
    if name not in there:
        close = nearest(name, there, count=3) or there[:10]
        raise NotFoundError(f"model {name!r} is not in {repository}; there are {', '.join(close)}")


def _facts(path: Path) -> ModelFacts:
    config = config_pbtxt.read_config(path / config_pbtxt.CONFIG_NAME)
    return ModelFacts(
        name=path.name,
        path=path,
        backend=config_pbtxt.backend_name(config),
        max_batch_size=config.max_batch_size,
        queue_delay_us=config_pbtxt.queue_delay_us(config),
        digest=model_digest(path),
    )


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
        "shapes": config.shapes,
        "request_batch_size": config.request_batch_size,
        "precision": Precision(rate=config.rate_within, latency=config.latency_within, max_windows=config.max_windows),
        "min_window_s": config.min_window_s,
        "max_window_s": config.max_window_s,
    }


def _manual(
    config: MeasureConfig, models: Sequence[ModelFacts], asked: SweepRequest
) -> Mapping[str, Sequence[Configuration]]:
    where = str(asked.config or DEFAULT_CONFIG)
    _require_there(config.manual, f"{where}: manual", asked.model_repository)
    return {
        model.name: listed_configurations(model, config.manual[model.name], f"{where}: manual.{model.name}")
        for model in models
        if model.name in config.manual
    }


def _constraints(
    config: MeasureConfig, models: Sequence[ModelFacts], workload: Workload | None, asked: SweepRequest
) -> Mapping[str, Constraints]:
    """The file's; where it has no latency bound, auto takes the workload's: no plan uses what is slower."""
    where = f"{asked.config or DEFAULT_CONFIG}: constraints.models"
    _require_there(config.constraints, where, asked.model_repository)
    found = {m.name: Constraints(**asdict(config.constraints.get(m.name, config.constraint))) for m in models}
    if (asked.search or config.search) != "grid":
        for demand in workload.models if workload is not None else ():
            own = found.get(demand.name)
            if own is not None and own.latency_ms is None:
                bound_ms = demand.latency_bound_ms
                found[demand.name] = replace(own, percentile=demand.percentile, latency_ms=bound_ms)
    return found


def _require_there(names: Iterable[str], where: str, repository: Path) -> None:
    for name in names:
        if not (repository / name / config_pbtxt.CONFIG_NAME).is_file():
            there = sorted(path.parent.name for path in repository.glob(f"*/{config_pbtxt.CONFIG_NAME}"))
            close = nearest(name, there, count=3) or there[:10]
            raise NotFoundError(f"{where}: {name!r} is not in {repository}; there are {', '.join(close)}")


def _planned_rps(workload: Workload) -> Mapping[str, float]:
    """Each model's highest rate over the periods, with its headroom, as solve plans it."""
    peaks = {model.name: max((model.rates_rps or {}).values(), default=0.0) for model in workload.models}
    headroom = {model.name: 1 + model.headroom for model in workload.models}
    return {name: peak * headroom[name] for name, peak in peaks.items() if peak > 0}


def _write_repository(measured: MeasuredDevice, model: ModelFacts, configuration: Configuration, target: Path) -> None:
    config = config_pbtxt.configure(
        config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME),
        instances=configuration.instances,
        max_batch_size=configuration.max_batch_size,
        queue_delay_us=configuration.queue_delay_us,
        kind="KIND_GPU" if measured.gpu_uuid else "KIND_CPU",
        gpus=(0,) if measured.gpu_uuid else (),
    )
    config_pbtxt.write_model(model.path, target / model.name, overridden(config, configuration))
