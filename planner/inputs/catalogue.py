"""GPU types that are known without a fleet file, and the many names that one type has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.domain.fleet import DeviceClass, GpuType, SliceType
from planner.domain.mig import MigSlice
from planner.errors import NotFoundError
from planner.inputs.record import Bytes, Count, NotNegative, Record, Text
from planner.inputs.yaml_file import nearest, read_record

CPU_NAME = re.compile(r"cpu-([1-9][0-9]{0,3})")
CPU_MEMORY_BYTES_PER_CORE = 4 * 2**30


class SlotEntry(Record):
    compute: Count
    memory: Count
    starts: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class GeometryEntry(Record):
    compute: Count
    memory: Count
    slots: dict[str, SlotEntry]


class SliceEntry(Record):
    slot: Text
    memory: Bytes


class MigEntry(Record):
    geometry: Text
    source: Text
    slices: dict[str, SliceEntry]


class CatalogueEntry(Record):
    memory: Bytes
    power_watts: NotNegative | None = None
    mig: MigEntry | None = None
    aliases: Annotated[list[Text], Field(default_factory=list)]
    source: Text


class CatalogueFile(Record):
    schema_version: Literal[1]
    mig_geometries: dict[str, GeometryEntry]
    gpu_types: dict[str, CatalogueEntry]


@cache
def catalogue() -> Mapping[str, GpuType]:
    """Every GPU type of catalogue.yaml by name."""
    record, file = read_record(CatalogueFile, Path(__file__).with_name("catalogue.yaml"))
    types: dict[str, GpuType] = {}
    for name, entry in record.gpu_types.items():
        with file.at("gpu_types", name):
            types[name] = GpuType(
                name=name,
                memory_bytes=entry.memory,
                power_watts=entry.power_watts,
                slices=() if entry.mig is None else _slices(entry.mig, record.mig_geometries),
                aliases=tuple(entry.aliases),
            )
    return types


def _slices(entry: MigEntry, geometries: Mapping[str, GeometryEntry]) -> tuple[SliceType, ...]:
    geometry = geometries[entry.geometry]
    return tuple(
        SliceType(name=name, mig=_slice(geometry, geometry.slots[one.slot]), memory_bytes=one.memory)
        for name, one in entry.slices.items()
    )


def _slice(geometry: GeometryEntry, slot: SlotEntry) -> MigSlice:
    return MigSlice(
        compute=slot.compute,
        memory=slot.memory,
        starts=tuple(slot.starts),
        gpu_compute=geometry.compute,
        gpu_memory=geometry.memory,
    )


def cpu_type(cores: int) -> GpuType:
    """The built-in type cpu-N."""
    memory_bytes = cores * CPU_MEMORY_BYTES_PER_CORE
    return GpuType(name=f"cpu-{cores}", memory_bytes=memory_bytes, kind=DeviceClass.CPU, cores=cores)


def resolve_type(name: str, types: Mapping[str, GpuType]) -> GpuType:
    """The type that a name or alias means, without regard to case, spaces and dashes."""
    found = _lookup(name, types)
    if found is not None:
        return found
    close = nearest(name, types, count=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(types)} and cpu-N;"
    raise NotFoundError(f"unknown GPU type {name!r}", hint=f"{hint} fleet.yaml can describe others (gpu_types)")


def resolution_note(name: str, found: GpuType) -> str | None:
    """What to tell the user where a name was not the type's own."""
    return None if name == found.name else f"{name} is read as {found.name}"


def canonical_name(name: str) -> str:
    """The catalogue's name for an alias, with its MIG profile; an unknown one may be a type of the user's own."""
    type_name, slash, profile = name.partition("/")
    found = _lookup(type_name, catalogue())
    return name if found is None else f"{found.name}{slash}{profile}"


def _lookup(name: str, types: Mapping[str, GpuType]) -> GpuType | None:
    if name in types:
        return types[name]
    folded = _folded(name)
    for kind in types.values():
        if folded == _folded(kind.name):
            return kind
    for kind in types.values():
        if folded in map(_folded, kind.aliases):
            return kind
    cpu = CPU_NAME.fullmatch(folded)
    return cpu_type(int(cpu[1])) if cpu else None


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip()).casefold().removeprefix("nvidia-")
