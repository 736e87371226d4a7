"""A problem with replicas placed in it: the sums that rules, objectives and the plan's figures share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from planner.domain.latency import Curve, dilated_us, stretch
from planner.domain.plan import Placement
from planner.domain.pooling import pooled_ppm
from planner.domain.problem import Device, DeviceKind, Option, Problem, RunningKey
from planner.domain.topology import Domain
from planner.domain.units import PPM


@dataclass(frozen=True, slots=True)
class Placed:
    """`device` is the first of `devices`, of which there are several where a replica takes several GPUs."""

    replica: str
    option: Option
    devices: tuple[Device, ...]

    @property
    def device(self) -> Device:
        return self.devices[0]


class LoadedDevice:
    """One device with the replicas on it."""

    def __init__(self, device: Device, kind: DeviceKind, replicas: tuple[Placed, ...], optimistic: bool) -> None:
        self.device = device
        self.kind = kind
        self.replicas = replicas
        self._optimistic = optimistic

    @property
    def has_server(self) -> bool:
        """Whether a server runs on it, and not on another one that a replica takes besides."""
        return self.replicas[0].device is self.device

    @property
    def backends(self) -> set[str]:
        return {p.option.backend for p in self.replicas}

    @property
    def memory_bytes_used(self) -> int:
        """Server base, each backend's overhead once, and every replica's hot memory."""
        overheads = sum(self.kind.backend_overhead_bytes.get(name, 0) for name in self.backends)
        return self.kind.server_base_bytes + overheads + sum(p.option.memory_bytes for p in self.replicas)

    def busy_ppm(self, period: int) -> int:
        """Of all replicas together; where rates are uncertain, at the planned quantile of the total."""
        if not any(p.option.swing_ppm for p in self.replicas):
            return sum(p.option.busy_ppm[period] for p in self.replicas)
        return pooled_ppm((p.option.model, p.option.busy_ppm[period], p.option.swing(period)) for p in self.replicas)

    @property
    def peak_busy_ppm(self) -> int:
        return max(self.busy_ppm(period) for period in range(len(self.replicas[0].option.busy_ppm)))

    @property
    def busy_limit_ppm(self) -> int:
        """The utilization threshold where replicas share the device; alone, a replica may use all of it, less the
        margin of a slice."""
        return self.kind.utilization_ppm if len(self.replicas) > 1 else self.kind.alone_ppm

    def others_busy_ppm2(self, placed: Placed, period: int) -> int:
        """Busy time of the other replicas, weighed by kappa, in parts per million squared."""
        weights = self.kind.kappa_ppm[placed.option.interference_class]
        return sum(
            weights[other.option.interference_class] * other.option.busy_ppm[period]
            for other in self.replicas
            if other is not placed
        )

    def others_instances(self, placed: Placed) -> int:
        return sum(other.option.instances for other in self.replicas if other is not placed)

    def latency_us(self, placed: Placed, period: int) -> int | None:
        """The latency promised at the replica's capacity beside these neighbours; None where it is not known."""
        return self.dilated_us(placed, period, placed.option.curve)

    def dilated_us(self, placed: Placed, period: int, curve: Curve) -> int | None:
        """A percentile at the replica's capacity beside these neighbours, from its curve alone."""
        others = -(-self.others_busy_ppm2(placed, period) // PPM)
        phi = stretch(others, self.others_instances(placed), optimistic=self._optimistic)
        if phi is None:
            return None
        return dilated_us(curve, placed.option.capacity_mrps, phi)


class Layout:
    """Placements that name known options and devices."""

    def __init__(self, problem: Problem, placements: Iterable[Placement]) -> None:
        self.problem = problem
        self.placed = tuple(
            Placed(p.replica, problem.option_by_id[p.option], tuple(problem.device_by_id[d] for d in p.devices))
            for p in placements
        )

    @cached_property
    def devices(self) -> tuple[LoadedDevice, ...]:
        """Devices with at least one replica, in the order of the problem."""
        by_device: dict[str, list[Placed]] = {}
        for placed in self.placed:
            for device_id in dict.fromkeys(device.id for device in placed.devices):
                by_device.setdefault(device_id, []).append(placed)
        optimistic = self.problem.settings.optimistic_latency
        return tuple(
            LoadedDevice(device, self.problem.kind_by_name[device.kind], tuple(by_device[device.id]), optimistic)
            for device in self.problem.devices
            if device.id in by_device
        )

    @cached_property
    def by_gpu(self) -> dict[str, tuple[LoadedDevice, ...]]:
        """The devices in use of each physical GPU."""
        found: dict[str, list[LoadedDevice]] = {}
        for loaded in self.devices:
            found.setdefault(loaded.device.gpu, []).append(loaded)
        return {gpu: tuple(devices) for gpu, devices in found.items()}

    @cached_property
    def by_model(self) -> dict[str, tuple[Placed, ...]]:
        found: dict[str, list[Placed]] = {model.name: [] for model in self.problem.models}
        for placed in self.placed:
            found[placed.option.model].append(placed)
        return {name: tuple(placed) for name, placed in found.items()}

    def domains_of(self, placed: Placed, domain: Domain) -> set[str]:
        """The domains without which a replica is lost."""
        return {self.problem.domain_of(device, domain) for device in placed.devices}

    def capacity_mrps(self, model: str) -> int:
        return sum(p.option.capacity_mrps for p in self.by_model[model])

    def missing_mrps(self, model: str) -> int:
        """How much of the busiest period's demand is not served."""
        return max(0, self.problem.model_by_name[model].peak_mrps - self.capacity_mrps(model))

    @cached_property
    def moves(self) -> int:
        """Replicas without an equal one on their device in the current plan: each has to be started or changed.

        What is only stopped is no move.
        """
        wanted: dict[str, Counter[RunningKey]] = {}
        for placed in self.placed:
            devices = tuple(sorted(device.id for device in placed.devices))
            here = wanted.setdefault(devices[0], Counter())
            here[placed.option.model, placed.option.configuration, devices] += 1
        return sum(
            (replicas - self.problem.running.get(device, Counter())).total() for device, replicas in wanted.items()
        )

    @cached_property
    def used_gpus(self) -> dict[str, DeviceKind]:
        """Physical GPUs that carry anything, sliced or not, with the kind of (one of) their devices."""
        return {loaded.device.gpu: loaded.kind for loaded in self.devices}
