"""Python models that write down what reaches them: one line of JSON per request, in their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDER = """
import json
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

def plain(tensor):
    values = tensor.as_numpy()
    flat = [v.hex() if isinstance(v, bytes) else v.item() for v in values.flatten()]
    return {"shape": list(values.shape), "values": flat}

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        controls = config.get("sequence_batching", {}).get("control_input", [])
        self.names = [one["name"] for one in [*config["input"], *controls]]
        self.is_batched = config["max_batch_size"] > 0
        self.file = open(Path(__file__).resolve().parents[1] / "received.jsonl", "a")

    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.names}
            got = {name: plain(tensor) for name, tensor in tensors.items() if tensor is not None}
            self.file.write(json.dumps(got) + "\\n")
            first = next(tensor for tensor in tensors.values() if tensor is not None)
            shape = (first.as_numpy().shape[0], 1) if self.is_batched else (1,)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.zeros(shape, np.float32))]))
        self.file.flush()
        return answers
"""
OUTPUT = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n'
X = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
SEVERAL = """max_batch_size: 4
input [ { name: "numbers" data_type: TYPE_FP32 dims: [ -1 ] } ]
input [ { name: "texts" data_type: TYPE_STRING dims: [ 2 ] } ]
input [ { name: "flags" data_type: TYPE_BOOL dims: [ 2 ] optional: true } ]
"""
UNBATCHED = 'max_batch_size: 0\ninput [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1 ] } ]\n'
TYPES = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64")
TYPED = "".join(f'input [ {{ name: "{name}" data_type: TYPE_{name} dims: [ 2 ] }} ]\n' for name in TYPES)
SEQUENCE = """max_batch_size: {slots}
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "READY" control [ {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "ID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: {id_type} }} ] }}
  ]
}}
"""


def write_recorder(repository: Path, name: str, config: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}{OUTPUT}')
    (repository / name / "1" / "model.py").write_text(RECORDER)


def write_recorders(repository: Path) -> tuple[str, ...]:
    """Their names."""
    write_recorder(repository, "several", SEVERAL)
    write_recorder(repository, "unbatched", UNBATCHED)
    write_recorder(repository, "typed", TYPED)
    write_recorder(repository, "stateful", SEQUENCE.format(slots=2, id_type="TYPE_UINT64") + X)
    write_recorder(repository, "named", SEQUENCE.format(slots=1, id_type="TYPE_STRING") + X)
    return ("several", "unbatched", "typed", "stateful", "named")


def received(repository: Path, model: str) -> list[dict[str, Any]]:
    """What reached a model since the last look."""
    file = repository / model / "received.jsonl"
    lines = file.read_text().splitlines()
    seen = file.with_name("seen")
    before = int(seen.read_text()) if seen.exists() else 0
    seen.write_text(str(len(lines)))
    return [json.loads(line) for line in lines[before:]]
