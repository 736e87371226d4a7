"""Triton's control calls, each with a deadline, each failure as one of Planner's errors.

Over gRPC here, over HTTP in `profiler.server.http_client`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from planner.domain.serving import Endpoint, Transport
from planner.errors import InputError, TritonRefused, TritonUnreachable

CALL_TIMEOUT_S = 10.0
UNLOAD_CALL_TIMEOUT_S = 1.0  # Triton answers at once, before the model is gone
UNLOAD_POLL_S = 0.02
# A proxy from the environment must not come between us and our own machine.
LOCAL_CHANNEL = [("grpc.enable_http_proxy", 0)]
# Triton says UNAVAILABLE also where it forbids a call.
FORBIDS = ("is not allowed", "is restricted")
NO_ANSWER = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
# Strings of the statistics extension; every other string is a 64-bit number, which protobuf's JSON quotes.
TEXT_FIELDS = {"name", "version", "type"}


class Control(Protocol):
    """What both transports offer. Every call may raise TritonRefused or TritonUnreachable."""

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        """Load, with a ModelConfig in JSON in place of the repository's, and wait until it is ready."""
        ...

    def unload(self, model: str, timeout_s: float) -> None: ...

    def is_model_ready(self, model: str) -> bool: ...

    def models(self) -> Mapping[str, bool]:
        """The models of its repository, and whether some version of each is ready."""
        ...

    def statistics(self, model: str) -> Mapping[str, object]:
        """`{"model_stats": [...]}` with one entry per version, numbers as integers, zeros written out.

        Triton counts a request a moment after it has sent the answer: wait before the last reading.
        """
        ...

    def model_config(self, model: str) -> Any:
        """Triton's ModelConfig message of a model."""
        ...

    def server_version(self) -> str: ...

    def close(self) -> None: ...


def control_client(endpoint: Endpoint, *, local: bool) -> Control:
    """InputError where the endpoint's TLS files cannot be used."""
    if endpoint.access.transport is Transport.HTTP:
        from profiler.server.http_client import HttpControlClient

        return HttpControlClient(endpoint, local=local)
    return ControlClient(endpoint, local=local)


class ControlClient:
    """Implements Control over gRPC."""

    def __init__(self, endpoint: Endpoint, *, local: bool) -> None:
        self.address, access = endpoint.address, endpoint.access
        self._headers = dict(access.headers) or None
        files = {"root_certificates": access.ca, "private_key": access.key, "certificate_chain": access.certificate}
        try:
            self._client = InferenceServerClient(
                self.address,
                ssl=access.tls,
                channel_args=LOCAL_CHANNEL if local else None,
                **{name: None if path is None else str(path) for name, path in files.items()},
            )
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error

    def is_ready(self) -> bool:
        try:
            return bool(self._client.is_server_ready(client_timeout=1.0))
        except InferenceServerException:
            return False

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        self._call(f"load model {model!r}", self._client.load_model, timeout_s, model, config=config)
        if not self.is_model_ready(model):
            raise TritonRefused(f"Triton loaded model {model!r} but does not call it ready")

    def is_model_ready(self, model: str) -> bool:
        return bool(self._call(f"ask for model {model!r}", self._client.is_model_ready, CALL_TIMEOUT_S, model))

    def models(self) -> Mapping[str, bool]:
        index = self._call("list its models", self._client.get_model_repository_index, CALL_TIMEOUT_S)
        found: dict[str, bool] = {}
        for entry in index.models:
            found[entry.name] = found.get(entry.name, False) or entry.state == "READY"
        return found

    def unload(self, model: str, timeout_s: float) -> None:
        self._call(f"unload model {model!r}", self._client.unload_model, timeout_s, model)

    def unload_all(self, timeout_s: float) -> None:
        """Unload every model and wait until the last is gone, or `timeout_s` are over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            index = self._call("list its models", self._client.get_model_repository_index, UNLOAD_CALL_TIMEOUT_S)
            for entry in index.models:
                if entry.state == "READY":
                    self.unload(entry.name, UNLOAD_CALL_TIMEOUT_S)
            if not any(entry.state in ("READY", "LOADING", "UNLOADING") for entry in index.models):
                return
            time.sleep(UNLOAD_POLL_S)

    def statistics(self, model: str) -> Mapping[str, object]:
        call = self._client.get_inference_statistics
        message = self._call(f"read the statistics of {model!r}", call, CALL_TIMEOUT_S, model)
        plain = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        numbers: Mapping[str, object] = _numbers(plain)
        return numbers

    def model_config(self, model: str) -> Any:
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

    def _call(self, task: str, call: Callable[..., Any], timeout_s: float, *arguments: object, **named: object) -> Any:
        try:
            return call(*arguments, headers=self._headers, client_timeout=timeout_s, **named)
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise TritonUnreachable(f"Triton at {self.address} did not {task} within {timeout_s:g} s") from error
            if error.status() in NO_ANSWER and not any(words in error.message() for words in FORBIDS):
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
