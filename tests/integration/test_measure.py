"""The sweep on a real Triton with a real model: short windows, but every step."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.domain.profile import SERVER_ROW, Measurement, ProfileRow
from planner.domain.serving import LoadMode, LoadResult, LoadSpec, Server
from planner.emit import config_pbtxt
from planner.errors import InputError, TritonUnreachable
from profiler.devices.cpu import CpuDevice
from profiler.environment import environment
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary
from profiler.measure import measure
from profiler.points import Configuration, MeasureRequest, ModelFacts, model_digest
from profiler.precision import Precision
from profiler.progress import MeasureReporter, MeasureSummary
from profiler.running import Tools
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton

MIB = 1024 * 1024


class MemoryStore:
    def __init__(self) -> None:
        self.measurements: dict[str, Measurement] = {}

    def add(self, measurements: Iterable[Measurement]) -> None:
        self.measurements |= {measurement.key: measurement for measurement in measurements}

    def keys(self) -> Collection[str]:
        return {key for key, measurement in self.measurements.items() if measurement.failure is None}

    def get(self, key: str) -> Measurement | None:
        return self.measurements.get(key)

    def rows(self, *, model: str | None = None, device: str | None = None) -> list[ProfileRow]:
        found = [m.row for m in self.measurements.values() if m.failure is None]
        return [row for row in found if model in (None, row.model) and device in (None, row.device)]

    def remove(self, *, model: str | None = None, device: str | None = None) -> int:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Bench:
    """Everything a sweep needs, with the server on one core and the load on another where there is one."""

    def __init__(self, triton: TritonInstallation, log: Path) -> None:
        self.store = MemoryStore()
        self.starts = 0
        self._triton = triton
        self._log = log
        self._cores = sorted(os.sched_getaffinity(0))

    def start_server(self, repository: Path) -> Server:
        self.starts += 1
        return LocalTriton.start(self._triton, repository, cores=self._cores[:1], log_path=self._log)

    def tools(self, during: Callable[[Server, LoadSpec], None] = lambda server, spec: None) -> Tools:
        return Tools(self.start_server, WatchedLoad(self._cores[-1:], during), write_repository, CpuDevice(1))

    def request(self, *models: ModelFacts, **changes: object) -> MeasureRequest:
        few = MeasureRequest(
            models=models,
            device="cpu-1",
            server_version="2.51.0",
            instances=(1,),
            max_batch_sizes=(4,),
            load_fractions=(0.3,),
            min_window_s=0.5,
            max_window_s=2.0,
            precision=Precision(max_windows=1),
            environment=environment(server_version="2.51.0", server_cores=self._cores[:1]),
        )
        return replace(few, **changes)  # type: ignore[arg-type]

    def measure(self, request: MeasureRequest, reporter: MeasureReporter | None = None) -> MeasureSummary:
        return measure(request, self.store, self.tools(), reporter)


class WatchedLoad:
    """The built-in generator; `during` is called as each stream starts."""

    name = "builtin"

    def __init__(self, cores: Sequence[int], during: Callable[[Server, LoadSpec], None]) -> None:
        self._inner = BuiltinLoadGenerator(cores)
        self._during = during

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        self._during(server, specs[0])
        return self._inner.run(server, specs)


class Silent:
    """A simulated fault: a real server whose statistics cannot be read."""

    def __init__(self, inner: Server) -> None:
        self._inner = inner

    def statistics(self, model: str) -> Mapping[str, object]:
        raise TritonUnreachable("no answer")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def write_repository(model: ModelFacts, configuration: Configuration, target: Path) -> None:
    config = config_pbtxt.configure(
        config_pbtxt.read_config(model.path / "config.pbtxt"),
        instances=configuration.instances,
        max_batch_size=configuration.max_batch_size,
        queue_delay_us=configuration.queue_delay_us,
        kind="KIND_CPU",
    )
    config_pbtxt.write_model(model.path, target / model.name, config)


def facts(path: Path) -> ModelFacts:
    config = config_pbtxt.read_config(path / "config.pbtxt")
    return ModelFacts(
        name=config.name,
        path=path,
        backend=config_pbtxt.backend_name(config),
        max_batch_size=config.max_batch_size,
        queue_delay_us=config_pbtxt.queue_delay_us(config),
        digest=model_digest(path),
    )


@pytest.fixture(scope="module")
def direction(example_models: Path) -> ModelFacts:
    return facts(example_models / "text_direction")


@pytest.fixture(scope="module")
def swept(
    triton: TritonInstallation, direction: ModelFacts, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bench, MeasureSummary]:
    """What one sweep over the model left behind."""
    bench = Bench(triton, tmp_path_factory.mktemp("swept") / "triton.log")
    return bench, bench.measure(bench.request(direction))


@pytest.fixture
def bench(triton: TritonInstallation, tmp_path: Path) -> Bench:
    return Bench(triton, tmp_path / "triton.log")


def refusing_model(direction: ModelFacts, folder: Path) -> ModelFacts:
    shutil.copytree(direction.path, folder / direction.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / direction.name / "1" / "model.py").write_text("raise ImportError('weights are missing')\n")
    return facts(folder / direction.name)


def test_a_sweep_measures_every_point_and_then_none(swept: tuple[Bench, MeasureSummary], direction: ModelFacts) -> None:
    bench, summary = swept
    assert summary.complete, summary
    assert bench.starts == 2  # the idle server, and one for the configuration
    [base] = bench.store.rows(model=SERVER_ROW)
    assert base.memory_bytes is not None
    assert 10 * MIB < base.memory_bytes < 200 * MIB
    rows = bench.store.rows(model="text_direction")
    assert len(rows) == summary.measured >= 3
    _check_closed([row for row in rows if row.load is LoadMode.CLOSED])
    [opened] = [row for row in rows if row.load is LoadMode.OPEN]
    best_rps = max(row.rate_rps or 0.0 for row in rows)
    assert opened.offered_rps == pytest.approx(0.3 * best_rps)
    assert opened.rate_rps == pytest.approx(opened.offered_rps, rel=0.5)
    for row in rows:
        assert row.memory_bytes is not None
        assert row.memory_cold_bytes is not None
        assert 5 * MIB < row.memory_cold_bytes <= row.memory_bytes < 500 * MIB
        assert row.busy is not None
        assert 0 < row.busy <= 1
        assert (row.queue_delay_us, row.max_batch_size, row.backend) == (0, 4, "python")
        assert (row.model_digest, row.load_generator) == (direction.digest, "builtin")

    again = bench.measure(bench.request(direction))
    assert (again.measured, again.reused) == (0, summary.measured)
    assert bench.starts == 2


def _check_closed(rows: Sequence[ProfileRow]) -> None:
    alone, *loaded = sorted(rows, key=lambda row: row.concurrency or 0)
    assert alone.concurrency == 1
    assert alone.executed_batch_mean == pytest.approx(1.0)
    assert loaded[0].concurrency == 8
    assert loaded[0].executed_batch_mean is not None
    assert loaded[0].executed_batch_mean > 2
    assert (loaded[0].busy or 0) > (alone.busy or 0) * 0.5


def test_a_point_keeps_what_is_needed_to_doubt_it(swept: tuple[Bench, MeasureSummary]) -> None:
    bench, _ = swept
    point = next(m for m in bench.store.measurements.values() if m.row.load is LoadMode.OPEN)
    sent, latency = point.samples["sent_s"], point.samples["latency_s"]
    assert len(sent) == len(latency) > 0
    assert len(point.samples["memory_time_s"]) == len(point.samples["memory_bytes"]) > 5
    assert list(point.samples["cpu_s"]) == sorted(point.samples["cpu_s"])
    assert point.row.latency_p99_ms is None
    absent = point.statistics["percentiles_absent"]
    assert isinstance(absent, list)
    assert any(reason.startswith("p99 needs 2000 requests") for reason in absent)
    assert point.statistics["inference_count"]
    parts = [point.statistics[f"{part}_ms"] for part in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert all(part is not None and part >= 0 for part in parts)
    assert 0 < sum(parts) <= 1.5 * point.row.latency_mean_ms  # Triton counts the warm-up, too
    assert point.environment["triton"] == "2.51.0"
    assert point.measured_at


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_it_stopped(bench: Bench, direction: ModelFacts) -> None:
    class Interrupt(MeasureReporter):
        finished = 0

        def measured(self, measurement: Measurement) -> None:
            self.finished += 1
            if self.finished == 2:
                raise KeyboardInterrupt

    request = bench.request(direction)
    with pytest.raises(KeyboardInterrupt):
        bench.measure(request, Interrupt())
    stored = {key: m.measured_at for key, m in bench.store.measurements.items()}
    assert len(stored) == 3  # the idle server and two points
    summary = bench.measure(request)
    assert summary.reused == 2
    assert summary.measured >= 1
    assert all(bench.store.measurements[key].measured_at == at for key, at in stored.items())


@pytest.mark.slow
def test_a_model_that_does_not_load_is_recorded_and_the_sweep_goes_on(
    bench: Bench, direction: ModelFacts, example_models: Path, tmp_path: Path
) -> None:
    refusing = refusing_model(direction, tmp_path)
    other = facts(example_models / "file_type")
    summary = bench.measure(bench.request(refusing, other))
    [failed] = summary.failed
    assert failed.startswith("text_direction (1 instance, max batch 4, queue delay 0 us), concurrency 1: ")
    assert not summary.complete
    [cause] = [m.failure for m in bench.store.measurements.values() if m.failure is not None]
    assert "weights are missing" in cause
    assert [note for note in summary.notes if "overhead of backend python stays within its models" in note]
    assert bench.store.rows(model="file_type")
    assert not bench.store.rows(model="text_direction")


@pytest.mark.slow
def test_a_server_that_dies_in_a_window_is_recorded_with_its_log(bench: Bench, direction: ModelFacts) -> None:
    deaths = []

    def kill_once(server: Server, spec: LoadSpec) -> None:
        if spec.concurrency == 8 and not deaths:
            assert server.pid is not None
            deaths.append(threading.Timer(0.8, os.kill, [server.pid, signal.SIGKILL]))
            deaths[0].start()

    request = bench.request(direction)
    summary = measure(request, bench.store, bench.tools(kill_once))
    [failed] = summary.failed
    assert "concurrency 8: Triton" in failed
    [dead] = [m for m in bench.store.measurements.values() if m.failure is not None]
    assert dead.failure is not None
    assert "text_direction" in dead.failure  # the log names what it loaded
    assert bench.starts == 3  # idle, the one that died, and a fresh one for the open loop
    assert [row for row in bench.store.rows() if row.load is LoadMode.OPEN]

    again = bench.measure(request)
    assert again.complete
    assert bench.store.get(dead.key) is not dead


def test_statistics_that_cannot_be_read_cost_no_measurement(bench: Bench, direction: ModelFacts) -> None:
    tools = bench.tools()
    silent = replace(tools, start_server=lambda repository: Silent(tools.start_server(repository)))
    summary = measure(bench.request(direction), bench.store, silent)
    assert summary.complete
    assert "text_direction: Triton's statistics are unknown: no answer" in summary.notes
    assert len([note for note in summary.notes if "statistics" in note]) == 1
    points = [m for m in bench.store.measurements.values() if not m.row.is_overhead]
    assert len(points) == summary.measured >= 3
    for point in points:
        assert point.row.rate_rps is not None
        assert point.row.executed_batch_mean is None
        assert point.statistics["unknown"] == "no answer"


@pytest.mark.slow
def test_perf_analyzer_measures_every_point_of_a_sweep(
    bench: Bench, direction: ModelFacts, example_models: Path, perf_analyzer: PerfAnalyzerBinary
) -> None:
    """One model whose requests are exported one by one, and one whose tensors are too large for that."""
    load = PerfAnalyzerLoadGenerator(perf_analyzer, sorted(os.sched_getaffinity(0))[-1:])
    request = bench.request(direction, facts(example_models / "speech_activity"), min_window_s=1.0)
    summary = measure(request, bench.store, replace(bench.tools(), load_generator=load))
    assert summary.complete, summary
    for name, samples in (("text_direction", "summary"), ("speech_activity", "every request")):
        points = [m for m in bench.store.measurements.values() if m.row.model == name]
        assert {point.row.load for point in points} == {LoadMode.CLOSED, LoadMode.OPEN}
        for point in points:
            assert point.row.load_generator == "perf_analyzer"
            assert point.statistics["samples"] == samples
            assert bool(point.samples["latency_s"]) == (samples == "every request")
            assert (point.row.rate_rps or 0) > 0
            assert (point.row.busy or 0) > 0
            assert (point.row.latency_mean_ms or 0) > 0
            assert (point.row.executed_batch_mean or 0) >= 1


def test_a_budget_that_ends_leaves_points_out_and_starts_no_server_for_them(
    bench: Bench, direction: ModelFacts
) -> None:
    bench.measure(replace(bench.request(), models=()))
    starts = bench.starts
    summary = bench.measure(bench.request(direction, budget_s=1.0))
    assert summary.left_out == ["text_direction (1 instance, max batch 4, queue delay 0 us)"]
    assert not summary.complete
    assert bench.starts == starts


def test_the_backend_overhead_is_what_two_models_share(
    bench: Bench, direction: ModelFacts, example_models: Path
) -> None:
    models = (direction, facts(example_models / "file_type"))
    bench.measure(bench.request(*models, budget_s=0.1))
    [base] = bench.store.rows(model="@server")
    [overhead] = bench.store.rows(model="@backend:python")
    assert base.memory_bytes is not None
    assert overhead.memory_bytes is not None
    # Python, numpy and ONNX Runtime themselves
    assert 5 * MIB < overhead.memory_bytes < 150 * MIB
    assert bench.starts == 4  # idle, each alone, both


@pytest.mark.slow
def test_a_model_that_does_not_load_does_not_hide_what_the_others_share(
    bench: Bench, direction: ModelFacts, example_models: Path, tmp_path: Path
) -> None:
    others = [facts(example_models / name) for name in ("file_type", "speech_activity")]
    summary = bench.measure(bench.request(refusing_model(direction, tmp_path), *others, budget_s=0.1))
    [note] = [note for note in summary.notes if "overhead" in note]
    assert note.startswith("text_direction is left out where the overhead of its backend is measured: Triton refused")
    [overhead] = bench.store.rows(model="@backend:python")
    assert overhead.memory_bytes is not None
    assert 5 * MIB < overhead.memory_bytes < 150 * MIB


def test_an_ensemble_without_its_members_is_refused(direction: ModelFacts, bench: Bench) -> None:
    with pytest.raises(InputError, match="is an ensemble, and its members are not known"):
        bench.request(replace(direction, backend="ensemble"))
