"""What measurement found: one row per load point, with the columns of the CSV exchange format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from planner.domain.serving import LoadMode
from planner.errors import InputError

SERVER_ROW = "@server"
BACKEND_ROW_PREFIX = "@backend:"


class Source(StrEnum):
    """Where a row's figures come from. Fitted: they follow from a law that held for its neighbours, nothing ran."""

    MEASURED = "measured"
    IMPORTED = "imported"
    ESTIMATED = "estimated"
    PUBLISHED = "published"
    FITTED = "fitted"

    @classmethod
    def weakest(cls, sources: Iterable[str]) -> str:
        """The least certain of them, with its reference; measured where there are none."""
        return min(
            sources, key=lambda source: _LEAST_CERTAIN_FIRST.index(cls(source.split(":")[0])), default=cls.MEASURED
        )


_LEAST_CERTAIN_FIRST = (Source.ESTIMATED, Source.FITTED, Source.PUBLISHED, Source.IMPORTED, Source.MEASURED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRow:
    """One load point of one configuration of one model on one device type (or MIG slice, "A100-80/1g.10gb").

    `queue_delay_us` None: dynamic batching is off; 0: on without delay. `memory_bytes` is the hot memory of
    the replica without server base and backend overhead; None: it takes the whole device. `busy` is the
    share of the device's time in [0, 1]. `failed` counts requests that failed. Rows of `@server` and
    `@backend:NAME` carry only `device` and `memory_bytes`. `source` is a Source, "published" with its
    reference after a colon. `variant` is what else sets the configuration apart: of an ensemble its members
    with their instances ("add 1, sub 2"), else fields of config.pbtxt ("parameters.threads=2"). Rows with a
    variant are shown and compared, never planned with. `requests` says what was sent where the configuration does
    not: given shapes, a request file with a digest of its content, the length of sequences
    ("x 3x224x224", "calls.json 1f0c9a2e, sequences of 20").
    """

    model: str
    device: str
    gpus: int = 1
    backend: str = ""
    instances: int = 1
    max_batch_size: int = 0
    queue_delay_us: int | None = None
    load: LoadMode = LoadMode.CLOSED
    request_batch_size: int = 1
    concurrency: int | None = None
    offered_rps: float | None = None
    rate_rps: float | None = None
    latency_mean_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    memory_bytes: int | None = None
    memory_cold_bytes: int | None = None
    busy: float | None = None
    power_watts: float | None = None
    executed_batch_mean: float | None = None
    stable: bool = True
    failed: int = 0
    load_generator: str = ""
    model_digest: str = ""
    source: str = Source.MEASURED
    variant: str = ""
    requests: str = ""

    def __post_init__(self) -> None:
        subject = f"profile of {self.model!r} on {self.device!r}"
        if not self.model or not self.device:
            raise InputError(f"a profile row needs model and device, got {self.model!r} and {self.device!r}")
        for name in ("gpus", "instances", "request_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{subject}: {name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{subject}: {name} must be a number >= 0, got {value}")
        if self.busy is not None and self.busy > 1:
            raise InputError(f"{subject}: busy is a share in [0, 1], got {self.busy}")
        if self.source.split(":")[0] not in set(Source):
            raise InputError(f"{subject}: source must be one of {', '.join(Source)}, got {self.source!r}")

    @property
    def is_overhead(self) -> bool:
        return self.model.startswith("@")

    @property
    def configuration(self) -> tuple[str, str, int, int, int | None, int, int, str, str, str]:
        """What makes two rows points of the same configuration."""
        return (
            self.model, self.device, self.instances, self.max_batch_size, self.queue_delay_us,
            self.request_batch_size, self.gpus, self.backend, self.variant, self.requests,
        )  # fmt: skip

    @property
    def is_fitted(self) -> bool:
        return self.source.split(":")[0] == Source.FITTED

    @property
    def label(self) -> str:
        """ "2 x 8": instances and largest batch, and its variant; of an ensemble its members and theirs."""
        return configuration_label(self.instances, self.max_batch_size, self.variant)

    @property
    def is_planned(self) -> bool:
        """Whether planning may rest on this point."""
        return self.stable and not self.failed and not self.variant

    @property
    def inferences_per_s(self) -> float | None:
        return None if self.rate_rps is None else self.rate_rps * self.request_batch_size

    def percentile_ms(self, percentile: float) -> float | None:
        """The measured latency percentile, or the next higher one that is known."""
        for known in (50, 90, 95, 99):
            if known >= percentile:
                value: float | None = getattr(self, f"latency_p{known}_ms")
                if value is not None:
                    return value
        return None


def by_configuration(rows: Iterable[ProfileRow]) -> list[list[ProfileRow]]:
    """The rows of each configuration, in the order in which they come; fitted ones only where nothing else is known."""
    groups: dict[object, list[ProfileRow]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    return [[row for row in group if not row.is_fitted] or group for group in groups.values()]


def configuration_label(instances: int, max_batch_size: int, variant: str) -> str:
    # members of an ensemble stand for its configuration; fields of config.pbtxt ("field=value") come on top of it
    if variant and "=" not in variant:
        return variant
    shape = f"{instances} x {max_batch_size}"
    return f"{shape}, {variant}" if variant else shape


_NOT_NEGATIVE = (
    "max_batch_size", "queue_delay_us", "concurrency", "offered_rps", "rate_rps", "latency_mean_ms",
    "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "memory_bytes",
    "memory_cold_bytes", "busy", "power_watts", "executed_batch_mean", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One finished point with all that is needed to doubt it.

    `key` identifies model digest, device, server version and point, so that a sweep goes on where it
    stopped. `samples` holds raw series (seconds, bytes) by name, `statistics` Triton's deltas over the
    window, `environment` the machine, driver, versions and commit. `failure` is the cause where the point
    failed; such a point is never used for planning.
    """

    key: str
    row: ProfileRow
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    statistics: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    failure: str | None = None
    measured_at: str = ""


class ProfileStore(Protocol):
    """Where measurements are kept. Every `add` is durable when it returns."""

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Insert, or replace what has the same key."""
        ...

    def keys(self) -> Collection[str]:
        """Keys of the measurements that did not fail."""
        ...

    def get(self, key: str) -> Measurement | None: ...

    def rows(self, *, model: str | None = None, device: str | None = None) -> list[ProfileRow]:
        """Rows of points that did not fail, in the order of model, device, configuration and rate."""
        ...

    def measurements(self, *, model: str | None = None, device: str | None = None) -> list[Measurement]:
        """Everything that is kept, failed points too, in the order of `rows`."""
        ...

    def remove(self, *, model: str | None = None, device: str | None = None) -> int: ...

    def close(self) -> None: ...
