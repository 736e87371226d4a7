"""The example models on the real server: they say what they should, batched or not, and as a tool changes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import np_to_triton_dtype

from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton

BUILD_MODELS = Path(__file__).parents[2] / "examples" / "cpu" / "build_models.py"
MODELS = ["text_detection", "text_direction", "text_recognition", "file_type", "speech_activity"]
BATCHING = ["text_direction", "text_recognition", "file_type"]
DIRECTION_OUTPUT = "save_infer_model/scale_0.tmp_1"
RECOGNITION_OUTPUT = "softmax_11.tmp_0"
DETECTION_OUTPUT = "sigmoid_0.tmp_0"
LETTERS = {
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100",
}
Tensors = Mapping[str, np.ndarray]
Infer = Callable[[str, Tensors], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def server(
    triton: TritonInstallation, example_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    log = tmp_path_factory.mktemp("examples") / "triton.log"
    with LocalTriton.start(triton, example_models, cores=None, load=MODELS, log_path=log) as server:
        yield server


@pytest.fixture(scope="module")
def infer(server: LocalTriton) -> Iterator[Infer]:
    with InferenceServerClient(f"127.0.0.1:{server.endpoint.grpc_port}") as client:
        yield lambda model, tensors: ask(client, model, tensors)


def ask(client: Any, model: str, tensors: Tensors) -> dict[str, np.ndarray]:
    inputs = []
    for name, value in tensors.items():
        inputs.append(InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype)))
        inputs[-1].set_data_from_numpy(value)
    answer = client.infer(model, inputs, client_timeout=30)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def settled_statistics(server: LocalTriton, model: str) -> Any:
    """Triton counts a request a moment after it has sent the answer."""
    time.sleep(0.2)
    [entry] = server.statistics(model)["model_stats"]  # type: ignore[misc]
    return entry


def line(text: str, width: int, *, scale: int) -> np.ndarray:
    """Black letters on white as the OCR models take them: [3, 48, width], -1 to 1."""
    image = np.ones((48, width), np.float32)
    for place, letter in enumerate(text):
        dots = np.array([[int(dot) for dot in row] for row in LETTERS[letter].split()])
        dots = dots.repeat(scale, 0).repeat(scale, 1)
        top, left = (48 - dots.shape[0]) // 2, 12 + place * 6 * scale
        image[top : top + dots.shape[0], left : left + dots.shape[1]][dots == 1] = 0
    return np.stack([image] * 3) * 2 - 1


def bytes_of(content: bytes) -> np.ndarray:
    """Magika's features: the first and the last 1,024 bytes, the space between filled with 256."""
    begin, end = np.full(1024, 256, np.int32), np.full(1024, 256, np.int32)
    content = content.strip()
    head, tail = content[:1024], content[-1024:]
    begin[: len(head)], end[1024 - len(tail) :] = list(head), list(tail)
    return np.concatenate([begin, end])


def sample(model: str) -> dict[str, np.ndarray]:
    """One plausible request to each model, batch dimension included."""
    page = np.ones((1, 3, 320, 320), np.float32)
    page[0, :, 140:188] = line("HELLO", 320, scale=5)
    time_s = np.arange(576, dtype=np.float32) / 16000
    samples = {
        "text_detection": {"x": page},
        "text_direction": {"x": line("TRITON", 192, scale=4)[None]},
        "text_recognition": {"x": line("TRITON", 320, scale=5)[None]},
        "file_type": {"bytes": bytes_of(Path(__file__).read_bytes())[None]},
        "speech_activity": {
            "input": (0.3 * np.sin(2 * np.pi * 220 * time_s))[None].astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
        },
    }
    return samples[model]


def directly(repository: Path, model: str, tensors: Tensors) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(repository / model / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(tensors)), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_answers_as_onnx_runtime_does(model: str, infer: Infer, example_models: Path) -> None:
    answered = infer(model, sample(model))
    expected = directly(example_models, model, sample(model))
    assert answered.keys() == expected.keys()
    for name, value in expected.items():
        assert answered[name].shape == value.shape
        np.testing.assert_allclose(answered[name], value, rtol=1e-3, atol=1e-5)
        assert np.ptp(value) > 0 or value.size == 1, "an answer that says nothing proves nothing"


def test_recognition_reads(infer: Infer, example_models: Path) -> None:
    model = onnxruntime.InferenceSession(str(example_models / "text_recognition" / "1" / "model.onnx"))
    characters = ["", *model.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    [scores] = infer("text_recognition", {"x": line("HELLO", 320, scale=5)[None]})[RECOGNITION_OUTPUT]
    best = [int(index) for index in scores.argmax(1)]
    text = [characters[now] for before, now in zip([0, *best], best, strict=False) if now not in (0, before)]
    assert "".join(text) == "HELLO"


def test_direction_tells_upright_from_turned(infer: Infer) -> None:
    upright = line("TRITON", 192, scale=4)
    turned = np.ascontiguousarray(upright[:, ::-1, ::-1])
    scores = infer("text_direction", {"x": np.stack([upright, turned])})[DIRECTION_OUTPUT]
    assert scores.argmax(1).tolist() == [0, 1]


def test_detection_finds_the_line(infer: Infer) -> None:
    mask = infer("text_detection", sample("text_detection"))[DETECTION_OUTPUT][0, 0] > 0.3
    rows, columns = np.nonzero(mask)
    assert rows.min() > 140
    assert rows.max() < 188
    assert np.ptp(columns) > 100


def test_file_type_tells_files_apart(infer: Infer) -> None:
    """Its labels are not in the model's file: two texts of one kind agree, another kind differs, all are sure."""
    this_file, another = Path(__file__), Path(__file__).with_name("test_server.py")
    contents = [this_file.read_bytes(), another.read_bytes(), b'{"a": [1, 2, {"b": null}]}\n' * 40]
    scores = infer("file_type", {"bytes": np.stack([bytes_of(content) for content in contents])})["target_label"]
    first, second, third = scores.argmax(1)
    assert first == second != third
    assert scores.max(1).min() > 0.8


def test_speech_carries_its_state(infer: Infer) -> None:
    request = sample("speech_activity")
    first = infer("speech_activity", request)
    second = infer("speech_activity", {**request, "state": first["stateN"]})
    assert 0 <= float(first["output"][0, 0]) <= 1
    assert not np.allclose(first["stateN"], second["stateN"])
    assert not np.allclose(first["output"], second["output"])


ROUNDS = 20


@pytest.mark.parametrize("model", BATCHING)
def test_requests_are_run_together_and_told_apart(
    model: str, infer: Infer, server: LocalTriton, example_models: Path
) -> None:
    """Twelve different requests at once; those that wait for the first one are joined."""
    [(name, value)] = sample(model).items()
    requests = [{name: np.roll(value, 7 * shift, axis=-1)} for shift in range(12)]
    together = False
    for _ in range(ROUNDS):  # on a busy machine the requests may reach the server one by one
        before = settled_statistics(server, model)
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(lambda request: infer(model, request), requests))
        after = settled_statistics(server, model)
        assert after["inference_count"] - before["inference_count"] == 12
        together = after["execution_count"] - before["execution_count"] < 12
        if together:
            break
    assert together
    for request, answer in zip(requests, answers, strict=True):
        for output, expected in directly(example_models, model, request).items():
            np.testing.assert_allclose(answer[output], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("instances", "max_batch"), [(2, 1), (1, 2), (2, 4)])
def test_loads_as_a_tool_changes_it(
    instances: int, max_batch: int, triton: TritonInstallation, example_models: Path, tmp_path: Path
) -> None:
    for model in MODELS:
        shutil.copytree(example_models / model, tmp_path / "models" / model)
        path = tmp_path / "models" / model / "config.pbtxt"
        config = text_format.Parse(path.read_text(), ModelConfig())
        config.instance_group[0].count = instances
        if config.max_batch_size > 0:
            config.max_batch_size = max_batch
        path.write_text(text_format.MessageToString(config))
    with (
        LocalTriton.start(triton, tmp_path / "models", cores=None, load=MODELS, log_path=tmp_path / "log") as server,
        InferenceServerClient(f"127.0.0.1:{server.endpoint.grpc_port}") as client,
    ):
        for model in MODELS:
            answered = ask(client, model, sample(model))
            for name, expected in directly(example_models, model, sample(model)).items():
                np.testing.assert_allclose(answered[name], expected, rtol=1e-3, atol=1e-5)


def test_a_wrong_shape_is_an_error_not_a_crash(infer: Infer, server: LocalTriton) -> None:
    """Only ONNX knows that the height must be a multiple of 32: its refusal comes back as the answer."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException):
        infer("text_detection", {"x": np.zeros((1, 3, 33, 320), np.float32)})
    assert infer("text_detection", sample("text_detection"))[DETECTION_OUTPUT].shape == (1, 1, 320, 320)


def test_a_second_build_writes_only_what_differs(example_models: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(example_models, repository)
    command = [sys.executable, str(BUILD_MODELS), "-o", str(repository)]
    assert "0 written" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (repository / "file_type" / "1" / "model.onnx").write_bytes(b"half of it")
    (repository / "text_direction" / "config.pbtxt").unlink()
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert all("models, " in run.communicate()[0] and run.returncode == 0 for run in runs), "two at once are safe"
    assert sorted(path.name for path in repository.iterdir()) == sorted(MODELS)
    for model in MODELS:
        for original in (example_models / model / name for name in ("config.pbtxt", "1/model.py", "1/model.onnx")):
            copy = repository / original.relative_to(example_models)
            assert copy.read_bytes() == original.read_bytes()
