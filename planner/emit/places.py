"""Where each device of a plan is on its node: its folder, and its GPU or its cores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from planner.domain.plan import Plan, PlannedDevice, Replica
from planner.domain.problem import Problem
from planner.errors import InputError

# One path component that needs no quoting in YAML, in a URL, in a shell or in a file system.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# A plan file may come from anywhere, and these end up in a shell script.
_SAFE_DEVICE = re.compile(r"[A-Za-z0-9_.+@/-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """One Triton server to be, with the ensembles that it serves as a whole.

    `cores` are the CPUs of a CPU device, counted from 0 per node; None for a GPU. `gpus`: the indices of the GPUs that
    it sees, one unless its replica takes several.
    """

    device: PlannedDevice
    node: str
    gpus: tuple[int, ...]
    folder: str
    cores: tuple[int, ...] | None
    replicas: tuple[Replica, ...]
    ensembles: tuple[str, ...] = ()

    @property
    def is_slice(self) -> bool:
        return self.device.start is not None

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(replica.model for replica in self.replicas)


def places(problem: Problem, plan: Plan) -> list[Place]:
    """Every server of the plan, in the order of its devices; InputError where a name cannot be a folder's."""
    replicas = {replica.id: replica for replica in plan.replicas}
    gpus = {device.device: gpu.gpu for gpu in plan.gpus for device in gpu.devices}
    cores = _cores(problem)
    found = []
    for device in plan.servers:
        own = tuple(replicas[name] for name in device.replicas)
        node = gpus[device.device].rpartition("/")[0]
        seen = [_index(gpus[name]) for name in dict.fromkeys([device.device, *own[0].devices])]
        folder = _folder(seen[0], device)
        _require_names(device.device, node, folder, own)
        served = tuple(e.name for e in plan.ensembles if device.device in [s.device for s in e.servers])
        for name in served:
            _require_folder("ensemble", name)
        found.append(Place(device, node, tuple(seen), folder, cores.get(device.device), own, served))
    return found


def _index(gpu: str) -> int:
    index = gpu.rpartition("/")[2]
    if not index.isdecimal():
        raise InputError(f"gpu {gpu!r} is not named node/index, so its server cannot be told where to run")
    return int(index)


def _cores(problem: Problem) -> Mapping[str, tuple[int, ...]]:
    """The CPU devices of a node take its cores one after another, used or not, so that a new plan moves none."""
    next_of_node: dict[str, int] = {}
    found = {}
    for device in problem.devices:
        count = problem.kind_by_name[device.kind].cores
        if count is not None:
            node = device.gpu.rpartition("/")[0]
            first = next_of_node.get(node, 0)
            next_of_node[node] = first + count
            found[device.id] = tuple(range(first, first + count))
    return found


def _folder(index: int, device: PlannedDevice) -> str:
    if device.start is None:
        return f"gpu{index}"
    return f"gpu{index}-{device.profile.rpartition('/')[2]}-at{device.start}"


def _require_folder(what: str, name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InputError(f"{what} {name!r} cannot name a folder")


def _require_names(device: str, node: str, folder: str, replicas: tuple[Replica, ...]) -> None:
    if not _SAFE_NAME.fullmatch(node):
        raise InputError(f"node {node!r} cannot name a folder", hint="letters, digits, dots, dashes, underscores")
    for name in (device, folder):
        if not _SAFE_DEVICE.fullmatch(name):
            raise InputError(f"device {name!r}: its name may hold letters, digits and . _ - + @ / alone")
    models = [replica.model for replica in replicas]
    for name in models:
        _require_folder("model", name)
        if models.count(name) > 1:
            raise InputError(
                f"device {device!r} carries {models.count(name)} replicas of {name!r}; a server has one entry per name"
            )
