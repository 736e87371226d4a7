"""GPUs and CPU devices: their types, and where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from planner.domain.mig import MigSlice, layout_of
from planner.domain.topology import Domain
from planner.errors import InputError

TYPE_NAME = re.compile(r"[A-Za-z0-9.-]+")


class DeviceClass(StrEnum):
    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceType:
    """A MIG profile of a GPU type, such as 1g.10gb. `memory_bytes` is what a process may use of one slice."""

    name: str
    mig: MigSlice
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """A SKU. `memory_bytes` is what a process may use of one device; `cores` is set for CPU devices, `slices` for GPUs
    that can be split."""

    name: str
    memory_bytes: int
    kind: DeviceClass = DeviceClass.GPU
    cores: int | None = None
    usd_per_hour: float | None = None
    purchase_usd: float | None = None
    price_source: str | None = None
    price_date: str | None = None
    power_watts: float | None = None
    slices: tuple[SliceType, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def mig(self) -> bool:
        return bool(self.slices)

    def slice_named(self, name: str) -> SliceType:
        for one in self.slices:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.slices)
        raise InputError(f"{self.name} has no MIG profile {name!r}; it has {known or 'none at all'}")

    def __post_init__(self) -> None:
        if not TYPE_NAME.fullmatch(self.name):
            raise InputError(f"gpu type {self.name!r}: a name may hold letters, digits, dots and dashes")
        if self.memory_bytes <= 0:
            raise InputError(f"gpu type {self.name!r}: memory must be positive, got {self.memory_bytes} bytes")
        if (self.kind is DeviceClass.CPU) != (self.cores is not None):
            raise InputError(f"gpu type {self.name!r}: cores must be given for kind cpu, and only there")
        if self.cores is not None and self.cores < 1:
            raise InputError(f"gpu type {self.name!r}: cores must be at least 1, got {self.cores}")
        for field in ("usd_per_hour", "purchase_usd", "power_watts"):
            value = getattr(self, field)
            if value is not None and value < 0:
                raise InputError(f"gpu type {self.name!r}: {field} must not be negative, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One physical GPU (or CPU device). `id` is "node/index".

    `mig_layout`: its slices as (profile, start); empty: it is whole, unless the planner may split it.
    """

    node: str
    index: int
    type: str
    cordoned: bool = False
    reserve_bytes: int = 0
    usd_per_hour: float | None = None
    mig_layout: tuple[tuple[str, int], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.node}/{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    host_memory_bytes: int | None = None
    host_cpu: float | None = None
    rack: str | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the GPUs in use of each domain of a scope, or of the one named, may take together."""

    scope: Domain
    name: str | None = None
    power_watts: float | None = None
    usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    nodes: tuple[Node, ...]
    gpus: tuple[Gpu, ...]
    types: Mapping[str, GpuType]
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise InputError(f"fleet: node {node.name!r} is given twice")
            seen.add(node.name)
        for gpu in self.gpus:
            if gpu.node not in seen:
                raise InputError(f"fleet: gpu {gpu.id!r} stands on an unknown node")
            if gpu.type not in self.types:
                raise InputError(f"fleet: gpu {gpu.id!r} has the unknown type {gpu.type!r}")
            if gpu.mig_layout and gpu.reserve_bytes:
                raise InputError(f"fleet: gpu {gpu.id!r}: a reserve is one of a whole GPU; leave a slice out instead")
        if not self.gpus:
            raise InputError("fleet: there is no GPU in it")


def placed_layout(gpu_type: GpuType, asked: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """A layout as (profile, start), from profiles with their start, "1g.10gb@4", or without; InputError where a GPU
    cannot be split so."""
    found = [name.partition("@") for name in asked]
    slices = [gpu_type.slice_named(name) for name, _, _ in found]
    for name, at, start in found:
        if at and not start.isdecimal():
            raise InputError(f"mig_layout: {name}@{start}: a start is a number such as 4")
    starts = layout_of(
        [(one.mig, int(start) if at else None) for one, (_, at, start) in zip(slices, found, strict=True)]
    )
    if starts is None:
        raise InputError(f"mig_layout: no {gpu_type.name} can be split into {', '.join(asked)}")
    return tuple((one.name, start) for one, start in zip(slices, starts, strict=True))
