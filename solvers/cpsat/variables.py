"""The decisions: how many replicas of each choice stand on each place of each group of like GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ortools.sat.python import cp_model

from planner.domain.plan import Placement
from planner.domain.problem import Device, DeviceKind, Option
from planner.domain.units import PPM
from solvers.reduction import Choice, GpuGroup, Reduction


@dataclass(slots=True, eq=False)
class Slot:
    """One device. `shared`: it carries two replicas or more.

    `present` is the count itself where at most one replica of a choice may stand here. A replica over several GPUs
    counts on each of its devices.
    """

    kind: DeviceKind
    device: Device
    used: cp_model.IntVar
    shared: cp_model.IntVar
    counts: Mapping[Choice, cp_model.IntVar]
    most: Mapping[Choice, int]
    present: dict[Choice, cp_model.IntVar] = field(default_factory=dict)
    backends: dict[str, cp_model.IntVar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Stand:
    """How many replicas of a choice stand on a device, or on the devices of one node where each takes several."""

    choice: Choice
    slots: tuple[Slot, ...]
    count: cp_model.IntVar

    @property
    def device(self) -> Device:
        return self.slots[0].device


@dataclass(slots=True, eq=False)
class GpuPlace:
    """One GPU of a group. The first ones of a group stand for all that a plan needs: they are alike.

    `free_layout`: its devices are more than one layout has.
    """

    used: cp_model.IntVar
    slots: tuple[Slot, ...]
    free_layout: bool = False


class Variables:
    """`places` has one row per group of the reduction, with as many GPUs as `sizes` says."""

    def __init__(self, model: cp_model.CpModel, reduction: Reduction, sizes: Sequence[int]) -> None:
        self._model = model
        self.reduction = reduction
        self._busy: dict[tuple[str, int], list[tuple[int, cp_model.IntVar]]] = {}
        self.places: list[list[GpuPlace]] = [
            [self._place(gpu, free_layout=group.free_layout) for gpu in group.gpus[:size]]
            for group, size in zip(reduction.groups, sizes, strict=True)
        ]
        self.slots = [slot for row in self.places for place in row for slot in place.slots]
        self.stands: dict[str, list[Stand]] = {m.name: [] for m in reduction.problem.models}
        for stand in (*self._on_devices(), *self._over_devices()):
            self.stands[stand.choice.option.model].append(stand)

    def _on_devices(self) -> Iterator[Stand]:
        for slot in self.slots:
            for choice, count in slot.counts.items():
                if choice.option.gpus == 1:
                    yield Stand(choice, (slot,), count)

    def _over_devices(self) -> Iterator[Stand]:
        """Replicas over several devices take that many of a node's, whichever they are."""
        by_node: dict[tuple[Choice, str], list[Slot]] = {}
        for slot in self.slots:
            for choice in slot.counts:
                if choice.option.gpus > 1:
                    by_node.setdefault((choice, slot.device.node), []).append(slot)
        for (choice, node), slots in by_node.items():
            gpus = choice.option.gpus
            count = self._model.new_int_var(0, len(slots) // gpus, f"{choice.option.id} on {node}")
            self._model.add(cp_model.LinearExpr.sum([slot.counts[choice] for slot in slots]) == gpus * count)
            yield Stand(choice, tuple(slots), count)

    def of_model(self, name: str) -> Sequence[tuple[Choice, cp_model.IntVar]]:
        return [(stand.choice, stand.count) for stand in self.stands[name]]

    def placed(self, value: Callable[[cp_model.IntVar], int]) -> Iterable[tuple[Option, tuple[Device, ...]]]:
        for stand in (stand for row in self.stands.values() for stand in row):
            option = stand.choice.option
            if option.gpus == 1:
                for _ in range(value(stand.count)):
                    yield option, (stand.device,)
            else:
                taken = [slot.device for slot in stand.slots if value(slot.counts[stand.choice])]
                yield from ((option, devices) for devices in self._apart(option, taken))

    def _apart(self, option: Option, taken: Sequence[Device]) -> Iterator[tuple[Device, ...]]:
        """The devices of all replicas of a node as those of each; what runs now stays together."""
        left = {device.id: device for device in taken}
        for running in self.reduction.problem.current if self.reduction.problem.counts_moves else ():
            together = (running.model, len(running.devices)) == (option.model, option.gpus)
            if together and running.configuration == option.configuration and left.keys() >= set(running.devices):
                yield tuple(left.pop(name) for name in running.devices)
        rest = list(left.values())
        yield from (tuple(rest[first : first + option.gpus]) for first in range(0, len(rest), option.gpus))

    def hint(self, placements: Sequence[Placement]) -> None:
        """Start the search from this plan, the GPUs that it uses brought to the first places of their group."""
        self._model.clear_hints()  # type: ignore[no-untyped-call]
        devices = self.reduction.problem.device_by_id
        nodes = Counter((p.option, devices[p.device].node) for p in placements)
        for stand in (stand for row in self.stands.values() for stand in row if stand.choice.option.gpus > 1):
            self._model.add_hint(stand.count, nodes[stand.choice.option.id, stand.device.node])
        for group, row in zip(self.reduction.groups, self.places, strict=True):
            contents = _contents(group, placements)
            empty = [Counter[str]() for _ in group.kinds]
            for place, content in zip(row, [*contents, *[empty] * len(row)], strict=False):
                if len(place.slots) > 1:
                    self._model.add_hint(place.used, int(any(content)))
                for slot, counts in zip(place.slots, content, strict=True):
                    self._hint_slot(slot, counts)

    def _hint_slot(self, slot: Slot, counts: Counter[str]) -> None:
        backends = {c.option.backend for c in slot.counts if counts[c.option.id]}
        self._model.add_hint(slot.shared, int(counts.total() > 1))
        self._model.add_hint(slot.used, int(counts.total() > 0))
        for choice, count in slot.counts.items():
            self._model.add_hint(count, counts[choice.option.id])
            if slot.present[choice] is not count:
                self._model.add_hint(slot.present[choice], int(counts[choice.option.id] > 0))
        for name, paid in slot.backends.items():
            self._model.add_hint(paid, int(name in backends))

    def busy(self, slot: Slot, period: int) -> list[tuple[int, cp_model.IntVar]]:
        """What a device is busy, as terms; where rates are uncertain with a variable for the root of the squares."""
        key = slot.device.id, period
        if key not in self._busy:
            terms = [(c.option.busy_ppm[period] - c.option.swing(period), n) for c, n in slot.counts.items()]
            swings: dict[str, list[tuple[int, cp_model.IntVar]]] = {}
            for choice, count in slot.counts.items():
                if choice.option.swing(period):
                    swings.setdefault(choice.option.model, []).append((choice.option.swing(period), count))
            if swings:
                terms.append((1, self._root(slot, list(swings.values()))))
            self._busy[key] = terms
        return self._busy[key]

    def _root(self, slot: Slot, swings: Sequence[Sequence[tuple[int, cp_model.IntVar]]]) -> cp_model.IntVar:
        """At least the root of the sum of squares, one per model. One whole device is enough for any that may stand."""
        squares: list[tuple[int, cp_model.IntVar]] = []
        for row in swings:
            if self.reduction.problem.max_per_device == 1:
                squares += [(swing * swing, count) for swing, count in row]
                continue
            total = self._model.new_int_var(0, PPM, "")
            self._model.add(total == cp_model.LinearExpr.weighted_sum([n for _, n in row], [s for s, _ in row]))
            square = self._model.new_int_var(0, PPM * PPM, "")
            self._model.add_multiplication_equality(square, [total, total])
            squares.append((1, square))
        root = self._model.new_int_var(0, PPM, f"swing of {slot.device.id}")
        square = self._model.new_int_var(0, PPM * PPM, "")
        self._model.add_multiplication_equality(square, [root, root])
        self._model.add(square >= cp_model.LinearExpr.weighted_sum([n for _, n in squares], [s for s, _ in squares]))
        return root

    def moves(self) -> cp_model.LinearExpr:
        """Replicas that are not kept from the current plan; as few as they can be where they are held down."""
        terms = [(1, stand.count) for row in self.stands.values() for stand in row]
        slots = {slot.device.id: slot for slot in self.slots}
        for name, slot in slots.items():
            for (model, configuration, devices), most in self.reduction.problem.running.get(name, {}).items():
                if name != devices[0] or not slots.keys() >= set(devices):
                    continue
                equal = [
                    choice
                    for choice in slot.counts
                    if (choice.option.model, choice.option.gpus) == (model, len(devices))
                    and choice.option.configuration == configuration
                ]
                terms += [(-1, kept) for kept in self._kept(equal, [slots[device] for device in devices], most)]
        return cp_model.LinearExpr.weighted_sum([v for _, v in terms], [c for c, _ in terms])

    def _kept(self, equal: Sequence[Choice], slots: Sequence[Slot], most: int) -> Iterator[cp_model.IntVar]:
        """At most as many as stand on all of these devices by one of these choices."""
        rows = [equal] if len(slots) == 1 else [[choice] for choice in equal]
        for row in filter(None, rows):
            kept = self._model.new_int_var(0, most, f"{row[0].option.model} kept on {slots[0].device.id}")
            for slot in slots:
                self._model.add(kept <= cp_model.LinearExpr.sum([slot.counts[choice] for choice in row]))
            yield kept

    def _place(self, gpu: tuple[Device, ...], *, free_layout: bool) -> GpuPlace:
        slots = tuple(self._slot(device) for device in gpu)
        if len(slots) == 1:
            return GpuPlace(slots[0].used, slots)
        used = self._model.new_bool_var(f"used {gpu[0].gpu}")
        self._model.add_max_equality(used, [slot.used for slot in slots])
        return GpuPlace(used, slots, free_layout)

    def _slot(self, device: Device) -> Slot:
        model, name = self._model, device.id
        choices = self.reduction.by_kind[device.kind]
        most = {c: self.reduction.most_on_device(c) if c.option.gpus == 1 else 1 for c in choices}
        slot = Slot(
            kind=self.reduction.problem.kind_by_name[device.kind],
            device=device,
            used=model.new_bool_var(f"used {name}"),
            shared=model.new_bool_var(f"shared {name}"),
            counts={c: model.new_int_var(0, most[c], f"{c.option.id} on {name}") for c in choices},
            most=most,
        )
        for choice, count in slot.counts.items():
            slot.present[choice] = count if most[choice] <= 1 else self._present(count, most[choice])
            self._pays_backend(slot, choice)
        total = cp_model.LinearExpr.sum(list(slot.counts.values()))
        model.add(total >= slot.used + slot.shared)
        model.add(total <= slot.used + (sum(most.values()) - 1) * slot.shared)
        model.add_implication(slot.shared, slot.used)
        return slot

    def _present(self, count: cp_model.IntVar, most: int) -> cp_model.IntVar:
        present = self._model.new_bool_var(f"any {count.name}")
        self._model.add(count >= present)
        self._model.add(count <= most * present)
        return present

    def _pays_backend(self, slot: Slot, choice: Choice) -> None:
        if not choice.overhead_bytes:
            return
        name = choice.option.backend
        if name not in slot.backends:
            slot.backends[name] = self._model.new_bool_var(f"{name} on {slot.device.id}")
        self._model.add_implication(slot.present[choice], slot.backends[name])


def _contents(group: GpuGroup, placements: Sequence[Placement]) -> list[list[Counter[str]]]:
    """What stands on each device of the group's GPUs in use, option by option."""
    by_device: dict[str, Counter[str]] = {}
    for placement in placements:
        for device in placement.devices:
            by_device.setdefault(device, Counter())[placement.option] += 1
    rows = [[by_device.get(device.id, Counter()) for device in gpu] for gpu in group.gpus]
    return [row for row in rows if any(row)]
