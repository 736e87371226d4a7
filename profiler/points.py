"""What a sweep measures: models, configurations, load points, and the keys that identify them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from planner.domain.serving import LoadMode
from planner.errors import InputError
from profiler.constraints import Constraints
from profiler.precision import Precision

LOAD_FRACTIONS = (0.2, 0.4, 0.6, 0.8)
RATE_MULTIPLES = (1.0, 2.0, 3.0)
LARGEST_SHARE_OF_CAPACITY = 0.9

_DOUBLINGS_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the sweep must know of a model. `queue_delay_us` None: its config has no dynamic batching."""

    name: str
    path: Path
    backend: str
    max_batch_size: int
    queue_delay_us: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class Configuration:
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    overrides: tuple[tuple[str, str], ...] = ()
    """Further fields of config.pbtxt: their dotted path, and their value as JSON."""

    def __str__(self) -> str:
        text = f"{self.instances} instance{'s' if self.instances > 1 else ''}, max batch {self.max_batch_size}"
        delay = [] if self.queue_delay_us is None else [f"queue delay {self.queue_delay_us} us"]
        return ", ".join([text, *delay, *([self.variant] if self.overrides else [])])

    @property
    def variant(self) -> str:
        """As a profile row names it; empty where nothing is overridden."""
        return ", ".join(f"{path}={value}" for path, value in self.overrides)


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One load. An open point is named by how its rate was chosen ("0.4 of capacity"), because the measured
    capacity differs a little each time and must not make another point of it."""

    mode: LoadMode
    name: str
    concurrency: int | None = None
    rate_rps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """What to measure, on which type of device, and how long it may take.

    `queue_delays_us` None keeps each model's own. A model in `planned_rps` (requests per second, headroom
    included) is loaded with multiples of that rate, others with fractions of their measured capacity.
    `concurrency` None: the search chooses how many requests a closed loop keeps outstanding.
    `search`: grid measures every configuration, auto those that a plan may need. `manual` gives the configurations
    of a model instead, all of which are measured. `constraints` say per model what no plan would use.
    `precision` says how closely every point is to be known.
    `percentiles` says per model which latency percentile its windows must support (default 99). `shapes`
    gives per model and input the dimensions that a configuration leaves open. `environment` is stored with
    every point.
    """

    models: Sequence[ModelFacts]
    device: str
    server_version: str
    instances: Sequence[int] = (1, 2)
    max_batch_sizes: Sequence[int] = (1, 2, 4, 8)
    queue_delays_us: Sequence[int | None] | None = None
    search: Literal["auto", "grid"] = "grid"
    manual: Mapping[str, Sequence[Configuration]] = field(default_factory=dict)
    constraints: Mapping[str, Constraints] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    concurrency: Sequence[int] | None = None
    load_fractions: Sequence[float] = LOAD_FRACTIONS
    planned_rps: Mapping[str, float] = field(default_factory=dict)
    rate_multiples: Sequence[float] = RATE_MULTIPLES
    percentiles: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    request_batch_size: int = 1
    budget_s: float | None = None
    min_window_s: float = 2.0
    max_window_s: float = 30.0
    fresh: bool = False
    seed: int = 0
    environment: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.min_window_s <= self.max_window_s:
            raise InputError(f"windows from {self.min_window_s} to {self.max_window_s} s are no range")
        unknown = sorted({*self.manual, *self.constraints} - {model.name for model in self.models})
        if unknown:
            known = ", ".join(model.name for model in self.models)
            raise InputError(f"{unknown[0]!r} is not among the models {known}")
        for model in self.models:
            if model.backend == "ensemble":
                raise InputError(f"{model.name!r} is an ensemble", hint="measure its members")


def model_digest(directory: Path) -> str:
    """A digest of config.pbtxt and every file of the version folders, by relative path and content."""
    digest = hashlib.sha256()
    versions = [entry for entry in directory.iterdir() if entry.is_dir() and entry.name.isdigit()]
    files = [directory / "config.pbtxt", *(path for version in versions for path in version.rglob("*"))]
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def configurations(request: MeasureRequest, model: ModelFacts) -> list[Configuration]:
    """The grid for one model, the most telling first: one instance with the largest batch, then with none.

    Batch sizes are capped at the model's own. Where nothing is batched dynamically, smaller batch sizes
    would all measure the same, so only its own is measured.
    """
    delays = (model.queue_delay_us,) if request.queue_delays_us is None else request.queue_delays_us
    if model.max_batch_size == 0:
        sizes = {0}
    elif set(delays) == {None}:
        sizes = {model.max_batch_size}
    else:
        fitting = {size for size in request.max_batch_sizes if size <= model.max_batch_size}
        sizes = {size for size in fitting if size >= request.request_batch_size} or {model.max_batch_size}
    grid = {
        Configuration(instances, size, delay if size > 1 else None)
        for instances in request.instances
        for size in sizes
        for delay in delays
    }
    largest = max(sizes)
    return sorted(
        grid,
        key=lambda c: (c.instances, c.max_batch_size != largest, c.max_batch_size, c.queue_delay_us or 0),
    )


def closed_points(request: MeasureRequest, configuration: Configuration) -> list[LoadPoint]:
    """The request's own; else one request at a time, then enough to keep every instance busy with a full
    batch, and one waiting. The sweep goes on doubling from there while that pays.
    """
    if request.concurrency is not None:
        return [closed_point(concurrency) for concurrency in sorted(set(request.concurrency))]
    return [closed_point(1), closed_point(_enough(configuration))]


def closed_ladder(request: MeasureRequest, configuration: Configuration) -> tuple[list[LoadPoint], list[LoadPoint]]:
    """`closed_points`, and what comes after them while it pays: nothing after the request's own."""
    points = closed_points(request, configuration)
    most = points[-1].concurrency or 1
    doublings = 0 if request.concurrency is not None else _DOUBLINGS_MAX
    return points, [closed_point(most << doubling) for doubling in range(1, doublings + 1)]


def saturating_points(request: MeasureRequest, configuration: Configuration) -> list[LoadPoint]:
    """The least of `closed_points` that should show the capacity, and those above it."""
    points = closed_points(request, configuration)
    return [point for point in points if (point.concurrency or 1) >= _enough(configuration)] or points[-1:]


def _enough(configuration: Configuration) -> int:
    return 2 * configuration.instances * max(1, configuration.max_batch_size)


def closed_point(concurrency: int) -> LoadPoint:
    return LoadPoint(LoadMode.CLOSED, f"concurrency {concurrency}", concurrency=concurrency)


def open_points(request: MeasureRequest, model: str, capacity_rps: float) -> list[LoadPoint]:
    """Open-loop rates for a model that serves `capacity_rps`; none above 0.9 of it.

    Planned rates that this configuration cannot take alone say little about it: then the fractions too.
    """
    limit_rps = LARGEST_SHARE_OF_CAPACITY * capacity_rps
    points = []
    if (planned_rps := request.planned_rps.get(model)) is not None:
        for multiple in request.rate_multiples:
            name = f"{multiple:g} x planned {planned_rps:g}/s"
            points.append(_open_point(name, min(limit_rps, multiple * planned_rps)))
    if len({point.rate_rps for point in points}) < 2:
        for fraction in request.load_fractions:
            points.append(_open_point(f"{fraction:g} of capacity", min(limit_rps, fraction * capacity_rps)))
    first_of_rate = {point.rate_rps: point for point in reversed(points)}
    return sorted(first_of_rate.values(), key=lambda point: point.rate_rps or 0.0)


def midway(low: LoadPoint | None, high: LoadPoint) -> LoadPoint:
    """An open-loop rate between two, or half of the one; named by both, as they are by how they were chosen."""
    if low is None:
        return _open_point(f"half of {high.name}", (high.rate_rps or 0.0) / 2)
    rate_rps = ((low.rate_rps or 0.0) + (high.rate_rps or 0.0)) / 2
    return _open_point(f"midway from {low.name} to {high.name}", rate_rps)


def _open_point(name: str, rate_rps: float) -> LoadPoint:
    return LoadPoint(LoadMode.OPEN, name, rate_rps=rate_rps)


def point_key(request: MeasureRequest, model: ModelFacts, configuration: Configuration, point: LoadPoint) -> str:
    return _key(
        request,
        model.name,
        model.digest,
        configuration.instances,
        configuration.max_batch_size,
        configuration.queue_delay_us,
        request.request_batch_size,
        *(list(override) for override in configuration.overrides),
        sorted((name, list(shape)) for name, shape in request.shapes.get(model.name, {}).items()),
        point.mode.value,
        point.name,
    )


def overhead_key(request: MeasureRequest, row_name: str) -> str:
    """The key of an `@server` or `@backend:NAME` row."""
    return _key(request, row_name)


def _key(request: MeasureRequest, *parts: object) -> str:
    text = json.dumps([request.device, request.server_version, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
