"""The rules of one device as linear limits: what each replica uses, and how much of it all may use beside it.

Every rule of a device has the form `the sum of use over all replicas <= the least limit of any of them`, for a
few resources: memory, busy time per period, busy time as a class of replicas feels it, instances. So the rule
`latency` becomes vector packing with fragile objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.domain.conflicts import exclusive_groups
from planner.domain.limits import Limits, limits_of
from planner.domain.problem import DeviceKind, Option, Problem

_Usable = Sequence[tuple[Option, Limits]]


@dataclass(frozen=True, slots=True)
class Place:
    """An option beside others: `use` and `limit` have one number per resource.

    `most`: so many replicas of it fit on an otherwise empty device and are of use there; None: any number.
    """

    option: Option
    use: tuple[int, ...]
    limit: tuple[int, ...]
    most: int | None


@dataclass(frozen=True, slots=True)
class Room:
    """A device kind with the options that keep every rule alone on it, and those of them that can stand beside others.

    The first resource is memory without the server's base; `overheads` is what each backend takes of it once.
    `group`: by model, its exclusive group. `most_of_group`: replicas of it that are of use on one device: where
    replicas can be taken away without loss, a plan without them needs no more GPUs. None: any number.
    """

    kind: DeviceKind
    alone: tuple[Option, ...]
    shared: tuple[Place, ...]
    overheads: Mapping[str, int]
    group: Mapping[str, str]
    most_of_group: Mapping[str, int | None]


def room_of(problem: Problem, kind: DeviceKind) -> Room:
    known = [(option, limits_of(problem, option)) for option in problem.options if option.kind == kind.name]
    usable = [(option, limits) for option, limits in known if limits is not None]
    overheads = {o.backend: kind.backend_overhead_bytes.get(o.backend, 0) for o, _ in usable}
    needed = {option.id: _needed(problem, option) for option, _ in usable}
    most: dict[str, int | None] = {}
    for m in problem.models:
        of_model = [needed[option.id] for option, _ in usable if option.model == m.name]
        most[m.name] = _least([problem.max_per_device, m.replicas_max, max(of_model, default=0)])
    group = exclusive_groups(problem)
    members: dict[str, list[int | None]] = {}
    for name, whole in group.items():
        members.setdefault(whole, []).append(most[name])
    rows = [_memory(kind, usable), *_busy(kind, usable), *_felt(kind, usable)]
    places = [_place(option, [row[i] for row in rows], overheads, _least([most[option.model], needed[option.id]]))
              for i, (option, _) in enumerate(usable)]  # fmt: skip
    limited = _limit_instances(places, [limits for _, limits in usable])
    return Room(
        kind=kind,
        alone=tuple(option for option, _ in usable if needed[option.id]),
        shared=tuple(place for place in limited if place.most is None or place.most > 0),
        overheads=overheads,
        group=group,
        most_of_group={whole: None if None in row else max(n or 0 for n in row) for whole, row in members.items()},
    )


# One resource: per option its use, and the limit of the total while a replica of it is there.
_Resource = Sequence[tuple[int, int]]


def _memory(kind: DeviceKind, usable: _Usable) -> _Resource:
    return [(option.memory_bytes, kind.memory_bytes - kind.server_base_bytes) for option, _ in usable]


def _busy(kind: DeviceKind, usable: _Usable) -> Iterator[_Resource]:
    """Total busy time per period, limited by the threshold and by replicas that feel all classes alike."""
    for period in _periods(usable):
        resource = []
        for option, limits in usable:
            busy, limit = option.busy_ppm[period], kind.utilization_ppm
            weights = kind.kappa_ppm[option.interference_class]
            if weights[0] and len(set(weights)) == 1:
                limit = min(limit, limits.borne_ppm2 // weights[0] + busy)
            resource.append((busy, limit))
        yield resource


def _felt(kind: DeviceKind, usable: _Usable) -> Iterator[_Resource]:
    """Busy time per period as a class of replicas feels it, for classes that tell others apart."""
    for number in sorted({option.interference_class for option, _ in usable}):
        weights = kind.kappa_ppm[number]
        if len(set(weights)) == 1:
            continue
        never = max(weights) * kind.utilization_ppm  # no total of two or more replicas is larger
        for period in _periods(usable):
            resource = []
            for option, limits in usable:
                use = weights[option.interference_class] * option.busy_ppm[period]
                own = option.interference_class == number
                resource.append((use, min(never, limits.borne_ppm2 + use) if own else never))
            yield resource


def _periods(usable: _Usable) -> range:
    return range(len(usable[0][0].busy_ppm) if usable else 0)


def _needed(problem: Problem, option: Option) -> int:
    """Of this option a plan has no more replicas, if none can be taken away without loss."""
    model = problem.model_by_name[option.model]
    return max(model.replicas_min, -(-model.peak_mrps // option.capacity_mrps))


def _place(option: Option, resources: _Resource, overheads: Mapping[str, int], most: int | None) -> Place:
    (memory, whole), *others = resources
    free = [(memory, whole - overheads[option.backend]), *others]
    fitting = [limit // use if use else None for use, limit in free]
    return Place(
        option=option,
        use=tuple(use for use, _ in resources),
        limit=tuple(limit for _, limit in resources),
        most=_least([most, *fitting]),
    )


def _limit_instances(places: Sequence[Place], limits: Sequence[Limits]) -> Sequence[Place]:
    """The places with one resource more: instances, where any replica limits them."""
    if all(known.max_others is None for known in limits):
        return places
    own = [
        None if k.max_others is None else k.max_others + p.option.instances for p, k in zip(places, limits, strict=True)
    ]
    most = [
        p.most if o is None else _least([p.most, o // p.option.instances]) for p, o in zip(places, own, strict=True)
    ]
    never = sum((m or 0) * p.option.instances for p, m in zip(places, most, strict=True))
    return [
        replace(p, use=(*p.use, p.option.instances), limit=(*p.limit, never if o is None else min(o, never)), most=m)
        for p, o, m in zip(places, own, most, strict=True)
    ]


def _least(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
