"""Request files: what is read of them, and what each mistake is called."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from planner.domain.serving import LoadMode, LoadSpec
from planner.errors import InputError, NotFoundError
from profiler.load.input_file import read_input_file
from profiler.load.tensors import given_values

CONFIG = """
name: "m" max_batch_size: 4
input { name: "x" data_type: TYPE_INT8 dims: [ 2, -1 ] }
input { name: "t" data_type: TYPE_STRING dims: [ 1 ] optional: true }
input { name: "open" data_type: TYPE_FP16 dims: [ -1, -1 ] optional: true }
"""


def read(path: Path, data: object, shapes: dict[str, list[int]] | None = None) -> list[Any]:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_input_file(path, text_format.Parse(CONFIG, ModelConfig()), shapes or {})


def b64(raw: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(raw).decode()}


def test_values_in_every_form(tmp_path: Path) -> None:
    data = [
        {"x": [[1, 2], [3, -4]]},
        {"x": {"content": [1, 2], "shape": [2, 1]}, "t": ["ü"]},
        {"x": b64(b"\x01\x02\x03\x04"), "t": {"content": b64(b"\x01\0\0\0a"), "shape": [1]}},
    ]
    [stream] = read(tmp_path / "f", {"data": data, "validation_data": []})
    assert [[(t.name, t.datatype, t.shape, t.raw) for t in one] for one in stream] == [
        [("x", "INT8", (2, 2), b"\x01\x02\x03\xfc")],
        [("x", "INT8", (2, 1), b"\x01\x02"), ("t", "BYTES", (1,), b"\x02\0\0\0\xc3\xbc")],
        [("x", "INT8", (2, 2), b"\x01\x02\x03\x04"), ("t", "BYTES", (1,), b"\x01\0\0\0a")],
    ]


def test_shapes_that_are_given_elsewhere_and_streams(tmp_path: Path) -> None:
    one = {"x": [1, 2], "open": [1, 2, 3, 4]}
    streams = read(tmp_path / "f", {"data": [[one], [one, one]]}, {"open": [2, 2]})
    assert [len(stream) for stream in streams] == [1, 2]
    assert streams[1][1][1].shape == (2, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", ":1: not valid JSON"),
        ([], r'must hold {"data": \[...\]}, got \[\]'),
        ({"data": []}, "data must be a list of requests"),
        ({"data": [{}], "date": 1}, "unknown key 'date'; allowed are data, validation_data"),
        ({"data": [[{"x": [1, 2]}], {"x": [1, 2]}]}, "stream 2: must be a list of requests, as others are"),
        ({"data": [3]}, "request 1: must be inputs with their values, got 3"),
        ({"data": [{"x": [1, 2]}, {"xx": [1]}]}, "request 2: model 'm' has no input 'xx'; did you mean x?"),
        ({"data": [{"t": ["a"]}]}, "request 1: input 'x' of model 'm' is missing"),
        ({"data": [[{"x": [1, 2]}], [{"x": [1, 300]}]]},
         "stream 2, request 1: input 'x', of type INT8: 300 is not a whole number from -128 to 127"),
        ({"data": [{"x": [1, True]}]}, "True is not a whole number"),
        ({"data": [{"x": [1, 2], "t": [7]}]}, "input 't', of type BYTES: 7 is not text"),
        ({"data": [{"x": [1, 2], "t": b64(b"\5\0\0\0a")}]}, "but ends within a text of 5 bytes"),
        ({"data": [{"x": {"b64": "!"}}]}, "b64 is not valid Base64"),
        ({"data": [{"x": [1, 2], "open": {"content": b64(b"123"), "shape": [1, 1]}}]},
         "of type FP16: b64 holds 3 bytes, and a value takes 2"),
        ({"data": [{"x": {"content": [1, 2], "shape": [3, 1]}}]}, r"shape \[3, 1\] does not fit its dims \[2, -1\]"),
        ({"data": [{"x": {"content": [1, 2, 3], "shape": [2, 2]}}]}, r"3 values, and shape \[2, 2\] takes 4"),
        ({"data": [{"x": {"values": [1, 2]}}]}, 'expected values, {"b64": ...} or'),
        ({"data": [{"x": 5}]}, "expected a list of values"),
        ({"data": [{"x": [1, 2], "open": [1]}]}, r"request 1: model 'm', input 'open': its dims \[-1, -1\] leave"),
        ({"data": [{"x": [1, 2, 3]}]}, r"its dims \[2, -1\] leave a size open"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_place(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "calls.json", data)
    assert str(tmp_path / "calls.json") in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such request file"):
        read_input_file(tmp_path / "gone.json", ModelConfig(), {})


def test_bfloat16_keeps_the_upper_half_of_a_float() -> None:
    assert given_values("BF16", [1, -2.5]) == struct.pack("<2H", 0x3F80, 0xC020)
    with pytest.raises(ValueError, match="100000 is not a number from -65504 to 65504"):
        given_values("FP16", [100000])


def test_what_travels_to_the_generator_s_process_comes_back() -> None:
    from profiler.load.builtin import _stream
    from profiler.load.worker import _spec

    spec = LoadSpec("m", LoadMode.OPEN, 1.0, rate_rps=2.0, shapes={"x": (1, 2)}, input_file=Path("calls.json"))
    assert _spec(json.loads(json.dumps(_stream(spec)))) == LoadSpec(
        "m", LoadMode.OPEN, 1.0, rate_rps=2.0, shapes={"x": [1, 2]}, input_file=Path("calls.json")
    )


def test_correlation_ids_are_texts_where_the_model_wants_texts() -> None:
    """Only as they are sent: Triton 2.51 itself cannot give such ids to a model of its Python backend."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    from profiler.load.requests import has_text_ids, sequence_ids
    from profiler.load.transport import GrpcWire

    control = (
        'sequence_batching { control_input { name: "I" control { kind: CONTROL_SEQUENCE_CORRID data_type: %s } } }'
    )
    config = text_format.Parse(control % "TYPE_STRING", ModelConfig())
    assert has_text_ids(config)
    assert not has_text_ids(text_format.Parse(control % "TYPE_UINT64", ModelConfig()))
    ids = sequence_ids(7, text=True)
    one = next(ids)
    assert (one, next(ids), next(sequence_ids(7, text=False))) == ("planner-7", "planner-8", 7)
    sent = GrpcWire.in_sequence(object(), b"", one, start=True, end=False)  # type: ignore[arg-type]
    parameters = ModelInferRequest.FromString(sent).parameters
    assert parameters["sequence_id"].string_param == one
    assert (parameters["sequence_start"].bool_param, parameters["sequence_end"].bool_param) == (True, False)
