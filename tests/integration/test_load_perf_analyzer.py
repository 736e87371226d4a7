"""The real perf_analyzer against a real Triton and small models made here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from planner.domain.serving import LoadSpec
from planner.domain.statistics import percentile
from planner.errors import InputError, LoadError, ServerError, TritonExited, TritonRefused
from profiler.load import perf_analyzer as module
from profiler.load.arrivals import arrival_generator, poisson_arrivals
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary
from profiler.load.preferred import PreferredLoadGenerator
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from profiler.stability import stability_of_parts, stability_open
from tests.small_models import ONE_INPUT, closed, opened, write_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    triton: TritonInstallation, small_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    models = ("slow", "types", "open", "warm", "zero", "broken", "sequence", "decoupled", "wide", "nan", "tiring")
    with LocalTriton.start(triton, small_models, cores=None, log_path=log, load=models) as running:
        yield running


@pytest.fixture
def generator(perf_analyzer: PerfAnalyzerBinary) -> PerfAnalyzerLoadGenerator:
    return PerfAnalyzerLoadGenerator(perf_analyzer, [max(os.sched_getaffinity(0))])


@pytest.fixture
def preferred(generator: PerfAnalyzerLoadGenerator) -> PreferredLoadGenerator:
    return PreferredLoadGenerator(generator, BuiltinLoadGenerator())


def running_below(pid: int) -> list[psutil.Process]:
    """perf_analyzers among the descendants; the program loader that starts one names it in its arguments."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        try:
            if any(Path(word).name == "perf_analyzer" for word in one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def during(action: Callable[[psutil.Process], None]) -> threading.Thread:
    """Does something to the perf_analyzer that this process starts, once it measures."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if found := running_below(os.getpid()):
                time.sleep(1.0)
                action(found[0])
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_a_closed_loop_keeps_its_concurrency(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    [result] = generator.run(server, [closed("slow", seconds=1.5, concurrency=3, warmup_seconds=0.3)])
    assert (result.failed, result.summary) == (0, None)
    assert result.offered == result.answered == len(result.latency_s) == len(result.sent_s)
    # one instance takes 10 ms: three outstanding requests wait for each other
    assert 30 < len(result.latency_s) / 1.5 < 100
    assert percentile(result.latency_s, 50) >= 0.028
    ended = [sent + latency for sent, latency in zip(result.sent_s, result.latency_s, strict=True)]
    assert ended == sorted(ended)
    assert 0 <= ended[0] <= ended[-1] <= 1.5 + 1e-4
    assert result.window is not None
    assert result.window[1] - result.window[0] == pytest.approx(1.5)
    assert (result.load_generator, result.load_generator_version) == ("perf_analyzer", generator.binary.version)
    assert result.note is None


def test_an_open_loop_has_the_built_in_generator_s_arrivals(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator
) -> None:
    generator.run(server, [closed("slow")])
    spec = opened("slow", 40.0, seconds=2.0, warmup_seconds=1.0, seed=7)
    [result] = generator.run(server, [spec])
    arrivals = poisson_arrivals(40.0, -1.0, 100.0, arrival_generator(7, "slow", 0))
    wanted = [arrival for arrival in arrivals if 0 <= arrival < 2.0]
    assert sorted(result.sent_s) == pytest.approx(wanted, abs=2e-6)
    assert (result.offered, result.failed) == (len(wanted), 0)
    assert min(result.latency_s) >= 0.009


def test_latency_counts_from_the_intended_send_time(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    generator.run(server, [closed("slow")])
    [result] = generator.run(server, [opened("slow", 150.0, seconds=2.0)])
    assert result.offered == pytest.approx(300, abs=80)
    assert stability_open(result.sent_s, result.latency_s, 2.0, result.offered, result.failed).overloaded
    assert max(result.latency_s) > 0.3  # the queue grows by half a second per second


def test_every_type_gets_valid_values(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    [result] = generator.run(server, [closed("types", request_batch_size=2)])
    assert result.latency_s


@pytest.mark.parametrize("spec", [closed("open", shapes={"x": [3, 5]}), closed("warm"), closed("zero")])
def test_open_dimensions_come_from_the_spec_or_the_warm_up(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator, spec: LoadSpec
) -> None:
    [result] = generator.run(server, [spec])
    assert result.latency_s


def test_large_tensors_are_summarised(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    [alone] = generator.run(server, [closed("wide", seconds=1.5, concurrency=3, warmup_seconds=0.3)])
    summary = alone.summary
    assert summary is not None
    assert (alone.sent_s, alone.latency_s) == ((), ())
    assert len(summary.part_rates_rps) == 3
    assert 30 < summary.answered / 1.5 < 100
    assert 0.02 < summary.percentiles_s[50] <= summary.percentiles_s[99] < 1
    assert summary.mean_s == pytest.approx(summary.percentiles_s[50], rel=0.5)
    assert alone.window is not None
    assert stability_of_parts(summary, 1.5, None).overloaded is False
    [paired] = generator.run(server, [closed("wide", seconds=1.5, concurrency=1, request_batch_size=2)])
    assert paired.summary is not None
    # one at a time, two inferences each: requests are counted, not inferences
    assert paired.summary.answered / 1.5 == pytest.approx(sum(paired.summary.part_rates_rps) / 3, rel=0.2)
    assert paired.summary.answered / 1.5 < 100

    [opened_result] = generator.run(server, [opened("wide", 30.0, seconds=3.0, warmup_seconds=0.5)])
    assert opened_result.summary is not None
    assert opened_result.offered == pytest.approx(90, abs=40)
    assert opened_result.summary.answered == pytest.approx(opened_result.offered, abs=15)
    [late] = generator.run(server, [opened("wide", 200.0, seconds=3.0)])
    assert late.summary is not None
    assert stability_of_parts(late.summary, 3.0, 200.0).overloaded


def test_many_requests_are_summarised(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPORT_VALUES_MAX", 5 * 100)  # five values each
    [few] = generator.run(server, [opened("slow", 40.0, seconds=1.5)])
    [many] = generator.run(server, [opened("slow", 80.0, seconds=1.5)])
    [again] = generator.run(server, [closed("slow", seconds=3.0)])
    assert (few.summary is None, many.summary is None, again.summary is None) == (True, False, False)


def test_answers_that_cannot_be_exported_are_summarised(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator
) -> None:
    for _ in range(2):
        [result] = generator.run(server, [closed("nan", seconds=1.0)])
        assert result.summary is not None
        assert result.summary.answered > 20


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (closed("open"), r"model 'open', input 'x': its dims \[3, -1\] leave a size open"),
        (closed("open", shapes={"x": [4, 5]}), r"shape \[4, 5\] does not fit"),
        (closed("slow", request_batch_size=8), "cannot carry 8 inferences, max_batch_size is 4"),
        (closed("decoupled"), "decoupled"),
        (closed("slow", concurrency=0), "concurrency >= 1"),
        (opened("slow", 0.0), "rate_rps > 0"),
        (closed("slow", seconds=0), "seconds must be positive"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    server: LocalTriton, preferred: PreferredLoadGenerator, spec: LoadSpec, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        preferred.run(server, [spec])


def test_an_unknown_model_is_refused(server: LocalTriton, preferred: PreferredLoadGenerator) -> None:
    with pytest.raises(TritonRefused, match="'nobody'"):
        preferred.run(server, [closed("nobody")])


def test_a_request_that_fails_ends_it_with_the_cause_and_the_built_in_generator_counts(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator, preferred: PreferredLoadGenerator
) -> None:
    with pytest.raises(LoadError, match=r"does not go on after a failed request: .*out of luck"):
        generator.run(server, [closed("broken")])
    with pytest.raises(ServerError, match=r"none of .* requests to 'broken' succeeded.*out of luck"):
        preferred.run(server, [closed("broken")])


def test_requests_that_fail_in_the_end_only_are_no_lower_rate(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator
) -> None:
    with pytest.raises(LoadError, match=r"does not go on after a failed request: .*out of breath"):
        generator.run(server, [closed("tiring", seconds=2.0)])


@pytest.mark.parametrize(
    ("specs", "why"),
    [
        ([closed("warm"), closed("zero")], "perf_analyzer puts load on one model at a time"),
    ],
)
def test_what_it_cannot_do_the_built_in_generator_does_and_says_so(
    server: LocalTriton,
    generator: PerfAnalyzerLoadGenerator,
    preferred: PreferredLoadGenerator,
    specs: list[LoadSpec],
    why: str,
) -> None:
    with pytest.raises(LoadError, match=why):
        generator.run(server, specs)
    results = preferred.run(server, specs)
    assert [result.model for result in results] == [spec.model for spec in specs]
    assert all(result.latency_s and result.load_generator == "builtin" for result in results)
    assert all(str(result.note).startswith("load by builtin: ") and why in str(result.note) for result in results)


def test_one_that_is_killed_is_told_and_the_built_in_generator_takes_over(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator, preferred: PreferredLoadGenerator
) -> None:
    killer = during(lambda process: process.kill())
    with pytest.raises(LoadError, match="perf_analyzer ended by signal 9"):
        generator.run(server, [closed("slow", seconds=20.0)])
    killer.join()
    killer = during(lambda process: process.kill())
    [result] = preferred.run(server, [closed("slow", seconds=3.0)])
    killer.join()
    assert result.load_generator == "builtin"
    assert "ended by signal 9" in str(result.note)


def test_one_that_hangs_is_ended(
    server: LocalTriton, generator: PerfAnalyzerLoadGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_AND_STOP_S", 1.0)
    stopped: list[psutil.Process] = []

    def stop(process: psutil.Process) -> None:
        stopped.append(process)
        process.suspend()

    stopper = during(stop)
    with pytest.raises(LoadError, match="perf_analyzer did not end within"):
        generator.run(server, [closed("slow", seconds=1.5)])
    stopper.join()
    assert stopped
    assert not stopped[0].is_running()


def test_a_model_that_stops_to_answer_is_named_before_all_patience_ends(
    triton: TritonInstallation, perf_analyzer: PerfAnalyzerBinary, tmp_path: Path
) -> None:
    stops = "self.n = getattr(self, 'n', 0) + 1; time.sleep(600 if self.n == 20 else 0)"
    write_model(tmp_path / "models", "stopping", f"max_batch_size: 1\n{ONE_INPUT}", seconds=0.01, check=stops)
    generator = PerfAnalyzerLoadGenerator(perf_analyzer, deadline_s=1.0)
    with (
        LocalTriton.start(
            triton, tmp_path / "models", cores=None, log_path=tmp_path / "log", load=["stopping"]
        ) as server,
        pytest.raises(ServerError, match="'stopping' gave no answer within 1 s"),
    ):
        generator.run(server, [closed("stopping", seconds=1.0)])


def test_an_interrupted_run_leaves_no_process(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    interrupter = during(lambda process: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        generator.run(server, [closed("slow", seconds=30.0)])
    interrupter.join()
    assert not running_below(os.getpid())


def test_it_ends_with_a_planner_that_is_killed(
    server: LocalTriton, perf_analyzer: PerfAnalyzerBinary, tmp_path: Path
) -> None:
    code = (
        "import sys; from types import SimpleNamespace as N; from planner.domain.serving import *;"
        "from profiler.load.perf_analyzer import *; from profiler.load.perf_analyzer_binary import *;"
        "server = N(pid=None, endpoint=Endpoint('127.0.0.1', int(sys.argv[1]), 1, 2), log_tail=lambda: '');"
        "spec = LoadSpec('slow', LoadMode.CLOSED, 60.0, concurrency=1);"
        "PerfAnalyzerLoadGenerator(PerfAnalyzerBinary(tuple(sys.argv[2:]), '', '')).run(server, [spec])"
    )
    port = str(server.endpoint.grpc_port)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    planner = subprocess.Popen([sys.executable, "-c", code, port, *perf_analyzer.command], env=environment)
    try:
        deadline = time.monotonic() + 20
        while not (found := running_below(planner.pid)):
            assert planner.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        planner.kill()
        planner.wait()
    _, alive = psutil.wait_procs(found, timeout=10)
    assert not alive


@pytest.mark.parametrize("spec", [closed("slow", seconds=20.0), opened("slow", 50.0, seconds=20.0)])
def test_a_server_that_dies_is_noticed_at_once(
    triton: TritonInstallation, preferred: PreferredLoadGenerator, small_models: Path, tmp_path: Path, spec: LoadSpec
) -> None:
    with LocalTriton.start(triton, small_models, cores=None, log_path=tmp_path / "log", load=["slow"]) as server:
        killer = during(lambda _: os.kill(server.pid, signal.SIGKILL))
        begin = time.monotonic()
        with pytest.raises(TritonExited, match="Triton ended by signal SIGKILL") as caught:
            preferred.run(server, [spec])
        assert time.monotonic() - begin < 15
        assert caught.value.log_tail
        killer.join()
    assert not running_below(os.getpid())


def test_it_is_pinned_and_says_what_it_took(server: LocalTriton, generator: PerfAnalyzerLoadGenerator) -> None:
    seen: list[list[int]] = []
    watcher = during(lambda process: seen.append(process.cpu_affinity()))
    [result] = generator.run(server, [closed("warm", seconds=2.5, concurrency=8)])
    watcher.join()
    assert seen == [[max(os.sched_getaffinity(0))]]
    assert 0 < result.client_busy <= 1.1
    assert result.client_bound == (result.client_busy > 0.9)
