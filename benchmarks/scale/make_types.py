"""Fleets of five GPU types with prices: which type, which option, and what goes together on a GPU."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from instances import Instance, Kind, Models, Options, Sites

from planner.domain.units import PPM

RESERVE = 0.05
UTILIZATION_PPM = 800_000
SERVER_BASE_MIB = 500
BACKENDS = {"onnxruntime": 450, "pytorch": 900}  # MiB that a server pays once for each of them
GPUS_PER_REPLICA = 0.2
GPUS_PER_NODE, GPUS_PER_RACK = 8, 66
SURVIVES_PPM = 900_000


@dataclass(frozen=True)
class GpuType:
    """Memory as in planner/inputs/catalogue.yaml; speed against the L4; price, share of the fleet and what its node has
    of host memory for each GPU are made up."""

    name: str
    memory_gib: float
    speed: float
    usd_per_hour: float
    share: float
    host_memory_gib: int

    @property
    def memory_mib(self) -> int:
        return int(self.memory_gib * 1024 * (1 - RESERVE))


# The fewer there are of a type that is good value, the more its stock binds: the A100-40 first.
TYPES = (
    GpuType("L4", 22.03, 1.0, 0.70, 0.30, 16),
    GpuType("A10", 22.03, 1.15, 0.85, 0.25, 16),
    GpuType("A100-40", 39.39, 2.6, 1.30, 0.12, 32),
    GpuType("A100-80", 79.25, 2.9, 1.90, 0.20, 64),
    GpuType("H100-80", 79.1, 5.0, 3.00, 0.13, 64),
)

# (instances, batch size) by how many options a model has; demands are counted in replicas of (1, 8).
OPTIONS_PER_MODEL = {
    1: ((1, 8),),
    3: ((1, 4), (1, 16), (2, 16)),
    8: ((1, 1), (1, 4), (1, 8), (1, 16), (1, 32), (2, 4), (2, 8), (2, 16)),
}
# Larger batches take more of the GPU and serve more per busy time; two instances overlap a little.
BATCH_BUSY = {1: 0.45, 4: 0.75, 8: 1.0, 16: 1.2, 32: 1.35}
BATCH_YIELD = {1: 0.55, 4: 0.85, 8: 1.0, 16: 1.1, 32: 1.15}
INSTANCES_BUSY = {1: 1.0, 2: 1.6}
INSTANCES_YIELD = {1: 1.0, 2: 1.05}


@dataclass(frozen=True)
class Network:
    """One model. Busy time and capacity are those of one instance with batches of 8 on an L4."""

    weights_mib: float
    activation_mib: float
    busy: float
    capacity_mrps: int
    backend: str
    speeds: tuple[float, ...]
    tolerance: float | None
    max_others: int | None


def types(rng: random.Random, name: str, options: int, replicas: int, models: int) -> Instance:
    """Demands for about so many replicas, on one GPU for five of them."""
    gpus = int(replicas * GPUS_PER_REPLICA)
    networks = [_network(rng) for _ in range(models)]
    wanted = _shares(rng, replicas, models, gpus // 3)
    demands = [int((n - rng.uniform(0, 0.5)) * net.capacity_mrps) for n, net in zip(wanted, networks, strict=True)]
    return Instance(
        name=name,
        periods=("all",),
        objectives=("cost", "gpus"),
        max_per_device=1,
        kinds=[_kind(gpu_type, gpus) for gpu_type in TYPES],
        models=Models(
            count=models,
            demand_mrps=demands,
            replicas_min=[min(n, rng.choice((1, 1, 2))) for n in wanted],
        ),
        options=_columns([row for i, net in enumerate(networks) for row in _rows(i, net, OPTIONS_PER_MODEL[options])]),
    )


def sited(rng: random.Random, name: str, options: int, replicas: int, models: int) -> Instance:
    """The same in nodes and racks, with rules between devices for every model, and some for one in twenty."""
    plain = types(rng, name, options, replicas, models)
    some = rng.sample(range(models), 3 * (models // 20))
    third = len(some) // 3
    fleet = sum(kind.count for kind in plain.kinds)
    carried = {model: [] for model in some[2 * third :]}
    for model, kind in zip(plain.options.model, plain.options.kind, strict=True):
        if model in carried and kind not in carried[model]:
            carried[model].append(kind)
    starts = [sum(kind.count for kind in plain.kinds[:place]) for place in range(len(plain.kinds) + 1)]
    pins = [(model, rng.randrange(*starts[kind : kind + 2])) for model, kinds in carried.items()
            for kind in [rng.choice(kinds)]]  # fmt: skip
    sites = Sites(
        gpus_per_node=GPUS_PER_NODE,
        racks=max(3, fleet // GPUS_PER_RACK),
        node_memory=[GPUS_PER_NODE * gpu_type.host_memory_gib * 1024 for gpu_type in TYPES],
        host_memory=[rng.randint(512, 4096) for _ in range(models)],
        racks_apart=[3 if least >= 2 else 1 for least in plain.models.replicas_min],
        survives_ppm=SURVIVES_PPM,
        conflict=list(zip(some[:third], some[third : 2 * third], strict=True)),
        pinned=pins,
    )
    return replace(plain, sites=sites)


def _kind(gpu_type: GpuType, gpus: int) -> Kind:
    return Kind(
        name=gpu_type.name,
        count=round(gpus * gpu_type.share),
        memory=gpu_type.memory_mib,
        utilization_ppm=UTILIZATION_PPM,
        server_base=SERVER_BASE_MIB,
        backend_overhead=BACKENDS,
        cost_microusd_per_hour=round(gpu_type.usd_per_hour * 1_000_000),
    )


def _network(rng: random.Random) -> Network:
    """Many small models and few large ones; how much faster a GPU is differs from model to model."""
    spread = 1 + 2.6 * rng.random()
    weights = 500 * spread * spread
    careful = rng.random() < 0.4
    faster = [1.0, *(rng.uniform(0.85, 1.2) for _ in TYPES[1:])]
    return Network(
        weights_mib=weights,
        activation_mib=weights * rng.uniform(0.01, 0.04),
        busy=rng.uniform(0.06, 0.32),
        capacity_mrps=rng.randint(20, 400) * 1000,
        backend=rng.choice(list(BACKENDS)),
        speeds=tuple(gpu_type.speed * factor for gpu_type, factor in zip(TYPES, faster, strict=True)),
        tolerance=rng.uniform(0.45, 0.75) if careful else None,
        max_others=rng.randint(4, 12) if careful and rng.random() < 0.6 else None,
    )


def _shares(rng: random.Random, replicas: int, models: int, most: int) -> list[int]:
    """How many replicas each model wants: some ten times as many as others."""
    draws = [0.4 + rng.random() for _ in range(models)]
    weights = [draw * draw for draw in draws]
    return [min(most, max(1, round(replicas * weight / sum(weights)))) for weight in weights]


Row = dict[str, int | str | None]


def _rows(model: int, network: Network, configurations: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """Each configuration on every type whose memory takes it, at one capacity: a faster GPU is less busy with it."""
    for instances, batch in configurations:
        busy = network.busy * BATCH_BUSY[batch] * INSTANCES_BUSY[instances]
        served = BATCH_BUSY[batch] * BATCH_YIELD[batch] * INSTANCES_BUSY[instances] * INSTANCES_YIELD[instances]
        memory = ceil(instances * (network.weights_mib + network.activation_mib * batch))
        for place, gpu_type in enumerate(TYPES):
            share = busy / network.speeds[place]
            if share > 1 or memory + SERVER_BASE_MIB + BACKENDS[network.backend] > gpu_type.memory_mib:
                continue
            yield {
                "model": model,
                "kind": place,
                "memory": memory,
                "busy_ppm": ceil(share * PPM),
                "capacity_mrps": int(network.capacity_mrps * served),
                # Larger batches wait longer, and leave less time for neighbours.
                "tolerance_ppm": PPM if network.tolerance is None else int((network.tolerance - 0.003 * batch) * PPM),
                "max_others": network.max_others,
                "instances": instances,
                "max_batch_size": batch,
                "backend": network.backend,
            }


def _columns(rows: list[Row]) -> Options:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Options(**(columns | {"busy_ppm": [columns["busy_ppm"]]}))
