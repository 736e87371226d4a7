"""`planner measure` as it is typed, on a real Triton: its outcome, its errors, and its interruption."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from planner.store.database import open_store
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary
from profiler.server.find import TritonInstallation

pytestmark = pytest.mark.slow

QUICK = """\
schema_version: 1
search: grid
stability: {max_windows: 1}
instances: [1]
max_batch_sizes: [4]
closed_loop: {concurrency: [8]}
open_loop: {of: planned, levels: [1, 2]}
window: {min_seconds: 0.5, max_seconds: 0.5}
"""
WORKLOAD = """\
schema_version: 1
models:
  - {name: file_type, rate_rps: 8, headroom: 0.5, latency_p50_ms: 100}
"""
COMMAND = [sys.executable, "-m", "planner.cli", "measure"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path, example_models: Path, triton: TritonInstallation) -> Path:
    shutil.copytree(example_models / "file_type", tmp_path / "models" / "file_type")
    (tmp_path / "measure.yaml").write_text(QUICK)
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    return tmp_path


@pytest.fixture
def run(planner: Run, project: Path) -> Run:
    """`planner measure`."""
    return lambda *arguments: planner(project, "measure", *arguments)


@pytest.mark.parametrize("generator", ["builtin", "perf_analyzer"])
def test_measures_at_multiples_of_the_planned_rate_and_then_nothing(
    project: Path, run: Run, generator: str, request: pytest.FixtureRequest
) -> None:
    version = metadata.version("planner")
    if generator == "perf_analyzer":
        version = request.getfixturevalue("perf_analyzer").version
    done = run("--json", "--load-generator", generator)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    rows = [row for row in outcome["profiles"] if row["model"] == "file_type"]
    assert {row["load_generator"] for row in rows} == {generator}
    assert {row["latency_p50_ms"] is None or row["latency_p50_ms"] > 0 for row in rows} == {True}
    assert all(row["rate_rps"] > 0 and row["latency_mean_ms"] > 0 and row["busy"] > 0 for row in rows)
    assert {remark["load_generator_version"] for remark in remarks(project)} == {version}
    assert {remark["samples"] for remark in remarks(project)} == {"every request"}
    assert (outcome["complete"], outcome["measured"], len(rows)) == (True, 3, 3)
    assert sorted(row["offered_rps"] for row in rows if row["load"] == "open") == [12, 24]
    assert "[1/1] file_type: 1 instance, max batch 4" in done.stderr

    again = run()
    assert again.returncode == 0, again.stderr
    assert "0 points measured" in again.stdout
    assert "3 were in the store already" in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 100


def remarks(project: Path) -> list[dict[str, Any]]:
    """What was stored beside Triton's statistics with each load point."""
    with closing(sqlite3.connect(project / "profiles.db")) as store:
        found = [json.loads(text) for (text,) in store.execute("select statistics from measurement")]
    return [one for one in found if "point" in one]


def test_the_default_is_perf_analyzer_where_it_runs(project: Path, run: Run, perf_analyzer: PerfAnalyzerBinary) -> None:
    done = run("--json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["profiles"] if row["model"] == "file_type"]
    # a point that it could not measure, on a machine that is busy, is the other generator's
    assert "perf_analyzer" in {row["load_generator"] for row in rows}


def test_the_default_elsewhere_is_the_built_in_generator_and_says_why(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, triton: TritonInstallation
) -> None:
    monkeypatch.setenv("TRITON_SERVER", str(triton.binary))
    monkeypatch.setenv("PLANNER_CACHE", str(project / "cache"))
    (cache := project / "cache").mkdir()
    if triton.working_directory is not None:
        (cache / triton.working_directory.name).symlink_to(triton.working_directory)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if importlib.util.find_spec("perf_analyzer") is not None or shutil.which("perf_analyzer") is not None:
        pytest.skip("this environment has a perf_analyzer of its own")
    done = run("--json")
    assert done.returncode == 0, done.stderr
    assert "load by the built-in generator: perf_analyzer is not on this machine; `planner doctor --inst" in done.stderr
    rows = [row for row in json.loads(done.stdout)["profiles"] if row["model"] == "file_type"]
    assert {row["load_generator"] for row in rows} == {"builtin"}
    asked = run("--load-generator", "perf_analyzer")
    assert asked.returncode == 2
    assert "error: perf_analyzer is not on this machine" in asked.stderr


def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(project: Path, run: Run) -> None:
    (project / "measure.yaml").write_text(QUICK.replace("max_seconds: 0.5", "max_seconds: 30").replace("0.5", "20"))
    process = subprocess.Popen([*COMMAND], cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        assert "[1/1]" in process.stderr.readline()
        family = wait_for(lambda: tritons(process.pid))
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - begin < 20
        assert "interrupted: what was finished is kept" in process.stderr.read()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert not [one for one in family if one.is_running()]

    (project / "measure.yaml").write_text(QUICK)
    after = run("--json")
    assert after.returncode == 0, after.stderr
    with_overheads = open_store(f"sqlite:///{project / 'profiles.db'}")
    try:
        assert len(with_overheads.rows()) == 4
    finally:
        with_overheads.close()


# windows of an open loop last as long as they may: on a busy machine, too, requests have to fall into them
SEARCHED = """\
schema_version: 1
instances: [1, 2]
max_batch_sizes: [1, 2, 4]
open_loop: {levels: [0.5]}
window: {min_seconds: 0.5, max_seconds: 2}
stability: {max_windows: 1}
"""


def stored(project: Path) -> dict[str, str]:
    """The time of every finished point, by its key; overheads too."""
    if not (project / "profiles.db").exists():
        return {}
    with closing(sqlite3.connect(project / "profiles.db")) as store:
        try:
            found = store.execute(
                "select key, measured_at from measurement where failure is null and source = 'measured'"
            )
        except sqlite3.OperationalError:
            return {}  # it is being made
        return dict(found.fetchall())


def test_a_killed_search_goes_on_from_every_point_that_it_finished_and_decides_as_before(
    project: Path, run: Run
) -> None:
    (project / "measure.yaml").write_text(SEARCHED.replace("[1, 2, 4]", "[1, 4]"))
    (project / "workload.yaml").unlink()
    killed: dict[str, str] = {}
    for points in (3, 6):  # the server's base counts, too: once in the first configuration, once in a later one
        command = [*COMMAND, "--load-generator", "builtin"]
        process = subprocess.Popen(command, cwd=project, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_for(lambda enough=points: len(stored(project)) >= enough, seconds=90)
            family = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
            process.wait()
        wait_for(lambda left=family: not any(one.is_running() for one in left))
        assert killed.items() <= stored(project).items()  # the second run measured none of them again
        killed = stored(project)
    done = run("--json", "--load-generator", "builtin")
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    after = stored(project)
    assert killed.items() <= after.items()
    assert outcome["reused"] == len(killed) - 1
    assert outcome["measured"] == len(after) - len(killed)
    again = json.loads(run("--json", "--load-generator", "builtin").stdout)
    assert (again["measured"], again["reused"]) == (0, len(after) - 1)
    assert stored(project) == after
    assert again["pruned"] == outcome["pruned"]


def test_constraints_prune_and_say_so(project: Path, run: Run) -> None:
    (project / "measure.yaml").write_text(SEARCHED + "constraints: {models: {file_type: {latency_p50_ms: 0.01}}}\n")
    done = run("--json", "--search", "auto")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    rows = [row for row in outcome["profiles"] if row["model"] == "file_type"]
    assert {(row["instances"], row["max_batch_size"], row["load"]) for row in rows} == {(1, 4, "closed")}
    assert len(outcome["pruned"]) == 6
    assert all("at most 0.01 ms are allowed" in text for text in outcome["pruned"])


MANUAL = """\
schema_version: 1
manual:
  file_type:
    - max_batch_sizes: [2, 4]
      queue_delays_us: [100]
      config: {parameters.threads: [1], dynamic_batching.preferred_batch_size: [[2]]}
closed_loop: {concurrency: [4]}
open_loop: {levels: [0.3]}
window: {min_seconds: 0.5, max_seconds: 2}
stability: {max_windows: 1}
"""


def test_listed_configurations_are_measured_with_every_field_that_they_name(
    project: Path, planner: Run, run: Run
) -> None:
    (project / "measure.yaml").write_text(MANUAL)
    (project / "workload.yaml").unlink()
    done = run("--json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["profiles"] if row["model"] == "file_type"]
    assert {(row["max_batch_size"], row["queue_delay_us"], row["load"]) for row in rows} == {
        (2, 100, "closed"), (2, 100, "open"), (4, 100, "closed"), (4, 100, "open"),
    }  # fmt: skip
    variant = "parameters.threads=1, dynamic_batching.preferred_batch_size=[2]"
    assert {row["variant"] for row in rows} == {variant}
    shown = planner(project, "profiles", "show", "file_type")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("file_type on cpu-1: 4 points")
    assert planner(project, "solve", "--gpus", "1xcpu-1", "--minimize", "models").returncode != 0


def tritons(pid: int) -> list[psutil.Process]:
    family = psutil.Process(pid).children(recursive=True)
    return family if any("tritonserver" in one.name() for one in family) else []


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def test_a_budget_that_ends_first_is_told_and_exits_with_5(project: Path, run: Run) -> None:
    done = run("--budget", "1s")
    assert done.returncode == 5
    assert "left out, the budget ended first: file_type (1 instance, max batch 4" in done.stdout
    assert "error: 1 configurations were left out when the budget ended" in done.stderr
    assert "try: run the command again" in done.stderr


def test_a_model_that_does_not_load_is_told_with_triton_s_words_and_the_others_go_on(project: Path, run: Run) -> None:
    shutil.copytree(project / "models" / "file_type", project / "models" / "broken")
    (project / "models" / "broken" / "1" / "model.py").write_text("raise ImportError('weights are missing')\n")
    config = project / "models" / "broken" / "config.pbtxt"
    config.write_text(config.read_text().replace('"file_type"', '"broken"'))
    done = run()
    assert done.returncode == 5
    assert "failed: broken" in done.stdout
    assert "weights are missing" in done.stdout
    assert " file_type " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["file_tipe"], "model 'file_tipe' is not in models; there are file_type"),
        (["--model-repository", "nowhere"], "--model-repository nowhere: no such folder"),
        (["--device", "A100-80"], "--device 'A100-80': a GPU of this machine is named by its place or its UUID"),
        (["--exclusive"], "--exclusive is for GPUs, and --device cpu-1 is none"),
        (["--device", "cpu-999"], "cpu-999 needs 999 cores"),
        (["--cores", "0,9999"], "--cores 0, 9999: cpu-1 has 1 cores, 2 are named"),
        (["--cores", "9999"], "core 9999 is not among the cores"),
        (["--cores", "x"], "cores 'x': write for example 0 or 0,2-3"),
        (["--budget", "soon"], "--budget: 'soon' is not a duration"),
        (["--workload", "gone.yaml"], "gone.yaml"),
        (["--triton-server", "gone"], "gone"),
        (["--store", "sqlite:///nowhere/profiles.db"], "nowhere"),
    ],
)
def test_bad_input_is_one_clear_error(project: Path, run: Run, arguments: list[str], text: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (project / "profiles.db").exists()


def test_a_mistake_in_config_pbtxt_is_named_by_line(project: Path, run: Run) -> None:
    config = project / "models" / "file_type" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 4", "max_batch_sise: 4"))
    done = run()
    assert done.returncode == 2
    assert "config.pbtxt" in done.stderr
    assert "line 4" in done.stderr
    assert "max_batch_size" in done.stderr


def test_planned_rates_need_a_workload(project: Path, run: Run) -> None:
    (project / "workload.yaml").unlink()
    done = run()
    assert done.returncode == 2
    assert "workload.yaml: no such file, and open_loop.of: planned takes its rates from there" in done.stderr
