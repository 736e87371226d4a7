"""Runs an ONNX model in Triton's Python backend. The same file serves every model of this folder.

Tensor names are ONNX's own and come from config.pbtxt. Its parameters: `onnx`, the file beside this one
(default model.onnx), and `threads` (default: as many as the CPUs that this process may run on).
Requests of a batch are joined along the first dimension where the model has a batch dimension.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batches = config["max_batch_size"] > 0
        version = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("threads", len(os.sched_getaffinity(0))))
        options.inter_op_num_threads = 1
        # A spinning thread looks busy while it waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(version / parameters.get("onnx", "model.onnx")), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list) -> list:
        tensors = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        groups = [list(range(len(requests)))] if self.batches else [[index] for index in range(len(requests))]
        responses: list = [None] * len(requests)
        for group in groups:
            try:
                results = self._run([tensors[index] for index in group])
            except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime says is the request's answer
                results = [pb_utils.TritonError(str(error))] * len(group)
            for index, result in zip(group, results, strict=True):
                responses[index] = self._response(result)
        return responses

    def _run(self, tensors: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The outputs per request of one session run over all of them."""
        if len(tensors) == 1:
            values = self.session.run(self.outputs, tensors[0])
            return [dict(zip(self.outputs, values, strict=True))]
        feed = {name: np.concatenate([one[name] for one in tensors]) for name in self.inputs}
        values = self.session.run(self.outputs, feed)
        ends = np.cumsum([len(one[self.inputs[0]]) for one in tensors])[:-1]
        split = [np.split(value, ends) for value in values]
        return [dict(zip(self.outputs, parts, strict=True)) for parts in zip(*split, strict=True)]

    def _response(self, result: object) -> object:
        if not isinstance(result, dict):
            return pb_utils.InferenceResponse(output_tensors=[], error=result)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in result.items()]
        )
