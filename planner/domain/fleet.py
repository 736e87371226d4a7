"""GPUs and CPU devices: their types, and where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from planner.errors import InputError

TYPE_NAME = re.compile(r"[A-Za-z0-9.-]+")


class DeviceClass(StrEnum):
    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """A SKU. `memory_bytes` is what a process may use of one device; `cores` is set for CPU devices."""

    name: str
    memory_bytes: int
    kind: DeviceClass = DeviceClass.GPU
    cores: int | None = None
    usd_per_hour: float | None = None
    purchase_usd: float | None = None
    price_source: str | None = None
    price_date: str | None = None
    power_watts: float | None = None
    mig: bool = False
    aliases: tuple[str, ...] = ()

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
    """One physical GPU (or CPU device). `id` is "node/index"."""

    node: str
    index: int
    type: str
    cordoned: bool = False
    reserve_bytes: int = 0
    usd_per_hour: float | None = None

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
class Fleet:
    nodes: tuple[Node, ...]
    gpus: tuple[Gpu, ...]
    types: Mapping[str, GpuType]

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
        if not self.gpus:
            raise InputError("fleet: there is no GPU in it")
