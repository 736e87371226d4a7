"""What of a problem a solver has to look at: options that can be used at all, and GPUs that are alike.

Nothing here decides anything: an option is left out only where it breaks a rule alone on an empty device,
or where another one of the same model and kind is at least as good in every number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from planner.domain.ensemble import Ensemble
from planner.domain.limits import limits_of
from planner.domain.mig import layouts
from planner.domain.plan import Placement
from planner.domain.problem import Device, DeviceKind, Model, Objective, Option, Problem, most_on_node
from planner.domain.topology import Domain, Survival
from planner.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """An option that can be used, with the limits of the rule `latency` as they bind.

    `borne_ppm2`: how much busy time of the others, weighed by kappa, it bears, in parts per million
    squared. `added_ppm2[c][p]`: what it adds for residents of class c in period p. `capacity_mrps` is cut
    at the model's demand where more would serve nothing.
    """

    option: Option
    kind: DeviceKind
    borne_ppm2: int
    max_others: int | None
    capacity_mrps: int
    added_ppm2: tuple[tuple[int, ...], ...]

    @property
    def own_ppm2(self) -> tuple[int, ...]:
        """What it would add for a replica of its own class."""
        return self.added_ppm2[self.option.interference_class]

    @property
    def overhead_bytes(self) -> int:
        return self.kind.backend_overhead_bytes.get(self.option.backend, 0)


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """GPUs that no rule tells apart: their devices are the same, kind by kind, and so are the domains that count.

    `gpus[i][j]` is a device of kind `kinds[j]`. `layouts`: the largest sets of devices, as places in `kinds`, that a
    GPU can carry at once; one unless the layout of its slices is free.
    """

    kinds: tuple[DeviceKind, ...]
    gpus: tuple[tuple[Device, ...], ...]
    layouts: tuple[tuple[int, ...], ...]

    @property
    def free_layout(self) -> bool:
        """Whether no GPU can use all of its devices at once."""
        return len(self.layouts[0]) < len(self.kinds)

    @property
    def most_devices(self) -> int:
        """That one GPU can use at once."""
        return max(map(len, self.layouts))

    @property
    def cost(self) -> int:
        return self.kinds[0].cost_microusd_per_hour or 0

    @property
    def power(self) -> int:
        return self.kinds[0].power_milliwatts or 0


class Reduction:
    """A problem, reduced. Order is the problem's everywhere, so that solvers stay deterministic."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._layouts: dict[tuple[tuple[str, int | None], ...], tuple[tuple[int, ...], ...]] = {}
        for choice in self.choices:
            self.most_on_device(choice)  # refuses what would have no end

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        rows: dict[tuple[str, str], list[Choice]] = {}
        for option in self.problem.options:
            choice = usable(self.problem, option) if option.gpus <= self.most_on_node.get(option.kind, 0) else None
            if choice is not None:
                rows.setdefault((option.model, option.kind), []).append(choice)
        return tuple(choice for row in rows.values() for choice in self._undominated(row))

    @cached_property
    def most_on_node(self) -> dict[str, int]:
        return most_on_node(self.problem.devices)

    def _undominated(self, row: Sequence[Choice]) -> list[Choice]:
        """Where moves count, a configuration that runs now is worth keeping whatever others can do."""
        by_configuration: dict[object, list[Choice]] = {}
        for choice in row:
            key = choice.option.configuration if self.problem.counts_moves else None
            by_configuration.setdefault(key, []).append(choice)
        balance = Objective.BALANCE in self.problem.objectives
        return [choice for part in by_configuration.values() for choice in _undominated(part, balance=balance)]

    @cached_property
    def by_model(self) -> dict[str, tuple[Choice, ...]]:
        found: dict[str, list[Choice]] = {model.name: [] for model in self.problem.models}
        for choice in self.choices:
            found[choice.option.model].append(choice)
        return {name: tuple(row) for name, row in found.items()}

    @cached_property
    def by_kind(self) -> dict[str, tuple[Choice, ...]]:
        found: dict[str, list[Choice]] = {kind.name: [] for kind in self.problem.kinds}
        for choice in self.choices:
            found[choice.option.kind].append(choice)
        return {name: tuple(row) for name, row in found.items()}

    @cached_property
    def groups(self) -> tuple[GpuGroup, ...]:
        """Devices that can carry something, by GPU, alike ones together: also in what runs there, if it matters."""
        by_gpu: dict[str, list[Device]] = {}
        for device in self.problem.devices:
            if not device.cordoned and self.by_kind[device.kind]:
                by_gpu.setdefault(device.gpu, []).append(device)
        alike: dict[tuple[object, ...], list[tuple[Device, ...]]] = {}
        carried: dict[tuple[object, ...], tuple[tuple[int, ...], ...]] = {}
        for all_devices in by_gpu.values():
            devices, places = self._carried(all_devices)
            key = (*((d.kind, self._running_on(d)) for d in devices), places, self._site(devices[0]))
            alike.setdefault(key, []).append(devices)
            carried[key] = places
        kinds = self.problem.kind_by_name
        groups = [
            GpuGroup(tuple(kinds[d.kind] for d in gpus[0]), tuple(gpus), carried[key]) for key, gpus in alike.items()
        ]
        for group in groups:
            if len({(kind.cost_microusd_per_hour, kind.power_milliwatts) for kind in group.kinds}) > 1:
                raise InputError(f"gpu {group.gpus[0][0].gpu!r}: the kinds of its devices must have one cost and power")
        return tuple(groups)

    def _carried(self, devices: Sequence[Device]) -> tuple[tuple[Device, ...], tuple[tuple[int, ...], ...]]:
        """The devices of a GPU that a plan needs, and its layouts as places among them.

        Of a slice's placements the last ones come first: with these in use, large slices still find room at the start.
        """
        ordered = sorted(devices, key=lambda device: (device.kind, -(device.start or 0)))
        built = tuple((device.kind, device.start) for device in ordered)
        if built not in self._layouts:
            self._layouts[built] = layouts(tuple(map(self.problem.part, ordered)))
        found = self._layouts[built]
        if len(found) == 1 and len(found[0]) == len(ordered):
            return tuple(ordered), found
        needed = sorted({place for places in found for place in places})
        if any(self._running_on(device) for device in ordered):  # then placements are not all alike
            needed = list(range(len(ordered)))
        kept = {place: number for number, place in enumerate(needed)}
        return (
            tuple(ordered[place] for place in needed),
            tuple(tuple(kept[place] for place in places) for places in found),
        )

    def _running_on(self, device: Device) -> frozenset[tuple[object, int]]:
        known = self.problem.running.get(device.id) if self.problem.counts_moves else None
        return frozenset(known.items()) if known else frozenset()

    def _site(self, device: Device) -> tuple[str, ...]:
        """What the rules tell GPUs apart by, beside their kinds."""
        pinned = (device.gpu,) if device.gpu in self._pinned_gpus else ()
        return (*(self.problem.domain_of(device, domain) for domain in self._domains), *pinned)

    @cached_property
    def _pinned_gpus(self) -> set[str]:
        return {pin.gpu for pin in self.problem.pinned}

    @cached_property
    def _domains(self) -> tuple[Domain, ...]:
        """The domains that some rule looks at, without those that are the same for all GPUs or differ for each."""
        problem = self.problem
        asked = {spread.over for model in problem.models for spread in model.spread}
        asked |= {survival.domain for survival in problem.survives} | {limit.scope for limit in problem.limits}
        if _host_binds(problem) or problem.spans_gpus:
            asked.add(Domain.NODE)
        return tuple(domain for domain in (Domain.NODE, Domain.RACK, Domain.ZONE) if domain in asked)

    @cached_property
    def partners(self) -> dict[str, tuple[str, ...]]:
        """Per model, itself and all that the rule `together` puts beside it, in the order of the problem."""
        joined = {model.name: {model.name} for model in self.problem.models}
        for one, other in self.problem.together:
            union = joined[one] | joined[other]
            for name in union:
                joined[name] = union
        place = {model.name: number for number, model in enumerate(self.problem.models)}
        return {name: tuple(sorted(found, key=place.__getitem__)) for name, found in joined.items()}

    def survival_mrps(self, model: Model) -> int:
        """The most that has to be left of a model without any one domain."""
        asked = self.survivals[model.name]
        return max((self.problem.survival_mrps(survival, model) for survival in asked), default=0)

    @cached_property
    def survivals(self) -> dict[str, list[Survival]]:
        """By model, what it has to survive."""
        found: dict[str, list[Survival]] = {model.name: [] for model in self.problem.models}
        for survival in self.problem.survives:
            for name in survival.models:
                found[name].append(survival)
        return found

    @cached_property
    def _pins(self) -> Counter[str]:
        return Counter(pin.model for pin in self.problem.pinned)

    @cached_property
    def hopeless(self) -> tuple[str, ...]:
        """Models that no device can carry, or not in the replicas that they may have; ensembles that are too slow."""
        models = [model.name for model in self.problem.models if not self._can_be_served(model)]
        return (*models, *(e.name for e in self.problem.ensembles if not self._can_be_fast_enough(e)))

    def quickest_us(self, ensemble: Ensemble) -> dict[str, int]:
        """By member, the least that a call may be promised to take; without those that must have no replica."""
        found = {}
        for name in ensemble.models:
            promised = [c.option.promised_us(ensemble.call_percentile) for c in self.by_model[name]]
            known = [latency for latency in promised if latency is not None]
            model = self.problem.model_by_name[name]
            if known and (model.peak_mrps or model.replicas_min):
                found[name] = min(known)
        return found

    def _can_be_fast_enough(self, ensemble: Ensemble) -> bool:
        return ensemble.bound_us is None or ensemble.slowest_path(self.quickest_us(ensemble))[0] <= ensemble.bound_us

    def _can_be_served(self, model: Model) -> bool:
        if not model.peak_mrps and not model.replicas_min:
            return True
        best = max((c.capacity_mrps for c in self.by_model[model.name]), default=0)
        return best > 0 and (model.replicas_max is None or model.replicas_max * best >= model.peak_mrps)

    def fewest_replicas(self, model: Model) -> int:
        """Replicas that serve the whole demand need at least this many."""
        if self.problem.allow_unserved and not model.peak_mrps:
            return 0
        best = max((c.capacity_mrps for c in self.by_model[model.name]), default=1)
        spread = max((spread.at_least for spread in model.spread if spread.at_least > 1), default=0)
        left = self.survival_mrps(model)
        surviving = 1 + -(-left // best) if left else 0  # one is lost, the others serve what is left
        if self.problem.allow_unserved:  # which may leave it out as a whole
            spread = surviving = 0
        return max(model.replicas_min, -(-model.peak_mrps // best), spread, surviving)

    def useful_replicas(self, model: Model) -> int | None:
        """Some best plan has no more than these: each further one could go, and nothing would get worse.

        None where every replica counts for throughput.
        """
        if Objective.THROUGHPUT in self.problem.objectives:
            return model.replicas_max
        ensemble = self.problem.served_by_triton.get(model.name)
        useful = sum(self._useful_alone(self.problem.model_by_name[name]) for name in self.partners[model.name])
        if self.problem.served_by_triton and is_sited(self.problem):  # whatever stays may hold any other one
            useful = sum(map(self._useful_alone, self.problem.models))
            useful += sum(map(self._useful_servers, self.problem.ensembles))
        elif ensemble is not None:  # it stands wherever any of the members is of use
            useful = max(useful, self._useful_servers(ensemble))
        return useful if model.replicas_max is None else min(useful, model.replicas_max)

    def _useful_alone(self, model: Model) -> int:
        """So many replicas at most have a reason to stay: demand and minimum, pins and spread one each, and survival.

        One stays for survival only where the others outside some domain serve too little: so few they are outside,
        and inside it as few stay for another domain. Of those over several GPUs some are inside each of these: as few
        stay for each further GPU.
        """
        least = min((c.capacity_mrps for c in self.by_model[model.name]), default=1)
        useful = max(1, model.replicas_min, -(-model.peak_mrps // least))
        useful += sum(spread.at_least for spread in model.spread if spread.at_least > 1)
        useful += self._pins[model.name]
        widest = max((c.option.gpus for c in self.by_model[model.name]), default=1)
        return useful + (1 + widest) * sum(
            -(-self.problem.survival_mrps(survival, model) // least) for survival in self.survivals[model.name]
        )

    def _useful_servers(self, ensemble: Ensemble) -> int:
        """Each server of an ensemble is there for the ensemble's demand, or for that of one of its members."""
        servers, demand = 0, max(ensemble.demand_mrps)
        for member in ensemble.members:
            model = self.problem.model_by_name[member.model]
            least = min((c.capacity_mrps for c in self.by_model[member.model]), default=1)
            servers += max(1, model.replicas_min, -(-model.peak_mrps // least))
            servers += -(-demand // max(1, least // member.calls))
        return servers

    def most_on_device(self, choice: Choice) -> int:
        """So many replicas of a choice fit on an empty device; of one over several GPUs, on a node of its own."""
        option, kind = choice.option, choice.kind
        if option.gpus > 1:
            return self.most_on_node[kind.name] // option.gpus
        free = kind.memory_bytes - kind.server_base_bytes - choice.overhead_bytes
        busy, own = max(option.busy_ppm), max(choice.own_ppm2)
        limits = [
            self.problem.max_per_device,
            self.useful_replicas(self.problem.model_by_name[option.model]),
            free // option.memory_bytes if option.memory_bytes else None,
            max(1, kind.utilization_ppm // busy) if busy else None,
            1 + choice.borne_ppm2 // own if own else None,
            None if choice.max_others is None else 1 + choice.max_others // option.instances,
        ]
        known = [limit for limit in limits if limit is not None]
        if not known:
            raise InputError(
                f"option {option.id!r} takes neither memory nor busy time: any number of its replicas fits",
                hint="give it its memory, or its model a maximum of replicas",
            )
        return min(known)


def is_sited(problem: Problem) -> bool:
    """Whether any rule looks further than one device's memory and time: at its place, or at what else stands there."""
    return tells_places_apart(problem) or _host_binds(problem) or problem.spans_gpus


def tells_places_apart(problem: Problem) -> bool:
    """Whether a rule looks at more than how many devices and how much of its host a node has left."""
    between = (problem.conflict, problem.together, problem.pinned, problem.survives, problem.limits)
    return any(between) or any(model.spread for model in problem.models)


def _host_binds(problem: Problem) -> bool:
    memory = any(node.host_memory_bytes is not None for node in problem.nodes)
    cpu = any(node.host_cpu_millis is not None for node in problem.nodes)
    return any((memory and m.host_memory_bytes) or (cpu and m.host_cpu_millis) for m in problem.models)


def usable(problem: Problem, option: Option) -> Choice | None:
    """The option with its binding limits; None where it breaks a rule even alone on an empty device."""
    limits = limits_of(problem, option)
    if limits is None:
        return None
    kind, model = problem.kind_by_name[option.kind], problem.model_by_name[option.model]
    capacity = option.capacity_mrps
    cut = Objective.THROUGHPUT not in problem.objectives and model.name not in problem.served_by_triton
    if model.peak_mrps and cut:
        capacity = min(capacity, model.peak_mrps)
    added = tuple(tuple(row[option.interference_class] * busy for busy in option.busy_ppm) for row in kind.kappa_ppm)
    return Choice(option, kind, limits.borne_ppm2, limits.max_others, capacity, added)


def _undominated(row: Sequence[Choice], *, balance: bool) -> list[Choice]:
    kept: list[Choice] = []
    for choice in row:
        if not any(_at_least_as_good(other, choice, balance=balance) for other in kept):
            kept = [other for other in kept if not _at_least_as_good(choice, other, balance=balance)]
            kept.append(choice)
    return kept


def _at_least_as_good(left: Choice, right: Choice, *, balance: bool) -> bool:
    """`balance`: whether an objective reads how busy a device is."""
    a, b = left.option, right.option
    if right.max_others == 0 and not balance and a.gpus == b.gpus:  # it has its device to itself, so could the other
        return left.capacity_mrps >= right.capacity_mrps and _promises_as_much(a, b)
    return (
        a.gpus == b.gpus
        and a.backend == b.backend
        and a.interference_class == b.interference_class
        and a.memory_bytes <= b.memory_bytes
        and left.capacity_mrps >= right.capacity_mrps
        and a.instances <= b.instances
        and all(x <= y for x, y in zip(a.busy_ppm, b.busy_ppm, strict=True))
        and _swings_no_more(a, b)
        and _promises_as_much(a, b)
        and left.borne_ppm2 >= right.borne_ppm2
        and _borne_others(left) >= _borne_others(right)
    )


def _swings_no_more(a: Option, b: Option) -> bool:
    """Neither its swing is larger, nor its busy time at the mean rate."""
    if not a.swing_ppm and not b.swing_ppm:
        return True
    pairs = [(a.busy_ppm[p], a.swing(p), b.busy_ppm[p], b.swing(p)) for p in range(len(a.busy_ppm))]
    return all(own <= other and x - own <= y - other for x, own, y, other in pairs)


def _promises_as_much(a: Option, b: Option) -> bool:
    """Whatever `b` promises of a call, `a` promises too, and in no longer time."""
    ours = [a.promised_us(promise.percentile) for promise in b.promises]
    return all(own is not None and own <= p.latency_us for own, p in zip(ours, b.promises, strict=True))


def _borne_others(choice: Choice) -> float:
    return float("inf") if choice.max_others is None else choice.max_others


def name_placements(problem: Problem, placed: Iterable[tuple[Option, Sequence[Device]]]) -> tuple[Placement, ...]:
    """Placements in the order of models and devices, with ids that count per model.

    A replica that stays on its devices keeps its id.
    """
    models = {model.name: place for place, model in enumerate(problem.models)}
    devices = {device.id: place for place, device in enumerate(problem.devices)}
    options = {option.id: place for place, option in enumerate(problem.options)}
    sited = [(option, sorted((d.id for d in where), key=devices.__getitem__)) for option, where in placed]
    sited.sort(key=lambda pair: (models[pair[0].model], devices[pair[1][0]], options[pair[0].id]))
    there: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for running in reversed(problem.current):
        there.setdefault((running.model, running.devices), []).append(running.replica)
    taken = {running.replica for running in problem.current}
    numbers = {model.name: count(1) for model in problem.models}
    placements = []
    for option, where in sited:
        known = there.get((option.model, tuple(sorted(where))))
        fresh = (f"{option.model}-{number}" for number in numbers[option.model])
        replica = known.pop() if known else next(name for name in fresh if name not in taken)
        first, *others = where
        placements.append(Placement(replica=replica, option=option.id, device=first, more_devices=tuple(others)))
    return tuple(placements)
