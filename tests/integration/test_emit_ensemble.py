"""An ensemble with `serve: triton`, from its workload to a real Triton that answers with both of its members."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from planner import cli
from planner.domain.verification import verification_from_json
from planner.emit.places import places
from planner.emit.repository import repository_of
from planner.plan_files import read_json, read_plan
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from tests.small_models import ONE_INPUT, write_model

ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 8
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
Z = 'input [ { name: "z" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
PROFILES = """\
model,device,backend,instances,max_batch_size,queue_delay_us,load,rate_rps,latency_p99_ms,memory_bytes,busy
@server,cpu-1,,,,,,,,80000000,
first,cpu-1,python,1,8,0,open,60,20,200000000,0.2
second,cpu-1,python,1,4,0,open,60,20,200000000,0.2
"""
WORKLOAD = """\
schema_version: 1
models: [{name: first}, {name: second}]
ensembles:
  - name: both
    rate_rps: 20
    latency_p50_ms: 500
    serve: triton
    members: [{name: first}, {name: second}]
    graph: [[first, second]]
"""


def test_triton_serves_the_ensemble_that_was_planned(
    tmp_path: Path, triton: TritonInstallation, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    write_model(models, "first", f"max_batch_size: 8\n{ONE_INPUT}", answer="tensors[0].sum(axis=1, keepdims=True)")
    write_model(models, "second", f"max_batch_size: 8\n{Z}", names=("z",), answer="2 * tensors[0]")
    (models / "both" / "1").mkdir(parents=True)
    (models / "both" / "config.pbtxt").write_text(ENSEMBLE)
    (tmp_path / "profiles.csv").write_text(PROFILES)
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    files = ["--profiles", str(tmp_path / "profiles.csv"), "--workload", str(tmp_path / "workload.yaml")]
    plan, out = str(tmp_path / "plan"), tmp_path / "servers"
    assert cli.run(["solve", "--gpus", "2xcpu-1", *files, "-o", plan]) == 0
    assert cli.run(["emit", plan, "-o", str(out), "--model-repository", str(models)]) == 0
    [place] = places(*read_plan(tmp_path / "plan"))
    served = [*place.models, *place.ensembles]
    assert sorted(served) == ["both", "first", "second"]
    repository, log = repository_of(place, out), tmp_path / "triton.log"
    with LocalTriton.start(triton, repository, cores=None, log_path=log, gpu_uuid="", load=served) as server:
        client = triton_grpc.InferenceServerClient(server.endpoint.address)
        sent = triton_grpc.InferInput("x", [2, 4], "FP32")
        sent.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4))
        answer = client.infer("both", [sent]).as_numpy("y")
        assert client.get_model_config("both", as_json=True)["config"]["max_batch_size"] == 4
        client.close()
    assert answer.tolist() == [[12.0], [44.0]]

    assert cli.run(["verify", plan, "--model-repository", str(models), "--max-seconds", "10"]) == 0
    assert "ensemble both" in capsys.readouterr().out
    found = verification_from_json(read_json(tmp_path / "plan" / "verification.json"), "verification")
    whole = next(m for m in found.models() if m.is_ensemble)
    assert (whole.verdict is not None, whole.percentile, whole.bound_ms, whole.failed) == (True, 50, 500, 0), whole
    assert whole.completed > 0
    assert [m.completed for m in found.models() if not m.is_ensemble] == [0, 0]
