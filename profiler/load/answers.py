"""One request before any load: a model whose answers contradict its own configuration is not worth measuring."""

from __future__ import annotations

import secrets
from typing import Any

from planner.domain.serving import LoadSpec, Server
from planner.errors import TritonRefused, TritonUnreachable
from profiler.load.requests import has_text_ids, inferences, is_stateful, requests_of, sequence_ids
from profiler.load.tensors import datatype_of
from profiler.load.transport import infer_request, sequence_parameters
from profiler.server.client import LOCAL_CHANNEL, ControlClient


def check_answer(server: Server, spec: LoadSpec, deadline_s: float) -> None:
    """Send one request of the load to a server on this machine.

    TritonRefused where it is refused, or where an output is not as config.pbtxt declares it (Triton passes on
    whatever a model makes); TritonUnreachable where it is not answered within `deadline_s`.
    """
    from numpy.random import default_rng

    client = ControlClient(server.endpoint, local=True)
    try:
        config = client.model_config(spec.model)
    finally:
        client.close()
    [[tensors, *_], *_] = requests_of(config, spec, inferences(config, spec, default_rng(spec.seed)))
    request = infer_request(spec.model, tensors)
    if is_stateful(config):
        own_id = next(sequence_ids(1 + secrets.randbits(40), text=has_text_ids(config)))
        request.MergeFrom(sequence_parameters(own_id, start=True, end=True))
    answer = _answer(server.endpoint.address, request, deadline_s)
    if (contradiction := unlike_config(config, spec.request_batch_size, answer)) is not None:
        raise TritonRefused(f"{spec.model!r} {contradiction}")


def unlike_config(config: Any, batch_size: int, answer: Any) -> str | None:
    """What of a ModelInferResponse contradicts a ModelConfig, in words; None where all is well.

    An output may be absent, because a model need not make all of them.
    """
    declared = {output.name: output for output in config.output}
    if not answer.outputs:
        return f"answers without any output; config.pbtxt declares {', '.join(declared)}"
    for given in answer.outputs:
        if (output := declared.get(given.name)) is None:
            return f"answers with an output {given.name!r}; config.pbtxt declares {', '.join(declared)}"
        type_name = datatype_of(output)
        if given.datatype != type_name:
            return f"answers with {given.name!r} of type {given.datatype}; config.pbtxt declares {type_name}"
        dims = [*([batch_size] if config.max_batch_size > 0 else []), *output.dims]
        fits = len(dims) == len(given.shape) and all(
            want in (-1, got) for want, got in zip(dims, given.shape, strict=True)
        )
        if not fits:
            return f"answers with {given.name!r} of shape {list(given.shape)}; config.pbtxt declares {dims}"
    return None


def _answer(address: str, request: Any, deadline_s: float) -> Any:
    import grpc
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    model = request.model_name
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=[*LOCAL_CHANNEL, *unlimited]) as channel:
        try:
            return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=deadline_s)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TritonUnreachable(f"{model!r} gave no answer within {deadline_s:g} s") from None
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise TritonUnreachable(f"Triton did not answer for {model!r}: {error.details()}") from None
            raise TritonRefused(f"{model!r} refuses requests: {error.details()}") from None
