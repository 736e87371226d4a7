"""The built-in load generator against a real Triton and small models made here."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.domain.serving import LoadSpec
from planner.domain.statistics import percentile
from planner.errors import InputError, ServerError, TritonExited, TritonRefused
from profiler.load.arrivals import poisson_arrivals
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from profiler.stability import stability_open
from tests.small_models import closed, opened


@pytest.fixture(scope="module")
def server(
    triton: TritonInstallation, small_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    models = ("slow", "types", "open", "warm", "zero", "broken", "sequence", "decoupled")
    with LocalTriton.start(triton, small_models, cores=None, log_path=log, load=models) as running:
        yield running


def workers() -> list[str]:
    found = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.split()[0] == str(os.getpid()) and "load.worker" in line]


def test_poisson_arrivals_have_the_rate_and_are_the_same_for_the_same_seed() -> None:
    arrivals = poisson_arrivals(100, -10, 90, random.Random(1))
    assert len(arrivals) == pytest.approx(10_000, rel=0.04)
    assert arrivals == poisson_arrivals(100, -10, 90, random.Random(1))
    assert -10 <= arrivals[0] < arrivals[-1] < 90
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    assert percentile(gaps, 50) == pytest.approx(0.00693, rel=0.05)  # ln 2 / rate


def test_a_closed_loop_keeps_its_concurrency(server: LocalTriton) -> None:
    [result] = BuiltinLoadGenerator().run(server, [closed("slow", seconds=1.5, concurrency=3, warmup_seconds=0.3)])
    assert result.failed == 0
    assert result.offered == len(result.latency_s) == len(result.sent_s)
    # one instance takes 10 ms: three outstanding requests wait for each other
    assert 30 < len(result.latency_s) / 1.5 < 100
    assert percentile(result.latency_s, 50) >= 0.028
    assert all(0 <= sent < 1.5 for sent in result.sent_s)


def test_an_open_loop_does_not_wait_for_answers(server: LocalTriton) -> None:
    [result] = BuiltinLoadGenerator().run(server, [opened("slow", 200.0, seconds=2.0)])
    assert result.offered == pytest.approx(400, abs=80)
    assert len(result.latency_s) == result.offered  # late ones still count
    assert stability_open(result.sent_s, result.latency_s, 2.0, result.offered, result.failed).overloaded
    assert max(result.latency_s) > 0.8  # half of them waited for more than the window
    assert result.window is not None
    assert result.window[1] - result.window[0] == pytest.approx(2.0)


def test_the_warm_up_is_not_counted(server: LocalTriton) -> None:
    before = _inferences(server, "slow")
    [result] = BuiltinLoadGenerator().run(server, [opened("slow", 40.0, seconds=1.0, warmup_seconds=2.0)])
    assert result.offered == pytest.approx(40, abs=25)
    assert _inferences(server, "slow") - before > 1.8 * result.offered


def test_the_same_seed_sends_at_the_same_times(server: LocalTriton) -> None:
    runs = [BuiltinLoadGenerator().run(server, [opened("slow", 30.0, seed=s)])[0] for s in (1, 1, 2)]
    same, again, other = (sorted(run.sent_s) for run in runs)
    assert same == pytest.approx(again, abs=1e-5)
    assert same != pytest.approx(other, abs=1e-5)


def test_several_streams_run_at_the_same_time_and_keep_their_order(server: LocalTriton) -> None:
    specs = [opened("types", 50.0), closed("slow", seconds=2.0), opened("warm", 20.0)]
    results = BuiltinLoadGenerator().run(server, specs)
    windows = [result.window for result in results if result.window is not None]
    assert len(windows) == 3
    assert max(start for start, _ in windows) < min(end for _, end in windows)
    assert [result.model for result in results] == ["types", "slow", "warm"]
    assert all(result.failed == 0 and result.latency_s for result in results)


def test_every_type_gets_valid_values(server: LocalTriton) -> None:
    [result] = BuiltinLoadGenerator().run(server, [closed("types", request_batch_size=2)])
    assert result.first_error is None
    assert result.latency_s


def test_open_dimensions_come_from_the_spec_or_the_warm_up(server: LocalTriton) -> None:
    specs = [closed("open", shapes={"x": [3, 5]}), closed("warm"), closed("zero")]
    results = BuiltinLoadGenerator().run(server, specs)
    assert [result.first_error for result in results] == [None, None, None]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (closed("open"), r"model 'open', input 'x': its dims \[3, -1\] leave a size open"),
        (closed("open", shapes={"x": [4, 5]}), r"shape \[4, 5\] does not fit"),
        (closed("open", shapes={"z": [4, 5]}), "no input 'z'; its inputs are x"),
        (closed("slow", request_batch_size=8), "cannot carry 8 inferences, max_batch_size is 4"),
        (closed("decoupled"), "decoupled"),
        (closed("slow", concurrency=0), "concurrency >= 1"),
        (opened("slow", 0.0), "rate_rps > 0"),
        (closed("slow", seconds=0), "seconds must be positive"),
    ],
)
def test_what_cannot_be_sent_is_refused(server: LocalTriton, spec: LoadSpec, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        BuiltinLoadGenerator().run(server, [spec])
    if "leave a size open" in message:
        assert caught.value.hint == ("give it with --shape open:x:3,1, or in measure.yaml: shapes: {open: {x: [3, 1]}}")


def test_an_unknown_model_is_refused(server: LocalTriton) -> None:
    with pytest.raises(TritonRefused, match="'nobody'"):
        BuiltinLoadGenerator().run(server, [closed("nobody")])


def test_failures_of_a_model_are_counted_with_the_first_cause(server: LocalTriton) -> None:
    results = BuiltinLoadGenerator().run(server, [closed("broken"), closed("warm")])
    assert results[0].failed == results[0].offered > 0
    assert results[0].first_error is not None
    assert "out of luck" in results[0].first_error
    assert results[1].failed == 0
    with pytest.raises(ServerError, match=r"none of .* requests to 'broken' succeeded.*out of luck"):
        BuiltinLoadGenerator().run(server, [closed("broken")])


def test_a_stateful_model_gets_a_sequence_per_request(server: LocalTriton) -> None:
    [result] = BuiltinLoadGenerator().run(server, [closed("sequence", concurrency=4)])
    assert result.first_error is None
    assert len(result.latency_s) > 20


def test_an_answer_after_the_deadline_is_a_failure(server: LocalTriton) -> None:
    [result] = BuiltinLoadGenerator(deadline_s=0.2).run(server, [opened("slow", 300.0, seconds=1.0)])
    assert result.failed > 0
    assert result.failed + len(result.latency_s) == result.offered
    assert result.first_error == "no answer within 0.2 s"
    assert max(result.latency_s) < 0.4


def test_the_worker_is_pinned_and_says_what_it_took(server: LocalTriton) -> None:
    core = max(os.sched_getaffinity(0))
    [result] = BuiltinLoadGenerator([core]).run(server, [closed("warm", seconds=1.0, concurrency=64)])
    assert 0.1 < result.client_busy <= 1.05
    assert result.client_bound == (result.client_busy > 0.9)


def test_an_interrupted_run_leaves_no_worker(server: LocalTriton) -> None:
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        BuiltinLoadGenerator().run(server, [closed("slow", seconds=30.0)])
    timer.join()
    assert not workers()


@pytest.mark.parametrize("spec", [closed("slow", seconds=20.0), opened("slow", 50.0, seconds=20.0)])
def test_a_server_that_dies_is_noticed_at_once(
    triton: TritonInstallation, small_models: Path, tmp_path: Path, spec: LoadSpec
) -> None:
    with LocalTriton.start(triton, small_models, cores=None, log_path=tmp_path / "log", load=["slow"]) as server:
        killer = threading.Timer(1.5, os.kill, [server.pid, signal.SIGKILL])
        killer.start()
        begin = time.monotonic()
        with pytest.raises(TritonExited, match="Triton ended by signal SIGKILL") as caught:
            BuiltinLoadGenerator().run(server, [spec])
        assert time.monotonic() - begin < 15
        assert caught.value.log_tail
        killer.join()
    assert not workers()


def _inferences(server: LocalTriton, model: str) -> int:
    statistics = server.statistics(model)["model_stats"]
    assert isinstance(statistics, list)
    return int(statistics[0]["inference_count"])
