"""`planner measure` on models of every kind, as it is typed, on a real Triton."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.store.database import open_store
from profiler.server.find import TritonInstallation
from tests.recording_models import received, write_recorders
from tests.small_models import ONE_INPUT, write_model

pytestmark = pytest.mark.slow

QUICK = """\
schema_version: 1
search: grid
stability: {max_windows: 1}
instances: [1]
closed_loop: {concurrency: [2]}
open_loop: {of: capacity, levels: [0.3]}
window: {min_seconds: 0.5, max_seconds: 0.5}
"""
ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "first" model_version: -1
      input_map { key: "x" value: "x" } output_map { key: "y" value: "between" }
    },
    {
      model_name: "second" model_version: -1
      input_map { key: "z" value: "between" } output_map { key: "y" value: "y" }
    }
  ]
}
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Measured = Callable[..., list[dict[str, Any]]]
Z = 'input [ { name: "z" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'


@pytest.fixture
def project(tmp_path: Path, triton: TritonInstallation) -> Path:
    models = tmp_path / "models"
    write_recorders(models)
    answer = "np.zeros((tensors[0].shape[0], 1), np.float32)"
    write_model(models, "first", f"max_batch_size: 4\n{ONE_INPUT}", seconds=0.002, answer=answer)
    write_model(models, "second", f"max_batch_size: 4\n{Z}", names=("z",), seconds=0.002, answer=answer)
    write_model(models, "decoupled", ONE_INPUT + "model_transaction_policy { decoupled: true }\n")
    (models / "both" / "1").mkdir(parents=True)
    (models / "both" / "config.pbtxt").write_text(ENSEMBLE)
    (tmp_path / "measure.yaml").write_text(QUICK)
    return tmp_path


@pytest.fixture
def run(planner: Run, project: Path) -> Run:
    """`planner measure` with the built-in load generator."""
    return lambda *arguments: planner(project, "measure", "--load-generator", "builtin", *arguments)


@pytest.fixture
def measured(run: Run) -> Measured:
    """The rows of models that `planner measure` prints."""

    def measure(*arguments: str) -> list[dict[str, Any]]:
        done = run("--json", *arguments)
        assert done.returncode == 0, done.stderr
        return [row for row in json.loads(done.stdout)["profiles"] if not row["model"].startswith("@")]

    return measure


def test_an_ensemble_is_measured_whole_with_the_memory_of_its_members(
    project: Path, planner: Run, measured: Measured
) -> None:
    rows = measured("both", "first")
    whole = [row for row in rows if row["model"] == "both"]
    alone = [row for row in rows if row["model"] == "first"]
    assert len(whole) == len(alone) == 2
    for row in whole:
        assert (row["backend"], row["variant"], row["instances"]) == ("ensemble", "first 1, second 1", 1)
        # two processes and one copy of the libraries that they share: less than twice, much more than one
        assert row["memory_bytes"] > 1.25 * max(one["memory_bytes"] for one in alone)
        assert row["latency_mean_ms"] > 4
        assert row["busy"] > 0
    store = open_store(f"sqlite:///{project / 'profiles.db'}")
    try:
        for point in store.measurements(model="both"):
            members = point.statistics["members"]
            assert isinstance(members, dict)
            assert set(members) == {"first", "second"}
            assert all(member["inference_count"] > 0 and member["compute_infer_ms"] > 1 for member in members.values())
    finally:
        store.close()
    planned = planner(project, "solve", "--gpus", "1xcpu-1", "--minimize", "models", "--json")
    assert planned.returncode == 0, planned.stderr
    assert {replica["model"] for replica in json.loads(planned.stdout)["replicas"]} == {"first"}


def test_a_thrifty_search_looks_at_each_size_of_requests(project: Path, measured: Measured) -> None:
    (project / "measure.yaml").write_text(QUICK + "request_batch_sizes: [1, 4]\n")
    rows = measured("both", "first", "--search", "auto")
    assert {(row["model"], row["request_batch_size"]) for row in rows} == {
        (model, size) for model in ("both", "first") for size in (1, 4)
    }


def test_requests_of_several_sizes_are_a_dimension(project: Path, measured: Measured) -> None:
    (project / "measure.yaml").write_text(QUICK + "request_batch_sizes: [1, 4, 9]\n")
    rows = measured("first")
    assert {row["request_batch_size"] for row in rows} == {1, 4}
    assert len(rows) == 4


def test_a_stateful_model_is_measured_in_sequences_and_its_rows_say_so(project: Path, measured: Measured) -> None:
    (project / "measure.yaml").write_text(QUICK + "sequences: {stateful: {length: 5, live: 2}}\n")
    rows = measured("stateful")
    assert {row["requests"] for row in rows} == {"sequences of 5, 2 live"}
    got = received(project / "models", "stateful")
    by_id: dict[int, int] = {}
    for request in got:
        if request["READY"]["values"] != [0]:
            by_id[request["ID"]["values"][0]] = by_id.get(request["ID"]["values"][0], 0) + 1
    assert max(by_id.values()) == 5
    assert list(by_id.values()).count(5) > len(by_id) / 2


def test_real_inputs_and_shapes_are_part_of_what_was_measured(project: Path, measured: Measured, run: Run) -> None:
    calls = project / "calls.json"
    calls.write_text(json.dumps({"data": [{"numbers": [n, 1], "texts": ["a", "b"]} for n in range(3)]}))
    arguments = ("several", "unbatched", "--input-data", "several:calls.json", "--shape", "unbatched:image:2,3")
    rows = measured(*arguments)
    sent = {row["model"]: row["requests"] for row in rows}
    assert sent["unbatched"] == "image 2x3"
    assert sent["several"].startswith("calls.json ")
    assert {request["numbers"]["values"][0] for request in received(project / "models", "several")} == {0, 1, 2}
    again = run(*arguments)
    assert "0 points measured" in again.stdout, again.stderr
    calls.write_text(json.dumps({"data": [{"numbers": [9], "texts": ["a", "b"]}]}))
    assert len(measured(*arguments)) == len(rows) + 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["decoupled"], "model 'decoupled' is decoupled (model_transaction_policy)"),
        (["unbatched"], "its dims [-1, -1] leave a size open"),
        (["unbatched", "--shape", "image:2"], "shape [2] does not fit its dims [-1, -1]"),
        (["unbatched", "--shape", "image"], "write [MODEL:]INPUT:SIZES, for example unbatched:x:1,128"),
        (["unbatched", "typed", "--shape", "image:2,3"], "begin with a model that is measured and a colon"),
        (["several", "--input-data", "gone.json"], "gone.json: there is no such request file"),
        (["several", "--input-data", "bad.json"], "bad.json: request 1: input 'texts', of type BYTES: 7 is not text"),
        (["lonely"], "ensemble 'lonely' calls 'nobody', which is not in models"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    project: Path, run: Run, arguments: list[str], text: str
) -> None:
    (project / "bad.json").write_text(json.dumps({"data": [{"numbers": [1], "texts": [7, 8]}]}))
    (project / "models" / "lonely").mkdir()
    lonely = ENSEMBLE.replace('"second"', '"nobody"')
    (project / "models" / "lonely" / "config.pbtxt").write_text(lonely)
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (project / "profiles.db").exists()
