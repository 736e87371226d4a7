"""The planning problem in integers: what every solver and the check read, and nothing else.

Written as problem.json beside each plan. Memory in bytes, rates in milli-requests per second (mrps), busy
time and tolerances in parts per million of a device's time (ppm), latency in microseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from planner.domain.codec import from_json, later, to_json
from planner.domain.ensemble import Ensemble, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.mig import MigSlice, Part
from planner.domain.observed import Observed
from planner.domain.problem_checks import require_whole
from planner.domain.topology import Domain, FleetLimit, Node, Pin, Spread, Survival
from planner.domain.units import PPM
from planner.errors import InputError

SCHEMA_VERSION = 1

# How a replica runs: instances, largest batch, queue delay in microseconds (None: dynamic batching off).
ConfigurationKey = tuple[int, int, int | None]
# A model that runs so on these devices, sorted.
RunningKey = tuple[str, ConfigurationKey, tuple[str, ...]]


class Objective(StrEnum):
    UNSERVED = "unserved"
    GPUS = "gpus"
    COST = "cost"
    POWER = "power"
    MOVES = "moves"
    BALANCE = "balance"
    MODELS = "models"
    THROUGHPUT = "throughput"


class LatencyBasis(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    NONE = "none"  # the model has no latency objective


@dataclass(frozen=True, kw_only=True)
class Model:
    """`demand_mrps` is the rate with headroom, one number per period, None where no rate is asked for.

    Where the rate is uncertain, `rate_mrps` is its mean, the demand its quantile, `swing_mrps` what that lies above it.
    `host_memory_bytes`, `host_cpu_millis` (thousandths of a core): what each replica takes of its node.
    """

    name: str
    rate_mrps: tuple[int, ...] | None
    demand_mrps: tuple[int, ...] | None
    percentile: int
    latency_bound_us: int | None
    replicas_min: int = 1
    replicas_max: int | None = None
    allowed_gpu: tuple[str, ...] = ()
    priority: int = 1
    spread: tuple[Spread, ...] = later(())
    host_memory_bytes: int = later(0)
    host_cpu_millis: int = later(0)

    def __post_init__(self) -> None:
        if self.host_memory_bytes < 0 or self.host_cpu_millis < 0:
            raise InputError(f"model {self.name!r}: host memory and CPU must not be negative")

    swing_mrps: int = later(0)

    @property
    def peak_mrps(self) -> int:
        """The demand of the busiest period; 0 where no rate is asked for."""
        return max(self.demand_mrps or (0,))


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """Devices that are the same in every number. `memory_bytes` is usable: the reserve is taken off.

    `kappa_ppm[c][d]` weighs how much busy time of class d counts against the tolerance of class c. `cores` is
    set for CPU devices, `mig` for slices. `alone_ppm`: as busy a replica may be that has the device to itself.
    """

    name: str
    type: str
    profile: str
    memory_bytes: int
    server_base_bytes: int
    utilization_ppm: int
    overhead_source: str = "measured"
    backend_overhead_bytes: Mapping[str, int] = field(default_factory=dict)
    cost_microusd_per_hour: int | None = None
    power_milliwatts: int | None = None
    cores: int | None = None
    mig: MigSlice | None = later(None)  # noqa: RUF009 - None, and no record of its own
    alone_ppm: int = later(PPM)
    interference_classes: tuple[str, ...] = ("default",)
    kappa_ppm: tuple[tuple[int, ...], ...] = ((PPM,),)
    calibrated: bool = False

    def __post_init__(self) -> None:
        n = len(self.interference_classes)
        if len(self.kappa_ppm) != n or any(len(row) != n or min(row) < 0 for row in self.kappa_ppm):
            raise InputError(f"device kind {self.name!r}: kappa_ppm must be {n} x {n} and >= 0")
        if self.memory_bytes <= 0 or self.server_base_bytes < 0:
            raise InputError(f"device kind {self.name!r}: memory must be positive, and the server base not negative")
        if self.cores is not None and self.cores < 1:
            raise InputError(f"device kind {self.name!r}: cores must be at least 1, got {self.cores}")
        if not 0 < self.utilization_ppm <= self.alone_ppm <= PPM:
            raise InputError(f"device kind {self.name!r}: 0 < utilization_ppm <= alone_ppm <= {PPM} is needed")


@dataclass(frozen=True, kw_only=True)
class Device:
    """One Triton server's place: a whole GPU, a MIG slice or a CPU device. `gpu` is the physical GPU."""

    id: str
    gpu: str
    kind: str
    start: int | None = None  # a slice's first memory slice
    cordoned: bool = False

    @property
    def node(self) -> str:
        return self.gpu.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class BatchTime:
    """The device's time that an execution of n inferences takes alone: `fixed_ns + n * each_ns`.

    `besides_ns`: pairs of a percentile and what a request alone takes at it beside waiting and its execution; empty
    where that is not known.
    """

    fixed_ns: int
    each_ns: int
    besides_ns: tuple[tuple[int, int], ...] = later(())


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run one replica of one model on one kind of device, at one capacity.

    `busy_ppm` has one entry per period. `max_others` None: any number. `curve` holds the stable points
    measured alone from which latency is predicted. `exclusive`: its memory is not known, so it takes the
    whole device. `gpus`: so many whole GPUs of one node are its alone; memory and busy time are those on each of them.
    `swing_ppm`: by period the part of busy that a spread of the rate adds; it pools with that of
    other models. `promises`: what ensembles may count on, in ascending order of percentiles. `batch_time` is what a
    simulation plays; None where the measurement does not tell it.
    """

    id: str
    model: str
    kind: str
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    backend: str
    memory_bytes: int
    capacity_mrps: int
    busy_ppm: tuple[int, ...]
    tolerance_ppm: int
    max_others: int | None
    curve: tuple[CurvePoint, ...]
    latency_basis: LatencyBasis
    interference_class: int = 0
    request_batch_size: int = 1
    exclusive: bool = False
    source: str = "measured"
    promises: tuple[Promise, ...] = later(())
    swing_ppm: tuple[int, ...] = later(())
    batch_time: BatchTime | None = later(None)  # noqa: RUF009 - None, and no record of its own
    gpus: int = later(1)

    def swing(self, period: int) -> int:
        """Of its busy time, what lies above that at the mean rate; 0 where the rate is certain."""
        return self.swing_ppm[period] if self.swing_ppm else 0

    def promised_us(self, percentile: float) -> int | None:
        """How long a call may take at this percentile, or the next higher one that is promised."""
        return next((p.latency_us for p in self.promises if p.percentile >= percentile), None)

    @property
    def configuration(self) -> ConfigurationKey:
        return self.instances, self.max_batch_size, self.queue_delay_us

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or self.capacity_mrps <= 0 or self.instances < 1 or not 0 <= self.tolerance_ppm <= PPM:
            raise InputError(
                f"option {self.id!r}: memory >= 0, capacity > 0, instances >= 1 and tolerance in [0, {PPM}] are needed"
            )
        if self.gpus < 1 or (self.gpus > 1 and self.max_others != 0):
            text = "gpus must be at least 1, and with more than one max_others 0: it shares them with nobody"
            raise InputError(f"option {self.id!r}: {text}; got {self.gpus} and {self.max_others}")
        if self.swing_ppm and len(self.swing_ppm) != len(self.busy_ppm):
            raise InputError(f"option {self.id!r}: swing_ppm needs one number per period, got {self.swing_ppm}")
        if any(not 0 <= swing <= busy for swing, busy in zip(self.swing_ppm, self.busy_ppm, strict=False)):
            raise InputError(f"option {self.id!r}: swing must lie in [0, busy], got {self.swing_ppm}")
        if any(not 0 <= busy <= PPM for busy in self.busy_ppm):
            raise InputError(f"option {self.id!r}: busy must lie in [0, {PPM}], got {self.busy_ppm}")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A replica of the current plan: what runs where now. Its device may be gone from the fleet.

    `more_devices`: where it runs over several GPUs, the others.
    """

    replica: str
    model: str
    device: str
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    more_devices: tuple[str, ...] = later(())

    @property
    def configuration(self) -> ConfigurationKey:
        return self.instances, self.max_batch_size, self.queue_delay_us

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted((self.device, *self.more_devices)))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The figures that the problem was built with, kept so that a reader sees them."""

    headroom: float = 0.0
    utilization: float = 0.8
    reserve: float = 0.05
    mig_margin: float = 0.05
    optimistic_latency: bool = False
    require_open_loop: bool = False
    service_level: float | None = later(None)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`conflict` and `together`: pairs of models. `nodes`: what is known of nodes, in any order."""

    schema_version: int
    periods: tuple[str, ...]
    models: tuple[Model, ...]
    kinds: tuple[DeviceKind, ...]
    devices: tuple[Device, ...]
    options: tuple[Option, ...]
    objectives: tuple[Objective, ...]
    allow_unserved: bool = False
    max_per_device: int | None = 1
    settings: Settings = Settings()
    current: tuple[Running, ...] = later(())
    max_moves: int | None = later(None)
    ensembles: tuple[Ensemble, ...] = later(())
    observed: Observed | None = later(None)  # noqa: RUF009 - None, and no record of its own
    nodes: tuple[Node, ...] = later(())
    conflict: tuple[tuple[str, str], ...] = later(())
    together: tuple[tuple[str, str], ...] = later(())
    pinned: tuple[Pin, ...] = later(())
    survives: tuple[Survival, ...] = later(())
    limits: tuple[FleetLimit, ...] = later(())

    def __post_init__(self) -> None:
        require_whole(self)

    @cached_property
    def model_by_name(self) -> dict[str, Model]:
        return {m.name: m for m in self.models}

    @cached_property
    def kind_by_name(self) -> dict[str, DeviceKind]:
        return {k.name: k for k in self.kinds}

    @cached_property
    def node_by_name(self) -> dict[str, Node]:
        return {n.name: n for n in self.nodes}

    def domain_of(self, device: Device, domain: Domain) -> str:
        """The name of the domain in which a device stands; "" for the fleet, and for a rack or zone not known."""
        if domain is Domain.GPU:
            return device.gpu
        if domain is Domain.NODE:
            return device.node
        node = self.node_by_name.get(device.node)
        found = None if node is None else {Domain.RACK: node.rack, Domain.ZONE: node.zone}.get(domain)
        return found or ""

    def survival_mrps(self, survival: Survival, model: Model) -> int:
        """What of a model has to be left without any one domain: the share of its busiest period's rate."""
        return -(-max(model.rate_mrps or (0,)) * survival.share_ppm // PPM)

    @cached_property
    def device_by_id(self) -> dict[str, Device]:
        return {d.id: d for d in self.devices}

    def part(self, device: Device) -> Part:
        """The device as a layout of its GPU sees it."""
        return Part(device.kind, self.kind_by_name[device.kind].mig, device.start)

    @cached_property
    def option_by_id(self) -> dict[str, Option]:
        return {o.id: o for o in self.options}

    @cached_property
    def spans_gpus(self) -> bool:
        """Whether a replica may take several GPUs."""
        return any(option.gpus > 1 for option in self.options)

    @cached_property
    def pools(self) -> bool:
        """Whether rates are uncertain, so that busy times on a device add up to less than their sum."""
        return any(option.swing_ppm for option in self.options)

    @cached_property
    def served_by_triton(self) -> dict[str, Ensemble]:
        """By member, the ensemble that is served where all of its members are."""
        return {name: e for e in self.ensembles if e.serve is Serve.TRITON for name in e.models}

    @property
    def counts_moves(self) -> bool:
        """Whether it matters what runs where now, so that like GPUs may differ by it."""
        return self.max_moves is not None or Objective.MOVES in self.objectives

    @cached_property
    def running(self) -> Mapping[str, Counter[RunningKey]]:
        """By device, how many replicas of each model and configuration run there now."""
        found: dict[str, Counter[RunningKey]] = {}
        for replica in self.current:
            for device in replica.devices:
                found.setdefault(device, Counter())[replica.model, replica.configuration, replica.devices] += 1
        return found

    @cached_property
    def digest(self) -> str:
        """sha256 over the canonical JSON text."""
        text = json.dumps(to_json(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def most_on_node(devices: Iterable[Device]) -> dict[str, int]:
    """By kind, the most devices of it that are on one node, without those that are cordoned."""
    counts = Counter((device.kind, device.node) for device in devices if not device.cordoned)
    most: dict[str, int] = {}
    for (kind, _), number in counts.items():
        most[kind] = max(most.get(kind, 0), number)
    return most


def problem_from_json(value: object, where: str) -> Problem:
    require_version(value, where)
    return from_json(Problem, value, where)


def require_version(value: object, where: str) -> None:
    """A file of an unknown version is an error, before any of its fields is read."""
    if not isinstance(value, dict) or "schema_version" not in value:
        raise InputError(f"{where}: field 'schema_version' is missing; this version reads {SCHEMA_VERSION}")
    if value["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema_version {value['schema_version']!r} is unknown; this version reads {SCHEMA_VERSION}"
        )
