"""measure.yaml: what a sweep measures, and how long it may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from planner.domain.serving import Sequences
from planner.domain.workload import PERCENTILES
from planner.errors import InputError
from planner.inputs.record import Bytes, Count, Positive, Record, Text
from planner.inputs.yaml_file import YamlFile, read_record

CAPACITY_LEVELS = (0.2, 0.4, 0.6, 0.8)
PLANNED_LEVELS = (1.0, 2.0, 3.0)

_LATENCY_KEYS = {f"latency_p{percentile}_ms": percentile for percentile in PERCENTILES}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What a configuration must keep, or it is not looked at further; None: no such constraint. Memory is the hot
    memory of a replica, the rate in requests per second."""

    percentile: int = 99
    latency_ms: float | None = None
    min_rate_rps: float | None = None
    max_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Configurations of one model: every combination. None: the model's own. `config` has values
    by the dotted path of a field of config.pbtxt."""

    instances: tuple[int, ...] = (1,)
    max_batch_sizes: tuple[int, ...] | None = None
    queue_delays_us: tuple[int | None, ...] | None = None
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """A sweep. `models` None: all of the repository; `queue_delays_us` None: each model's own.

    `search` None: auto. `manual` lists the configurations of a model instead of a search. `constraints` are those
    of single models, `constraint` that of all others. `rate_within`, `latency_within`: how closely a point is to be
    known, as half a 95 % interval over the value, in at most `max_windows` windows.
    `concurrency` None: chosen by the search. `open_levels` are shares of the measured capacity, or multiples
    of the planned rate, as `open_of` says; None: the search's own. `budget_s` None: no limit. `input_data`:
    request files; their names in measure.yaml are relative to its folder. The deadlines say how long a server may
    take to start, a model to load, and a request to be answered, before they count as hung.
    """

    models: tuple[str, ...] | None = None
    search: Literal["auto", "grid"] | None = None
    manual: Mapping[str, tuple[Product, ...]] = field(default_factory=dict)
    constraint: Constraint = field(default_factory=Constraint)
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    rate_within: float = 0.05
    latency_within: float = 0.25
    max_windows: int = 3
    instances: tuple[int, ...] = (1, 2)
    max_batch_sizes: tuple[int, ...] = (1, 4)
    queue_delays_us: tuple[int | None, ...] | None = None
    request_batch_sizes: tuple[int, ...] = (1,)
    concurrency: tuple[int, ...] | None = None
    open_of: Literal["planned", "capacity"] = "capacity"
    open_levels: tuple[float, ...] = CAPACITY_LEVELS
    budget_s: float | None = None
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    input_data: Mapping[str, Path] = field(default_factory=dict)
    sequences: Mapping[str, Sequences] = field(default_factory=dict)
    min_window_s: float = 2.0
    max_window_s: float = 30.0
    start_deadline_s: float = 60.0
    load_deadline_s: float = 120.0
    answer_deadline_s: float = 10.0


def parse_duration(text: str, *, where: str) -> float:
    """ "4m", "90s" or "1h30m" in seconds."""
    match = _DURATION.fullmatch(text.strip())
    seconds = 0.0
    if match is not None:
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if seconds <= 0:
        raise InputError(f"{where}: {text!r} is not a duration; write for example 90s, 4m or 1h30m")
    return seconds


def _seconds(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"must be a duration such as 90s, 4m or 1h30m, got {value!r}")  # noqa: TRY004 - pydantic's protocol
    try:
        return parse_duration(value, where="")
    except InputError as error:
        raise ValueError(error.message.removeprefix(": ")) from error


_DURATION_SCHEMA = {"type": "string", "pattern": "^[0-9hms.]+$"}


def _as_duration(schema: dict[str, Any]) -> None:
    schema.clear()
    schema.update(title="Budget", default=None, anyOf=[_DURATION_SCHEMA, {"type": "null"}])


Counts = Annotated[list[Count], Field(min_length=1)]
QueueDelay = Annotated[int, Field(ge=0)] | None
Share = Annotated[float, Field(gt=0, lt=1)]


class ClosedLoopEntry(Record):
    concurrency: Annotated[list[Count], Field(min_length=1)] | None = None


class OpenLoopEntry(Record):
    of: Literal["planned", "capacity"] = "capacity"
    levels: Annotated[list[Positive], Field(min_length=1)] | None = None


class SequencesEntry(Record):
    length: Count | None = None
    live: Count | None = None


class WindowEntry(Record):
    min_seconds: Positive = 2.0
    max_seconds: Positive = 30.0


Duration = Annotated[float, BeforeValidator(_seconds), WithJsonSchema(_DURATION_SCHEMA)]


class DeadlinesEntry(Record):
    start: Duration = 60.0
    load: Duration = 120.0
    answer: Duration = 10.0


class ConstraintEntry(Record):
    latency_p99_ms: Positive | None = None
    latency_p95_ms: Positive | None = None
    latency_p90_ms: Positive | None = None
    latency_p50_ms: Positive | None = None
    min_rate_rps: Positive | None = None
    max_memory: Bytes | None = None


class ConstraintsEntry(Record):
    default: ConstraintEntry = ConstraintEntry()
    models: dict[str, ConstraintEntry] = Field(default_factory=dict)


class StabilityEntry(Record):
    rate: Share = 0.05
    latency: Share = 0.25
    max_windows: Count = 3


class ProductEntry(Record):
    instances: Counts = Field(default_factory=lambda: [1])
    max_batch_sizes: Counts | None = None
    queue_delays_us: Annotated[list[QueueDelay], Field(min_length=1)] | None = None
    config: dict[Text, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)


class MeasureFile(Record):
    schema_version: Literal[1]
    models: Annotated[list[Text], Field(min_length=1)] | None = None
    search: Literal["auto", "grid"] | None = None
    manual: dict[Text, Annotated[list[ProductEntry], Field(min_length=1)]] = Field(default_factory=dict)
    constraints: ConstraintsEntry = ConstraintsEntry()
    stability: StabilityEntry = StabilityEntry()
    instances: Counts = Field(default_factory=lambda: [1, 2])
    max_batch_sizes: Counts = Field(default_factory=lambda: [1, 4])
    queue_delays_us: Annotated[list[QueueDelay], Field(min_length=1)] | None = None
    request_batch_size: Count | None = None
    request_batch_sizes: Counts | None = None
    closed_loop: ClosedLoopEntry = ClosedLoopEntry()
    open_loop: OpenLoopEntry = OpenLoopEntry()
    budget: Annotated[float | None, BeforeValidator(_seconds), Field(json_schema_extra=_as_duration)] = None
    shapes: dict[str, dict[str, Counts]] = Field(default_factory=dict)
    input_data: dict[str, Text] = Field(default_factory=dict)
    sequences: dict[str, SequencesEntry] = Field(default_factory=dict)
    window: WindowEntry = WindowEntry()
    deadlines: DeadlinesEntry = DeadlinesEntry()


def read_measure_config(path: Path) -> MeasureConfig:
    record, file = read_record(MeasureFile, path)
    of, levels = record.open_loop.of, record.open_loop.levels
    if of == "capacity" and levels is not None and max(levels) > 1:
        raise file.error(("open_loop", "levels"), f"a share of the capacity is at most 1, got {max(levels):g}")
    if record.window.min_seconds > record.window.max_seconds:
        raise file.error(("window",), "min_seconds must not be more than max_seconds")
    if record.request_batch_size is not None and record.request_batch_sizes is not None:
        raise file.error(("request_batch_size",), "give it, or request_batch_sizes, not both")
    usual = CAPACITY_LEVELS if of == "capacity" else PLANNED_LEVELS
    concurrency, delays = record.closed_loop.concurrency, record.queue_delays_us
    return MeasureConfig(
        models=None if record.models is None else tuple(record.models),
        search=record.search,
        manual={name: tuple(map(_product, entries)) for name, entries in record.manual.items()},
        constraint=_constraint(record.constraints.default, Constraint(), file, ("constraints", "default")),
        constraints=_constraints(record.constraints, file),
        rate_within=record.stability.rate,
        latency_within=record.stability.latency,
        max_windows=record.stability.max_windows,
        instances=tuple(record.instances),
        max_batch_sizes=tuple(record.max_batch_sizes),
        queue_delays_us=None if delays is None else tuple(delays),
        request_batch_sizes=tuple(record.request_batch_sizes or (record.request_batch_size or 1,)),
        concurrency=None if concurrency is None else tuple(concurrency),
        open_of=of,
        open_levels=usual if levels is None else tuple(levels),
        budget_s=record.budget,
        shapes={m: {i: tuple(dims) for i, dims in inputs.items()} for m, inputs in record.shapes.items()},
        input_data={model: path.parent / name for model, name in record.input_data.items()},
        sequences={m: Sequences(entry.length, entry.live) for m, entry in record.sequences.items()},
        min_window_s=record.window.min_seconds,
        max_window_s=record.window.max_seconds,
        start_deadline_s=record.deadlines.start,
        load_deadline_s=record.deadlines.load,
        answer_deadline_s=record.deadlines.answer,
    )


def _product(entry: ProductEntry) -> Product:
    sizes, delays = entry.max_batch_sizes, entry.queue_delays_us
    return Product(
        instances=tuple(entry.instances),
        max_batch_sizes=None if sizes is None else tuple(sizes),
        queue_delays_us=None if delays is None else tuple(delays),
        config={path: tuple(values) for path, values in entry.config.items()},
    )


def _constraints(entry: ConstraintsEntry, file: YamlFile) -> dict[str, Constraint]:
    default = _constraint(entry.default, Constraint(), file, ("constraints", "default"))
    return {
        name: _constraint(own, default, file, ("constraints", "models", name)) for name, own in entry.models.items()
    }


def _constraint(entry: ConstraintEntry, default: Constraint, file: YamlFile, steps: tuple[str, ...]) -> Constraint:
    """The entry's, and the default's where it says nothing."""
    given = [key for key in _LATENCY_KEYS if getattr(entry, key) is not None]
    if len(given) > 1:
        raise file.error((*steps, given[1]), f"give one latency bound, not both {given[0]} and {given[1]}")
    return Constraint(
        percentile=_LATENCY_KEYS[given[0]] if given else default.percentile,
        latency_ms=getattr(entry, given[0]) if given else default.latency_ms,
        min_rate_rps=default.min_rate_rps if entry.min_rate_rps is None else entry.min_rate_rps,
        max_memory_bytes=default.max_memory_bytes if entry.max_memory is None else entry.max_memory,
    )
