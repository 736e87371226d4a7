"""How the built-in generator's requests travel: gRPC, or HTTP with the binary tensor extension.

Requests are serialised before they are timed; answers stay unparsed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from planner.domain.serving import Access, Transport
from planner.errors import TritonRefused, TritonUnreachable
from profiler.load.tensors import InputTensor

_CONFIG_DEADLINE_S = 10.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"


class RequestFailed(Exception):
    """`is_unreachable`: nobody answered; `is_late`: no answer came in time; else the server refused."""

    def __init__(self, text: str, *, is_unreachable: bool = False, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_unreachable = is_unreachable
        self.is_late = is_late


class Wire(Protocol):
    async def model_config(self, model: str) -> Any:
        """Triton's ModelConfig message; TritonRefused or TritonUnreachable."""
        ...

    def request(self, model: str, tensors: tuple[InputTensor, ...]) -> Any:
        """A serialised request."""
        ...

    def in_sequence(self, request: Any, sequence_id: int | str, *, start: bool, end: bool) -> Any:
        """The same request as one of a sequence."""
        ...

    def size(self, request: Any) -> int: ...

    async def send(self, model: str, request: Any, timeout_s: float) -> None:
        """Returns with the answer, or raises RequestFailed."""
        ...

    async def close(self) -> None: ...


def open_wire(address: str, access: Access, *, local: bool) -> Wire:
    if access.transport is Transport.HTTP:
        return HttpWire(address, access, local=local)
    return GrpcWire(address, access, local=local)


class GrpcWire:
    def __init__(self, address: str, access: Access, *, local: bool) -> None:
        import grpc

        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            *([("grpc.enable_http_proxy", 0)] if local else []),
        ]
        if access.tls:
            pem = [None if path is None else path.read_bytes() for path in (access.ca, access.key, access.certificate)]
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*pem), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        self._address = address
        self._metadata = tuple(access.headers.items())
        self._infer = self._channel.unary_unary(_INFER, request_serializer=None, response_deserializer=None)

    async def model_config(self, model: str) -> Any:
        import grpc
        from tritonclient.grpc.service_pb2 import ModelConfigRequest
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        stub = GRPCInferenceServiceStub(self._channel)
        asked = ModelConfigRequest(name=model)
        try:
            answer = await stub.ModelConfig(asked, timeout=_CONFIG_DEADLINE_S, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise TritonUnreachable(f"{self._address} did not answer: {error.details()}") from None
            raise TritonRefused(f"no configuration of {model!r} from Triton: {error.details()}") from None
        return answer.config

    def request(self, model: str, tensors: tuple[InputTensor, ...]) -> bytes:
        return bytes(infer_request(model, tensors).SerializeToString())

    def in_sequence(self, request: bytes, sequence_id: int | str, *, start: bool, end: bool) -> bytes:
        """Protobuf merges concatenated messages, so that the request itself is not serialised again."""
        return request + bytes(sequence_parameters(sequence_id, start=start, end=end).SerializeToString())

    def size(self, request: bytes) -> int:
        return len(request)

    async def send(self, model: str, request: bytes, timeout_s: float) -> None:
        import grpc

        try:
            await self._infer(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise RequestFailed(f"no answer within {timeout_s:g} s", is_late=True) from None
            unreachable = code == grpc.StatusCode.UNAVAILABLE
            raise RequestFailed(f"{code.name}: {error.details()}", is_unreachable=unreachable) from None

    async def close(self) -> None:
        await self._channel.close(None)


def infer_request(model: str, tensors: tuple[InputTensor, ...]) -> Any:
    """A ModelInferRequest message."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    request = ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    return request


def sequence_parameters(sequence_id: int | str, *, start: bool, end: bool) -> Any:
    """A ModelInferRequest message with nothing else in it, to be merged with one."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    message = ModelInferRequest()
    if isinstance(sequence_id, str):
        message.parameters["sequence_id"].string_param = sequence_id
    else:
        message.parameters["sequence_id"].int64_param = sequence_id
    message.parameters["sequence_start"].bool_param = start
    message.parameters["sequence_end"].bool_param = end
    return message


@dataclass(frozen=True, slots=True)
class HttpRequest:
    head: Mapping[str, Any]
    head_bytes: bytes
    values: bytes


class HttpWire:
    def __init__(self, address: str, access: Access, *, local: bool) -> None:
        import aiohttp

        from profiler.server.tls import ssl_context

        self._errors = (aiohttp.ClientError, OSError)
        self._base = f"{'https' if access.tls else 'http'}://{address}"
        self._timeout = aiohttp.ClientTimeout
        connector = aiohttp.TCPConnector(limit=0, ssl=ssl_context(access) if access.tls else True)
        # no proxy from the environment may come between us and our own machine
        self._session = aiohttp.ClientSession(connector=connector, headers=access.headers, trust_env=not local)

    async def model_config(self, model: str) -> Any:
        from google.protobuf import json_format
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        url = f"{self._base}/v2/models/{model}/config"
        try:
            async with self._session.get(
                url, timeout=self._timeout(total=_CONFIG_DEADLINE_S), allow_redirects=False
            ) as answer:
                body = await answer.read()
        except (TimeoutError, *self._errors) as error:
            raise TritonUnreachable(f"{self._base} did not answer: {error}") from None
        if answer.status != 200:
            raise TritonRefused(f"no configuration of {model!r} from Triton: {error_text(answer.status, body)}")
        return json_format.ParseDict(json.loads(body), ModelConfig(), ignore_unknown_fields=True)

    def request(self, model: str, tensors: tuple[InputTensor, ...]) -> HttpRequest:
        inputs = [
            {"name": t.name, "datatype": t.datatype, "shape": t.shape, "parameters": {"binary_data_size": len(t.raw)}}
            for t in tensors
        ]
        head = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        return HttpRequest(head, json.dumps(head).encode(), b"".join(tensor.raw for tensor in tensors))

    def in_sequence(self, request: HttpRequest, sequence_id: int | str, *, start: bool, end: bool) -> HttpRequest:
        own = {"sequence_id": sequence_id, "sequence_start": start, "sequence_end": end}
        head = {**request.head, "parameters": {**request.head["parameters"], **own}}
        return HttpRequest(head, json.dumps(head).encode(), request.values)

    def size(self, request: HttpRequest) -> int:
        return len(request.head_bytes) + len(request.values)

    async def send(self, model: str, request: HttpRequest, timeout_s: float) -> None:
        headers = {
            "Inference-Header-Content-Length": str(len(request.head_bytes)),
            "Content-Type": "application/octet-stream",
        }
        try:
            async with self._session.post(
                f"{self._base}/v2/models/{model}/infer",
                data=request.head_bytes + request.values,
                headers=headers,
                timeout=self._timeout(total=timeout_s),
                allow_redirects=False,  # secret headers are for the server that was named
            ) as answer:
                body = await answer.read()
        except TimeoutError:
            raise RequestFailed(f"no answer within {timeout_s:g} s", is_late=True) from None
        except self._errors as error:
            raise RequestFailed(str(error) or type(error).__name__, is_unreachable=True) from None
        if answer.status != 200:
            raise RequestFailed(error_text(answer.status, body), is_unreachable=answer.status in (502, 503, 504))

    async def close(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # its connections close with the next turn of the loop


def error_text(status: int, body: bytes) -> str:
    """Triton's own words where it has some."""
    try:
        return f"{status}: {json.loads(body)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {status}"
