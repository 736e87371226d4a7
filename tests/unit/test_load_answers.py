"""What of an answer contradicts a model's configuration."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2 import ModelInferResponse

from profiler.load.answers import unlike_config

CONFIG = """
name: "m" max_batch_size: 4
output { name: "y" data_type: TYPE_FP32 dims: [ 2, -1 ] }
output { name: "text" data_type: TYPE_STRING dims: [ 1 ] }
"""


def answer(*outputs: tuple[str, str, list[int]]) -> ModelInferResponse:
    response = ModelInferResponse()
    for name, datatype, shape in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
    return response


@pytest.mark.parametrize(
    ("outputs", "contradiction"),
    [
        ([("y", "FP32", [3, 2, 7]), ("text", "BYTES", [3, 1])], None),
        ([("text", "BYTES", [3, 1])], None),
        ([], "answers without any output; config.pbtxt declares y, text"),
        ([("z", "FP32", [3])], "answers with an output 'z'; config.pbtxt declares y, text"),
        ([("y", "FP16", [3, 2, 7])], "answers with 'y' of type FP16; config.pbtxt declares FP32"),
        ([("y", "FP32", [3, 3, 7])], "answers with 'y' of shape [3, 3, 7]; config.pbtxt declares [3, 2, -1]"),
        ([("y", "FP32", [1, 2, 7])], "answers with 'y' of shape [1, 2, 7]; config.pbtxt declares [3, 2, -1]"),
        ([("y", "FP32", [2, 7])], "answers with 'y' of shape [2, 7]; config.pbtxt declares [3, 2, -1]"),
    ],
)
def test_outputs_must_be_as_declared(outputs: list[tuple[str, str, list[int]]], contradiction: str | None) -> None:
    config = text_format.Parse(CONFIG, ModelConfig())
    assert unlike_config(config, 3, answer(*outputs)) == contradiction


def test_without_batches_the_shape_is_that_of_the_configuration() -> None:
    config = text_format.Parse('name: "m" output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }', ModelConfig())
    assert unlike_config(config, 1, answer(("y", "FP32", [2]))) is None
    assert unlike_config(config, 1, answer(("y", "FP32", [1, 2]))) is not None
