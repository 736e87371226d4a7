"""Triton's control calls over gRPC, each with a deadline, each failure as one of Planner's errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from planner.errors import TritonRefused, TritonUnreachable

CALL_TIMEOUT_S = 10.0
# A proxy from the environment must not come between us and our own machine.
LOCAL_CHANNEL = [("grpc.enable_http_proxy", 0)]
NO_ANSWER = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
# Strings of the statistics extension; every other string is a 64-bit number, which protobuf's JSON quotes.
TEXT_FIELDS = {"name", "version", "type"}


class ControlClient:
    def __init__(self, host: str, grpc_port: int, *, local: bool) -> None:
        self.address = f"{host}:{grpc_port}"
        self._client = InferenceServerClient(self.address, channel_args=LOCAL_CHANNEL if local else None)

    def is_ready(self) -> bool:
        try:
            return bool(self._client.is_server_ready(client_timeout=1.0))
        except InferenceServerException:
            return False

    def is_live(self) -> bool:
        """Unlike `is_ready`, also true where some model failed to load."""
        try:
            return bool(self._client.is_server_live(client_timeout=CALL_TIMEOUT_S))
        except InferenceServerException:
            return False

    def load(self, model: str, timeout_s: float) -> None:
        self._call(f"load model {model!r}", self._client.load_model, timeout_s, model)
        ready = self._call(f"ask for model {model!r}", self._client.is_model_ready, CALL_TIMEOUT_S, model)
        if not ready:
            raise TritonRefused(f"Triton loaded model {model!r} but does not call it ready")

    def unload(self, model: str, timeout_s: float) -> None:
        self._call(f"unload model {model!r}", self._client.unload_model, timeout_s, model)

    def statistics(self, model: str) -> Mapping[str, object]:
        """`{"model_stats": [...]}` with one entry per version, numbers as integers, zeros written out.

        Triton counts a request a moment after it has sent the answer: wait before the last reading.
        """
        call = self._client.get_inference_statistics
        message = self._call(f"read the statistics of {model!r}", call, CALL_TIMEOUT_S, model)
        plain = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        numbers: Mapping[str, object] = _numbers(plain)
        return numbers

    def model_config(self, model: str) -> Any:
        """Triton's ModelConfig message of a model."""
        answer = self._call(
            f"give the configuration of {model!r}", self._client.get_model_config, CALL_TIMEOUT_S, model
        )
        return answer.config

    def infer_once(self, model: str, input_name: str, values: Sequence[float], output_name: str) -> list[float]:
        """The answer to one request with one FP32 vector, as a proof of life."""
        tensor = InferInput(input_name, [len(values)], "FP32")
        tensor.set_data_from_numpy(np.asarray(values, np.float32))
        answer = self._call(f"run model {model!r}", self._client.infer, CALL_TIMEOUT_S, model, [tensor])
        raw = answer.get_response().raw_output_contents
        names = [output.name for output in answer.get_response().outputs]
        # Not as_numpy: it fails where the server sends fewer bytes than it announces.
        return [float(number) for number in np.frombuffer(raw[names.index(output_name)], np.float32)]

    def server_version(self) -> str:
        metadata = self._call("say its version", self._client.get_server_metadata, CALL_TIMEOUT_S)
        return str(metadata.version)

    def close(self) -> None:
        self._client.close()

    def _call(self, task: str, call: Callable[..., Any], timeout_s: float, *arguments: object) -> Any:
        try:
            return call(*arguments, client_timeout=timeout_s)
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise TritonUnreachable(f"Triton at {self.address} did not {task} within {timeout_s:g} s") from error
            if error.status() in NO_ANSWER:
                raise TritonUnreachable(f"Triton at {self.address} cannot be reached to {task}") from error
            raise TritonRefused(f"Triton refused to {task}: {error.message()}") from error


def _numbers(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, field) for item in value]
    if isinstance(value, str) and field not in TEXT_FIELDS and value.isdigit():
        return int(value)
    return value
