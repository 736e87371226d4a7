"""What measuring and verifying need from a Triton server and from a load generator.

The profiler implements these protocols; `planner.workflow` hands the implementations to the pure parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class LoadMode(StrEnum):
    CLOSED = "closed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    grpc_port: int
    http_port: int
    metrics_port: int


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One stream of requests to one model.

    `closed`: `concurrency` requests are always outstanding. `open`: Poisson arrivals at `rate_rps`, latency
    counted from the intended send time. `shapes` gives, per input, the dimensions without the batch
    dimension where the model's configuration leaves them open (-1).
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
    counts the requests meant to be sent in the window. `client_busy` is the CPU time of the generator's
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
