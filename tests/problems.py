"""Small problems for tests: factories with plain defaults.

Everything is sized by hand: memory in bytes around 10, rates in mrps around 1,000, busy in ppm.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from planner.domain.problem import (
    SCHEMA_VERSION,
    Device,
    DeviceKind,
    LatencyBasis,
    Model,
    Objective,
    Option,
    Problem,
    Running,
)
from planner.domain.units import PPM

GIB = 2**30


def kind(name: str = "big", **changes: object) -> DeviceKind:
    values: dict[str, object] = {
        "type": name,
        "profile": name,
        "memory_bytes": 12,
        "server_base_bytes": 0,
        "utilization_ppm": 800_000,
        "cost_microusd_per_hour": 1_000_000,
        "power_milliwatts": 300_000,
    }
    return DeviceKind(name=name, **(values | changes))  # type: ignore[arg-type]


def devices(kind_name: str = "big", count: int = 1) -> tuple[Device, ...]:
    return tuple(Device(id=f"{kind_name}/{i}", gpu=f"{kind_name}/{i}", kind=kind_name) for i in range(count))


def model(name: str = "m", demand_mrps: int | Sequence[int] | None = 1000, **changes: object) -> Model:
    demand = (demand_mrps,) if isinstance(demand_mrps, int) else demand_mrps
    rates = None if demand is None else tuple(demand)
    values: dict[str, object] = {"percentile": 99, "latency_bound_us": None, "rate_mrps": rates, "demand_mrps": rates}
    return Model(name=name, **(values | changes))  # type: ignore[arg-type]


def option(model_name: str = "m", kind_name: str = "big", **changes: object) -> Option:
    values: dict[str, object] = {
        "id": f"{model_name}@{kind_name}",
        "instances": 1,
        "max_batch_size": 1,
        "queue_delay_us": None,
        "backend": "onnxruntime",
        "memory_bytes": 4,
        "capacity_mrps": 1000,
        "busy_ppm": (100_000,),
        "tolerance_ppm": PPM,
        "max_others": None,
        "curve": (),
        "latency_basis": LatencyBasis.NONE,
    }
    return Option(model=model_name, kind=kind_name, **(values | changes))  # type: ignore[arg-type]


def running(model_name: str, device: str, **changes: object) -> Running:
    values: dict[str, object] = {
        "replica": f"{model_name}-1", "instances": 1, "max_batch_size": 1, "queue_delay_us": None,
    }  # fmt: skip
    return Running(model=model_name, device=device, **(values | changes))  # type: ignore[arg-type]


def problem(
    models: Sequence[Model] | None = None,
    options: Sequence[Option] | None = None,
    *,
    kinds: Sequence[DeviceKind] | None = None,
    fleet: Sequence[Device] | None = None,
    objectives: Sequence[Objective] = (Objective.GPUS,),
    **changes: object,
) -> Problem:
    """One model on one device, unless told otherwise."""
    values: dict[str, object] = {"periods": ("all",)}
    return Problem(
        schema_version=SCHEMA_VERSION,
        models=tuple([model()] if models is None else models),
        kinds=tuple([kind()] if kinds is None else kinds),
        devices=tuple(devices() if fleet is None else fleet),
        options=tuple([option()] if options is None else options),
        objectives=tuple(objectives),
        **(values | changes),  # type: ignore[arg-type]
    )


def replicas_of_kinds(style: str, replicas: int, kinds_of_replicas: int, seed: int = 0) -> Problem:
    """The peers' instances: n replicas of T kinds on GPUs of 81,920 MiB; `small`, `mixed` or `hard`."""
    rng = random.Random(f"{style}-{replicas}-{kinds_of_replicas}-{seed}")
    counts = [replicas // kinds_of_replicas] * kinds_of_replicas
    counts[0] += replicas - sum(counts)
    sizes = list(_hard_sizes(rng, kinds_of_replicas)) if style == "hard" else []
    models, options = [], []
    for index, count in enumerate(counts):
        name = f"kind-{index}"
        top = {"small": 0.12, "mixed": 0.5}.get(style, 0)
        memory, busy = sizes[index] if sizes else (rng.uniform(0.01, top), rng.uniform(0.01, top))
        models.append(model(name, count * 1000, replicas_min=count, replicas_max=count))
        options.append(
            option(
                name,
                "gpu",
                memory_bytes=round(memory * 81_920) * 2**20,
                busy_ppm=(round(busy * 100) * 10_000,),
            )
        )
    gpu = kind("gpu", memory_bytes=81_920 * 2**20, utilization_ppm=PPM)
    return problem(models, options, kinds=[gpu], fleet=devices("gpu", replicas), max_per_device=None)


def _hard_sizes(rng: random.Random, count: int) -> Iterator[tuple[float, float]]:
    """Triples that fill a GPU exactly in both resources."""
    while count > 0:
        memory, busy = ([rng.randint(25, 42) for _ in range(2)] for _ in range(2))
        triple = [*zip(memory, busy, strict=True), (100 - sum(memory), 100 - sum(busy))]
        yield from ((m / 100, b / 100) for m, b in triple[:count])
        count -= 3
