"""What measuring and verifying need from a Triton server and from a load generator.

The profiler implements these protocols; `planner.workflow` hands the implementations to the pure parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class LoadMode(StrEnum):
    CLOSED = "closed"
    OPEN = "open"


class Transport(StrEnum):
    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a server is spoken to. `ca`, `certificate` and `key` are PEM files for TLS: `ca` None trusts the
    system's authorities, the other two prove who we are. `headers` go with every call and are secret."""

    transport: Transport = Transport.GRPC
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    grpc_port: int
    http_port: int
    metrics_port: int
    access: Access = Access()

    @property
    def address(self) -> str:
        """`host:port` of what its transport speaks to, an IPv6 host in brackets."""
        port = self.grpc_port if self.access.transport is Transport.GRPC else self.http_port
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


SEQUENCE_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Sequences:
    """How a stateful model is called: `length` requests with one correlation id, the first and the last one
    marked; of each sequence at most one request is outstanding.

    `length` None: as many as its stream in the request file has, SEQUENCE_LENGTH without one. `live` is how many
    sequences an open loop spreads its arrivals over, None: as many as the server has slots for; a closed loop has
    as many as its concurrency.
    """

    length: int | None = None
    live: int | None = None


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One stream of requests to one model.

    `closed`: `concurrency` requests are always outstanding. `open`: Poisson arrivals at `rate_rps`, latency
    counted from the intended send time. `shapes` gives, per input, the dimensions without the batch
    dimension where the model's configuration leaves them open (-1). `input_file` has the requests' values, in
    perf_analyzer's JSON format; None: random ones. `sequences` matters to stateful models alone.
    """

    model: str
    mode: LoadMode
    seconds: float
    concurrency: int | None = None
    rate_rps: float | None = None
    request_batch_size: int = 1
    warmup_seconds: float = 0.0
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    input_file: Path | None = None
    sequences: Sequences = Sequences()


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """What is known of requests that were not kept one by one.

    `percentiles_s` has the latency percentiles 50, 90, 95 and 99 over all `answered` requests. The window's
    consecutive equal parts have the rates `part_rates_rps` and the mean latencies `part_means_s`. Where it stands
    for several windows, `by_window` has the percentiles of each, and `percentiles_s` their means.
    """

    answered: int
    mean_s: float
    percentiles_s: Mapping[int, float]
    part_rates_rps: tuple[float, ...]
    part_means_s: tuple[float, ...]
    by_window: tuple[Mapping[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one stream saw in its window of `seconds`.

    `sent_s` (intended send time since the window's start) and `latency_s` have one entry per successful
    request, in order of completion; where a `summary` stands for the requests, both are empty. `offered`
    counts the requests meant to be sent in the window, `failed` those without a result. `first_error` says why the
    first one had none, before the window or in it; `first_refusal` the first where the server, or its connection,
    said so: the others came too late, or were not sent because too many were outstanding. `client_busy` is
    the CPU time of the generator's
    process over wall time (1: all that it may use), `client_bound` says that the generator, not the server,
    set the rate. `window` is the counted window as (start, end) of the monotonic clock, so that what others
    sampled can be cut to it. `load_generator` and its version made it; `note` says why not another one.
    """

    model: str
    seconds: float
    sent_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    offered: int
    failed: int
    first_error: str | None
    client_busy: float
    client_bound: bool
    summary: LoadSummary | None = None
    window: tuple[float, float] | None = None
    load_generator: str = "builtin"
    load_generator_version: str = ""
    note: str | None = None
    first_refusal: str | None = None

    @property
    def answered(self) -> int:
        return len(self.latency_s) if self.summary is None else self.summary.answered

    @property
    def samples(self) -> int:
        """How many requests stand behind a percentile: all, or those of one window where each has its own."""
        windows = 1 if self.summary is None else max(1, len(self.summary.by_window))
        return self.answered // windows


class Server(Protocol):
    """A running Triton server."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def pid(self) -> int | None:
        """The server process, or None where it runs on another machine."""
        ...

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Load a model and wait until it is ready; TritonRefused, TritonExited or TritonUnreachable else."""
        ...

    def statistics(self, model: str) -> Mapping[str, object]:
        """Triton's statistics of one model, cumulative, as in the statistics extension's JSON."""
        ...

    def raise_if_ended(self) -> None:
        """TritonExited, with how, where the server is a process on this machine that has ended."""
        ...

    def log_tail(self, lines: int = 20) -> str: ...

    def close(self) -> None: ...


class LoadGenerator(Protocol):
    name: str

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        """Drive all streams at the same time and return their results in the order of `specs`.

        Raises ServerError where the server died or no request succeeded, LoadError where the generator
        itself failed or cannot do this.
        """
        ...
