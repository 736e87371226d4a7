"""What a sweep measures: models, configurations, load points, and the keys that identify them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from planner.domain.serving import SEQUENCE_LENGTH, LoadMode, Sequences
from planner.errors import InputError
from profiler.constraints import Constraints
from profiler.precision import Precision

LOAD_FRACTIONS = (0.2, 0.4, 0.6, 0.8)
RATE_MULTIPLES = (1.0, 2.0, 3.0)
LARGEST_SHARE_OF_CAPACITY = 0.9
ENSEMBLE = "ensemble"  # what an ensemble has for a backend

_DOUBLINGS_MAX = 2


@dataclass(frozen=True, slots=True)
class Configuration:
    """`instances` of a model, or of each member of an ensemble. `request_batch_size` is the client's. `overrides`:
    further fields of config.pbtxt, their dotted path and their value as JSON."""

    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    request_batch_size: int = 1
    overrides: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.instances} instance{'s' if self.instances > 1 else ''}, max batch {self.max_batch_size}"]
        if self.queue_delay_us is not None:
            parts.append(f"queue delay {self.queue_delay_us} us")
        if self.request_batch_size > 1:
            parts.append(f"requests of {self.request_batch_size}")
        return ", ".join([*parts, *([self.variant] if self.overrides else [])])

    @property
    def variant(self) -> str:
        """As a profile row names it; empty where nothing is overridden."""
        return ", ".join(f"{path}={value}" for path, value in self.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the sweep must know of a model. `queue_delay_us` None: its config has no dynamic batching.

    `members`: of an ensemble. `fixed`: all that can be measured of it, where nobody may load it in another way.
    """

    name: str
    path: Path
    backend: str
    max_batch_size: int
    queue_delay_us: int | None
    digest: str
    is_stateful: bool = False
    members: tuple[ModelFacts, ...] = ()
    fixed: Configuration | None = None

    def takes(self, request_batch_size: int) -> bool:
        """Whether a request may carry that many inferences."""
        return request_batch_size <= (1 if self.is_stateful else max(1, self.max_batch_size))

    def variant(self, configuration: Configuration) -> str:
        """As in a ProfileRow: of an ensemble its members with their instances ("add 1, sub 1"), else what the
        configuration overrides."""
        instances = {member.name: (member.fixed or configuration).instances for member in self.members}
        members = [f"{member.name} {instances[member.name]}" for member in self.members if member.backend != ENSEMBLE]
        return ", ".join(members) or configuration.variant


@dataclass(frozen=True, slots=True)
class InputFile:
    """A request file. `is_uniform`: its inferences are equal in shape, so that one request may carry several."""

    path: Path
    digest: str
    is_uniform: bool


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
    gives per model and input the dimensions that a configuration leaves open, `input_files` a model's real
    inputs, `sequences` how a stateful model is called. Of `request_batch_sizes` each model gets those that it
    takes. `environment` is stored with every point.
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
    input_files: Mapping[str, InputFile] = field(default_factory=dict)
    sequences: Mapping[str, Sequences] = field(default_factory=dict)
    request_batch_sizes: Sequence[int] = (1,)
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
            if model.backend == ENSEMBLE and not model.members:
                raise InputError(f"{model.name!r} is an ensemble, and its members are not known")
            if not any(map(model.takes, self.request_batch_sizes)):
                sizes = ", ".join(map(str, self.request_batch_sizes))
                why = "it is stateful" if model.is_stateful else f"max_batch_size is {model.max_batch_size}"
                raise InputError(f"model {model.name!r} takes no requests of {sizes} inferences: {why}")
            if not configurations(self, model):
                raise InputError(
                    f"model {model.name!r}: requests of {min(self.request_batch_sizes)} inferences do not fit "
                    "into a batch of any listed configuration"
                )

    def requests_of(self, model: ModelFacts) -> str:
        """What is sent to a model, as in a ProfileRow; empty where its configuration tells all of it."""
        shapes = self.shapes.get(model.name, {})
        parts = [f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items())]
        if (file := self.input_files.get(model.name)) is not None:
            parts.append(f"{file.path.name} {file.digest[:8]}")
        if model.is_stateful:
            sequences = self.sequences.get(model.name, Sequences())
            if sequences.length is not None or file is None:
                parts.append(f"sequences of {sequences.length or SEQUENCE_LENGTH}")
            if sequences.live is not None:
                parts.append(f"{sequences.live} live")
        return ", ".join(parts)


def model_digest(directory: Path) -> str:
    """A digest of what makes the model, by relative path and content."""
    digest = hashlib.sha256()
    for path in model_files(directory):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def model_files(directory: Path) -> list[Path]:
    """What makes the model: config.pbtxt and every file of the version folders."""
    found = directory.iterdir() if directory.is_dir() else ()
    versions = [entry for entry in found if entry.is_dir() and entry.name.isdigit()]
    files = [directory / "config.pbtxt", *(path for version in versions for path in version.rglob("*"))]
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def configurations(request: MeasureRequest, model: ModelFacts) -> list[Configuration]:
    """What is listed for one model; else the grid, the most telling first: one instance with the largest batch,
    then with none.
    A request of several inferences fits into the batch.

    Batch sizes are capped at the model's own. Where nothing is batched dynamically, smaller batch sizes
    would all measure the same, so only its own is measured.
    """
    delays = (model.queue_delay_us,) if request.queue_delays_us is None else request.queue_delays_us
    carried = [size for size in request.request_batch_sizes if model.takes(size)]
    if (listed := request.manual.get(model.name)) is not None:
        return [
            replace(one, request_batch_size=size)
            for one in listed
            for size in sorted(set(carried))
            if size <= max(1, one.max_batch_size)
        ]
    if model.fixed is not None:
        return [replace(model.fixed, request_batch_size=size) for size in sorted(set(carried))]
    grid = {
        Configuration(instances, size, delay if size > 1 else None, own)
        for instances in request.instances
        for own in carried
        for size in _batch_sizes(request, model, delays, own)
        for delay in delays
    }
    largest = max(configuration.max_batch_size for configuration in grid)
    return sorted(
        grid,
        key=lambda c: (
            c.instances,
            c.max_batch_size != largest,
            c.max_batch_size,
            c.queue_delay_us or 0,
            c.request_batch_size,
        ),
    )


def _batch_sizes(
    request: MeasureRequest, model: ModelFacts, delays: Sequence[int | None], request_batch_size: int
) -> set[int]:
    if model.max_batch_size == 0:
        return {0}
    if set(delays) == {None}:
        return {model.max_batch_size}
    fitting = {size for size in request.max_batch_sizes if request_batch_size <= size <= model.max_batch_size}
    return fitting or {model.max_batch_size}


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
    requests_per_batch = max(1, configuration.max_batch_size // configuration.request_batch_size)
    return 2 * configuration.instances * requests_per_batch


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
        configuration.request_batch_size,
        *(list(override) for override in configuration.overrides),
        sorted((name, list(shape)) for name, shape in request.shapes.get(model.name, {}).items()),
        point.mode.value,
        point.name,
        *_more_of_requests(request, model),
    )


def _more_of_requests(request: MeasureRequest, model: ModelFacts) -> list[object]:
    """What older stores know nothing of: nothing where it is not used, so that their keys stay."""
    file = request.input_files.get(model.name)
    found: list[object] = [] if file is None else [["input file", file.digest]]
    if model.is_stateful:
        found.append(["requests", request.requests_of(model)])
    return found + [[member.name, member.digest] for member in model.members]


def overhead_key(request: MeasureRequest, row_name: str) -> str:
    """The key of an `@server` or `@backend:NAME` row."""
    return _key(request, row_name)


def _key(request: MeasureRequest, *parts: object) -> str:
    text = json.dumps([request.device, request.server_version, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
