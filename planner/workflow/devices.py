"""What `--device` means: cores of this machine, a GPU, or a MIG device of one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.domain.fleet import GpuType
from planner.errors import DeviceError, InputError, NotFoundError
from planner.inputs import fleet as fleets
from planner.inputs.catalogue import resolve_type
from planner.workflow.cores import CoreShare, share_cores
from profiler.devices.base import Device
from profiler.devices.cpu import CpuDevice

if TYPE_CHECKING:
    from profiler.devices.gpu_list import GpuFacts

_GPU = re.compile(r"gpu:.*|GPU-.*|MIG-.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MeasuredDevice:
    """`type_name` is what its profiles say ("cpu-1", "A100-80/1g.10gb"). `gpu_uuid` is all that a server may
    see of the machine's GPUs; empty: none."""

    type_name: str
    device: Device
    share: CoreShare
    gpu_uuid: str
    notes: tuple[str, ...]


def measured_device(
    name: str, cores: Sequence[int], fleet: Path, *, exclusive: bool = False, usable: Sequence[int] | None = None
) -> MeasuredDevice:
    """The device that `name` means. `cores` are those for the server (empty: chosen here); `fleet` may name types
    that the catalogue has not; `usable` are this process's cores by default."""
    types = fleets.read_types(fleet) if fleet.exists() else fleets.known_types()
    allowed = sorted(os.sched_getaffinity(0)) if usable is None else usable
    if _GPU.fullmatch(name):
        return _gpu(name, cores, types, allowed, exclusive)
    if exclusive:
        raise InputError(f"--exclusive is for GPUs, and --device {name} is none")
    found = resolve_type(name, types)
    if found.cores is None:
        raise InputError(
            f"--device {name!r}: a GPU of this machine is named by its place or its UUID",
            hint="--device gpu:0; `planner doctor` lists them",
        )
    if cores and len(cores) != found.cores:
        given = ", ".join(map(str, cores))
        raise InputError(f"--cores {given}: {found.name} has {found.cores} cores, {len(cores)} are named")
    shares = share_cores({found.name: found.cores}, allowed, cores)
    share = shares.by_device[found.name]
    device = CpuDevice(found.cores, frozenset(share.generator), frozenset(share.device or ()))
    return MeasuredDevice(found.name, device, share, "", shares.notes)


def _gpu(
    name: str, cores: Sequence[int], types: Mapping[str, GpuType], allowed: Sequence[int], exclusive: bool
) -> MeasuredDevice:
    from profiler.devices.gpu import GpuDevice
    from profiler.devices.gpu_list import find_gpu
    from profiler.devices.nvml import Nvml

    nvml = Nvml()
    nvml.open()
    facts = find_gpu(nvml, name)
    type_name, notes = _type_name(facts, types)
    # pinned or not, the server's cores are counted as a CPU device's are
    shares = share_cores({type_name: len(cores) or None}, allowed, cores)
    share = shares.by_device[type_name]
    own_cores = frozenset(share.generator) if share.device else None
    device = GpuDevice(nvml, facts, exclusive=exclusive, own_cores=own_cores)
    return MeasuredDevice(type_name, device, share, facts.uuid, (*notes, *shares.notes))


def _type_name(gpu: GpuFacts, types: Mapping[str, GpuType]) -> tuple[str, tuple[str, ...]]:
    """The type's name, with the MIG profile behind a slash."""
    notes = [f"{name} is unknown: {reason}" for name, reason in gpu.unknown.items()]
    try:
        name = resolve_type(gpu.name, types).name
    except NotFoundError:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", gpu.name.removeprefix("NVIDIA ")).strip("-")
        notes.append(f"{gpu.name} is not in the catalogue: its profiles are named {name}; gpu_types in fleet.yaml "
                     "can give it a name of its own, by aliases, and its memory")  # fmt: skip
    if gpu.parent_uuid is None:
        return name, tuple(notes)
    if gpu.mig_profile is None:
        raise DeviceError(f"{gpu.spec}: its MIG profile is unknown: {gpu.unknown.get('mig_profile')}")
    return f"{name}/{gpu.mig_profile}", tuple(notes)
