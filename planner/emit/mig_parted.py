"""How the GPUs of a plan are split, in the format of NVIDIA's MIG partition editor (mig-parted, version v1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from planner.domain.mig import may_join
from planner.domain.plan import Plan
from planner.domain.problem import Device, Problem
from planner.errors import InputError

_HEAD = """\
# How the GPUs of the plan are split, a configuration per node, for NVIDIA's MIG partition editor. On the node:
#   nvidia-mig-parted apply -f mig-parted.yaml -c NODE
# or as configurations of the GPU operator's MIG manager, with the node's label nvidia.com/mig.config=NODE.
# mig-parted chooses the placements itself: which slice each server gets, launch.sh is told by its UUID. GPUs that the
# plan leaves empty are not named, and stay as they are. Written by planner emit.
version: v1
mig-configs:
"""

# Slices by profile; empty: the GPU is whole.
_Split = tuple[tuple[str, int], ...]


def mig_parted(problem: Problem, plan: Plan) -> str:
    """The text of the file; InputError where no GPU of the plan can be split."""
    nodes: dict[str, dict[_Split, list[int]]] = {}
    for gpu, split in _splits(problem, plan):
        node, _, index = gpu.rpartition("/")
        nodes.setdefault(node, {}).setdefault(split, []).append(int(index))
    if not nodes:
        raise InputError("target mig-parted: no GPU of this plan is split", hint="planner solve --mig may split GPUs")
    return _HEAD + "".join(line for node, splits in nodes.items() for line in _node(node, splits))


def _splits(problem: Problem, plan: Plan) -> Iterator[tuple[str, _Split]]:
    """What each GPU in use is to be split into; GPUs that are whole and cannot be otherwise are left out."""
    devices_of_gpu: dict[str, list[Device]] = {}
    for device in problem.devices:
        devices_of_gpu.setdefault(device.gpu, []).append(device)
    for planned in plan.gpus:
        devices = devices_of_gpu[planned.gpu]
        sliced = [device for device in devices if problem.kind_by_name[device.kind].mig is not None]
        used = {device.device for device in planned.devices}
        chosen = sliced if _is_layout(problem, devices) else [device for device in sliced if device.id in used]
        if sliced:
            yield planned.gpu, _counted(problem, chosen)


def _is_layout(problem: Problem, devices: Sequence[Device]) -> bool:
    """Whether the devices are slices that the GPU has already, and not all that it may have."""
    parts = [problem.part(device) for device in devices]
    return all(may_join(part, parts[:place]) for place, part in enumerate(parts))


def _counted(problem: Problem, slices: Sequence[Device]) -> _Split:
    """Large slices first, which is how they find room."""
    counts = Counter(problem.kind_by_name[device.kind].profile.rpartition("/")[2] for device in slices)
    return tuple(sorted(counts.items(), reverse=True))


def _node(node: str, splits: Mapping[_Split, Sequence[int]]) -> Iterator[str]:
    yield f'  "{node}":\n'
    for split, indexes in splits.items():
        yield f"    - devices: [{', '.join(map(str, indexes))}]\n"
        yield f"      mig-enabled: {'true' if split else 'false'}\n"
        if split:
            yield "      mig-devices:\n"
            yield from (f'        "{profile}": {count}\n' for profile, count in split)
