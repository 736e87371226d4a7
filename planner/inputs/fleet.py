"""fleet.yaml, and fleets given as counts on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from planner.domain.fleet import DeviceClass, Fleet, Gpu, GpuType, Limit, Node, SliceType, placed_layout
from planner.domain.topology import Domain
from planner.errors import InputError, NotFoundError
from planner.inputs.catalogue import CPU_MEMORY_BYTES_PER_CORE, catalogue, resolution_note, resolve_type
from planner.inputs.record import Bytes, Count, NotNegative, Positive, Record, Text
from planner.inputs.yaml_file import YamlFile, read_record

GPUS_PER_NODE = 8
MOST_GPUS = 1_000_000

_COUNTED = re.compile(r"(?:(\d+)x)?(.+)", re.IGNORECASE)
_COUNT_BEHIND = re.compile(r"(.+)x(\d+)", re.IGNORECASE)
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def parse_count(text: str) -> tuple[int, str]:
    """ "8xA100" -> (8, "A100"); "A100" -> (1, "A100")."""
    match = _COUNTED.fullmatch(text.strip())
    if match is None:
        raise InputError("a GPU type is missing; write for example 8xA100")
    behind = _COUNT_BEHIND.fullmatch(text.strip())
    if match[1] is None and behind is not None:
        raise InputError(f"{text!r}: the count goes first: write {behind[2]}x{behind[1]}")
    count = int(match[1] or 1) if len(match[1] or "") < 10 else MOST_GPUS + 1
    if not 1 <= count <= MOST_GPUS:
        raise InputError(f"{text!r}: the count must be between 1 and {MOST_GPUS}")
    return count, match[2]


def fleet_from_counts(specs: Iterable[str], types: Mapping[str, GpuType] | None = None) -> tuple[Fleet, list[str]]:
    """Nodes of at most 8 GPUs of one type, named node1, node2, …; and notes on how names were read."""
    known = dict(catalogue() if types is None else types)
    nodes: list[Node] = []
    gpus: list[Gpu] = []
    notes: list[str] = []
    for spec in specs:
        count, name = parse_count(spec)
        kind = resolve_type(name, known)
        known[kind.name] = kind
        note = resolution_note(name, kind)
        if note and note not in notes:
            notes.append(note)
        if len(gpus) + count > MOST_GPUS:
            raise InputError(f"{spec!r}: a fleet may have at most {MOST_GPUS} GPUs")
        for first in range(0, count, GPUS_PER_NODE):
            node = f"node{len(nodes) + 1}"
            nodes.append(Node(name=node))
            here = min(GPUS_PER_NODE, count - first)
            gpus.extend(Gpu(node=node, index=i, type=kind.name) for i in range(here))
    return Fleet(nodes=tuple(nodes), gpus=tuple(gpus), types=known), notes


class HostEntry(Record):
    memory: Bytes | None = None
    cpu: Positive | None = None


class GpusEntry(Record):
    type: Text
    count: Count = 1
    mig_layout: Annotated[list[Text], Field(min_length=1)] | None = None
    cordoned: bool = False
    reserve: Bytes = 0


def _gpus(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        count, name = parse_count(value)
    except InputError as error:
        raise ValueError(error.message) from error
    return [{"type": name, "count": count}]


def _or_text(schema: dict[str, Any]) -> None:
    listed = {key: schema.pop(key) for key in ("type", "items", "minItems")}
    schema["anyOf"] = [{"type": "string", "pattern": "^([0-9]+x)?.+$"}, listed]


class NodeEntry(Record):
    later: ClassVar[frozenset[str]] = frozenset({"purchase_usd"})

    name: Text
    gpus: Annotated[list[GpusEntry], BeforeValidator(_gpus), Field(min_length=1, json_schema_extra=_or_text)]
    host: HostEntry = HostEntry()
    rack: Text | None = None
    zone: Text | None = None
    usd_per_hour: NotNegative | None = None


class GpuTypeEntry(Record):
    kind: Literal["gpu", "cpu"] | None = None
    cores: Count | None = None
    memory: Bytes | None = None
    usd_per_hour: NotNegative | None = None
    purchase_usd: NotNegative | None = None
    price_source: Text | None = None
    price_date: Text | None = None
    power_watts: NotNegative | None = None
    mig: bool | None = None
    mig_slices: dict[str, Bytes] | None = None
    aliases: list[Text] | None = None


class LimitEntry(Record):
    scope: Literal["node", "rack", "fleet"]
    name: Text | None = None
    power_watts: NotNegative | None = None
    usd_per_hour: NotNegative | None = None


class FleetFile(Record):
    schema_version: Literal[1]
    nodes: Annotated[list[NodeEntry], Field(min_length=1)]
    gpu_types: Annotated[dict[str, GpuTypeEntry], Field(default_factory=dict)]
    limits: Annotated[list[LimitEntry], Field(default_factory=list)]


def known_types() -> Mapping[str, GpuType]:
    """The types that need no fleet file."""
    return catalogue()


def read_types(path: Path) -> Mapping[str, GpuType]:
    """The catalogue with the overrides and additions of a fleet file."""
    return read_fleet(path).types


def read_fleet(path: Path) -> Fleet:
    record, file = read_record(FleetFile, path)
    types = _types(record, file)
    nodes: dict[str, Node] = {}
    gpus: list[Gpu] = []
    for i, entry in enumerate(record.nodes):
        for name in _node_names(entry.name, file, i):
            if name in nodes:
                raise file.error(("nodes", i, "name"), f"node {name!r} is given twice")
            nodes[name] = _node(name, entry)
            gpus.extend(_gpus_of(name, entry, types, file, i))
            if len(gpus) > MOST_GPUS:
                raise file.error(("nodes", i), f"a fleet may have at most {MOST_GPUS} GPUs")
    limits = tuple(_limit(entry, nodes, file, i) for i, entry in enumerate(record.limits))
    return Fleet(nodes=tuple(nodes.values()), gpus=tuple(gpus), types=types, limits=limits)


def _limit(entry: LimitEntry, nodes: Mapping[str, Node], file: YamlFile, i: int) -> Limit:
    steps = ("limits", i)
    if entry.power_watts is None and entry.usd_per_hour is None:
        raise file.error(steps, "a limit needs power_watts or usd_per_hour")
    scope = Domain(entry.scope)
    bare = [node.name for node in nodes.values() if node.rack is None]
    if scope is Domain.RACK and bare:
        raise file.error((*steps, "scope"), f"node {bare[0]!r} has no rack; give every node one")
    known = {Domain.NODE: set(nodes), Domain.RACK: {n.rack or "" for n in nodes.values()}}.get(scope, set())
    if entry.name is not None and entry.name not in known:
        found = f"there is no {scope} {entry.name!r}" if known else "there is one fleet, it needs no name"
        raise file.error((*steps, "name"), found)
    return Limit(scope=scope, name=entry.name, power_watts=entry.power_watts, usd_per_hour=entry.usd_per_hour)


def _node(name: str, entry: NodeEntry) -> Node:
    return Node(
        name=name,
        host_memory_bytes=entry.host.memory,
        host_cpu=entry.host.cpu,
        rack=entry.rack,
        zone=entry.zone,
    )


def _gpus_of(node: str, entry: NodeEntry, types: dict[str, GpuType], file: YamlFile, i: int) -> list[Gpu]:
    total = sum(group.count for group in entry.gpus)
    price = None if entry.usd_per_hour is None else entry.usd_per_hour / total
    gpus: list[Gpu] = []
    for k, group in enumerate(entry.gpus):
        with file.at("nodes", i, "gpus", k, "type"):
            kind = resolve_type(group.type, types)
        types[kind.name] = kind
        layout: tuple[tuple[str, int], ...] = ()
        if group.mig_layout is not None:
            with file.at("nodes", i, "gpus", k):
                layout = placed_layout(kind, group.mig_layout)
        if layout and group.reserve:
            text = "a reserve is one of a whole GPU; leave a slice out of mig_layout instead"
            raise file.error(("nodes", i, "gpus", k, "reserve"), text)
        for _ in range(min(group.count, MOST_GPUS + 1)):
            gpus.append(
                Gpu(
                    node=node,
                    index=len(gpus),
                    type=kind.name,
                    cordoned=group.cordoned,
                    reserve_bytes=group.reserve,
                    usd_per_hour=price,
                    mig_layout=layout,
                )
            )
    return gpus


def _node_names(pattern: str, file: YamlFile, i: int) -> list[str]:
    """ "dgx-[01-03]" -> dgx-01, dgx-02, dgx-03; the first bound's zeros set the width."""
    steps = ("nodes", i, "name")
    match = _RANGE.search(pattern)
    names = [pattern]
    if match is not None:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MOST_GPUS:
            raise file.error(steps, f"{pattern!r}: a range goes from the smaller to the larger number")
        before, behind = pattern[: match.start()], pattern[match.end() :]
        names = [f"{before}{n:0{len(match[1])}}{behind}" for n in range(first, last + 1)]
    if not _NODE_NAME.fullmatch(names[0]):
        allowed = "letters, digits, dots, dashes, underscores and one range such as [01-04]"
        raise file.error(steps, f"{pattern!r}: a node's name may hold {allowed}")
    return names


def _types(record: FleetFile, file: YamlFile) -> dict[str, GpuType]:
    """The catalogue with the file's overrides and additions."""
    types = dict(catalogue())
    for name, entry in record.gpu_types.items():
        with file.at("gpu_types", name):
            try:
                base: GpuType | None = resolve_type(name, types)
            except NotFoundError:
                base = None
            changed = _changed(name, entry, base)
        types[changed.name] = changed
    return types


def _changed(name: str, entry: GpuTypeEntry, base: GpuType | None) -> GpuType:
    def given(field: str, default: Any = None) -> Any:
        value = getattr(entry, field)
        return value if value is not None else getattr(base, field, default)

    kind = DeviceClass(given("kind", "gpu"))
    cores = given("cores")
    memory = entry.memory if entry.memory is not None else base.memory_bytes if base else None
    if kind is DeviceClass.CPU and cores is not None and entry.memory is None:
        memory = cores * CPU_MEMORY_BYTES_PER_CORE
    if memory is None:
        raise InputError(f"memory is missing: {name!r} is not in the catalogue; write for example memory: 24GiB")
    return GpuType(
        name=base.name if base else name,
        memory_bytes=memory,
        kind=kind,
        cores=cores,
        usd_per_hour=given("usd_per_hour"),
        purchase_usd=given("purchase_usd"),
        price_source=given("price_source"),
        price_date=given("price_date"),
        power_watts=given("power_watts"),
        slices=_slices(name, entry, base),
        aliases=tuple(given("aliases", ())),
    )


def _slices(name: str, entry: GpuTypeEntry, base: GpuType | None) -> tuple[SliceType, ...]:
    """Those of the catalogue, with the memory that the file gives; none where it says `mig: false`."""
    known = base.slices if base else ()
    if entry.mig is False:
        return ()
    if (entry.mig or entry.mig_slices) and not known:
        types = ", ".join(kind.name for kind in catalogue().values() if kind.mig)
        raise InputError(f"mig: how {name!r} can be split is not known; it is of {types}")
    given = entry.mig_slices or {}
    if base is not None:
        for profile in given:
            base.slice_named(profile)
    return tuple(replace(one, memory_bytes=given.get(one.name, one.memory_bytes)) for one in known)
