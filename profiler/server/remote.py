"""A Triton server that somebody else runs: we load models and read statistics, and never stop it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from planner.domain.serving import Endpoint
from planner.errors import InputError, TritonUnreachable
from profiler.server.client import ControlClient

START_HINT = "start it with --model-control-mode=explicit, and name its gRPC port"


class RemoteTriton:
    """Implements `planner.domain.serving.Server` for `host:grpc_port`.

    Triton does not tell its other ports: they are taken to be the ones beside its gRPC port, as in
    Triton's defaults (HTTP 8000, gRPC 8001, metrics 8002).
    """

    pid = None

    def __init__(self, url: str) -> None:
        self._endpoint = parse_url(url)
        self._client = ControlClient(self._endpoint.host, self._endpoint.grpc_port, local=False)
        if not self._client.is_live():
            self._client.close()
            raise TritonUnreachable(f"no Triton server answers at {url}", hint=START_HINT)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def server_version(self) -> str:
        return self._client.server_version()

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        self._client.load(model, timeout_s)

    def unload(self, model: str, *, timeout_s: float = 120.0) -> None:
        self._client.unload(model, timeout_s)

    def statistics(self, model: str) -> Mapping[str, object]:
        return self._client.statistics(model)

    def raise_if_ended(self) -> None:
        """Never: its process is on the other machine."""

    def log_tail(self, lines: int = 20) -> str:
        """Always empty: the log is on the other machine."""
        return ""

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def parse_url(url: str) -> Endpoint:
    """`host:grpc_port`, also with a scheme in front and an IPv6 host in brackets."""
    host, colon, port = url.rpartition("://")[2].rstrip("/").rpartition(":")
    if not colon or not host or not port.isdigit() or not 1 < int(port) < 65535:
        raise InputError(f"server {url!r} must be host:port, with Triton's gRPC port", hint=START_HINT)
    return Endpoint(host, int(port), int(port) - 1, int(port) + 1)
