"""The stored instances of this study: gzip JSON, one array per field; a single value stands for the whole array.

`load(path)` gives the problem as `planner.domain` knows it.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from planner.domain.problem import SCHEMA_VERSION, Device, DeviceKind, LatencyBasis, Model, Objective, Option, Problem
from planner.domain.topology import Domain, Node, Pin, Spread, Survival
from planner.domain.units import PPM
from planner.errors import InputError

FOLDER = Path(__file__).parent / "instances"
SUFFIX = ".json.gz"
FORMAT_VERSION = 1
MIB = 2**20

Column = Any
"""One number (or name, or None) per row, or a single one that holds for every row."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`count` devices that are the same. Memory in the instance's `memory_unit_bytes`."""

    name: str
    count: int
    memory: int
    utilization_ppm: int = PPM
    server_base: int = 0
    backend_overhead: Mapping[str, int] = field(default_factory=dict)
    cost_microusd_per_hour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Models:
    """Columns with one row per model; models are named m0, m1, ..."""

    count: int
    demand_mrps: Column
    replicas_min: Column
    replicas_max: Column = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Columns with one row per option. `model` and `kind` are places; `busy_ppm` has one column per period."""

    model: Sequence[int]
    kind: Column
    memory: Column
    busy_ppm: Sequence[Column]
    capacity_mrps: Column = 1000
    tolerance_ppm: Column = PPM
    max_others: Column = None
    instances: Column = 1
    max_batch_size: Column = 1
    backend: Column = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Sites:
    """GPUs in nodes of one kind each, nodes in racks one after the other, and rules between devices.

    `node_memory` by kind and `host_memory` by model in the instance's `memory_unit_bytes`. `racks_apart` by model: over
    so many racks its replicas stand at least. `survives_ppm`: of each model, without any one node. `conflict`: pairs of
    models; `pinned`: a model, and the place of a device.
    """

    gpus_per_node: int
    racks: int
    node_memory: Sequence[int]
    host_memory: Column
    racks_apart: Column
    survives_ppm: int
    conflict: Sequence[tuple[int, int]]
    pinned: Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """`optimum`: GPUs of a best plan, known because the instance was built from one."""

    format_version: int = FORMAT_VERSION
    name: str
    optimum: int | None = None
    periods: Sequence[str]
    objectives: Sequence[str] = ("gpus",)
    max_per_device: int | None = None
    memory_unit_bytes: int = MIB
    kinds: Sequence[Kind]
    models: Models
    options: Options
    sites: Sites | None = None


def load(path: Path) -> Problem:
    return problem_of(read(path))


def read(path: Path) -> Instance:
    value = json.loads(gzip.decompress(path.read_bytes()))
    if value.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: format_version must be {FORMAT_VERSION}, got {value.get('format_version')!r}")
    parts = {
        "kinds": [Kind(**kind) for kind in value["kinds"]],
        "models": Models(**value["models"]),
        "options": Options(**value["options"]),
        "sites": Sites(**value["sites"]) if value.get("sites") else None,
    }
    return Instance(**(value | parts))


def packed(instance: Instance) -> bytes:
    """The file: without a date or a file name in the gzip header, so that the same instance gives the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(json_text(instance).encode())
    return buffer.getvalue()


def json_text(instance: Instance) -> str:
    value = asdict(instance)
    for part in ("models", "options"):
        value[part] = {name: _shortest(column) for name, column in value[part].items()}
    options = instance.options
    value["options"] |= {"model": options.model, "busy_ppm": [_shortest(column) for column in options.busy_ppm]}
    if instance.sites is None:
        del value["sites"]
    return json.dumps(value, separators=(",", ":")) + "\n"


def _shortest(column: Column) -> Column:
    """A single value where all rows have the same."""
    same = isinstance(column, list | tuple) and len(column) > 1 and all(value == column[0] for value in column)
    return column[0] if same else column


def problem_of(instance: Instance) -> Problem:
    devices = [
        Device(id=f"{kind.name}/{i}", gpu=f"{kind.name}/{i}", kind=kind.name)
        for kind in instance.kinds
        for i in range(kind.count)
    ]
    problem = Problem(
        schema_version=SCHEMA_VERSION,
        periods=tuple(instance.periods),
        models=tuple(_models(instance)),
        kinds=tuple(_kind(kind, instance.memory_unit_bytes) for kind in instance.kinds),
        devices=tuple(devices),
        options=tuple(_options(instance)),
        objectives=tuple(map(Objective, instance.objectives)),
        max_per_device=instance.max_per_device,
    )
    return problem if instance.sites is None else _sited(problem, instance, instance.sites)


def _sited(problem: Problem, instance: Instance, sites: Sites) -> Problem:
    unit = instance.memory_unit_bytes
    devices: list[Device] = []
    nodes: list[Node] = []
    for kind, memory in zip(instance.kinds, sites.node_memory, strict=True):
        for i in range(kind.count):
            if i % sites.gpus_per_node == 0:
                rack = f"rack-{len(nodes) % sites.racks}"
                nodes.append(Node(name=f"node-{len(nodes)}", rack=rack, host_memory_bytes=memory * unit))
            gpu = f"{nodes[-1].name}/{i % sites.gpus_per_node}"
            devices.append(Device(id=gpu, gpu=gpu, kind=kind.name))
    names = [model.name for model in problem.models]
    count = len(names)
    columns = zip(problem.models, _rows(sites.host_memory, count), _rows(sites.racks_apart, count), strict=True)
    models = tuple(
        replace(
            model,
            host_memory_bytes=memory * unit,
            spread=(Spread(over=Domain.RACK, at_least=apart),) if apart > 1 else (),
        )
        for model, memory, apart in columns
    )
    return replace(
        problem,
        devices=tuple(devices),
        nodes=tuple(nodes),
        models=models,
        conflict=tuple((names[one], names[other]) for one, other in sites.conflict),
        pinned=tuple(Pin(model=names[model], gpu=devices[place].gpu) for model, place in sites.pinned),
        survives=(Survival(domain=Domain.NODE, share_ppm=sites.survives_ppm, models=tuple(names)),),
    )


def _models(instance: Instance) -> list[Model]:
    """The same demand in every period: what differs from period to period is the busy time."""
    models, periods = instance.models, len(instance.periods)
    columns = [_rows(column, models.count) for column in (models.demand_mrps, models.replicas_min, models.replicas_max)]
    return [
        Model(
            name=f"m{i}",
            rate_mrps=(demand,) * periods,
            demand_mrps=(demand,) * periods,
            percentile=99,
            latency_bound_us=None,
            replicas_min=least,
            replicas_max=most,
        )
        for i, (demand, least, most) in enumerate(zip(*columns, strict=True))
    ]


def _kind(kind: Kind, unit: int) -> DeviceKind:
    return DeviceKind(
        name=kind.name,
        type=kind.name,
        profile=kind.name,
        memory_bytes=kind.memory * unit,
        server_base_bytes=kind.server_base * unit,
        utilization_ppm=kind.utilization_ppm,
        backend_overhead_bytes={name: amount * unit for name, amount in kind.backend_overhead.items()},
        cost_microusd_per_hour=kind.cost_microusd_per_hour,
    )


def _options(instance: Instance) -> list[Option]:
    options, count = instance.options, len(instance.options.model)
    busy = list(zip(*(_rows(column, count) for column in options.busy_ppm), strict=True))
    names = ("kind", "memory", "capacity_mrps", "tolerance_ppm", "max_others", "instances", "max_batch_size", "backend")
    columns = [_rows(getattr(options, name), count) for name in names]
    numbers: dict[tuple[int, int], int] = {}
    made = []
    for model, row, load_ppm in zip(options.model, zip(*columns, strict=True), busy, strict=True):
        values = dict(zip(names, row, strict=True))
        kind, memory = values.pop("kind"), values.pop("memory")
        numbers[model, kind] = number = numbers.get((model, kind), 0) + 1
        made.append(
            Option(
                id=f"m{model}@{instance.kinds[kind].name}:{number}",
                model=f"m{model}",
                kind=instance.kinds[kind].name,
                memory_bytes=memory * instance.memory_unit_bytes,
                busy_ppm=load_ppm,
                queue_delay_us=None,
                curve=(),
                latency_basis=LatencyBasis.NONE,
                **values,
            )
        )
    return made


def _rows(column: Column, count: int) -> Sequence[Any]:
    return column if isinstance(column, list | tuple) else [column] * count
