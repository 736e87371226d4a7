"""Every plan of a small problem by trying them all, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, combinations_with_replacement, product
from math import prod

from hypothesis import assume

from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.objectives import MAXIMISED, integer_value
from planner.domain.plan import Placement
from planner.domain.problem import Device, Option, Problem
from planner.domain.rules import Rule

# What a device by itself can break: more replicas elsewhere do not mend it.
DEVICE_RULES = {
    Rule.GPU_MEMORY, Rule.GPU_UTILIZATION, Rule.LATENCY, Rule.ONE_REPLICA, Rule.ALLOWED_GPU, Rule.FLEET, Rule.CONFLICT,
}  # fmt: skip
MOST_REPLICAS_ON_A_DEVICE = 4  # the smallest memory is 3 of at most 14 bytes
MOST_PLANS = 6_000

_OnDevices = tuple[Option, tuple[str, ...]]


def brute_force(subject: Problem) -> tuple[int, ...] | None:
    """The best objectives of all plans, as integers to be minimised in their order; None where there is no plan."""
    return min((objective_key(subject, placements) for placements in all_plans(subject)), default=None)


def objective_key(subject: Problem, placements: tuple[Placement, ...]) -> tuple[int, ...]:
    layout = Layout(subject, placements)
    return tuple(integer_value(layout, o) * (-1 if o in MAXIMISED else 1) for o in subject.objectives)


def all_plans(subject: Problem) -> Iterator[tuple[Placement, ...]]:
    """Every plan that keeps every rule, up to devices of a GPU that are alike."""
    return (placements for placements, broken in judged_plans(subject) if not broken)


def judged_plans(subject: Problem) -> Iterator[tuple[tuple[Placement, ...], set[Rule]]]:
    """Every plan whose devices keep the rules of devices, and the other rules that it breaks."""
    gpus: dict[str, list[Device]] = {}
    for device in subject.devices:
        gpus.setdefault(device.gpu, []).append(device)
    fillings = {gpu: list(_fillings(subject, devices)) for gpu, devices in gpus.items()}
    if prod(map(len, fillings.values())) > MOST_PLANS:
        assume(False)
    for spanning in _spanning(subject):
        held = {subject.device_by_id[name].gpu for _, pair in spanning for name in pair}
        free = [[()] if gpu in held else found for gpu, found in fillings.items()]
        for chosen in product(*free):
            placements = _placements([*spanning, *(pair for filling in chosen for pair in filling)])
            yield placements, {v.rule for v in check_placements(subject, placements)}


def _spanning(subject: Problem) -> list[list[_OnDevices]]:
    """No replica over two GPUs, or one: more of them need more GPUs than there are."""
    spanning = [o for o in subject.options if o.gpus == 2]
    return [[], *([(o, pair)] for o in spanning for pair in pairs_of_devices(subject))]


def pairs_of_devices(subject: Problem) -> Iterator[tuple[str, str]]:
    """Devices of one kind on one node, two by two."""
    for one, other in combinations(subject.devices, 2):
        if (one.kind, one.node) == (other.kind, other.node):
            yield one.id, other.id


def device_contents(subject: Problem, device: Device) -> list[tuple[Option, ...]]:
    """All sets of replicas that keep the rules of a device, on this one."""
    return [row for row, broken in judged_contents(subject, device) if not broken]


def judged_contents(subject: Problem, device: Device) -> Iterator[tuple[tuple[Option, ...], set[Rule]]]:
    """All sets of replicas on this device, and the rules of devices that they break there."""
    own = [o for o in subject.options if o.kind == device.kind and o.gpus == 1]
    for size in range(MOST_REPLICAS_ON_A_DEVICE + 1):
        for row in combinations_with_replacement(own, size):
            broken = {v.rule for v in check_placements(subject, _placements([(o, (device.id,)) for o in row]))}
            yield row, broken & DEVICE_RULES


def _fillings(subject: Problem, devices: Sequence[Device]) -> Iterator[tuple[_OnDevices, ...]]:
    """What one GPU can carry on devices that it can have at the same time."""
    seen: set[tuple[tuple[str, tuple[str, ...]], ...]] = set()
    contents = {device.id: device_contents(subject, device) for device in devices}
    for row in _sets(subject, devices):
        for chosen in product(*(contents[device.id] for device in row)):
            key = tuple(sorted((d.kind, tuple(o.id for o in c)) for d, c in zip(row, chosen, strict=True) if c))
            if subject.counts_moves or key not in seen:
                seen.add(key)
                yield tuple((o, (d.id,)) for d, content in zip(row, chosen, strict=True) for o in content)


def _sets(subject: Problem, devices: Sequence[Device]) -> Iterator[list[Device]]:
    """Legal sets of devices: slices that do not meet and are not too many, or none of them."""
    for taken in product((False, True), repeat=len(devices)):
        row = [device for device, is_in in zip(devices, taken, strict=True) if is_in]
        migs = [(subject.kind_by_name[d.kind].mig, d.start or 0) for d in row]
        slices = [(mig, start) for mig, start in migs if mig is not None]
        memory = [place for mig, start in slices for place in range(start, start + mig.memory)]
        compute = sum(mig.compute for mig, _ in slices)
        meet = len(set(memory)) < len(memory) or any(compute > mig.gpu_compute for mig, _ in slices)
        if not meet and len(slices) in (0, len(row)):
            yield row


def _placements(pairs: Sequence[_OnDevices]) -> tuple[Placement, ...]:
    return tuple(
        Placement(replica=f"r{i}", option=o.id, device=d[0], more_devices=d[1:]) for i, (o, d) in enumerate(pairs)
    )
