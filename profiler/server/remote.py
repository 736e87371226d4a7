"""A Triton server that somebody else runs: we load models and read statistics, and never stop it.

Whatever is loaded in another way than before is put back when the host is closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from planner.domain.serving import Access, Endpoint, Transport
from planner.errors import InputError, ServerError, TritonRefused, TritonUnreachable
from profiler.server.client import Control, control_client

START_HINT = "start it with --model-control-mode=explicit, and name its gRPC or HTTP port"
LOAD_TIMEOUT_S = 120.0
_URL = re.compile(r"(?:(?P<scheme>\w+)://)?(?P<host>\[[^\]]+\]|[^:/@\[\]]+):(?P<port>\d+)/?")
_SCHEMES = {
    None: (Transport.GRPC, False),
    "grpc": (Transport.GRPC, False),
    "grpcs": (Transport.GRPC, True),
    "http": (Transport.HTTP, False),
    "https": (Transport.HTTP, True),
}
# A model that nobody has: a server that may not unload says so, and one that may does nothing.
_NOBODY = "planner-asks-whether-models-may-be-loaded"


class RemoteHost:
    """The server at an endpoint, over all that is measured on it; a context manager.

    TritonUnreachable where nobody answers there. Triton does not tell its other ports: they are taken to be the
    ones beside the given one, as in its defaults (HTTP 8000, gRPC 8001, metrics 8002).
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.control: Control = control_client(endpoint, local=False)
        self._before: dict[str, Any] = {}
        try:
            self.server_version = self.control.server_version()
        except TritonUnreachable as error:
            self.control.close()
            raise TritonUnreachable(f"no Triton server answers: {error.message}", hint=START_HINT) from error

    @cached_property
    def allows_loading(self) -> bool:
        """Whether models may be loaded and unloaded: not where it polls its repository, or loaded all at once."""
        try:
            self.control.unload(_NOBODY, LOAD_TIMEOUT_S)
        except TritonRefused as error:
            return "is not allowed" not in error.message
        return True

    def config(self, model: str) -> Any:
        """Triton's ModelConfig message; a model that is not loaded is loaded for it, where that is allowed."""
        if not self.control.is_model_ready(model):
            if not self.allows_loading:
                raise TritonRefused(f"model {model!r} is not ready, and this server loads no models on request")
            self._remember(model)
            self.control.load(model, LOAD_TIMEOUT_S)
        return self.control.model_config(model)

    def load(self, model: str, config: str | None, timeout_s: float) -> None:
        self._remember(model)
        self.control.load(model, timeout_s, config)

    def _remember(self, model: str) -> None:
        if model not in self._before:
            ready = self.control.is_model_ready(model)
            self._before[model] = self.control.model_config(model) if ready else None

    def put_back(self, model: str) -> None:
        """Unload what was not loaded before; else load it with the configuration that it had."""
        if model not in self._before:
            return
        before = self._before[model]
        if before is None:
            self.control.unload(model, LOAD_TIMEOUT_S)
        else:
            self.control.load(model, LOAD_TIMEOUT_S, as_json(before))
        del self._before[model]

    def put_all_back(self) -> None:
        """As far as the server lets us; `changed` names the rest."""
        for model in self.changed:
            with suppress(ServerError):
                self.put_back(model)

    @property
    def changed(self) -> tuple[str, ...]:
        """Models that are loaded in another way than before."""
        return tuple(self._before)

    def close(self) -> None:
        self.put_all_back()
        self.control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteTriton:
    """One measurement's view of a host; implements `planner.domain.serving.Server`.

    A model is loaded with its configuration in `overrides`, in Triton's JSON; one that has none is taken as it is
    loaded there.
    """

    pid = None

    def __init__(self, host: RemoteHost, overrides: Mapping[str, str] | None = None) -> None:
        self._host = host
        self._overrides = overrides or {}

    @property
    def endpoint(self) -> Endpoint:
        return self._host.endpoint

    def load(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        override = self._overrides.get(model)
        if override is not None or not self._host.control.is_model_ready(model):
            self._host.load(model, override, timeout_s)

    def statistics(self, model: str) -> Mapping[str, object]:
        return self._host.control.statistics(model)

    def raise_if_ended(self) -> None:
        """Never: its process is on the other machine."""

    def log_tail(self, lines: int = 20) -> str:
        """Always empty: the log is on the other machine."""
        return ""

    def close(self) -> None:
        self._host.put_all_back()


def as_json(config: Any) -> str:
    """A ModelConfig message as what a load request takes."""
    from google.protobuf import json_format

    return json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)


def parse_url(url: str, access: Access | None = None) -> Endpoint:
    """`host:port`, with grpc:// (the default), grpcs://, http:// or https:// in front, an IPv6 host in brackets.

    `access` has the rest: its TLS files also turn TLS on for a scheme without it.
    """
    if "@" in url:
        raise InputError("a server's URL has no user and no password in it: host:port", hint="--header sends a secret")
    found = _URL.fullmatch(url)
    scheme = found["scheme"] if found else None
    if found is None or not 1 < int(found["port"]) < 65534 or scheme not in _SCHEMES:
        raise InputError(
            f"server {url!r} must be host:port, with grpc://, grpcs://, http:// or https:// before it", hint=START_HINT
        )
    transport, tls = _SCHEMES[scheme]
    access = access or Access()
    tls = tls or any((access.ca, access.certificate, access.key))
    port = int(found["port"])
    grpc_port = port if transport is Transport.GRPC else port + 1
    host = found["host"].strip("[]")
    return Endpoint(host, grpc_port, grpc_port - 1, grpc_port + 1, replace(access, transport=transport, tls=tls))
