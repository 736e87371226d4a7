"""Triton's control calls over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from planner.domain.serving import Endpoint
from planner.errors import TritonRefused, TritonUnreachable
from profiler.server.client import CALL_TIMEOUT_S
from profiler.server.tls import ssl_context

_NO_ANSWER = (502, 503, 504)


class HttpControlClient:
    """Implements `profiler.server.client.Control`."""

    def __init__(self, endpoint: Endpoint, *, local: bool) -> None:
        access = endpoint.access
        self.address = f"{'https' if access.tls else 'http'}://{endpoint.address}"
        self._headers = dict(access.headers)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if access.tls:
            handlers.append(urllib.request.HTTPSHandler(context=ssl_context(access)))
        if local:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        body = {} if config is None else {"parameters": {"config": config}}
        self._call(f"load model {model!r}", f"/v2/repository/models/{quote(model)}/load", timeout_s, body)
        if not self.is_model_ready(model):
            raise TritonRefused(f"Triton loaded model {model!r} but does not call it ready")

    def unload(self, model: str, timeout_s: float) -> None:
        self._call(f"unload model {model!r}", f"/v2/repository/models/{quote(model)}/unload", timeout_s, {})

    def is_model_ready(self, model: str) -> bool:
        try:
            self._call(f"ask for model {model!r}", f"/v2/models/{quote(model)}/ready", CALL_TIMEOUT_S)
        except TritonRefused:
            return False
        return True

    def models(self) -> Mapping[str, bool]:
        index = self._call("list its models", "/v2/repository/index", CALL_TIMEOUT_S, {})
        found: dict[str, bool] = {}
        for entry in index:
            found[entry["name"]] = found.get(entry["name"], False) or entry.get("state") == "READY"
        return found

    def statistics(self, model: str) -> Mapping[str, object]:
        path = f"/v2/models/{quote(model)}/stats"
        found: Mapping[str, object] = self._call(f"read the statistics of {model!r}", path, CALL_TIMEOUT_S)
        return found

    def model_config(self, model: str) -> Any:
        from google.protobuf import json_format
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        path = f"/v2/models/{quote(model)}/config"
        answer = self._call(f"give the configuration of {model!r}", path, CALL_TIMEOUT_S)
        return json_format.ParseDict(answer, ModelConfig(), ignore_unknown_fields=True)

    def server_version(self) -> str:
        return str(self._call("say its version", "/v2", CALL_TIMEOUT_S)["version"])

    def close(self) -> None:
        """Nothing: every call has a connection of its own."""

    def _call(self, task: str, path: str, timeout_s: float, body: Mapping[str, object] | None = None) -> Any:
        """A GET, or a POST where there is a body; the answer's JSON, None where it is empty."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, headers=self._headers)
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            words = _words(error)
            if error.code in _NO_ANSWER and words is None:
                raise TritonUnreachable(f"Triton at {self.address} cannot be reached to {task}") from error
            raise TritonRefused(f"Triton refused to {task}: {words or error.reason}") from error
        except TimeoutError as error:
            raise TritonUnreachable(f"Triton at {self.address} did not {task} within {timeout_s:g} s") from error
        except OSError as error:
            why = getattr(error, "reason", error)
            raise TritonUnreachable(f"Triton at {self.address} cannot be reached to {task}: {why}") from error
        return json.loads(said) if said else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Secret headers are for the server that was named, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _words(error: urllib.error.HTTPError) -> str | None:
    """Triton's own, where it answered."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError):
        return None
