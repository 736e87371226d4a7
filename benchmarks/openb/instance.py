"""Alibaba's production fleet and task lists (Weng et al., USENIX ATC 2023) as a planning problem."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.domain.layout import Layout
from planner.domain.plan import Placement
from planner.domain.problem import (
    SCHEMA_VERSION,
    Device,
    DeviceKind,
    LatencyBasis,
    Model,
    Objective,
    Option,
    Problem,
)
from planner.domain.topology import Node
from planner.domain.units import PPM

NODES = "openb_node_list_gpu_node.csv"
TASKS = "openb_pod_list_{}.csv"
MIB = 2**20
# A GPU in thousandths, the unit of the data; as memory, which is what shares of it add up in.
GPU = 1000
ONE_TASK_MRPS = 1000
HOST = "host"


@dataclass(frozen=True, slots=True)
class Task:
    """What a task asks for: thousandths of a core, MiB of its node, GPUs and thousandths of each; types it may have."""

    cpu_millis: int
    memory_mib: int
    gpus: int
    gpu_millis: int
    types: tuple[str, ...]

    @property
    def total_gpu_millis(self) -> int:
        return self.gpus * self.gpu_millis

    @property
    def name(self) -> str:
        types = "".join(f"-{name}" for name in self.types)
        return f"{self.gpus}x{self.gpu_millis}-{self.cpu_millis}-{self.memory_mib}{types}"


def read_tasks(folder: Path, listed: str) -> list[Task]:
    with (folder / TASKS.format(listed)).open(newline="", encoding="utf-8") as file:
        return [
            Task(
                int(row["cpu_milli"]),
                int(row["memory_mib"]),
                int(row["num_gpu"]),
                int(row["gpu_milli"] or 0) if int(row["num_gpu"]) else 0,
                tuple(sorted(filter(None, row["gpu_spec"].split("|")))),
            )
            for row in csv.DictReader(file)
        ]


def read_nodes(folder: Path) -> list[dict[str, str]]:
    with (folder / NODES).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arriving(tasks: Sequence[Task], gpus: int, share: float, seed: int) -> list[Task]:
    """Tasks drawn from the list until they ask for this share of all GPUs, as the published schedulers are tested."""
    drawn, asked = [], 0
    rng = random.Random(seed)
    while asked < share * gpus * GPU:
        drawn.append(rng.choice(tasks))
        asked += drawn[-1].total_gpu_millis
    return drawn


def problem_of(nodes: Sequence[dict[str, str]], tasks: Sequence[Task]) -> Problem:
    """Equal tasks are the replicas of one model; what is left out counts by the GPUs that it asks for.

    Types that no task tells apart are one kind. Tasks without a GPU take a place of their own on each node, its host.
    """
    counts = Counter(tasks)
    asked = {task.types for task in counts}
    alike: dict[tuple[bool, ...], list[str]] = {}
    for name in dict.fromkeys(row["model"] for row in nodes):
        alike.setdefault(tuple(name in types for types in asked), []).append(name)
    kind_of = {name: "|".join(names) for names in alike.values() for name in names}
    kinds = [_kind(name, GPU) for name in dict.fromkeys(kind_of.values())] + [_kind(HOST, 1)]
    return Problem(
        schema_version=SCHEMA_VERSION,
        periods=("all",),
        models=tuple(_model(task, count, kind_of) for task, count in counts.items()),
        kinds=tuple(kinds),
        devices=tuple(device for row in nodes for device in _devices(row, kind_of[row["model"]])),
        options=tuple(option for task in counts for option in _options(task, kind_of)),
        objectives=(Objective.UNSERVED,),
        allow_unserved=True,
        max_per_device=None,
        nodes=tuple(
            Node(
                name=row["sn"],
                host_memory_bytes=int(row["memory_mib"]) * MIB,
                host_cpu_millis=int(row["cpu_milli"]),
            )
            for row in nodes
        ),
    )


def allocated_millis(problem: Problem, placements: Sequence[Placement]) -> int:
    """Thousandths of GPUs that the tasks placed take."""
    options = (placed.option for placed in Layout(problem, placements).placed)
    return sum(option.memory_bytes * option.gpus for option in options if option.kind != HOST)


def _kind(name: str, memory: int) -> DeviceKind:
    cores = 1 if name == HOST else None
    return DeviceKind(
        name=name, type=name, profile=name, memory_bytes=memory, server_base_bytes=0, utilization_ppm=PPM, cores=cores
    )


def _devices(row: dict[str, str], kind: str) -> list[Device]:
    names = [f"{row['sn']}/{i}" for i in range(int(row["gpu"]))]
    host = f"{row['sn']}/{HOST}"
    return [*(Device(id=n, gpu=n, kind=kind) for n in names), Device(id=host, gpu=host, kind=HOST)]


def _model(task: Task, count: int, kind_of: Mapping[str, str]) -> Model:
    demand = (count * ONE_TASK_MRPS,)
    return Model(
        name=task.name,
        rate_mrps=demand,
        demand_mrps=demand,
        percentile=99,
        latency_bound_us=None,
        replicas_min=0,
        replicas_max=count,
        allowed_gpu=_allowed(task, kind_of) if task.types else (),
        priority=max(1, count * task.total_gpu_millis),
        host_memory_bytes=task.memory_mib * MIB,
        host_cpu_millis=task.cpu_millis,
    )


def _allowed(task: Task, kind_of: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for name, kind in kind_of.items() if not task.types or name in task.types))


def _options(task: Task, kind_of: Mapping[str, str]) -> list[Option]:
    return [
        Option(
            id=f"{task.name}@{kind}",
            model=task.name,
            kind=kind,
            instances=1,
            max_batch_size=1,
            queue_delay_us=None,
            backend="",
            memory_bytes=task.gpu_millis,
            capacity_mrps=ONE_TASK_MRPS,
            busy_ppm=(0,),
            tolerance_ppm=PPM,
            max_others=0 if task.gpus > 1 else None,
            curve=(),
            latency_basis=LatencyBasis.NONE,
            gpus=max(1, task.gpus),
        )
        for kind in (_allowed(task, kind_of) if task.gpus else (HOST,))
    ]
